//! What goes into the operations of a store, and what comes out.

use std::{sync::Arc, time::Duration};

use super::{Answers, Columns, Row, StoreResult};
pub use crate::task::{envelope::Payload, lifecycle::Renewal};
use crate::{
    task::{
        Destination, FenceToken, IdempotencyKey, PoolName, RequestDigest, RequestId, TaskName, TaskRecord, TaskRef,
        TaskState, Tenant, WorkerId,
    },
    time::Timestamp,
};

/// What a store can do and promises. Asking for what it lacks is refused with
/// [`StoreErrorKind::Unsupported`](crate::store::StoreErrorKind::Unsupported), never skipped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Abilities {
    /// What an accepted task survives.
    pub durability: Durability,
    /// How many processes may use it at once.
    pub sharing: Sharing,
    /// Whether [`news`](crate::store::TaskStore::news) hears of what other processes do. Where it does not, the engine looks
    /// every second, and streams of all tasks say now and then that something was missed.
    pub notifies: bool,
}

impl Abilities {
    /// A store that survives this much and is shared so.
    #[must_use]
    pub const fn new(durability: Durability, sharing: Sharing, notifies: bool) -> Self {
        Self {
            durability,
            sharing,
            notifies,
        }
    }
}

/// What an accepted task survives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Durability {
    /// A panic in a handler; not the end of the process.
    Process,
    /// The end of the processes and of the server's; a power cut may take the last seconds.
    Restart,
    /// The end of the process and of the machine's power; not the loss of its disk.
    Host,
    /// The loss of a machine.
    Cluster,
}

/// How many processes may use a store at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Sharing {
    /// One: another is refused when it opens the store.
    Exclusive,
    /// Any number.
    Shared,
}

/// How full the queue is, where the store knows without waiting.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct QueueHint {
    /// Tasks that wait.
    pub queued: Option<u64>,
    /// Tasks of the tenant asked for that wait.
    pub tenant_queued: Option<u64>,
    /// Tasks of the pool asked for that wait.
    pub pool_queued: Option<u64>,
    /// The store has failed for good: it takes nothing in until it is opened anew.
    pub failed: bool,
    /// Completions that wait may have more of the store's room than their share: it may have rows for
    /// [`Due::Crowded`]. Never of a store without a bound.
    pub crowded: bool,
}

/// A task to store.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct NewRow {
    /// Its record, as [`TaskRecord::accepted`] makes it; where the task is born claimed, it may be claimed or not.
    pub record: Arc<TaskRecord>,
    /// The request.
    pub request: Payload,
    /// After how long it may run.
    pub delay: Duration,
    /// The client's key for it, unique per tenant and caller of the record, and how long it is remembered from now on, even
    /// after the task is gone. Kept with the record's digest.
    pub key: Option<(IdempotencyKey, Duration)>,
    /// How many tasks may wait. A task that is born claimed does not wait and is not counted.
    pub limits: Limits,
    /// Store it already claimed.
    pub born: Option<BornClaimed>,
}

impl NewRow {
    /// A task that may run at once, however full the queue is.
    #[must_use]
    pub const fn new(record: Arc<TaskRecord>, request: Payload) -> Self {
        Self {
            record,
            request,
            delay: Duration::ZERO,
            key: None,
            limits: Limits::UNLIMITED,
            born: None,
        }
    }

    /// The row of it, stored now. `floor` is as for [`Row::claim`].
    #[must_use]
    pub fn row(&self, floor: FenceToken, now: Timestamp) -> Row {
        let mut columns = Columns::of(&self.record);
        columns.created_at = now;
        columns.run_at = now.saturating_add(self.delay);
        columns.expires_at = columns.run_at.saturating_add(self.record.max_age);
        let mut row = Row {
            id: self.record.id,
            version: Row::FIRST_VERSION,
            columns,
            outbox: Vec::new(),
            record: self.record.clone(),
        };
        if let Some(born) = &self.born {
            match row.columns.is_held() {
                // The record knows of it, which saves making it up.
                true => {
                    row.columns.started_at = Some(now);
                    row.columns.lease_until = Some(now.saturating_add(born.lease));
                    row.columns.token = row.columns.token.max(floor.next());
                }
                false => row.claim(born.worker.clone(), born.lease, floor, now),
            }
        }
        row
    }
}

/// Who a task is born claimed by.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct BornClaimed {
    /// The worker.
    pub worker: WorkerId,
    /// How long its claim holds.
    pub lease: Duration,
}

impl BornClaimed {
    /// By `worker`, for `lease`.
    #[must_use]
    pub const fn new(worker: WorkerId, lease: Duration) -> Self {
        Self { worker, lease }
    }
}

