//! A flag that is set once and can be awaited.

use crate::engine::sync::{AtomicBool, Notify, Ordering};

/// A flag that is set once, and never unset.
pub(crate) struct Latch {
    is_set: AtomicBool,
    waiters: Notify,
}

impl Latch {
    pub(crate) fn new() -> Self {
        Self {
            is_set: AtomicBool::new(false),
            waiters: Notify::new(),
        }
    }

    /// Sets the flag. A second call changes nothing.
    pub(crate) fn set(&self) {
        if !self.is_set.swap(true, Ordering::SeqCst) {
            self.waiters.notify_waiters();
        }
    }

    pub(crate) fn is_set(&self) -> bool {
        self.is_set.load(Ordering::SeqCst)
    }

    /// Resolves when the flag is set.
    pub(crate) async fn wait(&self) {
        // Created before the flag is read, so that a notification in between is not missed.
        let notified = self.waiters.notified();
        if !self.is_set() {
            notified.await;
        }
    }
}
