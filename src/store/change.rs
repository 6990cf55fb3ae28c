//! Changes of rows, and their conditions.

use std::{sync::Arc, time::Duration};

use super::{Columns, OutboxRow, Row};
use crate::{
    task::{Destination, FenceToken, RequestId, TaskRecord, TaskState, envelope::Payload},
    time::Timestamp,
};

/// A change of one task, which a store makes whole or not at all.
///
/// A change is decided on the row as it was read. The store makes it only if its conditions [hold](Self::holds);
/// otherwise it answers with the current row.
///
/// # Examples
///
/// Stops the task `id`, which waits. [`Ledger::stop`](crate::store::Ledger::stop) does it in this way:
///
/// ```
/// use std::sync::Arc;
///
/// # use bytes::Bytes;
/// # use http::{HeaderMap, Method, Uri};
/// use tower_respond_async::{
///     store::{Change, Committed, Guard, MemoryStore, TaskStore, Which},
///     task::Scope,
/// };
/// # use tower_respond_async::{store::{Insert, Ledger}, task::{CapturedRequest, NewTask, RequestId}};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), tower_respond_async::store::StoreError> {
/// # let request = CapturedRequest::new(Method::GET, Uri::from_static("/"), HeaderMap::new(), Bytes::new());
/// # let id = RequestId::from_bytes([7; 16]);
/// let store = MemoryStore::new();
/// # let _ = Ledger::of(store.clone()).insert(Insert::new(NewTask::new(id, Arc::new(request)))).await?;
/// let mut row = store.rows(&Scope::All, &Which::Id(id)).await?.remove(0);
/// let now = store.now();
/// let _ = Arc::make_mut(row.restore()).stop(now);
///
/// let change = Change::between(&row, row.record.clone(), now);
/// assert_eq!(change.guard, Guard::Version(row.version));
/// assert!(matches!(store.commit(change.clone()).await?, Committed::Done));
/// assert!(matches!(store.commit(change).await?, Committed::Stale(Some(_))), "the row has a newer version");
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Change {
    /// The id of the task.
    pub id: RequestId,
    /// The condition on the row.
    pub guard: Guard,
    /// The task after the change. `None` removes the task with everything that belongs to it, except its key, which is
    /// kept for its window.
    pub to: Option<Next>,
    /// A request that replaces the stored one.
    pub request: Option<Payload>,
    /// What happens to the response. The record says whether there is one, so a store may treat a missing response as
    /// damage.
    pub response: Response,
}

/// The condition for a change. The store checks it and makes the change in one atomic step.
///
/// See the example of [`Change`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Guard {
    /// The row has this version.
    Version(u64),
    /// The row has this version, and its lease has run out by the store's clock. A renewal raises no version, so
    /// without this condition a rescue that saw the lease run out could take the task from a holder that has renewed it
    /// since.
    Lapsed(u64),
}

/// A row after a change.
///
/// [Making a change](crate::guide::writing_a_store#making-a-change) in the guide has an example.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Next {
    /// The record.
    pub record: Arc<TaskRecord>,
    /// The columns. Times that are counted from the store's now are in [`timers`](Self::timers), and override these.
    pub columns: Columns,
    /// The times that the store computes by its own clock.
    pub timers: Timers,
    /// The changes of the outbox.
    pub outbox: Vec<OutboxChange>,
}

/// Times, as durations from the store's now. `None` means the time in the columns.
///
/// [`Next::after`] applies them.
/// [Making a change](crate::guide::writing_a_store#making-a-change) in the guide has an example.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Timers {
    /// For [`Columns::run_at`].
    pub run_at: Option<Duration>,
    /// For [`Columns::expires_at`].
    pub expires_at: Option<Duration>,
    /// For [`Columns::ended_at`].
    pub ended_at: Option<Duration>,
    /// For [`Columns::rests_at`].
    pub rests_at: Option<Duration>,
}

/// Adds, replaces or removes a row of the outbox.
///
/// [`Change::holds`] checks it and [`Next::after`] applies it.
/// [Making a change](crate::guide::writing_a_store#making-a-change) in the guide has an example of both.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct OutboxChange {
    /// The generation of the task.
    pub generation: u32,
    /// The destination of the completion.
    pub destination: Destination,
    /// The token of the row to replace or remove, as it was when the change was decided. If the row has another token
    /// now, the change is not made. `None` if there was no row.
    pub was: Option<FenceToken>,
    /// The time until it is due, and its token from then on. `None` removes the row.
    pub to: Option<(Duration, FenceToken)>,
}

/// What happens to the stored response.
///
/// # Examples
///
/// ```
/// use bytes::Bytes;
/// use tower_respond_async::store::{Payload, Response};
///
/// fn apply(response: Response, stored: &mut Option<Payload>) {
///     match response {
///         Response::Keep => {}
///         Response::Put(payload) => *stored = Some(payload),
///         Response::Drop => *stored = None,
///     }
/// }
///
/// let mut stored = Some(Payload::new(Bytes::from_static(b"head"), Bytes::from_static(b"body")));
/// apply(Response::Keep, &mut stored);
/// assert!(stored.is_some());
/// apply(Response::Drop, &mut stored);
/// assert!(stored.is_none());
/// ```
#[derive(Clone, Debug, Default)]
pub enum Response {
    /// The response stays, if there is one.
    #[default]
    Keep,
    /// This response is stored from now on.
    Put(Payload),
    /// The response is removed.
    Drop,
}

/// The result of a commit.
///
/// See the example of [`Change`].
#[derive(Clone, Debug)]
#[must_use]
pub enum Committed {
    /// The change was made.
    Done,
    /// The change was not made. Contains the current row, or `None` if there is no such task.
    Stale(Option<Box<Row>>),
}

