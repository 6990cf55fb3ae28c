//! Shared by the tests of the engine: an application of one function, and ways to wait for it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt, Full, combinators::UnsyncBoxBody};
use tokio::{
    sync::Semaphore,
    time::{sleep, timeout},
};
use tower::{Layer, service_fn};
use tower_respond_async::{
    Backoff, BoxError, MemoryStore, RequestBody, RequestId, RespondAsyncBuilder, RespondAsyncLayer, Submission,
    Submitted, TaskContext, TaskRecord, TaskState, TaskStore, Tasks,
    store::{Claim, Claimed, Inserted, Ledger},
    task::{CapturedRequest, NewTask, TaskRef, WorkerId},
    time::{Clock, SystemClock},
};

pub(crate) use crate::support::soon;

/// So long that only a missing event takes longer, on any busy machine.
pub(crate) const LONG: Duration = Duration::from_secs(60);

/// The result of a handler.
pub(crate) type Reply = Result<Response<ReplyBody>, BoxError>;
pub(crate) type ReplyBody = UnsyncBoxBody<Bytes, BoxError>;

/// Settings without long waits: retries follow at once.
pub(crate) fn quick(store: impl TaskStore) -> RespondAsyncBuilder {
    RespondAsyncLayer::builder(store).retry(at_once(3))
}

/// A policy with so many retries, without a pause.
pub(crate) fn at_once(retries: u32) -> Backoff {
    Backoff::new()
        .max_retries(retries)
        .base(Duration::ZERO)
        .cap(Duration::ZERO)
}

/// Runs tasks on `handler`. The engine lives as long as the returned value.
pub(crate) fn serve<F, Fut>(builder: RespondAsyncBuilder, handler: F) -> Tasks
where
    F: Fn(Request<RequestBody>) -> Fut + Clone + Send + Sync + 'static,
    Fut: Future<Output = Reply> + Send + 'static,
{
    let layer = builder.build().unwrap();
    let tasks = layer.tasks();
    drop(layer.layer(service_fn(handler)));
    tasks
}

/// The handler's view of its task.
pub(crate) fn context(request: &Request<RequestBody>) -> TaskContext {
    TaskContext::of(request.extensions())
}

pub(crate) fn respond(status: u16, text: &'static str) -> Response<ReplyBody> {
    let mut response = Response::new(whole(text));
    *response.status_mut() = StatusCode::from_u16(status).unwrap();
    response
}

pub(crate) fn whole(text: &'static str) -> ReplyBody {
    Full::new(Bytes::from_static(text.as_bytes()))
        .map_err(|never| match never {})
        .boxed_unsync()
}

pub(crate) fn ok() -> Reply {
    Ok(respond(200, "done"))
}

pub(crate) fn submission(path: &str) -> Submission {
    let request = Request::builder().method("POST").uri(path);
    Submission::new(request.body(Bytes::from_static(b"input")).unwrap())
}

/// Stores a task for this path.
pub(crate) async fn submit(tasks: &Tasks, path: &str) -> RequestId {
    stored(tasks.submit(submission(path)).await.unwrap())
}

pub(crate) fn stored(submitted: Submitted) -> RequestId {
    match submitted {
        Submitted::New(record) => record.id,
        known @ Submitted::Known { .. } => panic!("{known:?} is no new task"),
    }
}

pub(crate) async fn find(tasks: &Tasks, id: RequestId) -> Arc<TaskRecord> {
    tasks.find(&TaskRef::Id(id)).await.unwrap().expect("the task is there")
}

/// The task, after it has ended.
pub(crate) async fn ended(tasks: &Tasks, id: RequestId) -> Arc<TaskRecord> {
    let record = tasks.wait(id, LONG).await.unwrap().unwrap();
    assert!(record.state.is_terminal(), "it should have ended: {record:?}");
    record
}

