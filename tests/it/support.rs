//! An application around the layer, and helpers for tests.

use std::{
    convert::Infallible,
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, OnceLock},
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    extract::Path,
    http::HeaderMap,
    response::IntoResponse,
    routing::{MethodRouter, any},
};
use bytes::Bytes;
use http::{HeaderName, HeaderValue, Request, Response, StatusCode, header, request};
use http_body::Frame;
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    runtime::{Handle, Runtime},
    sync::{Semaphore, mpsc},
};
use tokio_test::task;
use tower::{Layer, Service, ServiceExt, make::Shared};
use tower_respond_async::{
    Backoff, MemoryStore, RequestId, RespondAsync, RespondAsyncBuilder, RespondAsyncLayer, TaskApi, TaskContext,
    TaskRecord, TaskState, TaskStore, Tasks, allow_everyone, task::TaskRef,
};

/// How long anything may take before it counts as hanging. Long, so that a busy machine fails no test.
const DEADLINE: Duration = Duration::from_secs(60);

/// The output of the future. It must resolve within the deadline.
#[track_caller]
pub(crate) fn soon<F: Future>(future: F) -> impl Future<Output = F::Output> {
    let place = std::panic::Location::caller();
    async move {
        match tokio::time::timeout(DEADLINE, future).await {
            Ok(answer) => answer,
            Err(_) => panic!("nothing came within {DEADLINE:?} at {place}"),
        }
    }
}

/// An application with its layer.
#[derive(Clone)]
pub(crate) struct App<S = Router> {
    pub(crate) service: RespondAsync<S>,
    pub(crate) tasks: Tasks,
}

impl App {
    /// The routes below, with every default.
    pub(crate) fn new() -> Self {
        Self::with(|builder| builder)
    }

    /// The routes below, configured.
    pub(crate) fn with(configure: impl FnOnce(RespondAsyncBuilder) -> RespondAsyncBuilder) -> Self {
        Self::build(MemoryStore::new(), routes(), configure)
    }

    /// These routes, configured, over this store, with the task API open to everyone.
    pub(crate) fn build(
        store: impl TaskStore,
        routes: Router,
        configure: impl FnOnce(RespondAsyncBuilder) -> RespondAsyncBuilder,
    ) -> Self {
        Self::wrap(store, configure, |tasks| {
            routes.nest_service("/tasks", TaskApi::new(tasks, allow_everyone()))
        })
    }

    /// The application that `app` makes, configured, over this store.
    pub(crate) fn wrap(
        store: impl TaskStore,
        configure: impl FnOnce(RespondAsyncBuilder) -> RespondAsyncBuilder,
        app: impl FnOnce(&Tasks) -> Router,
    ) -> Self {
        let layer = configure(RespondAsyncLayer::builder(store)).build().unwrap();
        let tasks = layer.tasks();
        let app = app(&tasks);
        Self {
            service: layer.layer(app),
            tasks,
        }
    }
}

impl<S> App<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Clone + Send + 'static,
{
    pub(crate) async fn send(&self, request: Request<Body>) -> Answered {
        let response = soon(self.service.clone().oneshot(request)).await.unwrap();
        Answered::read(response).await
    }

    pub(crate) async fn get(&self, path: impl AsRef<str>) -> Answered {
        self.send(Request::get(path.as_ref()).body(Body::empty()).unwrap())
            .await
    }

    pub(crate) async fn post(&self, path: impl AsRef<str>) -> Answered {
        self.send(Request::post(path.as_ref()).body(Body::empty()).unwrap())
            .await
    }

    /// Sends a request that must be accepted as a new task. Answers with its id.
    pub(crate) async fn accepted(&self, request: Request<Body>) -> RequestId {
        let answer = self.send(request).await;
        answer.assert_accepted();
        assert!(!answer.is_duplicate(), "{answer:?}");
        answer.id()
    }

