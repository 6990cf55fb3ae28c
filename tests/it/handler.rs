//! A handler on a replay: the context of its request, and its response.

use std::{
    convert::Infallible,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    Extension, Router, ServiceExt,
    body::Body,
    extract::{ConnectInfo, OriginalUri, Path, Query, State},
    routing::{any, post},
};
use bytes::Bytes;
use http::{HeaderMap, Request, Uri};
use http_body::Frame;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::{
    net::TcpListener,
    sync::{mpsc, oneshot},
};
use tower::Layer;
use tower_respond_async::{Backoff, MemoryStore, RespondAsyncLayer, TaskContext, TaskState};

use crate::support::{App, Gate, WithoutBody, fc, no_retries, soon};

#[tokio::test]
async fn a_route_that_is_not_there_fails_its_task_for_good() {
    let app = App::new();
    let answer = app.send(fc("/nowhere").empty()).await;
    answer.assert_accepted();
    let task = app.ended(answer.id()).await;
    assert_eq!(
        (task.state, task.attempt, task.status_code),
        (TaskState::Failed, 1, Some(404))
    );
    assert_eq!(app.get(answer.header("location")).await.status, 404);
}

/// A body that never ends, and reports when it is dropped.
struct Endless {
    data: Option<Bytes>,
    dropped: Option<oneshot::Sender<()>>,
}

impl http_body::Body for Endless {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match &self.data {
            Some(data) => Poll::Ready(Some(Ok(Frame::data(data.clone())))),
            None => Poll::Pending,
        }
    }
}

impl Drop for Endless {
    fn drop(&mut self) {
        let _ = self.dropped.take().map(|dropped| dropped.send(()));
    }
}

fn endless(data: Option<Bytes>) -> (Router, oneshot::Receiver<()>) {
    let (dropped, gone) = oneshot::channel();
    let body = Arc::new(std::sync::Mutex::new(Some(Body::new(Endless {
        data,
        dropped: Some(dropped),
    }))));
    let router = Router::new().route(
        "/endless",
        any(move || {
            let body = body.lock().unwrap().take().unwrap();
            async { ([("content-type", "text/event-stream")], body) }
        }),
    );
    (router, gone)
}

/// It is read for as long as the attempt may take, since a handler may do its work while it is read.
#[tokio::test]
async fn an_endless_response_is_cut_at_the_limit_and_marked() {
    let (router, gone) = endless(Some(Bytes::from_static(b"data: x\n\n")));
    let app = App::build(MemoryStore::new(), router, |builder| {
        builder.result_limit(1000).attempt_timeout(Duration::from_millis(100))
    });
    let answer = app.send(fc("/endless").empty()).await;
    let id = answer.id();
    let task = app.ended(id).await;
    assert_eq!(task.state, TaskState::Succeeded);
    soon(gone).await.unwrap();
    let result = app.get(answer.header("location")).await;
    assert_eq!((result.status, result.body.len()), (200, 1000));
    assert!(result.body.starts_with(b"data: x\n\ndata: x\n\n"));
    assert_eq!(result.header("x-respond-async-truncated"), "true");
    assert_eq!(result.header("content-type"), "text/event-stream");
}

/// A response that fits is not cut, to the byte.
#[tokio::test]
async fn a_response_of_just_the_limit_is_whole() {
    let app = App::with(|builder| builder.result_limit(1000));
    for (length, truncated) in [(1000, ""), (1001, "true")] {
        let answer = app.send(fc("/echo").with(vec![b'x'; length])).await;
        app.ended(answer.id()).await;
        let result = app.get(answer.header("location")).await;
        assert_eq!(result.body.len(), 1000);
        assert_eq!(result.header("x-respond-async-truncated"), truncated);
        assert_eq!(result.header("content-length"), "1000");
    }
}

