//! Where tasks are kept: the [`TaskStore`] contract, and the stores that keep it.
//!
//! A store is also the queue. Choose one by what must survive:
//!
//! | store | an accepted task survives | needs |
//! |---|---|---|
//! | [`MemoryStore`] | a panic in a handler, not the end of the process | nothing |
//! | `RedbStore` of [`tower-respond-async-redb`](https://docs.rs/tower-respond-async-redb) | the end of the process and of the power, not the loss of the disk | a file |
//! | `PostgresStore` of [`tower-respond-async-postgres`](https://docs.rs/tower-respond-async-postgres) | what a commit of the server survives; any number of processes share it | PostgreSQL 13 or later |
//!
//! An application gives a store to the layer and never calls it itself; a [`Ledger`] is for tools and tests that look at one.
//! Whoever writes a store implements [`TaskStore`] and runs the [conformance suite](crate::testing::conformance) against
//! it. [Writing a store](crate::guide::writing_a_store) shows one whole.

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
mod row;
#[cfg(test)]
mod tests;

use std::{fmt, time::Duration};

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
        Abilities, BornClaimed, Candidate, Candidates, Claim, ClaimedOutbox, ClaimedRow, Claims, DeliveryClaim, Due,
        Durability, FullReason, Insertion, KnownBy, Limits, LogQuery, NewRow, Part, Payload, PoolClaim, QueueHint,
        Renewal, Retention, Sharing, Which, Why,
    },
    row::{Columns, OutboxRow, Row},
};
use crate::{
    error::BoxFuture,
    task::{
        Counts, Filter, LeaseRef, LogLine, Page, PageOf, PoolName, Presence, Progress, RequestId, Scope, Seen, Tenant,
    },
    time::Timestamp,
};

/// What a store operation answers with.
pub type StoreResult<T> = Result<T, StoreError>;

