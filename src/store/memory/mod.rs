//! Tasks in this process's memory.
//!
//! The readable statement of what a store does, and a fast one.
//!
//! # Why shards
//!
//! Most tasks are born claimed: inserted already owned by the process that accepted them, and settled soon after. Neither
//! step may wait for a lock that all tasks share. So tasks are spread over [`SHARDS`] parts by the random bits of their
//! ids, each behind a lock of its own, and the common life touches one shard twice and a few atomic counters.
//!
//! The shards are the truth. What spans them are indexes, each behind its own lock, touched only by the tasks they are
//! for: the [queue](queue) by tasks that wait, the [outbox](outbox) by tasks with completions, the [names](names) by
//! tasks that have a name or key. [`shard::Tasks::change`] is the one place that changes a record, and lets the indexes
//! follow before the shard's lock is released.
//!
//! # Lock order
//!
//! Names, then one shard, then the queue *or* the outbox; never two shards at once, never two of the last. That is
//! acyclic, so nothing can deadlock:
//!
//! - A named insert holds the names from its check to the end, so that no other insert of the name comes between.
//! - A record and its place in the queue change under the shard's lock, so an index entry is never newer than the record.
//! - A claim takes candidates from the queue, lets go of it, and then asks each one's shard. Between the two the task may
//!   be stopped, or ended by a rescue; the record says so, and the claim passes it over. No two claims get the same
//!   candidate, since the first took it off its lane, and whoever puts the task back does so with a record to match.
//!   Deliveries are claimed in the same way.

mod listing;
mod logs;
mod names;
mod outbox;
mod queue;
mod room;
mod shard;
mod timeline;

use std::{
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use self::{
    names::{Lookup, Names},
    outbox::Outbox,
    queue::{Candidate, Place, Queue},
    room::Room,
    shard::{Around, Kept, Shard, Tasks, shard_of},
};
use crate::{
    error::BoxFuture,
    store::{
        Abilities, Claim, Claimed, ClaimedDelivery, ClaimedTask, Delete, DeliveryClaim, DeliverySettlement, Durability,
        FullReason, Insert, Inserted, KnownBy, LogQuery, Pruned, QueueHint, Rescued, Retention, Settled, Sharing,
        StoreError, StoreErrorKind, StoreResult, TaskStore,
    },
    task::{
        CapturedRequest, CapturedResponse, Counts, DeliveryStatus, Filter, LeaseRef, LogLine, Page, PageOf, Progress,
        RequestDigest, RequestId, Scope, TaskName, TaskRecord, TaskRef, Tenant,
        lifecycle::{Edits, Fenced, Renewal, Rerun, Rescue, Settlement, Stop},
    },
    time::{Clock, SystemClock, Timestamp},
};

/// A store in this process's memory: nothing to install, nothing to wait for, and nothing left when the process ends.
///
/// For tests, for work that a client repeats anyway, and for finding out whether asynchronous invocation is what you
/// want. Clones are the same store, and several layers of one process may share it: closing one clone, as a layer does
/// when it is shut down, closes no other.
///
/// It is bounded, by tasks and by bytes. When it is full, the tasks that ended first are dropped, before their
/// retention is over, so that new ones find room; one with a completion still to be delivered is kept. When only live
/// tasks are left, inserts are refused as [`Full(Storage)`](FullReason::Storage).
///
/// # Cancel safety
///
/// Every operation takes effect when it is called, not when its future is polled: dropping the future loses the answer
/// and nothing else. Only [`wait_for_work`](TaskStore::wait_for_work) waits.
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
    /// Of this clone alone: another engine may still use the tasks, or be built on them later.
    closed: AtomicBool,
}

impl MemoryStore {
    /// An empty store with the default bounds.
    #[must_use]
    pub fn new() -> Self {
        Self::builder().build()
    }

    /// A store to be made with bounds or a clock of your own.
    pub fn builder() -> MemoryStoreBuilder {
        MemoryStoreBuilder::default()
    }

    const fn over(inner: Arc<Inner>) -> Self {
        Self {
            inner,
            closed: AtomicBool::new(false),
        }
    }
}

