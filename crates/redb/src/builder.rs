//! The settings with which a file is opened.

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

/// The settings of a [`RedbStore`]. [`RedbStore::builder`] makes it, [`open`](Self::open) opens the file.
///
/// # Examples
///
/// (Not run, since it would leave a file.)
///
/// ```no_run
/// use tower_respond_async_redb::{QuickRepair, RedbStore};
///
/// # async fn build() -> Result<(), Box<dyn std::error::Error>> {
/// let store = RedbStore::builder().quick_repair(QuickRepair::Always).open("tasks.redb").await?;
/// # drop(store);
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct RedbStoreBuilder {
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) cache_bytes: usize,
    pub(crate) quick_repair: QuickRepair,
}

impl RedbStoreBuilder {
    /// The default size of the cache: 64 MiB. The operating system caches the file as well, so this cache is for pages
    /// that are read again and again: the inner pages of the tables, and the tasks of the last minutes.
    pub const CACHE_BYTES: usize = 64 * 1024 * 1024;

    /// Reads the time from `clock`. Default: the computer's clock.
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    /// How much memory the cache of pages may use. Default: [`CACHE_BYTES`](Self::CACHE_BYTES).
    pub const fn cache_bytes(mut self, bytes: usize) -> Self {
        self.cache_bytes = bytes;
        self
    }

    /// When the store writes what a fast opening after a kill needs. Default: [`WhenIdle`](QuickRepair::WhenIdle).
    pub const fn quick_repair(mut self, when: QuickRepair) -> Self {
        self.quick_repair = when;
        self
    }

    /// Opens the file at `path`, or creates it, readable by its owner only. Its directory must exist.
    ///
    /// # Errors
    ///
    /// - [`Unavailable`](StoreErrorKind::Unavailable) if the file is in use, or cannot be read or written.
    /// - [`Incompatible`](StoreErrorKind::Incompatible) if a newer version of this crate or another program wrote the
    ///   file. The file is not changed, except that a file which a killed process left is repaired first.
    /// - [`Corrupt`](StoreErrorKind::Corrupt) if the file is too damaged to be opened.
    ///
    /// These errors name the file.
    ///
    /// # Cancel safety
    ///
    /// If you drop the future, the file may still be opened or created; it is closed right after that.
    pub async fn open(self, path: impl AsRef<Path>) -> StoreResult<RedbStore> {
        let path = path.as_ref().to_owned();
        off_the_runtime(move || {
            let database = open::file(&path, &self)?;
            RedbStore::over(path, database, self)
        })
        .await
    }

    /// Opens `backend` instead of a file, on the current thread, under the name `name`. For tests that simulate disks.
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

/// When the store writes into the file which of its pages are in use. If the last commit has this list, opening after a
/// kill reads only the records of the tasks; otherwise it reads the whole file.
///
/// The setting affects how long opening takes, and what a damaged byte costs in a file whose process was killed
/// ([Guarantees](tower_respond_async::guide::guarantees)). Acknowledged writes survive in any case.
/// [Operating](tower_respond_async::guide::operating) has figures, and [`RedbStoreBuilder`] an example.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum QuickRepair {
    /// After a tenth of a second without an operation that may write: one more commit, while no operation waits.
    #[default]
    WhenIdle,
    /// With every commit, which makes each commit more expensive. For a large file that must open at once even if the
    /// process is killed while it writes.
    Always,
    /// Never. An idle store writes nothing, and opening after a kill reads the whole file.
    Never,
}
