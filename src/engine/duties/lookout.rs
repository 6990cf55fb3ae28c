//! Finds changes that other processes make on the same store, from the store's news and by polling.
//!
//! News are hints and may be lost. So while tasks have waiters in this process, it reads all these tasks once a second,
//! [`AT_ONCE`] of them in one call of the store. A process without waiters does not poll.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use crate::{
    engine::{
        duties::Duties,
        node::{Answer, Hint, Node},
        under_way::Part,
    },
    store::{Abilities, Attention, Glance, News, Sharing, StoreResult},
    task::{Presence, RequestId, Seen, SlotStats},
};

/// How many tasks one call of the store covers.
const AT_ONCE: usize = 1000;

/// How long the store goes on reporting changes after the last waiter has left. Clients that poll come back by then.
const LINGER: Duration = Duration::from_secs(30);

/// How long a process counts as present after a beat. It beats every 5 seconds.
const PRESENT: Duration = Duration::from_secs(15);

/// What this process has seen of the other processes and their changes.
pub(crate) struct Lookout {
    is_shared: bool,
    notifies: bool,
    watched_at: Mutex<Option<Instant>>,
    /// The tasks with waiters, as they were last read.
    glances: Mutex<HashMap<RequestId, Option<Glance>>>,
    other_processes: Mutex<OtherProcesses>,
}

/// The other processes, as last read from the store.
#[derive(Default)]
struct OtherProcesses {
    seen: Vec<Seen>,
    read_at: Option<Instant>,
}

impl Lookout {
    pub(crate) fn new(abilities: Abilities) -> Self {
        Self {
            is_shared: abilities.sharing == Sharing::Shared,
            notifies: abilities.notifies,
            watched_at: Mutex::default(),
            glances: Mutex::default(),
            other_processes: Mutex::default(),
        }
    }

    /// The processes other than `own` whose last beat is at most [`PRESENT`] ago.
    pub(crate) fn other_processes(&self, own: &Presence, now: Instant) -> Vec<Seen> {
        let others = lock(&self.other_processes);
        let since = others
            .read_at
            .map_or(Duration::ZERO, |at| now.saturating_duration_since(at));
        let seen = others.seen.iter().filter(|seen| seen.presence.worker != own.worker);
        let seen = seen.map(|seen| Seen {
            ago: seen.ago + since,
            presence: seen.presence.clone(),
        });
        seen.filter(|seen| seen.ago <= PRESENT).collect()
    }

    fn glances(&self) -> MutexGuard<'_, HashMap<RequestId, Option<Glance>>> {
        lock(&self.glances)
    }
}

impl Duties {
    /// Makes the store report changes while there are waiters, and for [`LINGER`] after. Returns whether it reports
    /// them.
    pub(crate) fn update_attention(&self, now: Instant) -> bool {
        if !self.lookout.is_shared {
            return false;
        }
        let mut watched_at = lock(&self.lookout.watched_at);
        let attended = watched_at.is_some();
        if self.core.watchers.is_watched() {
            *watched_at = Some(now);
        } else if watched_at.is_some_and(|at| now.saturating_duration_since(at) > LINGER) {
            *watched_at = None;
        }
        let attends = watched_at.is_some();
        drop(watched_at);
        if attends != attended {
            self.core.watchers.note_attended(attends);
            let attention = if attends { Attention::Changes } else { Attention::Work };
            self.core.ledger.store().attend(attention);
        }
        attends
    }

    /// Acts on the store's news.
    pub(crate) fn apply_news(self: &Arc<Self>, news: News, node: &mut Node, now: Instant) {
        if news.work {
            node.hint(Hint::Work, now);
        }
        if news.control {
            node.hint(Hint::Control, now);
        }
        if news.outbox {
            node.hint(Hint::Outbox, now);
        }
        for id in news.changed {
            self.core.watchers.changed(id);
        }
        let asked_to_stop = match news.missed {
            true => {
                self.core.watchers.feed().note_unknown();
                node.hint(Hint::Changes, now);
                self.attempts.running.all()
            }
            false => news
                .stops
                .into_iter()
                .flat_map(|id| self.attempts.running.of(id))
                .collect(),
        };
        if !asked_to_stop.is_empty() {
            // News are only hints: the answer to a renewal says whether the task is to stop.
            let attempts = self.attempts.enter();
            let limit = self.core.settings.store_timeout;
            self.core
                .runtime
                .spawn(async move { attempts.renew(asked_to_stop, limit).await });
        }
    }

    /// Reads the tasks with waiters, and wakes the waiters of the tasks that changed since they were last read.
    pub(crate) async fn look(&self) -> StoreResult<Answer> {
        let ids = self.core.watchers.ids();
        let mut looked_at = HashMap::with_capacity(ids.len());
        for ids in ids.chunks(AT_ONCE) {
            let store = self.core.ledger.store();
            let glances = self.core.call("glance", || store.glance(ids.to_vec())).await?;
            looked_at.extend(ids.iter().copied().zip(glances));
        }
        let before = std::mem::replace(&mut *self.lookout.glances(), looked_at.clone());
        for id in ids {
            // A waiter that came after the last call may have seen this change already. A needless wake-up is harmless.
            if before.get(&id) != looked_at.get(&id) {
                self.core.watchers.wake(id);
            }
        }
        Ok(Answer::Idle(None))
    }

    /// Records in the store that this process is present, and reads which other processes are.
    pub(crate) async fn beat(&self) {
        if !self.lookout.is_shared {
            return;
        }
        if !self.lookout.notifies {
            // Without notifications, listeners get the changes of this process only, so they have to read the tasks
            // again.
            self.core.watchers.feed().note_unknown();
        }
        let store = self.core.ledger.store();
        let me = self.presence(Instant::now());
        if let Ok(seen) = self.core.call("beat", || store.beat(me, PRESENT)).await {
            let read_at = Some(Instant::now());
            *lock(&self.lookout.other_processes) = OtherProcesses { seen, read_at };
        }
    }

    /// The state of this process, as other processes see it.
    pub(crate) fn presence(&self, now: Instant) -> Presence {
        let up = self.core.clock.uptime(now);
        let mut presence = Presence::new(self.core.worker.clone());
        presence.version.clone_from(&self.core.settings.version);
        presence.up = up;
        presence.draining = !self.core.phase.is_open();
        presence.slots = SlotStats {
            used: self.attempts.pools.slots.used(),
            total: self.attempts.pools.slots.total(),
            stuck: self.attempts.pools.slots.stuck(),
        };
        presence.rates = self.core.rates.read(up);
        presence.minutes = self.core.rates.minutes(up);
        presence.buffered_bytes = self.intake.budget.used() as u64;
        presence
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