impl Clone for MemoryStore {
    /// The same store, open.
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
        // No payloads, and no locks: it may be printed from under one.
        f.debug_struct("MemoryStore")
            .field("tasks", &self.inner.room.tasks())
            .field("bytes", &self.inner.room.bytes())
            .field("waiting", &self.inner.queue.waiting())
            .field("closed", &self.closed)
            .finish_non_exhaustive()
    }
}

/// Makes a [`MemoryStore`].
#[derive(Clone, Debug)]
#[must_use]
pub struct MemoryStoreBuilder {
    clock: Arc<dyn Clock>,
    max_tasks: usize,
    max_bytes: usize,
}

impl MemoryStoreBuilder {
    /// How many tasks are kept by default, ended ones included: a few minutes' worth to look at on a busy server, in about
    /// 100 MB with small bodies.
    pub const MAX_TASKS: usize = 100_000;

    /// How many bytes of requests, responses, logs and keys are kept by default.
    pub const MAX_BYTES: usize = 512 * 1024 * 1024;

    /// Reads the time from `clock` instead of the computer's.
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    /// How many tasks are kept, ended ones included: [`MAX_TASKS`](Self::MAX_TASKS) unless said otherwise.
    pub const fn max_tasks(mut self, tasks: usize) -> Self {
        self.max_tasks = tasks;
        self
    }

    /// How many bytes of requests, responses, logs and keys are kept: [`MAX_BYTES`](Self::MAX_BYTES) unless said
    /// otherwise.
    ///
    /// Looked at when a task is inserted. Responses and logs of running tasks are always taken, and may exceed the bound
    /// until the next insert makes up for it.
    pub const fn max_bytes(mut self, bytes: usize) -> Self {
        self.max_bytes = bytes;
        self
    }

    /// The store, empty.
    #[must_use]
    pub fn build(self) -> MemoryStore {
        let inner = Inner {
            shards: std::array::from_fn(|_| Shard::default()),
            queue: Queue::default(),
            outbox: Outbox::default(),
            names: Mutex::default(),
            room: Room::new(self.max_tasks, self.max_bytes),
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

/// Many more than the cores of a large machine that could be inside one at the same moment: a shard is held for about
/// 100 ns. More would only make lists and rescues longer.
const SHARDS: usize = 32;

struct Inner {
    shards: [Shard; SHARDS],
    queue: Queue,
    outbox: Outbox,
    names: Mutex<Names>,
    room: Room,
    clock: Arc<dyn Clock>,
}

impl TaskStore for MemoryStore {
    fn abilities(&self) -> Abilities {
        Abilities::new(Durability::Process, Sharing::Shared, true)
    }

    fn queue_hint(&self, tenant: Option<&Tenant>) -> QueueHint {
        QueueHint {
            queued: Some(self.inner.queue.waiting()),
            tenant_queued: tenant.map(|_| self.inner.queue.lock().waiting_of(tenant)),
        }
    }

    fn insert(&self, insert: Insert) -> BoxFuture<'_, StoreResult<Inserted>> {
        ready(self.open().map(|()| self.insert_now(&insert)))
    }

    fn claim(&self, claim: Claim) -> BoxFuture<'_, StoreResult<Claimed>> {
        ready(self.open().map(|()| self.claim_now(&claim)))
    }

    fn renew(&self, leases: Vec<LeaseRef>, lease: Duration) -> BoxFuture<'_, StoreResult<Vec<Renewal>>> {
        ready(self.open().map(|()| {
            let renewals = leases.into_iter().map(|held| self.renew_now(held, lease));
            renewals.collect()
        }))
    }

