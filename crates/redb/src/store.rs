//! The store: what it promises, and how each operation reaches the writer or the file.
//!
//! # What is where
//!
//! The [file](tables) is the truth: rows, requests, responses, logs, names and keys, each in a table of its own, each
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
//! is how a task that takes its process down with it is found out. What was held is an *orphan* to whoever opens the file
//! next: nobody is handed it before a change of it was committed.

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
        Row, Sharing, StoreError, StoreErrorKind, StoreResult, TaskStore, Which,
    },
    task::{
        Counts, Filter, LeaseRef, LogLine, Page, PageOf, PoolName, Presence, Progress, RequestId, Scope, Seen, Tenant,
    },
    time::{Clock, Timestamp},
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
/// [operating](tower_respond_async::guide::operating).
///
/// # One process at a time
///
/// The file is locked while it is open. When it is opened, whatever was running in it is known to be running no more: the
/// first look for tasks to rescue puts it back into the queue, with a crash on its count, or ends it if that was one too
/// many. Whatever a hook was being told is then told again at once; if processes keep dying over it, when its lease has run
/// out.
///
/// # When the disk fails
///
/// After the first error of the file, a full disk included, nothing is written any more, since it is not known what has
/// arrived: writes are [`Unavailable`](StoreErrorKind::Unavailable), so that new requests get 503, and reads are answered
/// as long as redb can. The process must open the file again, and finds all that was acknowledged; to be told so,
/// [`Tasks::is_ready`](tower_respond_async::Tasks::is_ready) answers `false`.
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

    pub(crate) fn over(path: PathBuf, database: Database, settings: RedbStoreBuilder) -> StoreResult<Self> {
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
        let (job, answer) = job::job(work);
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

/// Runs what may wait for a disk where that holds up nobody; right here, if there is no runtime that could be held up.
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

    fn insert(&self, task: NewRow) -> BoxFuture<'_, StoreResult<Insertion>> {
        let given = GivenTask::from(task);
        Box::pin(self.write(move |batch| batch.insert(&given)))
    }

    fn insert_all(&self, tasks: Vec<NewRow>) -> BoxFuture<'_, StoreResult<Vec<Insertion>>> {
        let given: Vec<_> = tasks.into_iter().map(GivenTask::from).collect();
        Box::pin(self.write(move |batch| given.iter().map(|given| batch.insert(given)).collect()))
    }

    fn claim(&self, claim: Claim) -> BoxFuture<'_, StoreResult<Claims>> {
        Box::pin(self.write(move |batch| batch.claim(&claim)))
    }

    fn rows<'a>(&'a self, scope: &'a Scope, which: &'a Which) -> BoxFuture<'a, StoreResult<Vec<Row>>> {
        let (scope, which) = (scope.clone(), which.clone());
        Box::pin(self.read(move |inner| inner.rows(&scope, &which)))
    }

    fn due(&self, what: Due, max: usize) -> BoxFuture<'_, StoreResult<Candidates>> {
        Box::pin(async move {
            let looked_for = what.clone();
            match self.read(move |inner| inner.due(&looked_for, max)).await? {
                Some(found) => Ok(found),
                // Only to the writer index and file are the same at every moment, and only it may set aside what is damaged.
                None => self.write(move |batch| batch.due(&what, max)).await,
            }
        })
    }

    fn commit(&self, change: Change) -> BoxFuture<'_, StoreResult<Committed>> {
        let given = GivenChange::from(change);
        Box::pin(self.write(move |batch| batch.commit(given)))
    }

    fn commit_all(&self, changes: Vec<Change>) -> BoxFuture<'_, StoreResult<Vec<Committed>>> {
        let given: Vec<_> = changes.into_iter().map(GivenChange::from).collect();
        Box::pin(self.write(move |batch| batch.commit_all(given)))
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

    fn claim_deliveries(&self, claim: DeliveryClaim) -> BoxFuture<'_, StoreResult<Vec<ClaimedOutbox>>> {
        Box::pin(self.write(move |batch| batch.claim_deliveries(&claim)))
    }

    fn list<'a>(&'a self, scope: &'a Scope, filter: &'a Filter, page: Page) -> BoxFuture<'a, StoreResult<PageOf<Row>>> {
        let (scope, filter) = (scope.clone(), filter.clone());
        Box::pin(self.read(move |inner| inner.list(&scope, &filter, &page)))
    }

    fn counts<'a>(&'a self, scope: &'a Scope) -> BoxFuture<'a, StoreResult<Counts>> {
        let counts = self.is_open().map(|()| self.inner.counts(scope));
        Box::pin(std::future::ready(counts))
    }

    fn payload<'a>(
        &'a self,
        scope: &'a Scope,
        id: RequestId,
        part: Part,
    ) -> BoxFuture<'a, StoreResult<Option<Payload>>> {
        let scope = scope.clone();
        Box::pin(self.read(move |inner| inner.payload(&scope, id, part)))
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

    fn prune_keys(&self, limit: usize) -> BoxFuture<'_, StoreResult<usize>> {
        Box::pin(self.write(move |batch| batch.prune_keys(limit)))
    }

    fn news(&self) -> BoxFuture<'_, News> {
        Box::pin(self.inner.news.news())
    }

    /// There is no other process to hear of.
    fn attend(&self, _: Attention) {}

    fn glance(&self, ids: Vec<RequestId>) -> BoxFuture<'_, StoreResult<Vec<Option<Glance>>>> {
        Box::pin(self.read(move |inner| inner.glance(&ids)))
    }

    fn beat(&self, me: Presence, _: Duration) -> BoxFuture<'_, StoreResult<Vec<Seen>>> {
        let alone = self.is_open().map(|()| me.alone());
        Box::pin(std::future::ready(alone))
    }

    fn control(&self, change: Option<ControlChange>) -> BoxFuture<'_, StoreResult<Controls>> {
        Box::pin(self.write(move |batch| batch.control(change.as_ref())))
    }

    /// Ends the writer, once it has done what was asked of it, and lets go of the file: when this resolves, it can be
    /// opened again.
    fn close(&self) -> BoxFuture<'_, ()> {
        self.closed.store(true, Ordering::Release);
        self.inner.news.work();
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
