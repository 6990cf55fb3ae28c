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

    /// The task that an index has, if it can be read. One that cannot is set aside; one that is not there was when the file
    /// was opened, so that a page that it is found by has changed since.
    pub(super) fn load_or_set_aside(&mut self, id: RequestId) -> Result<Option<Stored>, Fault> {
        match self.load(id) {
            Err(fault) if fault.is_corrupt() => {
                self.set_aside(id)?;
                Ok(None)
            }
            Ok(None) => Err(redb::Error::Corrupted(format!("task {id} is not in its table any more")).into()),
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

    /// Takes a record that cannot be read out of the way of the others, and keeps the bytes. Again, it changes nothing: one
    /// look into an index can bring up a task twice.
    pub(super) fn set_aside(&mut self, id: RequestId) -> Result<(), Fault> {
        if !self.ram.set_aside(id) {
            return Ok(());
        }
        let key = &id.as_bytes()[..];
        let bytes = self.tables.tasks.open()?.get(key)?.map(|value| value.value().to_vec());
        self.tables
            .keep_aside(self.ram, Origin::Task, key, &bytes.unwrap_or_default())?;
        self.tables.tasks.open()?.remove(key)?;
        self.dirty = true;
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

#[cfg(test)]
mod tests {
    use std::{sync::atomic::Ordering, time::Duration};

    use bytes::Bytes;
    use http::{HeaderMap, Method, Uri};
    use redb::{Database, backends::InMemoryBackend};

    use super::*;
    use crate::{
        store::{Claim, DeliveryClaim, GiveUp, Retention},
        task::{Conditions, Destination, NewTask, Subscription, Subscriptions, WorkerId},
        time::SystemClock,
    };

    /// Two are to be told of how this ends.
    fn record() -> TaskRecord {
        let input = CapturedRequest::new(Method::GET, Uri::from_static("/"), HeaderMap::new(), Bytes::new());
        let mut task = NewTask::new(RequestId::from_bytes([7; 16]), Arc::new(input));
        task.subscriptions = Subscriptions::from(destinations().map(|destination| Subscription {
            destination,
            on: Conditions::ALL,
        }));
        TaskRecord::accepted(&task, SystemClock::new().now())
    }

    fn destinations() -> [Destination; 2] {
        ["a", "b"].map(Destination::new)
    }

    /// Gives `test` a store whose indexes have this record, and whose table of tasks has this value for it.
    fn with(record: &TaskRecord, value: Option<&[u8]>, test: impl FnOnce(&mut Batch<'_>)) {
        let database = Database::builder().create_with_backend(InMemoryBackend::new()).unwrap();
        let transaction = database.begin_write().unwrap();
        let (ram, clock) = (Ram::default(), SystemClock::new());
        ram.add(record);
        let mut batch = Batch {
            tables: Tables::new(&transaction),
            ram: &ram,
            clock: &clock,
            dirty: false,
            work: false,
        };
        if let Some(value) = value {
            let tasks = batch.tables.tasks.open().unwrap();
            tasks.insert(&record.id.as_bytes()[..], value).unwrap();
        }
        test(&mut batch);
    }

    fn claim() -> Claim {
        Claim {
            worker: WorkerId::new("w", 1),
            max: 10,
            lease: Duration::from_secs(60),
        }
    }

    fn claim_deliveries() -> DeliveryClaim {
        DeliveryClaim {
            destinations: destinations().into(),
            max: 10,
            lease: Duration::from_secs(60),
        }
    }

    fn give_up() -> GiveUp {
        GiveUp {
            spared: Vec::new(),
            overdue: Duration::ZERO,
            max: 10,
        }
    }

    const AT_ONCE: Retention = Retention {
        succeeded: Duration::ZERO,
        others: Duration::ZERO,
    };

    fn ended(mut record: TaskRecord, is_told: bool) -> TaskRecord {
        if is_told {
            record.subscriptions = Subscriptions::default();
        }
        record.invalidate(&"it has ended", record.created_at);
        record
    }

    /// One look brings it up once for each who is to be told, and the next would bring it up again.
    #[test]
    fn a_record_that_cannot_be_read_is_set_aside_once_with_its_bytes() {
        let is_set_aside = |batch: &mut Batch<'_>| {
            assert_eq!(batch.ram.set_aside.load(Ordering::Relaxed), 1);
            let aside = batch.tables.set_aside.open().unwrap();
            let kept: Vec<_> = aside
                .iter()
                .unwrap()
                .map(|entry| entry.unwrap().1.value().to_vec())
                .collect();
            assert_eq!(kept, [b"garbage"]);
        };
        with(&ended(record(), false), Some(b"garbage"), |batch| {
            for _ in 0..2 {
                assert_eq!(batch.claim_deliveries(&claim_deliveries()).unwrap().len(), 0);
                assert_eq!(batch.give_up_deliveries(&give_up()).unwrap().len(), 0);
                is_set_aside(batch);
            }
        });
        with(&ended(record(), false), Some(b"garbage"), |batch| {
            for _ in 0..2 {
                assert_eq!(batch.give_up_deliveries(&give_up()).unwrap().len(), 0);
                is_set_aside(batch);
            }
            assert_eq!(batch.ram.outbox.len(), 0);
        });
        with(&ended(record(), true), Some(b"garbage"), |batch| {
            for _ in 0..2 {
                assert_eq!(batch.prune(AT_ONCE, 10).unwrap().tasks, 0);
                is_set_aside(batch);
            }
        });
        with(&record(), Some(b"garbage"), |batch| {
            for _ in 0..2 {
                assert_eq!(batch.claim(&claim()).unwrap().tasks.len(), 0);
                is_set_aside(batch);
            }
        });
    }

    #[test]
    fn a_task_that_is_not_in_the_file_any_more_stops_the_store() {
        fn stops<T>(answer: Result<T, Fault>) {
            let stops = matches!(&answer, Err(Fault::Broken(redb::Error::Corrupted(_))));
            assert!(stops, "{:?}", answer.err());
        }
        with(&record(), None, |batch| stops(batch.claim(&claim())));
        with(&ended(record(), false), None, |batch| {
            stops(batch.claim_deliveries(&claim_deliveries()));
        });
        with(&ended(record(), false), None, |batch| {
            stops(batch.give_up_deliveries(&give_up()));
        });
        with(&ended(record(), true), None, |batch| stops(batch.prune(AT_ONCE, 10)));
        let mut held = record();
        let claimed = held.claim(WorkerId::new("w", 1), Duration::ZERO, held.created_at);
        claimed.unwrap();
        with(&held, None, |batch| stops(batch.rescue(10)));
    }
}
