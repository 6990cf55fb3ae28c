//! The phase of a shutdown.

use std::{
    pin::pin,
    sync::atomic::{AtomicU8, Ordering},
};

use tokio::sync::Notify;

/// The last step of the shutdown that was reached. It never goes back.
#[derive(Default)]
pub(crate) struct Phase {
    step: AtomicU8,
    changed: Notify,
}

/// The steps of a shutdown.
#[derive(Clone, Copy)]
pub(crate) enum EndStep {
    /// No more tasks are accepted, and waiters are answered.
    Closed = 1,
    /// No more tasks are claimed.
    Draining,
    /// The grace period is over.
    Cut,
    /// Everything is stored; the driver ends.
    Flushed,
}

impl Phase {
    pub(crate) fn is_open(&self) -> bool {
        !self.has_reached(EndStep::Closed)
    }

    pub(crate) fn has_reached(&self, step: EndStep) -> bool {
        self.step.load(Ordering::SeqCst) >= step as u8
    }

    /// Moves on to `step`. Returns whether it was not reached before.
    pub(crate) fn advance(&self, step: EndStep) -> bool {
        let new = self.step.fetch_max(step as u8, Ordering::SeqCst) < step as u8;
        if new {
            self.changed.notify_waiters();
        }
        new
    }

    /// Resolves when no more tasks are accepted.
    pub(crate) async fn closed(&self) {
        self.reached(EndStep::Closed).await;
    }

    /// Resolves when this step is reached.
    pub(crate) async fn reached(&self, step: EndStep) {
        loop {
            let mut changed = pin!(self.changed.notified());
            changed.as_mut().enable();
            if self.has_reached(step) {
                return;
            }
            changed.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn advancing_wakes_waiters_for_this_and_earlier_steps() {
        let phase = Phase::default();
        assert!(phase.is_open());
        let mut waits = pin!(phase.reached(EndStep::Draining));
        assert!(futures_util::poll!(waits.as_mut()).is_pending());
        assert!(phase.advance(EndStep::Closed));
        assert!(!phase.is_open());
        assert!(
            futures_util::poll!(waits.as_mut()).is_pending(),
            "it has not come so far"
        );
        assert!(phase.advance(EndStep::Cut));
        assert!(!phase.advance(EndStep::Closed), "it has been there");
        assert!(phase.has_reached(EndStep::Draining) && !phase.has_reached(EndStep::Flushed));
        waits.await;
        phase.closed().await;
    }
}
