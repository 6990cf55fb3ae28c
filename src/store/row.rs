//! What a store keeps of a task: its record, and beside it the columns that it finds tasks by.

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
/// The record is what the [`Ledger`](crate::store::Ledger) wrote last; to the store it is one value, to be kept as it is.
/// The columns are the store's: it sets the times in them by its own clock, and a claim changes nothing else. Where the two
/// differ the columns hold: see [`restore`](Self::restore).
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Row {
    /// The primary key.
    pub id: RequestId,
    /// Raised by one with every commit and every claim. Not by a renewal, a report of progress, or the claim of a
    /// completion.
    pub version: u64,
    /// What the store finds it by, and what it changes itself.
    pub columns: Columns,
    /// The completions that are still to be delivered.
    pub outbox: Vec<OutboxRow>,
    /// What was written last.
    pub record: Arc<TaskRecord>,
}

/// What a store may index of a task, beside what never changes of it, which is in
/// [`record.accepted`](crate::task::Accepted).
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Columns {
    /// Where it stands.
    pub state: TaskState,
    /// Whether a process died under it before: a worker has at most one such task.
    pub suspect: bool,
    /// Who made the latest claim.
    pub worker: Option<WorkerId>,
    /// The token of the latest claim.
    pub token: FenceToken,
    /// When it was accepted.
    pub created_at: Timestamp,
    /// When it may run.
    pub run_at: Timestamp,
    /// When it expires unless it is run before.
    pub expires_at: Timestamp,
    /// Until when the claim holds, while it is held.
    pub lease_until: Option<Timestamp>,
    /// When the latest attempt began.
    pub started_at: Option<Timestamp>,
    /// When it ended.
    pub ended_at: Option<Timestamp>,
    /// Since when nothing is left to be done about it: what retention counts from.
    pub rests_at: Option<Timestamp>,
    /// Where its completion stands with all destinations of this generation together.
    pub delivery_status: DeliveryStatus,
    /// How far the holder says it is. Set beside the record, and not versioned.
    pub progress: Option<Progress>,
}

/// A completion that is still to be delivered: where to, and when.
///
/// What it is about is in the record. It is a row of its own, so that claiming one touches neither the task nor the
/// completions of other destinations.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct OutboxRow {
    /// Which run-through of the task.
    pub generation: u32,
    /// Where to.
    pub destination: Destination,
    /// When it is due; while it is claimed, when that claim runs out.
    pub due_at: Timestamp,
    /// The token of its latest claim.
    pub token: FenceToken,
    /// Whether who claimed it has not said yet how it went.
    pub claimed: bool,
}

impl Row {
    /// A row as a store has it in columns of its own.
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

    /// Whether its claim is the insert's, as far as nothing else came of it than a stop.
    pub(super) fn was_born_claimed(&self) -> bool {
        let since = self.version - Self::FIRST_VERSION;
        since == 0 || since == 1 && self.columns.state == TaskState::Stopping
    }

    /// Has the record say what the columns and the outbox say: what is shown, and what the next step is decided on.
    ///
    /// A claim changes columns only. It is found by its token, and made up for here, as
    /// [`TaskRecord::claim`] does it. A record that is shared is copied first.
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

    /// Whether it is there for who may see `scope`.
    #[must_use]
    pub fn is_in(&self, scope: &Scope) -> bool {
        scope.contains(self.record.tenant.as_ref())
    }

    /// Whether the claim with `token` is the one that holds it.
    #[must_use]
    pub fn is_held_by(&self, token: FenceToken) -> bool {
        self.columns.is_held() && self.columns.token == token
    }

    /// Hands the task to `worker`, who holds it for `lease` from `now`.
    ///
    /// The store has seen that it [may be run](Columns::is_runnable). `floor` is a token that this claim's is greater than:
    /// [`FenceToken::NONE`] for a store that never forgets a claim it has answered, and for one with a server whose failover
    /// may lose some, a number that grows with every failover. A token that was handed out twice would be no fence.
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

    /// The number of the latest attempt: a claim is in the columns only until the next commit.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.record.attempt + u32::from(self.columns.is_ahead_of(&self.record))
    }

    /// Its place in a listing.
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

    /// The completion of this generation to this destination, while it is to be delivered.
    #[must_use]
    pub fn outbox_row(&self, generation: u32, destination: &Destination) -> Option<&OutboxRow> {
        let mut rows = self.outbox.iter();
        rows.find(|row| row.generation == generation && row.destination == *destination)
    }
}

impl Columns {
    /// The columns of a record as it is.
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

    /// Lets the claim with `token` hold for another `lease`, if it holds. It raises no version: a commit that sees the
    /// row before it must not be kept out by it, but for one that [takes the task away](crate::store::Guard::Lapsed).
    pub fn renew(&mut self, token: FenceToken, lease: Duration, now: Timestamp) -> Renewal {
        if !self.is_held() || self.token != token || self.lease_until.is_none_or(|until| until <= now) {
            return Renewal::Lost;
        }
        self.lease_until = Some(now.saturating_add(lease));
        Renewal::Renewed {
            stop: self.state == TaskState::Stopping,
        }
    }

    /// Whether there is a claim that the record does not know of.
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
            // Refused where the record does not wait, which no store makes of one that does.
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
    /// A completion that nobody has claimed, due at once.
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

    /// Takes the completion to try to deliver it, until `lease` runs out. `None` unless it is due. `floor` is as for
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

    /// Whether it is the row of this delivery.
    pub(super) fn is_of(&self, delivery: &Delivery) -> bool {
        delivery.is_pending() && delivery.generation == self.generation && delivery.destination == self.destination
    }

    pub(super) fn differs(&self, delivery: &Delivery) -> bool {
        (self.due_at, self.token, self.claimed) != (delivery.due_at, delivery.token, delivery.is_claimed)
    }
}
