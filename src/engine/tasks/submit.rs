//! Tasks that the application itself submits.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use crate::{
    engine::{Accepting, Tasks, Unaccepted, intake::Intake},
    store::{Enlisted, FullReason, Insert, Inserted, Insertion, NewRow, StoreError},
    task::{
        Caller, CapturedRequest, IdempotencyKey, Labels, NewTask, PoolName, RequestId, TaskName, TaskRecord, Tenant,
        TooLong,
    },
};

impl Tasks {
    /// Stores a task and answers once it is committed, as an async request over HTTP does. The path it names is one of
    /// the application that the layer wraps.
    ///
    /// # Errors
    ///
    /// [`SubmitError`] says why it was not taken in. After `Store` it may have been: submit it again under the same name
    /// or key to be sure.
    ///
    /// # Cancel safety
    ///
    /// Dropped before it answers, the task may or may not have been taken in.
    pub async fn submit(&self, submission: Submission) -> Result<Submitted, SubmitError> {
        let intake = &self.engine().intake;
        let committing = match intake.accept(intake.task_of(submission)?, None) {
            Accepting::Answered(answer) => return Submitted::of(answer?),
            Accepting::Committing(answer) => answer,
        };
        Submitted::of(committing.await?)
    }

    /// Stores many tasks and answers once they are committed: in one step where the store can, as the stores of this crate
    /// do. One answer for each, in order; of the same name or key, the first is new and the others are known.
    ///
    /// # Errors
    ///
    /// [`SubmitError::ShuttingDown`] and [`SubmitError::Store`] are of all of them, and then some may have been taken in:
    /// submit them again under the same names or keys to be sure. Whatever else keeps one out is its own answer, and the
    /// others are not concerned.
    ///
    /// # Cancel safety
    ///
    /// Dropped before it answers, each of them may or may not have been taken in.
    ///
    /// # Examples
    ///
    /// ```
    /// use http::Request;
    /// use tower::{Layer, service_fn};
    /// use tower_respond_async::{MemoryStore, RequestBody, RespondAsyncLayer, Submission, Submitted};
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let layer = RespondAsyncLayer::new(MemoryStore::new())?;
    /// let tasks = layer.tasks();
    /// # let answer = |_: Request<RequestBody>| async { Ok::<_, tower_respond_async::BoxError>(http::Response::new(String::new())) };
    /// # let _app = layer.layer(service_fn(answer));
    /// let films = ["a", "b", "c"].map(|film| {
    ///     let request = Request::post(format!("/transcode/{film}")).body(bytes::Bytes::new());
    ///     request.map(Submission::new)
    /// });
    /// let films = films.into_iter().collect::<Result<Vec<_>, _>>()?;
    /// for submitted in tasks.submit_all(films).await? {
    ///     let Submitted::New(task) = submitted? else { unreachable!("they have neither name nor key") };
    ///     println!("{}", task.id);
    /// }
    /// # Ok(()) }
    /// ```
    pub async fn submit_all(
        &self,
        submissions: Vec<Submission>,
    ) -> Result<Vec<Result<Submitted, SubmitError>>, SubmitError> {
        let intake = &self.engine().intake;
        let (mut tasks, mut refused) = (Vec::with_capacity(submissions.len()), Vec::new());
        for (at, submission) in submissions.into_iter().enumerate() {
            match intake.task_of(submission) {
                Ok(task) => tasks.push(task),
                Err(error) => refused.push((at, error)),
            }
        }
        let inserted = intake.accept_all(tasks).await?;
        let mut answers: Vec<_> = inserted.into_iter().map(Submitted::of).collect();
        for (at, error) in refused {
            answers.insert(at, Err(error));
        }
        Ok(answers)
    }

    /// Stores a task in a transaction of the application, with what else that changes: both or neither. `into` is the
    /// transaction as the store's crate enlists it. A store that has no transactions to share has no such thing.
    ///
    /// The task runs once the transaction is committed, in whichever process is first. Until then nobody else sees it. Its
    /// path is one of the application that the layer wraps. Limits of the queue are not looked at, and the engine may be
    /// shutting down: whether the task is stored is the transaction's business alone.
    ///
    /// # Errors
    ///
    /// [`SubmitError`] says why it was not taken in. After `Store` the transaction is to be rolled back.
    ///
    /// # Cancel safety
    ///
    /// Dropped before it answers, the task may or may not be part of the transaction: roll that back.
    ///
    /// # Examples
    ///
    /// The `transaction` is what `PostgresStore::within` makes of one of `tokio_postgres`, say, which has stored the order.
    ///
    /// ```
    /// use tower_respond_async::{BoxError, Submission, Tasks, store::Enlisted};
    ///
    /// async fn send_mail(tasks: &Tasks, transaction: &mut dyn Enlisted, order: u64) -> Result<(), BoxError> {
    ///     let mail = http::Request::post(format!("/orders/{order}/mail")).body(bytes::Bytes::new())?;
    ///     tasks.submit_in(transaction, Submission::new(mail)).await?;
    ///     Ok(())
    /// }
    /// ```
    pub async fn submit_in(&self, into: &mut dyn Enlisted, submission: Submission) -> Result<Submitted, SubmitError> {
        let engine = self.engine();
        let task = engine.intake.task_of(submission)?;
        let inserted = engine.core.ledger.insert_in(into, task).await;
        Submitted::of(inserted.map_err(SubmitError::Store)?)
    }

