//! What the handle, its readers and the writer share.

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

/// An open file and what is known of it.
#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) path: PathBuf,
    pub(crate) ram: Ram,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) quick_repair: QuickRepair,
    /// The one handle there is.
    pub(crate) news: NewsHandle,
    /// Shared by all who use the file; taken alone by the one who lets go of it, who so waits for all of them.
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

    /// Why nothing is written any more, if that is so.
    pub(crate) fn failure(&self) -> Option<&Failure> {
        self.failure.get()
    }

    /// Writes nothing any more. The first failure is the one to tell of.
    pub(crate) fn fail(&self, failure: Failure) {
        let _ = self.failure.set(failure);
    }

    /// Reads as of the last commit, on this thread, whatever the writer does meanwhile.
    ///
    /// After a failure redb still serves what it has in its cache.
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

    /// Closes the file, once nobody uses it.
    pub(crate) fn let_go(&self) {
        let mut database = self.database.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(failure) = database.take().and_then(close) {
            self.fail(failure);
        }
    }
}

/// Closes a file. redb writes a few pages as it does, which fails where it failed before, and panics where it did.
pub(crate) fn close(database: Database) -> Option<Failure> {
    let closed = catch_unwind(AssertUnwindSafe(|| drop(database)));
    closed.err().map(|panic| Failure::of_panic(&*panic))
}
