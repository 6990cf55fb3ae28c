//! What a store keeps of a task: its record, and the columns by which it finds tasks.

use std::{sync::Arc, time::Duration};

use crate::{
    task::{
        Cursor, Delivery, DeliveryStatus, Destination, FenceToken, LeaseRef, Progress, RequestId, Scope, TaskRecord,
        TaskState, WorkerId, lifecycle::Renewal,
    },
    time::Timestamp,
};

/// A task as a store keeps it.
///
/// The record is what the [`Ledger`](crate::store::Ledger) wrote last. A store keeps it as it is, as one value. The
/// columns belong to the store: it sets their times by its own clock, and a claim changes only columns. Where columns
/// and record differ, the columns are right: see [`restore`](Self::restore).
///
/// See the examples of [`encode`](Self::encode), which claims a row, and of [`Change`](crate::store::Change), which
/// commits a change.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Row {
    /// The primary key.
    pub id: RequestId,
    /// Every commit and every claim raises it by one. A renewal, a report of progress, or the claim of a completion
    /// does not.
    pub version: u64,
    /// The columns by which the store finds it, and which the store itself changes.
    pub columns: Columns,
    /// The completions that are still to be delivered.
    pub outbox: Vec<OutboxRow>,
    /// The record that was written last.
    pub record: Arc<TaskRecord>,
}

/// The changing fields of a task that a store may index. The fields that never change are in
/// [`record.accepted`](crate::task::Accepted).
///
/// # Examples
///
/// ```
/// use std::time::Duration;
///
/// # use bytes::Bytes;
/// # use http::{HeaderMap, Method, Uri};
/// use tower_respond_async::{
///     store::{Columns, Renewal},
///     task::{FenceToken, NewTask, RequestId, TaskRecord},
///     time::Timestamp,
/// };
/// # use tower_respond_async::task::CapturedRequest;
///
/// # let request = CapturedRequest::new(Method::GET, Uri::from_static("/"), HeaderMap::new(), Bytes::new());
/// let now = Timestamp::from_millis(1_000);
/// let task = NewTask::new(RequestId::from_bytes([7; 16]), request.into());
/// let mut columns = Columns::of(&TaskRecord::accepted(&task, now));
/// assert!(columns.is_runnable(now));
/// let renewal = columns.renew(FenceToken::new(1), Duration::from_secs(30), now);
/// assert_eq!(renewal, Renewal::Lost, "no worker holds the task");
/// ```
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Columns {
    /// The state of the task.
    pub state: TaskState,
    /// Whether a process died while it ran the task. A worker holds at most one such task.
    pub suspect: bool,
    /// The worker of the latest claim.
    pub worker: Option<WorkerId>,
    /// The token of the latest claim.
    pub token: FenceToken,
    /// When it was accepted.
    pub created_at: Timestamp,
    /// When it may run.
    pub run_at: Timestamp,
    /// When it expires, unless it is claimed before.
    pub expires_at: Timestamp,
    /// Until when the claim holds, while the task is held.
    pub lease_until: Option<Timestamp>,
    /// When the latest attempt began.
    pub started_at: Option<Timestamp>,
    /// When the task ended.
    pub ended_at: Option<Timestamp>,
    /// Since when nothing is left to do for the task. Retention counts from this time.
    pub rests_at: Option<Timestamp>,
    /// The status of its completions in this generation, over all destinations.
    pub delivery_status: DeliveryStatus,
    /// The progress that the holder reported. A report changes this column only, and raises no version.
    pub progress: Option<Progress>,
}

/// A completion that is still to be delivered: its destination, and when it is due.
///
/// Its content is in the record. It is a row of its own, so that a claim of it touches neither the task nor the
/// completions for other destinations.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use tower_respond_async::{
///     store::OutboxRow,
///     task::{Destination, FenceToken},
///     time::Timestamp,
/// };
///
/// let (lease, now) = (Duration::from_secs(30), Timestamp::from_millis(1_000));
/// let mut row = OutboxRow::new(1, Destination::new("audit"));
/// assert_eq!(row.claim(lease, FenceToken::NONE, now), Some(FenceToken::new(1)));
/// assert_eq!(row.claim(lease, FenceToken::NONE, now), None, "it is claimed");
/// assert_eq!(row.due_at, now.saturating_add(lease));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct OutboxRow {
    /// The generation of the task.
    pub generation: u32,
    /// The destination of the completion.
    pub destination: Destination,
    /// When it is due; while it is claimed, when that claim runs out.
    pub due_at: Timestamp,
    /// The token of its latest claim.
    pub token: FenceToken,
    /// Whether it was claimed, and the result of that try is not recorded yet.
    pub claimed: bool,
}

