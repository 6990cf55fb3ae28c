//! The operations of the store.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::sync::oneshot;
use tokio_postgres::Config;
use tower_respond_async::{
    TaskStore,
    error::BoxFuture,
    store::{
        Abilities, Attention, Candidates, Change, Claim, ClaimedOutbox, Claims, Committed, ControlChange, Controls,
        DeliveryClaim, Due, Durability, Glance, Insertion, LogQuery, NewRow, News, Part, Payload, QueueHint, Renewal,
        Reply, Row, Sharing, StoreError, StoreErrorKind, StoreResult, Which,
        kit::{ControlValues, IoThread},
    },
    task::{
        Counts, Filter, LeaseRef, LogLine, Page, PageOf, PoolName, Presence, Progress, RequestId, Scope, Seen, Tenant,
    },
    time::Timestamp,
};

use crate::{
    PostgresStoreBuilder, claim, codec,
    commit::Commits,
    connection::{Again, Lent, PAUSE, Pool, Server, is_too_slow, postgres_error, unavailable},
    due::{self, Fronts},
    front::{Front, LONGEST},
    group::{Group, Writer, Writes},
    insert::Inserts,
    list, logs, outbox, read, schema,
    session::Connection,
    tidy::{self, Fold},
    wire::{self, Wire},
};

/// Tasks in PostgreSQL, for any number of processes. Cheap to clone: clones share their connections.
///
/// (Not run, since it needs a server: `tests/it/open.rs` connects to one.)
///
/// ```no_run
/// use tower_respond_async::RespondAsyncLayer;
/// use tower_respond_async_postgres::PostgresStore;
///
/// # async fn build() -> Result<(), Box<dyn std::error::Error>> {
/// let store = PostgresStore::connect("postgres://app:secret@db:5432/app").await?;
/// let layer = RespondAsyncLayer::new(store)?;
/// # Ok(()) }
/// ```
///
/// # Durability
///
/// The store answers after the commit. What a commit survives depends on the server's settings when the store was
/// opened, and [`abilities`](TaskStore::abilities) report it:
///
/// - `synchronous_commit` on: a power cut ([`Durability::Host`])
/// - the same with a synchronous standby: the loss of the machine ([`Durability::Cluster`]), unless
///   `synchronous_commit` is `local`
/// - `synchronous_commit` off: the end of this process, but not a crash of the server ([`Durability::Restart`])
///
/// The store refuses a server with `fsync=off`.
///
/// If an asynchronous standby takes over, the last commits may be missing. Tasks that were accepted in these commits
/// are lost. Claims that were made in them are fenced, since tokens include the server's timeline.
///
/// # Sharing
///
/// Every process has its own handle, and any handle can do everything with any task. Handles notify each other of
/// changes within some hundredths of a second, with `NOTIFY`, outside of the transactions that make the changes and
/// only while another handle is connected. The engine polls as well, so a lost notification only delays it. Behind a
/// [pooler](PostgresStoreBuilder::pooled) there are no notifications.
///
/// Inserts that arrive while a statement is under way are combined into the next statement, and so are changes.
/// [`Limits`] may be exceeded by the number of tasks that other processes are inserting at the same moment.
///
/// # While the server is unreachable
///
/// Operations try to reach the server for five seconds, and then fail as [`Unavailable`](StoreErrorKind::Unavailable).
/// If the connection breaks before the answer to an insert or a change, the store sends it again, and answers as if it
/// had been sent once. It also repeats reads, renewals, reports of progress and claims of completions. It does not
/// repeat a claim of tasks, an append to a log, or a change of a named value.
///
/// # Cancel safety
///
/// A thread of the store drives the connections. If you drop the future of an operation, the operation continues on
/// that thread, and its result is lost.
///
/// [`Limits`]: tower_respond_async::store::Limits
#[derive(Clone)]
pub struct PostgresStore {
    inner: Arc<Inner>,
    io: Arc<IoThread>,
}

