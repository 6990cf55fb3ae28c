//! What the engine runs: the service that the layer wrapped, seen as a function from a stored request to a result.

use std::{
    mem::replace,
    sync::Arc,
    task::{Context, Poll},
};

use http::{Extensions, HeaderMap};

use crate::{
    engine::{
        TaskContext,
        attempts::{answering::Answering, running::Live},
    },
    error::{BoxError, BoxFuture},
    task::{CapturedRequest, CapturedResponse},
};

/// The wrapped service, its types erased once.
pub(crate) trait Entry: Send + Sync {
    /// Replays `request` on a fresh, readied clone of the service, and reads the response to its end, putting it into
    /// `answering` as it comes in.
    fn replay(
        self: Arc<Self>,
        request: CapturedRequest,
        context: TaskContext,
        answering: Answering,
    ) -> BoxFuture<'static, Replayed>;
}

/// A replay, from when it is decided on.
pub(crate) enum Replay {
    /// It is begun when it is polled first: on the thread that runs it, inside the scopes of the probes.
    Waiting {
        entry: Arc<dyn Entry>,
        request: Arc<CapturedRequest>,
        live: Arc<Live>,
    },
    Begun(BoxFuture<'static, Replayed>),
    /// There is nothing to run, or no more.
    Over,
}

impl Replay {
    /// Runs it on. After a panic it must not be polled again.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Replayed> {
        if let Self::Waiting { .. } = self
            && let Self::Waiting { entry, request, live } = replace(self, Self::Over)
        {
            let context = TaskContext::attached(live.clone());
            *self = Self::Begun(entry.replay(Arc::unwrap_or_clone(request), context, Answering::of(live)));
        }
        match self {
            Self::Begun(replay) => replay.as_mut().poll(cx),
            Self::Waiting { .. } | Self::Over => Poll::Ready(Err("there is nothing to run".into())),
        }
    }
}

/// How a replay ended, panics aside.
pub(crate) type Replayed = Result<Answer, BoxError>;

/// The service's answer.
pub(crate) struct Answer {
    pub(crate) response: CapturedResponse,
    pub(crate) extensions: Extensions,
    /// What came behind the body. Looked at, and not kept.
    pub(crate) trailers: Option<HeaderMap>,
    pub(crate) end: BodyEnd,
}

/// How the body of an answer ended.
pub(crate) enum BodyEnd {
    /// By itself.
    Over,
    /// It broke off.
    BrokenOff(BoxError),
    /// The attempt's time was over before.
    OutOfTime,
}
