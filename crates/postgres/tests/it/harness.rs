//! The harness of the conformance suite for `PostgresStore`: each store has a schema of its own on a private server,
//! and a clock that tests set.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use servers::{CLOCK_BY_HAND, PgBouncer, Postgres, a_name};
use tokio::runtime::Runtime;
use tokio_postgres::{Client, NoTls};
use tower_respond_async::{
    RequestId, TaskRecord, TaskStore,
    error::BoxFuture,
    testing::{ManualClock, conformance::Harness},
    time::{Clock, Timestamp},
};
use tower_respond_async_postgres::{PostgresStore, PostgresStoreBuilder};
use uuid::Uuid;

const BEGIN: Timestamp = Timestamp::from_millis(1_700_000_000_000);

/// The clock of the stores of a harness.
#[derive(Debug)]
enum HarnessClock {
    /// Set by the test, in a table that the schema's function reads.
    ByHand(ManualClock),
    /// The server's own clock.
    Wall { unit: Duration },
}

/// Opens stores, each in an empty schema, and further handles to the last one.
#[derive(Debug)]
pub(crate) struct PostgresHarness {
    clock: HarnessClock,
    server: String,
    pooler: Option<String>,
    schema: Mutex<String>,
    admin: tokio::sync::Mutex<Option<Arc<Client>>>,
}

/// A connection of the test to the shared server.
pub(crate) async fn admin() -> Client {
    connect(&Postgres::shared().url()).await
}

