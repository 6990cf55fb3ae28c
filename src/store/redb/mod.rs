//! Tasks in an embedded file.
//!
//! # What is where
//!
//! The [file](tables) is the truth: records, requests, responses, logs, names and keys, each in a table of its own, each
//! value behind a [checksum](frame). In [memory](ram) are indexes over it, rebuilt when it is opened, and what a process
//! that ends takes with it anyway: leases and progress.
//!
//! One thread [writes](writer), many operations to a commit; an operation is a method of [`Batch`](batch::Batch).
//! [Reading](read) asks nobody: it sees the file as of the last commit.
//!
//! # Why claims write, and renewals do not
//!
//! The file has a lock, so there is one process at a time, and when a file can be opened whoever held a task of it is
//! gone. A lease then only tells the living apart, which memory can do. That a task *was* claimed must survive, though: it
//! is how a task that takes its process down with it is found out.

mod accept;
mod attempt;
mod batch;
mod control;
mod deliveries;
mod fault;
mod frame;
mod inbox;
mod inner;
mod logs;
mod onward;
mod open;
mod ram;
mod read;
mod tables;
mod writer;

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use redb::{Database, ReadableTableMetadata};
use tokio::sync::{mpsc, watch};

use self::{
    batch::Batch,
    fault::Fault,
    frame::Sealed,
    inbox::{Inbox, Message},
    inner::Inner,
};
use crate::{
    error::BoxFuture,
    store::{
        Abilities, Claim, Claimed, ClaimedDelivery, Delete, DeliveryClaim, DeliverySettlement, Durability, GiveUp,
        Insert, Inserted, LogQuery, Pruned, QueueHint, Rescued, Retention, Settled, Sharing, StoreError,
        StoreErrorKind, StoreResult, TaskStore,
    },
    task::{
        CapturedRequest, CapturedResponse, Counts, Delivery, Destination, Filter, LeaseRef, LogLine, Page, PageOf,
        Progress, RequestId, Scope, TaskRecord, TaskRef, Tenant,
        delivery::Redeliver,
        lifecycle::{Edits, Renewal, Rerun, Settlement, Stop},
    },
    time::{Clock, SystemClock},
};

/// A store in one file of this machine: accepted tasks survive the end of the process and of the power, and no server is
/// needed.
///
/// # Durability
///
/// Whatever an operation answers has been synced to the disk before (`fdatasync`, or what the system has for it): tasks,
/// results, retries, stops, log lines, deliveries. A disk that says it has written what it has not can still lose them.
/// Leases and progress are kept in memory, since they end with the process.
///
/// The commit costs one sync for all operations that wait for it, so throughput grows with their number: see
/// [operating](crate::guide::operating).
///
/// # One process at a time
///
/// The file is locked while it is open. When it is opened, whatever was running in it is known to be running no more: it
/// is put back into the queue at once, with a crash on its count, or ended if that was one too many. Whatever a hook was
/// being told is told again at once; if processes keep dying over it, when its lease has run out.
///
/// # When the disk fails
///
/// After the first error of the file, a full disk included, nothing is written any more, since it is not known what has
/// arrived: writes are [`Unavailable`](StoreErrorKind::Unavailable), so that new requests get 503, and reads are answered
/// as long as redb can. The process must open the file again, and finds all that was acknowledged; to be told so,
/// [`Tasks::is_ready`](crate::Tasks::is_ready) answers `false`.
///
/// Every value has a checksum. One that does not match is never handed out: a task whose request was damaged ends as
/// `Invalid`; a task whose record was damaged is `Corrupt` to whoever asks for it; their bytes are kept in the table
/// `set_aside`, and everything else goes on.
///
/// # Cancel safety
///
/// An operation happens whole or not at all. Dropping its future before it was handed to the writer leaves nothing;
/// dropping it later loses the answer only. Dropping the store finishes what was asked of it, on the thread that drops it;
/// [`close`](TaskStore::close) does so without blocking that.
///
/// # Examples
///
/// ```
/// use tower_respond_async::{RespondAsyncLayer, store::{Durability, RedbStore, TaskStore}};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let folder = std::env::temp_dir().join(format!("respond-async-doc-{}", std::process::id()));
/// # std::fs::create_dir_all(&folder)?;
/// # let path = folder.join("tasks.redb");
/// let store = RedbStore::open(&path).await?;
/// assert_eq!(store.abilities().durability, Durability::Host);
///
/// let in_use = RedbStore::open(&path).await.unwrap_err();
/// assert!(in_use.to_string().contains("in use"));
///
/// let layer = RespondAsyncLayer::new(store)?;
/// # layer.tasks().shutdown(std::time::Duration::ZERO).await;
/// # std::fs::remove_dir_all(&folder)?;
/// # Ok(()) }
/// ```
pub struct RedbStore {
    inner: Arc<Inner>,
    /// Gone once the store is being dropped.
    writer: Option<mpsc::Sender<Message>>,
    thread: Mutex<Option<JoinHandle<()>>>,
    closed: AtomicBool,
    done: watch::Receiver<bool>,
}

