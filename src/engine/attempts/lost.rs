//! Finds claims whose answer was lost, and starts their tasks.
//!
//! The store records that this process holds such a task, but the process did not receive it. Without this search, the
//! task would wait until its lease runs out, and be charged with a crash. So after a failed claim, the process reads
//! the claims of its worker from the store, until no lost claim can hold any longer.

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

/// The pause between a failed claim and the first search. It doubles with each search.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
/// The longest pause between two searches.
const MAX_PAUSE: Duration = Duration::from_secs(2);

/// The claims that this process may hold in the store without running their tasks.
#[derive(Default)]
pub(crate) struct Lost {
    /// Locked during a claim and during a search, so that they do not overlap: only while no claim is under way is a
    /// task lost that this worker holds in the store but does not run.
    turn: tokio::sync::Mutex<()>,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    /// The number of claims that took too long and may still be answered.
    late: usize,
    /// When the search ends. `None` if there is no search.
    until: Option<Instant>,
    /// Claims that this process gave up, and until when they may still hold in the store.
    given_up: HashMap<LeaseRef, Instant>,
}

impl Lost {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until no other claim and no search is under way.
    pub(crate) async fn turn(&self) -> impl Drop {
        self.turn.lock().await
    }

    /// Records that a claim takes too long. There is no search while the returned guard exists.
    pub(crate) fn late_claim(self: &Arc<Self>) -> LateClaim {
        self.inner().late += 1;
        LateClaim(self.clone())
    }
}

/// A claim that takes too long and is still under way.
pub(crate) struct LateClaim(Arc<Lost>);

impl Drop for LateClaim {
    fn drop(&mut self) {
        self.0.inner().late -= 1;
    }
}

impl Attempts {
    /// Records that this process no longer uses a claim that may still hold in the store. The record is kept
    /// for two leases, since a late renewal may extend the claim.
    pub(crate) fn give_up(&self, lease: LeaseRef) {
        let now = Instant::now();
        let mut inner = self.lost.inner();
        // Cleaned up only before the map grows, which keeps the cost per entry low.
        if inner.given_up.len() == inner.given_up.capacity() {
            inner.given_up.retain(|_, until| *until > now);
        }
        inner.given_up.insert(lease, now + self.core.settings.lease * 2);
    }

    /// Records a failed claim that was sent at `claimed_at` and may have taken effect. Starts a search if there is
    /// none.
    pub(crate) fn lost_a_claim(self: &Arc<Self>, claimed_at: Instant) {
        let until = claimed_at + self.core.holds_for();
        let mut inner = self.lost.inner();
        let before = inner.until;
        inner.until = before.max(Some(until));
        drop(inner);
        if before.is_none() {
            let search = Search(Some(self.lost.clone()));
            self.core.runtime.spawn(run(self.enter(), search));
        }
    }

    /// Starts the tasks of lost claims for which slots are free, and hands the others back. Does nothing while a late
    /// claim is under way.
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
        let lost = self.core.step("lost_claims", finding).await?;
        let (mut surplus, mut outcome) = (Vec::new(), Ok(()));
        for claim in lost {
            match self.core.step("take_up", || self.core.ledger.take_up(&claim)).await {
                Ok(TakenUp::Task(task)) => match self.pools.permit_unless_paused(&task.record) {
                    Some(permit) => self.start_claimed(task, permit, claimed_at),
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
        // Handing back may take long, and claims need the turn. There is only one search, so none can start meanwhile.
        drop(turn);
        for held in surplus {
            self.hand_back(&held).await;
        }
        outcome
    }
}

/// A search under way. If it panics, dropping this lets the next lost claim start another search.
struct Search(Option<Arc<Lost>>);

impl Drop for Search {
    fn drop(&mut self) {
        if let Some(lost) = &self.0 {
            lost.inner().until = None;
        }
    }
}

async fn run(attempts: UnderWay<Attempts>, mut search: Search) {
    let mut pause = FIRST_PAUSE;
    loop {
        attempts.core.pause(pause).await;
        // Searches once more after the shutdown has begun: a task that is found gets the same grace as running tasks,
        // or is handed back.
        let is_last = !attempts.core.phase.is_open();
        pause = (pause * 2).min(MAX_PAUSE);
        let outcome = attempts.take_up_lost().await;
        let now = Instant::now();
        let mut inner = attempts.lost.inner();
        if outcome.is_err() {
            // The search may have renewed claims that it could not start.
            let until = now + attempts.core.holds_for();
            inner.until = inner.until.max(Some(until));
        }
        if is_last || inner.until.is_none_or(|until| until <= now) {
            inner.until = None;
            search.0 = None;
            return;
        }
    }
}
