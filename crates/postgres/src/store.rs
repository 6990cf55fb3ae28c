//! The store, operation by operation.

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
        Row, Sharing, StoreError, StoreErrorKind, StoreResult, Which,
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
    connection::{Again, Lent, PAUSE, Pool, Server, is_too_slow, said_by_server, unavailable},
    due::{self, Fronts},
    front::{Front, LONGEST},
    group::{Group, Writer, Writes},
    insert::Inserts,
    list, logs, outbox, read, schema,
    session::Connection,
    tidy::{self, Fold},
    wire::{self, Wire},
};

/// Tasks in PostgreSQL, for any number of processes. Cheap to clone: a clone has the same connections.
///
/// (Compiled and not run, since it needs a server: `tests/it/open.rs` connects to one.)
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
/// What was answered is committed. [`abilities`](TaskStore::abilities) say what that survives, by the settings of the server as the
/// store was opened: with `synchronous_commit` on, the end of the machine's power ([`Durability::Host`]); with a synchronous
/// standby beside it, the loss of the machine ([`Durability::Cluster`]); with it off, the end of the server
/// ([`Durability::Restart`]). A server with `fsync=off` is refused.
///
/// A standby that is asynchronous may take over without the last commits. Tasks that were accepted in those are lost. A claim
/// that was is fenced: tokens carry the server's timeline.
///
/// # Sharing
///
/// Every process has a handle of its own, and any of them does anything with any task. A handle hears of the others within some
/// hundredths of a second by `NOTIFY`, outside of the transactions that change something and only while another handle is there.
/// The engine looks as well: what is not heard is found. Behind a [pooler](PostgresStoreBuilder::pooled) nothing is heard.
///
/// Inserts that come while one is under way go together into the next statement, and so do changes. [`Limits`] hold to within
/// what is on its way in other processes.
///
/// # While the server is away
///
/// Operations try to reach it for five seconds and are then [`Unavailable`](StoreErrorKind::Unavailable). An insert or a change
/// whose answer was lost with the connection is sent again, and answered as if it had been sent once; so is what
/// reads or renews. A claim is not, nor are lines of a log and a change of a named value.
///
/// # Cancel safety
///
/// Connections are driven by a thread of the store. An operation whose future is dropped goes on there, and its answer is lost.
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
    /// Inserts of tasks that have a name or a key, and may wait for others that have the same.
    named: Group<Inserts>,
    commits: Group<Commits>,
    /// Claims: they wait for nothing else.
    hand: Arc<Pool>,
    others: Arc<Pool>,
    /// Renewals wait for nothing else.
    leases: Arc<Pool>,
    writers: [Arc<Pool>; 4],
    wire: Arc<Wire>,
    /// Whose rows of the tally this handle counts its claims in.
    writer: i64,
    fold: Fold,
    /// Of each pool's waiting tasks.
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

    /// Looks at the whole queue while claims start from its last known fronts.
    async fn look_at_all(self: Arc<Self>) {
        let looked = async {
            let connection = self.others.get().await?;
            let looked = claim::look_at_all(&connection, &self.queue).await;
            finished(connection, looked)
        };
        if looked.await.is_err() {
            self.queue.missed(LONGEST, []);
        }
    }
}

/// For how many milliseconds a group of inserts waits for a name or key that another transaction has, before those that do not
/// have it go on.
const SHORT: u32 = 100;

/// How many inserts wait for longer at a time.
const LATE: usize = 2;

/// Does what may be done twice. If its answer is lost with the session, it is done again on another one. A macro, since of
/// the futures of an async closure it cannot be said that they are [`Send`].
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
                Err(error) if said_by_server(&error).is_some_and(|error| again.after_loss(error)) => {
                    drop(lent);
                    tokio::time::sleep(PAUSE).await;
                }
                Err(error) => break Err(error),
            }
        }
    }};
}

impl PostgresStore {
    /// Connects to the database at `url`, and makes the tables if they are not there.
    ///
    /// # Errors
    ///
    /// As [`PostgresStoreBuilder::connect`] says.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future closes the connections; a migration that was begun may go on.
    pub async fn connect(url: &str) -> StoreResult<Self> {
        Self::builder().connect(url).await
    }

    /// To say more than where the database is.
    pub fn builder() -> PostgresStoreBuilder {
        PostgresStoreBuilder::default()
    }

