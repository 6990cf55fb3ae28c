//! Counts what must be over before the engine can be.

use std::{
    ops::Deref,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use tokio::sync::Notify;

use crate::engine::Engine;

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

/// A piece of work under way, and the engine that it is done for. Dropped, it is over.
#[must_use]
pub(crate) struct UnderWay(Arc<Engine>);

impl Engine {
    /// Begins a piece of work that a shutdown waits for.
    pub(crate) fn enter(self: &Arc<Self>) -> UnderWay {
        self.busy.count.fetch_add(1, Ordering::SeqCst);
        UnderWay(self.clone())
    }
}

impl Busy {
    pub(crate) fn count(&self) -> usize {
        self.count.load(Ordering::SeqCst)
    }

    /// Resolves when nothing is under way.
    pub(crate) async fn idle(&self) {
        // Before the count is looked at: who leaves looks here after that, so one of the two sees the other. SeqCst on
        // both sides makes that so.
        self.awaited.store(true, Ordering::SeqCst);
        loop {
            let idle = self.idle.notified();
            tokio::pin!(idle);
            // Enabled before the count is looked at, so that the last one's leaving is not missed.
            idle.as_mut().enable();
            if self.count() == 0 {
                return;
            }
            idle.await;
        }
    }
}

impl Deref for UnderWay {
    type Target = Arc<Engine>;

    fn deref(&self) -> &Arc<Engine> {
        &self.0
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        let busy = &self.0.busy;
        let last = busy.count.fetch_sub(1, Ordering::SeqCst) == 1;
        if last && busy.awaited.load(Ordering::SeqCst) {
            busy.idle.notify_waiters();
        }
    }
}
