//! Handing tasks to workers, and hearing how it went.

use std::sync::Arc;

use super::{
    batch::Batch,
    fault::Fault,
    frame::{self, Sealed},
    logs,
};
use crate::{
    store::{
        Claim, Claimed, ClaimedTask, Rescued, Settled,
        index::{Candidate, Footprint},
    },
    task::{
        LeaseRef, LogLine, RequestId,
        lifecycle::{Rescue, Settlement},
    },
    time::Timestamp,
};

impl Batch<'_> {
    pub(super) fn claim(&mut self, claim: &Claim) -> Result<Claimed, Fault> {
        let now = self.now();
        let mut claimed = Claimed::default();
        loop {
            let more = claim.max - claimed.tasks.len();
            let candidates = self.ram.queue.lock().take(&claim.worker, more, now);
            if candidates.is_empty() {
                break;
            }
            for found in candidates {
                match self.claim_one(claim, found, now)? {
                    Some(task) => claimed.tasks.push(task),
                    None if found.suspect => self.ram.queue.lock().free_suspect(&claim.worker, found.id),
                    None => {}
                }
            }
        }
        claimed.next_due = self.ram.queue.lock().next_due(&claim.worker, now);
        Ok(claimed)
    }

    fn claim_one(&mut self, claim: &Claim, found: Candidate, now: Timestamp) -> Result<Option<ClaimedTask>, Fault> {
        let stored = self.load_or_set_aside(found.id)?;
        let Some(mut stored) = stored.filter(|stored| stored.record.is_runnable(now)) else {
            return Ok(None);
        };
        let input = match self.input(found.id)? {
            Ok(input) => input,
            // Left in the queue, and off its lane: the build that can read it will open this file anew.
            Err(newer) if newer.is_newer() => return Ok(None),
            Err(reason) => {
                self.invalidate(stored, reason)?;
                return Ok(None);
            }
        };
        let before = Footprint::of(&stored.record);
        if stored.record.claim(claim.worker.clone(), claim.lease, now).is_err() {
            return Ok(None);
        }
        self.save(&before, &stored)?;
        let record = Arc::new(stored.record);
        Ok(Some(ClaimedTask { record, input }))
    }

    /// `output` is the response of the outcome, sealed.
    pub(super) fn settle(&mut self, settlement: Settlement, output: Option<&Sealed>) -> Result<Settled, Fault> {
        let LeaseRef { id, token } = settlement.lease;
        let Some(mut stored) = self.load(id)? else {
            return Ok(Settled::Fenced);
        };
        let before = Footprint::of(&stored.record);
        let outcome = settlement.outcome;
        let state = match stored.record.settle(token, &outcome, self.now()) {
            Ok(state) => state,
            Err(fenced) => return Ok(fenced.into()),
        };
        let followed = self.save(&before, &stored)?;
        if let Some(output) = output.filter(|_| outcome.output_for(state).is_some()) {
            output.put(self.tables.outputs.open()?, id.as_bytes())?;
        }
        Ok(Settled::Accepted {
            state,
            outbox: followed.completion,
        })
    }

    pub(super) fn rescue(&mut self, limit: usize) -> Result<Rescued, Fault> {
        let mut rescued = self.ram.take_rescued(limit);
        let limit = limit - rescued.tasks.len();
        let over_age = self.ram.queue.lock().over_age(limit, self.now());
        let mut due: Vec<(RequestId, Option<Timestamp>)> = over_age.into_iter().map(|id| (id, None)).collect();
        let lapsed = self.ram.lapsed(limit - due.len(), self.clock);
        due.extend(lapsed.into_iter().map(|(id, until)| (id, Some(until))));

        for (id, lapsed) in due {
            let Some(mut stored) = self.load_or_set_aside(id)? else {
                continue;
            };
            let before = Footprint::of(&stored.record);
            if lapsed.is_some() {
                stored.record.lease_until = lapsed;
            }
            let rescue = stored.record.rescue(self.now());
            if rescue == Rescue::NotDue {
                continue;
            }
            rescued.outbox |= self.save(&before, &stored)?.completion;
            rescued.tasks.push((id, rescue));
        }
        Ok(rescued)
    }

    pub(super) fn append_log(&mut self, lease: LeaseRef, lines: Vec<LogLine>) -> Result<bool, Fault> {
        let stored = self.load(lease.id)?;
        let Some(stored) = stored.filter(|stored| stored.record.is_held_by(lease.token)) else {
            return Ok(false);
        };
        let end = logs::end(self.tables.logs.open()?, lease.id)?;
        let (last, mut meter) = end.map_err(|error| Fault::unreadable(lease.id, error))?;
        let kept = meter.admit(&stored.record, lines, last, self.now());
        if let Some(line) = kept.last() {
            let key = logs::key(lease.id, line.seq);
            frame::put(self.tables.logs.open()?, &key, &[&logs::chunk(&meter, &kept)])?;
            self.dirty = true;
        }
        Ok(true)
    }
}