impl RedbStore {
    /// Opens the file at `path` with the default settings, and creates it if it is not there. Its directory must be.
    ///
    /// # Errors
    ///
    /// As for [`RedbStoreBuilder::open`].
    ///
    /// # Cancel safety
    ///
    /// As for [`RedbStoreBuilder::open`].
    pub async fn open(path: impl AsRef<Path>) -> StoreResult<Self> {
        Self::builder().open(path).await
    }

    /// A store to be opened with settings of your own.
    pub fn builder() -> RedbStoreBuilder {
        RedbStoreBuilder::default()
    }

    /// How many values were found damaged and set aside, since the file was created.
    ///
    /// # Errors
    ///
    /// `Unavailable` if the file cannot be read.
    ///
    /// # Cancel safety
    ///
    /// It only reads.
    pub async fn set_aside(&self) -> StoreResult<u64> {
        self.read(|inner| inner.read(|transaction| Ok(transaction.open_table(tables::SET_ASIDE)?.len()?)))
            .await
    }

    fn over(path: PathBuf, database: Database, settings: RedbStoreBuilder) -> StoreResult<Self> {
        let (ram, clock) = match open::recover(&path, &database, settings.clock) {
            Ok(recovered) => recovered,
            Err(error) => {
                // What was wrong with it is known already.
                let _ = inner::close(database);
                return Err(error);
            }
        };
        let inner = Inner::new(path, database, ram, Arc::new(clock), settings.quick_repair);
        let inner = Arc::new(inner);
        let (writer, messages) = mpsc::channel(inbox::WAITING);
        let (tell, done) = watch::channel(false);
        let shared = inner.clone();
        let timer = tokio::runtime::Builder::new_current_thread().enable_time().build();
        let thread = timer.and_then(|timer| {
            std::thread::Builder::new()
                .name("redb-writer".into())
                .spawn(move || writer::run(Inbox::new(messages), &timer, &shared, &tell))
        });
        let thread = thread.map_err(|error| {
            StoreError::new(
                StoreErrorKind::Unavailable,
                "cannot start a thread to write the task file",
            )
            .because(error)
        })?;
        Ok(Self {
            inner,
            writer: Some(writer),
            thread: Mutex::new(Some(thread)),
            closed: AtomicBool::new(false),
            done,
        })
    }

    fn is_open(&self) -> StoreResult<()> {
        match self.closed.load(Ordering::Acquire) {
            true => Err(StoreError::closed()),
            false => Ok(()),
        }
    }

    /// Has the writer do something, as part of its next commit, and answers when that is durable.
    async fn write<T, F>(&self, work: F) -> StoreResult<T>
    where
        T: Send + 'static,
        F: FnOnce(&mut Batch<'_>) -> Result<T, Fault> + Send + 'static,
    {
        self.is_open()?;
        if let Some(failure) = self.inner.failure() {
            return Err(failure.since());
        }
        let Some(writer) = &self.writer else {
            return Err(StoreError::closed());
        };
        let (job, answer) = writer::job(work);
        let sent = writer.send(Message::Do(job)).await;
        sent.map_err(|_| StoreError::closed())?;
        answer.await.unwrap_or_else(|_| Err(StoreError::closed()))
    }

    /// Reads away from the caller's runtime, whose threads must not wait for a disk.
    async fn read<T, F>(&self, work: F) -> StoreResult<T>
    where
        T: Send + 'static,
        F: FnOnce(&Inner) -> StoreResult<T> + Send + 'static,
    {
        self.is_open()?;
        let inner = self.inner.clone();
        off_the_runtime(move || work(&inner)).await
    }
}

impl Drop for RedbStore {
    fn drop(&mut self) {
        // The writer ends when nobody can ask it for anything, and lets go of the file: the next line may open it again.
        self.writer = None;
        let thread = self.thread.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            // It has caught its panics.
            let _ = thread.join();
        }
    }
}

