//! Stores of tasks: the [`TaskStore`] contract, and [`MemoryStore`].
//!
//! A store keeps the tasks, and is also their queue. Choose one by what an accepted task must survive:
//!
//! | store | an accepted task survives | needs |
//! |---|---|---|
//! | [`MemoryStore`] | a panic in a handler, not the end of the process | nothing |
//! | `RedbStore` of [`tower-respond-async-redb`](https://docs.rs/tower-respond-async-redb) | the end of the process and a power cut, not the loss of the disk | a file |
//! | `PostgresStore` of [`tower-respond-async-postgres`](https://docs.rs/tower-respond-async-postgres) | what a commit of the server survives; any number of processes share the store | PostgreSQL 13 or later |
//!
//! An application gives a store to the layer and never calls it itself. Use a [`Ledger`] to look into a store from
//! tools and tests. To write a store, implement [`TaskStore`] and run the
//! [conformance suite](crate::testing::conformance) against it. [Writing a store](crate::guide::writing_a_store) shows
//! a complete one.

mod answers;
mod change;
mod enlisted;
mod error;
mod forward;
pub mod kit;
mod ledger;
mod memory;
mod news;
mod operations;
mod reply;
mod row;
#[cfg(test)]
mod tests;

use std::{fmt, sync::Arc, time::Duration};

pub use self::{
    answers::{Answering, Answers},
    change::{Change, Committed, Guard, Next, OutboxChange, Response, Timers},
    enlisted::Enlisted,
    error::{StoreError, StoreErrorKind},
    forward::Operation,
    ledger::{
        Claimed, ClaimedDelivery, ClaimedTask, Delete, DeliverySettlement, GiveUp, Held, Insert, Inserted, Ledger,
        LostClaim, Pruned, Rescued, Settled, TakenUp,
    },
    memory::{MemoryStore, MemoryStoreBuilder},
    news::{Attention, Control, ControlChange, Controls, Glance, News},
    operations::{
        Abilities, Candidate, Candidates, Claim, ClaimedOutbox, ClaimedRow, Claims, DeliveryClaim, Due, DueReason,
        Durability, FullReason, InitialClaim, Insertion, KnownBy, Limits, LogQuery, NewRow, Part, Payload, PoolClaim,
        QueueHint, Renewal, Retention, Sharing, Which,
    },
    reply::Reply,
    row::{Columns, OutboxRow, Row},
};
use crate::{
    error::BoxFuture,
    task::{
        Counts, Filter, LeaseRef, LogLine, Page, PageOf, PoolName, Presence, Progress, RequestId, Scope, Seen, Tenant,
    },
    time::Timestamp,
};

/// The result of a store operation.
///
/// See the example of [`StoreError`].
pub type StoreResult<T> = Result<T, StoreError>;

