//! What was held by a process that is gone.

use std::{
    collections::BTreeSet,
    sync::{Mutex, MutexGuard, PoisonError},
};

use crate::{store::Row, task::RequestId};

/// The tasks that a process held, or a completion of them, which is known to be dead: to an exclusive store, all that is held
/// when it is opened. They are in memory only, since the next process finds them the same way.
///
/// Until a change of an orphan was made, [`due`](crate::store::TaskStore::due) shows it as
/// [`Orphaned`](crate::store::Why::Orphaned), no claim hands it or its completions out, and no renewal finds it.
#[derive(Debug, Default)]
pub struct Orphans(Mutex<BTreeSet<RequestId>>);

impl Orphans {
    /// Looks at a row that is there as the store is opened. Answers whether it is an orphan.
    pub fn find(&self, row: &Row) -> bool {
        let is_orphan = row.columns.is_held() || row.outbox.iter().any(|completion| completion.claimed);
        if is_orphan {
            self.lock().insert(row.id);
        }
        is_orphan
    }

    /// Notes that a change of a task was made. Answers whether it was an orphan until now.
    pub fn settle(&self, id: RequestId) -> bool {
        self.lock().remove(&id)
    }

    /// Whether a task is one.
    #[must_use]
    pub fn contains(&self, id: RequestId) -> bool {
        self.lock().contains(&id)
    }

    /// Up to `max` of them.
    #[must_use]
    pub fn first(&self, max: usize) -> Vec<RequestId> {
        self.lock().iter().take(max).copied().collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeSet<RequestId>> {
        // Changed in one step, so that a panic leaves it in order.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
