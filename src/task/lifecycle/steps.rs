//! The arguments and results of the steps of a record.

use std::{sync::Arc, time::Duration};

use http::{HeaderMap, Uri};

#[cfg(doc)]
use crate::task::lifecycle::DEFERRALS;
use crate::task::{CapturedRequest, CapturedResponse, Step, TaskState};

/// How an attempt ended.
///
/// See the example of [`TaskRecord`](crate::TaskRecord).
#[derive(Clone, Debug)]
pub enum Outcome {
    /// With a response that counts as success.
    Succeeded {
        /// The response.
        response: Arc<CapturedResponse>,
    },
    /// For good, without success.
    Failed {
        /// The error.
        error: Arc<str>,
        /// The response, if there was one.
        response: Option<Arc<CapturedResponse>>,
    },
    /// Without success; another attempt follows.
    Retry {
        /// How long to wait before it.
        after: Duration,
        /// The error.
        error: Arc<str>,
    },
    /// With "not now": another attempt follows, and none is charged. At most [`DEFERRALS`] times in a generation.
    Deferred {
        /// How long to wait before it.
        after: Duration,
        /// The handler's answer.
        error: Arc<str>,
    },
    /// Without its route, in a process of another version of the application than the one that accepted it: another
    /// attempt follows, for a process of that version, and none is charged. For as long as
    /// [`version_to_wait_for`](crate::TaskRecord::version_to_wait_for) returns a version.
    HandedOn {
        /// The answer, and the version that gave it.
        error: Arc<str>,
    },
    /// After a stop was requested.
    Stopped,
    /// Without an end: handed back, as if it had not been claimed.
    Released,
}

impl Outcome {
    pub(super) const fn step(&self) -> Step {
        match self {
            Self::Succeeded { .. } => Step::Succeed,
            Self::Failed { .. } => Step::Fail,
            Self::Retry { .. } => Step::Retry,
            Self::Deferred { .. } | Self::HandedOn { .. } => Step::Defer,
            Self::Stopped => Step::Stopped,
            Self::Released => Step::Release,
        }
    }

    /// The response of the attempt, whether it is kept or not.
    #[must_use]
    pub const fn response(&self) -> Option<&Arc<CapturedResponse>> {
        match self {
            Self::Succeeded { response } => Some(response),
            Self::Failed { response, .. } => response.as_ref(),
            _ => None,
        }
    }

    /// Whether the response is kept if the task ends as `state`. A stopped task keeps none.
    #[must_use]
    pub const fn is_kept_as(&self, state: TaskState) -> bool {
        matches!(
            (self, state),
            (Self::Succeeded { .. }, TaskState::Succeeded) | (Self::Failed { .. }, TaskState::Failed)
        )
    }
}

/// The claim no longer holds the task, or the delivery. Nothing was changed.
///
/// See the example of [`Rescue`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the claim is no longer held")]
pub struct Fenced;

/// The result of a renewal.
///
/// See the example of [`Rescue`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Renewal {
    /// The claim holds for another lease.
    Renewed {
        /// Whether a stop was requested.
        stop: bool,
    },
    /// The claim is lost: its lease ran out, or the task was claimed again or ended.
    Lost,
}

/// The result of a rescue: what became of a task whose lease or age may have run out.
///
/// # Examples
///
/// A worker renews its claim once, and then no more:
///
/// ```
/// use std::time::Duration;
///
/// use http::{HeaderMap, Method, Uri};
/// use tower_respond_async::{
///     RequestId, TaskRecord,
///     task::{CapturedRequest, NewTask, WorkerId, lifecycle::{Fenced, Outcome, Renewal, Rescue}},
///     time::Timestamp,
/// };
///
/// let (uri, at) = (Uri::from_static("/mail"), Timestamp::from_millis);
/// let request = CapturedRequest::new(Method::POST, uri, HeaderMap::new(), "hello".into());
/// let task = NewTask::new(RequestId::from_bytes([7; 16]), request.into());
/// let (mut record, term) = (TaskRecord::accepted(&task, at(0)), Duration::from_secs(30));
///
/// let lost = record.claim(WorkerId::new("web-1", 1), term, at(0))?;
/// assert_eq!(record.renew(lost.token, term, at(10_000)), Renewal::Renewed { stop: false });
/// assert_eq!(record.rescue(at(39_999)), Rescue::NotDue);
/// assert_eq!(record.rescue(at(40_000)), Rescue::Requeued);
/// assert_eq!(record.renew(lost.token, term, at(40_001)), Renewal::Lost);
/// assert_eq!(record.settle(lost.token, &Outcome::Released, at(40_001)), Err(Fenced));
/// # Ok::<_, tower_respond_async::task::Refused>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Rescue {
    /// Neither ran out: nothing was changed.
    NotDue,
    /// The task waits again, with one more crash on its count.
    Requeued,
    /// It crashed too often, and failed.
    Poisoned,
    /// A stop had been requested, and it ended as stopped.
    Stopped,
    /// It waited too long, and expired.
    Expired,
}