impl Row {
    /// A row from the values that a store has read.
    #[must_use]
    pub const fn new(
        id: RequestId,
        version: u64,
        columns: Columns,
        outbox: Vec<OutboxRow>,
        record: Arc<TaskRecord>,
    ) -> Self {
        Self {
            id,
            version,
            columns,
            outbox,
            record,
        }
    }

    /// The version of a row that was just inserted.
    pub(super) const FIRST_VERSION: u64 = 1;

    /// Whether its claim is still the claim of its insert: no change was made since, except for a stop.
    pub(super) fn was_stored_claimed(&self) -> bool {
        let since = self.version - Self::FIRST_VERSION;
        since == 0 || since == 1 && self.columns.state == TaskState::Stopping
    }

    /// Writes the columns and the outbox over the record. The result is what is shown, and what the next step is
    /// decided on.
    ///
    /// A claim changes columns only. If the record does not contain the claim yet, this adds it as
    /// [`TaskRecord::claim`] does. A record that is shared is copied first.
    pub fn restore(&mut self) -> &mut Arc<TaskRecord> {
        let Self {
            columns,
            outbox,
            record,
            ..
        } = self;
        if columns.differ(record) {
            columns.write_over(Arc::make_mut(record));
        }
        for row in outbox {
            let Some(at) = record.deliveries.iter().position(|delivery| row.is_of(delivery)) else {
                continue;
            };
            if row.differs(&record.deliveries[at]) {
                let delivery = &mut Arc::make_mut(record).life.deliveries[at];
                (delivery.due_at, delivery.token, delivery.is_claimed) = (row.due_at, row.token, row.claimed);
            }
        }
        record
    }

    /// The record, [restored](Self::restore).
    #[must_use]
    pub fn into_record(mut self) -> Arc<TaskRecord> {
        self.restore();
        self.record
    }

    /// Whether the task is in `scope`.
    #[must_use]
    pub fn is_in(&self, scope: &Scope) -> bool {
        scope.contains(self.record.tenant.as_ref())
    }

    /// Whether the claim with `token` holds the task.
    #[must_use]
    pub fn is_held_by(&self, token: FenceToken) -> bool {
        self.columns.is_held() && self.columns.token == token
    }

    /// Claims the task for `worker`, for `lease` from `now`.
    ///
    /// The store has checked that the task [may be claimed](Columns::is_runnable). The new token is greater than
    /// `floor`. Pass [`FenceToken::NONE`] if the store never loses a claim that it answered. If a failover of the
    /// server may lose claims, pass a number that grows with every failover: a token that is given twice does not
    /// fence.
    pub fn claim(&mut self, worker: WorkerId, lease: Duration, floor: FenceToken, now: Timestamp) {
        self.version += 1;
        let columns = &mut self.columns;
        columns.state = TaskState::Running;
        columns.token = columns.token.max(floor).next();
        columns.worker = Some(worker);
        columns.lease_until = Some(now.saturating_add(lease));
        columns.started_at = Some(now);
        columns.progress = None;
    }

    /// The number of the latest attempt. Counts a claim that the record does not contain yet.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.record.attempt + u32::from(self.columns.is_ahead_of(&self.record))
    }

    /// Its position in a listing.
    #[must_use]
    pub const fn cursor(&self) -> Cursor {
        Cursor {
            created_at: self.columns.created_at,
            id: self.id,
        }
    }

    /// The latest claim.
    #[must_use]
    pub const fn lease(&self) -> LeaseRef {
        LeaseRef {
            id: self.id,
            token: self.columns.token,
        }
    }

    /// The completion of this generation for this destination, while it is still to be delivered.
    #[must_use]
    pub fn outbox_row(&self, generation: u32, destination: &Destination) -> Option<&OutboxRow> {
        let mut rows = self.outbox.iter();
        rows.find(|row| row.generation == generation && row.destination == *destination)
    }
}

