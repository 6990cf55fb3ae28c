//! One operation for the writer, and whoever waits for its answer.

use tokio::sync::oneshot;

use crate::{batch::Batch, fault::Fault};
use tower_respond_async::store::{StoreError, StoreResult};

/// One operation, and whoever waits for its answer.
pub(crate) trait Job: Send {
    /// Does it, as part of a batch. An error means that the batch cannot be committed.
    fn run(&mut self, batch: &mut Batch<'_>) -> Result<(), redb::Error>;

    /// Answers, once the batch is durable; or with what kept it from becoming so.
    fn answer(self: Box<Self>, failure: Option<StoreError>);
}

/// A job made of a closure, and the place where its answer is waited for.
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
        // Taken, so that nothing is ever done twice.
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
        // Whoever asked may have given up.
        let _ = self.reply.send(answer);
    }
}
