//! What the engine runs: the service that the layer wrapped, seen as a function from a stored request to a result.

use std::sync::Arc;

use http::Extensions;

use crate::{
    engine::TaskContext,
    error::{BoxError, BoxFuture},
    task::{CapturedRequest, CapturedResponse},
};

/// The wrapped service, its types erased once.
pub(crate) trait Entry: Send + Sync {
    /// Replays `input` on a fresh, readied clone of the service, and reads the response.
    fn replay(
        &self,
        input: Arc<CapturedRequest>,
        context: TaskContext,
    ) -> BoxFuture<'static, Replayed>;
}

/// How a replay ended, panics aside.
pub(crate) type Replayed = Result<Answer, BoxError>;

/// The service's answer.
pub(crate) struct Answer {
    pub(crate) response: CapturedResponse,
    pub(crate) extensions: Extensions,
    /// The body broke off here.
    pub(crate) broken: Option<BoxError>,
}
