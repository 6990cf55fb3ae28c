//! Tasks that were held by a dead process.

use std::{
    collections::BTreeSet,
    sync::{Mutex, MutexGuard, PoisonError},
};

use crate::{store::Row, task::RequestId};

/// Tasks that a process held that is known to be dead, or of which it held a completion. For an exclusive store that is
/// every held task and completion when the store is opened. They are kept in memory only: the next process finds them
/// in the same way.
///
/// Until a change of an orphan is made, [`due`](crate::store::TaskStore::due) returns it as
/// [`Orphaned`](crate::store::DueReason::Orphaned), claims return neither it nor its completions, and renewals answer that
/// its claim is lost.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
///
/// # use bytes::Bytes;
/// # use http::{HeaderMap, Method, Uri};
/// use tower_respond_async::{
///     store::kit::Orphans,
///     task::{FenceToken, WorkerId},
///     time::Timestamp,
/// };
/// # use tower_respond_async::{store::NewRow, task::{CapturedRequest, NewTask, RequestId, TaskRecord}};
///
/// # let request = CapturedRequest::new(Method::GET, Uri::from_static("/"), HeaderMap::new(), Bytes::new());
/// # let task = NewTask::new(RequestId::from_bytes([7; 16]), request.into());
/// let now = Timestamp::from_millis(1_000);
/// # let new = NewRow::new(TaskRecord::accepted(&task, now).into(), task.request.to_payload());
/// let mut row = new.row(FenceToken::NONE, now);
/// row.claim(WorkerId::new("w", 1), Duration::from_secs(30), FenceToken::NONE, now);
///
/// // The store is opened: the process of this claim has ended.
/// let orphans = Orphans::default();
/// assert!(orphans.find(&row));
/// assert_eq!(orphans.first(10), [row.id]);
///
/// // A change of the task was made.
/// assert!(orphans.settle(row.id));
/// assert!(!orphans.contains(row.id));
/// ```
#[derive(Debug, Default)]
pub struct Orphans(Mutex<BTreeSet<RequestId>>);

impl Orphans {
    /// Looks at a row while the store is opened. Answers whether it is an orphan.
    pub fn find(&self, row: &Row) -> bool {
        let is_orphan = row.columns.is_held() || row.outbox.iter().any(|completion| completion.claimed);
        if is_orphan {
            self.lock().insert(row.id);
        }
        is_orphan
    }

    /// Records that a change of a task was made. Answers whether the task was an orphan until now.
    pub fn settle(&self, id: RequestId) -> bool {
        self.lock().remove(&id)
    }

    /// Whether a task is an orphan.
    #[must_use]
    pub fn contains(&self, id: RequestId) -> bool {
        self.lock().contains(&id)
    }

    /// Up to `max` orphans.
    #[must_use]
    pub fn first(&self, max: usize) -> Vec<RequestId> {
        self.lock().iter().take(max).copied().collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeSet<RequestId>> {
        // Every change is a single step, so a panic leaves the set in order.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
