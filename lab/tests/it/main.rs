//! The crates under faults: one binary, with a module per theme.

#![expect(
    clippy::unwrap_used,
    reason = "a test that meets an error it does not expect should fail"
)]

#[cfg(unix)]
mod cluster;
#[cfg(unix)]
mod crash;
#[cfg(unix)]
mod deploys;
mod disk;
mod fuzz;
#[cfg(unix)]
mod orders;
#[cfg(unix)]
mod processes;
mod simulation;

#[path = "../../../tests/it/engine_support.rs"]
#[expect(dead_code, reason = "most of it is for the tests of the engine")]
mod engine_support;
#[path = "../../../crates/redb/tests/it/harness.rs"]
#[expect(dead_code, reason = "most of it is for the tests of the store")]
mod harness;
#[path = "../../../tests/it/support.rs"]
#[expect(dead_code, reason = "most of it is for the tests of the layer")]
mod support;