struct Inner {
    server: Arc<Server>,
    schema: Arc<str>,
    abilities: Abilities,
    inserts: Group<Inserts>,
    /// Inserts of tasks with a name or a key, which may wait for transactions with the same name or key.
    named: Group<Inserts>,
    commits: Group<Commits>,
    /// For claims, so that they do not wait for other operations.
    claims: Arc<Pool>,
    /// For operations that have no connections of their own.
    general: Arc<Pool>,
    /// For renewals, so that they do not wait for other operations.
    leases: Arc<Pool>,
    writers: [Arc<Pool>; 4],
    wire: Arc<Wire>,
    /// The writer of the tally under which this handle counts its claims.
    writer: i64,
    fold: Fold,
    /// The fronts of the pools' queues.
    queue: Front<String>,
    fronts: Fronts,
    set_aside: Arc<AtomicU64>,
}

impl Inner {
    fn inserts_of(&self, tasks: &[NewRow]) -> &Group<Inserts> {
        match tasks.iter().any(Inserts::may_wait) {
            true => &self.named,
            false => &self.inserts,
        }
    }

    /// Looks at the whole queue. Claims start from the last known fronts in the meantime.
    async fn look_at_all(self: Arc<Self>) {
        let looked = async {
            let connection = self.general.get().await?;
            let looked = claim::look_at_all(&connection, &self.queue).await;
            finished(connection, looked)
        };
        if looked.await.is_err() {
            self.queue.missed(LONGEST, []);
        }
    }
}

/// How many milliseconds a group of inserts waits for a name or key that another open transaction holds. After that,
/// only the inserts with that name or key wait.
const SHORT: u32 = 100;

/// The most inserts that wait longer than that at a time.
const LATE: usize = 2;

/// Runs a repeatable operation. If its answer is lost with the session, runs it again in another one. It is a macro,
/// since the futures of an async closure cannot be required to be [`Send`].
macro_rules! ask {
    ($pool:expr, |$connection:ident| $work:expr) => {{
        let mut again = Again::new();
        loop {
            let lent = $pool.get().await?;
            let $connection = &*lent;
            match $work.await {
                Ok(answer) => {
                    lent.done();
                    break Ok(answer);
                }
                Err(error) if postgres_error(&error).is_some_and(|error| again.after_loss(error)) => {
                    drop(lent);
                    tokio::time::sleep(PAUSE).await;
                }
                Err(error) => break Err(error),
            }
        }
    }};
}

impl PostgresStore {
    /// Connects to the database at `url`, and creates or updates the tables.
    ///
    /// # Errors
    ///
    /// The errors of [`PostgresStoreBuilder::connect`].
    ///
    /// # Cancel safety
    ///
    /// If you drop the future, the connections close. A migration is one transaction: the server completes it or undoes
    /// it.
    pub async fn connect(url: &str) -> StoreResult<Self> {
        Self::builder().connect(url).await
    }

    /// A builder, to change settings before you connect.
    pub fn builder() -> PostgresStoreBuilder {
        PostgresStoreBuilder::default()
    }

    pub(crate) async fn open(config: Config, builder: PostgresStoreBuilder) -> StoreResult<Self> {
        let io = Arc::new(IoThread::start("respond-async-pg").map_err(StoreError::unavailable)?);
        let runtime = io.handle().clone();
        let opened = io.run(async move {
            let server = Arc::new(Server::new(config, &builder)?);
            let pool = |most| Arc::new(Pool::new(server.clone(), most));
            let general = pool(3);
            ask!(general, |connection| schema::prepare(
                connection,
                &builder.schema,
                builder.migrate
            ))?;
            let (durability, now) = ask!(general, |connection| durability(connection, builder.unsafe_durability))?;
            server.saw(now);
            let boot = fastrand::u64(..);
            let wire = Arc::new(Wire::new(&builder.schema, boot, builder.pooled));
            if !builder.pooled {
                let (ready, listens) = oneshot::channel();
                runtime.spawn(wire::run(server.clone(), wire.clone(), ready));
                // From here on the handle gets notifications, as long as the server is reachable.
                let _ = tokio::time::timeout(Duration::from_secs(5), listens).await;
            }
            // Each writer of the tally has rows of its own, so that none waits for another.
            let writer = |number: u64| ((boot >> 3 << 2) | number).cast_signed();
            let writers = [1, 1, 1, LATE].map(|most| Arc::new(Pool::of_writers(server.clone(), most)));
            let inserts = |at: usize, number, waits| Writer {
                pool: writers[at].clone(),
                writes: Inserts {
                    wire: wire.clone(),
                    writer: writer(number),
                    waits,
                },
            };
            let commits = Writer {
                pool: writers[1].clone(),
                writes: Commits {
                    wire: wire.clone(),
                    writer: writer(2),
                },
            };
            StoreResult::Ok(Inner {
                inserts: Group::start(&runtime, inserts(0, 1, None), None),
                named: Group::start(&runtime, inserts(2, 3, Some(SHORT)), Some(inserts(3, 3, None))),
                commits: Group::start(&runtime, commits, None),
                claims: pool(1),
                general,
                leases: pool(1),
                writers,
                fold: Fold::new(server.now()),
                queue: Front::new(),
                fronts: Fronts::new(),
                server,
                schema: builder.schema,
                abilities: Abilities::new(durability, Sharing::Shared, !builder.pooled),
                wire,
                writer: writer(0),
                set_aside: Arc::default(),
            })
        });
        let inner = Arc::new(opened.await??);
        Ok(Self { inner, io })
    }

