//! What is given to the writer, written out before it is asked.
//!
//! There is one writer and everybody waits for it, so what belongs to one operation alone is done on its caller's thread.

use super::{frame::Sealed, tables::seal_payload};
use crate::store::{Change, NewRow, Response};

/// A task to store.
#[derive(Debug)]
pub(super) struct GivenTask {
    pub(super) task: NewRow,
    pub(super) record: Vec<u8>,
    pub(super) request: Sealed,
}

impl From<NewRow> for GivenTask {
    fn from(task: NewRow) -> Self {
        Self {
            record: task.record.encode(),
            request: seal_payload(task.record.id, &task.request),
            task,
        }
    }
}

/// A change to make.
#[derive(Debug)]
pub(super) struct GivenChange {
    pub(super) change: Change,
    /// Empty for one that removes the task.
    pub(super) record: Vec<u8>,
    pub(super) request: Option<Sealed>,
    /// `None` if it stays, and `Some(None)` if none is kept.
    pub(super) response: Option<Option<Sealed>>,
}

impl From<Change> for GivenChange {
    fn from(change: Change) -> Self {
        let seal = |payload| seal_payload(change.id, payload);
        Self {
            record: change.to.as_ref().map_or_else(Vec::new, |next| next.record.encode()),
            request: change.request.as_ref().map(seal),
            response: match &change.response {
                Response::Keep => None,
                Response::Put(payload) => Some(Some(seal(payload))),
                Response::Drop => Some(None),
            },
            change,
        }
    }
}
