//! The inputs and outputs of store operations.

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

/// What a store can do and promises. A store refuses a request for an ability that it lacks with
/// [`StoreErrorKind::Unsupported`](crate::store::StoreErrorKind::Unsupported); it never ignores the request.
///
/// # Examples
///
/// ```
/// use tower_respond_async::store::{Abilities, Durability, Sharing};
///
/// let file = Abilities::new(Durability::Host, Sharing::Exclusive, true);
/// assert!(file.durability > Durability::Process, "a task survives the end of the process");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Abilities {
    /// What an accepted task survives.
    pub durability: Durability,
    /// How many processes may use it at once.
    pub sharing: Sharing,
    /// Whether [`news`](crate::store::TaskStore::news) reports what other processes do. If not, the engine looks every
    /// second, and streams of all tasks say now and then that something was missed.
    pub notifies: bool,
}

impl Abilities {
    /// Abilities with these values.
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
///
/// See the example of [`Abilities`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Durability {
    /// A panic in a handler, not the end of the process.
    Process,
    /// The end of the process; a crash of the store's server or a power cut may lose the last moments.
    Restart,
    /// The end of the process and a power cut, not the loss of the disk.
    Host,
    /// The loss of a machine.
    Cluster,
}

/// How many processes may use a store at once.
///
/// See the example of [`Abilities`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Sharing {
    /// One. A second process is refused when it opens the store.
    Exclusive,
    /// Any number.
    Shared,
}

/// How full the queue is, as far as that is available without waiting.
///
/// # Examples
///
/// ```
/// use tower_respond_async::{MemoryStore, TaskStore, task::PoolName};
///
/// let hint = MemoryStore::new().queue_hint(None, Some(&PoolName::DEFAULT));
/// assert_eq!((hint.queued, hint.pool_queued), (Some(0), Some(0)));
/// assert_eq!(hint.tenant_queued, None, "no tenant was given");
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct QueueHint {
    /// The number of tasks that wait.
    pub queued: Option<u64>,
    /// The number of tasks of the given tenant that wait.
    pub tenant_queued: Option<u64>,
    /// The number of tasks of the given pool that wait.
    pub pool_queued: Option<u64>,
    /// The store has failed for good: it accepts nothing until it is opened again.
    pub failed: bool,
    /// Pending completions may use more than their share of the store's room, so that there may be rows for
    /// [`Due::Crowded`]. Always `false` for a store without a bound.
    pub crowded: bool,
}

/// A task to store.
///
/// # Examples
///
/// ```
/// use std::{sync::Arc, time::Duration};
///
/// # use bytes::Bytes;
/// # use http::{HeaderMap, Method, Uri};
/// use tower_respond_async::{
///     store::{Insertion, KnownBy, MemoryStore, NewRow, Part, TaskStore},
///     task::{NewTask, RequestId, Scope, TaskRecord},
/// };
/// # use tower_respond_async::task::CapturedRequest;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), tower_respond_async::store::StoreError> {
/// let store = Arc::new(MemoryStore::new());
/// # let request = CapturedRequest::new(Method::GET, Uri::from_static("/"), HeaderMap::new(), Bytes::new());
/// let task = NewTask::new(RequestId::from_bytes([7; 16]), Arc::new(request));
/// let record = Arc::new(TaskRecord::accepted(&task, store.now()));
/// let mut new = NewRow::new(record, task.request.to_payload());
/// new.delay = Duration::from_secs(60);
/// assert!(matches!(store.clone().insert(new.clone()).await?, Insertion::New(row) if row.version == 1));
///
/// // An insert is repeated if its answer was lost.
/// assert!(matches!(store.clone().insert(new).await?, Insertion::Known { by: KnownBy::Id, .. }));
/// assert!(store.payload(&Scope::All, task.id, Part::Request).await?.is_some());
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct NewRow {
    /// Its record, from [`TaskRecord::accepted`]. For a task that is stored claimed, the record may contain the claim or
    /// not.
    pub record: Arc<TaskRecord>,
    /// The request.
    pub request: Payload,
    /// How long it must wait before it may run.
    pub delay: Duration,
    /// The client's key, unique per tenant and caller of the record, and how long it is kept from now on, even after
    /// the task is gone. The store keeps it with the record's digest.
    pub key: Option<(IdempotencyKey, Duration)>,
    /// How many tasks may wait. A task that is stored claimed does not wait and is not counted.
    pub limits: Limits,
    /// Set to store the task already claimed.
    pub claim: Option<InitialClaim>,
}

