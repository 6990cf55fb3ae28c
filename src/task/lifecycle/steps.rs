//! What goes into a step of a record's life, and what comes out.

use std::{sync::Arc, time::Duration};

use http::{HeaderMap, Uri};

#[cfg(doc)]
use crate::task::lifecycle::DEFERRALS;
use crate::task::{CapturedRequest, CapturedResponse, Step, TaskState};

/// How an attempt ended.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// With a response that counts as success.
    Succeeded {
        /// The response.
        response: Arc<CapturedResponse>,
    },
    /// For good, without success.
    Failed {
        /// What went wrong.
        error: Arc<str>,
        /// The response, if there was one.
        response: Option<Arc<CapturedResponse>>,
    },
    /// Without success, to be tried again.
    Retry {
        /// How long to wait first.
        after: Duration,
        /// What went wrong.
        error: Arc<str>,
    },
    /// With "not now": to be tried again, and charged as no attempt. For at most [`DEFERRALS`] times in a generation.
    Deferred {
        /// How long to wait first.
        after: Duration,
        /// What was said.
        error: Arc<str>,
    },
    /// Without its route, in a process of another version of the application than accepted it: to be tried again, and charged
    /// as no attempt, where that version may be. For as long as
    /// [`version_to_wait_for`](crate::TaskRecord::version_to_wait_for) says.
    HandedOn {
        /// What was said, and by whom.
        error: Arc<str>,
    },
    /// Because it was asked to stop.
    Stopped,
    /// Not at all: handed back, as if it had not been claimed.
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

    /// The response it brings, whether it is to be kept or not.
    #[must_use]
    pub const fn response(&self) -> Option<&Arc<CapturedResponse>> {
        match self {
            Self::Succeeded { response } => Some(response),
            Self::Failed { response, .. } => response.as_ref(),
            _ => None,
        }
    }

    /// Whether its response is kept if the task ends as `state`: a stopped task keeps none.
    #[must_use]
    pub const fn is_kept_as(&self, state: TaskState) -> bool {
        matches!(
            (self, state),
            (Self::Succeeded { .. }, TaskState::Succeeded) | (Self::Failed { .. }, TaskState::Failed)
        )
    }
}

/// The write came from a holder that no longer holds the task. Nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the claim is no longer held")]
pub struct Fenced;

/// What a renewal found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Renewal {
    /// The claim holds for another lease.
    Renewed {
        /// Somebody asked for the task to stop.
        stop: bool,
    },
    /// The claim is gone: its lease ran out, or somebody else has it.
    Lost,
}

/// What became of a task whose lease or age ran out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Rescue {
    /// It is fine: nothing was changed.
    NotDue,
    /// It waits again, with a crash on its count.
    Requeued,
    /// It crashed too often and failed.
    Poisoned,
    /// It was to be stopped, and is.
    Stopped,
    /// It waited too long.
    Expired,
}

/// What a request to stop did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
#[non_exhaustive]
pub enum Stop {
    /// It was waiting, and has ended.
    Stopped,
    /// It is running, and its worker will be told.
    Stopping,
    /// It had ended before, in this state.
    AlreadyEnded(TaskState),
}

/// What a request to run a task again did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
#[non_exhaustive]
pub enum Rerun {
    /// It waits again, as this generation.
    Enqueued {
        /// The generation.
        generation: u32,
    },
    /// It has not ended: it is in this state.
    NotEnded(TaskState),
    /// Too many completions of its runs are still to be told: more than
    /// [`UNDELIVERED`](crate::task::lifecycle::UNDELIVERED). It can be run again when some are, or were given up.
    Undelivered,
}

/// What to change about a request before it is run again.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Edits {
    /// Another target.
    pub uri: Option<Uri>,
    /// Other headers, instead of all of them.
    pub headers: Option<HeaderMap>,
    /// Another body.
    pub body: Option<bytes::Bytes>,
}

impl Edits {
    /// Another target.
    #[must_use]
    pub fn uri(mut self, uri: Uri) -> Self {
        self.uri = Some(uri);
        self
    }

    /// These headers, instead of all of them.
    #[must_use]
    pub fn headers(mut self, headers: HeaderMap) -> Self {
        self.headers = Some(headers);
        self
    }

    /// Another body.
    #[must_use]
    pub fn body(mut self, body: impl Into<bytes::Bytes>) -> Self {
        self.body = Some(body.into());
        self
    }

    /// Whether nothing is changed.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.uri.is_none() && self.headers.is_none() && self.body.is_none()
    }

    /// The request with the changes made.
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
