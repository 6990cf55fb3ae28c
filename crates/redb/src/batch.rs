//! The state of one commit, and its basic steps on rows.

use redb::ReadableTable;

use crate::{
    fault::Fault,
    frame,
    ram::Ram,
    tables::{Origin, Tables, read_row},
};
use tower_respond_async::{
    store::Row,
    task::RequestId,
    time::{Clock, Timestamp},
};

/// A commit under construction. Operations are methods of this type. They run one after the other, and each sees the
/// changes of those before it.
///
/// An operation that returns an error must not have written anything, since the batch is committed with the others in
/// it.
pub(crate) struct Batch<'t> {
    pub(crate) tables: Tables<'t>,
    pub(crate) ram: &'t Ram,
    pub(crate) clock: &'t dyn Clock,
    /// Something was written, so the batch must be committed.
    pub(crate) dirty: bool,
    /// A task may have become runnable.
    pub(crate) work: bool,
}

/// The row of a task, and the bytes of its record.
pub(crate) struct Stored {
    pub(crate) row: Row,
    pub(crate) record: Vec<u8>,
}

impl<'t> Batch<'t> {
    pub(crate) const fn new(tables: Tables<'t>, ram: &'t Ram, clock: &'t dyn Clock) -> Self {
        Self {
            tables,
            ram,
            clock,
            dirty: false,
            work: false,
        }
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// The row of the task, with its present lease and progress.
    pub(crate) fn load(&mut self, id: RequestId) -> Result<Option<Row>, Fault> {
        let Some(held) = self.ram.held(id) else {
            return Ok(self.load_stored(id)?.map(|stored| stored.row));
        };
        debug_assert!(self.has_stored(&held), "memory has another row of {id} than the file");
        Ok(Some(held))
    }

    /// Whether the file has this row of a held task, except for lease and progress; or no readable one.
    fn has_stored(&mut self, held: &Row) -> bool {
        let Ok(Some(Stored { row: mut stored, .. })) = self.load_stored(held.id) else {
            return true;
        };
        stored.columns.lease_until = held.columns.lease_until;
        stored.columns.progress.clone_from(&held.columns.progress);
        stored == *held
    }

    fn load_stored(&mut self, id: RequestId) -> Result<Option<Stored>, Fault> {
        let key = &id.as_bytes()[..];
        let Some(value) = self.tables.tasks.open()?.get(key)? else {
            return match self.ram.is_set_aside(id) {
                true => Err(Fault::set_aside(id)),
                false => Ok(None),
            };
        };
        let (mut row, record) = read_row(key, value.value()).map_err(|error| error.of(id))?;
        self.ram.complete(&mut row);
        let record = record.to_vec();
        Ok(Some(Stored { row, record }))
    }

    /// Loads a task that an index lists. An unreadable row is set aside. A missing row is corruption: it was there when
    /// the file was opened, so a page on the way to it has changed since.
    pub(crate) fn load_or_set_aside(&mut self, id: RequestId) -> Result<Option<Stored>, Fault> {
        match self.load_stored(id) {
            Err(fault) if fault.is_corrupt() => {
                self.set_aside(id)?;
                Ok(None)
            }
            Ok(None) => Err(redb::Error::Corrupted(format!("task {id} is not in its table any more")).into()),
            loaded => loaded,
        }
    }

    /// Writes a row, which was `before`, with the bytes of its record, and updates the indexes.
    pub(crate) fn save(&mut self, before: Option<&Row>, row: &Row, record: &[u8]) -> Result<(), Fault> {
        self.dirty = true;
        let parts = [&*row.encode_head(), record];
        frame::put(self.tables.tasks.open()?, row.id.as_bytes(), &parts)?;
        self.work |= self.ram.follow(before, Some(row));
        Ok(())
    }

    /// Moves an unreadable row to the table of damaged values. A second call for the same task does nothing: one search
    /// of an index can return a task twice.
    pub(crate) fn set_aside(&mut self, id: RequestId) -> Result<(), Fault> {
        if !self.ram.set_aside(id) {
            return Ok(());
        }
        self.dirty = true;
        let key = &id.as_bytes()[..];
        let bytes = self.tables.tasks.open()?.remove(key)?;
        let bytes = bytes.map_or_else(Vec::new, |value| value.value().to_vec());
        self.tables.keep_aside(self.ram, Origin::Task, key, &bytes)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{Arc, atomic::Ordering},
        time::Duration,
    };

    use bytes::Bytes;
    use http::{HeaderMap, Method, Uri};
    use redb::{Database, backends::InMemoryBackend};

    use super::*;
    use tower_respond_async::{
        store::{Change, Claim, Committed, DeliveryClaim, Due, NewRow, Retention},
        task::{
            CapturedRequest, Conditions, Destination, FenceToken, NewTask, Subscription, TaskRecord, TaskState,
            WorkerId,
        },
        time::SystemClock,
    };

    const AT_ONCE: Duration = Duration::ZERO;

    /// A task with two completions to deliver.
    fn waiting() -> Row {
        waiting_for(&destinations())
    }

    fn waiting_for(destinations: &[Destination]) -> Row {
        let request = CapturedRequest::new(Method::GET, Uri::from_static("/"), HeaderMap::new(), Bytes::new());
        let mut task = NewTask::new(RequestId::from_bytes([7; 16]), Arc::new(request));
        let of_each = destinations.iter().map(|destination| Subscription {
            destination: destination.clone(),
            on: Conditions::ALL,
        });
        task.subscriptions = of_each.collect();
        let now = SystemClock::new().now();
        let record = Arc::new(TaskRecord::accepted(&task, now));
        NewRow::new(record, task.request.to_payload()).row(FenceToken::NONE, now)
    }

    fn held() -> Row {
        let mut row = waiting();
        row.claim(WorkerId::new("w", 1), AT_ONCE, FenceToken::NONE, row.columns.created_at);
        row
    }

    fn ended(is_told: bool) -> Row {
        let row = match is_told {
            true => waiting_for(&[]),
            false => waiting(),
        };
        let now = row.columns.created_at;
        let mut record = TaskRecord::clone(&row.record);
        record.invalidate(&"it has ended", now);
        let change = Change::between(&row, Arc::new(record), now);
        change.to.unwrap().after(&row, now)
    }

    fn destinations() -> [Destination; 2] {
        ["a", "b"].map(Destination::new)
    }

    /// Runs `test` with a batch: the indexes have this row, and the table of tasks has `value` for it, if any.
    fn with(row: &Row, value: Option<&[u8]>, test: impl FnOnce(&mut Batch<'_>)) {
        let database = Database::builder().create_with_backend(InMemoryBackend::new()).unwrap();
        let transaction = database.begin_write().unwrap();
        let (ram, clock) = (Ram::default(), SystemClock::new());
        ram.follow(None, Some(row));
        let mut batch = Batch::new(Tables::new(&transaction), &ram, &clock);
        if let Some(value) = value {
            let tasks = batch.tables.tasks.open().unwrap();
            tasks.insert(&row.id.as_bytes()[..], value).unwrap();
        }
        test(&mut batch);
    }

    fn claim(batch: &mut Batch<'_>) -> Result<usize, Fault> {
        let claim = Claim::new(WorkerId::new("w", 1), 10, Duration::from_secs(60));
        Ok(batch.claim(&claim)?.tasks.len())
    }

    fn claim_deliveries(batch: &mut Batch<'_>) -> Result<usize, Fault> {
        let claim = DeliveryClaim::new(
            destinations().map(|destination| (destination, 10)).into(),
            Duration::from_secs(60),
        );
        Ok(batch.claim_deliveries(&claim)?.len())
    }

    fn due(batch: &mut Batch<'_>, what: &Due) -> Result<usize, Fault> {
        Ok(batch.due(what, 10)?.rows.len())
    }

    fn give_up(batch: &mut Batch<'_>) -> Result<usize, Fault> {
        let (spared, overdue) = (Vec::new(), AT_ONCE);
        due(batch, &Due::GiveUp { spared, overdue })
    }

    fn prune(batch: &mut Batch<'_>) -> Result<usize, Fault> {
        let (succeeded, others) = (AT_ONCE, AT_ONCE);
        due(batch, &Due::Prune(Retention::new(succeeded, others)))
    }

    fn rescue(batch: &mut Batch<'_>) -> Result<usize, Fault> {
        due(batch, &Due::Rescue { spared: Vec::new() })
    }

    fn commit(batch: &mut Batch<'_>) -> Result<usize, Fault> {
        let gone = batch.commit(&Change::removal(&waiting()).into())?;
        assert!(matches!(gone, Committed::Stale(None)), "{gone:?}");
        Ok(0)
    }

    type Look = fn(&mut Batch<'_>) -> Result<usize, Fault>;

    /// All operations that find a task by an index, each with a row that it finds.
    fn looks() -> [(Row, Look); 5] {
        [
            (waiting(), claim),
            (held(), rescue),
            (ended(false), claim_deliveries),
            (ended(false), give_up),
            (ended(true), prune),
        ]
    }

    /// One search returns the task once for each destination, and the next search would return it again.
    #[test]
    fn a_row_that_cannot_be_read_is_set_aside_once_with_its_bytes() {
        for (row, look) in looks().into_iter().chain([(waiting(), commit as Look)]) {
            with(&row, Some(b"garbage"), |batch| {
                for _ in 0..2 {
                    assert_eq!(look(batch).unwrap(), 0);
                    assert_eq!(batch.ram.damaged.load(Ordering::Relaxed), 1);
                    let aside = batch.tables.set_aside.open().unwrap().iter().unwrap();
                    let kept: Vec<_> = aside.map(|entry| entry.unwrap().1.value().to_vec()).collect();
                    assert_eq!(kept, [b"garbage"]);
                }
                assert_eq!((batch.ram.outbox.pending(), batch.ram.queue.waiting()), (0, 0));
            });
        }
    }

    #[test]
    fn the_end_of_a_held_task_needs_no_readable_row_in_the_file() {
        let row = held();
        with(&row, Some(b"garbage"), |batch| {
            let now = batch.now();
            let mut record = TaskRecord::clone(&row.record);
            record.invalidate(&"it ends", now);
            let change = Change::between(&row, Arc::new(record), now);
            let committed = batch.commit(&change.into()).unwrap();
            assert!(matches!(committed, Committed::Done), "{committed:?}");
            let stored = batch.load(row.id).unwrap().unwrap();
            assert_eq!(
                (stored.columns.state, stored.version),
                (TaskState::Invalid, row.version + 1)
            );
            assert_eq!(batch.ram.damaged.load(Ordering::Relaxed), 0);
        });
    }

    #[test]
    fn a_task_that_is_not_in_the_file_any_more_stops_the_store() {
        for (row, look) in looks() {
            with(&row, None, |batch| {
                let answer = look(batch);
                let stops = matches!(&answer, Err(Fault::Broken(redb::Error::Corrupted(_))));
                assert!(stops, "{answer:?}");
            });
        }
    }
}