impl NewRow {
    /// A task that may run at once, and that is stored however full the queue is.
    #[must_use]
    pub const fn new(record: Arc<TaskRecord>, request: Payload) -> Self {
        Self {
            record,
            request,
            delay: Duration::ZERO,
            key: None,
            limits: Limits::UNLIMITED,
            claim: None,
        }
    }

    /// The row of the task, stored at `now`. `floor` is as for [`Row::claim`].
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
        if let Some(claim) = &self.claim {
            match row.columns.is_held() {
                // The record contains the claim already, so it need not be restored.
                true => {
                    row.columns.started_at = Some(now);
                    row.columns.lease_until = Some(now.saturating_add(claim.lease));
                    row.columns.token = row.columns.token.max(floor.next());
                }
                false => row.claim(claim.worker.clone(), claim.lease, floor, now),
            }
        }
        row
    }
}

/// The claim with which a task is stored.
///
/// See the example of [`Insert`](crate::store::Insert), which makes one.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct InitialClaim {
    /// The worker that holds the task.
    pub worker: WorkerId,
    /// How long the claim holds.
    pub lease: Duration,
}

impl InitialClaim {
    /// A claim by `worker`, for `lease`.
    #[must_use]
    pub const fn new(worker: WorkerId, lease: Duration) -> Self {
        Self { worker, lease }
    }
}

/// How many tasks may wait.
///
/// See the example of [`Insert`](crate::store::Insert).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// In all, of any tenant.
    pub queued: u64,
    /// Of the task's own tenant, if it has one.
    pub per_tenant: u64,
    /// Of the task's own pool. Keeps a pool that is paused or slow from filling the queue.
    pub per_pool: u64,
}

impl Limits {
    /// No limit.
    pub const UNLIMITED: Self = Self {
        queued: u64::MAX,
        per_tenant: u64::MAX,
        per_pool: u64::MAX,
    };
}

/// The result of an insert.
///
/// See the example of [`NewRow`].
#[derive(Clone, Debug)]
#[must_use]
pub enum Insertion {
    /// The task was stored as this row.
    New(Row),
    /// Nothing was stored: a task has this id, name or key already. The name is checked before the key.
    Known {
        /// That task. `None` if it is gone and only its key is kept.
        row: Option<Row>,
        /// The request id of that task.
        id: RequestId,
        /// What it is known by.
        by: KnownBy,
        /// The digest that is kept with the key, if the task is known by its key.
        digest: Option<RequestDigest>,
    },
    /// Nothing was stored: the name and the key belong to two different tasks.
    Conflict,
    /// Nothing was stored: there is no room.
    Full(FullReason),
}

/// What a known task was found by.
///
/// See the example of [`NewRow`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum KnownBy {
    /// Its request id: the same insert was done before, and its answer was lost.
    Id,
    /// Its name.
    Name,
    /// Its key.
    Key,
}

/// The limit that was reached.
///
/// See the example of [`Insert`](crate::store::Insert).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FullReason {
    /// [`Limits::queued`].
    Queue,
    /// [`Limits::per_tenant`].
    Tenant,
    /// [`Limits::per_pool`].
    Pool,
    /// The store's own bound.
    Storage,
}