/// Keeps tasks and hands them out to workers.
///
/// A store keeps [rows](Row) and [payloads](Payload), finds rows by a few columns, and commits [changes](Change). It
/// decides nothing: [`lifecycle`](crate::task::lifecycle) has the rules of a task's life, and the [`Ledger`] turns each
/// step of that life into one change. [`kit`] has the parts that most stores need.
///
/// [Writing a store](crate::guide::writing_a_store) builds one step by step. See also the examples of
/// [`forward_store!`](crate::forward_store), which wraps a store, and of [`NewRow`] and [`Change`], which call one.
///
/// # Contract
///
/// The [conformance suite](crate::testing::conformance) tests these promises.
///
/// **Atomicity.** Each operation takes effect whole or not at all; so does each change of
/// [`commit_all`](Self::commit_all), and each task of [`insert_all`](Self::insert_all), on its own. When
/// [`insert`](Self::insert) answers `New`, the task is already durable, to the degree that
/// [`abilities`](Self::abilities) publishes. Row, request, name and key appear together. [`commit`](Self::commit)
/// changes row, payloads and outbox together.
///
/// **Ownership.** One claim at a time holds a task. Its fence token identifies the claim, and grows with every claim.
/// Renewals, progress and log lines with an older token change nothing, and the answer says so. A change is made only
/// if the row has the expected version; every claim and every commit raises the version.
///
/// **Order.** Claims take the oldest `run_at` first, ties by id. A worker holds at most one *suspect* at a time: a task
/// whose process died while it ran the task.
///
/// **Clocks.** A store takes durations and answers with timestamps. Only its own clock decides what is due, lapsed or
/// expired.
///
/// **Lost replies.** After an `Err` of kind [`Unavailable`](StoreErrorKind::Unavailable) the operation may have
/// happened. Every operation is safe to repeat: an insert under a known id answers `Known`, and a change that was made
/// already is `Stale`.
///
/// **Tenants.** Reads by id or name take a [`Scope`], and apply it inside the query. For the caller, a task outside the
/// scope does not exist.
///
/// **Records.** A store keeps a record as it is, including fields that this build does not read. A record that cannot
/// be decoded is set aside and counted, and does not block other tasks. A record of a
/// [newer format](crate::task::record_codec) is left alone: [`claim`](Self::claim) and [`due`](Self::due) do not return
/// it.
///
/// **Cancellation.** If a returned future is dropped, the operation happens or does not happen, but never half of it.
///
/// # Errors
///
/// Any operation can answer [`Unavailable`](StoreErrorKind::Unavailable): the store cannot be reached, or is closed. A
/// store that finds its own data damaged can answer [`Corrupt`](StoreErrorKind::Corrupt) to any operation. Further
/// errors are listed at each operation.
///
/// # Independence of [`renew`](Self::renew)
///
/// The engine renews leases on a thread and runtime of its own, so that a handler that blocks the application's runtime
/// does not let the leases of other tasks run out. Do not use a connection, timer or lock in `renew` that another
/// runtime drives. A store with a server drives its connections on a thread of its own.
///
/// # No default methods
///
/// A default method would let a wrapper that forgot to forward it break a promise silently. Write wrappers with
/// [`forward_store!`](crate::forward_store). Batching is up to the store: operations arrive one by one and
/// concurrently. A store that is faster when it commits many together can collect the operations that are waiting, as
/// the guide shows.
pub trait TaskStore: Send + Sync + fmt::Debug + 'static {
    /// What this store can do and promises.
    fn abilities(&self) -> Abilities;

    /// The current time by the store's clock, as far as it is available without waiting. Use it for times that are only
    /// shown. The times that decide something are set by the store within its operations.
    fn now(&self) -> Timestamp;

    /// How full the queue is, and whether the store has failed for good, as far as that is available without waiting.
    /// The layer uses it to refuse a request before its body is read, and to take a process out of service. It may be
    /// out of date; the insert decides.
    fn queue_hint(&self, tenant: Option<&Tenant>, pool: Option<&PoolName>) -> QueueHint;

    /// Stores a task, or answers which task has its id, name or key already.
    ///
    /// With [`NewRow::claim`], the task is stored already claimed, and starts without a second write.
    ///
    /// The reply owns what it needs, since an insert goes on when its caller has left.
    fn insert(self: Arc<Self>, task: NewRow) -> Reply<'static, Insertion>;

    /// Stores many tasks, and answers for each, in order, as [`insert`](Self::insert) does. A store does this in one
    /// step if it can. After an error, some of the tasks may be stored.
    fn insert_all(self: Arc<Self>, tasks: Vec<NewRow>) -> Reply<'static, Vec<Insertion>>;

    /// Claims up to `max` runnable tasks for a worker. Changes columns only, as [`Row::claim`] describes.
    fn claim(&self, claim: Claim) -> Reply<'_, Claims>;

    /// The rows in `scope` that `which` selects, as they are now.
    ///
    /// # Errors
    ///
    /// `Corrupt` or `Incompatible` if a row is requested by its id and cannot be read.
    fn rows<'a>(&'a self, scope: &'a Scope, which: &'a Which) -> Reply<'a, Vec<Row>>;

    /// Up to `max` rows that are due. This changes nothing: the rows are candidates for a commit. Those of
    /// [`Due::Prune`] and [`Due::GiveUp`] come longest due first. A store without a bound has none for
    /// [`Due::Crowded`].
    fn due(&self, what: Due, max: usize) -> Reply<'_, Candidates>;

    /// Makes a change, if its [conditions hold](Change::holds).
    fn commit(&self, change: Change) -> Reply<'_, Committed>;

    /// Makes changes of different tasks, each on its own, and answers for each, in order. A store does this in one step
    /// if it can. After an error, some of the changes may have been made.
    fn commit_all(&self, changes: Vec<Change>) -> Reply<'_, Vec<Committed>>;

    /// Extends claims to `lease` from now, and answers for each, in order.
    fn renew(&self, leases: Vec<LeaseRef>, lease: Duration) -> Reply<'_, Vec<Renewal>>;

    /// Claims completions that are due, for a lease of their own: at most a given number for each destination. Changes
    /// rows of the outbox only, as [`OutboxRow::claim`] describes.
    fn claim_deliveries(&self, claim: DeliveryClaim) -> Reply<'_, Vec<ClaimedOutbox>>;

    /// One page of the tasks that match. Paging to the end returns every task that matches throughout exactly once.
    fn list<'a>(&'a self, scope: &'a Scope, filter: &'a Filter, page: Page) -> Reply<'a, PageOf<Row>>;

    /// The number of tasks in each state and, for [`Scope::All`], of pending completions. The numbers come from
    /// counters, never from a scan of the tasks.
    fn counts<'a>(&'a self, scope: &'a Scope) -> Reply<'a, Counts>;

    /// The request or the response of a task in `scope`, or `None`.
    fn payload<'a>(&'a self, scope: &'a Scope, id: RequestId, part: Part) -> Reply<'a, Option<Payload>>;

    /// Stores the progress of a task, in place of earlier progress. Answers whether the claim still holds.
    fn set_progress(&self, lease: LeaseRef, progress: Progress) -> Reply<'_, bool>;

    /// Adds lines to a task's log, numbered on from its last line. Beyond [`LogQuery::BYTES_KEPT`] or
    /// [`LogQuery::LINES_KEPT`] per attempt, lines are dropped, and one last line says so. Answers whether the claim
    /// still holds.
    fn append_log(&self, lease: LeaseRef, lines: Vec<LogLine>) -> Reply<'_, bool>;

    /// Lines of a task's log, in order.
    ///
    /// # Errors
    ///
    /// `NotFound` if the task is not in `scope`.
    fn logs<'a>(&'a self, scope: &'a Scope, id: RequestId, query: LogQuery) -> Reply<'a, Vec<LogLine>>;

    /// Removes up to `limit` keys whose window has passed, and answers how many.
    fn prune_keys(&self, limit: usize) -> Reply<'_, usize>;

    /// Resolves when there is news for this handle. News is a hint: it may be wrong, repeated or missing, so a caller
    /// must also look at intervals. At most one call may be pending: that of the engine that uses this handle.
    ///
    /// There is news of what other handles of the same store do, as far as [`Abilities::notifies`] says. There need not
    /// be any of what is done through this handle.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, nothing is lost: the next call answers with the same news.
    fn news(&self) -> BoxFuture<'_, News>;

    /// Sets which news of other handles this handle receives: [`Attention::Work`] until the first call. Returns without
    /// waiting. A store with a connection repeats the setting when it has reconnected.
    fn attend(&self, attention: Attention);

    /// The state of tasks as numbers to compare, for callers that wait for a change. One answer for each id, in order;
    /// `None` if there is no such task.
    fn glance(&self, ids: Vec<RequestId>) -> Reply<'_, Vec<Option<Glance>>>;

    /// Stores that a process is alive, and its presence. Answers with all processes that did so within `within`,
    /// including this one. Only the latest presence of a process counts. A presence that a newer build wrote and this
    /// build cannot read is left out.
    fn beat(&self, me: Presence, within: Duration) -> Reply<'_, Vec<Seen>>;

    /// Makes `change`, if there is one and the value still has the version that it replaces. Answers with all named
    /// values after that. There are few of them, and they are small. They survive what a task survives.
    fn control(&self, change: Option<ControlChange>) -> Reply<'_, Controls>;

    /// Releases files and connections. The engine calls it when it has ended. Later operations answer `Unavailable`.
    fn close(&self) -> BoxFuture<'_, ()>;
}
