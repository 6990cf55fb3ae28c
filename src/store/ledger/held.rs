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
    state: Mutex<State>,
}

#[derive(Debug)]
enum State {
    /// Nothing was sent. The record is restored.
    Fresh(Box<Row>),
    /// This was sent, and it is not known whether it arrived.
    Sent(Box<Sent>),
    /// It is somebody else's, or over.
    Over,
}

#[derive(Debug)]
struct Sent {
    /// The row that it was decided on, with the record that it is to have.
    row: Row,
    response: Response,
    settled: Settled,
    /// Whether this is not the first time.
    again: bool,
}

impl Held {
    /// The claim of a row, and the record to go by.
    pub(super) fn of(mut row: Row) -> (Arc<TaskRecord>, Self) {
        let record = row.restore().clone();
        let held = Self {
            lease: row.lease(),
            state: Mutex::new(State::Fresh(Box::new(row))),
        };
        (record, held)
    }

    /// Which claim of which task.
    #[must_use]
    pub const fn lease(&self) -> LeaseRef {
        self.lease
    }

    /// The change that settles it, and what that leads to. `None` if it holds no more. Asked again, it is the same change,
    /// whatever the outcome is said to be then.
    pub(super) fn settle(&self, outcome: &Outcome, now: Timestamp) -> Option<(Change, Settled)> {
        let mut state = self.state();
        let sent = match std::mem::replace(&mut *state, State::Over) {
            State::Fresh(mut row) => {
                // Nobody else has the record by now, mostly: then it is not copied.
                let record = Arc::make_mut(&mut row.record);
                let next = record.settle(self.lease.token, outcome, now).ok()?;
                let pending = record.deliveries.iter().filter(|delivery| delivery.is_pending());
                let outbox = pending.count() > row.outbox.len();
                let output = outcome.output().filter(|_| outcome.is_kept_as(next));
                Box::new(Sent {
                    row: *row,
                    response: output.map_or(Response::Keep, |output| Response::Put(output.to_payload())),
                    settled: Settled::Accepted { state: next, outbox },
                    again: false,
                })
            }
            State::Sent(mut sent) => {
                sent.again = true;
                sent
            }
            State::Over => return None,
        };
        let mut change = Change::between(&sent.row, sent.row.record.clone(), now);
        change.response = sent.response.clone();
        let settled = sent.settled;
        *state = State::Sent(sent);
        Some((change, settled))
    }

    /// Whether the row is as this holder's settlement made it when it was sent before: then that one arrived, and its answer
    /// was lost.
    pub(super) fn is_ours(&self, row: Option<&Row>) -> bool {
        match (&*self.state(), row) {
            (State::Sent(sent), Some(row)) => sent.again && row.record == sent.row.record,
            _ => false,
        }
    }

    /// The row is another one now.
    pub(super) fn look_again(&self, row: Option<Row>) {
        let held = row.filter(|row| row.is_held_by(self.lease.token));
        *self.state() = match held {
            Some(mut row) => {
                let _ = row.restore();
                State::Fresh(Box::new(row))
            }
            None => State::Over,
        };
    }

    pub(super) fn let_go(&self) {
        *self.state() = State::Over;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