/// A worker's request for tasks.
///
/// # Examples
///
/// Two tasks of the pool `video` wait. A claim takes at most one of them, and at most four tasks of all other pools:
///
/// ```
/// use std::time::Duration;
///
/// # use bytes::Bytes;
/// # use http::{HeaderMap, Method, Uri};
/// use tower_respond_async::{
///     store::{Claim, MemoryStore, PoolClaim, TaskStore},
///     task::{PoolName, WorkerId},
/// };
/// # use tower_respond_async::{store::{Insert, Ledger}, task::{CapturedRequest, NewTask, RequestId}};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let store = MemoryStore::new();
/// # let request = CapturedRequest::new(Method::GET, Uri::from_static("/"), HeaderMap::new(), Bytes::new());
/// # for number in 1..=2 {
/// #     let mut task = NewTask::new(RequestId::from_bytes([number; 16]), request.clone().into());
/// #     task.pool = PoolName::new("video")?;
/// #     let _ = Ledger::of(store.clone()).insert(Insert::new(task)).await?;
/// # }
/// let mut claim = Claim::new(WorkerId::new("w", 1), 10, Duration::from_secs(30));
/// claim.pools = vec![PoolClaim::new(PoolName::new("video")?, 1)];
/// claim.others = 4;
/// let claims = store.claim(claim).await?;
/// assert_eq!(claims.tasks.len(), 1);
/// assert_eq!(claims.tasks[0].row.record.pool.as_str(), "video");
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Claim {
    /// The worker.
    pub worker: WorkerId,
    /// The maximum number of tasks.
    pub max: usize,
    /// How long the claims hold.
    pub lease: Duration,
    /// The maximum for each of these pools.
    pub pools: Vec<PoolClaim>,
    /// The maximum for all other pools together, so that tasks of a pool that no process names any more still run.
    pub others: usize,
}

impl Claim {
    /// Up to `max` tasks of any pool.
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

/// A worker's request for tasks of one pool.
///
/// See the example of [`Claim`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PoolClaim {
    /// The pool.
    pub pool: PoolName,
    /// The maximum number of tasks.
    pub max: usize,
    /// How many tasks a tenant may hold, including those in [`held`](Self::held). The claim passes over the tasks of a
    /// tenant that has reached this number, and looks ahead by up to 1,000 tasks.
    pub per_tenant: Option<usize>,
    /// How many tasks each tenant holds already through this worker. Tenants without any are left out.
    pub held: Vec<(Tenant, usize)>,
}

impl PoolClaim {
    /// Up to `max` tasks of a pool, of any tenant.
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

/// The result of a claim.
///
/// See the example of [`Claim`].
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct Claims {
    /// The tasks, oldest `run_at` first.
    pub tasks: Vec<ClaimedRow>,
    /// How long until the next waiting task is due, if one is known; zero if more could have been claimed. Ignores
    /// suspects that wait for another suspect of this worker, and tasks that this claim may not take.
    pub next_due: Option<Duration>,
    /// Whether a runnable task was passed over because its tenant has reached its limit.
    pub passed_over: bool,
    /// The version of the [named values](crate::store::Controls::version). If it is a new one, the worker reads the
    /// values.
    pub control: u64,
}

/// A claimed task.
///
/// See the example of [`Claim`].
#[derive(Debug)]
#[non_exhaustive]
pub struct ClaimedRow {
    /// The row, after the claim.
    pub row: Row,
    /// Its request, or why the request cannot be read.
    pub request: StoreResult<Payload>,
}

impl ClaimedRow {
    /// A row, and its request or why that cannot be read.
    #[must_use]
    pub const fn new(row: Row, request: StoreResult<Payload>) -> Self {
        Self { row, request }
    }
}

/// Which rows to read.
///
/// See the example of [`Change`](crate::store::Change).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Which {
    /// The row with this id.
    Id(RequestId),
    /// The rows with this name. A scope of several tenants may have several.
    Name(TaskName),
    /// The rows that this worker holds.
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

/// The rows to look for, of those that are due by the store's clock.
///
/// # Examples
///
/// A task waits:
///
/// ```
/// use std::time::Duration;
///
/// # use bytes::Bytes;
/// # use http::{HeaderMap, Method, Uri};
/// use tower_respond_async::{
///     store::{Claim, Due, DueReason, MemoryStore, TaskStore},
///     task::WorkerId,
/// };
/// # use tower_respond_async::{store::{Insert, Ledger}, task::{CapturedRequest, NewTask, RequestId}};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), tower_respond_async::store::StoreError> {
/// let store = MemoryStore::new();
/// # let request = CapturedRequest::new(Method::GET, Uri::from_static("/"), HeaderMap::new(), Bytes::new());
/// # let task = NewTask::new(RequestId::from_bytes([7; 16]), request.into());
/// # let _ = Ledger::of(store.clone()).insert(Insert::new(task)).await?;
/// // A lease of no time has run out at once.
/// let claims = store.claim(Claim::new(WorkerId::new("w", 1), 10, Duration::ZERO)).await?;
/// let due = store.due(Due::Rescue { spared: Vec::new() }, 100).await?;
/// assert_eq!(due.rows[0].row.id, claims.tasks[0].row.id);
/// assert_eq!(due.rows[0].reason, DueReason::Lapsed);
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Due {
    /// Tasks whose lease or age ran out, and tasks and completions held by a process that is known to be dead.
    Rescue {
        /// Pools whose tasks do not expire at the moment: they are paused.
        spared: Vec<PoolName>,
    },
    /// Tasks that are past retention, counted from [`Columns::rests_at`].
    Prune(Retention),
    /// Tasks with a completion that has been due for `overdue` without being claimed, and whose destination is not in
    /// `spared`.
    GiveUp {
        /// Destinations whose completions are left out.
        spared: Vec<Destination>,
        /// How long the completions have been due.
        overdue: Duration,
    },
    /// Ended tasks with completions for a destination or host that does not answer, as far as they use more than their
    /// share of the store's room. They are not removed to make room for other tasks until their completions are given
    /// up.
    Crowded(Answers),
}

/// A row that is due, and why.
///
/// See the example of [`Due`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Candidate {
    /// The row.
    pub row: Row,
    /// The reason.
    pub reason: DueReason,
}

