//! Insertion of tasks, and the tables of names and keys.

use redb::ReadableTable;

use crate::{
    batch::Batch,
    fault::Fault,
    frame,
    given::GivenTask,
    tables::{Origin, end_key, name_key, read_key, read_name},
};
use tower_respond_async::{
    store::{
        Insertion, KnownBy, NewRow, Row,
        kit::{ClientKey, KnownKey},
    },
    task::FenceToken,
    time::Timestamp,
};

impl Batch<'_> {
    pub(crate) fn insert(&mut self, given: &GivenTask) -> Result<Insertion, Fault> {
        let (task, now) = (&given.task, self.now());
        let known = |row: Option<Row>, id, by, digest| Insertion::Known { row, id, by, digest };
        let id = task.record.id;
        if let Some(row) = self.load(id)? {
            return Ok(known(Some(row), id, KnownBy::Id, None));
        }
        match (self.named(task)?, self.keyed(task, now)?) {
            (Some(named), Some(keyed)) if named.id != keyed.id => return Ok(Insertion::Conflict),
            (Some(named), _) => {
                let id = named.id;
                return Ok(known(Some(named), id, KnownBy::Name, None));
            }
            (None, Some(keyed)) => {
                let row = self.load(keyed.id)?;
                return Ok(known(row, keyed.id, KnownBy::Key, keyed.digest));
            }
            (None, None) => {}
        }
        let row = task.row(FenceToken::NONE, now);
        let full = self
            .ram
            .queue
            .lock()
            .full(task.record.tenant.as_ref(), &task.record.pool, task.limits);
        if let Some(full) = full.filter(|_| row.columns.is_queued()) {
            return Ok(Insertion::Full(full));
        }
        given.request.put(self.tables.requests.open()?, id.as_bytes())?;
        self.note_names(task, now)?;
        self.save(None, &row, &given.record)?;
        Ok(Insertion::New(row))
    }

    fn note_names(&mut self, task: &NewRow, now: Timestamp) -> Result<(), Fault> {
        let record = &task.record;
        if let Some(name) = &record.name {
            let name = name_key(name, record.tenant.as_ref());
            frame::put(self.tables.names.open()?, &name, &[record.id.as_bytes()])?;
        }
        if let Some((key, known)) = ClientKey::of(task).zip(KnownKey::of(task, now)) {
            let key = key.encode();
            self.forget_key(&key)?;
            frame::put(self.tables.keys.open()?, &key, &[&known.encode()])?;
            let end = end_key(known.until, &key);
            self.tables.key_ends.open()?.insert(&*end, &[][..])?;
        }
        Ok(())
    }

    /// Removes the index entry of an expired key that has not been pruned.
    fn forget_key(&mut self, key: &[u8]) -> Result<(), Fault> {
        let old = self.tables.keys.open()?.get(key)?;
        let old = old.and_then(|value| read_key(key, value.value()).ok());
        if let Some(old) = old {
            self.tables.key_ends.open()?.remove(&*end_key(old.until, key))?;
        }
        Ok(())
    }

    /// The task that already has the name of `task`.
    fn named(&mut self, task: &NewRow) -> Result<Option<Row>, Fault> {
        let Some(name) = &task.record.name else {
            return Ok(None);
        };
        let name = name_key(name, task.record.tenant.as_ref());
        let read = self.tables.names.open()?.get(&*name)?.map(|value| {
            let value = value.value();
            read_name(&name, value).map_err(|_| value.to_vec())
        });
        match read {
            None => Ok(None),
            Some(Ok(id)) => match self.load(id) {
                // The task with this name is damaged, so the name is free.
                Err(fault) if fault.is_corrupt() => Ok(None),
                loaded => loaded,
            },
            Some(Err(damaged)) => {
                self.set_entry_aside(Origin::Name, &name, &damaged)?;
                Ok(None)
            }
        }
    }

    /// The entry of the client's key, if its window has not ended.
    fn keyed(&mut self, task: &NewRow, now: Timestamp) -> Result<Option<KnownKey>, Fault> {
        let Some(key) = ClientKey::of(task) else {
            return Ok(None);
        };
        let key = key.encode();
        let read = self.tables.keys.open()?.get(&*key)?.map(|value| {
            let value = value.value();
            read_key(&key, value).map_err(|_| value.to_vec())
        });
        match read {
            Some(Err(damaged)) => {
                self.set_entry_aside(Origin::Key, &key, &damaged)?;
                Ok(None)
            }
            Some(Ok(known)) => Ok(Some(known).filter(|known| !known.is_over(now))),
            None => Ok(None),
        }
    }

    fn set_entry_aside(&mut self, origin: Origin, key: &[u8], value: &[u8]) -> Result<(), Fault> {
        self.dirty = true;
        self.tables.keep_aside(self.ram, origin, key, value)?;
        match origin {
            Origin::Key => self.tables.keys.open()?.remove(key)?,
            _ => self.tables.names.open()?.remove(key)?,
        };
        Ok(())
    }

    /// Removes the name of a task, unless another task has it now.
    pub(crate) fn forget_name(&mut self, row: &Row) -> Result<(), Fault> {
        let Some(name) = &row.record.name else { return Ok(()) };
        let name = name_key(name, row.record.tenant.as_ref());
        let names = self.tables.names.open()?;
        let own = names.get(&*name)?.map(|value| read_name(&name, value.value()));
        if own == Some(Ok(row.id)) {
            names.remove(&*name)?;
        }
        Ok(())
    }

    pub(crate) fn prune_keys(&mut self, limit: usize) -> Result<usize, Fault> {
        // Ends within this millisecond are past too, whatever key follows.
        let bound = end_key(Timestamp::from_millis(self.now().as_millis().saturating_add(1)), &[]);
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
