//! The state that the store handle, the readers and the writer share.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    path::PathBuf,
    sync::{Arc, OnceLock, PoisonError, RwLock, RwLockReadGuard},
};

use redb::{Database, ReadTransaction, ReadableDatabase};

use crate::{
    QuickRepair,
    fault::{Failure, Fault},
    ram::Ram,
};
use tower_respond_async::{
    store::{
        StoreError, StoreResult,
        kit::{NewsBoard, NewsHandle},
    },
    time::Clock,
};

/// An open file and its indexes.
#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) path: PathBuf,
    pub(crate) ram: Ram,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) quick_repair: QuickRepair,
    /// The only handle of the board.
    pub(crate) news: NewsHandle,
    /// Users of the file hold the read lock. Closing takes the write lock, and so waits for all of them.
    database: RwLock<Option<Database>>,
    failure: OnceLock<Failure>,
}

impl Inner {
    pub(crate) fn new(
        path: PathBuf,
        database: Database,
        ram: Ram,
        clock: Arc<dyn Clock>,
        quick_repair: QuickRepair,
    ) -> Self {
        Self {
            path,
            ram,
            clock,
            quick_repair,
            news: NewsBoard::default().handle(),
            database: RwLock::new(Some(database)),
            failure: OnceLock::new(),
        }
    }

    pub(crate) fn database(&self) -> RwLockReadGuard<'_, Option<Database>> {
        self.database.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// The failure after which nothing is written any more, if there was one.
    pub(crate) fn failure(&self) -> Option<&Failure> {
        self.failure.get()
    }

    /// Stops all writing. The first failure is kept.
    pub(crate) fn fail(&self, failure: Failure) {
        let _ = self.failure.set(failure);
    }

    /// Reads the state of the last commit, on this thread, while the writer continues.
    ///
    /// After a failure, redb still returns pages that are in its cache.
    pub(crate) fn read<T>(&self, work: impl FnOnce(&ReadTransaction) -> Result<T, Fault>) -> StoreResult<T> {
        let database = self.database();
        let Some(database) = &*database else {
            return Err(StoreError::closed());
        };
        let read = catch_unwind(AssertUnwindSafe(|| work(&database.begin_read()?)));
        let failure = match read {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(Fault::Answer(error))) => return Err(error),
            Ok(Err(Fault::Broken(error))) => Failure::of_error(&error),
            Err(panic) => Failure::of_panic(&*panic),
        };
        self.fail(failure.clone());
        Err(failure.at_first())
    }

    /// Closes the file, once nothing uses it.
    pub(crate) fn let_go(&self) {
        let mut database = self.database.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(failure) = database.take().and_then(close) {
            self.fail(failure);
        }
    }
}

/// Closes a file. redb writes a few pages then. After an earlier failure this may fail or panic again.
pub(crate) fn close(database: Database) -> Option<Failure> {
    let closed = catch_unwind(AssertUnwindSafe(|| drop(database)));
    closed.err().map(|panic| Failure::of_panic(&*panic))
}
