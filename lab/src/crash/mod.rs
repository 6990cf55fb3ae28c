//! Kills processes under load, and checks afterwards what is left of the work.
//!
//! The harness starts its own program again as a separate process, which serves an application behind the layer on an
//! embedded file ([`app`]). It kills that process with SIGKILL at random moments. Or the process kills itself at a
//! named [`point`] between two steps, so that not one instruction follows. Meanwhile clients ([`load`]) send requests
//! and record the answers, and the process writes a [`journal`]. Then the next process starts on the same file: the
//! [`lives`] of one process after another.
//!
//! Or the harness starts several processes on one database, and injects faults into one of them, the server, or the
//! connections between: a [`cluster`].
//!
//! After some cycles there is a quiet time. Then the harness compares the clients' records, the journal and the task
//! API: the [`verdict`], with its [`findings`]. Some [`order`] of the calls must also explain the answers of the store.
//!
//! The test `crash` and the example `crash_loop` start it.

pub mod app;
pub mod campaign;
pub mod client;
pub mod cluster;
pub mod findings;
pub mod journal;
pub mod lives;
pub mod load;
pub mod order;
pub mod point;
pub mod process;
pub mod receiver;
pub mod store;
pub mod verdict;
mod wait;
