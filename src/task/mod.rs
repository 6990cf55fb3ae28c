//! What a task is: plain data and pure functions, without I/O.
//!
//! - [`id`]: names and numbers of tasks and their owners: [`RequestId`], [`TaskName`], [`Tenant`], [`FenceToken`] ...
//! - [`state`]: the states, the steps between them, and the one table of where each step leads
//! - [`record`]: what a store keeps of a task; a [`NewTask`] is what it receives first
//! - [`lifecycle`]: the table applied to a record: counters, tokens, times and history change together
//! - [`delivery`]: the same for the delivery of a completion
//! - [`envelope`]: a request or a response captured as data, with its binary encoding
//! - [`record_codec`]: records and log lines as bytes, and how builds of several versions share them
//! - [`query`]: which stored tasks to list, and in what order
//!
//! A store written in Rust keeps its promises most easily if it stores a [`TaskRecord`] and changes it only through the
//! functions of [`lifecycle`], as the memory store does.

mod content;
pub mod delivery;
mod digest;
pub mod envelope;
mod history;
pub mod id;
pub(crate) mod labels;
pub mod lifecycle;
mod new_task;
pub(crate) mod own;
mod payload;
mod pool;
mod presence;
pub(crate) mod printable;
pub mod query;
pub mod record;
pub mod record_codec;
#[cfg_attr(not(feature = "api"), expect(dead_code, reason = "most views are the task API's"))]
pub(crate) mod redact;
mod retry_after;
mod shorten;
pub mod state;
pub(crate) mod target;
mod weight;

pub use self::{
    content::Content,
    delivery::{Delivery, DeliveryStatus, DeliveryTry},
    envelope::{CapturedRequest, CapturedResponse, DecodeError},
    history::{History, HistoryEvent},
    id::{
        Caller, Destination, FenceToken, IdempotencyKey, InvalidId, LeaseRef, RequestDigest, RequestId, TaskName,
        TaskRef, Tenant, WorkerId,
    },
    labels::{Labels, TooLong},
    new_task::{NewTask, Subscription, Subscriptions},
    pool::PoolName,
    presence::{Presence, RateStats, Seen, SlotStats},
    query::{Cursor, Filter, Page, PageOf, Scope, SortOrder},
    record::{Accepted, Counts, Life, LogLine, Progress, TaskRecord},
    state::{Condition, Conditions, Refused, StateSet, Step, TaskState},
    target::RequestTarget,
};
pub(crate) use self::{digest::Digesting, payload::Payload, retry_after::retry_after};