    pub(crate) async fn record(&self, id: RequestId) -> Arc<TaskRecord> {
        let found = self.tasks.find(&TaskRef::Id(id)).await.unwrap();
        found.expect("the task is kept")
    }

    /// The task, as soon as it is in this state.
    #[track_caller]
    pub(crate) fn until(&self, id: RequestId, state: TaskState) -> impl Future<Output = Arc<TaskRecord>> {
        let mut changes = self.tasks.subscribe(id);
        soon(async move {
            let mut seen = None;
            while let Some(task) = changes.next().await.unwrap() {
                if task.state == state {
                    return task;
                }
                seen = Some(task);
            }
            panic!("it was never {state:?}, and is now {seen:?}");
        })
    }

    /// The task, after it has ended in any way.
    pub(crate) async fn ended(&self, id: RequestId) -> Arc<TaskRecord> {
        let mut waited = soon(self.tasks.wait(id, DEADLINE)).await.unwrap();
        waited
            .take()
            .filter(|task| task.state.is_terminal())
            .expect("it has ended")
    }

    /// The response of a task that must succeed.
    pub(crate) async fn response(&self, id: RequestId) -> Answered {
        let task = self.ended(id).await;
        assert_eq!(task.state, TaskState::Succeeded, "{task:?}");
        let stored = self.tasks.response(id).await.unwrap().unwrap();
        Answered {
            status: stored.status.as_u16(),
            headers: stored.headers.clone(),
            body: stored.body.clone(),
        }
    }

    /// How many tasks are stored, in any state.
    pub(crate) async fn kept(&self) -> u64 {
        let stats = self.tasks.stats().await.unwrap();
        stats.counts.iter().map(|(_, count)| count).sum()
    }

    pub(crate) async fn buffered(&self) -> u64 {
        self.tasks.stats().await.unwrap().buffered_bytes.unwrap()
    }

    #[track_caller]
    pub(crate) fn until_kept(&self, tasks: u64) -> impl Future<Output = ()> {
        soon(async move {
            while self.kept().await != tasks {
                tokio::task::yield_now().await;
            }
        })
    }

    #[track_caller]
    pub(crate) fn until_buffered(&self, bytes: u64) -> impl Future<Output = ()> {
        soon(async move {
            while self.buffered().await != bytes {
                tokio::task::yield_now().await;
            }
        })
    }
}

impl<S> App<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Clone + Send + Sync + 'static,
    S::Future: Send,
{
    /// Serves it on a free port.
    pub(crate) async fn serve(&self) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let service = self.service.clone();
        tokio::spawn(async move { axum::serve(listener, Shared::new(service)).await });
        address
    }
}

/// A response, read to its end.
#[derive(Debug)]
pub(crate) struct Answered {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Answered {
    pub(crate) async fn read(response: Response<Body>) -> Self {
        let (head, body) = response.into_parts();
        Self {
            status: head.status.as_u16(),
            headers: head.headers,
            body: soon(body.collect()).await.unwrap().to_bytes(),
        }
    }

    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The one value of a header, or an empty string.
    #[track_caller]
    pub(crate) fn header(&self, name: &str) -> &str {
        let mut values = self.headers.get_all(name).iter();
        let value = values.next().map_or("", |value| value.to_str().unwrap());
        assert!(values.next().is_none(), "{name} is there twice: {self:?}");
        value
    }

    /// The names of all headers, in alphabetical order.
    pub(crate) fn header_names(&self) -> Vec<&str> {
        let mut names: Vec<_> = self.headers.iter().map(|(name, _)| name.as_str()).collect();
        names.sort_unstable();
        names
    }

    #[track_caller]
    pub(crate) fn id(&self) -> RequestId {
        let id = self.header("x-fc-request-id");
        // The version digit of a UUID.
        assert_eq!(id.as_bytes().get(14), Some(&b'7'), "{id:?} is no UUID v7: {self:?}");
        id.parse().unwrap()
    }

