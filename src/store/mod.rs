//! Where tasks are kept: the [`TaskStore`] contract, and the stores that keep it.
//!
//! A store is also the queue. Choose one by what must survive:
//!
//! | store | an accepted task survives | needs |
//! |---|---|---|
//! | [`MemoryStore`] | a panic in a handler, not the end of the process | nothing |
//! | `RedbStore` (feature `redb`) | the end of the process and of the power, not the loss of the disk | a file |
//!
//! An application gives a store to the layer and never calls it itself; [`TaskStoreExt`] is for tools and tests that do.
//! Whoever writes a store implements [`TaskStore`] and runs the [conformance suite](crate::testing::conformance) against
//! it. [Writing a store](crate::guide::writing_a_store) shows one whole.

mod error;
mod ext;
mod index;
mod memory;
mod operations;
#[cfg(feature = "redb")]
mod redb;

use std::{fmt, sync::Arc, time::Duration};

#[cfg(feature = "redb")]
pub use self::redb::{QuickRepair, RedbStore, RedbStoreBuilder};
pub use self::{
    error::{StoreError, StoreErrorKind},
    ext::TaskStoreExt,
    memory::{MemoryStore, MemoryStoreBuilder},
    operations::{
        Abilities, BornClaimed, Claim, Claimed, ClaimedDelivery, ClaimedTask, Delete, DeliveryClaim,
        DeliverySettlement, Durability, FullReason, GiveUp, Insert, Inserted, KnownBy, Limits, LogQuery, Pruned,
        QueueHint, Rescued, Retention, Settled, Sharing,
    },
};
use crate::{
    error::BoxFuture,
    task::{
        CapturedRequest, CapturedResponse, Counts, Delivery, Destination, Filter, LeaseRef, LogLine, Page, PageOf,
        Progress, RequestId, Scope, TaskRecord, TaskRef, Tenant,
        delivery::Redeliver,
        lifecycle::{Edits, Renewal, Rerun, Settlement, Stop},
    },
};

/// What a store operation answers with.
pub type StoreResult<T> = Result<T, StoreError>;

