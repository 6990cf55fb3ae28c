//! The inputs and outputs of a ledger's steps.

use std::{sync::Arc, time::Duration};

use super::Held;
use crate::{
    store::{FullReason, InitialClaim, Insertion, KnownBy, Limits, NewRow, Row},
    task::{
        CapturedRequest, Delivery, DeliveryTry, Destination, NewTask, RequestDigest, RequestId, TaskRecord, TaskState,
        WorkerId,
        delivery::DeliveryOutcome,
        lifecycle::{Fenced, Rescue},
    },
    time::Timestamp,
};

/// A task to insert.
///
/// # Examples
///
/// A task that is stored already claimed, and one for which there is no room:
///
/// ```
/// use std::time::Duration;
///
/// # use bytes::Bytes;
/// # use http::{HeaderMap, Method, Uri};
/// use tower_respond_async::{
///     store::{FullReason, Insert, Inserted, Ledger, Limits, MemoryStore},
///     task::{NewTask, RequestId, WorkerId},
/// };
/// # use tower_respond_async::task::CapturedRequest;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), tower_respond_async::store::StoreError> {
/// let ledger = Ledger::of(MemoryStore::new());
/// # let request = CapturedRequest::new(Method::GET, Uri::from_static("/"), HeaderMap::new(), Bytes::new());
/// # let request = std::sync::Arc::new(request);
/// let task = NewTask::new(RequestId::from_bytes([1; 16]), request.clone());
/// let claim = Insert::new(task).claimed_by(WorkerId::new("w", 1), Duration::from_secs(30));
/// assert!(matches!(ledger.insert(claim).await?, Inserted::New(_, Some(_held))));
///
/// let mut limits = Limits::UNLIMITED;
/// limits.queued = 0;
/// let task = NewTask::new(RequestId::from_bytes([2; 16]), request);
/// let inserted = ledger.insert(Insert::new(task).within(limits)).await?;
/// assert!(matches!(inserted, Inserted::Full(FullReason::Queue)));
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Insert {
    /// The task.
    pub task: NewTask,
    /// How many tasks may wait. A task that is stored claimed does not wait and is not counted.
    pub limits: Limits,
    /// Set to store the task already claimed.
    pub claim: Option<InitialClaim>,
}

impl Insert {
    /// Stores `task` in the queue, however full the queue is.
    #[must_use]
    pub const fn new(task: NewTask) -> Self {
        Self {
            task,
            limits: Limits::UNLIMITED,
            claim: None,
        }
    }

    /// Stores the task already claimed by `worker`, for `lease`.
    #[must_use]
    pub fn claimed_by(mut self, worker: WorkerId, lease: Duration) -> Self {
        self.claim = Some(InitialClaim { worker, lease });
        self
    }

    /// Refuses the task if the queue has reached these limits.
    #[must_use]
    pub const fn within(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// The input of the store, at `now` by its clock.
    pub(crate) fn into_row(self, now: Timestamp) -> NewRow {
        let Self { task, limits, claim } = self;
        let mut record = TaskRecord::accepted(&task, now);
        if let Some(claim) = &claim {
            // A new task waits, so this cannot fail.
            let _ = record.claim(claim.worker.clone(), claim.lease, now);
        }
        NewRow {
            record: Arc::new(record),
            request: task.request.to_payload(),
            delay: task.delay,
            key: task.key.map(|key| (key, task.key_window)),
            limits,
            claim,
        }
    }
}

/// The result of an insert.
///
/// See the example of [`Insert`].
#[derive(Debug)]
#[must_use]
#[expect(
    clippy::large_enum_variant,
    reason = "nearly every insert is of a new task, which a box would cost an allocation"
)]
pub enum Inserted {
    /// The task was stored. If it was to be stored claimed, its record is `Running`, and this contains the claim.
    New(Arc<TaskRecord>, Option<Held>),
    /// Nothing was stored: a task has this id, name or key already.
    Known {
        /// That task. `None` if it is gone and only its key is kept.
        task: Option<Arc<TaskRecord>>,
        /// The request id of that task.
        id: RequestId,
        /// What it is known by.
        by: KnownBy,
        /// Whether its request is the same as the given one, by their digests.
        same_request: bool,
    },
    /// Nothing was stored: the name and the key belong to two different tasks.
    Conflict,
    /// Nothing was stored: there is no room.
    Full(FullReason),
}

impl Inserted {
    /// The result that a store's answer means for a request of the digest `given`.
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

/// The result of a claim.
///
/// See the [example](crate::store::Ledger#example-run-a-task-without-an-engine) of `Ledger`.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct Claimed {
    /// The tasks, oldest `run_at` first.
    pub tasks: Vec<ClaimedTask>,
    /// How long until the next waiting task is due, if one is known; zero if more could have been claimed. Ignores
    /// suspects that wait for another suspect of this worker, and tasks that this claim may not take.
    pub next_due: Option<Duration>,
    /// Whether a runnable task was passed over because its tenant has reached its limit.
    pub passed_over: bool,
    /// The version of the store's [named values](crate::store::Controls::version).
    pub control: u64,
    /// Tasks that were claimed, and are not in `tasks`, because their requests cannot be read. They have ended as
    /// `Invalid`, or wait for a newer build.
    pub unreadable: Vec<RequestId>,
}