    fn settle(&self, settlement: Settlement) -> BoxFuture<'_, StoreResult<Settled>> {
        ready(
            self.open()
                .map(|()| self.settle_now(settlement).unwrap_or_else(Settled::from)),
        )
    }

    fn rescue(&self, limit: usize) -> BoxFuture<'_, StoreResult<Rescued>> {
        ready(self.open().map(|()| self.rescue_now(limit)))
    }

    fn stop<'a>(&'a self, scope: &'a Scope, id: RequestId) -> BoxFuture<'a, StoreResult<Stop>> {
        ready(self.stop_now(scope, id))
    }

    fn rerun<'a>(&'a self, scope: &'a Scope, id: RequestId, edits: Edits) -> BoxFuture<'a, StoreResult<Rerun>> {
        ready(self.rerun_now(scope, id, edits))
    }

    fn delete<'a>(&'a self, scope: &'a Scope, id: RequestId) -> BoxFuture<'a, StoreResult<Delete>> {
        ready(self.delete_now(scope, id))
    }

    fn find<'a>(&'a self, scope: &'a Scope, task: &'a TaskRef) -> BoxFuture<'a, StoreResult<Option<Arc<TaskRecord>>>> {
        ready(self.find_now(scope, task))
    }

    fn list<'a>(
        &'a self,
        scope: &'a Scope,
        filter: &'a Filter,
        page: Page,
    ) -> BoxFuture<'a, StoreResult<PageOf<Arc<TaskRecord>>>> {
        ready(self.open().map(|()| self.page(scope, filter, &page)))
    }

    fn count<'a>(&'a self, scope: &'a Scope, filter: &'a Filter, cap: u64) -> BoxFuture<'a, StoreResult<u64>> {
        ready(self.open().map(|()| self.count_up_to(scope, filter, cap)))
    }

    fn counts<'a>(&'a self, scope: &'a Scope) -> BoxFuture<'a, StoreResult<Counts>> {
        ready(self.open().map(|()| {
            let mut counts = self.count_states(scope);
            let (oldest, now) = (self.inner.queue.lock().oldest(scope), self.now());
            counts.oldest_queued = oldest.filter(|run_at| *run_at <= now).map(|run_at| now.since(run_at));
            counts
        }))
    }

    fn input<'a>(
        &'a self,
        scope: &'a Scope,
        id: RequestId,
    ) -> BoxFuture<'a, StoreResult<Option<Arc<CapturedRequest>>>> {
        ready(self.open().map(|()| {
            let tasks = self.tasks(id);
            tasks.seen_by(scope, id).map(|kept| kept.input.clone())
        }))
    }

    fn output<'a>(
        &'a self,
        scope: &'a Scope,
        id: RequestId,
    ) -> BoxFuture<'a, StoreResult<Option<Arc<CapturedResponse>>>> {
        ready(self.open().map(|()| {
            let tasks = self.tasks(id);
            tasks.seen_by(scope, id).and_then(|kept| kept.output.clone())
        }))
    }

    fn set_progress(&self, lease: LeaseRef, progress: Progress) -> BoxFuture<'_, StoreResult<bool>> {
        ready(self.open().map(|()| {
            let mut tasks = self.tasks(lease.id);
            let held = tasks
                .get_mut(lease.id)
                .filter(|kept| kept.record.is_held_by(lease.token));
            // No index knows of the progress.
            held.map(|kept| Arc::make_mut(&mut kept.record).progress = Some(progress))
                .is_some()
        }))
    }

    fn append_log(&self, lease: LeaseRef, lines: Vec<LogLine>) -> BoxFuture<'_, StoreResult<bool>> {
        ready(self.open().map(|()| {
            let now = self.now();
            let mut tasks = self.tasks(lease.id);
            let held = tasks
                .get_mut(lease.id)
                .filter(|kept| kept.record.is_held_by(lease.token));
            let Some(kept) = held else { return false };
            let logs = kept.logs.get_or_insert_default();
            let before = logs.weight();
            logs.append(&kept.record, lines, now);
            let more = logs.weight() - before;
            kept.weight += more;
            self.inner.room.grow(more);
            true
        }))
    }

    fn logs<'a>(
        &'a self,
        scope: &'a Scope,
        id: RequestId,
        query: LogQuery,
    ) -> BoxFuture<'a, StoreResult<Vec<LogLine>>> {
        ready(self.open().and_then(|()| {
            let tasks = self.tasks(id);
            let kept = tasks.seen_by(scope, id).ok_or_else(StoreError::not_found)?;
            Ok(kept.logs.as_ref().map_or_else(Vec::new, |logs| logs.query(query)))
        }))
    }

    fn claim_deliveries(&self, claim: DeliveryClaim) -> BoxFuture<'_, StoreResult<Vec<ClaimedDelivery>>> {
        ready(self.open().map(|()| self.claim_deliveries_now(&claim)))
    }

    fn settle_delivery(&self, settlement: DeliverySettlement) -> BoxFuture<'_, StoreResult<bool>> {
        ready(self.open().map(|()| self.settle_delivery_now(settlement)))
    }

    fn prune(&self, retention: Retention, limit: usize) -> BoxFuture<'_, StoreResult<Pruned>> {
        ready(self.open().map(|()| self.prune_now(retention, limit)))
    }

    fn wait_for_work(&self) -> BoxFuture<'_, ()> {
        Box::pin(self.inner.queue.work())
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        self.closed.store(true, Ordering::Release);
        self.inner.queue.notify();
        ready(())
    }
}

