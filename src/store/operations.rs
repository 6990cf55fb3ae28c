//! What goes into the operations of a store, and what comes out.

use std::{sync::Arc, time::Duration};

use crate::task::{
    CapturedRequest, Delivery, DeliveryTry, Destination, NewTask, RequestId, TaskRecord, TaskState, WorkerId,
    delivery::{DeliveryOutcome, DeliveryRef},
    lifecycle::{Fenced, Rescue},
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
    /// Whether `wait_for_work` hears of work that another process stored.
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
pub enum Durability {
    /// A panic in a handler; not the end of the process.
    Process,
    /// The end of the process and of the machine's power; not the loss of its disk.
    Host,
    /// The loss of a machine.
    Cluster,
}

/// How many processes may use a store at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sharing {
    /// One: another is refused when it opens the store.
    Exclusive,
    /// Any number.
    Shared,
}

/// How full the queue is, where the store knows without waiting.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueueHint {
    /// Tasks that wait.
    pub queued: Option<u64>,
    /// Tasks of the tenant asked for that wait.
    pub tenant_queued: Option<u64>,
    /// The store has failed for good: it takes nothing in until it is opened anew.
    pub failed: bool,
}

/// A task to store.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Insert {
    /// The task.
    pub task: NewTask,
    /// How many tasks may wait. A task that is born claimed does not wait and is not counted.
    pub limits: Limits,
    /// Store it already claimed.
    pub born: Option<BornClaimed>,
}

impl Insert {
    /// Store `task` in the queue, however full that is.
    #[must_use]
    pub const fn new(task: NewTask) -> Self {
        Self {
            task,
            limits: Limits::UNLIMITED,
            born: None,
        }
    }

    /// Store it already claimed.
    #[must_use]
    pub fn born(mut self, worker: WorkerId, lease: Duration) -> Self {
        self.born = Some(BornClaimed { worker, lease });
        self
    }

    /// Refuse it when the queue is this full.
    #[must_use]
    pub const fn within(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }
}

/// Who a task is born claimed by.
#[derive(Clone, Debug)]
pub struct BornClaimed {
    /// The worker.
    pub worker: WorkerId,
    /// How long its claim holds.
    pub lease: Duration,
}

/// How many tasks may wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Of all tenants together.
    pub queued: u64,
    /// Of the task's own tenant, if it has one.
    pub per_tenant: u64,
}

impl Limits {
    /// Any number.
    pub const UNLIMITED: Self = Self {
        queued: u64::MAX,
        per_tenant: u64::MAX,
    };
}

/// What an insert did.
#[derive(Clone, Debug)]
#[must_use]
pub enum Inserted {
    /// The task is stored; if it was to be born claimed, the record is `Running`, and its token is the claim's.
    New(Arc<TaskRecord>),
    /// Nothing was stored: there is a task of this id, name or key.
    Known {
        /// That task. `None` if it is gone and only its key is remembered.
        task: Option<Arc<TaskRecord>>,
        /// The request id of that task.
        id: RequestId,
        /// How it is known.
        by: KnownBy,
        /// Whether its request is the same as the one given. The digest decides.
        same_request: bool,
    },
    /// Nothing was stored: the name and the key are known, as two different tasks.
    Conflict,
    /// Nothing was stored: there is no room.
    Full(FullReason),
}

/// What a task was known by. A name is looked at before a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
pub enum FullReason {
    /// [`Limits::queued`].
    Queue,
    /// [`Limits::per_tenant`].
    Tenant,
    /// The store's own.
    Storage,
}

/// A worker asking for tasks.
#[derive(Clone, Debug)]
pub struct Claim {
    /// Who asks.
    pub worker: WorkerId,
    /// How many at most.
    pub max: usize,
    /// How long the claims hold.
    pub lease: Duration,
}

/// What a claim found.
#[derive(Clone, Debug, Default)]
pub struct Claimed {
    /// The tasks, oldest `run_at` first.
    pub tasks: Vec<ClaimedTask>,
    /// How long until the next waiting task is due, if one is known: zero if more could have been claimed. A suspect
    /// that must wait for another suspect of this worker does not count.
    pub next_due: Option<Duration>,
}

/// A claimed task.
#[derive(Clone, Debug)]
pub struct ClaimedTask {
    /// The record, `Running`; its token is the claim's.
    pub record: Arc<TaskRecord>,
    /// The request.
    pub input: Arc<CapturedRequest>,
}

/// What a settlement did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Settled {
    /// It was accepted.
    Accepted {
        /// The state it led to.
        state: TaskState,
        /// Whether a completion is now due for delivery.
        outbox: bool,
    },
    /// It came from a claim that no longer holds. Nothing was changed.
    Fenced,
}

impl From<Fenced> for Settled {
    fn from(_: Fenced) -> Self {
        Self::Fenced
    }
}

/// What a rescue did: each task with what became of it, never [`Rescue::NotDue`].
#[derive(Clone, Debug, Default)]
pub struct Rescued {
    /// The tasks.
    pub tasks: Vec<(RequestId, Rescue)>,
    /// Whether a completion is now due for delivery.
    pub outbox: bool,
}

/// What a delete did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Delete {
    /// The task is gone.
    Deleted,
    /// It has not ended: it is in this state.
    NotEnded(TaskState),
}

/// Which lines of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogQuery {
    /// Only of this attempt.
    pub attempt: Option<u32>,
    /// Only lines with a greater number.
    pub after: u64,
    /// How many at most.
    pub limit: usize,
}

impl LogQuery {
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
pub struct DeliveryClaim {
    /// The destinations it can deliver to.
    pub destinations: Vec<Destination>,
    /// How many at most.
    pub max: usize,
    /// How long the claims hold.
    pub lease: Duration,
}

/// A claimed completion, with what it takes to render it.
#[derive(Clone, Debug)]
pub struct ClaimedDelivery {
    /// The claim.
    pub claim: DeliveryRef,
    /// The delivery.
    pub delivery: Delivery,
    /// The task as it is now.
    pub record: Arc<TaskRecord>,
}

/// How a try of a delivery ended.
#[derive(Clone, Debug)]
pub struct DeliverySettlement {
    /// The claim.
    pub claim: DeliveryRef,
    /// How it ended.
    pub outcome: DeliveryOutcome,
    /// What to show of it.
    pub tried: DeliveryTry,
}

/// Which completions to give up.
#[derive(Clone, Debug)]
pub struct GiveUp {
    /// Destinations whose completions are none of them.
    pub spared: Vec<Destination>,
    /// For how long they have been due with nobody to take them.
    pub overdue: Duration,
    /// How many at most.
    pub max: usize,
}

/// How long ended tasks are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// Those that succeeded.
    pub succeeded: Duration,
    /// All others.
    pub others: Duration,
}

impl Retention {
    /// How long a task that ended in `state` is kept.
    #[must_use]
    pub const fn of(&self, state: TaskState) -> Duration {
        match state {
            TaskState::Succeeded => self.succeeded,
            _ => self.others,
        }
    }
}

/// What was pruned.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pruned {
    /// Tasks.
    pub tasks: usize,
    /// Keys.
    pub keys: usize,
}