/// A claimed task.
///
/// See the [example](crate::store::Ledger#example-run-a-task-without-an-engine) of `Ledger`.
#[derive(Debug)]
#[non_exhaustive]
pub struct ClaimedTask {
    /// The record, in state `Running`, with the token of the claim.
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
///
/// # Examples
///
/// The task `id` waits:
///
/// ```
/// use std::time::Duration;
///
/// # use bytes::Bytes;
/// # use http::{HeaderMap, Method, Uri};
/// use tower_respond_async::{
///     store::{Claim, Ledger, MemoryStore, TakenUp},
///     task::WorkerId,
/// };
/// # use tower_respond_async::{store::Insert, task::{CapturedRequest, NewTask, RequestId}};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), tower_respond_async::store::StoreError> {
/// let ledger = Ledger::of(MemoryStore::new());
/// # let request = CapturedRequest::new(Method::GET, Uri::from_static("/"), HeaderMap::new(), Bytes::new());
/// # let id = RequestId::from_bytes([7; 16]);
/// # let _ = ledger.insert(Insert::new(NewTask::new(id, request.into()))).await?;
/// let (worker, lease) = (WorkerId::new("w", 1), Duration::from_secs(30));
/// // The answer to this claim is lost.
/// let _ = ledger.claim(Claim::new(worker.clone(), 10, lease)).await?;
///
/// let lost = ledger.lost_claims(&worker, lease, |_| false).await?;
/// assert_eq!(lost.len(), 1);
/// assert!(matches!(ledger.take_up(&lost[0]).await?, TakenUp::Task(task) if task.record.id == id));
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct LostClaim {
    pub(super) row: Row,
    /// Whether the task was asked to stop.
    pub(super) stop: bool,
}

/// What to do about a claim that was lost.
///
/// See the example of [`LostClaim`].
#[derive(Debug)]
#[non_exhaustive]
pub enum TakenUp {
    /// Run it.
    Task(ClaimedTask),
    /// Hand it back: the task was asked to stop.
    ToStop(Held),
    /// Nothing: its request cannot be read. The task has ended as `Invalid`, or waits for a newer build.
    Unreadable(RequestId),
}

/// The result of a settlement.
///
/// See the [example](crate::store::Ledger#example-run-a-task-without-an-engine) of `Ledger`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Settled {
    /// It was accepted.
    Accepted {
        /// The state of the task after it.
        state: TaskState,
        /// Whether a completion is now due for delivery.
        outbox: bool,
    },
    /// It came from a claim that no longer holds. Nothing has changed.
    Fenced,
}

impl From<Fenced> for Settled {
    fn from(_: Fenced) -> Self {
        Self::Fenced
    }
}

/// The result of a rescue.
///
/// See the example of [`Ledger::rescue`](crate::store::Ledger::rescue).
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Rescued {
    /// The tasks and what happened to each; never [`Rescue::NotDue`].
    pub tasks: Vec<(RequestId, Rescue)>,
    /// Whether a completion is now due for delivery.
    pub outbox: bool,
}

/// The result of a delete.
///
/// See the [example](crate::store::Ledger#example-run-a-task-without-an-engine) of `Ledger`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
#[non_exhaustive]
pub enum Delete {
    /// The task was removed.
    Deleted,
    /// The task has not ended: it is in this state.
    NotEnded(TaskState),
}

/// A claimed completion, with what is needed to render it.
///
/// See the example of [`DeliveryClaim`](crate::store::DeliveryClaim).
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ClaimedDelivery {
    /// The delivery.
    pub delivery: Delivery,
    /// The task as it is now.
    pub record: Arc<TaskRecord>,
    pub(super) row: Row,
}

/// The result of a try of a delivery.
///
/// See the example of [`DeliveryClaim`](crate::store::DeliveryClaim).
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct DeliverySettlement {
    /// The claim.
    pub claimed: ClaimedDelivery,
    /// The result.
    pub outcome: DeliveryOutcome,
    /// What the delivery shows of this try.
    pub tried: DeliveryTry,
}

impl DeliverySettlement {
    /// The result of a try of `claimed`.
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
///
/// # Examples
///
/// A task has ended, and no process delivers its completion for `audit`:
///
/// ```
/// use std::time::Duration;
///
/// # use bytes::Bytes;
/// # use http::{HeaderMap, Method, Uri};
/// use tower_respond_async::{
///     store::{GiveUp, Ledger, MemoryStore},
///     task::{DeliveryStatus, Destination},
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
/// // Zero: each completion that is due. An application waits for days.
/// let overdue = Duration::ZERO;
/// let spared = vec![Destination::new("billing")];
/// let given_up = ledger.give_up_deliveries(GiveUp::new(spared, overdue, 100)).await?;
/// assert_eq!(given_up[0].destination, Destination::new("audit"));
/// assert_eq!(given_up[0].status, DeliveryStatus::Failed);
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct GiveUp {
    /// Destinations whose completions are left out.
    pub spared: Vec<Destination>,
    /// How long they have been due without being claimed.
    pub overdue: Duration,
    /// The maximum number of completions.
    pub max: usize,
}

impl GiveUp {
    /// At most `max` completions that have been due for `overdue`, except for the destinations `spared`.
    #[must_use]
    pub const fn new(spared: Vec<Destination>, overdue: Duration, max: usize) -> Self {
        Self { spared, overdue, max }
    }
}

/// The result of pruning.
///
/// See the example of [`Retention`](crate::store::Retention).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Pruned {
    /// The number of tasks removed.
    pub tasks: usize,
    /// The number of keys removed.
    pub keys: usize,
}
