//! A durable store in one table of a key-value file. Here that is redb's; any with transactions will do.
//!
//! It decides nothing. What is due, and what becomes of a task that is stored, `kit::scan` says of all rows; a change says
//! what it depends on and what the row is then. What it does not have is speed: each operation reads every row there is, and
//! syncs the file on the thread that asks. An index for each question and a thread for the file are what it would get next.

use std::{
    future::ready,
    path::Path,
    sync::{
        PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use redb::{Database, ReadableTable, Table, TableDefinition};
use tokio::sync::Notify;
use tower_respond_async::{
    BoxError, TaskStore,
    error::BoxFuture,
    store::{
        Abilities, Candidates, Change, Claim, ClaimedOutbox, ClaimedRow, Claims, Committed, DeliveryClaim, Due,
        Durability, Insertion, LogQuery, NewRow, Part, Payload, QueueHint, Renewal, Response, Row, Sharing, StoreError,
        StoreErrorKind, StoreResult, Which,
        kit::{ClientKey, KnownKey, Log, Orphans, scan},
    },
    task::{Counts, Filter, LeaseRef, LogLine, Page, PageOf, Progress, RequestId, Scope, Tenant},
    time::{Clock, Timestamp},
};

/// What a value is of, and whose. Each begins with its checksum: redb looks at none when it reads.
pub(crate) const VALUES: TableDefinition<'_, (u8, &[u8]), &[u8]> = TableDefinition::new("values");
const ROW: u8 = b't';
pub(crate) const REQUEST: u8 = b'q';
const RESPONSE: u8 = b'a';
const LOG: u8 = b'l';
const KEY: u8 = b'k';

#[derive(Debug)]
pub(crate) struct KvStore {
    /// None once it is closed.
    database: RwLock<Option<Database>>,
    /// What was held when the file was opened.
    orphans: Orphans,
    damaged: AtomicU64,
    work: Notify,
    clock: Box<dyn Clock>,
}

type Answer<'a, T> = BoxFuture<'a, StoreResult<T>>;

/// The table in one transaction.
struct Values<'t> {
    table: Table<'t, (u8, &'static [u8]), &'static [u8]>,
    damaged: &'t AtomicU64,
}

