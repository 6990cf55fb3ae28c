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
    /// This was sent, and led there; it is not known whether it arrived.
    Sent { row: Box<Row>, settled: Settled },
    /// It is somebody else's, or over.
    Over,
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

    /// The change that settles it, and what that leads to. `None` if it holds no more.
    pub(super) fn settle(&self, outcome: &Outcome, now: Timestamp) -> Option<(Change, Settled)> {
        let mut state = self.state();
        let (row, settled) = match std::mem::replace(&mut *state, State::Over) {
            State::Fresh(mut row) => {
                let before = row.outbox.len();
                // Nobody else has the record by now, mostly: then it is not copied.
                let record = Arc::make_mut(&mut row.record);
                let state = record.settle(self.lease.token, outcome, now).ok()?;
                let pending = record.deliveries.iter().filter(|delivery| delivery.is_pending());
                let outbox = pending.count() > before;
                (row, Settled::Accepted { state, outbox })
            }
            State::Sent { row, settled } => (row, settled),
            State::Over => return None,
        };
        let mut change = Change::between(&row, row.record.clone(), now);
        if let Settled::Accepted { state, .. } = settled
            && let Some(output) = outcome.clone().output_for(state)
        {
            change.response = Response::Put(output.to_payload());
        }
        *state = State::Sent { row, settled };
        Some((change, settled))
    }

    /// Whether the row is as this holder's settlement made it: then that one arrived, and its answer was lost.
    pub(super) fn is_ours(&self, row: Option<&Row>) -> bool {
        match (&*self.state(), row) {
            (State::Sent { row: sent, .. }, Some(row)) => row.record == sent.record,
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
