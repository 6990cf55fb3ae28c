//! Claims tasks, starts them, and hands back those that cannot start.

use std::sync::Arc;

use tokio::time::{Instant, timeout, timeout_at};

use crate::{
    engine::{
        attempts::{Attempts, lost::LateClaim, run::Start},
        caught::{caught_async, panicked},
        core::too_slow,
        node::{Answer, Hint, QUIET},
        pools::Permit,
        under_way::{Part, UnderWay},
    },
    error::BoxFuture,
    store::{Claimed, ClaimedTask, Held, StoreError, StoreErrorKind, StoreResult},
    task::{CapturedRequest, TaskRecord, lifecycle::Outcome},
};

impl Attempts {
    /// Claims up to `max` tasks, and starts them.
    pub(crate) async fn claim(self: &Arc<Self>, max: usize) -> StoreResult<Answer> {
        let _turn = self.lost.turn().await;
        // Slots are reserved first, since a claimed task without a slot could not run. Unused ones are freed.
        let Some(mut slots) = self.pools.reserve(max) else {
            return Ok(Answer::Idle(None));
        };
        let claimed_at = Instant::now();
        let claim = slots.claim(self.core.worker.clone(), self.core.settings.lease);
        let core = self.core.clone();
        let mut claiming = Box::pin(async move {
            let timing = core.probes.time("claim");
            let claimed = caught_async(|| core.ledger.claim(claim)).await;
            timing.end(&core.probes, claimed.unwrap_or_else(|panic| Err(panicked(&panic))))
        });
        let Ok(claimed) = timeout(self.core.settings.store_timeout, &mut claiming).await else {
            let late = Self::claim_late(self.enter(), self.lost.late_claim(), claiming, claimed_at);
            self.core.runtime.spawn(late);
            return Err(too_slow("claim", self.core.settings.store_timeout));
        };
        let claimed = claimed.inspect_err(|error| {
            if error.kind() == StoreErrorKind::Unavailable {
                self.lost_a_claim(claimed_at);
            }
        })?;
        for id in claimed.unreadable {
            self.core.watchers.changed(id);
            self.core.hint(Hint::Outbox);
        }
        if self.pools.known_version() != Some(claimed.control) {
            // A pool may have been paused meanwhile. If the values cannot be read now, its tasks start nevertheless,
            // and the values are read before the next claim.
            self.core.hint(Hint::Control);
            let _ = self.read_controls().await;
        }
        let (taken, more) = (claimed.tasks.len(), claimed.next_due.is_some_and(|due| due.is_zero()));
        let mut unasked = 0;
        for task in claimed.tasks {
            let permit = slots.permit(&task.record);
            unasked += usize::from(permit.is_none());
            let Some(permit) = permit.filter(|_| !self.pools.is_paused(&task.record.pool)) else {
                self.hand_back(&task.held).await;
                continue;
            };
            self.start_claimed(task, permit, claimed_at);
        }
        if unasked > 0 {
            // An error, so that there is a pause: claiming again at once would return the same tasks.
            let context =
                format!("the store returned {unasked} tasks that the claim did not ask for; they were handed back");
            return Err(StoreError::new(StoreErrorKind::Unavailable, context));
        }
        if taken >= slots.all() {
            return Ok(Answer::More);
        }
        // A store that reports more tasks but returns none counts as empty. Otherwise claiming again at once might
        // never end.
        if taken == 0 || !more {
            slots.found_all(claimed.passed_over);
        }
        Ok(match (taken, more) {
            (0, true) => Answer::Idle(Some(QUIET)),
            (_, true) => Answer::More,
            (_, false) => Answer::Idle(claimed.next_due),
        })
    }

    /// Starts a claimed task with this permit.
    pub(crate) fn start_claimed(self: &Arc<Self>, task: ClaimedTask, permit: Permit, claimed_at: Instant) {
        let start = Start {
            held: task.held,
            request: task.request,
            permit,
            claimed_at,
            attempts: self.enter(),
        };
        self.start(&task.record, start);
    }

    /// Reads the store's named values, and applies them.
    pub(crate) async fn read_controls(&self) -> StoreResult<Answer> {
        let controls = self
            .core
            .call("control", || self.core.ledger.store().control(None))
            .await?;
        self.pools.apply(&controls);
        Ok(Answer::Idle(None))
    }

    /// Waits for a claim that took longer than the store timeout, and starts its tasks if it takes effect after all.
    /// Otherwise they would be charged with a crash when their leases run out.
    async fn claim_late(
        attempts: UnderWay<Self>,
        late: LateClaim,
        claiming: BoxFuture<'static, StoreResult<Claimed>>,
        claimed_at: Instant,
    ) {
        let until = claimed_at + attempts.core.holds_for();
        match timeout_at(until, claiming).await {
            Ok(Ok(claimed)) => {
                for task in claimed.tasks {
                    let (held, request) = (task.held, task.request);
                    attempts
                        .start_or_hand_back(&task.record, held, request, claimed_at)
                        .await;
                }
            }
            Ok(Err(_)) => attempts.lost_a_claim(claimed_at),
            // The claim may still take effect.
            Err(_) => attempts.lost_a_claim(Instant::now()),
        }
        drop(late);
    }

    /// Starts a claimed task, or hands it back if no slot is free.
    pub(crate) async fn start_or_hand_back(
        self: &Arc<Self>,
        record: &TaskRecord,
        held: Held,
        request: Arc<CapturedRequest>,
        claimed_at: Instant,
    ) {
        if let Some(permit) = self.pools.permit_for(record) {
            let start = Start {
                held,
                request,
                permit,
                claimed_at,
                attempts: self.enter(),
            };
            self.start(record, start);
            return;
        }
        self.hand_back(&held).await;
    }

    /// Gives up a claim whose task did not start: the task is queued again, and the claim is not charged.
    pub(crate) async fn hand_back(&self, held: &Held) {
        self.pools.slots.send_some_to_wait();
        // If this fails, the task is queued again when its lease runs out.
        if let Err(error) = self
            .core
            .call("settle", || self.core.ledger.settle(held, &Outcome::Released))
            .await
        {
            self.give_up(held.lease());
            self.core
                .trouble("handing back a task", &error, self.core.settings.lease);
        }
        self.core.hint(Hint::Work);
        self.core.watchers.changed(held.lease().id);
    }
}
