//! Waking those who wait for a task to change.

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
    engine::watch::feed::{Feed, Listener, Place},
    task::RequestId,
};

/// Those who wait, by task, and those who listen to all. Nobody is remembered who does not wait now.
pub(crate) struct Watchers {
    feed: Feed,
    /// Whether the driver has seen that somebody is there.
    attended: AtomicBool,
    driver: Arc<Notify>,
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
    /// `driver` is notified when somebody comes and none was there.
    pub(crate) fn new(driver: &Arc<Notify>) -> Self {
        Self {
            feed: Feed::new(),
            attended: AtomicBool::new(false),
            driver: driver.clone(),
            count: AtomicUsize::new(0),
            by_task: Mutex::default(),
        }
    }

    /// How many wait.
    pub(crate) fn count(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// The changes of all tasks.
    pub(crate) const fn feed(&self) -> &Feed {
        &self.feed
    }

    /// Begins to wait for `id`. Look at the task after this: what changed before is not told.
    pub(crate) fn watch(&self, id: RequestId) -> Watcher<'_> {
        self.count.fetch_add(1, Ordering::SeqCst);
        self.call_driver();
        let mut by_task = self.by_task.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = by_task.entry(id).or_default();
        entry.0 += 1;
        Watcher {
            watchers: self,
            id,
            changed: entry.1.clone(),
        }
    }

    /// Begins to hear of every change, from `place` on where that is still remembered.
    #[cfg_attr(not(feature = "api"), expect(dead_code, reason = "only the task API listens"))]
    pub(crate) fn listen(&self, place: Option<Place>) -> Listener<'_> {
        let listener = self.feed.listen(place);
        self.call_driver();
        listener
    }

    /// Whether anybody waits or listens.
    pub(crate) fn is_watched(&self) -> bool {
        self.count.load(Ordering::SeqCst) > 0 || self.feed.is_heard()
    }

    /// The tasks that somebody waits for.
    pub(crate) fn ids(&self) -> Vec<RequestId> {
        let by_task = self.by_task.lock().unwrap_or_else(PoisonError::into_inner);
        let mut ids: Vec<_> = by_task.keys().copied().collect();
        drop(by_task);
        // What a process does is to depend on no hash.
        ids.sort_unstable();
        ids
    }

    /// Whether the driver has changes told.
    pub(crate) fn note_attended(&self, attended: bool) {
        self.attended.store(attended, Ordering::SeqCst);
        // Who came just before has not called the driver.
        if !attended && self.is_watched() {
            self.driver.notify_one();
        }
    }

    fn call_driver(&self) {
        if !self.attended.load(Ordering::SeqCst) {
            self.driver.notify_one();
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
