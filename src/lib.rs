//! Asynchronous invocation for HTTP services: one [Tower](https://docs.rs/tower) layer answers `202 Accepted` and runs
//! the request later, on the same handler.
//!
//! A client adds one header to an ordinary request. The layer stores the request, answers at once with a request id,
//! and runs the wrapped application on it later, with bounded concurrency, retries and a time limit. It keeps the whole
//! response for the client to fetch. The client can follow the task's progress, stop the task and run it again; hooks
//! receive a completion when it ends. A request without the header passes through unchanged and costs two header
//! look-ups.
//!
//! ```
//! use axum::{Router, routing::post};
//! use http::{Request, StatusCode};
//! use tower::{Layer, ServiceExt};
//! use tower_respond_async::{MemoryStore, RespondAsyncLayer, TaskApi, TaskContext, allow_everyone};
//!
//! async fn transcode(task: TaskContext, video: String) -> String {
//!     task.progress(0.5, "half way");
//!     video.to_uppercase()
//! }
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let layer = RespondAsyncLayer::builder(MemoryStore::new()).api_base("/tasks").build()?;
//! let tasks = layer.tasks();
//! let app = Router::new()
//!     .route("/transcode", post(transcode))
//!     .nest_service("/tasks", TaskApi::new(&tasks, allow_everyone()));
//! let app = layer.layer(app); // the whole application, once
//!
//! // The same path works both ways: synchronously ...
//! let request = || Request::post("/transcode");
//! let response = app.clone().oneshot(request().body("cat.mp4".to_owned())?).await?;
//! assert_eq!(response.status(), StatusCode::OK);
//!
//! // ... and, where the client asks for it, asynchronously.
//! let asking = request().header("x-fc-invocation-type", "Async");
//! let response = app.clone().oneshot(asking.body("cat.mp4".to_owned())?).await?;
//! assert_eq!(response.status(), StatusCode::ACCEPTED);
//! let result = response.headers()["location"].to_str()?;
//!
//! // Its result is the handler's own response.
//! let wait = Request::get(format!("{result}?wait=5"));
//! let response = app.oneshot(wait.body(String::new())?).await?;
//! let body = axum::body::to_bytes(response.into_body(), 1024).await?;
//! assert_eq!(body, "CAT.MP4");
//! # Ok(()) }
//! ```
//!
//! # Overview
//!
//! - [`RespondAsyncLayer`] and its [`RespondAsyncBuilder`]: every setting, with its default and the reason for it
//! - [`Tasks`]: the handle to submit, watch, stop and re-run tasks, and to shut down
//! - [`TaskContext`]: what a handler can read and report about its task
//! - [`TaskApi`](api): the same over HTTP, behind an authorizer
//! - [`hook`]: notifications of the end of a task
//! - [`store`]: where tasks are kept, and the contract for your own store
//! - [`probe`]: metrics, traces and logs
//! - [`guide`]: the design, the guarantees, and how to operate it
//!
//! # Asking for async
//!
//! | a client sends | and gets |
//! |---|---|
//! | `X-Fc-Invocation-Type: Async` | 202 with `X-Fc-Request-Id`, as from a cloud function's HTTP trigger |
//! | `Prefer: respond-async` (RFC 7240) | the same, with `Preference-Applied` |
//! | `Prefer: respond-async, wait=5` | the handler's own response if it is complete within 5 s, else the 202 |
//! | `X-Fc-Async-Task-Id: my-job` with the first | a task of that name: a request that is sent twice runs once |
//! | `Idempotency-Key: "..."` with any of them | a request that is sent twice runs once |
//! | `Prefer: respond-async, callback; url="..."`, or `X-Callback-Url` with any of them | a POST to that URL when the task ends, where [allowed](RespondAsyncBuilder::callbacks) |
//!
//! [`RespondAsyncBuilder::when`] decides which requests may be async. A layer outside can also
//! [set the header](guide::operating#requests-that-are-always-async) on requests that do not have it.
//!
//! # Where the layer goes
//!
//! Put the layer around the whole application, or around a whole part of it that you then mount with `nest_service`. A
//! stored request runs on the service that the layer wrapped, so routing must happen inside. Use `layer.layer(app)` or
//! `ServiceBuilder`. `Router::layer` would wrap each route by itself, and does not compile. See [`RespondAsyncLayer`].
//!
//! Layers outside of this layer (authentication, rate limits, tracing) run once for a request, before it is accepted.
//! Layers inside run for every attempt. Request extensions that are set outside are not stored unless you
//! [carry](RespondAsyncBuilder::carry) them; those of an outer axum router [are
//! stored](guide::same_handler#what-does-a-router-outside-leave-behind).
//!
//! The layer is always ready, even if the inner service is not: a 202 does not wait for that service. The guide says
//! [where limits and load shedding go](guide::operating#limits-inside-and-outside).
//!
//! # Promises
//!
//! - The layer sends a 202 only after the store has committed the task, at the durability that the store publishes.
//!   Otherwise the answer is 503.
//! - A task runs *at least* once: if its process dies, it runs again. With [`TaskContext::fence_token`], other systems
//!   can refuse the writes of an old attempt.
//! - The replayed request equals the original byte for byte, except for [one list](guide::same_handler): the headers of
//!   the connection, the headers that asked for async, and a few more.
//! - Running handlers never exceed the concurrency; buffered bytes never exceed the budget.
//!
//! [`guide::guarantees`] has the whole list, and what is *not* promised. Side effects may happen more than once, and a
//! [`MemoryStore`] loses everything when the process ends:
//! [`tower-respond-async-redb`](https://docs.rs/tower-respond-async-redb) keeps tasks in a file.
//!
//! # Features
//!
//! | feature | adds | default |
//! |---|---|---|
//! | `api` | [`TaskApi`](api) | yes |
//! | `console` | [`Console`](console): the web console for the task API | |
//! | `axum` | `TaskContext` as an extractor, `RespondAsyncBuilder::carry_connect_info`; carries the extensions of axum's router | yes |
//! | `metrics` | `probe::MetricsProbe` | |
//! | `tracing` | `probe::TracingProbe` | |
//! | `capture` | `probe::Capture`: keeps what a task logs with `tracing` as the task's log | |
//! | `webhook` | `hook::webhook`: signed webhooks, and callbacks to URLs that requests name | |
//! | `testing` | `testing`: the conformance suite for stores, a clock that tests set, a store that fails on demand | |
//! | `full` | all of them | |
//!
//! Features only add items. Without any feature, you have the layer, the engine and the memory store.