    /// The row of a task that would be submitted, for a store's crate that stores it in a transaction by itself.
    ///
    /// # Errors
    ///
    /// [`SubmitError::TooLong`].
    pub fn row_of(&self, submission: Submission) -> Result<NewRow, SubmitError> {
        let engine = self.engine();
        let task = engine.intake.task_of(submission)?;
        Ok(Insert::new(task).into_row(engine.core.ledger.store().now()))
    }
}

impl Intake {
    fn task_of(&self, submission: Submission) -> Result<NewTask, SubmitError> {
        let mut task = NewTask::new(self.core.request_id(Instant::now()), Arc::new(submission.request));
        self.fill_in(&mut task);
        task.name = submission.name;
        task.key = submission.key;
        if task.name.is_some() || task.key.is_some() {
            task.digest = Some(task.request.digest());
        }
        task.pool = match submission.pool {
            Some(pool) => pool,
            None => self.pool_of(&task.request),
        };
        task.tenant = submission.tenant;
        task.caller = submission.caller;
        task.labels = submission.labels;
        task.delay = submission.delay;
        task.check().map_err(SubmitError::TooLong)?;
        Ok(task)
    }
}

/// A task to submit from inside the application.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Submission {
    /// The request that the application will see.
    pub request: CapturedRequest,
    /// A name for the task, unique per tenant.
    pub name: Option<TaskName>,
    /// A key that makes submitting it twice do no harm, unique per tenant and caller.
    pub key: Option<IdempotencyKey>,
    /// The pool it belongs to. `None`: that which the request belongs to.
    pub pool: Option<PoolName>,
    /// Whose it is.
    pub tenant: Option<Tenant>,
    /// Who asks. It is one caller with [`RespondAsyncBuilder::caller`](crate::RespondAsyncBuilder::caller)'s of the same id.
    pub caller: Option<Caller>,
    /// Words to find it by.
    pub labels: Labels,
    /// How long it is to wait before it runs.
    pub delay: Duration,
}

impl Submission {
    /// This request, to be run as soon as possible.
    #[must_use]
    pub fn new(request: http::Request<bytes::Bytes>) -> Self {
        let (head, body) = request.into_parts();
        Self {
            request: CapturedRequest::new(head.method, head.uri, head.headers, body),
            name: None,
            key: None,
            pool: None,
            tenant: None,
            caller: None,
            labels: Labels::default(),
            delay: Duration::ZERO,
        }
    }
}

/// What became of a submission.
#[derive(Clone, Debug)]
pub enum Submitted {
    /// It is a new task.
    New(Arc<TaskRecord>),
    /// Its name or key is known; nothing was stored. Who submits is trusted with what is known: over HTTP, a duplicate that
    /// [another](crate::guide::trust#requests-that-are-sent-twice) may have sent gets less.
    Known {
        /// The task of that name or key, unless it is gone and only its key is remembered.
        task: Option<Arc<TaskRecord>>,
        /// The request id of that task.
        id: RequestId,
        /// Whether its request is the same as the one submitted.
        same_request: bool,
    },
}

impl Submitted {
    /// What a store's crate says became of [a row](Tasks::row_of).
    ///
    /// # Errors
    ///
    /// [`SubmitError::Conflict`] and [`SubmitError::Full`].
    pub fn answered(row: &NewRow, insertion: Insertion) -> Result<Self, SubmitError> {
        Self::of(Inserted::of(insertion, row.record.digest))
    }

    fn of(inserted: Inserted) -> Result<Self, SubmitError> {
        match inserted {
            Inserted::New(record, _) => Ok(Self::New(record)),
            Inserted::Known {
                task, id, same_request, ..
            } => Ok(Self::Known { task, id, same_request }),
            Inserted::Conflict => Err(SubmitError::Conflict),
            Inserted::Full(reason) => Err(SubmitError::Full(reason)),
        }
    }
}

impl From<Unaccepted> for SubmitError {
    fn from(unaccepted: Unaccepted) -> Self {
        match unaccepted {
            Unaccepted::ShuttingDown => Self::ShuttingDown,
            Unaccepted::Store(error) => Self::Store(error),
        }
    }
}

/// Why a submission was not taken in.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SubmitError {
    /// The name and the key are those of two different tasks.
    #[error("the name and the key belong to two different tasks")]
    Conflict,
    /// There is no room.
    #[error("there is no room for another task ({0:?})")]
    Full(FullReason),
    /// A record has no room for all that is said of it. Nothing was stored.
    #[error("the task cannot be kept")]
    TooLong(#[source] TooLong),
    /// The engine is being shut down.
    #[error("the engine is shutting down")]
    ShuttingDown,
    /// The store did not say that it has the task. It may have.
    #[error("the task could not be stored")]
    Store(#[source] StoreError),
}
