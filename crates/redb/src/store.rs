//! [`RedbStore`]: its promises, and the way of each operation to the writer or the file.
//!
//! # Where the data is
//!
//! The [file](tables) is authoritative: rows, requests, responses, logs, names and keys, each in a table of its own,
//! each value with a [checksum](frame). [Memory](ram) holds indexes, which are rebuilt when the file is opened, and the
//! rows of running tasks, with leases and progress, which end with the process anyway.
//!
//! One thread [writes](writer), with many operations in one commit; an operation is a method of
//! [`Batch`](batch::Batch). [Reads](read) do not use the writer: they see the file as of the last commit.
//!
//! # Why claims write, and renewals do not
//!
//! The file has a lock, so only one process uses it at a time. When a file can be opened, every earlier holder of its
//! tasks is gone. A lease therefore only separates holders within this process, so memory is enough for it. But the
//! fact that a task was claimed must be stored: the store needs it to recognize a task that takes its process down. A
//! task that was held when its process ended is an *orphan* in the next opening: it is not handed out before a change
//! of it has been committed.

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

use crate::{
    batch::Batch,
    builder::RedbStoreBuilder,
    fault::Fault,
    given::{GivenChange, GivenTask},
    inbox::{self, Inbox, Message},
    inner::{self, Inner},
    job, open, tables, writer,
};
use tower_respond_async::{
    error::BoxFuture,
    store::{
        Abilities, Attention, Candidates, Change, Claim, ClaimedOutbox, Claims, Committed, ControlChange, Controls,
        DeliveryClaim, Due, Durability, Glance, Insertion, LogQuery, NewRow, News, Part, Payload, QueueHint, Renewal,
        Reply, Row, Sharing, StoreError, StoreErrorKind, StoreResult, TaskStore, Which,
    },
    task::{
        Counts, Filter, LeaseRef, LogLine, Page, PageOf, PoolName, Presence, Progress, RequestId, Scope, Seen, Tenant,
    },
    time::{Clock, Timestamp},
};

/// A store in one local file. Accepted tasks survive the end of the process and a power cut; no server is needed.
///
/// # Durability
///
/// Before an operation returns, its changes are synced to the disk (`fdatasync`, or the equivalent of the system):
/// tasks, results, retries, stops, log lines, deliveries. A disk that reports data as written too early can still lose
/// them. Leases and progress are kept in memory, since they end with the process.
///
/// All operations that wait for a commit share one sync, so throughput grows with their number: see
/// [operating](tower_respond_async::guide::operating).
///
/// # One process at a time
///
/// The file is locked while it is open. So when a file is opened, none of its tasks is running any more. The first
/// search for tasks to rescue queues each task that was running again and counts a crash, or ends the task if it has
/// had too many crashes. A delivery that was under way is repeated at once; if several processes have died during it,
/// when its lease has run out.
///
/// # When the disk fails
///
/// After the first error of the file, a full disk included, the store writes nothing any more, since it is not known
/// what has reached the disk. Writes fail with [`Unavailable`](StoreErrorKind::Unavailable), so new requests get 503.
/// Reads work as long as redb can serve them. The process must open the file again; everything that was acknowledged is
/// there then. [`Tasks::is_ready`](tower_respond_async::Tasks::is_ready) returns `false` in this state.
///
/// Every value has a checksum, and a value that does not match its checksum is never returned. A task with a damaged
/// request ends as `Invalid`. For a task with a damaged record, operations fail with `Corrupt`. The damaged bytes are
/// kept in the table `set_aside`, and all other tasks continue.
///
/// # Cancel safety
///
/// An operation is atomic. If you drop its future before it has reached the writer, nothing happens; if you drop it
/// later, only the answer is lost. Dropping the store blocks the thread until the operations in the queue are finished;
/// [`close`](TaskStore::close) waits for them without blocking.
///
/// # Examples
///
/// ```
/// use tower_respond_async::{RespondAsyncLayer, store::{Durability, TaskStore}};
/// use tower_respond_async_redb::RedbStore;
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
    /// `None` once the store is being dropped.
    writer: Option<mpsc::Sender<Message>>,
    thread: Mutex<Option<JoinHandle<()>>>,
    closed: AtomicBool,
    done: watch::Receiver<bool>,
}

