//! What the indexes know of a record.

use super::{Due, Outbox, Place, Queue, outbox};
use crate::{
    task::{Destination, RequestId, TaskRecord, TaskState},
    time::Timestamp,
};

/// All that the indexes know of a record.
#[derive(Debug)]
pub(in crate::store) struct Footprint {
    pub(in crate::store) state: TaskState,
    /// Where it stands in the queue.
    pub(in crate::store) place: Option<Place>,
    /// Whether a worker holds it as its one suspect.
    held_suspect: bool,
    /// Since when nothing is left to be done about it, if nothing is.
    pub(in crate::store) rests: Option<Timestamp>,
    pub(in crate::store) pending: Vec<(Destination, Due)>,
}

impl Footprint {
    pub(in crate::store) fn of(record: &TaskRecord) -> Self {
        Self {
            state: record.state,
            place: Place::of(record),
            held_suspect: record.state.is_held() && record.is_suspect(),
            rests: record.rests_since(),
            pending: outbox::pending(record),
        }
    }

    /// Lets queue and outbox follow a record from here to `after`. Answers whether something may be runnable now that was
    /// not.
    pub(in crate::store) fn follow(&self, after: &Self, record: &TaskRecord, queue: &Queue, outbox: &Outbox) -> bool {
        let id: RequestId = record.id;
        let frees_suspect = self.held_suspect && !after.held_suspect;
        if self.place != after.place || frees_suspect {
            let mut queue = queue.lock();
            if let Some(place) = self.place {
                queue.remove(id, record.tenant.as_ref(), place);
            }
            if let Some(place) = after.place {
                queue.push(id, record.tenant.as_ref(), place);
            }
            if let Some(worker) = record.worker.as_ref().filter(|_| frees_suspect) {
                queue.free_suspect(worker, id);
            }
        }
        outbox.replace(&self.pending, &after.pending);
        frees_suspect || (after.place.is_some() && self.place != after.place)
    }
}