impl fmt::Debug for RedbStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedbStore")
            .field("path", &self.inner.path)
            .field("waiting", &self.inner.ram.queue.waiting())
            .field("failure", &self.inner.failure())
            .field("closed", &self.closed)
            .finish_non_exhaustive()
    }
}

/// Opens a [`RedbStore`].
#[derive(Clone, Debug)]
#[must_use]
pub struct RedbStoreBuilder {
    clock: Arc<dyn Clock>,
    cache_bytes: usize,
    quick_repair: QuickRepair,
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
    pub(crate) fn open_on<B: redb::StorageBackend>(
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
/// ([Guarantees](crate::guide::guarantees)). What was acknowledged is there in any case. [Operating](crate::guide::operating)
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

/// Runs what may wait for a disk where that holds up nobody; right here, if there is no runtime that could be held up.
async fn off_the_runtime<T: Send + 'static>(work: impl FnOnce() -> StoreResult<T> + Send + 'static) -> StoreResult<T> {
    let Ok(runtime) = tokio::runtime::Handle::try_current() else {
        return work();
    };
    let done = runtime.spawn_blocking(work).await;
    done.unwrap_or_else(|error| {
        let context = "the runtime ended while the task file was read";
        Err(StoreError::new(StoreErrorKind::Unavailable, context).because(error))
    })
}

impl TaskStore for RedbStore {
    fn abilities(&self) -> Abilities {
        Abilities::new(Durability::Host, Sharing::Exclusive, true)
    }

    fn queue_hint(&self, tenant: Option<&Tenant>) -> QueueHint {
        let queue = &self.inner.ram.queue;
        QueueHint {
            queued: Some(queue.waiting()),
            tenant_queued: tenant.map(|_| queue.lock().waiting_of(tenant)),
            failed: self.closed.load(Ordering::Acquire) || self.inner.failure().is_some(),
        }
    }

    fn insert(&self, insert: Insert) -> BoxFuture<'_, StoreResult<Inserted>> {
        let task = &insert.task;
        let input = Sealed::new(task.id.as_bytes(), &[&task.input.encode()]);
        Box::pin(self.write(move |batch| batch.insert(&insert, &input)))
    }

