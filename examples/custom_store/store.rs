//! A durable store in one table of a key-value file: here of redb, but any with transactions will do.
//!
//! It makes no decisions. `kit::scan` finds what is due, and how an insert compares with the stored rows. A change
//! names the version that it depends on, and the new row. The store is slow: each operation reads all rows, and each
//! write syncs the file on the calling thread. The next steps would be an index for each question and a thread for the
//! file.

use std::{
    future::ready,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use redb::{Database, ReadableTable, Table, TableDefinition};
use tower_respond_async::{
    TaskStore,
    error::BoxFuture,
    store::{
        Abilities, Attention, Candidates, Change, Claim, ClaimedOutbox, Claims, Committed, ControlChange, Controls,
        DeliveryClaim, Due, Durability, Glance, Insertion, LogQuery, NewRow, News, Part, Payload, QueueHint, Renewal,
        Reply, Row, Sharing, StoreError, StoreResult, Which,
        kit::{Kind, NewsBoard, NewsHandle, Orphans, Values, scan},
    },
    task::{
        Counts, DecodeError, Filter, LeaseRef, LogLine, Page, PageOf, PoolName, Presence, Progress, RequestId, Scope,
        Seen, Tenant,
    },
    time::{Clock, Timestamp},
};

/// The kind of a value, and its task. Each value begins with a checksum, since redb verifies none when it reads.
pub(crate) const VALUES: TableDefinition<'_, (u8, &[u8]), &[u8]> = TableDefinition::new("values");

#[derive(Debug)]
pub(crate) struct KvStore {
    /// `None` after it was closed.
    database: Mutex<Option<Database>>,
    orphans: Orphans,
    news: NewsHandle,
    clock: Box<dyn Clock>,
}

/// The table in one transaction.
struct Stored<'t> {
    table: Table<'t, (u8, &'static [u8]), &'static [u8]>,
    changed: bool,
}

impl Values for Stored<'_> {
    fn get(&self, kind: Kind, of: &[u8]) -> StoreResult<Option<Vec<u8>>> {
        let Some(found) = self.table.get((kind as u8, of)).map_err(StoreError::unavailable)? else {
            return Ok(None);
        };
        match found.value().split_first_chunk() {
            Some((sum, value)) if crc32fast::hash(value).to_be_bytes() == *sum => Ok(Some(value.to_vec())),
            _ => Err(DecodeError::Malformed("its checksum does not match").into()),
        }
    }

    fn put(&mut self, kind: Kind, of: &[u8], value: &[u8]) -> StoreResult<()> {
        self.changed = true;
        let value = [&crc32fast::hash(value).to_be_bytes(), value].concat();
        let before = self.table.insert((kind as u8, of), &*value);
        before.map_err(StoreError::unavailable).map(|_| ())
    }

    fn remove(&mut self, kind: Kind, of: &[u8]) -> StoreResult<()> {
        self.changed = true;
        let before = self.table.remove((kind as u8, of));
        before.map_err(StoreError::unavailable).map(|_| ())
    }

    fn all(&self, kind: Kind) -> StoreResult<Vec<Vec<u8>>> {
        let range = self.table.range((kind as u8, &[][..])..(kind as u8 + 1, &[][..]));
        let entries = range.map_err(StoreError::unavailable)?;
        let owners = entries.map(|entry| entry.map(|(key, _)| key.value().1.to_vec()));
        owners.collect::<Result<_, _>>().map_err(StoreError::unavailable)
    }
}

impl Stored<'_> {
    fn insert(&mut self, task: &NewRow, now: Timestamp) -> StoreResult<Insertion> {
        let insertion = scan::insert(&self.rows()?, self.known_key(task)?.as_ref(), task, now);
        if let Insertion::New(row) = &insertion {
            self.put_new(task, row, now)?;
        }
        Ok(insertion)
    }
}