/// A place that keeps tasks and hands them out to be run.
///
/// A store keeps [rows](Row) and [payloads](Payload), finds rows by a few columns, and commits [changes](Change). It decides
/// nothing: what may happen to a task is [`lifecycle`](crate::task::lifecycle)'s business, and the [`Ledger`] makes one
/// change of each step of a life. What many stores have in common is in [`kit`].
///
/// # Contract
///
/// Every promise below has a test of the same name in the [conformance suite](crate::testing::conformance).
///
/// **Atomicity.** Each operation takes effect whole or not at all, each change of [`commit_all`](Self::commit_all) and each
/// task of [`insert_all`](Self::insert_all) on its own. What [`insert`](Self::insert) answers `New` for is durable, to the
/// degree that [`abilities`](Self::abilities) publishes, before it answers; row, request, name and key appear together.
/// [`commit`](Self::commit) changes row, payloads and outbox together.
///
/// **Ownership.** A task is held by one claim at a time, identified by its fence token, which grows with every claim.
/// Renewals, progress and log lines are compared with the token: from an older one they change nothing and say so. A change
/// is compared with the row's version, which every claim and every commit raises.
///
/// **Order.** Claims come oldest `run_at` first, ties by id. At most one *suspect* (a task whose process died under it
/// before) is held by a worker at a time.
///
/// **Clocks.** Durations go in, timestamps come out; only the store's own clock decides what is due, lapsed or expired.
///
/// **Lost replies.** An `Err` of kind [`Unavailable`](StoreErrorKind::Unavailable) may mean that the operation happened.
/// Every operation is safe to repeat: an insert under a known id answers `Known`, a change that was made is `Stale`.
///
/// **Tenants.** Reads by id or name take a [`Scope`], applied inside the query: what is outside is not there.
///
/// **Records.** A store keeps a record as it is, also one of which it does not know every field. One that cannot be decoded
/// is set aside and counted, and stops nobody; one of a [newer format](crate::task::record_codec) is left alone: no claim
/// and no [`due`](Self::due) shows it.
///
/// **Cancellation.** Dropping a returned future may or may not stop the operation, but never leaves half of it.
///
/// # Independence of [`renew`](Self::renew)
///
/// Renewals are called from a thread and runtime of their own, so that a handler which blocks the application's runtime
/// cannot make its neighbours look dead. A store must not need a connection, timer or lock there that another runtime
/// drives; one with a server drives its connections on a thread of its own.
///
/// # Minimal by intent
///
/// There are no default methods: a wrapper that forgot to pass one on would break a promise silently. A wrapper is written
/// with [`forward_store!`](crate::forward_store). Batching is the store's own business: operations come one by one and
/// concurrently, and a store which gains by committing many together collects what is waiting, as the guide shows.
pub trait TaskStore: Send + Sync + fmt::Debug + 'static {
    /// What this store can do and promises.
    fn abilities(&self) -> Abilities;

    /// The time by the store's clock, as far as is known without waiting: for times that are shown. Those that decide are
    /// set by the store as it does something.
    fn now(&self) -> Timestamp;

    /// How full the queue is, and whether the store has failed for good, as far as is known without waiting: lets a
    /// request be refused before its body is read, and a process be taken out of service. May be out of date; the insert
    /// decides.
    fn queue_hint(&self, tenant: Option<&Tenant>, pool: Option<&PoolName>) -> QueueHint;

    /// Stores a task, or says which task is already known by its id, name or key.
    ///
    /// With [`NewRow::born`], the task is stored already claimed, and starts without a second write.
    fn insert(&self, task: NewRow) -> BoxFuture<'_, StoreResult<Insertion>>;

    /// Stores many tasks: one answer for each, in order, as [`insert`](Self::insert) gives it. In one step where the store
    /// can; after an error some may be stored.
    fn insert_all(&self, tasks: Vec<NewRow>) -> BoxFuture<'_, StoreResult<Vec<Insertion>>>;

    /// Takes up to `max` runnable tasks for a worker. It changes columns only, as [`Row::claim`] says.
    fn claim(&self, claim: Claim) -> BoxFuture<'_, StoreResult<Claims>>;

    /// Rows in `scope`, as they are now.
    ///
    /// # Errors
    ///
    /// `Corrupt` or `Incompatible` for one that is asked for by its id and cannot be read.
    fn rows<'a>(&'a self, scope: &'a Scope, which: &'a Which) -> BoxFuture<'a, StoreResult<Vec<Row>>>;

    /// Up to `max` rows that are due: candidates, which are changed by nothing but a commit. Those of [`Due::Prune`] and
    /// [`Due::GiveUp`] come longest due first. A store without a bound has none for [`Due::Crowded`].
    fn due(&self, what: Due, max: usize) -> BoxFuture<'_, StoreResult<Candidates>>;

    /// Makes a change, if it [holds](Change::holds).
    fn commit(&self, change: Change) -> BoxFuture<'_, StoreResult<Committed>>;

    /// Makes changes of different tasks, each on its own: one answer for each, in order. In one step where the store can;
    /// after an error some may have been made.
    fn commit_all(&self, changes: Vec<Change>) -> BoxFuture<'_, StoreResult<Vec<Committed>>>;

    /// Lets claims hold for another `lease`: one answer for each, in order.
    fn renew(&self, leases: Vec<LeaseRef>, lease: Duration) -> BoxFuture<'_, StoreResult<Vec<Renewal>>>;

    /// Takes completions that are due, of each destination at most so many, for a lease of their own. It changes rows of the
    /// outbox only, as [`OutboxRow::claim`] says.
    fn claim_deliveries(&self, claim: DeliveryClaim) -> BoxFuture<'_, StoreResult<Vec<ClaimedOutbox>>>;

    /// One page of the tasks that match. Every task that matches throughout is seen exactly once by paging on.
    fn list<'a>(&'a self, scope: &'a Scope, filter: &'a Filter, page: Page) -> BoxFuture<'a, StoreResult<PageOf<Row>>>;

    /// How many tasks are in each state, and for [`Scope::All`] how many completions are pending: from counters, never by
    /// a scan of the tasks.
    fn counts<'a>(&'a self, scope: &'a Scope) -> BoxFuture<'a, StoreResult<Counts>>;

    /// The request or the response of a task in `scope`, if there is one.
    fn payload<'a>(
        &'a self,
        scope: &'a Scope,
        id: RequestId,
        part: Part,
    ) -> BoxFuture<'a, StoreResult<Option<Payload>>>;

    /// Notes how far a task is. The latest wins. Answers whether the claim still holds.
    fn set_progress(&self, lease: LeaseRef, progress: Progress) -> BoxFuture<'_, StoreResult<bool>>;

    /// Adds lines to a task's log, numbered on from the last; past [`LogQuery::BYTES_KEPT`] or
    /// [`LogQuery::LINES_KEPT`] per attempt the rest is dropped, and a last line says so. Answers whether the claim
    /// still holds.
    fn append_log(&self, lease: LeaseRef, lines: Vec<LogLine>) -> BoxFuture<'_, StoreResult<bool>>;

    /// Lines of a task's log, in order.
    ///
    /// # Errors
    ///
    /// `NotFound` if it is not in `scope`.
    fn logs<'a>(&'a self, scope: &'a Scope, id: RequestId, query: LogQuery)
    -> BoxFuture<'a, StoreResult<Vec<LogLine>>>;

    /// Forgets up to `limit` keys past their window, and says how many.
    fn prune_keys(&self, limit: usize) -> BoxFuture<'_, StoreResult<usize>>;

    /// Resolves when this handle has heard something. All of it is a hint, which may lie, repeat and miss; looking now and
    /// then is the truth. One caller at a time: the engine that has this handle.
    ///
    /// What other handles of the same store do is told, as far as [`Abilities::notifies`] says so. What is done through
    /// this one need not be.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost: what was heard is answered by the next call.
    fn news(&self) -> BoxFuture<'_, News>;

    /// Says how much of what others do this handle needs to hear: [`Attention::Work`] until it is called. Not waited for.
    /// A store that connects says it again when it has lost its connection.
    fn attend(&self, attention: Attention);

    /// Where tasks stand, for those that wait for one to change: one answer for each, in order, `None` for one that is not
    /// there.
    fn glance(&self, ids: Vec<RequestId>) -> BoxFuture<'_, StoreResult<Vec<Option<Glance>>>>;

    /// Says that a process is there and how it is, and answers with all that have said so within this time, this one among
    /// them. The latest of each counts. One whose presence a newer build wrote so that it cannot be read is left out.
    fn beat(&self, me: Presence, within: Duration) -> BoxFuture<'_, StoreResult<Vec<Seen>>>;

    /// Changes a named value, if one is to be changed and it is as it was read, and answers with all of them as they are
    /// then. There are few, and they are small. They survive what a task survives.
    fn control(&self, change: Option<ControlChange>) -> BoxFuture<'_, StoreResult<Controls>>;

    /// Lets go of files and connections, once the engine is done. Later operations are `Unavailable`.
    fn close(&self) -> BoxFuture<'_, ()>;
}
