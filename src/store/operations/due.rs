//! Rows that are due: for a rescue, for giving up completions, for pruning.

use std::time::Duration;

use crate::{
    store::{Answers, Row},
    task::{Destination, PoolName, TaskState},
    time::Timestamp,
};

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
    /// Tasks that are past retention, counted from [`Columns::rests_at`](crate::store::Columns::rests_at).
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
