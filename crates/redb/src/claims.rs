//! Claims of tasks and completions. A claim writes only the head of a row: the bytes of its record stay unchanged.

use redb::ReadableTable;

use crate::{
    batch::{Batch, Stored},
    fault::Fault,
    frame, logs,
    tables::{CONTROL_KEY, Origin, Unreadable, read_payload},
};
use tower_respond_async::{
    store::{
        Claim, ClaimedOutbox, ClaimedRow, Claims, ControlChange, Controls, DeliveryClaim, Payload, StoreResult, kit,
    },
    task::{Destination, FenceToken, LeaseRef, LogLine, RequestId},
    time::Timestamp,
};

impl Batch<'_> {
    pub(crate) fn claim(&mut self, claim: &Claim) -> Result<Claims, Fault> {
        let now = self.now();
        let (mut claims, mut allowance) = (Claims::default(), kit::Allowance::of(claim));
        loop {
            let more = claim.max - claims.tasks.len();
            let candidates = self.ram.queue.lock().take(&claim.worker, &mut allowance, more, now);
            if candidates.is_empty() {
                break;
            }
            for found in candidates {
                match self.claim_one(claim, found.id, now)? {
                    Some(task) => claims.tasks.push(task),
                    None if found.suspect => self.ram.queue.lock().free_suspect(&claim.worker, found.id),
                    None => {}
                }
            }
        }
        claims.next_due = self.ram.queue.lock().next_due(&claim.worker, &mut allowance, now);
        claims.passed_over = allowance.passed_over();
        claims.control = self.ram.controls().version();
        Ok(claims)
    }

    fn claim_one(&mut self, claim: &Claim, id: RequestId, now: Timestamp) -> Result<Option<ClaimedRow>, Fault> {
        let stored = self.load_or_set_aside(id)?;
        let Some(Stored { row: before, record }) = stored.filter(|stored| stored.row.columns.is_runnable(now)) else {
            return Ok(None);
        };
        let request = self.request(id)?;
        let mut row = before.clone();
        row.claim(claim.worker.clone(), claim.lease, FenceToken::NONE, now);
        self.save(Some(&before), &row, &record)?;
        Ok(Some(ClaimedRow::new(row, request)))
    }

    /// The request of a task. A damaged request is kept aside, and the inner error says so.
    fn request(&mut self, id: RequestId) -> Result<StoreResult<Payload>, Fault> {
        let key = &id.as_bytes()[..];
        let value = self.tables.requests.open()?.get(key)?;
        let value = value.map_or_else(Vec::new, |value| value.value().to_vec());
        match read_payload(id, &value) {
            Ok(request) => Ok(Ok(request)),
            Err(damaged) => {
                self.dirty = true;
                self.tables.keep_aside(self.ram, Origin::Request, key, &value)?;
                Ok(Err(Unreadable::from(damaged).of(id)))
            }
        }
    }

    pub(crate) fn claim_deliveries(&mut self, claim: &DeliveryClaim) -> Result<Vec<ClaimedOutbox>, Fault> {
        let now = self.now();
        let mut claimed = Vec::new();
        for (destination, due) in self.ram.outbox.take(&claim.from, now) {
            claimed.extend(self.claim_delivery(claim, destination, due, now)?);
        }
        Ok(claimed)
    }

    fn claim_delivery(
        &mut self,
        claim: &DeliveryClaim,
        destination: Destination,
        (_, id, generation): kit::Due,
        now: Timestamp,
    ) -> Result<Option<ClaimedOutbox>, Fault> {
        let Some(Stored { row: before, record }) = self.load_or_set_aside(id)? else {
            return Ok(None);
        };
        let mut row = before.clone();
        let mut rows = row.outbox.iter_mut();
        let of = rows.find(|of| of.generation == generation && of.destination == destination);
        if of.and_then(|of| of.claim(claim.lease, FenceToken::NONE, now)).is_none() {
            return Ok(None);
        }
        self.save(Some(&before), &row, &record)?;
        Ok(Some(ClaimedOutbox::new(row, generation, destination)))
    }

    pub(crate) fn control(&mut self, change: Option<&ControlChange>) -> Result<Controls, Fault> {
        let mut values = self.ram.controls();
        let mut changed = values.clone();
        let controls = changed.apply(change);
        if controls.changed {
            frame::put(self.tables.meta.open()?, CONTROL_KEY, &[&changed.encode()])?;
            self.dirty = true;
            *values = changed;
        }
        Ok(controls)
    }

    pub(crate) fn append_log(&mut self, lease: LeaseRef, lines: &[LogLine]) -> Result<bool, Fault> {
        let row = self.load(lease.id)?;
        let Some(row) = row.filter(|row| row.is_held_by(lease.token)) else {
            return Ok(false);
        };
        let now = self.now();
        self.dirty |= logs::append(self.tables.logs.open()?, &row, lines.to_vec(), now)?;
        Ok(true)
    }
}
