//! Claims whose answer was lost: found again, and their tasks begun.
//!
//! Such a task is held by this process, which does not know of it. Nobody would run it until its lease runs out, and then it
//! would be charged with a crash. So after a claim that failed, what this worker holds is looked at until no such claim can
//! hold any more.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use crate::{
    engine::{
        attempts::Attempts,
        node::Hint,
        under_way::{Part, UnderWay},
    },
    store::{StoreResult, TakenUp},
    task::LeaseRef,
};

/// After a failed claim, and then twice as long each time ...
const FIRST_LOOK: Duration = Duration::from_millis(50);
/// ... to here.
const LAST_LOOK: Duration = Duration::from_secs(2);

/// What is known of claims that this process may have without knowing.
#[derive(Default)]
pub(crate) struct Lost {
    /// Who claims or looks. What is held while nobody claims, and is not known here, was lost.
    turn: tokio::sync::Mutex<()>,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    /// Claims that took too long, and may be answered yet.
    late: usize,
    /// Until when somebody looks.
    until: Option<Instant>,
    /// Claims that this process has given up, and the store may not know of that yet; and until when they may hold there.
    given_up: HashMap<LeaseRef, Instant>,
}

impl Lost {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Held by who claims.
    pub(crate) async fn turn(&self) -> impl Drop {
        self.turn.lock().await
    }

    /// A claim takes too long: as long as what is answered is there, nothing is looked for.
    pub(crate) fn is_late(self: &Arc<Self>) -> Late {
        self.inner().late += 1;
        Late(self.clone())
    }
}

/// A claim that took too long, under way.
pub(crate) struct Late(Arc<Lost>);

impl Drop for Late {
    fn drop(&mut self) {
        self.0.inner().late -= 1;
    }
}

impl Attempts {
    /// This process makes nothing more of a claim, which may still hold in the store. A renewal that arrives late may have it
    /// hold for longer than one lease.
    pub(crate) fn give_up(&self, lease: LeaseRef) {
        let now = Instant::now();
        let mut inner = self.lost.inner();
        // Before it grows, so that it costs little however many there are.
        if inner.given_up.len() == inner.given_up.capacity() {
            inner.given_up.retain(|_, until| *until > now);
        }
        inner.given_up.insert(lease, now + self.core.settings.lease * 2);
    }

    /// A claim failed that was asked for then, and may have been made.
    pub(crate) fn lost_a_claim(self: &Arc<Self>, claimed_at: Instant) {
        let until = claimed_at + self.core.holds_for();
        let mut inner = self.lost.inner();
        let before = inner.until;
        inner.until = before.max(Some(until));
        drop(inner);
        if before.is_none() {
            let looking = Looking(Some(self.lost.clone()));
            self.core.runtime.spawn(look(self.enter(), looking));
        }
    }

    /// Begins what this process holds without knowing, if no claim is under way, as far as there is room for it.
    async fn take_up_lost(self: &Arc<Self>) -> StoreResult<()> {
        let turn = self.lost.turn().await;
        if self.lost.inner().late > 0 {
            return Ok(());
        }
        let claimed_at = Instant::now();
        let is_known = |lease: LeaseRef| {
            let mut here = self.running.of(lease.id).into_iter();
            here.any(|live| live.lease == lease) || self.lost.inner().given_up.contains_key(&lease)
        };
        let (worker, lease) = (&self.core.worker, self.core.settings.lease);
        let finding = || self.core.ledger.lost_claims(worker, lease, is_known);
        let lost = self.core.call("lost_claims", finding).await?;
        let (mut surplus, mut outcome) = (Vec::new(), Ok(()));
        for claim in lost {
            match self.core.call("take_up", || self.core.ledger.take_up(&claim)).await {
                Ok(TakenUp::Task(task)) => match self.pools.place_unless_paused(&task.record) {
                    Some(place) => self.start_claimed(task, place, claimed_at),
                    None => surplus.push(task.held),
                },
                Ok(TakenUp::ToStop(held)) => surplus.push(held),
                Ok(TakenUp::Unreadable(id)) => {
                    self.core.watchers.changed(id);
                    self.core.hint(Hint::Outbox);
                }
                Err(error) => {
                    outcome = Err(error);
                    break;
                }
            }
        }
        // It may take long, and nobody else looks meanwhile.
        drop(turn);
        for held in surplus {
            self.hand_back(&held).await;
        }
        outcome
    }
}

/// Somebody looks. If that ends in a panic, the next who loses a claim does.
struct Looking(Option<Arc<Lost>>);

impl Drop for Looking {
    fn drop(&mut self) {
        if let Some(lost) = &self.0 {
            lost.inner().until = None;
        }
    }
}

async fn look(attempts: UnderWay<Attempts>, mut looking: Looking) {
    let mut pause = FIRST_LOOK;
    loop {
        attempts.core.pause(pause).await;
        // Once more after the end has begun: what is found has its grace like what runs, or is handed back.
        let is_last = !attempts.core.phase.is_open();
        pause = (pause * 2).min(LAST_LOOK);
        let looked = attempts.take_up_lost().await;
        let now = Instant::now();
        let mut inner = attempts.lost.inner();
        if looked.is_err() {
            // It may have renewed what it could not begin.
            let until = now + attempts.core.holds_for();
            inner.until = inner.until.max(Some(until));
        }
        if is_last || inner.until.is_none_or(|until| until <= now) {
            inner.until = None;
            looking.0 = None;
            return;
        }
    }
}
