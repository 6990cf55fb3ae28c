//! The crate seen from outside: one binary, a module per theme.

#![expect(
    clippy::unwrap_used,
    reason = "a test that meets an error it does not expect should fail"
)]

mod accept;
mod api;
mod body;
mod conformance;
mod dedup;
mod fault;
mod handler;
mod memory;
mod placement;
mod prefer;
mod refusals;
mod replay;
mod support;
mod sync_path;