#[tokio::test]
async fn a_response_that_stands_still_ends_with_the_attempt_s_time() {
    let (router, gone) = endless(None);
    let app = App::build(MemoryStore::new(), router, |builder| {
        builder.attempt_timeout(Duration::from_millis(50)).retry(no_retries())
    });
    let id = app.accepted(fc("/endless").empty()).await;
    let response = app.response(id).await;
    assert_eq!((response.status, &response.body[..]), (200, &b""[..]));
    soon(gone).await.unwrap();
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct User {
    name: String,
}

/// Reports its extensions at every attempt, and fails the first.
fn who() -> (Router, mpsc::UnboundedReceiver<Option<User>>) {
    let (told, heard) = mpsc::unbounded_channel();
    let handler = move |task: TaskContext, user: Option<Extension<User>>| async move {
        told.send(user.map(|Extension(user)| user)).unwrap();
        match task.attempt() {
            1 => http::StatusCode::SERVICE_UNAVAILABLE,
            _ => http::StatusCode::OK,
        }
    };
    (Router::new().route("/who", any(handler)), heard)
}

fn from_ada(path: &str) -> Request<Body> {
    let mut request = fc(path).empty();
    request.extensions_mut().insert(User { name: "Ada".into() });
    request
}

fn soon_again() -> Backoff {
    Backoff::new().base(Duration::from_millis(1))
}

#[tokio::test]
async fn an_extension_is_lost_unless_it_is_carried() {
    let (router, mut heard) = who();
    let app = App::build(MemoryStore::new(), router, |builder| builder.retry(soon_again()));
    app.accepted(from_ada("/who")).await;
    assert_eq!(soon(heard.recv()).await.unwrap(), None);

    let (router, mut heard) = who();
    let app = App::build(MemoryStore::new(), router, |builder| {
        builder.retry(soon_again()).carry::<User>("user")
    });
    app.accepted(from_ada("/who")).await;
    for _ in 0..2 {
        assert_eq!(soon(heard.recv()).await.unwrap().unwrap().name, "Ada");
    }
    app.accepted(fc("/who").empty()).await;
    assert_eq!(soon(heard.recv()).await.unwrap(), None, "of a request that had none");
}

#[tokio::test]
async fn an_extension_is_carried_in_an_encoding_of_one_s_own() {
    let (router, mut heard) = who();
    let app = App::build(MemoryStore::new(), router, |builder| {
        let decode = |bytes: &[u8]| {
            let name = String::from_utf8(bytes.iter().rev().copied().collect())?;
            Ok(User { name })
        };
        let encode = |user: &User| Ok(user.name.bytes().rev().collect());
        builder.retry(soon_again()).carry_with("backwards", encode, decode)
    });
    let id = app.accepted(from_ada("/who")).await;
    assert_eq!(soon(heard.recv()).await.unwrap().unwrap().name, "Ada");
    let stored = app.tasks.request(id).await.unwrap().unwrap();
    assert_eq!(stored.carried, [("backwards".to_owned(), Bytes::from_static(b"adA"))]);
}

/// The handler must not run as an anonymous user when a known user sent the request.
#[tokio::test]
async fn an_extension_that_cannot_be_decoded_fails_the_attempt() {
    let (router, mut heard) = who();
    let app = App::build(MemoryStore::new(), router, |builder| {
        let encode = |user: &User| Ok(user.name.clone().into_bytes());
        let builder = builder.retry(no_retries());
        builder.carry_with::<User, _, _>("user", encode, |_| Err("no longer understood".into()))
    });
    let id = app.accepted(from_ada("/who")).await;
    let task = app.ended(id).await;
    assert_eq!(task.state, TaskState::Failed);
    let error = task.error.as_deref().unwrap();
    assert!(
        error.contains("\"user\"") && error.contains("no longer understood"),
        "{error}"
    );
    assert!(heard.try_recv().is_err(), "the handler ran");
}

#[tokio::test]
async fn the_client_s_address_is_carried_from_a_real_connection() {
    let (told, mut heard) = mpsc::unbounded_channel();
    let handler = move |ConnectInfo(address): ConnectInfo<SocketAddr>| async move {
        told.send(address).unwrap();
    };
    let layer = RespondAsyncLayer::builder(MemoryStore::new())
        .carry_connect_info()
        .build()
        .unwrap();
    let app = layer.layer(Router::new().route("/from", post(handler)));
    let app = ServiceExt::<Request<Body>>::into_make_service_with_connect_info::<SocketAddr>(app);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, app).await });

    let mut connection = tokio::net::TcpStream::connect(address).await.unwrap();
    let ours = connection.local_addr().unwrap();
    let request = "POST /from HTTP/1.1\r\nHost: here\r\nConnection: close\r\nX-Fc-Invocation-Type: Async\r\n\r\n";
    tokio::io::AsyncWriteExt::write_all(&mut connection, request.as_bytes())
        .await
        .unwrap();
    let answer = crate::support::read_to_end(&mut connection).await;
    assert!(answer.starts_with("HTTP/1.1 202 "), "{answer}");
    assert_eq!(soon(heard.recv()).await.unwrap(), ours);
}

