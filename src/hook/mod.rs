//! Receivers of completions: the traits [`CompletionHook`] and [`Target`], and ready-made receivers.
//!
//! Give hooks to the builder, by the kind of end. Closures, async closures and channels are hooks as they are:
//!
//! - [`on_success`](crate::RespondAsyncBuilder::on_success): the task succeeded
//! - [`on_failure`](crate::RespondAsyncBuilder::on_failure): it failed, expired or could not be read
//! - [`on_stop`](crate::RespondAsyncBuilder::on_stop): it was stopped
//! - [`on_completion`](crate::RespondAsyncBuilder::on_completion): any of these
//!
//! Write an async closure that captures something as `move |completion| async move { ... }`. The future of an `async
//! move |completion|` closure borrows captures from the closure, and cannot be sent to another thread yet.
//!
//! All hooks of a process together are one destination. If one of them fails, all hooks for that kind of end are called
//! again at the next try.
//!
//! A [`Target`] is a destination of its own, with its own pool, schedule and state: an [`AppPath`], or with the feature
//! `webhook` a `Webhook`. Give targets to the same methods of the builder; each method takes any number.
//! [`guide::callbacks`](crate::guide::callbacks) describes them in full.
//!
//! A hook is called for the end of a task, never for an attempt. The completion is committed together with the end, so
//! it survives everything that the store survives. **A hook may be called twice** for one end, with the same
//! [`webhook_id`](Completion::webhook_id). Hooks run in a pool of their own, and each call may take 30 s. A panic is
//! caught. A hook that fails is called again. No hook changes the result of the task.
//!
//! # Examples
//!
//! Closures for two kinds of end. An error means "try again later":
//!
//! ```
//! use tower_respond_async::{BoxError, Completion, MemoryStore, RespondAsyncLayer};
//!
//! async fn tell_the_customer(completion: Completion) -> Result<(), BoxError> {
//!     let body = completion.response.as_ref().map(|response| response.body.len());
//!     println!("{} is done, {body:?} bytes", completion.task_id());
//!     Ok(())
//! }
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), BoxError> {
//! let layer = RespondAsyncLayer::builder(MemoryStore::new())
//!     .on_success(tell_the_customer)
//!     .on_failure(|completion: Completion| eprintln!("{} failed: {:?}", completion.task_id(), completion.error))
//!     .build()?;
//! # drop(layer);
//! # Ok(()) }
//! ```
//!
//! A channel that receives the completions of all ends. A bounded channel that is full delays no task: its deliveries
//! time out and are tried again.
//!
//! ```
//! use axum::{Router, body::Body, http::{Request, StatusCode}, routing::post};
//! use tokio::sync::mpsc;
//! use tower::{Layer, ServiceExt};
//! use tower_respond_async::{Completion, MemoryStore, RespondAsyncLayer, TaskState};
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let (ended, mut to_see) = mpsc::channel::<Completion>(100);
//! let layer = RespondAsyncLayer::builder(MemoryStore::new()).on_completion(ended).build()?;
//! let app = layer.layer(Router::new().route("/greet", post(async || "hello")));
//!
//! let request = Request::post("/greet").header("Prefer", "respond-async").body(Body::empty())?;
//! assert_eq!(app.clone().oneshot(request).await?.status(), StatusCode::ACCEPTED);
//!
//! let completion = to_see.recv().await.ok_or("the layer is gone")?;
//! assert_eq!(completion.state, TaskState::Succeeded);
//! assert_eq!(completion.uri(), "/greet");
//! assert_eq!(completion.response.ok_or("it has no response")?.body, "hello");
//! # Ok(()) }
//! ```

mod channel;
mod closure;
mod format;
mod local;
mod path;
mod target;
#[cfg(feature = "webhook")]
pub mod webhook;

use std::{fmt, sync::Arc};

use http::{HeaderMap, Method};

pub use self::{
    closure::{IntoHook, IntoHookResult},
    format::{PayloadFormat, Rendered, UnknownFormat},
    path::AppPath,
    target::{Application, CallbackRefused, Callbacks, Hook, NotSubmitted, Schedule, Target, Tried, TryOutcome},
};
pub(crate) use self::{local::LocalHooks, target::HookKind};
use crate::{
    error::{BoxError, BoxFuture},
    task::{
        CapturedRequest, CapturedResponse, Condition, Delivery, RequestId, RequestTarget, TaskRecord, TaskState,
        redact::Secrets,
    },
    time::Timestamp,
};

/// Receives the completions of tasks, in the process.
///
/// The engine treats an error, a panic and a time-out alike: it tries the delivery again on its schedule.
///
/// # Cancel safety
///
/// The future is dropped when it takes longer than the time-out of 30 s, and when the runtime ends before it does. The
/// delivery is tried again then.
///
/// # Examples
///
/// A hook with a state of its own. For most hooks a closure or a channel is enough.
///
/// ```
/// use std::sync::{Arc, atomic::{AtomicU64, Ordering}};
///
/// use tower_respond_async::{BoxError, Completion, CompletionHook, MemoryStore, RespondAsyncLayer, error::BoxFuture};
///
/// #[derive(Default)]
/// struct Count(AtomicU64);
///
/// impl CompletionHook for Count {
///     fn deliver(&self, _: Completion) -> BoxFuture<'_, Result<(), BoxError>> {
///         self.0.fetch_add(1, Ordering::Relaxed);
///         Box::pin(async { Ok(()) })
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let count: Arc<dyn CompletionHook> = Arc::new(Count::default());
/// let layer = RespondAsyncLayer::builder(MemoryStore::new()).on_completion(count).build()?;
/// # drop(layer);
/// # Ok(()) }
/// ```
pub trait CompletionHook: Send + Sync + 'static {
    /// Receives one completion. May be called twice with the same one.
    ///
    /// # Errors
    ///
    /// Any error: the delivery is tried again.
    fn deliver(&self, completion: Completion) -> BoxFuture<'_, Result<(), BoxError>>;
}

