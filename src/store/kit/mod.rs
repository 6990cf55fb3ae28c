//! Parts for stores: indexes of rows in memory, rows as bytes, and the bound on logs.
//!
//! An index is never the source of truth. A store that changes a row updates its indexes with the row before and after
//! the change. The stores of this crate use these parts.
//!
//! - [`scan`]: the answers of the operations, computed from all rows. Read it to understand the contract, and begin
//!   with it.
//! - [`Queue`]: the tasks that wait, in the order in which they are claimed
//! - [`Allowance`]: what a claim may still take
//! - [`Outbox`]: the completions that are due
//! - [`Shelf`]: all tasks by creation, tasks at rest by the time they came to rest, and the number of tasks in each
//!   state
//! - [`Orphans`]: tasks that were held by a dead process
//! - [`ClientKey`] and [`KnownKey`]: a client's key and its owner, and what is kept with it
//! - [`LogMeter`]: how much log of an attempt is kept; [`Log`]: the whole log of a task
//! - [`Row::encode`](crate::store::Row::encode): a row as bytes, for a store that keeps values instead of columns
//! - [`Values`]: rows, payloads, logs and keys in a store of keys and values
//! - [`ControlValues`]: the named values that processes share
//! - [`IoThread`]: a thread that drives a store's connections
//! - [`NewsBoard`]: carries news between the handles of one store in one process
//!
//! # Examples
//!
//! ```
//! use std::time::Duration;
//! use tower_respond_async::{
//!     store::{Claim, kit::{Allowance, Queue}},
//!     task::WorkerId,
//!     time::Timestamp,
//! };
//!
//! let (queue, worker, now) = (Queue::default(), WorkerId::new("w", 1), Timestamp::from_millis(1_000));
//! let mut allowance = Allowance::of(&Claim::new(worker.clone(), 10, Duration::from_secs(30)));
//! assert!(queue.lock().take(&worker, &mut allowance, 10, now).is_empty());
//! assert_eq!(queue.waiting(), 0);
//! ```

mod allowance;
mod control_values;
mod io_thread;
mod keys;
mod log;
mod log_meter;
mod news_board;
mod orphans;
mod outbox;
mod queue;
mod row_codec;
pub mod scan;
mod shelf;
mod tally;
mod timeline;
mod values;

pub use self::{
    allowance::Allowance,
    control_values::ControlValues,
    io_thread::IoThread,
    keys::{ClientKey, KnownKey},
    log::Log,
    log_meter::LogMeter,
    news_board::{NewsBoard, NewsHandle},
    orphans::Orphans,
    outbox::{Due, Outbox},
    queue::{Candidate, Queue, QueueGuard, QueuePosition},
    shelf::{Shelf, Unsorted},
    tally::Tally,
    timeline::{Moment, Timeline},
    values::{Kind, Values},
};
