//! [`TaskContext`]: what a handler can read and report about its task.

use std::{fmt, sync::Arc, time::Instant};

use http::{HeaderMap, HeaderValue};

use crate::{
    engine::attempts::running::Live,
    task::{FenceToken, Progress, RequestId, TaskName, own::DEPTH},
};

/// The task whose request a handler serves: an extension of every replayed request, and an axum extractor.
///
/// A synchronous request has no task. For it the extractor returns a *detached* context, whose methods do nothing. So
/// one handler can serve both:
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
///
/// Do not use headers such as `X-Respond-Async-Attempt` in a handler instead. The layer sets them on a replay, but on a
/// synchronous request they have the values that the client sent.
#[derive(Clone, Default)]
pub struct TaskContext(Option<Arc<Live>>);

impl TaskContext {
    pub(crate) const fn attached(live: Arc<Live>) -> Self {
        Self(Some(live))
    }

    /// A context without a task, for synchronous requests and for tests.
    #[must_use]
    pub const fn detached() -> Self {
        Self(None)
    }

    /// The context of a request with these extensions. It is detached unless the request is a replay.
    #[must_use]
    pub fn of(extensions: &http::Extensions) -> Self {
        extensions.get().cloned().unwrap_or_default()
    }

    /// Whether the request runs as a task.
    #[must_use]
    pub const fn is_task(&self) -> bool {
        self.0.is_some()
    }

    /// The task id: the name that the client gave, or else the request id. `None` if detached.
    #[must_use]
    pub fn task_id(&self) -> Option<String> {
        let live = self.0.as_ref()?;
        Some(match &live.name {
            Some(name) => name.to_string(),
            None => live.lease.id.to_string(),
        })
    }

    /// The request id of the task. `None` if detached.
    #[must_use]
    pub fn request_id(&self) -> Option<RequestId> {
        self.0.as_ref().map(|live| live.lease.id)
    }

    pub(crate) fn name(&self) -> Option<&TaskName> {
        self.0.as_ref()?.name.as_ref()
    }

    /// The number of this attempt, from 1; 0 if detached. After an attempt that was not charged, the next attempt has
    /// the same number.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.0.as_ref().map_or(0, |live| live.attempt)
    }

    /// The time at which this attempt times out, by tokio's clock, which a test may pause. `None` if detached.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.0.as_ref().map(|live| live.times_out_at.into_std())
    }

    /// A number that grows with every claim of this task. `None` if detached.
    ///
    /// Send it along with side effects, and let the receiver refuse a number lower than the greatest that it has
    /// received. Then an old attempt that still runs can do no harm.
    #[must_use]
    pub fn fence_token(&self) -> Option<FenceToken> {
        self.0.as_ref().map(|live| live.lease.token)
    }

    /// Reports progress: a fraction between 0 and 1, and a message. The latest report replaces earlier ones.
    ///
    /// Progress is stored at most once a second.
    pub fn progress(&self, fraction: f32, message: impl AsRef<str>) {
        if let Some(live) = &self.0 {
            live.report(Progress::new(fraction, message.as_ref()));
        }
    }

    /// Whether the handler should end, because the task was stopped or the process shuts down. `false` if detached.
    ///
    /// A handler need not distinguish the two: a task that a shutdown interrupts runs again in another process.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.0.as_ref().is_some_and(|live| live.is_cancelled())
    }

    /// Resolves when the handler should end; never if detached.
    ///
    /// A handler that has not ended after the stop grace is dropped.
    ///
    /// A handler that ends early should answer with a failure, such as 503. Then a stopped task ends as `Stopped`, and
    /// in a shutdown the task is handed back to run again. An answer that counts as success ends the task as
    /// `Succeeded`, also in a shutdown.
    ///
    /// # Cancel safety
    ///
    /// Only waits, so dropping the future has no effect. It owns its data, so you can move it into a spawned task.
    pub fn stopped(&self) -> impl Future<Output = ()> + Send + use<> {
        let live = self.0.clone();
        async move {
            match live {
                Some(live) => live.cancelled().await,
                None => std::future::pending().await,
            }
        }
    }

    /// Adds the depth of this task as a header to an outgoing request. Does nothing if detached.
    ///
    /// A layer that receives the request gives its task a greater depth, and refuses it beyond a maximum. So a chain of
    /// tasks that submit tasks does not go on for ever.
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