/// The operations themselves, done when called.
impl MemoryStore {
    fn insert_now(&self, insert: &Insert) -> Inserted {
        let task = &insert.task;
        let own_weight = task.input.weight();
        let weight = own_weight + Names::weight(task);
        loop {
            if let Some(inserted) = self.try_insert(insert, own_weight, weight) {
                return inserted;
            }
            // No lock is held here. Another insert may take the room that is made: then this one makes more.
            if !self.inner.room.could_hold(weight) || !self.drop_oldest_ended() {
                return Inserted::Full(FullReason::Storage);
            }
        }
    }

    /// `None` if there is no room in the store.
    fn try_insert(&self, insert: &Insert, own_weight: usize, weight: usize) -> Option<Inserted> {
        let task = &insert.task;
        let now = self.now();
        // Held to the end: between the look-up and the insert nobody else may take the name.
        let mut names = Names::concern(task).then(|| self.names());
        if let Some(names) = &names {
            if let Some(known) = self.known(task.id, KnownBy::Id, None, task.digest) {
                return Some(known);
            }
            match names.look_up(task, now) {
                Lookup::Unknown => {}
                Lookup::Conflict => return Some(Inserted::Conflict),
                Lookup::Known(id, by, digest) => {
                    let gone = Inserted::Known {
                        task: None,
                        id,
                        by,
                        same_request: is_same(digest, task.digest),
                    };
                    return Some(self.known(id, by, digest, task.digest).unwrap_or(gone));
                }
            }
        }

        let mut record = TaskRecord::accepted(task, now);
        if let Some(born) = &insert.born {
            let claimed = record.claim(&born.worker, born.lease, now);
            debug_assert!(claimed.is_ok(), "a new task is waiting, and what waits can be claimed");
        }
        let place = Place::of(&record);
        let record = Arc::new(record);
        let kept = Kept {
            record: record.clone(),
            input: task.input.clone(),
            output: None,
            digest: task.digest,
            logs: None,
            weight: own_weight,
        };

        let mut tasks = self.tasks(task.id);
        if let Some(kept) = tasks.get(task.id) {
            return Some(Inserted::Known {
                task: Some(kept.record.clone()),
                id: task.id,
                by: KnownBy::Id,
                same_request: is_same(kept.digest, task.digest),
            });
        }
        if let Some(place) = place {
            let mut queue = self.inner.queue.lock();
            if let Some(full) = queue.full(task.tenant.as_ref(), insert.limits) {
                return Some(Inserted::Full(full));
            }
            if !self.inner.room.reserve(weight) {
                return None;
            }
            queue.push(task.id, task.tenant.as_ref(), place);
        } else if !self.inner.room.reserve(weight) {
            return None;
        }
        tasks.add(kept);
        drop(tasks);
        if let Some(names) = &mut names {
            self.inner.room.shrink(names.note(task, now));
        }
        drop(names);
        if place.is_some() {
            self.inner.queue.notify();
        }
        Some(Inserted::New(record))
    }

