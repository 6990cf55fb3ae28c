//! Runs the conformance suite on `RedbStore`: files in a temporary folder, and the end of a process.

use std::{
    fs,
    ops::Deref,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};
use tempfile::{TempDir, tempdir};
use tower_respond_async::{
    BoxError, RequestId, TaskRecord, TaskStore,
    error::BoxFuture,
    store::{Ledger, Row, StoreResult},
    testing::{ManualClock, conformance::Harness},
    time::Timestamp,
};
use tower_respond_async_redb::RedbStore;

/// All tables of the file have byte strings as keys and values.
pub(crate) const fn table(name: &str) -> TableDefinition<'_, &'static [u8], &'static [u8]> {
    TableDefinition::new(name)
}

/// An open file, and the steps in the life of its tasks.
#[derive(Debug)]
pub(crate) struct TaskFile {
    pub(crate) file: Arc<RedbStore>,
    ledger: Ledger,
}

impl TaskFile {
    pub(crate) async fn at(path: &Path) -> Self {
        RedbStore::open(path).await.unwrap().into()
    }
}

impl From<RedbStore> for TaskFile {
    fn from(file: RedbStore) -> Self {
        let file = Arc::new(file);
        let ledger = Ledger::new(file.clone());
        Self { file, ledger }
    }
}

impl Deref for TaskFile {
    type Target = Ledger;

    fn deref(&self) -> &Ledger {
        &self.ledger
    }
}

/// Opens files one after the other. A process ends here as with `kill -9`: the next process opens a copy of the open
/// file, so that nothing of what closing writes is in the copy.
#[derive(Debug)]
pub(crate) struct RedbHarness {
    folder: TempDir,
    clock: ManualClock,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    files: u32,
    // Weak, so that a store is closed as soon as the test drops it.
    opened: std::sync::Weak<RedbStore>,
}

impl RedbHarness {
    pub(crate) fn new() -> Self {
        Self {
            folder: tempdir().unwrap(),
            clock: ManualClock::new(Timestamp::from_millis(1_700_000_000_000)),
            state: Mutex::default(),
        }
    }

    fn current(&self) -> PathBuf {
        self.folder
            .path()
            .join(format!("{}.redb", self.state.lock().unwrap().files))
    }

    /// Advances to the next file, and returns its path.
    fn next(&self) -> PathBuf {
        self.state.lock().unwrap().files += 1;
        self.current()
    }

    async fn opened(&self, path: &Path) -> StoreResult<Arc<RedbStore>> {
        let store = Arc::new(RedbStore::builder().clock(self.clock.clone()).open(path).await?);
        self.state.lock().unwrap().opened = Arc::downgrade(&store);
        Ok(store)
    }
}

impl Harness for RedbHarness {
    fn open(&self) -> BoxFuture<'_, Arc<dyn TaskStore>> {
        Box::pin(async {
            let last = self.current();
            let store = self.opened(&self.next()).await.unwrap();
            let _ = fs::remove_file(last);
            store as Arc<dyn TaskStore>
        })
    }

    fn pass(&self, time: Duration) -> BoxFuture<'_, ()> {
        self.clock.advance(time);
        Box::pin(async {})
    }

    fn set_back(&self, by: Duration) -> BoxFuture<'_, bool> {
        self.clock.turn_back(by);
        Box::pin(async { true })
    }

    fn unit(&self) -> Duration {
        Duration::from_secs(1)
    }

    // One thread does all the work, so only the order of calls matters. Each round syncs a disk.
    fn rounds(&self) -> usize {
        200
    }

    fn reopen(&self) -> BoxFuture<'_, Option<Arc<dyn TaskStore>>> {
        Box::pin(async {
            let left = self.current();
            let found = self.next();
            fs::copy(&left, &found).unwrap();
            let store = self.opened(&found).await.unwrap();
            let _ = fs::remove_file(left);
            Some(store as Arc<dyn TaskStore>)
        })
    }

    fn second(&self) -> BoxFuture<'_, Option<Arc<dyn TaskStore>>> {
        Box::pin(async {
            let refused = RedbStore::open(self.current()).await.unwrap_err();
            assert!(refused.to_string().contains("in use"), "{refused}");
            None
        })
    }

    fn corrupt(&self, id: RequestId) -> BoxFuture<'_, bool> {
        Box::pin(async move {
            let store = self.state.lock().unwrap().opened.upgrade();
            if let Some(store) = store {
                store.close().await;
            }
            spoil(&self.current(), "requests", id.as_bytes()).unwrap();
            true
        })
    }

    fn make_newer(&self, id: RequestId) -> BoxFuture<'_, bool> {
        Box::pin(async move {
            let store = self.state.lock().unwrap().opened.upgrade();
            if let Some(store) = store {
                store.close().await;
            }
            let key = id.as_bytes();
            change(&self.current(), "tasks", key, |value| {
                let (_, record) = Row::decode(id, &value[4..]).unwrap();
                let at = value.len() - record.len();
                value[at] = TaskRecord::FORMAT + 1;
                resum(key, value);
            })
            .unwrap();
            true
        })
    }
}

/// Flips one bit in the middle of a value, and leaves redb's pages valid.
pub(crate) fn spoil(file: &Path, name: &str, key: &[u8]) -> Result<(), BoxError> {
    change(file, name, key, |value| {
        let middle = value.len() / 2;
        value[middle] ^= 1;
    })
}

/// Updates the checksum of a changed value.
pub(crate) fn resum(key: &[u8], value: &mut [u8]) {
    let mut hasher = crc32fast::Hasher::new();
    for part in [&(key.len() as u32).to_le_bytes(), key, &value[4..]] {
        hasher.update(part);
    }
    value[..4].copy_from_slice(&hasher.finalize().to_le_bytes());
}

/// Changes a value in a closed file.
pub(crate) fn change(file: &Path, name: &str, key: &[u8], change: impl FnOnce(&mut [u8])) -> Result<(), BoxError> {
    let database = Database::open(file)?;
    let transaction = database.begin_write()?;
    {
        let mut table = transaction.open_table(table(name))?;
        let value = table.get(key)?.map(|value| value.value().to_vec());
        let mut value = value.ok_or("there is no such value")?;
        change(&mut value);
        table.insert(key, &*value)?;
    }
    Ok(transaction.commit()?)
}

/// Removes a value from a closed file.
pub(crate) fn remove(file: &Path, name: &str, key: &[u8]) -> Result<(), BoxError> {
    let database = Database::open(file)?;
    let transaction = database.begin_write()?;
    let found = transaction.open_table(table(name))?.remove(key)?.is_some();
    assert!(found, "there is such a value");
    Ok(transaction.commit()?)
}

/// A key and its value.
type Entry = (Vec<u8>, Vec<u8>);

/// All entries of a table of a closed file.
pub(crate) fn entries(file: &Path, name: &str) -> Result<Vec<Entry>, BoxError> {
    let database = Database::open(file)?;
    let table = database.begin_read()?.open_table(table(name))?;
    let entries = table.iter()?.map(|entry| {
        let (key, value) = entry?;
        Ok((key.value().to_vec(), value.value().to_vec()))
    });
    entries.collect()
}
