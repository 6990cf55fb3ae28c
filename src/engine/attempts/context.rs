//! What a handler can read and report about its task.

use std::{fmt, sync::Arc, time::Instant};

use http::{HeaderMap, HeaderValue};

use crate::{
    engine::attempts::running::Live,
    task::{FenceToken, Progress, RequestId, TaskName, own::DEPTH},
};

/// The task that a request runs as: an extension of every replayed request, and an axum extractor.
///
/// Use this in a handler, and not the headers: on a synchronous request, `X-Respond-Async-Attempt` and the like have
/// the values that the client sent. On a replay they have this crate's own.
///
/// A synchronous request has no task. The extractor then gives a *detached* context, on which every call works and has
/// no effect. So one handler serves both ways:
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

    /// A context without a task: for synchronous requests and for tests.
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

    /// The number of this attempt, from 1; 0 if detached. The attempt after one that was handed back or deferred has
    /// the same number.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.0.as_ref().map_or(0, |live| live.attempt)
    }

    /// When this attempt is cut off, by tokio's clock, which a test may pause.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.0.as_ref().map(|live| live.times_out_at.into_std())
    }

    /// A number that grows with every claim of this task. Send it along with side effects, and let the receiver refuse
    /// a number lower than the greatest that it has seen. Then an old attempt that still runs can do no harm.
    #[must_use]
    pub fn fence_token(&self) -> Option<FenceToken> {
        self.0.as_ref().map(|live| live.lease.token)
    }

    /// Reports the progress: a fraction between 0 and 1, and a message. The latest report wins. It is stored at most
    /// once a second.
    pub fn progress(&self, fraction: f32, message: impl AsRef<str>) {
        if let Some(live) = &self.0 {
            live.report(Progress::new(fraction, message.as_ref()));
        }
    }

    /// Whether the handler should end, because the task was stopped or the process shuts down. The two are the same to
    /// a handler. After a shutdown, the task runs again in another process.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.0.as_ref().is_some_and(|live| live.is_cancelled())
    }

    /// Resolves when the handler should end; never if detached. A handler that has not ended after the stop grace is
    /// dropped.
    ///
    /// A handler that ends early should answer with a failure, such as 503. Then a stopped task is `Stopped`, and the
    /// task of a process that shuts down is handed back to run again. An answer that counts as success ends the task as
    /// `Succeeded`, also in a shutdown.
    ///
    /// # Cancel safety
    ///
    /// Only waits, so dropping it has no effect. The future owns its data, so you can move it into a spawned task.
    pub fn stopped(&self) -> impl Future<Output = ()> + Send + use<> {
        let live = self.0.clone();
        async move {
            match live {
                Some(live) => live.cancelled().await,
                None => std::future::pending().await,
            }
        }
    }

    /// Adds a header to an outgoing request that tells a layer the depth of this task. A chain of tasks that submit
    /// tasks ends at a maximum depth instead of going on for ever.
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
