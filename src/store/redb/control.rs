//! What people do to a task: stop it, run it again, delete it; and what time does.

use std::sync::Arc;

use redb::ReadableTable;

use super::{batch::Batch, fault::Fault, frame, tables::end_key};
use crate::{
    store::{Delete, Pruned, Retention, index::Footprint},
    task::{
        RequestId, Scope,
        lifecycle::{Edits, Rerun, Stop},
    },
    time::Timestamp,
};

impl Batch<'_> {
    pub(super) fn stop(&mut self, scope: &Scope, id: RequestId) -> Result<Stop, Fault> {
        let mut stored = self.load_in(scope, id)?;
        let before = Footprint::of(&stored.record);
        let stop = stored.record.stop(self.now());
        if before.state != stored.record.state {
            self.save(&before, &stored)?;
        }
        Ok(stop)
    }

    pub(super) fn rerun(&mut self, scope: &Scope, id: RequestId, edits: Edits) -> Result<Rerun, Fault> {
        let mut stored = self.load_in(scope, id)?;
        if !stored.record.state.is_terminal() {
            return Ok(Rerun::NotEnded(stored.record.state));
        }
        let before = Footprint::of(&stored.record);
        let old = self.input(id)?.map_err(|error| Fault::unreadable(id, error))?;
        let edited = !edits.is_empty();
        let input = if edited { Arc::new(edits.apply(&old)) } else { old };
        let rerun = stored.record.rerun(&input, self.now());
        if matches!(rerun, Rerun::Enqueued { .. }) {
            if edited {
                frame::put(self.tables.inputs.open()?, id.as_bytes(), &[&input.encode()])?;
            }
            self.tables.outputs.open()?.remove(&id.as_bytes()[..])?;
            self.save(&before, &stored)?;
        }
        Ok(rerun)
    }

    pub(super) fn delete(&mut self, scope: &Scope, id: RequestId) -> Result<Delete, Fault> {
        let record = self.load_in(scope, id)?.record;
        if !record.state.is_terminal() {
            return Ok(Delete::NotEnded(record.state));
        }
        self.remove(&record)?;
        Ok(Delete::Deleted)
    }

    pub(super) fn prune(&mut self, retention: Retention, limit: usize) -> Result<Pruned, Fault> {
        let now = self.now();
        let mut pruned = Pruned::default();
        let due: Vec<_> = {
            let shelf = self.ram.shelf();
            let lines = [
                (&shelf.succeeded, retention.succeeded),
                (&shelf.others, retention.others),
            ];
            let past = lines.into_iter().flat_map(|(line, keep)| {
                let past = line.iter().take_while(move |(at, _)| at.saturating_add(keep) <= now);
                past.map(|(_, id)| id).take(limit)
            });
            past.take(limit).collect()
        };
        for id in due {
            if let Some(stored) = self.load_or_set_aside(id)? {
                self.remove(&stored.record)?;
                pruned.tasks += 1;
            }
        }
        pruned.keys = self.prune_keys(limit, now)?;
        Ok(pruned)
    }

    fn prune_keys(&mut self, limit: usize, now: Timestamp) -> Result<usize, Fault> {
        // Ends of this very millisecond are past as well, whatever key follows.
        let bound = end_key(Timestamp::from_millis(now.as_millis().saturating_add(1)), &[]);
        let mut due = Vec::new();
        for entry in self.tables.key_ends.open()?.range::<&[u8]>(..&*bound)?.take(limit) {
            due.push(entry?.0.value().to_vec());
        }
        for end in &due {
            self.tables.key_ends.open()?.remove(&**end)?;
            let key = end.get(8..).unwrap_or_default();
            self.tables.keys.open()?.remove(key)?;
            self.dirty = true;
        }
        Ok(due.len())
    }
}
