//! How a file is to be opened.

#[cfg(feature = "testing")]
use std::path::PathBuf;
use std::{path::Path, sync::Arc};

use crate::{RedbStore, open, store::off_the_runtime};
#[cfg(doc)]
use tower_respond_async::store::StoreErrorKind;
use tower_respond_async::{
    store::StoreResult,
    time::{Clock, SystemClock},
};

/// Opens a [`RedbStore`].
#[derive(Clone, Debug)]
#[must_use]
pub struct RedbStoreBuilder {
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) cache_bytes: usize,
    pub(crate) quick_repair: QuickRepair,
}

impl RedbStoreBuilder {
    /// How much memory pages of the file take by default. The system caches the file as well, so this is for what is
    /// looked up again and again: the inner pages of the tables, and the tasks of the last minutes.
    pub const CACHE_BYTES: usize = 64 * 1024 * 1024;

    /// Reads the time from `clock` instead of the computer's.
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    /// How much memory pages of the file may take: [`CACHE_BYTES`](Self::CACHE_BYTES) unless said otherwise.
    pub const fn cache_bytes(mut self, bytes: usize) -> Self {
        self.cache_bytes = bytes;
        self
    }

    /// When the file is left so that it can be opened at once after a kill: [`WhenIdle`](QuickRepair::WhenIdle) unless
    /// said otherwise.
    pub const fn quick_repair(mut self, when: QuickRepair) -> Self {
        self.quick_repair = when;
        self
    }

    /// Opens the file at `path`, and creates it if it is not there, readable by its owner only. Its directory must be
    /// there.
    ///
    /// # Errors
    ///
    /// - [`Unavailable`](StoreErrorKind::Unavailable) if it is in use, or cannot be read or written.
    /// - [`Incompatible`](StoreErrorKind::Incompatible) if it is of a newer version of this crate, or another program's.
    ///   It is left as it is; if a killed process left it, repaired.
    /// - [`Corrupt`](StoreErrorKind::Corrupt) if it is damaged so that redb cannot open it.
    ///
    /// Each names the file.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future leaves the file closed, once it has been opened.
    pub async fn open(self, path: impl AsRef<Path>) -> StoreResult<RedbStore> {
        let path = path.as_ref().to_owned();
        off_the_runtime(move || {
            let database = open::file(&path, &self)?;
            RedbStore::over(path, database, self)
        })
        .await
    }

    /// Opens what is behind `backend` instead of a file, at once, and calls it `name`: for tests of what disks do.
    #[cfg(feature = "testing")]
    #[doc(hidden)]
    pub fn open_on<B: redb::StorageBackend>(
        self,
        name: &str,
        backend: impl Fn() -> StoreResult<B>,
    ) -> StoreResult<RedbStore> {
        let name = PathBuf::from(name);
        let database = open::backend(&name, &self, true, backend)?;
        RedbStore::over(name, database, self)
    }
}

impl Default for RedbStoreBuilder {
    fn default() -> Self {
        Self {
            clock: Arc::new(SystemClock::new()),
            cache_bytes: Self::CACHE_BYTES,
            quick_repair: QuickRepair::default(),
        }
    }
}

/// When the file says which of its pages are in use. A file that says so of its last commit opens after a kill by reading
/// the tasks' records; any other must be read to its end first.
///
/// It is about the time that opening takes, and about what a damaged byte costs a file that was killed
/// ([Guarantees](tower_respond_async::guide::guarantees)). What was acknowledged is there in any case. [Operating](tower_respond_async::guide::operating)
/// has figures.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum QuickRepair {
    /// Once nothing has been written for a tenth of a second: one more commit, at a time when nobody waits.
    #[default]
    WhenIdle,
    /// With every commit, which makes each of them dearer: for a large file that must be back at once even if the process
    /// is killed while it writes.
    Always,
    /// Never: then nothing is written when nothing is to be done, and opening after a kill takes as long as reading it all.
    Never,
}
