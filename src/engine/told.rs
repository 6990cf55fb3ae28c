//! Something that is told once, to whoever waits for it and whoever asks later.

use crate::engine::sync::{AtomicBool, Notify, Ordering};

/// Whether it was told.
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

    /// Tells it. Again, it changes nothing.
    pub(crate) fn tell(&self) {
        if !self.told.swap(true, Ordering::SeqCst) {
            self.waiting.notify_waiters();
        }
    }

    pub(crate) fn is_told(&self) -> bool {
        self.told.load(Ordering::SeqCst)
    }

    /// Resolves when it was told.
    pub(crate) async fn told(&self) {
        // Made before the flag is looked at, so that a notification in between is not missed.
        let told = self.waiting.notified();
        if !self.is_told() {
            told.await;
        }
    }
}
