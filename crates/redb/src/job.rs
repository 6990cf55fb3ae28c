//! Operations for the writer.

use tokio::sync::oneshot;

use crate::{batch::Batch, fault::Fault};
use tower_respond_async::store::{StoreError, StoreResult};

/// An operation for the writer, and the channel of its answer.
pub(crate) trait Job: Send {
    /// Runs the operation as part of a batch. After an error the batch must not be committed.
    fn run(&mut self, batch: &mut Batch<'_>) -> Result<(), redb::Error>;

    /// Sends the answer once the batch is durable, or the error that prevented it.
    fn answer(self: Box<Self>, failure: Option<StoreError>);
}

/// Makes a job from a closure, and the receiver of the answered operation.
///
/// The operation goes back to the caller with all that its closure owns, so that the caller frees it: all operations
/// share one writer, and memory of another thread is expensive to free.
pub(crate) fn job<T, F>(work: F) -> (Box<dyn Job>, Answered<T, F>)
where
    T: Send + 'static,
    F: Fn(&mut Batch<'_>) -> Result<T, Fault> + Send + 'static,
{
    let (reply, answered) = oneshot::channel();
    let job = Operation {
        work,
        answer: None,
        reply: Some(reply),
    };
    (Box::new(job), answered)
}

/// Receives an operation with its answer.
type Answered<T, F> = oneshot::Receiver<Box<Operation<T, F>>>;

pub(crate) struct Operation<T, F> {
    work: F,
    answer: Option<StoreResult<T>>,
    /// Taken by the answer.
    reply: Option<oneshot::Sender<Box<Self>>>,
}

impl<T, F> Operation<T, F> {
    /// The answer of an answered operation.
    pub(crate) fn into_answer(self) -> StoreResult<T> {
        self.answer.unwrap_or_else(|| Err(StoreError::closed()))
    }
}

impl<T, F> Job for Operation<T, F>
where
    T: Send,
    F: Fn(&mut Batch<'_>) -> Result<T, Fault> + Send,
{
    fn run(&mut self, batch: &mut Batch<'_>) -> Result<(), redb::Error> {
        self.answer = Some(match (self.work)(batch) {
            Ok(answer) => Ok(answer),
            Err(Fault::Answer(error)) => Err(error),
            Err(Fault::Broken(error)) => return Err(error),
        });
        Ok(())
    }

    fn answer(mut self: Box<Self>, failure: Option<StoreError>) {
        if let Some(failure) = failure {
            self.answer = Some(Err(failure));
        }
        if let Some(reply) = self.reply.take() {
            // The caller may have given up.
            let _ = reply.send(self);
        }
    }
}