    /// What to answer for a task that is known, if it is there. `digest` is that of the key it is known by.
    fn known(
        &self,
        id: RequestId,
        by: KnownBy,
        digest: Option<RequestDigest>,
        given: Option<RequestDigest>,
    ) -> Option<Inserted> {
        let tasks = self.tasks(id);
        let kept = tasks.get(id)?;
        Some(Inserted::Known {
            task: Some(kept.record.clone()),
            id,
            by,
            same_request: is_same(digest.or(kept.digest), given),
        })
    }

    fn claim_now(&self, claim: &Claim) -> Claimed {
        let now = self.now();
        let mut claimed = Claimed::default();
        loop {
            let more = claim.max - claimed.tasks.len();
            let candidates = self.inner.queue.lock().take(&claim.worker, more, now);
            if candidates.is_empty() {
                break;
            }
            let tasks = candidates
                .into_iter()
                .filter_map(|found| self.claim_one(claim, found, now));
            claimed.tasks.extend(tasks);
        }
        claimed.next_due = self.inner.queue.lock().next_due(&claim.worker, now);
        claimed
    }

    fn claim_one(&self, claim: &Claim, found: Candidate, now: Timestamp) -> Option<ClaimedTask> {
        let mut tasks = self.tasks(found.id);
        let runnable = tasks
            .get(found.id)
            .filter(|kept| kept.record.is_runnable(now))
            .is_some();
        let change = runnable.then(|| {
            tasks.change(found.id, &self.around(found.id), |record| {
                record.claim(&claim.worker, claim.lease, now)
            })
        });
        match change.flatten() {
            Some(change) if change.answer.is_ok() => {
                let kept = tasks.get(found.id)?;
                Some(ClaimedTask {
                    record: kept.record.clone(),
                    input: kept.input.clone(),
                })
            }
            // Stopped, expired or deleted since it was found.
            _ => {
                if found.suspect {
                    self.inner.queue.lock().free_suspect(&claim.worker, found.id);
                }
                None
            }
        }
    }

    fn renew_now(&self, held: LeaseRef, lease: Duration) -> Renewal {
        let now = self.now();
        let mut tasks = self.tasks(held.id);
        match tasks.get_mut(held.id) {
            // No index knows of the lease: rescue asks the records.
            Some(kept) if kept.record.is_held_by(held.token) => {
                Arc::make_mut(&mut kept.record).renew(held.token, lease, now)
            }
            _ => Renewal::Lost,
        }
    }

    fn settle_now(&self, settlement: Settlement) -> Result<Settled, Fenced> {
        let LeaseRef { id, token } = settlement.lease;
        let mut tasks = self.tasks(id);
        if !tasks.get(id).is_some_and(|kept| kept.record.is_held_by(token)) {
            return Err(Fenced);
        }
        let now = self.now();
        let outcome = settlement.outcome;
        let change = tasks.change(id, &self.around(id), |record| record.settle(token, &outcome, now));
        let change = change.ok_or(Fenced)?;
        let state = change.answer?;
        if let Some(output) = outcome.output_for(state)
            && let Some(kept) = tasks.get_mut(id)
        {
            let more = output.weight();
            kept.weight += more;
            kept.output = Some(output);
            self.inner.room.grow(more);
        }
        drop(tasks);
        self.notify_if(change.work);
        Ok(Settled::Accepted {
            state,
            outbox: change.completion,
        })
    }

    fn rescue_now(&self, limit: usize) -> Rescued {
        let now = self.now();
        let mut due = self.inner.queue.lock().over_age(limit, now);
        for shard in &self.inner.shards {
            let room = limit - due.len();
            if room == 0 {
                break;
            }
            due.extend(shard.lock().lapsed(now).take(room));
        }
        let mut rescued = Rescued::default();
        let mut work = false;
        for id in due {
            let mut tasks = self.tasks(id);
            let change = tasks.change(id, &self.around(id), |record| record.rescue(now));
            let Some(change) = change else { continue };
            if change.answer != Rescue::NotDue {
                rescued.tasks.push((id, change.answer));
            }
            rescued.outbox |= change.completion;
            work |= change.work;
        }
        self.notify_if(work);
        rescued
    }