impl KvStore {
    /// Opens the file, and creates it if it is not there. redb keeps other processes out.
    pub(crate) fn open(path: &Path, clock: impl Clock) -> StoreResult<Self> {
        let store = Self {
            database: Mutex::new(Some(Database::create(path).map_err(StoreError::unavailable)?)),
            orphans: Orphans::default(),
            news: NewsBoard::default().handle(),
            clock: Box::new(clock),
        };
        for row in store.atomically_now(|stored, _| stored.rows())? {
            store.orphans.find(&row);
        }
        Ok(store)
    }

    /// A task that was changed is no orphan any more.
    fn commit_in(&self, stored: &mut Stored<'_>, change: Change, now: Timestamp) -> StoreResult<Committed> {
        let id = change.id;
        let committed = stored.commit(change, now)?;
        if let Committed::Done = committed {
            self.orphans.settle(id);
        }
        Ok(committed)
    }

    /// Runs every operation in one transaction. Changes are synced before the answer.
    fn atomically_now<T>(&self, work: impl FnOnce(&mut Stored<'_>, Timestamp) -> StoreResult<T>) -> StoreResult<T> {
        let database = self.database.lock().unwrap_or_else(PoisonError::into_inner);
        let database = database.as_ref().ok_or_else(StoreError::closed)?;
        let transaction = database.begin_write().map_err(StoreError::unavailable)?;
        let mut stored = Stored {
            table: transaction.open_table(VALUES).map_err(StoreError::unavailable)?,
            changed: false,
        };
        let answer = work(&mut stored, self.clock.now())?;
        let changed = stored.changed;
        drop(stored);
        if changed {
            transaction.commit().map_err(StoreError::unavailable)?;
            self.news.work();
        }
        Ok(answer)
    }

    /// The work is done in the call itself: dropping the future loses only the answer.
    fn atomically<'a, T: Send + 'a>(
        &self,
        work: impl FnOnce(&mut Stored<'_>, Timestamp) -> StoreResult<T>,
    ) -> Reply<'a, T> {
        Reply::now(self.atomically_now(work))
    }
}

impl TaskStore for KvStore {
    fn abilities(&self) -> Abilities {
        Abilities::new(Durability::Host, Sharing::Exclusive, true)
    }

    fn now(&self) -> Timestamp {
        self.clock.now()
    }

    fn queue_hint(&self, _: Option<&Tenant>, _: Option<&PoolName>) -> QueueHint {
        QueueHint::default()
    }

    fn insert(self: Arc<Self>, task: NewRow) -> Reply<'static, Insertion> {
        self.atomically(|stored, now| stored.insert(&task, now))
    }

