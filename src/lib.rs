//! Asynchronous invocation for HTTP services: one [Tower](https://docs.rs/tower) layer answers `202 Accepted` and runs
//! the request later, on the same handler.
//!
//! A client adds one header to an ordinary request. The layer stores the request, answers at once with a request id, and
//! has the wrapped application handle it afterwards, with bounded concurrency, retries and a time limit. Its whole
//! response is kept to be fetched, its progress can be watched, it can be stopped and run again, and hooks are told how it
//! ended. A request without the header passes through untouched and pays two header look-ups.
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
//! # What is where
//!
//! - [`RespondAsyncLayer`] and its [`RespondAsyncBuilder`]: every setting, with its default and the reason for it
//! - [`Tasks`]: the handle to submit, watch, stop and re-run tasks, and to shut down
//! - [`TaskContext`]: what a handler can know and say about the task it works on
//! - [`TaskApi`](api): the same over HTTP, behind an authorizer
//! - [`hook`]: being told that a task ended
//! - [`store`]: where tasks are kept, and the contract of those who write a store
//! - [`probe`]: metrics and traces
//! - [`guide`]: why it is built as it is, what it guarantees, how to operate it
//!
//! # Asking for async
//!
//! | a client sends | and gets |
//! |---|---|
//! | `X-Fc-Invocation-Type: Async` | 202 with `X-Fc-Request-Id`, as from a cloud function's HTTP trigger |
//! | `Prefer: respond-async` (RFC 7240) | the same, with `Preference-Applied` |
//! | `Prefer: respond-async, wait=5` | the handler's own response if it is there within 5 s, else the 202 |
//! | `X-Fc-Async-Task-Id: my-job` beside the first | a task of that name: sent twice, it runs once |
//! | `Idempotency-Key: "..."` beside any of them | sent twice, it runs once |
//! | `Prefer: respond-async, callback; url="..."`, or `X-Callback-Url` beside any | a POST there when it ends, where [allowed](RespondAsyncBuilder::callbacks) |
//!
//! Whether a request may go async is for [`RespondAsyncBuilder::when`] to say. For it to go async though the client does not ask, a
//! layer outside [sets the header](guide::operating#requests-that-are-always-async).
//!
//! # Where the layer goes
//!
//! Around the whole application, or around a whole part of it that is then mounted with `nest_service`: a stored request
//! is run on the service that the layer wrapped, so routing must happen inside. `layer.layer(app)` and `ServiceBuilder` do
//! that; `Router::layer` does not, and does not compile. See [`RespondAsyncLayer`].
//!
//! What stands outside of the layer (authentication, rate limits, tracing) sees a request once, before it is accepted.
//! What stands inside sees every attempt. Request extensions set outside are not stored unless they are
//! [carried](RespondAsyncBuilder::carry); of a router of axum outside, they [are](guide::same_handler#what-does-a-router-outside-leave-behind).
//!
//! The layer is always ready, whatever is inside: a 202 waits for nothing there. [Where limits and load shedding
//! go](guide::operating#limits-inside-and-outside) is a section of the guide.
//!
//! # Promises
//!
//! - A 202 is sent after the store has committed the task, to the degree that the store publishes; else the answer is 503.
//! - A task is run *at least* once: a handler whose process dies is run again. [`TaskContext::fence_token`] keeps an old
//!   attempt from doing harm.
//! - What is replayed equals the request byte for byte, less [one list](guide::same_handler): headers of the connection,
//!   those that asked for async, and the like.
//! - Never more handlers at once than the concurrency, never more buffered bytes than the budget.
//!
//! [`guide::guarantees`] has the whole list, and what is *not* promised: above all, exactly-once side effects, and with
//! [`MemoryStore`] anything that outlives the process: [`tower-respond-async-redb`](https://docs.rs/tower-respond-async-redb)
//! keeps tasks in a file.
//!
//! # Features
//!
//! | feature | adds | default |
//! |---|---|---|
//! | `api` | [`TaskApi`](api) | yes |
//! | `console` | [`Console`](console): the web console over it | |
//! | `axum` | `TaskContext` as an extractor, `RespondAsyncBuilder::carry_connect_info`; what axum's router leaves is carried | yes |
//! | `metrics` | `probe::MetricsProbe` | |
//! | `tracing` | `probe::TracingProbe` | |
//! | `capture` | `probe::Capture`: what a task logs with `tracing`, kept as its log | |
//! | `webhook` | `hook::webhook`: signed webhooks, callbacks to URLs that requests name | |
//! | `testing` | `testing`: the store conformance suite, a hand-moved clock, a failing store | |
//! | `full` | all of them | |
//!
//! Features only add names. Without any, the layer, the engine and the memory store are there.

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

/// The README's code is tested like any other.
#[cfg(all(doctest, feature = "api", feature = "axum", feature = "webhook"))]
#[doc = include_str!("../README.md")]
struct Readme;
