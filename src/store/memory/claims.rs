//! Claims of tasks and of completions. They change columns and outbox rows only.

use super::MemoryStore;
use crate::{
    store::{
        Claim, ClaimedOutbox, ClaimedRow, Claims, DeliveryClaim, Renewal,
        kit::{Allowance, Candidate},
    },
    task::{FenceToken, LeaseRef},
    time::Timestamp,
};

use std::time::Duration;

impl MemoryStore {
    pub(super) fn claim_now(&self, claim: &Claim) -> Claims {
        let now = self.inner.now();
        let (mut claims, mut allowance) = (Claims::default(), Allowance::of(claim));
        loop {
            let more = claim.max - claims.tasks.len();
            let candidates = self.inner.queue.lock().take(&claim.worker, &mut allowance, more, now);
            if candidates.is_empty() {
                break;
            }
            let tasks = candidates
                .into_iter()
                .filter_map(|found| self.claim_one(claim, found, now));
            claims.tasks.extend(tasks);
        }
        claims.next_due = self.inner.queue.lock().next_due(&claim.worker, &mut allowance, now);
        claims.passed_over = allowance.passed_over();
        claims.control = self.controls().version();
        claims
    }

    fn claim_one(&self, claim: &Claim, found: Candidate, now: Timestamp) -> Option<ClaimedRow> {
        let mut tasks = self.tasks(found.id);
        let Some(kept) = tasks.get(found.id).filter(|kept| kept.row.columns.is_runnable(now)) else {
            // The task was stopped, has expired, or was deleted since it was found.
            if found.suspect {
                self.inner.queue.lock().free_suspect(&claim.worker, found.id);
            }
            return None;
        };
        let (mut row, request) = (kept.row.clone(), kept.request.clone());
        row.claim(claim.worker.clone(), claim.lease, FenceToken::NONE, now);
        let _ = tasks.replace(row.clone(), &self.around(found.id));
        drop(tasks);
        self.news.changed(found.id);
        Some(ClaimedRow {
            row,
            request: Ok(request),
        })
    }

    pub(super) fn renew_now(&self, held: LeaseRef, lease: Duration) -> Renewal {
        let now = self.inner.now();
        // Leases are in no index: a search for lapsed leases reads the rows.
        let mut tasks = self.tasks(held.id);
        let kept = tasks.get_mut(held.id);
        kept.map_or(Renewal::Lost, |kept| kept.row.columns.renew(held.token, lease, now))
    }

    pub(super) fn claim_deliveries_now(&self, claim: &DeliveryClaim) -> Vec<ClaimedOutbox> {
        let now = self.inner.now();
        let mut claimed = Vec::new();
        for (destination, (_, id, generation)) in self.inner.outbox.take(&claim.from, now) {
            let mut tasks = self.tasks(id);
            let Some(kept) = tasks.get_mut(id) else { continue };
            let mut rows = kept.row.outbox.iter_mut();
            let of = rows.find(|row| row.generation == generation && row.destination == destination);
            let Some(of) = of else { continue };
            let before = of.clone();
            let is_claimed = of.claim(claim.lease, FenceToken::NONE, now).is_some();
            // `take` removed it from the index. It returns as it is now, claimed or not.
            self.inner.outbox.follow(id, &[before], std::slice::from_ref(of));
            if is_claimed {
                claimed.push(ClaimedOutbox {
                    row: kept.row.clone(),
                    generation,
                    destination,
                });
            }
        }
        claimed
    }
}