impl Values<'_> {
    fn get(&self, kind: u8, of: &[u8]) -> StoreResult<Option<Vec<u8>>> {
        let Some(found) = self.table.get((kind, of)).map_err(unavailable)? else {
            return Ok(None);
        };
        match found.value().split_first_chunk() {
            Some((sum, value)) if crc32fast::hash(value).to_be_bytes() == *sum => Ok(Some(value.to_vec())),
            _ => {
                self.damaged.fetch_add(1, Ordering::Relaxed);
                Err(corrupt("its checksum does not match"))
            }
        }
    }

    fn put(&mut self, kind: u8, of: &[u8], value: &[u8]) -> StoreResult<()> {
        let value = [&crc32fast::hash(value).to_be_bytes(), value].concat();
        self.table.insert((kind, of), &*value).map_err(unavailable).map(|_| ())
    }

    fn remove(&mut self, kind: u8, of: &[u8]) -> StoreResult<()> {
        self.table.remove((kind, of)).map_err(unavailable).map(|_| ())
    }

    /// Of whom there is a value of this kind.
    fn all(&self, kind: u8) -> StoreResult<Vec<Vec<u8>>> {
        let range = self
            .table
            .range((kind, &[][..])..(kind + 1, &[][..]))
            .map_err(unavailable)?;
        range
            .map(|entry| Ok(entry.map_err(unavailable)?.0.value().1.to_vec()))
            .collect()
    }

    fn row(&self, id: RequestId) -> StoreResult<Option<Row>> {
        let row = self
            .get(ROW, id.as_bytes())?
            .map(|value| Row::decode(id, &value).map(|(row, _)| row));
        row.transpose().map_err(corrupt)
    }

    /// All that can be read: one that cannot stops nobody.
    fn rows(&self) -> StoreResult<Vec<Row>> {
        let ids = self.all(ROW)?.into_iter().filter_map(|id| id.try_into().ok());
        Ok(ids
            .filter_map(|id| self.row(RequestId::from_bytes(id)).ok().flatten())
            .collect())
    }

    fn row_in(&self, scope: &Scope, id: RequestId) -> StoreResult<Option<Row>> {
        Ok(self.row(id)?.filter(|row| scope.contains(row.record.tenant.as_ref())))
    }

    fn row_held(&self, lease: LeaseRef) -> StoreResult<Option<Row>> {
        Ok(self.row(lease.id)?.filter(|row| row.is_held_by(lease.token)))
    }

    fn put_row(&mut self, row: &Row) -> StoreResult<()> {
        self.put(ROW, row.id.as_bytes(), &row.encode())
    }

    fn payload(&self, kind: u8, id: RequestId) -> StoreResult<Option<Payload>> {
        let value = self
            .get(kind, id.as_bytes())?
            .map(|value| Payload::decode(Bytes::from(value)));
        value.transpose().map_err(corrupt)
    }

    fn log(&self, id: RequestId) -> StoreResult<Log> {
        let log = self.get(LOG, id.as_bytes())?.map(|value| Log::decode(&value));
        Ok(log.transpose().map_err(corrupt)?.unwrap_or_default())
    }

    fn key(&self, key: &[u8]) -> StoreResult<Option<KnownKey>> {
        let known = self.get(KEY, key)?.map(|value| KnownKey::decode(&value));
        known.transpose().map_err(corrupt)
    }

    fn insert(&mut self, task: &NewRow, now: Timestamp) -> StoreResult<Insertion> {
        let key = ClientKey::of(task).map(|key| key.encode());
        let known = key.as_ref().map(|key| self.key(key)).transpose()?.flatten();
        let insertion = scan::insert(&self.rows()?, known.as_ref(), task, now);
        if let Insertion::New(row) = &insertion {
            self.put_row(row)?;
            self.put(REQUEST, row.id.as_bytes(), &task.request.encode())?;
            if let Some((key, known)) = key.zip(KnownKey::of(task, now)) {
                self.put(KEY, &key, &known.encode())?;
            }
        }
        Ok(insertion)
    }

    fn commit(&mut self, change: Change, now: Timestamp) -> StoreResult<Committed> {
        let id = change.id;
        let row = match self.row(id)? {
            Some(row) if change.holds(&row, now) => row,
            other => return Ok(Committed::Stale(other.map(Box::new))),
        };
        let Some(next) = change.to else {
            [ROW, REQUEST, RESPONSE, LOG]
                .iter()
                .try_for_each(|kind| self.remove(*kind, id.as_bytes()))?;
            return Ok(Committed::Done);
        };
        self.put_row(&next.after(&row, now))?;
        if let Some(request) = &change.request {
            self.put(REQUEST, id.as_bytes(), &request.encode())?;
        }
        match &change.response {
            Response::Keep => {}
            Response::Put(response) => self.put(RESPONSE, id.as_bytes(), &response.encode())?,
            Response::Drop => self.remove(RESPONSE, id.as_bytes())?,
        }
        Ok(Committed::Done)
    }
}

fn unavailable(error: impl Into<redb::Error>) -> StoreError {
    StoreError::new(StoreErrorKind::Unavailable, "the file of the store failed").because(error.into())
}

fn corrupt(error: impl Into<BoxError>) -> StoreError {
    StoreError::new(StoreErrorKind::Corrupt, "what is stored of a task cannot be read").because(error)
}

impl KvStore {
    /// The tasks in this file, which is created if it is not there. redb keeps other processes out.
    pub(crate) fn open(path: &Path, clock: impl Clock) -> StoreResult<Self> {
        let store = Self {
            database: RwLock::new(Some(Database::create(path).map_err(unavailable)?)),
            orphans: Orphans::default(),
            damaged: AtomicU64::new(0),
            work: Notify::new(),
            clock: Box::new(clock),
        };
        for row in store.atomically_now(|values, _| values.rows())? {
            store.orphans.find(&row);
        }
        Ok(store)
    }

