//! Tasks of [`tower_respond_async`] in an embedded file: [`RedbStore`] keeps what was accepted through the end of the
//! process and of the power, and needs no server.
//!
//! See [`RedbStore`], and [operating](tower_respond_async::guide::operating#the-embedded-file) it.

mod batch;
mod builder;
mod claims;
mod commit;
mod fault;
mod frame;
mod given;
mod inbox;
mod inner;
mod insert;
mod job;
mod logs;
mod onward;
mod open;
mod ram;
mod read;
mod store;
mod tables;
#[cfg(test)]
mod tests;
mod writer;

pub use self::{
    builder::{QuickRepair, RedbStoreBuilder},
    store::RedbStore,
};

/// The code of the README is tested like any other.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
