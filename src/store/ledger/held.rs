//! A claim in the hands of its holder.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::{
    store::{Change, Response, Row, Settled},
    task::{LeaseRef, TaskRecord, lifecycle::Outcome},
    time::Timestamp,
};

/// A claim as its holder keeps it: with the row, so that to settle it takes one call and no read.
///
/// It is of this claim only. Once the task is settled, or somebody else's, every further settlement is
/// [`Fenced`](Settled::Fenced).
#[derive(Debug)]
pub struct Held {
    lease: LeaseRef,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    /// The row that a settlement is decided on, its record restored; once one was sent, with the record that it is to have.
    row: Row,
    state: State,
}

#[derive(Clone, Copy, Debug)]
enum State {
    /// Nothing was sent.
    Fresh,
    /// One was sent that leads there, and it is not known whether it arrived; perhaps not for the first time.
    Sent { settled: Settled, again: bool },
    /// It is somebody else's, or over.
    Over,
}

impl Held {
    /// The claim of a row, and the record to go by.
    pub(super) fn of(mut row: Row) -> (Arc<TaskRecord>, Self) {
        let record = row.restore().clone();
        let held = Self {
            lease: row.lease(),
            inner: Mutex::new(Inner {
                row,
                state: State::Fresh,
            }),
        };
        (record, held)
    }

    /// Which claim of which task.
    #[must_use]
    pub const fn lease(&self) -> LeaseRef {
        self.lease
    }

    /// The change that settles it, and what that leads to. `None` if it holds no more. Asked again it is the same change, if
    /// the outcome is.
    pub(super) fn settle(&self, outcome: &Outcome, now: Timestamp) -> Option<(Change, Settled)> {
        let mut inner = self.inner();
        let Inner { row, state } = &mut *inner;
        let settled = match *state {
            State::Fresh => {
                *state = State::Over;
                // Nobody else has the record by now, mostly: then it is not copied.
                let record = Arc::make_mut(&mut row.record);
                let next = record.settle(self.lease.token, outcome, now).ok()?;
                let pending = record.deliveries.iter().filter(|delivery| delivery.is_pending());
                let outbox = pending.count() > row.outbox.len();
                let settled = Settled::Accepted { state: next, outbox };
                *state = State::Sent { settled, again: false };
                settled
            }
            State::Sent { settled, .. } => {
                *state = State::Sent { settled, again: true };
                settled
            }
            State::Over => return None,
        };
        let mut change = Change::between(row, row.record.clone(), now);
        if let Settled::Accepted { state: next, .. } = settled
            && let Some(response) = outcome.response().filter(|_| outcome.is_kept_as(next))
        {
            change.response = Response::Put(response.to_payload());
        }
        Some((change, settled))
    }

    /// Whether the row is as this holder's settlement made it when it was sent before: then that one arrived, and its answer
    /// was lost.
    pub(super) fn is_ours(&self, row: Option<&Row>) -> bool {
        let inner = self.inner();
        let again = matches!(inner.state, State::Sent { again: true, .. });
        again && row.is_some_and(|row| row.record == inner.row.record)
    }

    /// The row is another one now.
    pub(super) fn look_again(&self, row: Option<Row>) {
        let mut inner = self.inner();
        match row.filter(|row| row.is_held_by(self.lease.token)) {
            Some(mut row) => {
                row.restore();
                *inner = Inner {
                    row,
                    state: State::Fresh,
                };
            }
            None => inner.state = State::Over,
        }
    }

    pub(super) fn let_go(&self) {
        self.inner().state = State::Over;
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
