//! Tasks in this process's memory: a fast store, and one to read as an example.
//!
//! # Why shards
//!
//! Most tasks are stored claimed: the process that accepts them owns them from the insert on, and settles them soon
//! after. Neither step may wait for a lock that all tasks share. Therefore the random bits of the id spread tasks over
//! [`SHARDS`] parts, each behind a lock of its own. The usual life of a task locks one shard twice and changes a few
//! atomic counters.
//!
//! The shards are the source of truth. Indexes span the shards. Each has a lock of its own, and only the tasks in it
//! touch it: the [queue](Queue) has the tasks that wait, the [outbox](Outbox) and the [waiting](waiting) those with
//! completions, the [names](names) those with a name or key. [`shard::Tasks::replace`] makes every change that
//! several indexes depend on, and updates them before the shard's lock is released. A claim of a delivery changes one
//! outbox row, and updates the outbox itself. Leases and progress are in no index.
//!
//! # Lock order
//!
//! Take names first, then one shard, then the queue, the outbox or the waiting. Never lock two shards at once, and
//! never two of the last three. This order has no cycle, so there is no deadlock:
//!
//! - An insert with a name or key holds the names from its check to its end, so that no other insert of the same name
//!   comes between.
//! - The key of a task that has ended moves to the keys of ended tasks, and back when the task runs again. That is a
//!   step of its own, which takes names and shard anew in this order. Of several such steps the last one sees the task
//!   as it is.
//! - Room is made without a lock. A task that was chosen may be gone already; then the next one is chosen.
//! - A record and its place in the queue change under the shard's lock, so an index entry is never newer than the
//!   record.
//! - A claim takes candidates from the queue, releases it, and then locks the shard of each candidate. Between the two
//!   steps the task may be stopped, or ended by a rescue. The record shows that, and the claim passes the task over.
//!   Two claims never get the same candidate: the first takes it off its lane, and a step that puts the task back also
//!   writes a matching record. Claims of deliveries work in the same way.

mod claims;
mod commit;
mod ended_keys;
mod insert;
mod listing;
mod making_room;
mod names;
mod processes;
mod room;
mod shard;
mod waiting;

use std::{
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use self::{
    names::Names,
    processes::Processes,
    room::Room,
    shard::{Around, Shard, Tasks, shard_of},
    waiting::Waiting,
};
use crate::{
    error::BoxFuture,
    store::{
        Abilities, Attention, Candidates, Change, Claim, ClaimedOutbox, Claims, Committed, ControlChange, Controls,
        DeliveryClaim, Due, Durability, Glance, Insertion, LogQuery, NewRow, News, Part, Payload, QueueHint, Renewal,
        Reply, Row, Sharing, StoreError, StoreResult, TaskStore, Which,
        kit::{ControlValues, NewsBoard, NewsHandle, Outbox, Queue},
    },
    task::{
        Counts, Filter, LeaseRef, LogLine, Page, PageOf, PoolName, Presence, Progress, RequestId, Scope, Seen, Tenant,
    },
    time::{Clock, SystemClock, Timestamp},
};

/// A store in the memory of this process. It needs nothing else, and its tasks end with the process.
///
/// Use it for tests, for work that clients can repeat, and to try asynchronous invocation. Clones are handles of one
/// store. Several layers of one process may share the store, each with a clone of its own, as processes share a store
/// with a server: each handle receives news of the others' changes. Closing one clone, as a layer does at its shutdown,
/// does not close the others.
///
/// The store is bounded, by tasks and by bytes. To make room for new tasks, a full store drops tasks that have ended,
/// oldest first, before their retention is over. It does not drop a task with a completion that is still to be
/// delivered. If it can drop no more, it refuses inserts as [`Full(Storage)`](crate::store::FullReason::Storage). It
/// never refuses a result, a log or an edited request: it drops other tasks for them at once, and if that is not
/// enough, it holds more than its bound until live tasks end. A result that is larger than the whole store is kept
/// until the next one is written.
///
/// **Keys** of live tasks are always kept. Keys of ended tasks are kept for their window, even after the task is gone,
/// as long as all of them take at most a quarter of the bytes, and those of one tenant at most an eighth; tasks without
/// a tenant count as one tenant. Beyond that, the oldest keys are removed before their window is over, and counted in
/// [`Counts::forgotten_keys`]. The default bound has room for 190,000 keys of 36 characters of one tenant: an hour and
/// a half at 30 a second. If live tasks need the room, these keys are removed as well. No request is refused because of
/// keys.
///
/// **Completions** for destinations and hosts that do not answer keep their tasks in the store, which cannot drop them.
/// All of these tasks together may use half of the store, and those for one host that clients name an eighth. Beyond
/// that, the completions that have waited longest are given up: they are shown as failed with this reason, and reported
/// to probes. Then their tasks can be dropped. A completion for a host that answers, or for a destination that is only
/// slow, is not given up.
///
/// # Cancel safety
///
/// Every operation takes effect when it is called, not when its future is polled: dropping the future loses only the
/// answer. Only [`news`](TaskStore::news) waits.
///
/// # Examples
///
/// ```
/// use tower_respond_async::store::{Durability, MemoryStore, TaskStore};
///
/// let store = MemoryStore::builder().max_tasks(10_000).max_bytes(64 * 1024 * 1024).build();
/// assert_eq!(store.abilities().durability, Durability::Process);
/// ```
pub struct MemoryStore {
    inner: Arc<Inner>,
    news: NewsHandle,
    /// For this clone only: another engine may still use the tasks, or be built on them later.
    closed: AtomicBool,
}

impl MemoryStore {
    /// An empty store with the default bounds.
    #[must_use]
    pub fn new() -> Self {
        Self::builder().build()
    }

    /// A builder, to set the bounds or the clock.
    pub fn builder() -> MemoryStoreBuilder {
        MemoryStoreBuilder::default()
    }

    fn over(inner: Arc<Inner>) -> Self {
        Self {
            news: inner.board.handle(),
            inner,
            closed: AtomicBool::new(false),
        }
    }
}

impl Clone for MemoryStore {
    /// Another handle of the same store. It is open, even if this one is closed.
    fn clone(&self) -> Self {
        Self::over(self.inner.clone())
    }
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Without payloads, and without taking locks: the caller may hold one.
        f.debug_struct("MemoryStore")
            .field("tasks", &self.inner.room.tasks())
            .field("bytes", &self.inner.room.bytes())
            .field("waiting", &self.inner.queue.waiting())
            .field("closed", &self.closed)
            .finish_non_exhaustive()
    }
}

