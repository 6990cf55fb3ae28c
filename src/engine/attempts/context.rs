//! What a handler can know and say about the task it works on.

use std::{fmt, sync::Arc, time::Instant};

use http::{HeaderMap, HeaderValue};

use crate::{
    engine::attempts::running::Live,
    task::{FenceToken, Progress, RequestId, TaskName, own::DEPTH},
};

/// The task that a request runs as: an extension of every replayed request, and an axum extractor.
///
/// This, and not the headers, is what a handler believes: on a synchronous request, `X-Respond-Async-Attempt` and the
/// like are whatever a client wrote, and go through untouched. On a replay they are this crate's own.
///
/// On a request that is answered synchronously there is no task: the extractor gives a *detached* context, for which
/// everything works and nothing happens. So one handler serves both ways:
///
/// ```
/// use tower_respond_async::TaskContext;
///
/// async fn count(task: TaskContext) -> &'static str {
///     for step in 0..10 {
///         if task.is_stopped() {
///             return "stopped";
///         }
///         task.progress(step as f32 / 10.0, "counting");
///     }
///     "counted"
/// }
/// # assert!(TaskContext::detached().task_id().is_none());
/// # drop(count(TaskContext::detached()));
/// ```
#[derive(Clone, Default)]
pub struct TaskContext(Option<Arc<Live>>);

impl TaskContext {
    pub(crate) const fn attached(live: Arc<Live>) -> Self {
        Self(Some(live))
    }

    /// A context without a task: what a handler sees of itself on a synchronous request, or in a test.
    #[must_use]
    pub const fn detached() -> Self {
        Self(None)
    }

    /// The context of a request with these extensions: detached unless it is a replay.
    #[must_use]
    pub fn of(extensions: &http::Extensions) -> Self {
        extensions.get().cloned().unwrap_or_default()
    }

    /// Whether the request runs as a task.
    #[must_use]
    pub const fn is_task(&self) -> bool {
        self.0.is_some()
    }

    /// The task id: the client's name for the task, or else its request id.
    #[must_use]
    pub fn task_id(&self) -> Option<String> {
        let live = self.0.as_ref()?;
        Some(match &live.name {
            Some(name) => name.to_string(),
            None => live.lease.id.to_string(),
        })
    }

    /// The request id of the task.
    #[must_use]
    pub fn request_id(&self) -> Option<RequestId> {
        self.0.as_ref().map(|live| live.lease.id)
    }

    pub(crate) fn name(&self) -> Option<&TaskName> {
        self.0.as_ref()?.name.as_ref()
    }

    /// The number of this attempt, from 1; 0 when detached. The run after one that was handed back, or that said "not now",
    /// has the same number.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.0.as_ref().map_or(0, |live| live.attempt)
    }

    /// When this attempt will be cut off: by tokio's clock, which in a test may stand still.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.0.as_ref().map(|live| live.times_out_at.into_std())
    }

    /// A number that grows with every claim of this task. Send it along with side effects, and have the receiver refuse
    /// an older one than it has seen: then an attempt that was given up but still runs can do no harm.
    #[must_use]
    pub fn fence_token(&self) -> Option<FenceToken> {
        self.0.as_ref().map(|live| live.lease.token)
    }

    /// Says how far the work is, between 0 and 1, and what is being done. The latest report wins; it is stored at most
    /// once a second.
    pub fn progress(&self, fraction: f32, message: impl AsRef<str>) {
        if let Some(live) = &self.0 {
            live.report(Progress::new(fraction, message.as_ref()));
        }
    }

    /// Whether the task should end: it was stopped, or the process shuts down. Not told apart, since either way the work
    /// is not wanted now; after a shutdown the task runs again elsewhere.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.0.as_ref().is_some_and(|live| live.is_cancelled())
    }

    /// Resolves when the task should end; never when detached. What has not ended after the stop grace is dropped.
    ///
    /// A handler that ends early should answer with a failure, such as 503: then a stopped task is `Stopped`, and one whose
    /// process shuts down is handed back to run again. Whatever counts as success ends the task as `Succeeded` in a
    /// shutdown: the handler says that its work is done.
    ///
    /// # Cancel safety
    ///
    /// Waits only. Owned, so that it can be moved into a spawned task.
    pub fn stopped(&self) -> impl Future<Output = ()> + Send + use<> {
        let live = self.0.clone();
        async move {
            match live {
                Some(live) => live.cancelled().await,
                None => std::future::pending().await,
            }
        }
    }

    /// Adds to the headers of an outgoing request what the layer needs to know that it came from this task: a chain of
    /// tasks that submit tasks is cut off at some depth instead of going round for ever.
    pub fn propagate(&self, headers: &mut HeaderMap) {
        if let Some(live) = &self.0 {
            headers.insert(DEPTH, HeaderValue::from(u16::from(live.depth)));
        }
    }
}

impl fmt::Debug for TaskContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Some(live) => write!(f, "TaskContext({}, attempt {})", live.lease.id, live.attempt),
            None => f.write_str("TaskContext(detached)"),
        }
    }
}

#[cfg(feature = "axum")]
mod extractor {
    use std::convert::Infallible;

    use axum::extract::FromRequestParts;

    use super::TaskContext;

    impl<S: Sync> FromRequestParts<S> for TaskContext {
        type Rejection = Infallible;

        async fn from_request_parts(parts: &mut http::request::Parts, _: &S) -> Result<Self, Infallible> {
            Ok(Self::of(&parts.extensions))
        }
    }
}