impl RedbStore {
    /// Opens the file at `path` with the default settings, or creates it. Its directory must exist.
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

    /// Returns a builder, for other settings than the defaults.
    pub fn builder() -> RedbStoreBuilder {
        RedbStoreBuilder::default()
    }

    /// How many damaged values have been set aside since the file was created.
    ///
    /// # Errors
    ///
    /// [`Unavailable`](StoreErrorKind::Unavailable) if the store is closed; `Unavailable` or `Corrupt` if the file
    /// cannot be read.
    ///
    /// # Cancel safety
    ///
    /// Safe to drop: it only reads.
    pub async fn set_aside(&self) -> StoreResult<u64> {
        self.read(|inner| inner.read(|transaction| Ok(transaction.open_table(tables::SET_ASIDE)?.len()?)))
            .await
    }

    pub(crate) fn over(path: PathBuf, database: Database, settings: RedbStoreBuilder) -> StoreResult<Self> {
        let (ram, clock) = match open::recover(&path, &database, settings.clock) {
            Ok(recovered) => recovered,
            Err(error) => {
                // The first error is the one to report.
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

    /// Runs `work` on the writer, as part of its next commit. Resolves when the commit is durable.
    async fn write<T, F>(&self, work: F) -> StoreResult<T>
    where
        T: Send + 'static,
        F: Fn(&mut Batch<'_>) -> Result<T, Fault> + Send + 'static,
    {
        self.is_open()?;
        if let Some(failure) = self.inner.failure() {
            return Err(failure.since());
        }
        let Some(writer) = &self.writer else {
            return Err(StoreError::closed());
        };
        let (job, answered) = job::job(work);
        let sent = writer.send(Message::Do(job)).await;
        sent.map_err(|_| StoreError::closed())?;
        let operation = answered.await.map_err(|_| StoreError::closed())?;
        operation.into_answer()
    }

    /// Reads on a thread for blocking work: the runtime's threads must not wait for a disk.
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
        // The writer ends when the queue is closed, and closes the file. After `join`, the caller can open it again.
        self.writer = None;
        let thread = self.thread.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            // The writer catches its panics.
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

/// Runs blocking `work` on a thread for blocking work, or on the current thread if there is no runtime.
pub(crate) async fn off_the_runtime<T: Send + 'static>(
    work: impl FnOnce() -> StoreResult<T> + Send + 'static,
) -> StoreResult<T> {
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

    fn now(&self) -> Timestamp {
        self.inner.clock.now()
    }

    fn queue_hint(&self, tenant: Option<&Tenant>, pool: Option<&PoolName>) -> QueueHint {
        let queue = &self.inner.ram.queue;
        let mut hint = QueueHint::default();
        hint.queued = Some(queue.waiting());
        hint.tenant_queued = tenant.map(|_| queue.lock().waiting_of(tenant));
        hint.pool_queued = pool.map(|pool| queue.lock().waiting_in(pool));
        hint.failed = self.closed.load(Ordering::Acquire) || self.inner.failure().is_some();
        hint
    }

    fn insert(self: Arc<Self>, task: NewRow) -> Reply<'static, Insertion> {
        let given = GivenTask::from(task);
        Reply::later(async move { self.write(move |batch| batch.insert(&given)).await })
    }

    fn insert_all(self: Arc<Self>, tasks: Vec<NewRow>) -> Reply<'static, Vec<Insertion>> {
        let given: Vec<_> = tasks.into_iter().map(GivenTask::from).collect();
        let insert = move |batch: &mut Batch<'_>| given.iter().map(|given| batch.insert(given)).collect();
        Reply::later(async move { self.write(insert).await })
    }

    fn claim(&self, claim: Claim) -> Reply<'_, Claims> {
        Reply::later(self.write(move |batch| batch.claim(&claim)))
    }

    fn rows<'a>(&'a self, scope: &'a Scope, which: &'a Which) -> Reply<'a, Vec<Row>> {
        let (scope, which) = (scope.clone(), which.clone());
        Reply::later(self.read(move |inner| inner.rows(&scope, &which)))
    }

    fn due(&self, what: Due, max: usize) -> Reply<'_, Candidates> {
        Reply::later(async move {
            let looked_for = what.clone();
            match self.read(move |inner| inner.due(&looked_for, max)).await? {
                Some(found) => Ok(found),
                // Only the writer sees index and file in the same state, and only it may set damaged values aside.
                None => self.write(move |batch| batch.due(&what, max)).await,
            }
        })
    }

    fn commit(&self, change: Change) -> Reply<'_, Committed> {
        let given = GivenChange::from(change);
        Reply::later(self.write(move |batch| batch.commit(&given)))
    }

    fn commit_all(&self, changes: Vec<Change>) -> Reply<'_, Vec<Committed>> {
        let given: Vec<_> = changes.into_iter().map(GivenChange::from).collect();
        Reply::later(self.write(move |batch| batch.commit_all(&given)))
    }

    fn renew(&self, leases: Vec<LeaseRef>, lease: Duration) -> Reply<'_, Vec<Renewal>> {
        let inner = &self.inner;
        let renewed = self.is_open().map(|()| {
            let renewed = leases
                .into_iter()
                .map(|held| inner.ram.renew(held, lease, &*inner.clock));
            renewed.collect()
        });
        Reply::now(renewed)
    }

    fn claim_deliveries(&self, claim: DeliveryClaim) -> Reply<'_, Vec<ClaimedOutbox>> {
        Reply::later(self.write(move |batch| batch.claim_deliveries(&claim)))
    }

    fn list<'a>(&'a self, scope: &'a Scope, filter: &'a Filter, page: Page) -> Reply<'a, PageOf<Row>> {
        let (scope, filter) = (scope.clone(), filter.clone());
        Reply::later(self.read(move |inner| inner.list(&scope, &filter, &page)))
    }

    fn counts<'a>(&'a self, scope: &'a Scope) -> Reply<'a, Counts> {
        let counts = self.is_open().map(|()| self.inner.counts(scope));
        Reply::now(counts)
    }

    fn payload<'a>(&'a self, scope: &'a Scope, id: RequestId, part: Part) -> Reply<'a, Option<Payload>> {
        let scope = scope.clone();
        Reply::later(self.read(move |inner| inner.payload(&scope, id, part)))
    }

    fn set_progress(&self, lease: LeaseRef, progress: Progress) -> Reply<'_, bool> {
        let held = self.is_open().map(|()| self.inner.ram.set_progress(lease, progress));
        Reply::now(held)
    }

    fn append_log(&self, lease: LeaseRef, lines: Vec<LogLine>) -> Reply<'_, bool> {
        Reply::later(self.write(move |batch| batch.append_log(lease, &lines)))
    }

    fn logs<'a>(&'a self, scope: &'a Scope, id: RequestId, query: LogQuery) -> Reply<'a, Vec<LogLine>> {
        let scope = scope.clone();
        Reply::later(self.read(move |inner| inner.logs(&scope, id, query)))
    }

    fn prune_keys(&self, limit: usize) -> Reply<'_, usize> {
        Reply::later(self.write(move |batch| batch.prune_keys(limit)))
    }

    fn news(&self) -> BoxFuture<'_, News> {
        Box::pin(self.inner.news.news())
    }

    /// Does nothing: there is no other process.
    fn attend(&self, _: Attention) {}

    fn glance(&self, ids: Vec<RequestId>) -> Reply<'_, Vec<Option<Glance>>> {
        Reply::later(self.read(move |inner| inner.glance(&ids)))
    }

    fn beat(&self, me: Presence, _: Duration) -> Reply<'_, Vec<Seen>> {
        let alone = self.is_open().map(|()| me.alone());
        Reply::now(alone)
    }

    fn control(&self, change: Option<ControlChange>) -> Reply<'_, Controls> {
        Reply::later(self.write(move |batch| batch.control(change.as_ref())))
    }

    /// Ends the writer after it has finished the operations in its queue, and closes the file. When this resolves, the
    /// file can be opened again.
    fn close(&self) -> BoxFuture<'_, ()> {
        self.closed.store(true, Ordering::Release);
        self.inner.news.work();
        Box::pin(async {
            if let Some(writer) = &self.writer {
                // Fails if the writer has been closed before.
                let _ = writer.send(Message::Close).await;
            }
            // Fails only if the writer has ended.
            let _ = self.done.clone().wait_for(|done| *done).await;
        })
    }
}
