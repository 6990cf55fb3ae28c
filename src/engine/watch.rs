//! Waking those who wait for a task to change.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::sync::Notify;

use crate::{engine::feed::Feed, task::RequestId};

/// Those who wait, by task, and those who listen to all. Nobody is remembered who does not wait now.
pub(crate) struct Watchers {
    feed: Feed,
    count: AtomicUsize,
    by_task: Mutex<HashMap<RequestId, (usize, Arc<Notify>)>>,
}

/// Somebody who waits for a task to change. Dropped, they are forgotten.
pub(crate) struct Watcher<'a> {
    watchers: &'a Watchers,
    id: RequestId,
    changed: Arc<Notify>,
}

impl Watchers {
    pub(crate) fn new() -> Self {
        Self {
            feed: Feed::new(),
            count: AtomicUsize::new(0),
            by_task: Mutex::default(),
        }
    }

    /// How many wait.
    pub(crate) fn count(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// The changes of all tasks.
    #[cfg_attr(not(feature = "api"), expect(dead_code, reason = "only the task API listens"))]
    pub(crate) const fn feed(&self) -> &Feed {
        &self.feed
    }

    /// Begins to wait for `id`. Look at the task after this: what changed before is not told.
    pub(crate) fn watch(&self, id: RequestId) -> Watcher<'_> {
        self.count.fetch_add(1, Ordering::SeqCst);
        let mut by_task = self.by_task.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = by_task.entry(id).or_default();
        entry.0 += 1;
        Watcher {
            watchers: self,
            id,
            changed: entry.1.clone(),
        }
    }

    /// Tells everybody that `id` changed: those who wait for it, and those who listen to all. Costs two loads where nobody waits at all.
    pub(crate) fn changed(&self, id: RequestId) {
        self.feed.note(id);
        self.wake(id);
    }

    /// Wakes those who wait for `id`, about something that is not for those who listen to all.
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
    /// What is notified at every change: enable it before looking at the task.
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
