//! What the engine runs: the service that the layer wrapped, seen as a function from a stored request to a result.

use http::{Extensions, HeaderMap};

use crate::{
    engine::{TaskContext, answering::Answering},
    error::{BoxError, BoxFuture},
    task::{CapturedRequest, CapturedResponse},
};

/// The wrapped service, its types erased once.
pub(crate) trait Entry: Send + Sync {
    /// Replays `input` on a fresh, readied clone of the service, and reads the response to its end, putting it into
    /// `answering` as it comes in.
    fn replay(
        &self,
        input: CapturedRequest,
        context: TaskContext,
        answering: Answering,
    ) -> BoxFuture<'static, Replayed>;
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