    pub(crate) async fn open(config: Config, builder: PostgresStoreBuilder) -> StoreResult<Self> {
        let io = Arc::new(IoThread::start("respond-async-pg").map_err(StoreError::unavailable)?);
        let runtime = io.handle().clone();
        let opened = io.run(async move {
            let server = Arc::new(Server::new(config, &builder)?);
            let pool = |most| Arc::new(Pool::new(server.clone(), most));
            let others = pool(3);
            ask!(others, |connection| schema::prepare(
                connection,
                &builder.schema,
                builder.migrate
            ))?;
            let (durability, now) = ask!(others, |connection| durability(connection, builder.unsafe_durability))?;
            server.saw(now);
            let boot = fastrand::u64(..);
            let wire = Arc::new(Wire::new(&builder.schema, boot, builder.pooled));
            if !builder.pooled {
                let (ready, listens) = oneshot::channel();
                runtime.spawn(wire::run(server.clone(), wire.clone(), ready));
                // Others are heard from here on, as long as the server is there.
                let _ = tokio::time::timeout(Duration::from_secs(5), listens).await;
            }
            // Writers of the tally, none of which waits for another.
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
                hand: pool(1),
                others,
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

    /// The quoted schema and a point.
    pub(crate) fn prefix(&self) -> &str {
        &self.inner.server.prefix
    }

    /// Where handles hear of each other.
    pub(crate) fn channel(&self) -> String {
        self.inner.wire.channel.clone()
    }

    /// Runs on the store's own thread, to the end, whoever stops waiting.
    fn run<'a, T: Send + 'static, F>(&'a self, work: impl FnOnce(Arc<Inner>) -> F) -> Answer<'a, T>
    where
        F: Future<Output = StoreResult<T>> + Send + 'static,
    {
        if self.inner.server.is_closed() {
            return Box::pin(std::future::ready(Err(StoreError::closed())));
        }
        let answer = self.io.run(work(self.inner.clone()));
        Box::pin(async move { answer.await? })
    }

    /// Goes straight to whoever writes a group: a task on the store's thread for every item would cost as much as the item.
    fn write<'a, W: Writes, T: Send + 'static>(
        &'a self,
        group: &Group<W>,
        items: Vec<W::Item>,
        answer: impl FnOnce(Vec<W::Answer>) -> Option<T> + Send + 'static,
    ) -> Answer<'a, T> {
        if self.inner.server.is_closed() {
            return Box::pin(std::future::ready(Err(StoreError::closed())));
        }
        let written = group.write(items);
        Box::pin(async move { answer(written.await?).ok_or_else(StoreError::closed) })
    }
}

type Answer<'a, T> = BoxFuture<'a, StoreResult<T>>;

/// What the server's settings let it promise, and its time.
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

/// Gives a connection back that nothing is under way on, as the answer says.
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

    fn insert(&self, task: NewRow) -> Answer<'_, Insertion> {
        let group = self.inner.inserts_of(std::slice::from_ref(&task));
        self.write(group, vec![task], |mut answers| answers.pop())
    }

    fn insert_all(&self, tasks: Vec<NewRow>) -> Answer<'_, Vec<Insertion>> {
        let group = self.inner.inserts_of(&tasks);
        self.write(group, tasks, Some)
    }

