//! Counts the work that must end before the engine ends.

use crate::engine::sync::{AtomicBool, AtomicUsize, Notify, Ordering};

/// The number of pieces of work under way. Aligned to a cache line of its own, so that counting does not slow down
/// reads of the fields beside it.
#[derive(Default)]
#[repr(align(128))]
pub(crate) struct Busy {
    count: AtomicUsize,
    /// Whether a caller has waited for the count to be zero. If not, the last end notifies nothing.
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
        // Set before the count is read. `end` lowers the count first and reads this flag after that, so either this
        // sees a count of zero or `end` sees the flag. This relies on SeqCst on both sides.
        self.awaited.store(true, Ordering::SeqCst);
        loop {
            // Created before the count is read, so that the last end is not missed.
            let idle = self.idle.notified();
            if self.count() == 0 {
                return;
            }
            idle.await;
        }
    }
}
