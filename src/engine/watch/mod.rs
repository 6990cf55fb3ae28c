//! Wakes callers that wait for a task to change.

#[cfg_attr(not(feature = "api"), expect(dead_code, reason = "only the task API listens"))]
pub(crate) mod feed;

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use tokio::sync::Notify;

use crate::{
    engine::watch::feed::{Feed, Listener, Position},
    task::RequestId,
};

/// The waiters of each task, and the listeners to all tasks.
pub(crate) struct Watchers {
    feed: Feed,
    /// Whether the driver makes the store report changes. If not, a new waiter notifies the driver.
    attended: AtomicBool,
    driver: Arc<Notify>,
    count: AtomicUsize,
    by_task: Mutex<HashMap<RequestId, (usize, Arc<Notify>)>>,
}

/// A waiter for a change of a task. Dropping it ends the wait.
pub(crate) struct Watcher<'a> {
    watchers: &'a Watchers,
    id: RequestId,
    changed: Arc<Notify>,
}

impl Watchers {
    /// Creates the watchers. A waiter notifies `driver` unless changes are reported already.
    pub(crate) fn new(driver: &Arc<Notify>) -> Self {
        Self {
            feed: Feed::new(),
            attended: AtomicBool::new(false),
            driver: driver.clone(),
            count: AtomicUsize::new(0),
            by_task: Mutex::default(),
        }
    }

    /// The number of waiters.
    pub(crate) fn count(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// The changes of all tasks.
    pub(crate) const fn feed(&self) -> &Feed {
        &self.feed
    }

    /// Begins to wait for a change of `id`. Read the task after this call: earlier changes are not reported.
    pub(crate) fn watch(&self, id: RequestId) -> Watcher<'_> {
        self.count.fetch_add(1, Ordering::SeqCst);
        self.wake_driver();
        let mut by_task = self.by_task.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = by_task.entry(id).or_default();
        entry.0 += 1;
        Watcher {
            watchers: self,
            id,
            changed: entry.1.clone(),
        }
    }

    /// Begins to listen to the changes of all tasks, from `position` if its changes are still kept.
    #[cfg_attr(not(feature = "api"), expect(dead_code, reason = "only the task API listens"))]
    pub(crate) fn listen(&self, position: Option<Position>) -> Listener<'_> {
        let listener = self.feed.listen(position);
        self.wake_driver();
        listener
    }

    /// Whether there are waiters or listeners.
    pub(crate) fn is_watched(&self) -> bool {
        self.count.load(Ordering::SeqCst) > 0 || self.feed.has_listeners()
    }

    /// The tasks with waiters.
    pub(crate) fn ids(&self) -> Vec<RequestId> {
        let by_task = self.by_task.lock().unwrap_or_else(PoisonError::into_inner);
        let mut ids: Vec<_> = by_task.keys().copied().collect();
        drop(by_task);
        // The order must not depend on hashes.
        ids.sort_unstable();
        ids
    }

    /// Records whether the driver makes the store report changes.
    pub(crate) fn note_attended(&self, attended: bool) {
        self.attended.store(attended, Ordering::SeqCst);
        // A waiter that came just before this change of the flag has not notified the driver.
        if !attended && self.is_watched() {
            self.driver.notify_one();
        }
    }

    fn wake_driver(&self) {
        if !self.attended.load(Ordering::SeqCst) {
            self.driver.notify_one();
        }
    }

    /// Reports a change of `id` to its waiters and to the listeners. Costs two atomic loads if there are none.
    pub(crate) fn changed(&self, id: RequestId) {
        self.feed.note(id);
        self.wake(id);
    }

    /// Wakes the waiters of `id`, but not the listeners.
    pub(crate) fn wake(&self, id: RequestId) {
        if self.count.load(Ordering::SeqCst) == 0 {
            return;
        }
        let by_task = self.by_task.lock().unwrap_or_else(PoisonError::into_inner);
        let changed = by_task.get(&id).map(|(_, changed)| changed.clone());
        drop(by_task);
        if let Some(changed) = changed {
            changed.notify_waiters();
        }
    }
}

impl Watcher<'_> {
    /// Notified at every change of the task. Enable the notification before you read the task.
    pub(crate) fn changed(&self) -> &Notify {
        &self.changed
    }
}

impl Drop for Watcher<'_> {
    fn drop(&mut self) {
        let mut by_task = self.watchers.by_task.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(entry) = by_task.get_mut(&self.id) {
            entry.0 -= 1;
            if entry.0 == 0 {
                by_task.remove(&self.id);
            }
        }
        drop(by_task);
        self.watchers.count.fetch_sub(1, Ordering::SeqCst);
    }
}
