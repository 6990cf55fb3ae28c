//! A flag that is set once and can be awaited.

use crate::engine::sync::{AtomicBool, Notify, Ordering};

/// A flag that is set once, and never unset.
pub(crate) struct Told {
    told: AtomicBool,
    waiting: Notify,
}

impl Told {
    pub(crate) fn new() -> Self {
        Self {
            told: AtomicBool::new(false),
            waiting: Notify::new(),
        }
    }

    /// Sets the flag. A second call changes nothing.
    pub(crate) fn tell(&self) {
        if !self.told.swap(true, Ordering::SeqCst) {
            self.waiting.notify_waiters();
        }
    }

    pub(crate) fn is_told(&self) -> bool {
        self.told.load(Ordering::SeqCst)
    }

    /// Resolves when the flag is set.
    pub(crate) async fn told(&self) {
        // Created before the flag is read, so that a notification in between is not missed.
        let told = self.waiting.notified();
        if !self.is_told() {
            told.await;
        }
    }
}
