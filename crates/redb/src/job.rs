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

/// Makes a job from a closure, and the receiver of its answer.
pub(crate) fn job<T, F>(work: F) -> (Box<dyn Job>, oneshot::Receiver<StoreResult<T>>)
where
    T: Send + 'static,
    F: FnOnce(&mut Batch<'_>) -> Result<T, Fault> + Send + 'static,
{
    let (reply, answer) = oneshot::channel();
    let job = Operation {
        work: Some(work),
        answer: None,
        reply,
    };
    (Box::new(job), answer)
}

struct Operation<F, T> {
    work: Option<F>,
    answer: Option<StoreResult<T>>,
    reply: oneshot::Sender<StoreResult<T>>,
}

impl<F, T> Job for Operation<F, T>
where
    T: Send,
    F: FnOnce(&mut Batch<'_>) -> Result<T, Fault> + Send,
{
    fn run(&mut self, batch: &mut Batch<'_>) -> Result<(), redb::Error> {
        // Taken, so that it does not run twice.
        let Some(work) = self.work.take() else { return Ok(()) };
        self.answer = Some(match work(batch) {
            Ok(answer) => Ok(answer),
            Err(Fault::Answer(error)) => Err(error),
            Err(Fault::Broken(error)) => return Err(error),
        });
        Ok(())
    }

    fn answer(self: Box<Self>, failure: Option<StoreError>) {
        let answer = match (failure, self.answer) {
            (None, Some(answer)) => answer,
            (Some(failure), _) => Err(failure),
            (None, None) => Err(StoreError::closed()),
        };
        // The caller may have given up.
        let _ = self.reply.send(answer);
    }
}