    pub(crate) fn is_duplicate(&self) -> bool {
        self.header("x-respond-async-duplicate") == "true"
    }

    #[track_caller]
    pub(crate) fn assert_accepted(&self) {
        assert_eq!(self.status, 202, "{self:?}");
    }

    /// Asserts that this is a refusal of the layer, in every place where a client may check.
    #[track_caller]
    pub(crate) fn assert_refused(&self, status: u16, code: &str, retry_after: Option<&str>) {
        assert_eq!(self.status, status, "{self:?}");
        let document = self.json();
        let id = self.id().to_string();
        let detail = document["detail"].as_str().unwrap();
        let title = document["title"].as_str().unwrap();
        assert!(!detail.is_empty() && !title.is_empty(), "{self:?}");
        assert_eq!(
            document,
            json!({
                "type": format!("urn:problem-type:tower-respond-async:{code}"),
                "title": title,
                "status": status,
                "detail": detail,
                "requestId": id,
                "code": code,
                "Code": code,
                "Message": detail,
                "RequestId": id,
                "ErrorCode": code,
                "ErrorMessage": detail,
                "error": { "code": code, "message": detail },
            })
        );
        assert_eq!(self.header("content-type"), "application/problem+json");
        assert_eq!(self.header("cache-control"), "no-store");
        assert_eq!(self.header("retry-after"), retry_after.unwrap_or(""), "{self:?}");
        for absent in ["location", "x-fc-async-task-id", "preference-applied"] {
            assert_eq!(self.header(absent), "", "{absent} on a refusal: {self:?}");
        }
    }
}

/// A POST that asks for async as the cloud's clients do.
pub(crate) fn fc(path: &str) -> request::Builder {
    Request::post(path).header("X-Fc-Invocation-Type", "Async")
}

/// A POST with this `Prefer`.
pub(crate) fn prefer(path: &str, preferences: &str) -> request::Builder {
    Request::post(path).header("Prefer", preferences)
}

pub(crate) trait WithoutBody {
    /// The request, without a body.
    fn empty(self) -> Request<Body>;
    /// The request, with a body that must not be read.
    fn unread(self) -> Request<Body>;
    /// The request, with this body.
    fn with(self, body: impl Into<Body>) -> Request<Body>;
}

impl WithoutBody for request::Builder {
    fn empty(self) -> Request<Body> {
        self.body(Body::empty()).unwrap()
    }

    fn unread(self) -> Request<Body> {
        self.body(Body::new(Unread)).unwrap()
    }

    fn with(self, body: impl Into<Body>) -> Request<Body> {
        self.body(body.into()).unwrap()
    }
}

struct Unread;

impl http_body::Body for Unread {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        panic!("the body was read");
    }
}

/// Routes for each way a handler can behave.
pub(crate) fn routes() -> Router {
    Router::new()
        .route("/echo", any(echo))
        .route(
            "/hello/{name}",
            any(|Path(name): Path<String>| async move { format!("hello {name}") }),
        )
        .route("/status/{code}", any(status))
        .route("/whoami", any(whoami))
        .route("/panic", any(panics))
}

async fn echo(headers: HeaderMap, body: Bytes) -> Response<Body> {
    let mut response = Response::new(Body::from(body));
    if let Some(kind) = headers.get(header::CONTENT_TYPE) {
        response.headers_mut().insert(header::CONTENT_TYPE, kind.clone());
    }
    response
}

async fn status(Path(code): Path<u16>) -> Response<Body> {
    let status = StatusCode::from_u16(code).unwrap();
    (status, [("x-from", "the handler")], format!("this is {status}")).into_response()
}

/// Answers with the handler's view of its task.
async fn whoami(task: TaskContext) -> axum::Json<Value> {
    axum::Json(json!({
        "isTask": task.is_task(),
        "taskId": task.task_id(),
        "requestId": task.request_id().map(|id| id.to_string()),
        "attempt": task.attempt(),
    }))
}