/// The task, as soon as it is in this state.
pub(crate) async fn reached(tasks: &Tasks, id: RequestId, state: TaskState) -> Arc<TaskRecord> {
    eventually(&format!("{state:?}"), async || find(tasks, id).await.state == state).await;
    find(tasks, id).await
}

/// Returns as soon as `holds` is true.
pub(crate) async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let waiting = async {
        while !holds().await {
            sleep(Duration::from_millis(2)).await;
        }
    };
    if timeout(LONG, waiting).await.is_err() {
        panic!("it did not come about: {what}");
    }
}

/// Makes the engine search for work, and waits until it has: until a new task, after all others, has ended.
pub(crate) async fn look_round(tasks: &Tasks) {
    let id = submit(tasks, "/look-round").await;
    ended(tasks, id).await;
}

/// Makes handlers wait until the test lets them go on.
#[derive(Clone)]
pub(crate) struct Gate(Arc<(Semaphore, Semaphore)>);

impl Gate {
    pub(crate) fn new() -> Self {
        Self(Arc::new((Semaphore::new(0), Semaphore::new(0))))
    }

    /// For the handler: reports its arrival, and waits.
    pub(crate) async fn pass(&self) {
        self.0.0.add_permits(1);
        // An error means that the gate is open.
        if let Ok(permit) = self.0.1.acquire().await {
            permit.forget();
        }
    }

    /// For the test: returns when so many more handlers have arrived.
    pub(crate) async fn arrived(&self, handlers: u32) {
        soon(self.0.0.acquire_many(handlers)).await.unwrap().forget();
    }

    /// Whether a handler arrived that was not waited for.
    pub(crate) fn has_arrival(&self) -> bool {
        self.0.0.available_permits() > 0
    }

    pub(crate) fn let_through(&self, handlers: usize) {
        self.0.1.add_permits(handlers);
    }

    /// Lets all handlers through from now on.
    pub(crate) fn open(&self) {
        self.0.1.close();
    }
}

/// Handlers that wait at the gate, and report when they are dropped.
pub(crate) fn serve_gated(builder: RespondAsyncBuilder, gate: &Gate, dropped: &Dropped) -> Tasks {
    let (gate, dropped) = (gate.clone(), dropped.clone());
    serve(builder, move |_| {
        let (gate, flag) = (gate.clone(), dropped.flag());
        async move {
            gate.pass().await;
            drop(flag);
            ok()
        }
    })
}

/// Reports whether it was dropped.
#[derive(Clone, Default)]
pub(crate) struct Dropped(Arc<AtomicBool>);

pub(crate) struct DropFlag(Arc<AtomicBool>);

impl Dropped {
    pub(crate) fn flag(&self) -> DropFlag {
        DropFlag(self.0.clone())
    }

    pub(crate) fn is_dropped(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}

impl Drop for DropFlag {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// A new task for this path, to be stored by hand.
pub(crate) fn new_task(path: &'static str) -> NewTask {
    let mut random = [0; 10];
    fastrand::fill(&mut random);
    let request = CapturedRequest::new(
        Method::POST,
        Uri::from_static(path),
        HeaderMap::new(),
        Bytes::from_static(b"input"),
    );
    let mut task = NewTask::new(
        RequestId::from_parts(SystemClock::new().now(), random),
        Arc::new(request),
    );
    task.max_attempts = 4;
    task
}

pub(crate) fn inserted(inserted: Inserted) -> Arc<TaskRecord> {
    match inserted {
        Inserted::New(record, _) => record,
        other => panic!("{other:?} is no new task"),
    }
}

/// Claims one task as a worker that never returns.
pub(crate) async fn claim_and_die(store: &MemoryStore, lease: Duration) -> Claimed {
    let worker = WorkerId::new("dead", fastrand::u64(..));
    let claim = Claim::new(worker, 1, lease);
    ledger(store).claim(claim).await.unwrap()
}

/// Steps of a task's life on a store, beside its engine.
pub(crate) fn ledger(store: &MemoryStore) -> Ledger {
    Ledger::of(store.clone())
}