/// Builds a [`MemoryStore`].
///
/// See the example of [`MemoryStore`].
#[derive(Clone, Debug)]
#[must_use]
pub struct MemoryStoreBuilder {
    clock: Arc<dyn Clock>,
    max_tasks: usize,
    max_bytes: usize,
}

impl MemoryStoreBuilder {
    /// How many tasks are kept by default, including ended ones: those of a few minutes on a busy server, in about 100
    /// MB with small bodies.
    pub const MAX_TASKS: usize = 100_000;

    /// How many bytes of requests, responses, logs and keys are kept by default.
    pub const MAX_BYTES: usize = 512 * 1024 * 1024;

    /// Reads the time from `clock` instead of the computer's clock.
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    /// How many tasks are kept, including ended ones. The default is [`MAX_TASKS`](Self::MAX_TASKS).
    pub const fn max_tasks(mut self, tasks: usize) -> Self {
        self.max_tasks = tasks;
        self
    }

    /// How many bytes are kept of requests, responses, logs, keys and other data of variable length. The default is
    /// [`MAX_BYTES`](Self::MAX_BYTES). The fixed part of every task, about 1 KB, does not count:
    /// [`max_tasks`](Self::max_tasks) bounds it.
    pub const fn max_bytes(mut self, bytes: usize) -> Self {
        self.max_bytes = bytes;
        self
    }

    /// Builds an empty store.
    #[must_use]
    pub fn build(self) -> MemoryStore {
        let inner = Inner {
            shards: std::array::from_fn(|_| Shard::default()),
            queue: Queue::default(),
            outbox: Outbox::default(),
            waiting: Waiting::new(self.max_tasks, self.max_bytes),
            names: Mutex::new(Names::new(self.max_bytes / KEYS_SHARE)),
            room: Room::new(self.max_tasks, self.max_bytes),
            board: NewsBoard::default(),
            processes: Processes::default(),
            controls: Mutex::default(),
            clock: self.clock,
        };
        MemoryStore::over(Arc::new(inner))
    }
}

impl Default for MemoryStoreBuilder {
    fn default() -> Self {
        Self {
            clock: Arc::new(SystemClock::new()),
            max_tasks: Self::MAX_TASKS,
            max_bytes: Self::MAX_BYTES,
        }
    }
}

