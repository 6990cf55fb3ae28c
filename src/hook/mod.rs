//! Being told that a task ended: the [`CompletionHook`] port, and the ready-made hooks.
//!
//! Hooks are given to the builder per condition. Closures, async closures and channels are hooks as they are:
//!
//! - [`on_success`](crate::RespondAsyncBuilder::on_success): the task succeeded
//! - [`on_failure`](crate::RespondAsyncBuilder::on_failure): it failed, expired or could not be read
//! - [`on_stop`](crate::RespondAsyncBuilder::on_stop): it was stopped
//! - [`on_completion`](crate::RespondAsyncBuilder::on_completion): any of these
//!
//! An async closure that captures something is written `move |completion| async move { ... }`: what `async move |completion|`
//! makes of captures borrows from the closure, and cannot be sent to another thread yet.
//!
//! All hooks of a process together are one destination: if one of them fails, all that want to know of that end are called
//! again at the next try.
//!
//! A [`Target`] is a destination of its own, with its own pool, schedule and state: an [`AppPath`], or with the feature
//! `webhook` a `Webhook`. It is given to the same methods of the builder, as many to each as are wanted.
//! [`guide::callbacks`](crate::guide::callbacks) tells the whole of it.
//!
//! Only the end of a task fires a hook, never an attempt. The order to deliver is committed together with the end, so it
//! survives whatever the store survives; **a hook may be called twice** for one end, with the same
//! [`webhook_id`](Completion::webhook_id). A hook runs in a pool of its own, is timed out, is caught when it panics, is
//! tried again when it fails, and never changes the task's result.
//!
//! # Examples
//!
//! Closures for the two kinds of end, where an error means "tell me again later":
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
//! A channel, for whoever wants to hear of every end in one place. A bounded one that nobody empties holds up no task: its
//! deliveries time out and are tried again.
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

/// Somebody who is told that a task ended.
///
/// An error, a panic and a time-out are all the same to the engine: the delivery is tried again on its schedule.
///
/// # Cancel safety
///
/// The future is dropped when it takes longer than the hook time-out, and at shutdown; the delivery is then tried again.
pub trait CompletionHook: Send + Sync + 'static {
    /// Takes note of the completion. May be called twice for the same one.
    fn deliver(&self, completion: Completion) -> BoxFuture<'_, Result<(), BoxError>>;
}

/// The end of a task, with all there is to know about it.
#[derive(Clone)]
#[non_exhaustive]
pub struct Completion {
    /// The same for every call about this end: remember it, and a second call does no harm.
    pub webhook_id: String,
    /// The task. If it was run again meanwhile, the record is of the new generation, and the fields beside it of the old.
    pub task: Arc<TaskRecord>,
    /// Which run-through ended.
    pub generation: u32,
    /// The kind of end.
    pub condition: Condition,
    /// The state it ended in.
    pub state: TaskState,
    /// When it ended.
    pub ended_at: Timestamp,
    /// In which attempt.
    pub attempt: u32,
    /// What went wrong, if it did.
    pub error: Option<Arc<str>>,
    /// The response, if it ended with one and is still of this generation.
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

    /// Where the task API has the task, if there is one: absolute where the builder was told the public URL.
    #[must_use]
    pub fn location(&self) -> Option<&str> {
        self.location.as_deref()
    }

    /// Whether the task has not been run again since.
    #[must_use]
    pub fn is_current(&self) -> bool {
        self.task.generation == self.generation
    }

    /// The URL that the request named to be told at, if it was let.
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

    /// The method of the request, as the [record](Self::task) has it.
    #[must_use]
    pub fn method(&self) -> &Method {
        &self.task.method
    }

    /// The target of the request; of a long one, the beginning. The whole is in the [request](Self::request).
    #[must_use]
    pub fn uri(&self) -> &RequestTarget {
        &self.task.target
    }

    /// The headers of the request as they were stored, unless that can no longer be read.
    #[must_use]
    pub fn request_headers(&self) -> Option<&HeaderMap> {
        self.request.as_ref().map(|request| &request.headers)
    }

    /// The request as it was stored, unless that can no longer be read.
    #[must_use]
    pub fn request(&self) -> Option<&Arc<CapturedRequest>> {
        self.request.as_ref()
    }
}

/// Shows what a log may show: no headers, no bodies.
impl fmt::Debug for Completion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Completion")
            .field("webhook_id", &self.webhook_id)
            .field("state", &self.state)
            .field("attempt", &self.attempt)
            .finish_non_exhaustive()
    }
}
