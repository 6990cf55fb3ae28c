//! The long form: why the crate is built as it is, what it guarantees, and how to live with it.
//!
//! - [`design`]: the decisions, as questions
//! - [`guarantees`]: what is promised, what is not, and how it was tried
//! - [`trust`]: who is trusted with what, and which setting changes it
//! - [`same_handler`]: what may differ between a request that is answered at once and one that is run later
//! - [`clients`]: what each kind of client needs to poll for its result
//! - [`callbacks`]: how the end of a task is reported, and what a receiver can trust
//! - [`operating`]: settings, sizes, shutdown, what to watch
//! - [`choosing_a_store`]: memory, a file, or a server
//! - [`many_processes`]: behind a load balancer: what is shared, what is not, deploys and scaling
//! - [`transactions`]: a task that is stored with what else a transaction changes, or not at all
//! - [`postgres`]: connections, durability, what to watch, for many processes on one server
//! - [`comparison`]: beside `tokio::spawn`, job queues, cloud functions and workflow engines
//! - [`figures`]: what was measured, beside what, and with which command
//! - [`writing_a_store`]: for whoever keeps tasks somewhere new
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
