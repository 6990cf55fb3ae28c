//! Tests the promises of the crates in ways that unit tests cannot. It is not published.
//!
//! - [`crash`]: kills processes under load, and checks afterwards what is left of the work
//! - [`disk`]: a disk in memory for a `RedbStore`, which fails on demand
//! - [`mutate`]: random changes of the input of a parser
//! - [`simulation`]: whole lives of several processes on one store, in simulated time, from a seed
//!
//! `tests/it` runs each of them for a moment. `tests/models` tries the orders in which threads of the engine can meet.
//! `fuzz/` is for libFuzzer. `benches/` compares with floors and peers.

#![allow(
    missing_docs,
    reason = "nobody depends on it: what a name does not say is documented, and nothing else"
)]

#[cfg(unix)]
pub mod crash;
pub mod disk;
pub mod mutate;
pub mod simulation;
