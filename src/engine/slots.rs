//! How many handlers run at once, as values that free themselves.

use crate::engine::sync::{Arc, AtomicBool, AtomicU64, AtomicUsize, Notify, Ordering};

/// A fixed number of slots.
#[derive(Clone)]
pub(crate) struct Slots(Arc<Inner>);

struct Inner {
    total: usize,
    free: AtomicUsize,
    stuck: AtomicUsize,
    /// Whether tasks may be waiting for a slot: without that, freeing one wakes nobody, and a new task may have it.
    wanted: AtomicBool,
    /// How many tasks were sent to wait, so that a look at the queue which found none can tell whether it is still true.
    sent_to_wait: AtomicU64,
    freed: Arc<Notify>,
}

/// The right to run one handler. Dropped, it is free again.
#[must_use]
pub(crate) struct Slot(Arc<Inner>);

impl Slots {
    /// So many slots; `freed` is notified when one becomes free while tasks wait. They may from the start: what a
    /// process before this one left behind.
    pub(crate) fn new(total: usize, freed: Arc<Notify>) -> Self {
        Self(Arc::new(Inner {
            total,
            free: AtomicUsize::new(total),
            stuck: AtomicUsize::new(0),
            wanted: AtomicBool::new(true),
            sent_to_wait: AtomicU64::new(0),
            freed,
        }))
    }

    /// A slot, if one is free.
    pub(crate) fn take(&self) -> Option<Slot> {
        self.0
            .free
            .fetch_update(Ordering::Acquire, Ordering::Relaxed, |free| free.checked_sub(1))
            .ok()
            .map(|_| Slot(self.0.clone()))
    }

    pub(crate) fn total(&self) -> usize {
        self.0.total
    }

    /// How many are free. Ordered after an earlier [`send_to_wait`](Self::send_to_wait), as dropping a slot relies on.
    pub(crate) fn free(&self) -> usize {
        self.0.free.load(Ordering::SeqCst)
    }

    pub(crate) fn used(&self) -> usize {
        self.0.total - self.free()
    }

    /// How many slots are held by handlers that cannot be dropped.
    pub(crate) fn stuck(&self) -> usize {
        self.0.stuck.load(Ordering::Relaxed)
    }

    /// Whether tasks may be waiting: then a new one has to wait as well, so that it does not jump the queue.
    pub(crate) fn wanted(&self) -> bool {
        self.0.wanted.load(Ordering::SeqCst)
    }

    /// Call before a task is stored that waits for a slot.
    pub(crate) fn send_to_wait(&self) {
        self.0.sent_to_wait.fetch_add(1, Ordering::SeqCst);
        self.0.wanted.store(true, Ordering::SeqCst);
    }

    /// How many tasks were sent to wait: read before a look at the queue.
    pub(crate) fn sent_to_wait(&self) -> u64 {
        self.0.sent_to_wait.load(Ordering::SeqCst)
    }

    /// The queue was looked at when so many had been sent to wait, and nothing runnable was left.
    pub(crate) fn none_waits(&self, sent_to_wait: u64) {
        self.0.wanted.store(false, Ordering::SeqCst);
        // A task sent to wait since then may have been missed, and its flag overwritten just now.
        if self.sent_to_wait() != sent_to_wait {
            self.0.wanted.store(true, Ordering::SeqCst);
        }
    }

    /// Counts a slot as stuck until the guard is dropped.
    pub(crate) fn mark_stuck(&self) -> Stuck {
        self.0.stuck.fetch_add(1, Ordering::Relaxed);
        Stuck(self.0.clone())
    }
}

/// A slot counted as stuck.
pub(crate) struct Stuck(Arc<Inner>);

impl Drop for Stuck {
    fn drop(&mut self) {
        self.0.stuck.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        // Free first, then look whether it is wanted: who sets `wanted` looks for a free slot after that, so one of the
        // two sees the other. SeqCst on both sides makes that so.
        self.0.free.fetch_add(1, Ordering::SeqCst);
        if self.0.wanted.load(Ordering::SeqCst) {
            self.0.freed.notify_one();
        }
    }
}