#![cfg_attr(docsrs, feature(doc_cfg))]

#[cfg(feature = "api")]
pub mod api;
#[cfg(feature = "console")]
pub mod console;
mod engine;
pub mod error;
pub mod guide;
pub mod hook;
mod layer;
pub mod probe;
pub mod store;
pub mod task;
#[cfg(feature = "testing")]
pub mod testing;
pub mod time;
#[cfg_attr(
    not(feature = "api"),
    expect(dead_code, unused_imports, reason = "some documents are sent by the task API alone")
)]
mod wire;

#[cfg(feature = "api")]
pub use self::api::{Access, Authorizer, BearerToken, TaskApi, allow_everyone};
#[cfg(feature = "console")]
pub use self::console::Console;
pub use self::{
    engine::{
        AttemptEnd, Backoff, Changes, DoNotRetry, PausedPool, Pool, PoolError, PoolStats, ProcessStats, RetryPolicy,
        ShutdownReport, Stats, Submission, SubmitError, Submitted, TaskContext, Tasks, Verdict, WeakTasks,
    },
    error::{BoxError, ConfigError},
    hook::{Completion, CompletionHook},
    layer::{
        Credentials, Dialect, HeaderPolicy, Links, RequestBody, RespondAsync, RespondAsyncBuilder, RespondAsyncLayer,
        ResponseBody, ResponseFuture,
    },
    store::{MemoryStore, TaskStore},
    task::{RateStats, RequestId, Scope, SlotStats, TaskName, TaskRecord, TaskState, Tenant},
};

/// Runs the README's examples as tests.
#[cfg(all(doctest, feature = "api", feature = "axum", feature = "webhook"))]
#[doc = include_str!("../README.md")]
struct Readme;
