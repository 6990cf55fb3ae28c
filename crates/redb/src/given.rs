//! What is given to the writer, written out before it is asked.
//!
//! There is one writer and everybody waits for it, so what belongs to one operation alone is done on its caller's thread.

use crate::{frame::Sealed, tables::seal_payload};
use tower_respond_async::store::{Change, NewRow, Response};

/// A task to store.
#[derive(Debug)]
pub(crate) struct GivenTask {
    pub(crate) task: NewRow,
    pub(crate) record: Vec<u8>,
    pub(crate) request: Sealed,
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
pub(crate) struct GivenChange {
    pub(crate) change: Change,
    /// Empty for one that removes the task.
    pub(crate) record: Vec<u8>,
    pub(crate) request: Option<Sealed>,
    /// `None` if it stays, and `Some(None)` if none is kept.
    pub(crate) response: Option<Option<Sealed>>,
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
