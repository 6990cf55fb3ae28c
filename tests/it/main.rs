//! The crate seen from outside: one binary, a module per theme.

mod conformance;
mod fault;
mod memory;
