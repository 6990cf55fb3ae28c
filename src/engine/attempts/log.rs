//! Stores the log lines of an attempt in order, while its handler runs, under its claim.

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, timeout};

use crate::{
    engine::attempts::{Attempts, running::Live},
    probe::{AttemptLog, Event},
    task::LogLine,
};

/// How long lines are collected before they are stored.
const SAVE_EVERY: Duration = Duration::from_secs(1);

/// How long the last lines may delay the settlement.
const LAST_LINES_LIMIT: Duration = Duration::from_secs(2);

/// When to store the log of an attempt next.
#[derive(Default)]
pub(crate) struct LogTimer {
    due_at: Option<Instant>,
}

impl LogTimer {
    /// When to call [`is_due`](Self::is_due) again.
    pub(crate) const fn due_at(&self) -> Option<Instant> {
        self.due_at
    }

    /// Whether the log is to be stored now.
    pub(crate) fn is_due(&mut self, live: &Live, now: Instant) -> bool {
        if !live.log.get().is_some_and(AttemptLog::has_pending) {
            self.due_at = None;
            return false;
        }
        let due = now >= *self.due_at.get_or_insert(now + SAVE_EVERY);
        if due {
            self.due_at = Some(now + SAVE_EVERY);
        }
        due
    }
}

impl Attempts {
    /// Stores the new lines in a spawned task.
    pub(crate) fn save_log(self: &Arc<Self>, live: &Arc<Live>) {
        let (attempts, live) = (self.clone(), live.clone());
        self.core.runtime.spawn(async move {
            let limit = attempts.core.settings.store_timeout;
            attempts.store_log(&live, limit, AttemptLog::take).await;
        });
    }

    /// Stores the last lines before the claim ends. They often say why an attempt failed.
    pub(crate) async fn save_last_log(&self, live: &Live) {
        let now = self.core.clock.at(Instant::now());
        self.store_log(live, LAST_LINES_LIMIT, |log| log.finish(now)).await;
    }

    async fn store_log(&self, live: &Live, limit: Duration, take: impl FnOnce(&AttemptLog) -> Vec<LogLine>) {
        let Some(log) = live.log.get() else { return };
        // Stores one batch at a time, so that no batch overtakes an earlier one.
        let Ok(_turn) = timeout(limit, live.log_turn.lock()).await else {
            return;
        };
        let lines = take(log);
        if lines.is_empty() {
            return;
        }
        let id = live.lease.id;
        // Lines are shared, so copies are cheap.
        let copy = lines.clone();
        let stored = self
            .core
            .call("append_log", || self.core.ledger.store().append_log(live.lease, lines));
        match timeout(limit, stored).await {
            Ok(Ok(true)) => self.core.watchers.wake(id),
            Ok(Ok(false)) => {
                // The claim is lost: the store accepts no more lines under it.
                drop(log.finish(self.core.clock.at(Instant::now())));
                self.core.probes.emit(|| Event::Fenced { id });
            }
            // If only the answer was lost, the lines are stored twice, which is better than losing them.
            Ok(Err(_)) | Err(_) => log.put_back(copy),
        }
    }
}
