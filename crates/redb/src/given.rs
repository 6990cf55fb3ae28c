//! Operations in encoded form, prepared before they reach the writer.
//!
//! All operations share one writer, so the caller's thread does the encoding.

use crate::{frame::Sealed, tables::seal_payload};
use tower_respond_async::store::{Change, NewRow, Payload, Response};

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
    /// Without the payloads, which are below.
    pub(crate) change: Change,
    /// Empty if the change removes the task.
    pub(crate) record: Vec<u8>,
    pub(crate) request: Option<Sealed>,
    /// `None` keeps the response; `Some(None)` removes it.
    pub(crate) response: Option<Option<Sealed>>,
}

impl From<Change> for GivenChange {
    fn from(mut change: Change) -> Self {
        let id = change.id;
        let seal = |payload: Payload| seal_payload(id, &payload);
        Self {
            record: change.to.as_ref().map_or_else(Vec::new, |next| next.record.encode()),
            request: change.request.take().map(seal),
            response: match std::mem::take(&mut change.response) {
                Response::Keep => None,
                Response::Put(payload) => Some(Some(seal(payload))),
                Response::Drop => Some(None),
            },
            change,
        }
    }
}
