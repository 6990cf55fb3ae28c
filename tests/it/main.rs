//! The crate seen from outside: one binary, a module per theme.

#![expect(
    clippy::unwrap_used,
    reason = "a test that meets an error it does not expect should fail"
)]

mod accept;
mod api;
mod body;
mod capture;
mod conformance;
mod console;
mod custom_store;
mod dedup;
mod engine_support;
mod events;
mod examples;
mod fault_store;
mod faults;
mod floors;
mod handler;
mod hooks;
mod lease;
mod memory;
mod metrics_probe;
mod placement;
mod prefer;
mod redb;
mod refusals;
mod replay;
mod run;
mod scenarios;
mod shutdown;
mod simulation;
mod stop;
mod support;
mod sync_path;
mod tracing_probe;