    fn stop_now(&self, scope: &Scope, id: RequestId) -> StoreResult<Stop> {
        self.open()?;
        let now = self.now();
        let mut tasks = self.tasks(id);
        tasks.seen_by(scope, id).ok_or_else(StoreError::not_found)?;
        let change = tasks.change(id, &self.around(id), |record| record.stop(now));
        change.map(|change| change.answer).ok_or_else(StoreError::not_found)
    }

    fn rerun_now(&self, scope: &Scope, id: RequestId, edits: Edits) -> StoreResult<Rerun> {
        self.open()?;
        let now = self.now();
        let mut tasks = self.tasks(id);
        let kept = tasks.seen_by(scope, id).ok_or_else(StoreError::not_found)?;
        let input = match edits.is_empty() {
            true => kept.input.clone(),
            false => Arc::new(edits.apply(&kept.input)),
        };
        let change = tasks.change(id, &self.around(id), |record| record.rerun(&input, now));
        let change = change.ok_or_else(StoreError::not_found)?;
        if let (Rerun::Enqueued { .. }, Some(kept)) = (change.answer, tasks.get_mut(id)) {
            let before = kept.weight;
            kept.input = input;
            kept.output = None;
            kept.weight = kept.weigh();
            self.inner.room.grow(kept.weight);
            self.inner.room.shrink(before);
        }
        drop(tasks);
        self.notify_if(change.work);
        Ok(change.answer)
    }

    fn delete_now(&self, scope: &Scope, id: RequestId) -> StoreResult<Delete> {
        self.open()?;
        // Before its shard, as everywhere: the name goes with the task.
        let mut names = self.names();
        let mut tasks = self.tasks(id);
        let kept = tasks.seen_by(scope, id).ok_or_else(StoreError::not_found)?;
        let state = kept.record.state;
        if !state.is_terminal() {
            return Ok(Delete::NotEnded(state));
        }
        if let Some(name) = kept.record.name.clone() {
            names.forget(name, kept.record.tenant.clone(), id);
        }
        let removed = tasks.remove(id, &self.around(id));
        drop((tasks, names));
        drop(removed);
        Ok(Delete::Deleted)
    }

    fn find_now(&self, scope: &Scope, task: &TaskRef) -> StoreResult<Option<Arc<TaskRecord>>> {
        self.open()?;
        let id = match task {
            TaskRef::Id(id) => *id,
            TaskRef::Name(name) => match self.names().named(scope, name)[..] {
                [] => return Ok(None),
                [id] => id,
                _ => return Err(ambiguous(name)),
            },
        };
        Ok(self.tasks(id).seen_by(scope, id).map(|kept| kept.record.clone()))
    }

    fn claim_deliveries_now(&self, claim: &DeliveryClaim) -> Vec<ClaimedDelivery> {
        let now = self.now();
        let mut claimed = Vec::new();
        loop {
            let more = claim.max - claimed.len();
            let due = self.inner.outbox.take(&claim.destinations, more, now);
            if due.is_empty() {
                return claimed;
            }
            for (destination, (_, id, generation)) in due {
                let mut tasks = self.tasks(id);
                let change = tasks.change(id, &self.around(id), |record| {
                    let mut deliveries = record.deliveries.iter_mut();
                    let delivery = deliveries.find(|d| d.generation == generation && d.destination == destination)?;
                    let claim = delivery.claim(claim.lease, now)?;
                    Some((claim, delivery.clone()))
                });
                let (Some(change), Some(kept)) = (change, tasks.get(id)) else {
                    continue;
                };
                claimed.extend(change.answer.map(|(claim, delivery)| ClaimedDelivery {
                    claim,
                    delivery,
                    record: kept.record.clone(),
                }));
            }
        }
    }