/// How many tasks may wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// Of all tenants together.
    pub queued: u64,
    /// Of the task's own tenant, if it has one.
    pub per_tenant: u64,
    /// Of the task's own pool: so that one which is paused or slow does not fill the queue.
    pub per_pool: u64,
}

impl Limits {
    /// Any number.
    pub const UNLIMITED: Self = Self {
        queued: u64::MAX,
        per_tenant: u64::MAX,
        per_pool: u64::MAX,
    };
}

/// What an insert did.
#[derive(Clone, Debug)]
#[must_use]
pub enum Insertion {
    /// The task is stored, as this.
    New(Row),
    /// Nothing was stored: there is a task of this id, name or key. A name is looked at before a key.
    Known {
        /// That task. `None` if it is gone and only its key is remembered.
        row: Option<Row>,
        /// The request id of that task.
        id: RequestId,
        /// How it is known.
        by: KnownBy,
        /// What the key is remembered with, where it is known by its key.
        digest: Option<RequestDigest>,
    },
    /// Nothing was stored: the name and the key are known, as two different tasks.
    Conflict,
    /// Nothing was stored: there is no room.
    Full(FullReason),
}

/// What a task was known by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum KnownBy {
    /// Its request id: this very insert was done before, and its answer was lost.
    Id,
    /// The client's name.
    Name,
    /// The client's key.
    Key,
}

/// Which bound was reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FullReason {
    /// [`Limits::queued`].
    Queue,
    /// [`Limits::per_tenant`].
    Tenant,
    /// [`Limits::per_pool`].
    Pool,
    /// The store's own.
    Storage,
}

/// A worker asking for tasks.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Claim {
    /// Who asks.
    pub worker: WorkerId,
    /// How many at most.
    pub max: usize,
    /// How long the claims hold.
    pub lease: Duration,
    /// How many at most of these pools.
    pub pools: Vec<PoolClaim>,
    /// How many at most of all other pools together: a pool that no process names any more strands nothing.
    pub others: usize,
}

impl Claim {
    /// Up to `max` tasks, whatever pool they are in.
    #[must_use]
    pub const fn new(worker: WorkerId, max: usize, lease: Duration) -> Self {
        Self {
            worker,
            max,
            lease,
            pools: Vec::new(),
            others: usize::MAX,
        }
    }
}

/// How many tasks of one pool a worker asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PoolClaim {
    /// The pool.
    pub pool: PoolName,
    /// How many at most.
    pub max: usize,
    /// How many a tenant may hold, with those that it holds already: a task of one that has as many is passed over, and the
    /// claim looks on for up to 1,000 tasks behind it.
    pub per_tenant: Option<usize>,
    /// How many this worker's tenants hold already, those that hold any.
    pub held: Vec<(Tenant, usize)>,
}

impl PoolClaim {
    /// Up to `max` tasks of a pool, whoever's they are.
    #[must_use]
    pub const fn new(pool: PoolName, max: usize) -> Self {
        Self {
            pool,
            max,
            per_tenant: None,
            held: Vec::new(),
        }
    }
}

/// What a claim found.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct Claims {
    /// The tasks, oldest `run_at` first.
    pub tasks: Vec<ClaimedRow>,
    /// How long until the next waiting task is due, if one is known: zero if more could have been claimed. A suspect
    /// that must wait for another suspect of this worker does not count, nor does a task that this claim may not take.
    pub next_due: Option<Duration>,
    /// Whether a task that could run was passed over, since its tenant has as many as it may.
    pub passed_over: bool,
    /// The version of the [named values](crate::store::Controls::version), so that who claims knows when to read them.
    pub control: u64,
}

/// A claimed task.
#[derive(Debug)]
#[non_exhaustive]
pub struct ClaimedRow {
    /// Its row, claimed.
    pub row: Row,
    /// Its request, or why it cannot be read.
    pub request: StoreResult<Payload>,
}

impl ClaimedRow {
    /// This row, and its request or why that cannot be read.
    #[must_use]
    pub const fn new(row: Row, request: StoreResult<Payload>) -> Self {
        Self { row, request }
    }
}

/// Which rows to read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Which {
    /// Of this id.
    Id(RequestId),
    /// Of this name: in a scope of several tenants there may be several.
    Name(TaskName),
    /// Held by this worker.
    HeldBy(WorkerId),
}

impl From<&TaskRef> for Which {
    fn from(task: &TaskRef) -> Self {
        match task {
            TaskRef::Id(id) => Self::Id(*id),
            TaskRef::Name(name) => Self::Name(name.clone()),
        }
    }
}

