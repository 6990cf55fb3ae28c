//! The crate seen from outside: one binary, a module per theme.

mod accept;
mod conformance;
mod fault;
mod memory;
mod support;