impl Candidate {
    /// This row, for this reason.
    #[must_use]
    pub const fn new(row: Row, reason: DueReason) -> Self {
        Self { row, reason }
    }
}

/// Why a row is due.
///
/// See the example of [`Due`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DueReason {
    /// Its lease ran out.
    Lapsed,
    /// The process that held the task, or one of its completions, is known to be dead, whatever the lease says. An
    /// exclusive store finds these when it is opened, from the process before. The row is a candidate until a change of
    /// it is committed.
    Orphaned,
    /// It waited too long.
    OverAge,
    /// It is past retention.
    Retired,
    /// A completion of it has been due for too long.
    Overdue,
    /// All completions for destinations and hosts that do not answer use more than their share of the room.
    Crowded,
    /// The completions for the host of its callback use more than their share of the room.
    CrowdedHost,
}

/// Rows that are due at a time of the store.
///
/// See the example of [`Due`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Candidates {
    /// The time, by the store's clock.
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

/// One of the payloads of a task.
///
/// See the example of [`NewRow`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Part {
    /// The request.
    Request,
    /// The response.
    Response,
}

/// Which lines of a log to read.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
///
/// # use bytes::Bytes;
/// # use http::{HeaderMap, Method, Uri};
/// use tower_respond_async::{
///     store::{Insert, Inserted, Ledger, LogQuery, MemoryStore, TaskStore},
///     task::{LogLine, Scope, WorkerId},
/// };
/// # use tower_respond_async::task::{CapturedRequest, NewTask, RequestId};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), tower_respond_async::store::StoreError> {
/// let store = MemoryStore::new();
/// # let request = CapturedRequest::new(Method::GET, Uri::from_static("/"), HeaderMap::new(), Bytes::new());
/// # let task = NewTask::new(RequestId::from_bytes([7; 16]), request.into());
/// let claim = Insert::new(task).claimed_by(WorkerId::new("w", 1), Duration::from_secs(30));
/// let Inserted::New(record, Some(held)) = Ledger::of(store.clone()).insert(claim).await? else {
///     unreachable!("the store is empty")
/// };
/// let line = |message| LogLine::new(store.now(), "INFO", "app", message);
/// assert!(store.append_log(held.lease(), vec![line("one"), line("two")]).await?);
///
/// let query = LogQuery::default().attempt(1).after(1).limit(100);
/// let lines = store.logs(&Scope::All, record.id, query).await?;
/// assert_eq!(lines.len(), 1);
/// assert_eq!(&*lines[0].message, "two");
/// # Ok(()) }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LogQuery {
    /// Only lines of this attempt.
    pub attempt: Option<u32>,
    /// Only lines with a greater number.
    pub after: u64,
    /// The maximum number of lines.
    pub limit: usize,
}

impl LogQuery {
    /// Only lines of this attempt.
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

    /// At most this many lines.
    #[must_use]
    pub const fn limit(mut self, lines: usize) -> Self {
        self.limit = lines;
        self
    }

