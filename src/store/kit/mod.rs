//! What many stores have in common, for whoever writes one: indexes over rows that are kept in memory, rows as bytes, and
//! how much of a log is kept.
//!
//! The indexes are never the truth. Whoever changes a row lets them follow, with the row before and after. The stores of this
//! crate are built on them.
//!
//! - [`scan`]: what the operations answer, said over all rows: to read, and to begin with
//! - [`Queue`]: which tasks wait, in the order they are to be claimed
//! - [`Allowance`]: what is left of what a claim may take
//! - [`Outbox`]: which completions are due
//! - [`Shelf`]: every task by its creation, every one that rests by when it came to rest, and how many are in each state
//! - [`Orphans`]: what was held by a process that is gone
//! - [`ClientKey`] and [`KnownKey`]: whose a client's key is, and what is remembered with it
//! - [`LogMeter`]: how much log an attempt has written, and [`Log`]: all of it
//! - [`Row::encode`](crate::store::Row::encode): a row as bytes, for a store that keeps values rather than columns
//! - [`Values`]: rows, payloads, logs and keys in a store of keys and values
//! - [`ControlValues`]: the named values that processes share
//! - [`IoThread`]: a thread that drives a store's connections
//! - [`NewsBoard`]: how the handles of one store in one process hear of each other
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
    queue::{Candidate, Place, Queue, QueueGuard},
    shelf::{Shelf, Unsorted},
    tally::Tally,
    timeline::{Moment, Timeline},
    values::{Kind, Values},
};