impl Guard {
    /// Whether the condition holds for `row` at `now`, a time of the store's clock.
    #[must_use]
    pub fn holds(self, row: &Row, now: Timestamp) -> bool {
        match self {
            Self::Version(version) => row.version == version,
            Self::Lapsed(version) => row.version == version && row.columns.has_lapsed(now),
        }
    }
}

impl Change {
    /// The change from `row` to `after`, decided at `now` by the store's clock.
    #[must_use]
    pub fn between(row: &Row, after: Arc<TaskRecord>, now: Timestamp) -> Self {
        let (columns, before) = (Columns::of(&after), &row.columns);
        // A time that has changed is counted from now, unless it lies before now.
        let timer = |to: Timestamp, from: Timestamp| (to != from && to >= now).then(|| to.since(now));
        let maybe = |to: Option<Timestamp>, from: Option<Timestamp>| match to {
            Some(at) if to != from && at >= now => Some(at.since(now)),
            _ => None,
        };
        let timers = Timers {
            run_at: timer(columns.run_at, before.run_at),
            expires_at: timer(columns.expires_at, before.expires_at),
            ended_at: maybe(columns.ended_at, before.ended_at),
            rests_at: maybe(columns.rests_at, before.rests_at),
        };
        let outbox = match row.outbox.is_empty() && after.deliveries.is_empty() {
            true => Vec::new(),
            false => outbox_changes(&row.outbox, &after, now),
        };
        Self {
            id: row.id,
            guard: Guard::Version(row.version),
            to: Some(Next {
                record: after,
                columns,
                timers,
                outbox,
            }),
            request: None,
            response: Response::Keep,
        }
    }

    /// Whether the change makes a completion due at once. Other handles receive that as
    /// [news](crate::store::News::outbox).
    #[must_use]
    pub fn brings_completion(&self) -> bool {
        let outbox = self.to.as_ref().map_or(&[][..], |next| &next.outbox);
        outbox
            .iter()
            .any(|change| change.to.as_ref().is_some_and(|(due, _)| due.is_zero()))
    }

    /// Whether the change asks the holder of the task to stop. Its handle receives that as
    /// [news](crate::store::News::stops).
    #[must_use]
    pub fn asks_to_stop(&self) -> bool {
        let next = self.to.as_ref();
        next.is_some_and(|next| next.columns.state == TaskState::Stopping)
    }

    /// The change that removes the task of `row`.
    #[must_use]
    pub const fn removal(row: &Row) -> Self {
        Self {
            id: row.id,
            guard: Guard::Version(row.version),
            to: None,
            request: None,
            response: Response::Keep,
        }
    }

    /// Whether the change may be made to `row`. Call it under the lock or transaction that makes the write atomic.
    #[must_use]
    pub fn holds(&self, row: &Row, now: Timestamp) -> bool {
        let outbox = self.to.as_ref().map_or(&[][..], |next| &next.outbox);
        self.guard.holds(row, now)
            && outbox.iter().all(|change| {
                let found = row.outbox_row(change.generation, &change.destination);
                found.map(|found| found.token) == change.was
            })
    }
}

impl Next {
    /// The row that follows `row`.
    ///
    /// A task that stays held under its token keeps the lease in `row`, which may have been renewed since. Progress is
    /// kept until the next claim or generation.
    #[must_use]
    pub fn after(self, row: &Row, now: Timestamp) -> Row {
        let Self {
            record,
            mut columns,
            timers,
            outbox: changes,
        } = self;
        let at = |after: Duration| now.saturating_add(after);
        columns.run_at = timers.run_at.map_or(columns.run_at, at);
        columns.expires_at = timers.expires_at.map_or(columns.expires_at, at);
        columns.ended_at = timers.ended_at.map(at).or(columns.ended_at);
        columns.rests_at = timers.rests_at.map(at).or(columns.rests_at);
        if columns.is_held() && row.is_held_by(columns.token) {
            columns.lease_until = row.columns.lease_until;
        }
        columns.progress = match record.generation == row.record.generation {
            true => row.columns.progress.clone(),
            false => None,
        };
        let mut outbox = row.outbox.clone();
        for change in changes {
            let is_of = |row: &OutboxRow| row.generation == change.generation && row.destination == change.destination;
            outbox.retain(|row| !is_of(row));
            outbox.extend(change.to.map(|(due, token)| OutboxRow {
                generation: change.generation,
                destination: change.destination,
                due_at: at(due),
                token,
                claimed: false,
            }));
        }
        Row {
            id: row.id,
            version: row.version + 1,
            columns,
            outbox,
            record,
        }
    }
}

/// The changes that lead from `rows` to the pending deliveries of `after`.
fn outbox_changes(rows: &[OutboxRow], after: &TaskRecord, now: Timestamp) -> Vec<OutboxChange> {
    let pending = || after.deliveries.iter().filter(|delivery| delivery.is_pending());
    let gone = rows.iter().filter(|row| !pending().any(|delivery| row.is_of(delivery)));
    let gone = gone.map(|row| OutboxChange {
        generation: row.generation,
        destination: row.destination.clone(),
        was: Some(row.token),
        to: None,
    });
    let come = pending().filter_map(|delivery| {
        let was = rows.iter().find(|row| row.is_of(delivery));
        let changed = was.is_none_or(|row| row.differs(delivery));
        changed.then(|| OutboxChange {
            generation: delivery.generation,
            destination: delivery.destination.clone(),
            was: was.map(|row| row.token),
            to: Some((delivery.due_at.since(now), delivery.token)),
        })
    });
    gone.chain(come).collect()
}
