//! Our contestants: the store alone, step by step, and the engine on it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::future::join_all;
use http::{HeaderMap, Method, Request, Response, StatusCode, Uri};
use http_body_util::Full;
use tokio::sync::Notify;
use tokio_postgres::Client;
use tower::{Layer, service_fn};
use tower_respond_async::{
    BoxError, RequestBody, RespondAsyncLayer, Submission, TaskStore, Tasks,
    store::{Claim, Held, Insert, Inserted, Ledger},
    task::{CapturedRequest, CapturedResponse, IdempotencyKey, NewTask, RequestDigest, WorkerId, lifecycle::Outcome},
};
use tower_respond_async_postgres::PostgresStore;

use crate::{
    server::Server,
    support::work::PAYLOAD,
    turn::{Stopwatch, at_once, checkpoint, id},
};

pub(crate) const LEASE: Duration = Duration::from_secs(3600);

/// More than are ever in use.
const SLOTS: usize = 4096;

const TABLES: &str = "task, request, key, outbox, log, tally";

/// A private schema, with a handle for each simulated process.
pub(crate) struct Ours<'a> {
    server: &'a Server,
    schema: String,
    pub(crate) admin: Client,
    pub(crate) handles: Vec<Arc<PostgresStore>>,
}

impl<'a> Ours<'a> {
    pub(crate) async fn new(server: &'a Server, name: &str, handles: usize) -> Self {
        let schema = format!("bench_{name}");
        let admin = server.fresh(&schema).await;
        let mut ours = Self {
            server,
            schema,
            admin,
            handles: Vec::new(),
        };
        for _ in 0..handles {
            let handle = Arc::new(ours.handle().await);
            ours.handles.push(handle);
        }
        ours
    }

    /// Opens one more handle.
    pub(crate) async fn handle(&self) -> PostgresStore {
        let builder = PostgresStore::builder().schema(&*self.schema);
        builder.connect(self.server.url()).await.expect("the server answers")
    }

    pub(crate) fn ledger(&self) -> Ledger {
        Ledger::new(self.handles[0].clone())
    }

    /// Runs statements one after another, with the schema in place of `@.`.
    pub(crate) async fn run(&self, statements: &[&str]) {
        for statement in statements {
            let statement = statement.replace("@.", &format!("{}.", self.schema));
            self.admin.batch_execute(&statement).await.expect("it is done");
        }
    }

    /// Empties the tables, and runs a checkpoint.
    pub(crate) async fn clear(&self) {
        let tables = TABLES.replace(", ", &format!(", {}.", self.schema));
        self.run(&[&format!("TRUNCATE @.{tables}"), checkpoint()]).await;
    }