#[derive(Debug, Deserialize)]
struct Asked {
    #[serde(default)]
    times: u32,
}

/// Routing happens inside the layer, so a replay is routed again.
#[tokio::test]
async fn extractors_and_nested_routers_work_on_a_replay() {
    async fn handler(
        Path((shelf, book)): Path<(String, u32)>,
        Query(asked): Query<Asked>,
        State(state): State<&'static str>,
        Extension(extension): Extension<u8>,
        OriginalUri(uri): OriginalUri,
        inner: Uri,
        task: TaskContext,
    ) -> axum::Json<serde_json::Value> {
        axum::Json(json!([
            shelf,
            book,
            asked.times,
            state,
            extension,
            uri.path(),
            inner.path(),
            task.is_task(),
        ]))
    }
    let books = Router::new().route("/{book}", any(handler)).layer(Extension(7_u8));
    let app = Router::new().nest("/shelves/{shelf}", books).with_state("state");
    let app = App::build(MemoryStore::new(), app, |builder| builder);
    let path = "/shelves/top/42?times=3";
    let expected = |is_task: bool| json!(["top", 42, 3, "state", 7, "/shelves/top/42", "/42", is_task]);
    let id = app.accepted(fc(path).empty()).await;
    assert_eq!(app.response(id).await.json(), expected(true));
    assert_eq!(app.post(path).await.json(), expected(false));
}

#[tokio::test]
async fn on_a_synchronous_request_the_context_is_detached() {
    async fn handler(task: TaskContext, mut headers: HeaderMap) -> String {
        task.progress(0.5, "goes nowhere");
        task.propagate(&mut headers);
        assert!(task.deadline().is_none() && task.fence_token().is_none() && !task.is_stopped());
        assert!(!headers.contains_key("x-respond-async-depth"));
        format!("{task:?}")
    }
    let app = App::build(MemoryStore::new(), Router::new().route("/", any(handler)), |builder| {
        builder
    });
    assert_eq!(app.post("/").await.body, "TaskContext(detached)");
    let seen = App::new().post("/whoami").await.json();
    assert_eq!(
        seen,
        json!({ "isTask": false, "taskId": null, "requestId": null, "attempt": 0 })
    );
}

#[tokio::test]
async fn every_attempt_has_the_whole_request() {
    let (told, mut heard) = mpsc::unbounded_channel();
    let handler = move |headers: HeaderMap, body: Bytes| async move {
        let attempt = headers["x-respond-async-attempt"].to_str().unwrap().to_owned();
        told.send((attempt, body)).unwrap();
        http::StatusCode::SERVICE_UNAVAILABLE
    };
    let app = App::build(MemoryStore::new(), Router::new().route("/", any(handler)), |builder| {
        builder.retry(soon_again().max_retries(2))
    });
    let id = app.accepted(fc("/").with("body")).await;
    for attempt in ["1", "2", "3"] {
        let (told, body) = soon(heard.recv()).await.unwrap();
        assert_eq!((&*told, &body[..]), (attempt, &b"body"[..]));
    }
    assert_eq!(app.ended(id).await.state, TaskState::Failed);
}

#[tokio::test]
async fn progress_is_seen_while_it_runs() {
    let gate = Gate::new();
    let inner = gate.clone();
    let handler = move |task: TaskContext| async move {
        task.progress(0.25, "a quarter");
        inner.pass().await;
    };
    let app = App::build(MemoryStore::new(), Router::new().route("/", any(handler)), |builder| {
        builder
    });
    let answer = app.send(fc("/").empty()).await;
    gate.arrived().await;
    let shown = app.get(answer.header("content-location")).await.json();
    assert_eq!(shown["progress"], json!({ "fraction": 0.25, "message": "a quarter" }));
    let result = app.get(answer.header("location")).await;
    assert_eq!((result.status, result.header("x-progress")), (202, "0.25"));
    gate.let_pass(1);
    app.ended(answer.id()).await;
}