/// The keys of ended tasks may use the bytes divided by this. The tasks may use the rest, and what the keys leave free.
const KEYS_SHARE: usize = 4;

/// Many more than the cores that are in a shard at the same moment, even on a large machine: a shard is locked for
/// about 100 ns. More shards would only make lists and rescues slower.
const SHARDS: usize = 32;

struct Inner {
    shards: [Shard; SHARDS],
    queue: Queue,
    outbox: Outbox,
    waiting: Waiting,
    names: Mutex<Names>,
    room: Room,
    board: NewsBoard,
    processes: Processes,
    controls: Mutex<ControlValues>,
    clock: Arc<dyn Clock>,
}

impl Inner {
    fn now(&self) -> Timestamp {
        self.clock.now()
    }
}

impl TaskStore for MemoryStore {
    fn abilities(&self) -> Abilities {
        Abilities::new(Durability::Process, Sharing::Shared, true)
    }

    fn now(&self) -> Timestamp {
        self.inner.now()
    }

    fn queue_hint(&self, tenant: Option<&Tenant>, pool: Option<&PoolName>) -> QueueHint {
        QueueHint {
            queued: Some(self.inner.queue.waiting()),
            tenant_queued: tenant.map(|_| self.inner.queue.lock().waiting_of(tenant)),
            pool_queued: pool.map(|pool| self.inner.queue.lock().waiting_in(pool)),
            failed: false,
            crowded: self.inner.waiting.is_crowded(),
        }
    }