    pub(crate) async fn watch(&self) -> Stopwatch<'_> {
        Stopwatch::start(self.server, &self.admin).await
    }

    pub(crate) async fn accepts(&self, submitters: usize, each: usize, keyed: bool) -> Vec<f64> {
        self.clear().await;
        self.more_accepts(submitters, each, keyed).await
    }

    /// Accepts tasks without clearing the tables first.
    pub(crate) async fn more_accepts(&self, submitters: usize, each: usize, keyed: bool) -> Vec<f64> {
        let (ledger, request) = (self.ledger(), request());
        let watch = self.watch().await;
        at_once(submitters, each, move || {
            let (ledger, task) = (ledger.clone(), task(&request, keyed));
            async move {
                let inserted = ledger.insert(Insert::new(task)).await.expect("insert");
                assert!(matches!(inserted, Inserted::New(..)), "{inserted:?}");
            }
        })
        .await;
        watch.stop(submitters * each).await
    }

    pub(crate) async fn lives(&self, submitters: usize, each: usize) -> Vec<f64> {
        self.clear().await;
        self.more_lives(submitters, each).await
    }

    /// Tasks stored claimed, and settled. As in the floor, nothing waits for the settlement.
    pub(crate) async fn more_lives(&self, submitters: usize, each: usize) -> Vec<f64> {
        let (ledger, request, outcome) = (self.ledger(), request(), success());
        let ended = Countdown::new(submitters * each);
        let watch = self.watch().await;
        at_once(submitters, each, {
            let ended = ended.clone();
            move || {
                let (ledger, task) = (ledger.clone(), task(&request, false));
                let (ended, outcome) = (ended.clone(), outcome.clone());
                async move {
                    let held = insert_held(&ledger, task).await;
                    tokio::spawn(async move {
                        let _ = ledger.settle(&held, &outcome).await.expect("settle");
                        ended.one();
                    });
                }
            }
        })
        .await;
        ended.wait().await;
        watch.stop(submitters * each).await
    }

    /// Many tasks wait. Each handle takes a hundred at a time, and settles them.
    pub(crate) async fn drain(&self, count: usize) -> Vec<f64> {
        self.clear().await;
        self.fill(count).await;
        let watch = self.watch().await;
        let workers = (1..).zip(&self.handles).map(|(number, handle)| {
            let (ledger, worker) = (Ledger::new(handle.clone()), WorkerId::new("bench", number));
            tokio::spawn(async move { while drain(&ledger, &worker, 100).await > 0 {} })
        });
        for worker in workers.collect::<Vec<_>>() {
            worker.await.expect("it ends");
        }
        watch.stop(count).await
    }

    /// Fills the queue with `count` tasks, then vacuums and analyzes the tables.
    pub(crate) async fn fill(&self, count: usize) {
        let request = request();
        let mut left = count;
        while left > 0 {
            let some = left.min(1000);
            let tasks = (0..some).map(|_| Insert::new(task(&request, false)));
            let inserted = self.ledger().insert_all(tasks.collect()).await.expect("insert");
            assert!(inserted.iter().all(|inserted| matches!(inserted, Inserted::New(..))));
            left -= some;
        }
        self.run(&["VACUUM ANALYZE @.task", "VACUUM ANALYZE @.request", checkpoint()])
            .await;
    }

    /// Tasks submitted to an engine that runs nothing yet.
    pub(crate) async fn submissions(&self, submitters: usize, each: usize) -> Vec<f64> {
        self.clear().await;
        let layer = layer(self.handle().await, SLOTS);
        let taken = self
            .submitted(&layer.tasks(), submitters, each, &Countdown::new(0))
            .await;
        layer.tasks().shutdown(Duration::ZERO).await;
        taken
    }

    /// Tasks submitted to an engine that runs them at once.
    pub(crate) async fn engine_lives(&self, submitters: usize, each: usize) -> Vec<f64> {
        self.clear().await;
        let layer = layer(self.handle().await, SLOTS);
        // One more than is measured, for the first task.
        let ended = Countdown::new(submitters * each + 1);
        run_all(&layer, &ended);
        let taken = self.submitted(&layer.tasks(), submitters, each, &ended).await;
        layer.tasks().shutdown(Duration::ZERO).await;
        taken
    }

    async fn submitted(&self, tasks: &Tasks, submitters: usize, each: usize, ended: &Countdown) -> Vec<f64> {
        // The first task opens the connections.
        submit(tasks.clone()).await;
        settled(tasks).await;
        let watch = self.watch().await;
        let work = {
            let tasks = tasks.clone();
            move || submit(tasks.clone())
        };
        at_once(submitters, each, work).await;
        ended.wait().await;
        settled(tasks).await;
        watch.stop(submitters * each).await
    }

    /// Many tasks wait. As many engines as there are handles run them.
    pub(crate) async fn engine_drain(&self, count: usize) -> Vec<f64> {
        self.clear().await;
        self.fill(count).await;
        let mut layers = Vec::new();
        for _ in &self.handles {
            layers.push(layer(self.handle().await, 256));
        }
        let ended = Countdown::new(count);
        let watch = self.watch().await;
        layers.iter().for_each(|layer| run_all(layer, &ended));
        ended.wait().await;
        for layer in &layers {
            settled(&layer.tasks()).await;
        }
        let taken = watch.stop(count).await;
        for layer in &layers {
            layer.tasks().shutdown(Duration::ZERO).await;
        }
        taken
    }
}

