//! Claims, as their holders keep them.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::{
    store::{Change, Response, Row, Settled},
    task::{LeaseRef, TaskRecord, lifecycle::Outcome},
    time::Timestamp,
};

/// A claim and its row, as the holder keeps them. With the row, settling the claim takes one call and no read.
///
/// Once the task is settled, or another claim holds it, every further settlement is [`Fenced`](Settled::Fenced).
///
/// See the [example](crate::store::Ledger#example-run-a-task-without-an-engine) of `Ledger`.
#[derive(Debug)]
pub struct Held {
    lease: LeaseRef,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    /// The row on which a settlement is decided, with its record restored. Once a settlement was sent, the record is
    /// the one after that settlement.
    row: Row,
    state: State,
}

#[derive(Clone, Copy, Debug)]
enum State {
    /// No settlement was sent.
    Fresh,
    /// A settlement with this result was sent, and may have arrived or not. `again`: it was sent more than once.
    Sent { settled: Settled, again: bool },
    /// The claim is settled, or no longer holds.
    Over,
}

impl Held {
    /// The record of a claimed row, and its claim.
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

    /// The task and the token of the claim.
    #[must_use]
    pub const fn lease(&self) -> LeaseRef {
        self.lease
    }

    /// The change that settles the claim, and its result. `None` if the claim no longer holds. A second call with the
    /// same outcome returns the same change.
    pub(super) fn settle(&self, outcome: &Outcome, now: Timestamp) -> Option<(Change, Settled)> {
        let mut inner = self.inner();
        let Inner { row, state } = &mut *inner;
        let settled = match *state {
            State::Fresh => {
                *state = State::Over;
                // There is rarely another reference to the record by now, so this rarely copies it.
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

    /// Whether `row` is the result of a settlement that was sent before. Then it arrived, and its answer was lost.
    pub(super) fn is_ours(&self, row: Option<&Row>) -> bool {
        let inner = self.inner();
        let again = matches!(inner.state, State::Sent { again: true, .. });
        again && row.is_some_and(|row| row.record == inner.row.record)
    }

    /// Takes `row` as the row to settle, or ends the claim if it does not hold there.
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
