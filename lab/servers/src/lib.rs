//! Private servers for tests, from Debian's packages, and a proxy that fails between them and their clients. A missing
//! package fails the test with the name of what to install.
//!
//! Each server runs in its own folder, on a free port of the loopback. Its users hold a shared lock on a file in that
//! folder. A watcher ends the server when that lock was free for some seconds. So a server ends after its tests,
//! however they ended.

#![expect(clippy::unwrap_used, reason = "a test that finds no server should fail")]

mod pgbouncer;
mod place;
mod postgres;
mod proxy;

pub use self::{
    pgbouncer::PgBouncer,
    postgres::{CLOCK_BY_HAND, Postgres, Stop, a_name},
    proxy::{Proxy, Way},
};
