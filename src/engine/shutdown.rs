//! The end of an engine: in the order that loses nothing.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{Mutex, Notify},
    time::{Instant, timeout},
};

use crate::engine::{Engine, attempts::attempt::Input, duties::node::Answer};

/// How far the end has come. Only grows.
pub(crate) struct Phase {
    step: AtomicU8,
    changed: Notify,
    /// One shutdown at a time; the second finds the report of the first.
    report: Mutex<Option<ShutdownReport>>,
}

const OPEN: u8 = 0;
/// Nothing new is accepted, and nobody waits any longer.
const CLOSED: u8 = 1;
/// Nothing new is claimed.
const DRAINING: u8 = 2;
/// The grace is over.
const CUT: u8 = 3;
/// Everything is written down; the driver ends.
const FLUSHED: u8 = 4;

impl Phase {
    pub(crate) fn new() -> Self {
        Self {
            step: AtomicU8::new(OPEN),
            changed: Notify::new(),
            report: Mutex::new(None),
        }
    }

    pub(crate) fn is_open(&self) -> bool {
        self.is_before(CLOSED)
    }

    pub(crate) fn is_draining(&self) -> bool {
        !self.is_before(DRAINING)
    }

    pub(crate) fn is_flushed(&self) -> bool {
        !self.is_before(FLUSHED)
    }

    pub(crate) fn is_cut(&self) -> bool {
        !self.is_before(CUT)
    }

    /// Resolves when nothing new is accepted any longer.
    pub(crate) async fn closed(&self) {
        self.reached(CLOSED).await;
    }

    /// Resolves when the grace of a shutdown is over.
    pub(crate) async fn cut(&self) {
        self.reached(CUT).await;
    }

    fn is_before(&self, step: u8) -> bool {
        self.step.load(Ordering::SeqCst) < step
    }

    fn advance(&self, step: u8) -> bool {
        let new = self.step.fetch_max(step, Ordering::SeqCst) < step;
        if new {
            self.changed.notify_waiters();
        }
        new
    }

    async fn reached(&self, step: u8) {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if !self.is_before(step) {
                return;
            }
            changed.await;
        }
    }
}

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
        self.core.phase.advance(CLOSED);
    }

    pub(crate) async fn shutdown(self: &Arc<Self>, grace: Duration) -> ShutdownReport {
        self.close();
        let second = !self.core.phase.advance(DRAINING);
        if second {
            // Asked twice: somebody is in a hurry.
            self.core.phase.advance(CUT);
        }
        self.core.signals.wake.notify_one();
        let mut report = self.core.phase.report.lock().await;
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
            () = self.quiet() => {}
            () = self.core.phase.reached(CUT) => {}
            () = tokio::time::sleep(grace) => {}
        }
        self.core.phase.advance(CUT);
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
        self.core.phase.advance(FLUSHED);
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
