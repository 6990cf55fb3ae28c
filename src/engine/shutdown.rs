//! The end of an engine: in the order that loses nothing.

use std::{sync::Arc, time::Duration};

use tokio::{
    task::unconstrained,
    time::{Instant, sleep, timeout},
};

use crate::engine::{Engine, attempts::attempt::Input, node::Answer, phase::EndStep};

/// What became of the attempts that ran when the shutdown began, or were just being started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ShutdownReport {
    /// Ended by themselves within the grace.
    pub finished: usize,
    /// Were cut off and handed back, uncharged: with a store that outlives the process, they run again.
    pub handed_back: usize,
    /// Could not be dropped, because they block a thread; their leases run out.
    pub dropped: usize,
}

impl Engine {
    /// Accepts nothing new; every waiting caller is answered now.
    pub(crate) fn close(&self) {
        self.core.phase.advance(EndStep::Closed);
    }

    pub(crate) async fn shutdown(self: &Arc<Self>, grace: Duration) -> ShutdownReport {
        self.close();
        let second = !self.core.phase.advance(EndStep::Draining);
        if second {
            // Asked twice: somebody is in a hurry.
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

    /// Lets attempts end, then ends them.
    async fn drain(self: &Arc<Self>, grace: Duration) -> ShutdownReport {
        let before = self.attempts.running.ends();
        tokio::select! {
            biased;
            // The limits first, and whatever else is done: a store that is always ready uses up what tokio lets a task do.
            () = unconstrained(self.core.phase.reached(EndStep::Cut)) => {}
            () = unconstrained(sleep(grace)) => {}
            () = self.quiet() => {}
        }
        self.core.phase.advance(EndStep::Cut);
        let now = Instant::now();
        for live in self.attempts.running.all() {
            live.feed(Input::Cut, now);
        }
        // A handler told to end has its grace, then the settlement its time; what is still there then blocks a thread.
        let limit = self.core.settings.stop_grace + self.core.settings.store_timeout;
        let _ = timeout(limit, self.core.busy.idle()).await;
        let after = self.attempts.running.ends();
        let left = self.attempts.running.all();
        ShutdownReport {
            finished: after.ended - before.ended,
            handed_back: after.handed_back - before.handed_back,
            dropped: left.iter().filter(|live| live.machine().over().is_none()).count(),
        }
    }

    /// Resolves when nothing is under way, and the hooks were told of what ended last.
    async fn quiet(self: &Arc<Self>) {
        loop {
            self.core.busy.idle().await;
            // The end of the last attempt may have left a completion that the driver has not come to yet.
            let more = matches!(
                self.outbox.deliver(&self.duties.application, usize::MAX).await,
                Ok(Answer::More)
            );
            if !more && self.core.busy.count() == 0 {
                return;
            }
        }
    }

    /// Ends what serves the attempts, renewal last, and lets go of the application and the store.
    async fn end(&self) {
        self.core.phase.advance(EndStep::Flushed);
        self.core.signals.wake.notify_one();
        self.attempts.end().await;
        let _ = timeout(self.core.settings.store_timeout, self.core.ledger.store().close()).await;
    }

    /// Nobody holds the engine any longer.
    pub(crate) fn abandon(self: &Arc<Self>) {
        self.close();
        let engine = self.clone();
        // On a runtime that has ended this does nothing, and there is nothing left to do.
        drop(
            self.core
                .runtime
                .spawn(async move { engine.shutdown(Duration::ZERO).await }),
        );
    }
}
