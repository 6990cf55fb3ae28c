//! The crate seen from outside: one binary, a module per theme.

mod accept;
mod api;
mod conformance;
mod dedup;
mod fault;
mod memory;
mod placement;
mod prefer;
mod replay;
mod support;
mod sync_path;
