//! Shutting an engine down, in an order that loses nothing.

use std::{sync::Arc, time::Duration};

use tokio::{
    task::unconstrained,
    time::{Instant, sleep, timeout},
};

use crate::engine::{Engine, attempts::attempt::Input, node::Answer, phase::EndStep};

/// What happened to the attempts that were running or starting when the shutdown began.
///
/// [`Tasks::shutdown`](crate::Tasks::shutdown) returns it and has an example.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ShutdownReport {
    /// Attempts that ended without being handed back, within the grace period or the stop grace.
    pub finished: usize,
    /// Attempts that were cut off and handed back. They are not charged. If the store outlives the process, their tasks
    /// run again.
    pub handed_back: usize,
    /// Attempts that could not be dropped because they block a thread. They hold their tasks until their leases run
    /// out.
    pub dropped: usize,
}

impl Engine {
    /// Stops accepting tasks, and answers every waiter.
    pub(crate) fn close(&self) {
        self.core.phase.advance(EndStep::Closed);
    }

    /// Shuts the engine down: accepts and claims nothing more, gives attempts `grace` to end, cuts off the rest, stores
    /// everything, and closes the store. A second call ends the grace of the first, and returns the same report.
    pub(crate) async fn shutdown(self: &Arc<Self>, grace: Duration) -> ShutdownReport {
        self.close();
        let second = !self.core.phase.advance(EndStep::Draining);
        if second {
            self.core.phase.advance(EndStep::Cut);
        }
        self.core.signals.wake.notify_one();
        let mut report = self.report.lock().await;
        if let Some(report) = *report {
            return report;
        }
        let ended = self.drain(grace).await;
        self.end().await;
        *report = Some(ended);
        ended
    }

    /// Lets attempts end, then cuts them off.
    async fn drain(self: &Arc<Self>, grace: Duration) -> ShutdownReport {
        let before = self.attempts.running.ends();
        tokio::select! {
            biased;
            // The limits come first, and without tokio's cooperative budget: a store that is always ready uses up the
            // budget of this task.
            () = unconstrained(self.core.phase.reached(EndStep::Cut)) => {}
            () = unconstrained(sleep(grace)) => {}
            () = self.quiet() => {}
        }
        self.core.phase.advance(EndStep::Cut);
        let now = Instant::now();
        for live in self.attempts.running.all() {
            live.feed(Input::Cut, now);
        }
        // The time in which a handler may stop, and the time in which its end is stored. An attempt that is left after
        // that blocks a thread.
        let limit = self.core.settings.stop_grace + self.core.settings.store_timeout;
        let _ = timeout(limit, self.core.busy.idle()).await;
        let after = self.attempts.running.ends();
        let left = self.attempts.running.all();
        ShutdownReport {
            finished: after.ended - before.ended,
            handed_back: after.handed_back - before.handed_back,
            dropped: left.iter().filter(|live| live.machine().conclusion().is_none()).count(),
        }
    }

    /// Resolves when nothing is under way and no completion is due.
    async fn quiet(self: &Arc<Self>) {
        loop {
            self.core.busy.idle().await;
            // The end of the last attempt may have left a completion that the driver has not claimed yet.
            let more = matches!(
                self.outbox.deliver(&self.duties.application, usize::MAX).await,
                Ok(Answer::More)
            );
            if !more && self.core.busy.count() == 0 {
                return;
            }
        }
    }

    /// Ends the driver and the renewal of claims, drops the application, and closes the store.
    async fn end(&self) {
        self.core.phase.advance(EndStep::Flushed);
        self.core.signals.wake.notify_one();
        self.attempts.end().await;
        let _ = timeout(self.core.settings.store_timeout, self.core.ledger.store().close()).await;
    }

    /// Ends the engine without a grace period, after its last handle was dropped.
    pub(crate) fn abandon(self: &Arc<Self>) {
        self.close();
        let engine = self.clone();
        // On a runtime that has ended this does nothing, and nothing is left to do.
        drop(
            self.core
                .runtime
                .spawn(async move { engine.shutdown(Duration::ZERO).await }),
        );
    }
}
