//! The wrapped service, as a function from a stored request to a response.

use std::{
    mem::replace,
    sync::Arc,
    task::{Context, Poll},
};

use http::{Extensions, HeaderMap};

use crate::{
    engine::{
        TaskContext,
        attempts::{answer_buffer::AnswerWriter, running::Live},
    },
    error::{BoxError, BoxFuture},
    task::{CapturedRequest, CapturedResponse},
};

/// The wrapped service, with its types erased.
pub(crate) trait Entry: Send + Sync {
    /// Replays `request` on a new clone of the service, once the clone is ready. Reads the response to its end, and
    /// writes it to `answer` as it arrives.
    fn replay(
        self: Arc<Self>,
        request: CapturedRequest,
        context: TaskContext,
        answer: AnswerWriter,
    ) -> BoxFuture<'static, Replayed>;
}

/// A replay, before and after it begins.
pub(crate) enum Replay {
    /// The replay begins at the first poll, on the thread that runs it and inside the scopes of the probes.
    Waiting {
        entry: Arc<dyn Entry>,
        request: Arc<CapturedRequest>,
        live: Arc<Live>,
    },
    Begun(BoxFuture<'static, Replayed>),
    /// Nothing is left to run.
    Over,
}

impl Replay {
    /// Polls the replay, and begins it before that if necessary. Do not poll it again after a panic.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Replayed> {
        if let Self::Waiting { .. } = self
            && let Self::Waiting { entry, request, live } = replace(self, Self::Over)
        {
            let context = TaskContext::attached(live.clone());
            *self = Self::Begun(entry.replay(Arc::unwrap_or_clone(request), context, AnswerWriter::of(live)));
        }
        match self {
            Self::Begun(replay) => replay.as_mut().poll(cx),
            Self::Waiting { .. } | Self::Over => Poll::Ready(Err("there is nothing to run".into())),
        }
    }
}

/// The result of a replay that did not panic: how the body of its answer ended. The answer is in the
/// attempt's [`AnswerBuffer`](super::answer_buffer::AnswerBuffer).
pub(crate) type Replayed = Result<BodyEnd, BoxError>;

/// The service's answer.
pub(crate) struct Answer {
    pub(crate) response: CapturedResponse,
    pub(crate) extensions: Extensions,
    /// The trailers, which are used to judge the attempt and are not stored.
    pub(crate) trailers: Option<Box<HeaderMap>>,
    pub(crate) end: BodyEnd,
}

/// How the body of an answer ended.
pub(crate) enum BodyEnd {
    /// The body is complete.
    Over,
    /// The body ended with an error.
    BrokenOff(BoxError),
    /// The attempt timed out before the end of the body.
    OutOfTime,
}