    /// The quoted schema and a dot.
    pub(crate) fn prefix(&self) -> &str {
        &self.inner.server.prefix
    }

    /// The channel on which handles notify each other.
    pub(crate) fn channel(&self) -> String {
        self.inner.wire.channel.clone()
    }

    /// Runs `work` on the store's own thread. It runs to its end, even if the returned future is dropped.
    fn run<T: Send + 'static, F>(&self, work: impl FnOnce(Arc<Inner>) -> F) -> Reply<'static, T>
    where
        F: Future<Output = StoreResult<T>> + Send + 'static,
    {
        if self.inner.server.is_closed() {
            return Reply::now(Err(StoreError::closed()));
        }
        let answer = self.io.run(work(self.inner.clone()));
        Reply::later(async move { answer.await? })
    }

    /// Queues the items in the group directly: a task on the store's thread for every call would cost as much as the
    /// write itself.
    fn write<W: Writes, T: Send + 'static>(
        &self,
        group: &Group<W>,
        items: Vec<W::Item>,
        answer: impl FnOnce(Vec<W::Answer>) -> Option<T> + Send + 'static,
    ) -> Reply<'static, T> {
        if self.inner.server.is_closed() {
            return Reply::now(Err(StoreError::closed()));
        }
        let written = group.write(items);
        Reply::later(async move { answer(written.await?).ok_or_else(StoreError::closed) })
    }
}

/// The durability that the server's settings give, and the server's time.
async fn durability(connection: &Connection, is_unsafe: bool) -> StoreResult<(Durability, i64)> {
    let asked = "SELECT current_setting('fsync'), current_setting('synchronous_commit'), \
        current_setting('synchronous_standby_names'), @.now_ms()";
    let found = connection.query(asked, &[]).await.map_err(unavailable)?;
    let setting = |at: usize| found[0].get::<_, &str>(at);
    let durability = match (setting(0), setting(1), setting(2)) {
        ("off", ..) if !is_unsafe => {
            let context = "the server runs with fsync=off: a power cut may destroy all of its data";
            return Err(StoreError::new(StoreErrorKind::Unsupported, context));
        }
        ("off", ..) | (_, "off", _) => Durability::Restart,
        (_, "local", _) | (_, _, "") => Durability::Host,
        _ => Durability::Cluster,
    };
    Ok((durability, found[0].get(3)))
}

/// Returns the connection to its pool if the operation succeeded. After an error, a statement or a transaction may be
/// under way, so the connection is closed.
fn finished<T>(connection: Lent, answer: StoreResult<T>) -> StoreResult<T> {
    if answer.is_ok() {
        connection.done();
    }
    answer
}

