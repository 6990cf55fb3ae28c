//! What goes into the steps of a life, and what comes out.

use std::{sync::Arc, time::Duration};

use super::Held;
use crate::{
    store::{BornClaimed, FullReason, Insertion, KnownBy, Limits, NewRow, Row},
    task::{
        CapturedRequest, Delivery, DeliveryTry, Destination, NewTask, RequestDigest, RequestId, TaskRecord, TaskState,
        WorkerId,
        delivery::DeliveryOutcome,
        lifecycle::{Fenced, Rescue},
    },
    time::Timestamp,
};

/// A task to take in.
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

    /// What a store is given of it at `now`, by its clock.
    pub(crate) fn into_row(self, now: Timestamp) -> NewRow {
        let Self { task, limits, born } = self;
        let mut record = TaskRecord::accepted(&task, now);
        if let Some(born) = &born {
            // It waits, so it can be claimed.
            let _ = record.claim(born.worker.clone(), born.lease, now);
        }
        NewRow {
            record: Arc::new(record),
            request: task.request.to_payload(),
            delay: task.delay,
            key: task.key.map(|key| (key, task.key_window)),
            limits,
            born,
        }
    }
}

/// What an insert did.
#[derive(Debug)]
#[must_use]
#[expect(
    clippy::large_enum_variant,
    reason = "nearly every insert is of a new task, which a box would cost an allocation"
)]
pub enum Inserted {
    /// The task is stored; if it was to be born claimed, the record is `Running`, and this is the claim.
    New(Arc<TaskRecord>, Option<Held>),
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

impl Inserted {
    /// What a store answered for a request of this digest.
    pub(crate) fn of(insertion: Insertion, given: Option<RequestDigest>) -> Self {
        match insertion {
            Insertion::New(row) if row.columns.is_held() => {
                let (record, held) = Held::of(row);
                Self::New(record, Some(held))
            }
            Insertion::New(row) => Self::New(row.into_record(), None),
            Insertion::Known { row, id, by, digest } => {
                let task = row.map(Row::into_record);
                let known = digest.or_else(|| task.as_ref().and_then(|task| task.digest));
                Self::Known {
                    same_request: known.is_some() && known == given,
                    task,
                    id,
                    by,
                }
            }
            Insertion::Conflict => Self::Conflict,
            Insertion::Full(reason) => Self::Full(reason),
        }
    }
}

/// What a claim found.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct Claimed {
    /// The tasks, oldest `run_at` first.
    pub tasks: Vec<ClaimedTask>,
    /// How long until the next waiting task is due, if one is known: zero if more could have been claimed. A suspect
    /// that must wait for another suspect of this worker does not count.
    pub next_due: Option<Duration>,
    /// Whether a task was passed over, since its tenant has as many as it may.
    pub passed_over: bool,
    /// The version of the store's [named values](crate::store::Controls::version).
    pub control: u64,
    /// Tasks that are not among them, since their request cannot be read: they have ended as `Invalid`, or wait for a newer
    /// build.
    pub unreadable: Vec<RequestId>,
}

/// A claimed task.
#[derive(Debug)]
#[non_exhaustive]
pub struct ClaimedTask {
    /// The record, `Running`; its token is the claim's.
    pub record: Arc<TaskRecord>,
    /// The request.
    pub request: Arc<CapturedRequest>,
    /// The claim.
    pub held: Held,
}

impl ClaimedTask {
    pub(super) fn new(row: Row, request: Arc<CapturedRequest>) -> Self {
        let (record, held) = Held::of(row);
        Self { record, request, held }
    }
}

/// A claim whose answer was lost, and that was renewed since.
#[derive(Clone, Debug)]
pub struct LostClaim {
    pub(super) row: Row,
    /// Somebody has asked the task to stop.
    pub(super) stop: bool,
}

/// What is to be done about a claim that was lost.
#[derive(Debug)]
#[non_exhaustive]
pub enum TakenUp {
    /// Run it.
    Task(ClaimedTask),
    /// Hand it back: somebody has asked the task to stop.
    ToStop(Held),
    /// Nothing: its request cannot be read, so that the task has ended as `Invalid`, or waits for a newer build.
    Unreadable(RequestId),
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
#[non_exhaustive]
pub struct Rescued {
    /// The tasks.
    pub tasks: Vec<(RequestId, Rescue)>,
    /// Whether a completion is now due for delivery.
    pub outbox: bool,
}

/// What a delete did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
#[non_exhaustive]
pub enum Delete {
    /// The task is gone.
    Deleted,
    /// It has not ended: it is in this state.
    NotEnded(TaskState),
}

/// A claimed completion, with what it takes to render it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ClaimedDelivery {
    /// The delivery.
    pub delivery: Delivery,
    /// The task as it is now.
    pub record: Arc<TaskRecord>,
    pub(super) row: Row,
}

/// How a try of a delivery ended.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct DeliverySettlement {
    /// The claim.
    pub claimed: ClaimedDelivery,
    /// How it ended.
    pub outcome: DeliveryOutcome,
    /// What to show of it.
    pub tried: DeliveryTry,
}

impl DeliverySettlement {
    /// A try of what was claimed ended so.
    #[must_use]
    pub const fn new(claimed: ClaimedDelivery, outcome: DeliveryOutcome, tried: DeliveryTry) -> Self {
        Self {
            claimed,
            outcome,
            tried,
        }
    }
}

/// Which completions to give up.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct GiveUp {
    /// Destinations whose completions are none of them.
    pub spared: Vec<Destination>,
    /// For how long they have been due with nobody to take them.
    pub overdue: Duration,
    /// How many at most.
    pub max: usize,
}

impl GiveUp {
    /// At most `max` that have been due for `overdue`, unless they are for one of `spared`.
    #[must_use]
    pub const fn new(spared: Vec<Destination>, overdue: Duration, max: usize) -> Self {
        Self { spared, overdue, max }
    }
}

/// What was pruned.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Pruned {
    /// Tasks.
    pub tasks: usize,
    /// Keys.
    pub keys: usize,
}
