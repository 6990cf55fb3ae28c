//! Claims: taking tasks to run them, keeping them, and ending them.

use std::{sync::Arc, time::Duration};

use crate::{
    store::{Claim, Claimed, ClaimedTask, Rescued, Settled, index::Candidate, memory::MemoryStore},
    task::{
        LeaseRef,
        lifecycle::{Fenced, Renewal, Rescue, Settlement},
    },
    time::Timestamp,
};

impl MemoryStore {
    pub(super) fn claim_now(&self, claim: &Claim) -> Claimed {
        let now = self.now();
        let mut claimed = Claimed::default();
        loop {
            let more = claim.max - claimed.tasks.len();
            let candidates = self.inner.queue.lock().take(&claim.worker, more, now);
            if candidates.is_empty() {
                break;
            }
            let tasks = candidates
                .into_iter()
                .filter_map(|found| self.claim_one(claim, found, now));
            claimed.tasks.extend(tasks);
        }
        claimed.next_due = self.inner.queue.lock().next_due(&claim.worker, now);
        claimed
    }

    pub(super) fn claim_one(&self, claim: &Claim, found: Candidate, now: Timestamp) -> Option<ClaimedTask> {
        let mut tasks = self.tasks(found.id);
        let runnable = tasks
            .get(found.id)
            .filter(|kept| kept.record.is_runnable(now))
            .is_some();
        let change = runnable.then(|| {
            tasks.change(found.id, &self.around(found.id), |record| {
                record.claim(claim.worker.clone(), claim.lease, now)
            })
        });
        match change.flatten() {
            Some(change) if change.answer.is_ok() => {
                let kept = tasks.get(found.id)?;
                Some(ClaimedTask {
                    record: kept.record.clone(),
                    input: kept.input.clone(),
                })
            }
            // Stopped, expired or deleted since it was found.
            _ => {
                if found.suspect {
                    self.inner.queue.lock().free_suspect(&claim.worker, found.id);
                }
                None
            }
        }
    }

    pub(super) fn renew_now(&self, held: LeaseRef, lease: Duration) -> Renewal {
        let now = self.now();
        let mut tasks = self.tasks(held.id);
        match tasks.get_mut(held.id) {
            // No index knows of the lease: rescue asks the records.
            Some(kept) if kept.record.is_held_by(held.token) => {
                Arc::make_mut(&mut kept.record).renew(held.token, lease, now)
            }
            _ => Renewal::Lost,
        }
    }

    pub(super) fn settle_now(&self, settlement: Settlement) -> Result<Settled, Fenced> {
        let LeaseRef { id, token } = settlement.lease;
        let mut tasks = self.tasks(id);
        if !tasks.get(id).is_some_and(|kept| kept.record.is_held_by(token)) {
            return Err(Fenced);
        }
        let now = self.now();
        let outcome = settlement.outcome;
        let change = tasks.change(id, &self.around(id), |record| record.settle(token, &outcome, now));
        let change = change.ok_or(Fenced)?;
        let state = change.answer?;
        if let Some(output) = outcome.output_for(state)
            && let Some(kept) = tasks.get_mut(id)
        {
            let more = output.weight();
            kept.weight += more;
            kept.output = Some(output);
            self.inner.room.grow(more);
        }
        drop(tasks);
        self.notify_if(change.work);
        Ok(Settled::Accepted {
            state,
            outbox: change.completion,
        })
    }

    pub(super) fn rescue_now(&self, limit: usize) -> Rescued {
        let now = self.now();
        let mut due = self.inner.queue.lock().over_age(limit, now);
        for shard in &self.inner.shards {
            let room = limit - due.len();
            if room == 0 {
                break;
            }
            due.extend(shard.lock().lapsed(now).take(room));
        }
        let mut rescued = Rescued::default();
        let mut work = false;
        for id in due {
            let mut tasks = self.tasks(id);
            let change = tasks.change(id, &self.around(id), |record| record.rescue(now));
            let Some(change) = change else { continue };
            if change.answer != Rescue::NotDue {
                rescued.tasks.push((id, change.answer));
            }
            rescued.outbox |= change.completion;
            work |= change.work;
        }
        self.notify_if(work);
        rescued
    }
}
