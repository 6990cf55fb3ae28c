//! Changes of rows, and candidates for a change.

use std::{
    collections::BTreeSet,
    ops::Bound::{Excluded, Unbounded},
};

use redb::ReadableTable;

use crate::{batch::Batch, fault::Fault, given::GivenChange, logs};
use tower_respond_async::{
    store::{Candidate, Candidates, Committed, Due},
    task::RequestId,
};

impl Batch<'_> {
    pub(crate) fn commit(&mut self, given: &GivenChange) -> Result<Committed, Fault> {
        let mut gone = BTreeSet::new();
        let committed = self.commit_but(given, &mut gone);
        self.sweep(&gone)?;
        committed
    }

    pub(crate) fn commit_all(&mut self, given: &[GivenChange]) -> Result<Vec<Committed>, Fault> {
        let mut gone = BTreeSet::new();
        let committed = given.iter().map(|given| self.commit_but(given, &mut gone)).collect();
        self.sweep(&gone)?;
        committed
    }

    /// Makes a change, but leaves removed tasks for [`sweep`](Self::sweep).
    fn commit_but(&mut self, given: &GivenChange, gone: &mut BTreeSet<RequestId>) -> Result<Committed, Fault> {
        let GivenChange {
            change,
            record,
            request,
            response,
        } = given;
        // The time is read before the lease: see `Ram::renew`.
        let now = self.now();
        let before = match self.load(change.id) {
            // An unreadable task counts as gone, and does not block the other changes of the batch.
            Err(fault) if fault.is_corrupt() => {
                self.set_aside(change.id)?;
                None
            }
            loaded => loaded?,
        };
        let Some(before) = before.filter(|before| !gone.contains(&before.id)) else {
            return Ok(Committed::Stale(None));
        };
        if !change.holds(&before, now) {
            return Ok(Committed::Stale(Some(Box::new(before))));
        }
        let Some(next) = &change.to else {
            self.dirty = true;
            self.forget_name(&before)?;
            self.work |= self.ram.follow(Some(&before), None);
            gone.insert(before.id);
            return Ok(Committed::Done);
        };
        let key = &before.id.as_bytes()[..];
        if let Some(request) = request {
            request.put(self.tables.requests.open()?, key)?;
        }
        match response {
            None => {}
            Some(Some(response)) => response.put(self.tables.responses.open()?, key)?,
            Some(None) => _ = self.tables.responses.open()?.remove(key)?,
        }
        let row = next.clone().after(&before, now);
        self.save(Some(&before), &row, record)?;
        Ok(Committed::Done)
    }

    /// Removes tasks with their requests, responses and logs. Their keys stay until their windows end.
    ///
    /// Tasks that are pruned together were mostly accepted one after the other, so their ids are adjacent. redb removes
    /// an adjacent run leaf by leaf, in a third of the time of single removals.
    fn sweep(&mut self, gone: &BTreeSet<RequestId>) -> Result<(), Fault> {
        let mut rest = gone.first().copied();
        while let Some(first) = rest {
            let last = self.last_of_run(first, gone)?;
            for table in [
                &mut self.tables.tasks,
                &mut self.tables.requests,
                &mut self.tables.responses,
            ] {
                let run = &first.as_bytes()[..]..=&last.as_bytes()[..];
                let is_kept =
                    |key: &[u8], _: &[u8]| !key.try_into().is_ok_and(|id| gone.contains(&RequestId::from_bytes(id)));
                table.open()?.retain_in(run, is_kept)?;
            }
            rest = gone.range((Excluded(last), Unbounded)).next().copied();
        }
        for id in gone {
            logs::remove(self.tables.logs.open()?, *id)?;
        }
        Ok(())
    }

    /// The last id of the adjacent run of removed tasks that begins at `first`.
    fn last_of_run(&mut self, first: RequestId, gone: &BTreeSet<RequestId>) -> Result<RequestId, Fault> {
        let mut last = first;
        for entry in self.tables.tasks.open()?.range::<&[u8]>(&first.as_bytes()[..]..)? {
            match entry?.0.value().try_into().map(RequestId::from_bytes) {
                Ok(next) if gone.contains(&next) => last = next,
                _ => break,
            }
        }
        Ok(last)
    }

    pub(crate) fn due(&mut self, what: &Due, max: usize) -> Result<Candidates, Fault> {
        let now = self.now();
        let mut rows = Vec::new();
        for (id, reason) in self.ram.due(what, max, now) {
            let stored = self.load_or_set_aside(id)?;
            rows.extend(stored.map(|stored| Candidate::new(stored.row, reason)));
        }
        Ok(Candidates::new(now, rows))
    }
}