/// The result of a request to stop a task.
///
/// See the example of [`Rerun`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
#[non_exhaustive]
pub enum Stop {
    /// The task was waiting, and has ended.
    Stopped,
    /// It is running; its worker finds the request at its next renewal.
    Stopping,
    /// It had already ended, in this state.
    AlreadyEnded(TaskState),
}

/// The result of a request to run a task again.
///
/// # Examples
///
/// A task is stopped while it waits, and run again with another target:
///
/// ```
/// use std::time::Duration;
///
/// use http::{Request, Uri};
/// use tower_respond_async::{
///     MemoryStore, RespondAsyncLayer, Submission, Submitted,
///     task::lifecycle::{Edits, Rerun, Stop},
/// };
/// # use tower::Layer;
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let layer = RespondAsyncLayer::new(MemoryStore::new())?;
/// # let _app = layer.layer(axum::Router::<()>::new());
/// let tasks = layer.tasks();
/// let mut mail = Submission::new(Request::post("/mail?to=anna").body("hello".into())?);
/// mail.delay = Duration::from_secs(60);
/// let Submitted::New(task) = tasks.submit(mail).await? else { unreachable!("it has neither name nor key") };
///
/// assert_eq!(tasks.stop(task.id).await?, Stop::Stopped);
/// let edits = Edits::default().uri(Uri::from_static("/mail?to=bert"));
/// assert_eq!(tasks.rerun(task.id, edits).await?, Rerun::Enqueued { generation: 2 });
/// # Ok(()) }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
#[non_exhaustive]
pub enum Rerun {
    /// The task waits again, in this generation.
    Enqueued {
        /// The generation.
        generation: u32,
    },
    /// It has not ended, and is in this state.
    NotEnded(TaskState),
    /// More than [`UNDELIVERED`](crate::task::lifecycle::UNDELIVERED) completions of the task are pending. It can be
    /// run again once enough of them were delivered or given up.
    Undelivered,
}

/// Changes to a request before it is run again.
///
/// See the example of [`Rerun`].
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Edits {
    /// The new target.
    pub uri: Option<Uri>,
    /// The new headers; they replace all others.
    pub headers: Option<HeaderMap>,
    /// The new body.
    pub body: Option<bytes::Bytes>,
}

impl Edits {
    /// Sets the target.
    #[must_use]
    pub fn uri(mut self, uri: Uri) -> Self {
        self.uri = Some(uri);
        self
    }

    /// Sets the headers; they replace all others.
    #[must_use]
    pub fn headers(mut self, headers: HeaderMap) -> Self {
        self.headers = Some(headers);
        self
    }

    /// Sets the body.
    #[must_use]
    pub fn body(mut self, body: impl Into<bytes::Bytes>) -> Self {
        self.body = Some(body.into());
        self
    }

    /// Whether there are no changes.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.uri.is_none() && self.headers.is_none() && self.body.is_none()
    }

    /// The request with these changes.
    #[must_use]
    pub fn apply(self, request: &CapturedRequest) -> CapturedRequest {
        CapturedRequest {
            uri: self.uri.unwrap_or_else(|| request.uri.clone()),
            headers: self.headers.unwrap_or_else(|| request.headers.clone()),
            body: self.body.unwrap_or_else(|| request.body.clone()),
            method: request.method.clone(),
            depth: request.depth,
            carried: request.carried.clone(),
        }
    }
}