/// A place that keeps tasks and hands them out to be run.
///
/// # Contract
///
/// Every promise below has a test of the same name in the [conformance suite](crate::testing::conformance).
///
/// **Atomicity.** Each operation takes effect whole or not at all. What [`insert`](Self::insert) answers `New` for is
/// durable, to the degree that [`abilities`](Self::abilities) publishes, before it answers; task, request, key and first
/// history event appear together. [`settle`](Self::settle) commits state, response and outbox entries together.
///
/// **Ownership.** A task is held by one claim at a time, identified by its fence token, which grows with every claim. A
/// write about a running task (renew, settle, progress, log) is a compare-and-set on the token: from an older one it
/// changes nothing and says so.
///
/// **Order.** Claims come oldest `run_at` first, ties by id. At most one *suspect* (a task whose process died under it
/// before) is held by a worker at a time.
///
/// **Clocks.** Durations go in, timestamps come out; only the store's own clock decides what is due, lapsed or expired.
///
/// **Lost replies.** An `Err` of kind [`Unavailable`](StoreErrorKind::Unavailable) may mean that the operation happened.
/// Every operation is safe to repeat: an insert under a known id answers `Known`, a second settlement is fenced.
///
/// **Tenants.** Reads and changes by id take a [`Scope`], applied inside the query: what is outside is
/// [`NotFound`](StoreErrorKind::NotFound), as if it were not there.
///
/// **Cancellation.** Dropping a returned future may or may not stop the operation, but never leaves half of it.
///
/// # Independence of [`renew`](Self::renew)
///
/// Renewals are called from a thread and runtime of their own, so that a handler which blocks the application's runtime
/// cannot make its neighbours look dead. A store must not need a connection, timer or lock there that another runtime
/// drives; one with a server opens a second connection lazily.
///
/// # Minimal by intent
///
/// There are no default methods: a wrapper that forgot to pass one on would break a promise silently. Conveniences are
/// in [`TaskStoreExt`]. Batching is the store's own business: operations come one by one and concurrently, and a store
/// which gains by committing many together collects what is waiting, as the guide shows.
pub trait TaskStore: Send + Sync + fmt::Debug + 'static {
    /// What this store can do and promises.
    fn abilities(&self) -> Abilities;

    /// How full the queue is, and whether the store has failed for good, as far as is known without waiting: lets a
    /// request be refused before its body is read, and a process be taken out of service. May be out of date; the insert
    /// decides.
    fn queue_hint(&self, tenant: Option<&Tenant>) -> QueueHint;

    /// Stores a task, or says which task is already known by its id, name or key.
    ///
    /// With [`Insert::born`], the task is stored already claimed, and starts without a second write.
    fn insert(&self, insert: Insert) -> BoxFuture<'_, StoreResult<Inserted>>;

    /// Takes up to `max` runnable tasks for a worker.
    ///
    /// A task whose record cannot be decoded is set aside as `Invalid`; one written by a newer version is left alone.
    fn claim(&self, claim: Claim) -> BoxFuture<'_, StoreResult<Claimed>>;

    /// Lets claims hold for another `lease`: one answer for each, in order.
    fn renew(&self, leases: Vec<LeaseRef>, lease: Duration) -> BoxFuture<'_, StoreResult<Vec<Renewal>>>;

    /// Records how an attempt ended.
    fn settle(&self, settlement: Settlement) -> BoxFuture<'_, StoreResult<Settled>>;

    /// Finds up to `limit` tasks whose lease or age ran out, and requeues or ends each. Tasks that the store took from
    /// a dead process as it was opened are among the first that it answers with, once.
    fn rescue(&self, limit: usize) -> BoxFuture<'_, StoreResult<Rescued>>;

    /// Asks for a task to stop.
    ///
    /// # Errors
    ///
    /// `NotFound` if it is not in `scope`.
    fn stop<'a>(&'a self, scope: &'a Scope, id: RequestId) -> BoxFuture<'a, StoreResult<Stop>>;

    /// Runs an ended task again, as a new generation.
    ///
    /// # Errors
    ///
    /// `NotFound` if it is not in `scope`.
    fn rerun<'a>(&'a self, scope: &'a Scope, id: RequestId, edits: Edits) -> BoxFuture<'a, StoreResult<Rerun>>;

    /// Removes an ended task with all that hangs on it, but for its key, which is remembered for its window.
    ///
    /// # Errors
    ///
    /// `NotFound` if it is not in `scope`.
    fn delete<'a>(&'a self, scope: &'a Scope, id: RequestId) -> BoxFuture<'a, StoreResult<Delete>>;

    /// The task of this id or name.
    ///
    /// # Errors
    ///
    /// `Conflict` if tasks of several tenants in `scope` have the name.
    fn find<'a>(&'a self, scope: &'a Scope, task: &'a TaskRef) -> BoxFuture<'a, StoreResult<Option<Arc<TaskRecord>>>>;

    /// One page of the tasks that match. Every task that matches throughout is seen exactly once by paging on.
    fn list<'a>(
        &'a self,
        scope: &'a Scope,
        filter: &'a Filter,
        page: Page,
    ) -> BoxFuture<'a, StoreResult<PageOf<Arc<TaskRecord>>>>;

    /// How many tasks match; counting ends at `cap`.
    fn count<'a>(&'a self, scope: &'a Scope, filter: &'a Filter, cap: u64) -> BoxFuture<'a, StoreResult<u64>>;

    /// How many tasks are in each state, and for [`Scope::All`] how many completions are pending: from counters, never by
    /// a scan of the tasks.
    fn counts<'a>(&'a self, scope: &'a Scope) -> BoxFuture<'a, StoreResult<Counts>>;

    /// The request of a task.
    fn input<'a>(&'a self, scope: &'a Scope, id: RequestId)
    -> BoxFuture<'a, StoreResult<Option<Arc<CapturedRequest>>>>;

    /// The response of a task, once it has ended with one.
    fn output<'a>(
        &'a self,
        scope: &'a Scope,
        id: RequestId,
    ) -> BoxFuture<'a, StoreResult<Option<Arc<CapturedResponse>>>>;

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

    /// Takes up to `max` completions that are due for the given destinations, for a lease of their own.
    fn claim_deliveries(&self, claim: DeliveryClaim) -> BoxFuture<'_, StoreResult<Vec<ClaimedDelivery>>>;

    /// Records how a try of a delivery ended. Answers whether its claim still held.
    fn settle_delivery(&self, settlement: DeliverySettlement) -> BoxFuture<'_, StoreResult<bool>>;

    /// Makes the delivery of this generation to this destination due now, however it stands.
    ///
    /// # Errors
    ///
    /// `NotFound` if the task is not in `scope`.
    fn redeliver<'a>(
        &'a self,
        scope: &'a Scope,
        id: RequestId,
        generation: u32,
        destination: &'a Destination,
    ) -> BoxFuture<'a, StoreResult<Redeliver>>;

    /// Gives up completions that nobody takes, as [`Delivery::give_up`] says, and answers with them as they are now.
    fn give_up_deliveries(&self, give_up: GiveUp) -> BoxFuture<'_, StoreResult<Vec<Delivery>>>;

    /// Removes up to `limit` ended tasks that are past retention, counted from
    /// [when they came to rest](TaskRecord::rests_since), and up to `limit` keys that are past their window.
    fn prune(&self, retention: Retention, limit: usize) -> BoxFuture<'_, StoreResult<Pruned>>;

    /// Resolves when something may have become runnable. A hint: it may lie and it may miss; polling is the truth.
    fn wait_for_work(&self) -> BoxFuture<'_, ()>;

    /// Lets go of files and connections, once the engine is done. Later operations are `Unavailable`.
    fn close(&self) -> BoxFuture<'_, ()>;
}