    fn settle_delivery_now(&self, settlement: DeliverySettlement) -> bool {
        let now = self.now();
        let claim = settlement.claim;
        let mut tasks = self.tasks(claim.id);
        let change = tasks.change(claim.id, &self.around(claim.id), |record| {
            let mut deliveries = record.deliveries.iter_mut();
            let of = deliveries.find(|d| d.generation == claim.generation && d.destination == claim.destination);
            of.is_some_and(|delivery| {
                let settled = delivery.settle(claim.token, &settlement.outcome, settlement.tried, now);
                settled.is_ok()
            })
        });
        change.is_some_and(|change| change.answer)
    }

    fn prune_now(&self, retention: Retention, limit: usize) -> Pruned {
        let now = self.now();
        let mut pruned = Pruned::default();
        for shard in &self.inner.shards {
            let mut due = Vec::new();
            {
                let tasks = shard.lock();
                for (ended, keep) in [
                    (&tasks.succeeded, retention.succeeded),
                    (&tasks.others, retention.others),
                ] {
                    let room = limit - pruned.tasks - due.len();
                    let past = ended
                        .iter()
                        .take(room)
                        .take_while(|(at, _)| at.saturating_add(keep) <= now);
                    due.extend(past.map(|(_, id)| id));
                }
            }
            let past = |kept: &Kept| {
                let keep = retention.of(kept.record.state);
                kept.record.ended_at.is_some_and(|at| at.saturating_add(keep) <= now)
            };
            pruned.tasks += due.into_iter().filter(|id| self.remove_ended(*id, past)).count();
        }
        let (keys, weight) = self.names().prune(limit, now);
        self.inner.room.shrink(weight);
        pruned.keys = keys;
        pruned
    }

    /// Drops the task that ended first of those that nothing is left to be done about. False if there is none.
    fn drop_oldest_ended(&self) -> bool {
        while let Some(shard) = self.inner.room.oldest() {
            let oldest = self.inner.shards[shard].lock().oldest_ended();
            if oldest.is_some_and(|id| self.remove_ended(id, |_| true)) {
                return true;
            }
            // Somebody else removed it: look again.
        }
        false
    }

    /// Removes a task that has ended, that no delivery is pending of, and that `also` holds for.
    fn remove_ended(&self, id: RequestId, also: impl Fn(&Kept) -> bool) -> bool {
        let fits = |kept: &Kept| {
            let pending = |status| status == DeliveryStatus::Pending;
            kept.record.state.is_terminal() && !kept.record.deliveries.iter().any(|d| pending(d.status)) && also(kept)
        };
        let (name, tenant) = {
            let mut tasks = self.tasks(id);
            let Some(kept) = tasks.get(id).filter(|kept| fits(kept)) else {
                return false;
            };
            let Some(name) = kept.record.name.clone() else {
                let removed = tasks.remove(id, &self.around(id));
                drop(tasks);
                drop(removed);
                return true;
            };
            (name, kept.record.tenant.clone())
        };
        // It has a name, and names come before shards: let go, take both, look again.
        let mut names = self.names();
        let mut tasks = self.tasks(id);
        if !tasks.get(id).is_some_and(fits) {
            return false;
        }
        let removed = tasks.remove(id, &self.around(id));
        drop(tasks);
        names.forget(name, tenant, id);
        drop((names, removed));
        true
    }

    fn open(&self) -> StoreResult<()> {
        match self.closed.load(Ordering::Acquire) {
            true => Err(StoreError::closed()),
            false => Ok(()),
        }
    }

    fn now(&self) -> Timestamp {
        self.inner.clock.now()
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
            room: &self.inner.room,
        }
    }

    fn notify_if(&self, work: bool) {
        if work {
            self.inner.queue.notify();
        }
    }
}

fn ready<'a, T: Send + 'a>(answer: T) -> BoxFuture<'a, T> {
    Box::pin(std::future::ready(answer))
}

/// Whether two requests are the same, as far as is known.
fn is_same(known: Option<RequestDigest>, given: Option<RequestDigest>) -> bool {
    known.is_some() && known == given
}

fn ambiguous(name: &TaskName) -> StoreError {
    let context = format!("several tenants have a task called {name}");
    StoreError::new(StoreErrorKind::Conflict, context)
}