async fn control(connection: &Connection, change: Option<&ControlChange>) -> StoreResult<Controls> {
    let lock = if change.is_some() { " FOR UPDATE" } else { "" };
    connection.begin();
    let read = format!("SELECT named FROM @.control{lock}");
    let found = connection.query(&read, &[]).await.map_err(unavailable)?;
    let named = found.first().map_or(&[][..], |found| found.get(0));
    let mut values = match named.is_empty() {
        true => ControlValues::default(),
        false => ControlValues::decode(named)?,
    };
    let controls = values.apply(change);
    if controls.changed {
        let write = "UPDATE @.control SET version = $1, named = $2";
        let version = values.version().cast_signed();
        connection
            .execute(write, &[&version, &values.encode()])
            .await
            .map_err(unavailable)?;
    }
    connection.commit().await.map_err(unavailable)?;
    Ok(controls)
}

impl TaskStore for PostgresStore {
    fn abilities(&self) -> Abilities {
        self.inner.abilities
    }

    fn now(&self) -> Timestamp {
        self.inner.server.now()
    }

    fn queue_hint(&self, _: Option<&Tenant>, _: Option<&PoolName>) -> QueueHint {
        QueueHint::default()
    }

    fn insert(self: Arc<Self>, task: NewRow) -> Reply<'static, Insertion> {
        let group = self.inner.inserts_of(std::slice::from_ref(&task));
        self.write(group, vec![task], |mut answers| answers.pop())
    }

    fn insert_all(self: Arc<Self>, tasks: Vec<NewRow>) -> Reply<'static, Vec<Insertion>> {
        let group = self.inner.inserts_of(&tasks);
        self.write(group, tasks, Some)
    }

    fn claim(&self, claim: Claim) -> Reply<'_, Claims> {
        self.run(|inner| async move {
            let asked = Instant::now();
            let connection = inner.claims.get().await?;
            if asked.elapsed() >= claim.lease {
                // The engine no longer waits for this claim.
                connection.done();
                return Err(StoreError::new(
                    StoreErrorKind::Unavailable,
                    "the claim waited longer than its lease for a connection",
                ));
            }
            let claimed = claim::claim(&connection, &claim, inner.writer, &inner.queue, &inner.set_aside).await;
            // Only a claim without fronts looks at the whole queue by itself.
            if claimed.as_ref().is_err_and(is_too_slow) && inner.queue.since_beside().is_none() {
                let now = codec::millis(inner.server.now());
                let pools = claim::pools(&claim).into_iter().map(|pool| (pool, now));
                inner.queue.missed(Duration::ZERO, pools);
            }
            let (claims, now) = finished(connection, claimed)?;
            if inner.queue.begin_whole() {
                tokio::spawn(inner.clone().look_at_all());
            }
            inner.server.saw(now);
            claims.tasks.iter().for_each(|task| inner.wire.changed(task.row.id));
            Ok(claims)
        })
    }

    fn rows<'a>(&'a self, scope: &'a Scope, which: &'a Which) -> Reply<'a, Vec<Row>> {
        let (scope, which) = (scope.clone(), which.clone());
        self.run(|inner| async move { ask!(inner.general, |connection| read::rows(connection, &scope, &which)) })
    }

    fn due(&self, what: Due, max: usize) -> Reply<'_, Candidates> {
        self.run(move |inner| async move {
            let found = ask!(inner.general, |connection| due::due(
                connection,
                &what,
                max,
                &inner.fronts
            ));
            if found.as_ref().is_err_and(is_too_slow) {
                inner.fronts.missed(&what, codec::millis(inner.server.now()));
            }
            let (candidates, now) = found?;
            inner.server.saw(now);
            Ok(candidates)
        })
    }

    fn commit(&self, change: Change) -> Reply<'_, Committed> {
        self.write(&self.inner.commits, vec![change], |mut answers| answers.pop())
    }

    fn commit_all(&self, changes: Vec<Change>) -> Reply<'_, Vec<Committed>> {
        self.write(&self.inner.commits, changes, Some)
    }

    fn renew(&self, leases: Vec<LeaseRef>, lease: Duration) -> Reply<'_, Vec<Renewal>> {
        self.run(move |inner| async move { ask!(inner.leases, |connection| claim::renew(connection, &leases, lease)) })
    }

    fn claim_deliveries(&self, claim: DeliveryClaim) -> Reply<'_, Vec<ClaimedOutbox>> {
        self.run(|inner| async move {
            // If the answer is lost, the claimed completions become due again when their lease runs out.
            ask!(inner.claims, |connection| outbox::claim(connection, &claim))
        })
    }

    fn list<'a>(&'a self, scope: &'a Scope, filter: &'a Filter, page: Page) -> Reply<'a, PageOf<Row>> {
        let (scope, filter) = (scope.clone(), filter.clone());
        self.run(|inner| async move {
            ask!(inner.general, |connection| list::list(
                connection, &scope, &filter, &page
            ))
        })
    }

    fn counts<'a>(&'a self, scope: &'a Scope) -> Reply<'a, Counts> {
        let scope = scope.clone();
        self.run(|inner| async move {
            let (mut counts, now) = ask!(inner.general, |connection| read::counts(connection, &scope))?;
            inner.server.saw(now);
            counts.set_aside = inner.set_aside.load(Ordering::Relaxed);
            Ok(counts)
        })
    }

    fn payload<'a>(&'a self, scope: &'a Scope, id: RequestId, part: Part) -> Reply<'a, Option<Payload>> {
        let scope = scope.clone();
        self.run(
            move |inner| async move { ask!(inner.general, |connection| read::payload(connection, &scope, id, part)) },
        )
    }

    fn set_progress(&self, lease: LeaseRef, progress: Progress) -> Reply<'_, bool> {
        self.run(move |inner| async move {
            let set = ask!(inner.general, |connection| logs::set_progress(
                connection, lease, &progress
            ))?;
            inner.wire.changed(lease.id);
            Ok(set)
        })
    }

    fn append_log(&self, lease: LeaseRef, lines: Vec<LogLine>) -> Reply<'_, bool> {
        self.run(move |inner| async move {
            let connection = inner.general.get().await?;
            let added = logs::append(&connection, lease, &lines).await;
            let added = finished(connection, added)?;
            inner.wire.changed(lease.id);
            Ok(added)
        })
    }

    fn logs<'a>(&'a self, scope: &'a Scope, id: RequestId, query: LogQuery) -> Reply<'a, Vec<LogLine>> {
        let scope = scope.clone();
        self.run(
            move |inner| async move { ask!(inner.general, |connection| logs::logs(connection, &scope, id, query)) },
        )
    }

    fn prune_keys(&self, limit: usize) -> Reply<'_, usize> {
        self.run(move |inner| async move {
            let limit = crate::codec::count(limit);
            let pruned = ask!(inner.general, |connection| tidy::prune_keys(connection, limit))?;
            if inner.fold.is_due(inner.server.now()) {
                ask!(inner.general, |connection| tidy::fold(connection, &inner.schema))?;
            }
            Ok(usize::try_from(pruned).unwrap_or(usize::MAX))
        })
    }

    fn news(&self) -> BoxFuture<'_, News> {
        Box::pin(self.inner.wire.news())
    }

    fn attend(&self, attention: Attention) {
        self.inner.wire.attend(attention);
    }

    fn glance(&self, ids: Vec<RequestId>) -> Reply<'_, Vec<Option<Glance>>> {
        self.run(|inner| async move { ask!(inner.general, |connection| read::glance(connection, &ids)) })
    }

    fn beat(&self, me: Presence, within: Duration) -> Reply<'_, Vec<Seen>> {
        self.run(move |inner| async move { ask!(inner.general, |connection| read::beat(connection, &me, within)) })
    }

    fn control(&self, change: Option<ControlChange>) -> Reply<'_, Controls> {
        self.run(|inner| async move {
            let Some(change) = change else {
                return ask!(inner.general, |connection| control(connection, None));
            };
            let connection = inner.general.get().await?;
            let controls = control(&connection, Some(&change)).await;
            let controls = finished(connection, controls)?;
            if controls.changed {
                inner.wire.control();
            }
            Ok(controls)
        })
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        let inner = &self.inner;
        inner.server.close();
        for pool in [&inner.claims, &inner.general, &inner.leases] {
            pool.close();
        }
        inner.writers.iter().for_each(|pool| pool.close());
        Box::pin(std::future::ready(()))
    }
}

impl fmt::Debug for PostgresStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresStore")
            .field("schema", &self.inner.schema)
            .finish_non_exhaustive()
    }
}