/// Claims up to `most` tasks and settles them all at once, as an engine does. Answers with how many there were.
pub(crate) async fn drain(ledger: &Ledger, worker: &WorkerId, most: usize) -> usize {
    let claim = Claim::new(worker.clone(), most, LEASE);
    let claimed = ledger.claim(claim).await.expect("claim");
    let outcome = success();
    let settling = claimed.tasks.iter().map(async |task| {
        let _ = ledger.settle(&task.held, &outcome).await.expect("settle");
    });
    join_all(settling).await;
    claimed.tasks.len()
}

/// A layer that runs nothing yet. Its shutdown closes the store.
pub(crate) fn layer(store: impl TaskStore, slots: usize) -> RespondAsyncLayer {
    let builder = RespondAsyncLayer::builder(store).concurrency(slots);
    builder.build().expect("it is called within a runtime")
}

/// Runs all tasks, with a handler that answers at once.
pub(crate) fn run_all(layer: &RespondAsyncLayer, ended: &Countdown) {
    let ended = ended.clone();
    drop(layer.layer(service_fn(move |_: Request<RequestBody>| {
        ended.one();
        std::future::ready(Ok::<_, BoxError>(Response::new(Full::from("ok"))))
    })));
}

async fn submit(tasks: Tasks) {
    tasks.submit(submission()).await.expect("there is room");
}

/// Waits until the results of all handlers are stored.
async fn settled(tasks: &Tasks) {
    while tasks
        .stats()
        .await
        .expect("it answers")
        .slots
        .is_some_and(|slots| slots.used > 0)
    {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

pub(crate) fn submission() -> Submission {
    let request = Request::post("/work").body(Bytes::from(vec![b'x'; PAYLOAD]));
    Submission::new(request.expect("it is a request"))
}

pub(crate) fn task(request: &Arc<CapturedRequest>, keyed: bool) -> NewTask {
    let mut task = NewTask::new(id(), request.clone());
    if keyed {
        task.key = Some(IdempotencyKey::new(&task.id.to_string()).expect("it is a key"));
        task.digest = Some(RequestDigest::from_bytes([7; 32]));
    }
    task
}

pub(crate) async fn insert_held(ledger: &Ledger, task: NewTask) -> Held {
    let insert = Insert::new(task).claimed_by(WorkerId::new("bench", 1), LEASE);
    match ledger.insert(insert).await.expect("insert") {
        Inserted::New(_, Some(held)) => held,
        other => panic!("it is new: {other:?}"),
    }
}

pub(crate) fn success() -> Outcome {
    let response = CapturedResponse::new(StatusCode::OK, HeaderMap::new(), Bytes::from_static(b"ok"));
    Outcome::Succeeded {
        response: Arc::new(response),
    }
}

pub(crate) fn request() -> Arc<CapturedRequest> {
    let body = Bytes::from(vec![b'x'; PAYLOAD]);
    let uri = Uri::from_static("/work");
    Arc::new(CapturedRequest::new(Method::POST, uri, HeaderMap::new(), body))
}

/// Counts down to zero, and can be waited for.
#[derive(Clone)]
pub(crate) struct Countdown(Arc<(AtomicUsize, Notify)>);

impl Countdown {
    pub(crate) fn new(count: usize) -> Self {
        Self(Arc::new((AtomicUsize::new(count), Notify::new())))
    }

    pub(crate) fn one(&self) {
        if self.0.0.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.0.1.notify_one();
        }
    }

    pub(crate) async fn wait(&self) {
        while self.0.0.load(Ordering::Relaxed) > 0 {
            self.0.1.notified().await;
        }
    }
}
