//! The application behind the browser.

use std::net::SocketAddr;

use axum::{
    Router,
    extract::{Query, State},
    http::HeaderMap,
    response::{IntoResponse, Response},
    routing::any,
};
use bytes::Bytes;
use http::StatusCode;
use serde::Deserialize;
use tower_respond_async::{
    Authorizer, Console, MemoryStore, RespondAsyncBuilder, TaskApi, TaskContext, TaskStore, allow_everyone,
    task::{LeaseRef, LogLine},
    time::Timestamp,
};

use crate::{
    console::browser::Browser,
    support::{App, Gate, routes},
};

/// Text that would run in the page if it were used as an element, an attribute, a link or a template.
pub(super) const HOSTILE: &str = "</textarea></pre><script>alert(1)</script><img src=x onerror=alert(2)>\
                                  <svg/onload=alert(3)>\" onmouseover=\"alert(4)\" javascript:alert(5) {{7*7}} ${7*7}";

/// An application with the console, served on a free port.
pub(super) struct Served {
    pub(super) app: App,
    pub(super) gate: Gate,
    pub(super) store: MemoryStore,
    pub(super) address: SocketAddr,
}

impl Served {
    pub(super) async fn new() -> Self {
        Self::with(allow_everyone(), |builder| builder).await
    }

    pub(super) async fn with(
        authorizer: impl Authorizer,
        configure: impl FnOnce(RespondAsyncBuilder) -> RespondAsyncBuilder,
    ) -> Self {
        let store = MemoryStore::new();
        let gate = Gate::new();
        let handlers = Handlers {
            gate: gate.clone(),
            store: store.clone(),
        };
        let configured = |builder: RespondAsyncBuilder| configure(builder.api_base("/tasks").never_async("/console"));
        let app = App::wrap(store.clone(), configured, |tasks| {
            routes()
                .merge(handlers.routes())
                .nest_service("/tasks", TaskApi::new(tasks, authorizer))
                .nest_service("/console", Console::new(tasks))
        });
        let address = app.serve().await;
        Self {
            app,
            gate,
            store,
            address,
        }
    }

    /// A browser that shows a part of the console.
    pub(super) async fn browse(&self, part: &str) -> Browser {
        let browser = Browser::open().await;
        browser.go(self.console(part)).await;
        browser
    }

    /// The address of a part of the console: `""`, or `"#/tasks"`.
    pub(super) fn console(&self, part: &str) -> String {
        format!("http://{}/console/{part}", self.address)
    }
}

#[derive(Clone)]
struct Handlers {
    gate: Gate,
    store: MemoryStore,
}

impl Handlers {
    fn routes(self) -> Router {
        Router::new()
            .route("/work", any(work))
            .route("/say", any(say))
            .route(
                "/redirect",
                any(|| async { (StatusCode::FOUND, [("location", "/echo")]) }),
            )
            .route(
                "/password",
                any(|| async { (StatusCode::UNAUTHORIZED, [("www-authenticate", "Basic")], "who?") }),
            )
            .with_state(self)
    }

    async fn log(&self, task: &TaskContext, level: &str, message: &str) {
        let Some((id, token)) = task.request_id().zip(task.fence_token()) else {
            return;
        };
        let now = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap();
        let at = Timestamp::from_millis(now.as_millis() as u64);
        let mut line = LogLine::new(at, level, "app::work", message);
        line.fields.push(("step".into(), message.len().to_string().into()));
        assert!(self.store.append_log(LeaseRef { id, token }, vec![line]).await.unwrap());
    }
}

#[derive(Deserialize)]
struct Work {
    /// How many attempts fail.
    #[serde(default)]
    fail: u32,
}

/// Does half of some work, waits at the gate, and does the other half.
async fn work(State(handlers): State<Handlers>, Query(Work { fail }): Query<Work>, task: TaskContext) -> Response {
    if task.attempt() <= fail {
        handlers.log(&task, "ERROR", "the database does not answer").await;
        return (StatusCode::SERVICE_UNAVAILABLE, "the database does not answer").into_response();
    }
    task.progress(0.5, "half of it");
    handlers.log(&task, "INFO", "the first half is done").await;
    tokio::select! {
        () = handlers.gate.pass() => {}
        () = task.stopped() => return StatusCode::SERVICE_UNAVAILABLE.into_response(),
    }
    handlers.log(&task, "WARN", "the second half is done too").await;
    (
        [("content-type", "application/json")],
        r#"{"total":12345678901234567890,"parts":[1,2.50]}"#,
    )
        .into_response()
}

#[derive(Deserialize)]
struct Say {
    #[serde(default)]
    status: Option<u16>,
}

/// Repeats the request wherever a handler can put text.
async fn say(
    State(handlers): State<Handlers>,
    Query(Say { status }): Query<Say>,
    task: TaskContext,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let text = String::from_utf8_lossy(&body).into_owned();
    task.progress(0.1, &text);
    handlers.log(&task, &text, &text).await;
    let status = StatusCode::from_u16(status.unwrap_or(200)).unwrap();
    let mut response = (status, text).into_response();
    for name in ["content-type", "x-said"] {
        if let Some(value) = headers.get(name) {
            response.headers_mut().insert(name, value.clone());
        }
    }
    response
}