async fn panics() -> StatusCode {
    panic!("asked to panic");
}

/// A policy without retries.
pub(crate) fn no_retries() -> Backoff {
    Backoff::new().max_retries(0)
}

/// Calls the application. The test polls the answer.
pub(crate) fn by_hand(app: &App, request: Request<Body>) -> task::Spawn<impl Future<Output = Response<Body>> + use<>> {
    let mut service = app.service.clone();
    let readied = task::spawn(()).enter(|cx, _| Service::<Request<Body>>::poll_ready(&mut service, cx));
    assert!(matches!(readied, Poll::Ready(Ok(()))), "the layer is always ready");
    let answer = service.call(request);
    task::spawn(async move { answer.await.unwrap() })
}

/// A handler that reports when it has begun, and ends when the test lets it.
#[derive(Clone)]
pub(crate) struct Gate {
    arrived: Arc<Semaphore>,
    open: Arc<Semaphore>,
}

impl Gate {
    pub(crate) fn new() -> Self {
        Self {
            arrived: Arc::new(Semaphore::new(0)),
            open: Arc::new(Semaphore::new(0)),
        }
    }

    pub(crate) fn route(&self) -> MethodRouter {
        let gate = self.clone();
        any(move || async move {
            gate.pass().await;
            "passed"
        })
    }

    /// The playground's routes, and this handler at `/gate`.
    pub(crate) fn among_routes(&self) -> Router {
        routes().route("/gate", self.route())
    }

    pub(crate) async fn pass(&self) {
        self.arrived.add_permits(1);
        self.open.acquire().await.unwrap().forget();
    }

    /// Resolves when one more handler has begun.
    #[track_caller]
    pub(crate) fn arrived(&self) -> impl Future<Output = ()> {
        let arrived = self.arrived.clone();
        soon(async move { arrived.acquire().await.unwrap().forget() })
    }

    /// Lets so many handlers end.
    pub(crate) fn let_pass(&self, handlers: usize) {
        self.open.add_permits(handlers);
    }
}

/// A handler that records every request.
pub(crate) fn recorder() -> (MethodRouter, mpsc::UnboundedReceiver<Request<Bytes>>) {
    let (seen, requests) = mpsc::unbounded_channel();
    let handler = any(move |request: Request<Body>| {
        let seen = seen.clone();
        async move {
            let (head, body) = request.into_parts();
            let body = body.collect().await.unwrap().to_bytes();
            let _ = seen.send(Request::from_parts(head, body));
        }
    });
    (handler, requests)
}

/// A second runtime, for an engine whose time goes on while the test's is paused.
pub(crate) fn other_runtime() -> Handle {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    let runtime = RUNTIME.get_or_init(|| {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        builder.worker_threads(1).enable_all().build().unwrap()
    });
    runtime.handle().clone()
}

/// Sends raw bytes, and reads to the end of the connection.
pub(crate) async fn talk(address: SocketAddr, bytes: &[u8]) -> String {
    let mut connection = TcpStream::connect(address).await.unwrap();
    connection.write_all(bytes).await.unwrap();
    read_to_end(&mut connection).await
}

pub(crate) async fn read_to_end(connection: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    // Keep what was read, even if the server then resets the connection because of bytes that it did not read.
    let _ = soon(connection.read_to_end(&mut answer)).await;
    String::from_utf8(answer).unwrap()
}

/// All values of a header, as bytes.
pub(crate) fn values<'a>(headers: &'a HeaderMap, name: &str) -> Vec<&'a [u8]> {
    headers.get_all(name).iter().map(HeaderValue::as_bytes).collect()
}

/// Adds a header whose value the request's builder does not accept.
pub(crate) fn and_header(mut request: Request<Body>, name: &'static str, value: &[u8]) -> Request<Body> {
    let value = HeaderValue::from_bytes(value).unwrap();
    request.headers_mut().insert(HeaderName::from_static(name), value);
    request
}
