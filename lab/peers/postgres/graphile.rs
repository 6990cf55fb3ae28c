//! The contestant graphile_worker.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use graphile_worker::{
    Database, IntoTaskHandlerResult, JobSpec, LocalQueueConfig, TaskHandler, Worker, WorkerContext, WorkerOptions,
    WorkerUtils,
};
use serde::{Deserialize, Serialize};
use tokio::time::sleep;
use tokio_postgres::Client;

use crate::{
    ours::Countdown,
    server::Server,
    support::work::PAYLOAD,
    turn::{Stopwatch, at_once, checkpoint},
};

const SCHEMA: &str = "bench_graphile";

pub(crate) struct Graphile<'a> {
    server: &'a Server,
    admin: Client,
}

#[derive(Clone, Serialize, Deserialize)]
struct Job {
    body: String,
}

/// Handlers are types without state, so the countdown is a static.
static ENDED: Mutex<Option<Countdown>> = Mutex::new(None);

impl TaskHandler for Job {
    const IDENTIFIER: &'static str = "bench";

    async fn run(self, _: WorkerContext) -> impl IntoTaskHandlerResult {
        if let Some(ended) = &*ENDED.lock().unwrap_or_else(PoisonError::into_inner) {
            ended.one();
        }
    }
}

impl<'a> Graphile<'a> {
    pub(crate) async fn new(server: &'a Server) -> Self {
        let admin = server.fresh(SCHEMA).await;
        let graphile = Self { server, admin };
        // The first worker makes the tables.
        drop(graphile.worker().await);
        graphile
    }

    async fn clear(&self, ended: usize) -> Countdown {
        let truncate = format!("TRUNCATE {SCHEMA}._private_jobs CASCADE");
        for statement in [&*truncate, checkpoint()] {
            self.admin.batch_execute(statement).await.expect("it is done");
        }
        let ended = Countdown::new(ended);
        *ENDED.lock().unwrap_or_else(PoisonError::into_inner) = Some(ended.clone());
        ended
    }

    async fn worker(&self) -> Worker {
        let options = WorkerOptions::default()
            .schema(SCHEMA)
            .concurrency(64)
            .define_job::<Job>();
        let options = options.local_queue(LocalQueueConfig::default().with_size(100));
        let options = options.complete_job_batch_delay(Duration::from_millis(1));
        let options = options.listen_os_shutdown_signals(false).database(self.database(8));
        options.init().await.expect("the server answers")
    }

    fn database(&self, connections: usize) -> Database {
        let database = graphile_worker::tokio_postgres::TokioPostgresDatabase::from_url(self.server.url(), connections);
        Database::from(database.expect("it is a URL"))
    }

    fn utils(&self) -> WorkerUtils {
        WorkerUtils::new(self.database(32), SCHEMA)
    }

    pub(crate) async fn accepts(&self, submitters: usize, each: usize) -> Vec<f64> {
        self.clear(0).await;
        let utils = self.utils();
        let watch = Stopwatch::start(self.server, &self.admin).await;
        push(&utils, submitters, each).await;
        watch.stop(submitters * each).await
    }

    pub(crate) async fn lives(&self, submitters: usize, each: usize) -> Vec<f64> {
        let ended = self.clear(submitters * each).await;
        let (utils, worker) = (self.utils(), self.worker().await);
        let worker = tokio::spawn(async move { worker.run().await.expect("it runs") });
        sleep(Duration::from_millis(300)).await;
        let watch = Stopwatch::start(self.server, &self.admin).await;
        push(&utils, submitters, each).await;
        ended.wait().await;
        let taken = watch.stop(submitters * each).await;
        worker.abort();
        taken
    }

    pub(crate) async fn drain(&self, count: usize, workers: usize) -> Vec<f64> {
        let ended = self.clear(count).await;
        let utils = self.utils();
        let mut left = count;
        while left > 0 {
            let some = left.min(500);
            let (jobs, spec) = (vec![job(); some], JobSpec::default());
            let jobs: Vec<_> = jobs.into_iter().map(|job| (job, &spec)).collect();
            utils.add_jobs(&jobs).await.expect("they are stored");
            left -= some;
        }
        let look = format!("VACUUM ANALYZE {SCHEMA}._private_jobs");
        for statement in [&*look, checkpoint()] {
            self.admin.batch_execute(statement).await.expect("it is done");
        }
        let mut ready = Vec::new();
        for _ in 0..workers {
            ready.push(self.worker().await);
        }
        let watch = Stopwatch::start(self.server, &self.admin).await;
        let running = ready
            .into_iter()
            .map(|worker| tokio::spawn(async move { worker.run().await.expect("it runs") }));
        let running: Vec<_> = running.collect();
        ended.wait().await;
        let taken = watch.stop(count).await;
        running.iter().for_each(tokio::task::JoinHandle::abort);
        taken
    }
}

async fn push(utils: &WorkerUtils, submitters: usize, each: usize) {
    let utils = utils.clone();
    at_once(submitters, each, move || {
        let utils = utils.clone();
        async move {
            utils.add_job(job(), JobSpec::default()).await.expect("it is stored");
        }
    })
    .await;
}

fn job() -> Job {
    Job {
        body: "x".repeat(PAYLOAD),
    }
}
