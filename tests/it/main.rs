//! The crate seen from outside: one binary, a module per theme.

#![expect(
    clippy::unwrap_used,
    reason = "a test that meets an error it does not expect should fail"
)]

mod accept;
mod api;
mod body;
mod callbacks;
mod conformance;
mod custom_store;
mod dedup;
mod engine_support;
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
mod receiver;
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
mod webhooks;
