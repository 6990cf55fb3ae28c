//! The guide: what the crate guarantees, how to operate it, and why it is built this way.
//!
//! - [`design`]: the decisions and their reasons
//! - [`guarantees`]: what is promised, what is not, and how it is tested
//! - [`trust`]: what each party is trusted with, and which setting changes it
//! - [`same_handler`]: how a request that runs later can differ from one that is answered at once
//! - [`clients`]: the settings for each kind of polling client
//! - [`callbacks`]: how the end of a task is reported, and what a receiver can rely on
//! - [`operating`]: settings, sizes, shutdown, what to watch
//! - [`choosing_a_store`]: memory, a file, or a server
//! - [`many_processes`]: several processes behind a load balancer: deploys and scaling
//! - [`transactions`]: a task stored in a transaction of your own
//! - [`postgres`]: operating PostgreSQL: connections, durability, faults, what to watch
//! - [`comparison`]: beside `tokio::spawn`, job queues, cloud functions and workflow engines
//! - [`figures`]: all measurements, and the commands that make them
//! - [`writing_a_store`]: a store of your own
//! - [`terms`]: one word for one thing
//! - [`changelog`]: what changed

#[doc = include_str!("design.md")]
pub mod design {}

#[doc = include_str!("guarantees.md")]
pub mod guarantees {}

#[doc = include_str!("trust.md")]
pub mod trust {}

#[doc = include_str!("same_handler.md")]
pub mod same_handler {}

#[doc = include_str!("clients.md")]
pub mod clients {}

#[doc = include_str!("callbacks.md")]
pub mod callbacks {}

#[doc = include_str!("operating.md")]
pub mod operating {}

#[doc = include_str!("choosing_a_store.md")]
pub mod choosing_a_store {}

#[doc = include_str!("many_processes.md")]
pub mod many_processes {}

#[doc = include_str!("transactions.md")]
pub mod transactions {}

#[doc = include_str!("postgres.md")]
pub mod postgres {}

#[doc = include_str!("comparison.md")]
pub mod comparison {}

#[doc = include_str!("figures.md")]
pub mod figures {}

#[doc = include_str!("writing_a_store.md")]
pub mod writing_a_store {}

#[doc = include_str!("terms.md")]
pub mod terms {}

#[doc = include_str!("../../CHANGELOG.md")]
pub mod changelog {}
