//! Processes killed under load, and what is left of the work afterwards.
//!
//! The harness starts the program that it is in once more, as a process of its own, which serves an application behind
//! the layer on an embedded file ([`app`]). It kills that, with SIGKILL: at moments that it picks at random, or at a named
//! [`point`] between two steps, where the process does it to itself, so that not one instruction follows. Clients
//! ([`load`]) go on asking all the while and remember what they were told; the process writes what happens to it into a
//! [`journal`]. Then the next process is started on the same file: the [`lives`] of one after the other.
//!
//! Or it starts several of them on one database, and does to one of them, to the server, or to what is between them whatever
//! can go wrong there: a [`cluster`].
//!
//! After some such cycles there is a quiet time, and then clients, journal and task API are held against each other: the
//! [`verdict`], and its [`findings`]. What a store has answered must also be explained by some [`order`] of its calls.
//!
//! The test `crash` and the example `crash_loop` are two ways to start it.

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