/// Connects to a server that has just been started.
pub(crate) async fn until_it_answers(url: &str) {
    while tokio_postgres::connect(url, NoTls).await.is_err() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

pub(crate) async fn connect(url: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
    tokio::spawn(async move {
        let _ = connection.await;
    });
    client
}

impl PostgresHarness {
    pub(crate) fn new() -> Self {
        Self::at(Postgres::shared().url())
    }

    /// A harness on a server of the test's own.
    pub(crate) fn at(server: String) -> Self {
        Self {
            clock: HarnessClock::ByHand(ManualClock::new(BEGIN)),
            server,
            pooler: None,
            schema: Mutex::default(),
            admin: tokio::sync::Mutex::default(),
        }
    }

    /// A harness whose stores connect through PgBouncer.
    pub(crate) fn pooled() -> Self {
        Self::through(PgBouncer::shared())
    }

    pub(crate) fn through(pooler: &PgBouncer) -> Self {
        let mut harness = Self::new();
        harness.pooler = Some(pooler.url());
        harness
    }

    /// A harness with the server's own clock: it lets time pass by waiting.
    pub(crate) fn by_the_wall_clock(unit: Duration) -> Self {
        let mut harness = Self::new();
        harness.clock = HarnessClock::Wall { unit };
        harness
    }

    /// The schema of the store that was opened last.
    pub(crate) fn schema(&self) -> String {
        self.schema.lock().unwrap().clone()
    }

    pub(crate) async fn admin(&self) -> Arc<Client> {
        let mut admin = self.admin.lock().await;
        match &*admin {
            Some(admin) if !admin.is_closed() => admin.clone(),
            _ => admin.insert(Arc::new(connect(&self.server).await)).clone(),
        }
    }

    /// Runs statements, with `@` replaced by the schema.
    pub(crate) async fn run(&self, sql: &str) {
        let sql = sql.replace('@', &self.schema());
        self.admin().await.batch_execute(&sql).await.unwrap();
    }

    pub(crate) fn builder(&self) -> PostgresStoreBuilder {
        let builder = PostgresStore::builder().schema(self.schema()).unsafe_durability();
        let builder = match &self.clock {
            HarnessClock::ByHand(clock) => builder.clock(clock.clone()),
            HarnessClock::Wall { .. } => builder,
        };
        match self.pooler {
            Some(_) => builder.pooled(),
            None => builder,
        }
    }

    /// The URL of the server or the pooler. The application name is the name of the schema.
    pub(crate) fn url(&self) -> String {
        let url = self.pooler.as_ref().unwrap_or(&self.server);
        format!("{url}?application_name={}", self.schema())
    }

    /// Another handle to the last store.
    pub(crate) async fn handle(&self) -> Arc<PostgresStore> {
        Arc::new(self.builder().connect(&self.url()).await.unwrap())
    }

    /// A store in an empty schema. With a clock by hand, time stands still until the test sets it.
    pub(crate) async fn fresh(&self) -> Arc<PostgresStore> {
        *self.schema.lock().unwrap() = a_name();
        let store = self.handle().await;
        let HarnessClock::ByHand(clock) = &self.clock else {
            return store;
        };
        self.run(CLOCK_BY_HAND).await;
        self.set_clock(clock).await;
        store
    }

    async fn set_clock(&self, clock: &ManualClock) {
        let now = clock.now().as_millis();
        self.run(&format!("UPDATE @.hand SET ms = {now}")).await;
    }
}

impl Harness for PostgresHarness {
    fn open(&self) -> BoxFuture<'_, Arc<dyn TaskStore>> {
        Box::pin(async { self.fresh().await as Arc<dyn TaskStore> })
    }

    fn pass(&self, time: Duration) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            match &self.clock {
                HarnessClock::ByHand(clock) => {
                    clock.advance(time);
                    self.set_clock(clock).await;
                }
                HarnessClock::Wall { .. } => tokio::time::sleep(time).await,
            }
        })
    }

    fn set_back(&self, by: Duration) -> BoxFuture<'_, bool> {
        Box::pin(async move {
            let HarnessClock::ByHand(clock) = &self.clock else {
                return false;
            };
            clock.turn_back(by);
            self.set_clock(clock).await;
            true
        })
    }

    fn unit(&self) -> Duration {
        match self.clock {
            HarnessClock::ByHand(_) => Duration::from_secs(1),
            HarnessClock::Wall { unit } => unit,
        }
    }

    // Few, since each round takes some milliseconds on two cores.
    fn rounds(&self) -> usize {
        100
    }

    fn reopen(&self) -> BoxFuture<'_, Option<Arc<dyn TaskStore>>> {
        Box::pin(async { Some(self.handle().await as Arc<dyn TaskStore>) })
    }

    fn second(&self) -> BoxFuture<'_, Option<Arc<dyn TaskStore>>> {
        self.reopen()
    }

    fn corrupt(&self, id: RequestId) -> BoxFuture<'_, bool> {
        Box::pin(async move {
            let id = Uuid::from_bytes(*id.as_bytes());
            let flip = "UPDATE @.request SET body = set_byte(body, 0, get_byte(body, 0) # 1) WHERE id = '%'";
            self.run(&flip.replace('%', &id.to_string())).await;
            true
        })
    }

    fn make_newer(&self, id: RequestId) -> BoxFuture<'_, bool> {
        Box::pin(async move {
            let id = Uuid::from_bytes(*id.as_bytes());
            let format = TaskRecord::FORMAT + 1;
            let newer = format!(
                "UPDATE @.task SET format = {format}, record = set_byte(record, 0, {format}) WHERE id = '{id}'"
            );
            self.run(&newer).await;
            true
        })
    }
}

/// Checks that the counts agree with the rows, after every test.
impl Drop for PostgresHarness {
    fn drop(&mut self) {
        let schema = self.schema();
        if std::thread::panicking() || schema.is_empty() {
            return;
        }
        let server = self.server.clone();
        let counted = std::thread::spawn(move || {
            let runtime: Runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                let differs = "SELECT tenant, pool, state, sum(n)::int8 FROM ( \
                    SELECT tenant, pool, state, n FROM @.tally UNION ALL \
                    SELECT coalesce('=' || tenant, ''), pool, state, -1 FROM @.task UNION ALL \
                    SELECT '', '', -1, -1 FROM @.outbox) x GROUP BY 1, 2, 3 HAVING sum(n) <> 0";
                let client = connect(&server).await;
                let differs = client.query(&differs.replace('@', &schema), &[]).await.unwrap();
                let differs: Vec<(String, String, i16, i64)> = differs
                    .iter()
                    .map(|row| (row.get(0), row.get(1), row.get(2), row.get(3)))
                    .collect();
                client
                    .batch_execute(&format!("DROP SCHEMA {schema} CASCADE"))
                    .await
                    .unwrap();
                differs
            })
        });
        assert_eq!(counted.join().unwrap(), [], "the tally is not what is there");
    }
}
