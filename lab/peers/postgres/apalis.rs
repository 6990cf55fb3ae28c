//! The contestant apalis-postgres.

use std::time::Duration;

use apalis::prelude::{ParallelizeExt, TaskSink, WorkerBuilder};
use apalis_postgres::{Config, PostgresStorage};
use sqlx::{PgPool, postgres::PgPoolOptions};
use tokio::{task::AbortHandle, time::sleep};
use tokio_postgres::Client;

use crate::{
    ours::Countdown,
    server::Server,
    support::work::PAYLOAD,
    turn::{Stopwatch, at_once, checkpoint},
};

pub(crate) struct Apalis<'a> {
    server: &'a Server,
    admin: Client,
    pool: PgPool,
}

impl<'a> Apalis<'a> {
    pub(crate) async fn new(server: &'a Server) -> Self {
        let admin = server.connect().await;
        let pool = PgPoolOptions::new().min_connections(32).max_connections(32);
        let pool = pool.connect(server.url()).await.expect("the server answers");
        PostgresStorage::setup(&pool).await.expect("the tables are made");
        Self { server, admin, pool }
    }

    async fn clear(&self) {
        for statement in ["TRUNCATE apalis.jobs CASCADE", checkpoint()] {
            self.admin.batch_execute(statement).await.expect("it is done");
        }
    }

    fn storage(&self) -> PostgresStorage<String> {
        PostgresStorage::new(&self.pool).with_config(Config::default().queue("bench").batch_size(100))
    }

    pub(crate) async fn accepts(&self, submitters: usize, each: usize) -> Vec<f64> {
        self.clear().await;
        let watch = Stopwatch::start(self.server, &self.admin).await;
        self.push(submitters, each).await;
        watch.stop(submitters * each).await
    }

    pub(crate) async fn lives(&self, submitters: usize, each: usize) -> Vec<f64> {
        self.clear().await;
        let ended = Countdown::new(submitters * each);
        let worker = self.worker(&ended, 0);
        sleep(Duration::from_millis(300)).await;
        let watch = Stopwatch::start(self.server, &self.admin).await;
        self.push(submitters, each).await;
        ended.wait().await;
        let taken = watch.stop(submitters * each).await;
        worker.abort();
        taken
    }

    pub(crate) async fn drain(&self, count: usize, workers: usize) -> Vec<f64> {
        self.clear().await;
        let mut storage = self.storage();
        for _ in 0..count / 100 {
            let jobs = (0..100).map(|_| payload()).collect();
            storage.push_bulk(jobs).await.expect("they are stored");
        }
        for statement in ["VACUUM ANALYZE apalis.jobs", checkpoint()] {
            self.admin.batch_execute(statement).await.expect("it is done");
        }
        let ended = Countdown::new(count / 100 * 100);
        let watch = Stopwatch::start(self.server, &self.admin).await;
        let workers: Vec<_> = (0..workers).map(|number| self.worker(&ended, number)).collect();
        ended.wait().await;
        let taken = watch.stop(count / 100 * 100).await;
        workers.iter().for_each(AbortHandle::abort);
        taken
    }

    async fn push(&self, submitters: usize, each: usize) {
        let storage = self.storage();
        at_once(submitters, each, move || {
            let mut storage = storage.clone();
            async move { storage.push(payload()).await.expect("it is stored") }
        })
        .await;
    }

    fn worker(&self, ended: &Countdown, number: usize) -> AbortHandle {
        let (storage, ended) = (self.storage().with_pubsub(), ended.clone());
        // A worker's name cannot be used again for a while.
        let name = format!("bench-{number}-{}", fastrand::u64(..));
        let handler = move |_: String| {
            ended.one();
            std::future::ready(())
        };
        let worker = WorkerBuilder::new(name.as_str()).backend(storage);
        tokio::spawn(worker.parallelize(tokio::spawn).build(handler).run()).abort_handle()
    }
}

fn payload() -> String {
    "x".repeat(PAYLOAD)
}
