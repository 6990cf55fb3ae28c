//! What shows that the crates keep their promises, and is not published.
//!
//! - [`crash`]: processes killed under load, and what is left of the work afterwards
//! - [`disk`]: a disk that fails on demand, for a `RedbStore`
//! - [`mutate`]: changes of what a parser is given
//! - [`simulation`]: whole lives of several processes on one store, in pretend time, from a seed
//!
//! `tests/it` and `tests/simulation.rs` run them, a moment each; `tests/models` tries the orders in which threads of the engine can meet; `fuzz/`
//! is for libFuzzer; `benches/` compares with floors and peers.

#![allow(
    missing_docs,
    reason = "nobody depends on it: what a name does not say is documented, and nothing else"
)]

#[cfg(unix)]
pub mod crash;
pub mod disk;
pub mod mutate;
pub mod simulation;