    fn claim(&self, claim: Claim) -> Answer<'_, Claims> {
        self.run(|inner| async move {
            let asked = Instant::now();
            let connection = inner.hand.get().await?;
            if asked.elapsed() >= claim.lease {
                // Nobody waits for it any more.
                connection.done();
                return Err(StoreError::new(
                    StoreErrorKind::Unavailable,
                    "the claim came too late to be made",
                ));
            }
            let claimed = claim::claim(&connection, &claim, inner.writer, &inner.queue, &inner.set_aside).await;
            if claimed.as_ref().is_err_and(is_too_slow) {
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

    fn rows<'a>(&'a self, scope: &'a Scope, which: &'a Which) -> Answer<'a, Vec<Row>> {
        let (scope, which) = (scope.clone(), which.clone());
        self.run(|inner| async move { ask!(inner.others, |connection| read::rows(connection, &scope, &which)) })
    }

    fn due(&self, what: Due, max: usize) -> Answer<'_, Candidates> {
        self.run(move |inner| async move {
            let found = ask!(inner.others, |connection| due::due(
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

    fn commit(&self, change: Change) -> Answer<'_, Committed> {
        self.write(&self.inner.commits, vec![change], |mut answers| answers.pop())
    }

    fn commit_all(&self, changes: Vec<Change>) -> Answer<'_, Vec<Committed>> {
        self.write(&self.inner.commits, changes, Some)
    }

    fn renew(&self, leases: Vec<LeaseRef>, lease: Duration) -> Answer<'_, Vec<Renewal>> {
        self.run(move |inner| async move { ask!(inner.leases, |connection| claim::renew(connection, &leases, lease)) })
    }

    fn claim_deliveries(&self, claim: DeliveryClaim) -> Answer<'_, Vec<ClaimedOutbox>> {
        self.run(|inner| async move {
            // What was taken and not answered comes again when its lease has run out.
            ask!(inner.hand, |connection| outbox::claim(connection, &claim))
        })
    }

    fn list<'a>(&'a self, scope: &'a Scope, filter: &'a Filter, page: Page) -> Answer<'a, PageOf<Row>> {
        let (scope, filter) = (scope.clone(), filter.clone());
        self.run(|inner| async move {
            ask!(inner.others, |connection| list::list(
                connection, &scope, &filter, &page
            ))
        })
    }

    fn counts<'a>(&'a self, scope: &'a Scope) -> Answer<'a, Counts> {
        let scope = scope.clone();
        self.run(|inner| async move {
            let (mut counts, now) = ask!(inner.others, |connection| read::counts(connection, &scope))?;
            inner.server.saw(now);
            counts.set_aside = inner.set_aside.load(Ordering::Relaxed);
            Ok(counts)
        })
    }

    fn payload<'a>(&'a self, scope: &'a Scope, id: RequestId, part: Part) -> Answer<'a, Option<Payload>> {
        let scope = scope.clone();
        self.run(
            move |inner| async move { ask!(inner.others, |connection| read::payload(connection, &scope, id, part)) },
        )
    }

    fn set_progress(&self, lease: LeaseRef, progress: Progress) -> Answer<'_, bool> {
        self.run(move |inner| async move {
            let set = ask!(inner.others, |connection| logs::set_progress(
                connection, lease, &progress
            ))?;
            inner.wire.changed(lease.id);
            Ok(set)
        })
    }

    fn append_log(&self, lease: LeaseRef, lines: Vec<LogLine>) -> Answer<'_, bool> {
        self.run(move |inner| async move {
            let connection = inner.others.get().await?;
            let added = logs::append(&connection, lease, &lines).await;
            let added = finished(connection, added)?;
            inner.wire.changed(lease.id);
            Ok(added)
        })
    }

    fn logs<'a>(&'a self, scope: &'a Scope, id: RequestId, query: LogQuery) -> Answer<'a, Vec<LogLine>> {
        let scope = scope.clone();
        self.run(move |inner| async move { ask!(inner.others, |connection| logs::logs(connection, &scope, id, query)) })
    }

    fn prune_keys(&self, limit: usize) -> Answer<'_, usize> {
        self.run(move |inner| async move {
            let limit = crate::codec::count(limit);
            let pruned = ask!(inner.others, |connection| tidy::prune_keys(connection, limit))?;
            if inner.fold.is_due(inner.server.now()) {
                ask!(inner.others, |connection| tidy::fold(connection, &inner.schema))?;
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

    fn glance(&self, ids: Vec<RequestId>) -> Answer<'_, Vec<Option<Glance>>> {
        self.run(|inner| async move { ask!(inner.others, |connection| read::glance(connection, &ids)) })
    }

    fn beat(&self, me: Presence, within: Duration) -> Answer<'_, Vec<Seen>> {
        self.run(move |inner| async move { ask!(inner.others, |connection| read::beat(connection, &me, within)) })
    }

    fn control(&self, change: Option<ControlChange>) -> Answer<'_, Controls> {
        self.run(|inner| async move {
            let Some(change) = change else {
                return ask!(inner.others, |connection| control(connection, None));
            };
            let connection = inner.others.get().await?;
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
        for pool in [&inner.hand, &inner.others, &inner.leases] {
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
