//! The crate seen from outside: one binary, with a module per theme.

#![expect(
    clippy::unwrap_used,
    reason = "a test that meets an error it does not expect should fail"
)]

mod accept;
mod always_async;
mod api;
mod body;
mod callbacks;
mod capture;
mod clients;
mod conformance;
mod console;
mod crowded;
mod custom_store;
mod dedup;
mod duplicates;
mod embedded;
mod engine_support;
mod events;
mod examples;
mod fault_store;
mod faults;
mod figures;
mod floors;
mod guarded;
mod handler;
mod hooks;
mod lease;
mod many_engines;
mod memory;
mod memory_keys;
mod memory_waiting;
mod metrics_probe;
mod placement;
mod pools;
mod prefer;
mod readiness;
mod receiver;
mod refusals;
mod replay;
mod restart;
mod run;
mod same_handler;
mod scenarios;
mod secrets;
mod set_back;
mod shutdown;
mod stop;
mod submit_all;
mod support;
mod sync_path;
mod tracing_probe;
mod trust;
mod verdicts;
mod versions;
mod webhook_connections;
mod webhooks;
