//! A change of a row, and what it depends on.

use std::{sync::Arc, time::Duration};

use super::{Columns, OutboxRow, Row};
use crate::{
    task::{Destination, FenceToken, RequestId, TaskRecord, TaskState, envelope::Payload},
    time::Timestamp,
};

/// A change of one task, to be made whole or not at all.
///
/// It was decided on the row as its maker saw it. A store makes it if that is still so ([`holds`](Self::holds)), and
/// else answers with the row as it is.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Change {
    /// The task.
    pub id: RequestId,
    /// What must hold.
    pub guard: Guard,
    /// What the task is then. `None` removes it with all that hangs on it, but for its key, which stays for its window.
    pub to: Option<Next>,
    /// Another request than the one that is kept.
    pub request: Option<Payload>,
    /// What becomes of the response. The record says whether there is one, so a store may take one that is missing for damage.
    pub response: Response,
}

/// What must hold for a change to be made, checked with it in one atomic step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Guard {
    /// The row has this version.
    Version(u64),
    /// It has this version, and its lease has run out by the store's clock. A renewal raises no version, so without this a
    /// rescue that saw the lease run out could take the task from a holder that renewed it since.
    Lapsed(u64),
}

/// A row after a change.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Next {
    /// The record.
    pub record: Arc<TaskRecord>,
    /// Its columns. Times that are counted from now are in [`timers`](Self::timers).
    pub columns: Columns,
    /// The times that the store's clock decides.
    pub timers: Timers,
    /// What changes in the outbox.
    pub outbox: Vec<OutboxChange>,
}

/// Times that are so long after the store's now. `None`: as the columns say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Timers {
    /// Of [`Columns::run_at`].
    pub run_at: Option<Duration>,
    /// Of [`Columns::expires_at`].
    pub expires_at: Option<Duration>,
    /// Of [`Columns::ended_at`].
    pub ended_at: Option<Duration>,
    /// Of [`Columns::rests_at`].
    pub rests_at: Option<Duration>,
}

/// A row of the outbox that comes, goes, or is replaced.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct OutboxChange {
    /// Which run-through of the task.
    pub generation: u32,
    /// Where to.
    pub destination: Destination,
    /// The token of the row that goes or is replaced, as the maker of the change saw it: if it is another one, the change is
    /// not made. `None` if there was none.
    pub was: Option<FenceToken>,
    /// After how long it is due, and its token from then on. `None` if it goes.
    pub to: Option<(Duration, FenceToken)>,
}

/// What becomes of the response that is kept.
#[derive(Clone, Debug, Default)]
pub enum Response {
    /// It stays, if there is one.
    #[default]
    Keep,
    /// This one is kept from now on.
    Put(Payload),
    /// None is kept.
    Drop,
}

/// What a commit did.
#[derive(Clone, Debug)]
#[must_use]
pub enum Committed {
    /// The change was made.
    Done,
    /// It was not: the row is this one now, or there is none.
    Stale(Option<Box<Row>>),
}

impl Guard {
    /// Whether it holds of a row.
    #[must_use]
    pub fn holds(self, row: &Row, now: Timestamp) -> bool {
        match self {
            Self::Version(version) => row.version == version,
            Self::Lapsed(version) => row.version == version && row.columns.has_lapsed(now),
        }
    }
}

impl Change {
    /// From `row` to `after`, as decided at `now` by the store's clock.
    #[must_use]
    pub fn between(row: &Row, after: Arc<TaskRecord>, now: Timestamp) -> Self {
        let (columns, before) = (Columns::of(&after), &row.columns);
        // What is counted from now, or lies before it.
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

    /// Whether a completion is to be delivered now that it is made, which other handles are to be
    /// [told](crate::store::News::outbox).
    #[must_use]
    pub fn brings_completion(&self) -> bool {
        let outbox = self.to.as_ref().map_or(&[][..], |next| &next.outbox);
        outbox
            .iter()
            .any(|change| change.to.as_ref().is_some_and(|(due, _)| due.is_zero()))
    }

    /// Whether it asks the holder of the task to stop, who is to be [told](crate::store::News::stops).
    #[must_use]
    pub fn asks_to_stop(&self) -> bool {
        let next = self.to.as_ref();
        next.is_some_and(|next| next.columns.state == TaskState::Stopping)
    }

    /// Takes `row` out.
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

    /// Whether it may be made of `row`: for a store that has it at hand, under whatever makes its write atomic.
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
    /// A task that stays held under its token keeps its lease, which may have been renewed since; its progress stays
    /// until the next claim or generation.
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

/// What leads from these rows to the pending deliveries of `after`.
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
