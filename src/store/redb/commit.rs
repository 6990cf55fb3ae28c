//! Changes of rows, and what may be due for one.

use super::{batch::Batch, fault::Fault, given::GivenChange, logs};
use crate::store::{Candidate, Candidates, Committed, Due, Row};

impl Batch<'_> {
    pub(super) fn commit(&mut self, given: GivenChange) -> Result<Committed, Fault> {
        let GivenChange {
            change,
            record,
            request,
            response,
        } = given;
        // Before the lease is looked at: see `Ram::renew`.
        let now = self.now();
        let before = match self.load(change.id) {
            // One that cannot be read is gone for whoever made the change, and does not keep the others of a batch back.
            Err(fault) if fault.is_corrupt() => {
                self.set_aside(change.id)?;
                None
            }
            loaded => loaded?,
        };
        let Some(before) = before else {
            return Ok(Committed::Stale(None));
        };
        if !change.holds(&before, now) {
            return Ok(Committed::Stale(Some(Box::new(before))));
        }
        let Some(next) = change.to else {
            self.remove(&before)?;
            return Ok(Committed::Done);
        };
        let key = &before.id.as_bytes()[..];
        if let Some(request) = request {
            request.put(self.tables.inputs.open()?, key)?;
        }
        match response {
            None => {}
            Some(Some(response)) => response.put(self.tables.outputs.open()?, key)?,
            Some(None) => _ = self.tables.outputs.open()?.remove(key)?,
        }
        let row = next.after(&before, now);
        self.save(Some(&before), &row, &record)?;
        Ok(Committed::Done)
    }

    /// Takes a task out with all that hangs on it. Its key stays for its window.
    fn remove(&mut self, row: &Row) -> Result<(), Fault> {
        self.dirty = true;
        let key = &row.id.as_bytes()[..];
        self.tables.tasks.open()?.remove(key)?;
        self.tables.inputs.open()?.remove(key)?;
        self.tables.outputs.open()?.remove(key)?;
        logs::remove(self.tables.logs.open()?, row.id)?;
        self.forget_name(row)?;
        self.work |= self.ram.follow(Some(row), None);
        Ok(())
    }

    pub(super) fn due(&mut self, what: &Due, max: usize) -> Result<Candidates, Fault> {
        let now = self.now();
        let mut rows = Vec::new();
        for (id, why) in self.ram.due(what, max, now) {
            let stored = self.load_or_set_aside(id)?;
            rows.extend(stored.map(|stored| Candidate { row: stored.row, why }));
        }
        Ok(Candidates { now, rows })
    }
}
