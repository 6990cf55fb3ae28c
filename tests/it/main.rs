//! The crate seen from outside: one binary, a module per theme.

mod conformance;
mod custom_store;
mod examples;
mod fault;
mod memory;
mod metrics_probe;
mod simulation;
mod tracing_probe;