    /// A task of which a change was made is no orphan any more.
    fn commit_in(&self, values: &mut Values<'_>, change: Change, now: Timestamp) -> StoreResult<Committed> {
        let id = change.id;
        let committed = values.commit(change, now)?;
        if let Committed::Done = committed {
            self.orphans.settle(id);
        }
        Ok(committed)
    }

    /// Every operation is this: one transaction, which the file has synced before it is answered.
    fn atomically_now<T>(&self, work: impl FnOnce(&mut Values<'_>, Timestamp) -> StoreResult<T>) -> StoreResult<T> {
        let database = self.database.read().unwrap_or_else(PoisonError::into_inner);
        let database = database.as_ref().ok_or_else(StoreError::closed)?;
        let transaction = database.begin_write().map_err(unavailable)?;
        let table = transaction.open_table(VALUES).map_err(unavailable)?;
        let mut values = Values {
            table,
            damaged: &self.damaged,
        };
        let answer = work(&mut values, self.clock.now())?;
        drop(values);
        transaction.commit().map_err(unavailable)?;
        self.work.notify_one();
        Ok(answer)
    }

    /// Done when it is called: dropping the future loses the answer and nothing else.
    fn atomically<'a, T: Send + 'a>(
        &self,
        work: impl FnOnce(&mut Values<'_>, Timestamp) -> StoreResult<T>,
    ) -> Answer<'a, T> {
        Box::pin(ready(self.atomically_now(work)))
    }
}

impl TaskStore for KvStore {
    fn abilities(&self) -> Abilities {
        Abilities::new(Durability::Host, Sharing::Exclusive, true)
    }

    fn now(&self) -> Timestamp {
        self.clock.now()
    }

    fn queue_hint(&self, _: Option<&Tenant>) -> QueueHint {
        QueueHint::default()
    }

    fn insert(&self, task: NewRow) -> Answer<'_, Insertion> {
        self.atomically(|values, now| values.insert(&task, now))
    }

