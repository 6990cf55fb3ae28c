//! Stores the tasks of [`tower_respond_async`] in an embedded file. With [`RedbStore`], accepted tasks survive the end
//! of the process and a power cut, without a server.
//!
//! [Operating](tower_respond_async::guide::operating#the-embedded-file) describes how to run it.

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

/// Tests the code of the README.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
