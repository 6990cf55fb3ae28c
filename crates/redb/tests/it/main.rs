//! Tests of the public store: one binary, one module for each theme.

#![expect(
    clippy::unwrap_used,
    reason = "a test that meets an error it does not expect should fail"
)]

mod conformance;
mod file;
mod harness;
mod reopen;
