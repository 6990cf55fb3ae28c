//! Storing a task.

use std::sync::Arc;

use redb::ReadableTable;

use super::{
    batch::Batch,
    fault::Fault,
    frame::{self, Sealed},
    tables::{KnownKey, Origin, Stored, end_key, key_key, name_key, read_name},
};
use crate::{
    store::{Insert, Inserted, KnownBy},
    task::{NewTask, RequestDigest, RequestId, TaskRecord},
    time::Timestamp,
};

impl Batch<'_> {
    /// `input` is the task's, sealed.
    pub(super) fn insert(&mut self, insert: &Insert, input: &Sealed) -> Result<Inserted, Fault> {
        let (task, now) = (&insert.task, self.now());
        if let Some(known) = self.load(task.id)? {
            return Ok(Self::known(known, KnownBy::Id, None, task.digest));
        }
        let (named, keyed) = (self.named(task)?, self.keyed(task, now)?);
        match (named, keyed) {
            (Some(named), Some(keyed)) if named.record.id != keyed.id => return Ok(Inserted::Conflict),
            (Some(named), _) => return Ok(Self::known(named, KnownBy::Name, None, task.digest)),
            (None, Some(keyed)) => {
                return Ok(match self.load(keyed.id)? {
                    Some(known) => Self::known(known, KnownBy::Key, keyed.digest, task.digest),
                    None => Inserted::Known {
                        task: None,
                        id: keyed.id,
                        by: KnownBy::Key,
                        same_request: is_same(keyed.digest, task.digest),
                    },
                });
            }
            (None, None) => {}
        }

        let mut record = TaskRecord::accepted(task, now);
        if let Some(born) = &insert.born {
            let claimed = record.claim(born.worker.clone(), born.lease, now);
            debug_assert!(claimed.is_ok(), "a new task is waiting, and what waits can be claimed");
        }
        let full = self.ram.queue.lock().full(task.tenant.as_ref(), insert.limits);
        if let Some(full) = full.filter(|_| record.state.is_queued()) {
            return Ok(Inserted::Full(full));
        }
        let stored = Stored {
            record,
            digest: task.digest,
        };
        self.write_new(task, &stored, input, now)?;
        let record = stored.record;
        self.ram.add(&record);
        self.work |= record.state.is_queued();
        Ok(Inserted::New(Arc::new(record)))
    }

    fn write_new(&mut self, task: &NewTask, stored: &Stored, input: &Sealed, now: Timestamp) -> Result<(), Fault> {
        self.dirty = true;
        stored.put(self.tables.tasks.open()?)?;
        input.put(self.tables.inputs.open()?, task.id.as_bytes())?;
        if let Some(name) = &task.name {
            let name = name_key(name, task.tenant.as_ref());
            frame::put(self.tables.names.open()?, &name, &[task.id.as_bytes()])?;
        }
        if let Some(key) = &task.key {
            let key = key_key(task.tenant.as_ref(), task.caller.as_ref(), key);
            let until = now.saturating_add(task.key_window);
            let known = KnownKey {
                id: task.id,
                until,
                digest: task.digest,
            };
            self.forget_key(&key)?;
            known.put(self.tables.keys.open()?, &key)?;
            let ends = self.tables.key_ends.open()?;
            ends.insert(&*end_key(until, &key), &[][..])?;
        }
        Ok(())
    }

    /// Forgets a key past its window that had not been pruned.
    fn forget_key(&mut self, key: &[u8]) -> Result<(), Fault> {
        let old = self
            .tables
            .keys
            .open()?
            .get(key)?
            .map(|value| KnownKey::read(key, value.value()));
        if let Some(Ok(old)) = old {
            self.tables.key_ends.open()?.remove(&*end_key(old.until, key))?;
        }
        Ok(())
    }

    /// The task that has the name.
    fn named(&mut self, task: &NewTask) -> Result<Option<Stored>, Fault> {
        let Some(name) = &task.name else { return Ok(None) };
        let name = name_key(name, task.tenant.as_ref());
        let read = self.tables.names.open()?.get(&*name)?.map(|value| {
            let value = value.value();
            read_name(&name, value).map_err(|_| value.to_vec())
        });
        match read {
            None => Ok(None),
            Some(Ok(id)) => match self.load(id) {
                // What had the name is lost; the name is free.
                Err(fault) if fault.is_corrupt() => Ok(None),
                loaded => loaded,
            },
            Some(Err(damaged)) => {
                self.set_entry_aside(Origin::Name, &name, &damaged)?;
                Ok(None)
            }
        }
    }

    /// What is remembered of the key.
    fn keyed(&mut self, task: &NewTask, now: Timestamp) -> Result<Option<KnownKey>, Fault> {
        let Some(key) = &task.key else { return Ok(None) };
        let key = key_key(task.tenant.as_ref(), task.caller.as_ref(), key);
        let read = self.tables.keys.open()?.get(&*key)?.map(|value| {
            let value = value.value();
            KnownKey::read(&key, value).map_err(|_| value.to_vec())
        });
        match read {
            Some(Err(damaged)) => {
                self.set_entry_aside(Origin::Key, &key, &damaged)?;
                Ok(None)
            }
            Some(Ok(known)) => Ok(Some(known).filter(|known| now < known.until)),
            None => Ok(None),
        }
    }

    fn set_entry_aside(&mut self, origin: Origin, key: &[u8], value: &[u8]) -> Result<(), Fault> {
        self.tables.keep_aside(self.ram, origin, key, value)?;
        match origin {
            Origin::Key => self.tables.keys.open()?.remove(key)?,
            _ => self.tables.names.open()?.remove(key)?,
        };
        self.dirty = true;
        Ok(())
    }

    /// The answer for a task that is known. `digest` is that of the key it is known by.
    fn known(stored: Stored, by: KnownBy, digest: Option<RequestDigest>, given: Option<RequestDigest>) -> Inserted {
        let id: RequestId = stored.record.id;
        let same_request = is_same(digest.or(stored.digest), given);
        Inserted::Known {
            task: Some(Arc::new(stored.record)),
            id,
            by,
            same_request,
        }
    }
}

/// Whether two requests are the same, as far as is known.
fn is_same(known: Option<RequestDigest>, given: Option<RequestDigest>) -> bool {
    known.is_some() && known == given
}