    fn claim(&self, claim: Claim) -> BoxFuture<'_, StoreResult<Claimed>> {
        Box::pin(self.write(move |batch| batch.claim(&claim)))
    }

    fn renew(&self, leases: Vec<LeaseRef>, lease: Duration) -> BoxFuture<'_, StoreResult<Vec<Renewal>>> {
        let inner = &self.inner;
        let renewed = self.is_open().map(|()| {
            let renewed = leases
                .into_iter()
                .map(|held| inner.ram.renew(held, lease, &*inner.clock));
            renewed.collect()
        });
        Box::pin(std::future::ready(renewed))
    }

    fn settle(&self, settlement: Settlement) -> BoxFuture<'_, StoreResult<Settled>> {
        let id = settlement.lease.id;
        let output = settlement.outcome.output();
        let output = output.map(|output| Sealed::new(id.as_bytes(), &[&output.encode()]));
        Box::pin(self.write(move |batch| batch.settle(settlement, output.as_ref())))
    }

    fn rescue(&self, limit: usize) -> BoxFuture<'_, StoreResult<Rescued>> {
        Box::pin(self.write(move |batch| batch.rescue(limit)))
    }

    fn stop<'a>(&'a self, scope: &'a Scope, id: RequestId) -> BoxFuture<'a, StoreResult<Stop>> {
        let scope = scope.clone();
        Box::pin(self.write(move |batch| batch.stop(&scope, id)))
    }

    fn rerun<'a>(&'a self, scope: &'a Scope, id: RequestId, edits: Edits) -> BoxFuture<'a, StoreResult<Rerun>> {
        let scope = scope.clone();
        Box::pin(self.write(move |batch| batch.rerun(&scope, id, edits)))
    }

    fn delete<'a>(&'a self, scope: &'a Scope, id: RequestId) -> BoxFuture<'a, StoreResult<Delete>> {
        let scope = scope.clone();
        Box::pin(self.write(move |batch| batch.delete(&scope, id)))
    }

    fn find<'a>(&'a self, scope: &'a Scope, task: &'a TaskRef) -> BoxFuture<'a, StoreResult<Option<Arc<TaskRecord>>>> {
        let (scope, task) = (scope.clone(), task.clone());
        Box::pin(self.read(move |inner| inner.find(&scope, &task)))
    }

    fn list<'a>(
        &'a self,
        scope: &'a Scope,
        filter: &'a Filter,
        page: Page,
    ) -> BoxFuture<'a, StoreResult<PageOf<Arc<TaskRecord>>>> {
        let (scope, filter) = (scope.clone(), filter.clone());
        Box::pin(self.read(move |inner| inner.list(&scope, &filter, &page)))
    }

    fn count<'a>(&'a self, scope: &'a Scope, filter: &'a Filter, cap: u64) -> BoxFuture<'a, StoreResult<u64>> {
        let (scope, filter) = (scope.clone(), filter.clone());
        Box::pin(self.read(move |inner| inner.count(&scope, &filter, cap)))
    }

    fn counts<'a>(&'a self, scope: &'a Scope) -> BoxFuture<'a, StoreResult<Counts>> {
        let counts = self.is_open().map(|()| self.inner.counts(scope));
        Box::pin(std::future::ready(counts))
    }

    fn input<'a>(
        &'a self,
        scope: &'a Scope,
        id: RequestId,
    ) -> BoxFuture<'a, StoreResult<Option<Arc<CapturedRequest>>>> {
        let scope = scope.clone();
        Box::pin(self.read(move |inner| inner.input(&scope, id)))
    }

    fn output<'a>(
        &'a self,
        scope: &'a Scope,
        id: RequestId,
    ) -> BoxFuture<'a, StoreResult<Option<Arc<CapturedResponse>>>> {
        let scope = scope.clone();
        Box::pin(self.read(move |inner| inner.output(&scope, id)))
    }

    fn set_progress(&self, lease: LeaseRef, progress: Progress) -> BoxFuture<'_, StoreResult<bool>> {
        let held = self.is_open().map(|()| self.inner.ram.set_progress(lease, progress));
        Box::pin(std::future::ready(held))
    }

    fn append_log(&self, lease: LeaseRef, lines: Vec<LogLine>) -> BoxFuture<'_, StoreResult<bool>> {
        Box::pin(self.write(move |batch| batch.append_log(lease, lines)))
    }

    fn logs<'a>(
        &'a self,
        scope: &'a Scope,
        id: RequestId,
        query: LogQuery,
    ) -> BoxFuture<'a, StoreResult<Vec<LogLine>>> {
        let scope = scope.clone();
        Box::pin(self.read(move |inner| inner.logs(&scope, id, query)))
    }

    fn claim_deliveries(&self, claim: DeliveryClaim) -> BoxFuture<'_, StoreResult<Vec<ClaimedDelivery>>> {
        Box::pin(self.write(move |batch| batch.claim_deliveries(&claim)))
    }

    fn settle_delivery(&self, settlement: DeliverySettlement) -> BoxFuture<'_, StoreResult<bool>> {
        Box::pin(self.write(move |batch| batch.settle_delivery(settlement)))
    }

    fn redeliver<'a>(
        &'a self,
        scope: &'a Scope,
        id: RequestId,
        generation: u32,
        destination: &'a Destination,
    ) -> BoxFuture<'a, StoreResult<Redeliver>> {
        let (scope, destination) = (scope.clone(), destination.clone());
        Box::pin(self.write(move |batch| batch.redeliver(&scope, id, generation, &destination)))
    }

    fn give_up_deliveries(&self, give_up: GiveUp) -> BoxFuture<'_, StoreResult<Vec<Delivery>>> {
        Box::pin(self.write(move |batch| batch.give_up_deliveries(&give_up)))
    }

    fn prune(&self, retention: Retention, limit: usize) -> BoxFuture<'_, StoreResult<Pruned>> {
        Box::pin(self.write(move |batch| batch.prune(retention, limit)))
    }

    fn wait_for_work(&self) -> BoxFuture<'_, ()> {
        Box::pin(self.inner.ram.queue.work())
    }

    /// Ends the writer, once it has done what was asked of it, and lets go of the file: when this resolves, it can be
    /// opened again.
    fn close(&self) -> BoxFuture<'_, ()> {
        self.closed.store(true, Ordering::Release);
        self.inner.ram.queue.notify();
        Box::pin(async {
            if let Some(writer) = &self.writer {
                // It fails if the writer has been told before.
                let _ = writer.send(Message::Close).await;
            }
            // And this only if the writer is gone.
            let _ = self.done.clone().wait_for(|done| *done).await;
        })
    }
}
