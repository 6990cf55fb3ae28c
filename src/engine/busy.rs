//! Counts what must be over before the engine can be.

use crate::engine::sync::{AtomicBool, AtomicUsize, Notify, Ordering};

/// How many pieces of work are under way. Aligned, so that counting them does not keep other threads from the settings
/// that it would share a cache line with.
#[derive(Default)]
#[repr(align(128))]
pub(crate) struct Busy {
    count: AtomicUsize,
    /// Whether somebody waits for it to be idle: until then, the last one's leaving wakes nobody.
    awaited: AtomicBool,
    idle: Notify,
}

impl Busy {
    pub(crate) fn begin(&self) {
        self.count.fetch_add(1, Ordering::SeqCst);
    }

    pub(crate) fn end(&self) {
        let last = self.count.fetch_sub(1, Ordering::SeqCst) == 1;
        if last && self.awaited.load(Ordering::SeqCst) {
            self.idle.notify_waiters();
        }
    }

    pub(crate) fn count(&self) -> usize {
        self.count.load(Ordering::SeqCst)
    }

    /// Resolves when nothing is under way.
    pub(crate) async fn idle(&self) {
        // Before the count is looked at, while who leaves counts down first and looks here then: one of the two sees the
        // other. SeqCst on both sides makes that so.
        self.awaited.store(true, Ordering::SeqCst);
        loop {
            // Made before the count is looked at, so that the last one's leaving is not missed.
            let idle = self.idle.notified();
            if self.count() == 0 {
                return;
            }
            idle.await;
        }
    }
}