/// What may be due by the store's clock.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Due {
    /// Tasks whose lease or age ran out, and what was held by a process that is known to be dead.
    Rescue {
        /// Pools whose tasks do not expire now: they are paused.
        spared: Vec<PoolName>,
    },
    /// Tasks that are past retention, counted from [`Columns::rests_at`].
    Prune(Retention),
    /// Tasks with a completion that has been due for so long and was taken by nobody, unless it is for one of `spared`.
    GiveUp {
        /// Destinations whose completions are none of them.
        spared: Vec<Destination>,
        /// For how long they have been due.
        overdue: Duration,
    },
    /// Ended tasks that wait for somebody who does not answer, as far as they have more of the store's room than it
    /// leaves them. They cannot make room for others until their completions are given up.
    Crowded(Answers),
}

/// A row that is due, and why.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Candidate {
    /// The row.
    pub row: Row,
    /// The reason.
    pub why: Why,
}

impl Candidate {
    /// This row, for this reason.
    #[must_use]
    pub const fn new(row: Row, why: Why) -> Self {
        Self { row, why }
    }
}

/// Why a row is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Why {
    /// Its lease ran out.
    Lapsed,
    /// Who held it, or one of its completions, is known to be dead, whatever the lease says: an exclusive store that is
    /// opened finds those of the process before. It is a candidate until a change of it was committed.
    Orphaned,
    /// It waited too long.
    OverAge,
    /// It is past retention.
    Retired,
    /// A completion of it has been due for too long.
    Overdue,
    /// Those who wait for somebody that does not answer have too much of the room, all together.
    Crowded,
    /// Those who wait for the host that its client named have.
    CrowdedHost,
}

/// Rows that are due, as of the store's now.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Candidates {
    /// The store's time.
    pub now: Timestamp,
    /// The rows.
    pub rows: Vec<Candidate>,
}

impl Candidates {
    /// These rows, as of `now`.
    #[must_use]
    pub const fn new(now: Timestamp, rows: Vec<Candidate>) -> Self {
        Self { now, rows }
    }
}

/// Which of a task's payloads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Part {
    /// The request.
    Request,
    /// The response.
    Response,
}

/// Which lines of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LogQuery {
    /// Only of this attempt.
    pub attempt: Option<u32>,
    /// Only lines with a greater number.
    pub after: u64,
    /// How many at most.
    pub limit: usize,
}

impl LogQuery {
    /// Only of this attempt.
    #[must_use]
    pub const fn attempt(mut self, attempt: u32) -> Self {
        self.attempt = Some(attempt);
        self
    }

    /// Only lines with a greater number.
    #[must_use]
    pub const fn after(mut self, line: u64) -> Self {
        self.after = line;
        self
    }

    /// At most so many.
    #[must_use]
    pub const fn limit(mut self, lines: usize) -> Self {
        self.limit = lines;
        self
    }

    /// How many bytes of log are kept per attempt: a log to read, not to mine.
    pub const BYTES_KEPT: usize = 1024 * 1024;
    /// How many lines of log are kept per attempt.
    pub const LINES_KEPT: usize = 10_000;
}

impl Default for LogQuery {
    fn default() -> Self {
        Self {
            attempt: None,
            after: 0,
            limit: 1000,
        }
    }
}

/// A process asking for completions to deliver.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct DeliveryClaim {
    /// The destinations it can deliver to, and how many completions it takes for each at most.
    pub from: Vec<(Destination, usize)>,
    /// How long the claims hold.
    pub lease: Duration,
}

impl DeliveryClaim {
    /// At most so many completions of each destination, for `lease`.
    #[must_use]
    pub const fn new(from: Vec<(Destination, usize)>, lease: Duration) -> Self {
        Self { from, lease }
    }
}

/// A claimed completion.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ClaimedOutbox {
    /// The task, its outbox as it is after the claim.
    pub row: Row,
    /// Which run-through of it.
    pub generation: u32,
    /// Where to.
    pub destination: Destination,
}

impl ClaimedOutbox {
    /// The completion of this run-through for this destination.
    #[must_use]
    pub const fn new(row: Row, generation: u32, destination: Destination) -> Self {
        Self {
            row,
            generation,
            destination,
        }
    }
}

/// How long ended tasks are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Retention {
    /// Those that succeeded.
    pub succeeded: Duration,
    /// All others.
    pub others: Duration,
}

impl Retention {
    /// So long for those that succeeded, so long for all others.
    #[must_use]
    pub const fn new(succeeded: Duration, others: Duration) -> Self {
        Self { succeeded, others }
    }

    /// How long a task that ended in `state` is kept.
    #[must_use]
    pub const fn of(&self, state: TaskState) -> Duration {
        match state {
            TaskState::Succeeded => self.succeeded,
            _ => self.others,
        }
    }
}