/// The end of a task, with everything that is stored about the task.
///
/// The [examples of the module](crate::hook#examples) read the parts of one.
#[derive(Clone)]
#[non_exhaustive]
pub struct Completion {
    /// The id of this end, the same in every call about it. Keep it to recognise a second call.
    pub webhook_id: String,
    /// The task. If it was run again since, the record is of the new generation, and the other fields are of the old.
    pub task: Arc<TaskRecord>,
    /// The generation that ended.
    pub generation: u32,
    /// The kind of end.
    pub condition: Condition,
    /// The state in which the generation ended.
    pub state: TaskState,
    /// When it ended.
    pub ended_at: Timestamp,
    /// The number of the attempt in which it ended.
    pub attempt: u32,
    /// The error, if there was one.
    pub error: Option<Arc<str>>,
    /// The response, if there is one, unless the task was run again since.
    pub response: Option<Arc<CapturedResponse>>,
    request: Option<Arc<CapturedRequest>>,
    location: Option<Arc<str>>,
    secrets: Arc<Secrets>,
}

impl Completion {
    pub(crate) fn new(
        task: Arc<TaskRecord>,
        delivery: &Delivery,
        request: Option<Arc<CapturedRequest>>,
        response: Option<Arc<CapturedResponse>>,
    ) -> Self {
        let current = task.generation == delivery.generation;
        Self {
            webhook_id: delivery.webhook_id(),
            generation: delivery.generation,
            condition: delivery.condition,
            state: delivery.ended_as,
            ended_at: delivery.ended_at,
            attempt: delivery.attempt,
            error: delivery.error.clone(),
            response: response.filter(|_| current),
            request,
            location: None,
            secrets: Arc::default(),
            task,
        }
    }

    pub(crate) fn with_location(mut self, location: Option<Arc<str>>) -> Self {
        self.location = location;
        self
    }

    pub(crate) fn with_secrets(mut self, secrets: Arc<Secrets>) -> Self {
        self.secrets = secrets;
        self
    }

    /// The address of the task in the task API, if there is an API. It is absolute if the builder has a public URL.
    #[must_use]
    pub fn location(&self) -> Option<&str> {
        self.location.as_deref()
    }

    /// Whether the task has not been run again since this end.
    #[must_use]
    pub fn is_current(&self) -> bool {
        self.task.generation == self.generation
    }

    /// The callback URL of the request, if it named one that was accepted.
    #[must_use]
    pub fn callback(&self) -> Option<&str> {
        self.task.callback.as_deref()
    }

    /// The request id of the task.
    #[must_use]
    pub fn request_id(&self) -> RequestId {
        self.task.id
    }

    /// The task id: the client's name for it, or else the request id.
    #[must_use]
    pub fn task_id(&self) -> String {
        self.task.task_id()
    }

    /// The method of the request, as in the [record](Self::task).
    #[must_use]
    pub fn method(&self) -> &Method {
        &self.task.method
    }

    /// The target of the request, or the beginning of a long one. The [request](Self::request) has the whole.
    #[must_use]
    pub fn uri(&self) -> &RequestTarget {
        &self.task.target
    }

    /// The stored headers of the request, unless they can no longer be read.
    #[must_use]
    pub fn request_headers(&self) -> Option<&HeaderMap> {
        self.request.as_ref().map(|request| &request.headers)
    }

    /// The stored request, unless it can no longer be read.
    #[must_use]
    pub fn request(&self) -> Option<&Arc<CapturedRequest>> {
        self.request.as_ref()
    }
}

/// Without headers and bodies, which do not belong in a log.
impl fmt::Debug for Completion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Completion")
            .field("webhook_id", &self.webhook_id)
            .field("state", &self.state)
            .field("attempt", &self.attempt)
            .finish_non_exhaustive()
    }
}
