//! The crate seen from outside: one binary, a module per theme.

mod accept;
mod conformance;
mod dedup;
mod fault;
mod memory;
mod prefer;
mod replay;
mod support;