    fn insert_all(&self, tasks: Vec<NewRow>) -> Answer<'_, Vec<Insertion>> {
        self.atomically(|values, now| tasks.iter().map(|task| values.insert(task, now)).collect())
    }

    fn claim(&self, claim: Claim) -> Answer<'_, Claims> {
        self.atomically(|values, now| {
            let (rows, next_due) = scan::claim(values.rows()?, &self.orphans, &claim, now);
            let mut tasks = Vec::new();
            for row in rows {
                values.put_row(&row)?;
                let request = values
                    .payload(REQUEST, row.id)
                    .and_then(|it| it.ok_or_else(|| corrupt("it is gone")));
                tasks.push(ClaimedRow { row, request });
            }
            Ok(Claims { tasks, next_due })
        })
    }

    fn rows<'a>(&'a self, scope: &'a Scope, which: &'a Which) -> Answer<'a, Vec<Row>> {
        self.atomically(|values, _| {
            let mut rows = match which {
                Which::Id(id) => values.row(*id)?.into_iter().collect(),
                _ => values.rows()?,
            };
            rows.retain(|row| scope.contains(row.record.tenant.as_ref()) && scan::is_asked_for(row, which));
            Ok(rows)
        })
    }

    fn due(&self, what: Due, max: usize) -> Answer<'_, Candidates> {
        self.atomically(|values, now| {
            let rows = scan::due(values.rows()?, &self.orphans, &what, max, now);
            Ok(Candidates { now, rows })
        })
    }

    fn commit(&self, change: Change) -> Answer<'_, Committed> {
        self.atomically(|values, now| self.commit_in(values, change, now))
    }

    fn commit_all(&self, changes: Vec<Change>) -> Answer<'_, Vec<Committed>> {
        self.atomically(|values, now| {
            let changes = changes.into_iter();
            changes.map(|change| self.commit_in(values, change, now)).collect()
        })
    }

    fn renew(&self, leases: Vec<LeaseRef>, lease: Duration) -> Answer<'_, Vec<Renewal>> {
        self.atomically(|values, now| {
            let mut renewals = Vec::new();
            for held in leases {
                let row = values.row(held.id)?.filter(|_| !self.orphans.contains(held.id));
                renewals.push(Renewal::Lost);
                if let Some((mut row, renewal)) = row.zip(renewals.last_mut()) {
                    *renewal = row.columns.renew(held.token, lease, now);
                    values.put_row(&row)?;
                }
            }
            Ok(renewals)
        })
    }

    fn claim_deliveries(&self, claim: DeliveryClaim) -> Answer<'_, Vec<ClaimedOutbox>> {
        self.atomically(|values, now| {
            let claimed = scan::claim_deliveries(values.rows()?, &self.orphans, &claim, now);
            claimed.iter().try_for_each(|found| values.put_row(&found.row))?;
            Ok(claimed)
        })
    }

    fn list<'a>(&'a self, scope: &'a Scope, filter: &'a Filter, page: Page) -> Answer<'a, PageOf<Row>> {
        self.atomically(|values, _| {
            let body = |id| {
                values
                    .payload(REQUEST, id)
                    .ok()
                    .flatten()
                    .map_or_else(Vec::new, |it| it.body().to_vec())
            };
            Ok(scan::page(values.rows()?, scope, filter, &page, body))
        })
    }

    fn counts<'a>(&'a self, scope: &'a Scope) -> Answer<'a, Counts> {
        self.atomically(|values, now| {
            let mut counts = scan::counts(&values.rows()?, scope, now);
            counts.set_aside = self.damaged.load(Ordering::Relaxed);
            Ok(counts)
        })
    }

    fn payload<'a>(&'a self, scope: &'a Scope, id: RequestId, part: Part) -> Answer<'a, Option<Payload>> {
        self.atomically(|values, _| match (values.row_in(scope, id)?, part) {
            (None, _) => Ok(None),
            (Some(_), Part::Request) => values.payload(REQUEST, id),
            (Some(_), Part::Response) => values.payload(RESPONSE, id),
        })
    }

    fn set_progress(&self, lease: LeaseRef, progress: Progress) -> Answer<'_, bool> {
        self.atomically(|values, _| {
            let Some(mut row) = values.row_held(lease)? else {
                return Ok(false);
            };
            row.columns.progress = Some(progress);
            values.put_row(&row).map(|()| true)
        })
    }

    fn append_log(&self, lease: LeaseRef, lines: Vec<LogLine>) -> Answer<'_, bool> {
        self.atomically(|values, now| {
            let Some(row) = values.row_held(lease)? else {
                return Ok(false);
            };
            let mut log = values.log(row.id)?;
            log.append(&row, lines, now);
            values.put(LOG, row.id.as_bytes(), &log.encode()).map(|()| true)
        })
    }

    fn logs<'a>(&'a self, scope: &'a Scope, id: RequestId, query: LogQuery) -> Answer<'a, Vec<LogLine>> {
        self.atomically(|values, _| match values.row_in(scope, id)? {
            Some(_) => Ok(values.log(id)?.query(query)),
            None => Err(StoreError::not_found()),
        })
    }

    fn prune_keys(&self, limit: usize) -> Answer<'_, usize> {
        self.atomically(|values, now| {
            let mut keys = values.all(KEY)?;
            keys.retain(|key| values.key(key).ok().flatten().is_none_or(|known| known.is_over(now)));
            keys.truncate(limit);
            keys.iter().try_for_each(|key| values.remove(KEY, key))?;
            Ok(keys.len())
        })
    }

    fn wait_for_work(&self) -> BoxFuture<'_, ()> {
        Box::pin(self.work.notified())
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        *self.database.write().unwrap_or_else(PoisonError::into_inner) = None;
        Box::pin(ready(()))
    }
}
