//! Tests of the store's public API: one binary, with a module for each subject.

#![expect(
    clippy::unwrap_used,
    reason = "a test that meets an error it does not expect should fail"
)]

mod conformance;
mod explained;
mod failover;
mod front;
mod harness;
mod lost_answers;
mod many;
mod open;
mod outages;
mod plans;
mod pooled;
mod restarts;
mod traps;
mod wall_clock;
mod within;