impl Columns {
    /// The columns of a record.
    #[must_use]
    pub fn of(record: &TaskRecord) -> Self {
        Self {
            state: record.state,
            suspect: record.is_suspect(),
            worker: record.worker.clone(),
            token: record.token,
            created_at: record.created_at,
            run_at: record.run_at,
            expires_at: record.expires_at,
            lease_until: record.lease_until,
            started_at: record.started_at,
            ended_at: record.ended_at,
            rests_at: record.rests_since(),
            delivery_status: record.destination_status(),
            progress: record.progress.clone(),
        }
    }

    /// Whether it waits to be claimed.
    #[must_use]
    pub const fn is_queued(&self) -> bool {
        self.state.is_queued()
    }

    /// Whether a worker holds it.
    #[must_use]
    pub const fn is_held(&self) -> bool {
        self.state.is_held()
    }

    /// Whether it may be claimed now.
    #[must_use]
    pub fn is_runnable(&self, now: Timestamp) -> bool {
        self.is_queued() && self.run_at <= now && now < self.expires_at
    }

    /// Whether its lease has run out.
    #[must_use]
    pub fn has_lapsed(&self, now: Timestamp) -> bool {
        self.is_held() && self.lease_until.is_some_and(|until| until <= now)
    }

    /// Whether it has waited longer than its age allows.
    #[must_use]
    pub fn is_over_age(&self, now: Timestamp) -> bool {
        self.is_queued() && self.expires_at <= now
    }

    /// Extends the claim with `token` to `lease` from `now`, if it holds. Raises no version: a renewal must not make a
    /// commit stale that was decided before it, except one that [takes the task away](crate::store::Guard::Lapsed).
    pub fn renew(&mut self, token: FenceToken, lease: Duration, now: Timestamp) -> Renewal {
        if !self.is_held() || self.token != token || self.lease_until.is_none_or(|until| until <= now) {
            return Renewal::Lost;
        }
        self.lease_until = Some(now.saturating_add(lease));
        Renewal::Renewed {
            stop: self.state == TaskState::Stopping,
        }
    }

    /// Whether the columns have a claim that the record does not contain yet.
    fn is_ahead_of(&self, record: &TaskRecord) -> bool {
        self.is_held() && !record.state.is_held()
    }

    fn differ(&self, record: &TaskRecord) -> bool {
        let times = (self.created_at, self.run_at, self.expires_at);
        let maybe = (self.lease_until, self.started_at, self.ended_at);
        self.token != record.token
            || self.state != record.state
            || times != (record.created_at, record.run_at, record.expires_at)
            || maybe != (record.lease_until, record.started_at, record.ended_at)
            || self.progress != record.progress
    }

    fn write_over(&self, record: &mut TaskRecord) {
        if self.is_ahead_of(record)
            && let (Some(worker), Some(started_at)) = (&self.worker, self.started_at)
        {
            // This fails if the record does not wait; stores claim only tasks that wait.
            let _ = record.claim(worker.clone(), Duration::ZERO, started_at);
        }
        if record.created_at != self.created_at
            && let Some(first) = record.life.history.first_mut().filter(|event| event.id == 1)
        {
            first.at = self.created_at;
        }
        record.life.token = self.token;
        record.life.created_at = self.created_at;
        record.life.run_at = self.run_at;
        record.life.expires_at = self.expires_at;
        record.life.lease_until = self.lease_until;
        record.life.started_at = self.started_at;
        record.life.ended_at = self.ended_at;
        record.life.progress.clone_from(&self.progress);
    }
}

impl OutboxRow {
    /// A completion that is not claimed, and due at once.
    #[must_use]
    pub const fn new(generation: u32, destination: Destination) -> Self {
        Self {
            generation,
            destination,
            due_at: Timestamp::ZERO,
            token: FenceToken::NONE,
            claimed: false,
        }
    }

    /// Claims the completion for `lease`, in order to try it. `None` if it is not due. `floor` is as for
    /// [`Row::claim`].
    pub fn claim(&mut self, lease: Duration, floor: FenceToken, now: Timestamp) -> Option<FenceToken> {
        if self.due_at > now {
            return None;
        }
        self.token = self.token.max(floor).next();
        self.claimed = true;
        self.due_at = now.saturating_add(lease);
        Some(self.token)
    }

    /// Whether it is the row of `delivery`.
    pub(super) fn is_of(&self, delivery: &Delivery) -> bool {
        delivery.is_pending() && delivery.generation == self.generation && delivery.destination == self.destination
    }

    pub(super) fn differs(&self, delivery: &Delivery) -> bool {
        (self.due_at, self.token, self.claimed) != (delivery.due_at, delivery.token, delivery.is_claimed)
    }
}
