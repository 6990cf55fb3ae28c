//! Tasks of [`tower_respond_async`] in PostgreSQL. With [`PostgresStore`], any number of processes accept, run, show,
//! stop and follow the same tasks.
//!
//! See [`PostgresStore`].

mod builder;
mod claim;
mod codec;
mod commit;
mod connection;
mod due;
mod front;
mod group;
mod insert;
mod list;
mod logs;
mod outbox;
mod read;
mod schema;
mod session;
mod sql;
mod store;
mod tidy;
mod tls;
mod wire;
mod within;

pub use self::{
    builder::{Migrate, PostgresStoreBuilder},
    store::PostgresStore,
    within::{Connection, Param, PreparedInsert, Within},
};

/// Runs the README's examples as tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
