//! The operations of one commit, seen from inside of it.

use std::sync::Arc;

use redb::ReadableTable;

use super::{
    fault::Fault,
    frame, logs,
    ram::Ram,
    tables::{Origin, Stored, Tables, Unreadable, name_key, read_name},
};
use crate::{
    store::index::Footprint,
    task::{CapturedRequest, RequestId, Scope, TaskRecord},
    time::{Clock, Timestamp},
};

/// What the writer has in its hands while it puts a commit together. Operations are methods of this, one after the
/// other, each seeing what those before it did.
///
/// An operation that answers with an error must not have written anything: the batch is committed with the others in it.
pub(super) struct Batch<'t> {
    pub(super) tables: Tables<'t>,
    pub(super) ram: &'t Ram,
    pub(super) clock: &'t dyn Clock,
    /// Something was written, so there is something to commit.
    pub(super) dirty: bool,
    /// Something may be runnable that was not.
    pub(super) work: bool,
}

impl Batch<'_> {
    pub(super) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// The task as it is, with what only memory knows of it.
    pub(super) fn load(&mut self, id: RequestId) -> Result<Option<Stored>, Fault> {
        let Some(value) = self.tables.tasks.open()?.get(&id.as_bytes()[..])? else {
            return match self.ram.shelf().set_aside.contains(&id) {
                true => Err(Fault::set_aside(id)),
                false => Ok(None),
            };
        };
        let mut stored = Stored::read(id.as_bytes(), value.value()).map_err(|error| Fault::unreadable(id, error))?;
        self.ram.complete(&mut stored.record);
        Ok(Some(stored))
    }

    /// The task, if it is there and can be read. One that cannot is set aside.
    pub(super) fn load_or_set_aside(&mut self, id: RequestId) -> Result<Option<Stored>, Fault> {
        match self.load(id) {
            Err(fault) if fault.is_corrupt() => {
                self.set_aside(id)?;
                Ok(None)
            }
            loaded => loaded,
        }
    }

    /// The task, if it is in `scope`; else it is not found.
    pub(super) fn load_in(&mut self, scope: &Scope, id: RequestId) -> Result<Stored, Fault> {
        let stored = self.load(id)?;
        let seen = stored.filter(|stored| scope.contains(stored.record.tenant.as_ref()));
        seen.ok_or_else(Fault::not_found)
    }

    /// Writes down what became of a task that was `before`, and lets the indexes follow.
    pub(super) fn save(&mut self, before: &Footprint, stored: &Stored) -> Result<Followed, Fault> {
        stored.put(self.tables.tasks.open()?)?;
        self.dirty = true;
        let after = Footprint::of(&stored.record);
        self.work |= self.ram.follow(before, &after, &stored.record);
        Ok(Followed {
            completion: after.pending.len() > before.pending.len(),
        })
    }

    /// The request of a task, or why it cannot be had.
    pub(super) fn input(&mut self, id: RequestId) -> Result<Result<Arc<CapturedRequest>, Unreadable>, Fault> {
        let key = &id.as_bytes()[..];
        let value = self.tables.inputs.open()?.get(key)?;
        let payload = value
            .as_ref()
            .map_or(Err(frame::Damaged), |v| frame::open(key, v.value()));
        Ok(payload.map_err(Unreadable::from).and_then(|payload| {
            let bytes = bytes::Bytes::copy_from_slice(payload);
            Ok(Arc::new(CapturedRequest::decode(bytes)?))
        }))
    }

    /// Ends a waiting task whose request cannot be read, and keeps the bytes.
    pub(super) fn invalidate(&mut self, mut stored: Stored, reason: Unreadable) -> Result<(), Fault> {
        let (id, now) = (stored.record.id, self.now());
        let key = &id.as_bytes()[..];
        let bytes = self.tables.inputs.open()?.get(key)?.map(|value| value.value().to_vec());
        self.tables
            .keep_aside(self.ram, Origin::Input, key, &bytes.unwrap_or_default())?;
        let before = Footprint::of(&stored.record);
        stored
            .record
            .invalidate(&format_args!("its request cannot be read: {reason}"), now);
        self.save(&before, &stored)?;
        Ok(())
    }

    /// Takes a record that cannot be read out of the way of the others, and keeps the bytes.
    pub(super) fn set_aside(&mut self, id: RequestId) -> Result<(), Fault> {
        let key = &id.as_bytes()[..];
        let bytes = self.tables.tasks.open()?.get(key)?.map(|value| value.value().to_vec());
        self.tables
            .keep_aside(self.ram, Origin::Task, key, &bytes.unwrap_or_default())?;
        self.tables.tasks.open()?.remove(key)?;
        self.dirty = true;
        self.ram.shelf().set_aside.insert(id);
        // Its record would have said where it stands in the queue; it was well when the file was opened, so this is rare.
        self.ram.queue.lock().purge(id);
        Ok(())
    }

    /// Takes an ended task out with all that hangs on it. Its key stays for its window.
    pub(super) fn remove(&mut self, record: &TaskRecord) -> Result<(), Fault> {
        let key = &record.id.as_bytes()[..];
        self.tables.tasks.open()?.remove(key)?;
        self.tables.inputs.open()?.remove(key)?;
        self.tables.outputs.open()?.remove(key)?;
        let (first, last) = (logs::key(record.id, 0), logs::key(record.id, u64::MAX));
        self.tables
            .logs
            .open()?
            .retain_in::<&[u8], _>(&first[..]..=&last[..], |_, _| false)?;
        if let Some(name) = &record.name {
            let name = name_key(name, record.tenant.as_ref());
            let own = self
                .tables
                .names
                .open()?
                .get(&*name)?
                .map(|value| read_name(&name, value.value()));
            if own == Some(Ok(record.id)) {
                self.tables.names.open()?.remove(&*name)?;
            }
        }
        self.dirty = true;
        self.ram.remove(record);
        Ok(())
    }
}

/// What a change of a record brought about.
#[derive(Clone, Copy, Debug)]
pub(super) struct Followed {
    /// A completion is now due.
    pub(super) completion: bool,
}