    /// How many bytes of log are kept per attempt: enough to read, not to collect data in.
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

/// A process's request for completions to deliver.
///
/// # Examples
///
/// A task has ended, and its completion for `audit` is due:
///
/// ```
/// use std::time::Duration;
///
/// # use bytes::Bytes;
/// # use http::{HeaderMap, Method, Uri};
/// use tower_respond_async::{
///     store::{DeliveryClaim, DeliverySettlement, Ledger, MemoryStore},
///     task::{DeliveryStatus, DeliveryTry, Destination, delivery::DeliveryOutcome},
/// };
/// # use tower_respond_async::{
/// #     store::Insert,
/// #     task::{CapturedRequest, Conditions, NewTask, RequestId, Scope, Subscription},
/// # };
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), tower_respond_async::store::StoreError> {
/// let ledger = Ledger::of(MemoryStore::new());
/// # let request = CapturedRequest::new(Method::GET, Uri::from_static("/"), HeaderMap::new(), Bytes::new());
/// # let id = RequestId::from_bytes([7; 16]);
/// # let mut task = NewTask::new(id, request.into());
/// # let (destination, on) = (Destination::new("audit"), Conditions::ALL);
/// # task.subscriptions = [Subscription { destination, on }].into();
/// # let _ = ledger.insert(Insert::new(task)).await?;
/// # let _ = ledger.stop(&Scope::All, id).await?;
/// let claim = DeliveryClaim::new(vec![(Destination::new("audit"), 10)], Duration::from_secs(30));
/// for claimed in ledger.claim_deliveries(claim).await? {
///     // Deliver `claimed.delivery` of the task `claimed.record` here.
///     let tried = DeliveryTry::new(ledger.store().now());
///     let settlement = DeliverySettlement::new(claimed, DeliveryOutcome::Delivered, tried);
///     assert!(ledger.settle_delivery(settlement).await?);
/// }
/// assert_eq!(ledger.task(id).await?.destination_status(), DeliveryStatus::Delivered);
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct DeliveryClaim {
    /// The destinations that it can deliver to, and the maximum number of completions for each.
    pub from: Vec<(Destination, usize)>,
    /// How long the claims hold.
    pub lease: Duration,
}

impl DeliveryClaim {
    /// At most this many completions for each destination, for `lease`.
    #[must_use]
    pub const fn new(from: Vec<(Destination, usize)>, lease: Duration) -> Self {
        Self { from, lease }
    }
}

/// A claimed completion.
///
/// See the example of [`DeliveryClaim`], in which [`Ledger::claim_deliveries`](crate::store::Ledger::claim_deliveries)
/// receives it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ClaimedOutbox {
    /// The task, with its outbox as it is after the claim.
    pub row: Row,
    /// The generation of the task.
    pub generation: u32,
    /// The destination of the completion.
    pub destination: Destination,
}

impl ClaimedOutbox {
    /// The completion of this generation for this destination.
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
///
/// # Examples
///
/// The task `id` waits, and is then stopped:
///
/// ```
/// use std::time::Duration;
///
/// # use bytes::Bytes;
/// # use http::{HeaderMap, Method, Uri};
/// use tower_respond_async::{
///     store::{Ledger, MemoryStore, Retention},
///     task::{Scope, TaskState},
/// };
/// # use tower_respond_async::{store::Insert, task::{CapturedRequest, NewTask, RequestId}};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), tower_respond_async::store::StoreError> {
/// let ledger = Ledger::of(MemoryStore::new());
/// # let request = CapturedRequest::new(Method::GET, Uri::from_static("/"), HeaderMap::new(), Bytes::new());
/// # let id = RequestId::from_bytes([7; 16]);
/// # let _ = ledger.insert(Insert::new(NewTask::new(id, request.into()))).await?;
/// let _ = ledger.stop(&Scope::All, id).await?;
/// let retention = Retention::new(Duration::from_secs(60), Duration::ZERO);
/// assert_eq!(retention.of(TaskState::Stopped), Duration::ZERO);
/// assert_eq!(ledger.prune(retention, 100).await?.tasks, 1);
/// # Ok(()) }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Retention {
    /// Tasks that succeeded.
    pub succeeded: Duration,
    /// All other tasks.
    pub others: Duration,
}

impl Retention {
    /// `succeeded` for tasks that succeeded, `others` for all other tasks.
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
