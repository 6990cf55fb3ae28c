//! The crate seen from outside: one binary, a module per theme.

#![expect(
    clippy::unwrap_used,
    reason = "a test that meets an error it does not expect should fail"
)]

mod conformance;
mod engine_support;
mod fault;
mod floors;
mod memory;
mod run;
mod simulation;
mod stop;