    fn insert_all(self: Arc<Self>, tasks: Vec<NewRow>) -> Reply<'static, Vec<Insertion>> {
        self.atomically(|stored, now| tasks.iter().map(|task| stored.insert(task, now)).collect())
    }

    fn claim(&self, claim: Claim) -> Reply<'_, Claims> {
        self.atomically(|stored, now| {
            let (rows, mut claims) = scan::claim(stored.rows()?, &self.orphans, &claim, now);
            rows.iter().try_for_each(|row| stored.put_row(row))?;
            claims.tasks = rows.into_iter().map(|row| stored.claimed(row)).collect();
            claims.control = stored.control(None)?.version;
            Ok(claims)
        })
    }

    fn rows<'a>(&'a self, scope: &'a Scope, which: &'a Which) -> Reply<'a, Vec<Row>> {
        self.atomically(|stored, _| match which {
            Which::Id(id) => Ok(stored.row_in(scope, *id)?.into_iter().collect()),
            _ => Ok(scan::rows(stored.rows()?, scope, which)),
        })
    }

    fn due(&self, what: Due, max: usize) -> Reply<'_, Candidates> {
        self.atomically(|stored, now| {
            let rows = scan::due(stored.rows()?, &self.orphans, &what, max, now);
            Ok(Candidates::new(now, rows))
        })
    }

    fn commit(&self, change: Change) -> Reply<'_, Committed> {
        self.atomically(|stored, now| self.commit_in(stored, change, now))
    }

    fn commit_all(&self, changes: Vec<Change>) -> Reply<'_, Vec<Committed>> {
        self.atomically(|stored, now| {
            let changes = changes.into_iter();
            changes.map(|change| self.commit_in(stored, change, now)).collect()
        })
    }

    fn renew(&self, leases: Vec<LeaseRef>, lease: Duration) -> Reply<'_, Vec<Renewal>> {
        self.atomically(|stored, now| {
            let (renewals, rows) = scan::renew(stored.rows()?, &self.orphans, &leases, lease, now);
            rows.iter().try_for_each(|row| stored.put_row(row))?;
            Ok(renewals)
        })
    }

    fn claim_deliveries(&self, claim: DeliveryClaim) -> Reply<'_, Vec<ClaimedOutbox>> {
        self.atomically(|stored, now| {
            let claimed = scan::claim_deliveries(stored.rows()?, &self.orphans, &claim, now);
            claimed.iter().try_for_each(|found| stored.put_row(&found.row))?;
            Ok(claimed)
        })
    }

    fn list<'a>(&'a self, scope: &'a Scope, filter: &'a Filter, page: Page) -> Reply<'a, PageOf<Row>> {
        self.atomically(|stored, _| {
            let request = |id| stored.payload(id, Part::Request).ok().flatten();
            Ok(scan::page(stored.rows()?, scope, filter, &page, request))
        })
    }

    fn counts<'a>(&'a self, scope: &'a Scope) -> Reply<'a, Counts> {
        self.atomically(|stored, now| {
            let mut counts = scan::counts(&stored.rows()?, scope, now);
            counts.set_aside = stored.count_unreadable()?;
            Ok(counts)
        })
    }

    fn payload<'a>(&'a self, scope: &'a Scope, id: RequestId, part: Part) -> Reply<'a, Option<Payload>> {
        self.atomically(|stored, _| match stored.row_in(scope, id)? {
            Some(_) => stored.payload(id, part),
            None => Ok(None),
        })
    }

    fn set_progress(&self, lease: LeaseRef, progress: Progress) -> Reply<'_, bool> {
        self.atomically(|stored, _| {
            let Some(mut row) = stored.row_held(lease)? else {
                return Ok(false);
            };
            row.columns.progress = Some(progress);
            stored.put_row(&row).map(|()| true)
        })
    }

    fn append_log(&self, lease: LeaseRef, lines: Vec<LogLine>) -> Reply<'_, bool> {
        self.atomically(|stored, now| {
            let Some(row) = stored.row_held(lease)? else {
                return Ok(false);
            };
            let mut log = stored.log(row.id)?;
            log.append(&row, lines, now);
            stored.put_log(row.id, &log).map(|()| true)
        })
    }

    fn logs<'a>(&'a self, scope: &'a Scope, id: RequestId, query: LogQuery) -> Reply<'a, Vec<LogLine>> {
        self.atomically(|stored, _| match stored.row_in(scope, id)? {
            Some(_) => Ok(stored.log(id)?.query(query)),
            None => Err(StoreError::not_found()),
        })
    }

    fn prune_keys(&self, limit: usize) -> Reply<'_, usize> {
        self.atomically(|stored, now| stored.prune_keys(limit, now))
    }

    fn news(&self) -> BoxFuture<'_, News> {
        Box::pin(self.news.news())
    }

    fn attend(&self, _: Attention) {}

    fn glance(&self, ids: Vec<RequestId>) -> Reply<'_, Vec<Option<Glance>>> {
        self.atomically(|stored, _| ids.into_iter().map(|id| stored.glance(id)).collect())
    }

    fn beat(&self, me: Presence, _: Duration) -> Reply<'_, Vec<Seen>> {
        self.atomically(|_, _| Ok(me.alone()))
    }

    fn control(&self, change: Option<ControlChange>) -> Reply<'_, Controls> {
        self.atomically(|stored, _| stored.control(change.as_ref()))
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        *self.database.lock().unwrap_or_else(PoisonError::into_inner) = None;
        Box::pin(ready(()))
    }
}