    fn insert(self: Arc<Self>, task: NewRow) -> Reply<'static, Insertion> {
        Reply::now(self.open().map(|()| self.insert_now(task)))
    }

    fn insert_all(self: Arc<Self>, tasks: Vec<NewRow>) -> Reply<'static, Vec<Insertion>> {
        Reply::now(self.open().map(|()| self.insert_all_now(tasks.into_iter())))
    }

    fn claim(&self, claim: Claim) -> Reply<'_, Claims> {
        Reply::now(self.open().map(|()| self.claim_now(&claim)))
    }

    fn rows<'a>(&'a self, scope: &'a Scope, which: &'a Which) -> Reply<'a, Vec<Row>> {
        Reply::now(self.open().map(|()| self.rows_now(scope, which)))
    }

    fn due(&self, what: Due, max: usize) -> Reply<'_, Candidates> {
        Reply::now(self.open().map(|()| self.due_now(&what, max)))
    }

    fn commit(&self, change: Change) -> Reply<'_, Committed> {
        Reply::now(self.open().map(|()| self.commit_now(change)))
    }

    fn commit_all(&self, changes: Vec<Change>) -> Reply<'_, Vec<Committed>> {
        Reply::now(
            self.open()
                .map(|()| changes.into_iter().map(|change| self.commit_now(change)).collect()),
        )
    }

    fn renew(&self, leases: Vec<LeaseRef>, lease: Duration) -> Reply<'_, Vec<Renewal>> {
        Reply::now(self.open().map(|()| {
            let renewals = leases.into_iter().map(|held| self.renew_now(held, lease));
            renewals.collect()
        }))
    }

    fn claim_deliveries(&self, claim: DeliveryClaim) -> Reply<'_, Vec<ClaimedOutbox>> {
        Reply::now(self.open().map(|()| self.claim_deliveries_now(&claim)))
    }

    fn list<'a>(&'a self, scope: &'a Scope, filter: &'a Filter, page: Page) -> Reply<'a, PageOf<Row>> {
        Reply::now(self.open().map(|()| self.page(scope, filter, &page)))
    }

    fn counts<'a>(&'a self, scope: &'a Scope) -> Reply<'a, Counts> {
        Reply::now(self.open().map(|()| {
            let mut counts = self.count_states(scope);
            let (oldest, now) = (self.inner.queue.lock().oldest(scope), self.now());
            counts.oldest_queued = oldest.filter(|run_at| *run_at <= now).map(|run_at| now.since(run_at));
            counts.pending_deliveries = (*scope == Scope::All).then(|| self.inner.outbox.pending());
            counts.forgotten_keys = self.names().forgotten();
            counts
        }))
    }

    fn payload<'a>(&'a self, scope: &'a Scope, id: RequestId, part: Part) -> Reply<'a, Option<Payload>> {
        Reply::now(self.open().map(|()| {
            let tasks = self.tasks(id);
            let kept = tasks.seen_by(scope, id)?;
            match part {
                Part::Request => Some(kept.request.clone()),
                Part::Response => kept.response.clone(),
            }
        }))
    }

    fn set_progress(&self, lease: LeaseRef, progress: Progress) -> Reply<'_, bool> {
        Reply::now(self.open().map(|()| {
            let mut tasks = self.tasks(lease.id);
            let held = tasks.get_mut(lease.id).filter(|kept| kept.row.is_held_by(lease.token));
            let Some(kept) = held else { return false };
            // Progress is in no index.
            kept.row.columns.progress = Some(progress);
            let grown = kept.weigh(&self.inner.room);
            drop(tasks);
            if grown {
                self.make_up_for(lease.id);
            }
            self.news.changed(lease.id);
            true
        }))
    }

    fn append_log(&self, lease: LeaseRef, lines: Vec<LogLine>) -> Reply<'_, bool> {
        Reply::now(self.open().map(|()| {
            let now = self.now();
            let mut tasks = self.tasks(lease.id);
            let held = tasks.get_mut(lease.id).filter(|kept| kept.row.is_held_by(lease.token));
            let Some(kept) = held else { return false };
            kept.logs.get_or_insert_default().append(&kept.row, lines, now);
            let grown = kept.weigh(&self.inner.room);
            drop(tasks);
            if grown {
                self.make_up_for(lease.id);
            }
            self.news.changed(lease.id);
            true
        }))
    }

    fn logs<'a>(&'a self, scope: &'a Scope, id: RequestId, query: LogQuery) -> Reply<'a, Vec<LogLine>> {
        Reply::now(self.open().and_then(|()| {
            let tasks = self.tasks(id);
            let kept = tasks.seen_by(scope, id).ok_or_else(StoreError::not_found)?;
            Ok(kept.logs.as_ref().map_or_else(Vec::new, |logs| logs.query(query)))
        }))
    }

    fn prune_keys(&self, limit: usize) -> Reply<'_, usize> {
        Reply::now(self.open().map(|()| {
            let (keys, weight) = self.names().prune(limit, self.now());
            self.inner.room.shrink(weight);
            keys
        }))
    }

    fn news(&self) -> BoxFuture<'_, News> {
        Box::pin(self.news.news())
    }

    fn attend(&self, attention: Attention) {
        self.news.attend(attention);
    }

    fn glance(&self, ids: Vec<RequestId>) -> Reply<'_, Vec<Option<Glance>>> {
        Reply::now(
            self.open()
                .map(|()| ids.into_iter().map(|id| self.glance_now(id)).collect()),
        )
    }

    fn beat(&self, me: Presence, within: Duration) -> Reply<'_, Vec<Seen>> {
        Reply::now(self.open().map(|()| self.inner.processes.beat(me, within, self.now())))
    }

    fn control(&self, change: Option<ControlChange>) -> Reply<'_, Controls> {
        Reply::now(self.open().map(|()| {
            let controls = self.controls().apply(change.as_ref());
            if controls.changed {
                self.news.control();
            }
            controls
        }))
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        self.closed.store(true, Ordering::Release);
        self.inner.board.work();
        Box::pin(std::future::ready(()))
    }
}

/// The operations themselves. They take effect when they are called.
impl MemoryStore {
    fn open(&self) -> StoreResult<()> {
        match self.closed.load(Ordering::Acquire) {
            true => Err(StoreError::closed()),
            false => Ok(()),
        }
    }

    fn tasks(&self, id: RequestId) -> MutexGuard<'_, Tasks> {
        self.inner.shards[shard_of(id, SHARDS)].lock()
    }

    fn names(&self) -> MutexGuard<'_, Names> {
        self.inner.names.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn around(&self, id: RequestId) -> Around<'_> {
        Around {
            shard: shard_of(id, SHARDS),
            queue: &self.inner.queue,
            outbox: &self.inner.outbox,
            waiting: &self.inner.waiting,
            room: &self.inner.room,
        }
    }

    fn controls(&self) -> MutexGuard<'_, ControlValues> {
        self.inner.controls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn glance_now(&self, id: RequestId) -> Option<Glance> {
        let tasks = self.tasks(id);
        let kept = tasks.get(id)?;
        let last_line = kept.logs.as_ref().map_or(0, |logs| logs.last());
        Some(Glance::of(
            kept.row.version,
            kept.row.columns.progress.as_ref(),
            last_line,
        ))
    }
}
