//! Servers of a test's own, from Debian's packages, and what fails between them and their clients. What is missing fails, and says
//! what to install.
//!
//! Each runs in a folder of its own, on a free port of the loopback, and no longer than somebody uses it: whoever does holds a
//! shared lock on a file there, and whoever watches the server ends it when that lock was free for some seconds. So a server
//! outlives no test, however that one ended.

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
