//! Accepts tasks that the application submits itself.

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
    /// Stores a task, like an async request over HTTP, and returns after the commit.
    ///
    /// The application that the layer wraps must have a route for the request. [`submit_all`](Self::submit_all) has an
    /// example.
    ///
    /// # Errors
    ///
    /// [`SubmitError`] says why the task was not accepted. After `Store`, it may have been stored: submit it again
    /// under the same name or key to be sure that it is.
    ///
    /// # Cancel safety
    ///
    /// If you drop the future, the task may or may not be stored.
    #[expect(clippy::manual_async_fn, reason = "an async fn keeps its arguments twice")]
    pub fn submit(&self, submission: Submission) -> impl Future<Output = Result<Submitted, SubmitError>> + Send {
        async move {
            let intake = &self.engine().intake;
            let committing = match intake.accept(intake.task_of(submission, Instant::now())?, None) {
                Accepting::Answered(answer) => return Submitted::of(answer?),
                Accepting::Committing(answer) => answer,
            };
            Submitted::of(committing.await?)
        }
    }

    /// Stores many tasks, and returns after the commit with one answer for each, in the same order.
    ///
    /// A store that can, as those of this project, stores them in one step. If several have the same name or key, the
    /// first is new and the others are known.
    ///
    /// # Errors
    ///
    /// [`SubmitError::ShuttingDown`] and [`SubmitError::Store`] concern all tasks. After `Store`, some may have been
    /// stored: submit them again under the same names or keys to be sure that they are. Other errors are in the answer
    /// for their task, and do not affect the other tasks.
    ///
    /// # Cancel safety
    ///
    /// If you drop the future, each of the tasks may or may not be stored.
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
    /// # let answer = |_: Request<RequestBody>| async { Ok::<_,
    /// tower_respond_async::BoxError>(http::Response::new(String::new())) };
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
        let (now, mut refused) = (Instant::now(), Vec::new());
        let tasks = submissions.into_iter().enumerate().filter_map(|(at, submission)| {
            let task = intake.task_of(submission, now);
            task.map_err(|error| refused.push((at, error))).ok()
        });
        let inserted = intake.accept_all(tasks).await?;
        let mut answers: Vec<_> = inserted.into_iter().map(Submitted::of).collect();
        for (at, error) in refused {
            answers.insert(at, Err(error));
        }
        Ok(answers)
    }

    /// Stores a task in your transaction: the task and your other changes are committed together, or not at all.
    ///
    /// `into` is your transaction, wrapped by the crate of the store. Only stores with transactions support this.
    ///
    /// The task is visible and runs only after the commit, in any process. The application that the layer wraps must
    /// have a route for the request. Your transaction alone decides whether the task exists: queue limits do not apply,
    /// and it works during a shutdown.
    ///
    /// # Errors
    ///
    /// [`SubmitError`] says why the task was not stored. After `Store`, roll back the transaction.
    ///
    /// # Cancel safety
    ///
    /// If you drop the future, the task may or may not be part of the transaction: roll the transaction back.
    ///
    /// # Examples
    ///
    /// `transaction` is the return value of `PostgresStore::within` for a transaction of `tokio_postgres` in which the
    /// order was stored.
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
        let task = engine.intake.task_of(submission, Instant::now())?;
        let inserted = engine.core.ledger.insert_in(into, task).await;
        Submitted::of(inserted.map_err(SubmitError::Store)?)
    }

    /// The row of a submission, for the crate of a store that inserts it into a transaction itself.
    ///
    /// # Errors
    ///
    /// [`SubmitError::TooLong`] if a part of the submission does not fit into a record.
    pub fn row_of(&self, submission: Submission) -> Result<NewRow, SubmitError> {
        let engine = self.engine();
        let task = engine.intake.task_of(submission, Instant::now())?;
        Ok(Insert::new(task).into_row(engine.core.ledger.store().now()))
    }
}

impl Intake {
    fn task_of(&self, submission: Submission, now: Instant) -> Result<NewTask, SubmitError> {
        let mut task = NewTask::new(self.core.request_id(now), Arc::new(submission.request));
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

/// A task to submit from inside the application. [`Tasks::submit_all`] has an example.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Submission {
    /// The request for the handler.
    pub request: CapturedRequest,
    /// A name for the task, unique per tenant.
    pub name: Option<TaskName>,
    /// A key that makes a repeated submission harmless, unique per tenant and caller.
    pub key: Option<IdempotencyKey>,
    /// The pool of the task. `None`: the pool that the request matches.
    pub pool: Option<PoolName>,
    /// The tenant of the task.
    pub tenant: Option<Tenant>,
    /// The caller of the task. Use the id that [`RespondAsyncBuilder::caller`](crate::RespondAsyncBuilder::caller)
    /// returns for the requests of this user.
    pub caller: Option<Caller>,
    /// Labels by which to find the task.
    pub labels: Labels,
    /// How long the task waits before it runs.
    pub delay: Duration,
}

impl Submission {
    /// A task for this request, to run as soon as possible.
    #[must_use]
    pub fn new(request: http::Request<bytes::Bytes>) -> Self {
        Self {
            request: request.into(),
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

/// The result of a submission. [`Tasks::submit_all`] has an example.
#[derive(Clone, Debug)]
pub enum Submitted {
    /// The task is new.
    New(Arc<TaskRecord>),
    /// A task with the name or key exists, and nothing was stored.
    ///
    /// This shows the whole task to the application. The answer to a duplicate over HTTP shows less if
    /// [another caller](crate::guide::trust#requests-that-are-sent-twice) may have sent it.
    Known {
        /// The task with that name or key. `None` if it was removed and only its key is kept.
        task: Option<Arc<TaskRecord>>,
        /// The request id of that task.
        id: RequestId,
        /// Whether its request is the same as the one submitted.
        same_request: bool,
    },
}

impl Submitted {
    /// The result for [a row](Tasks::row_of) that the crate of a store has inserted.
    ///
    /// # Errors
    ///
    /// [`SubmitError::Conflict`] or [`SubmitError::Full`], if `insertion` says so.
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

/// Why a submission was not accepted. [`Tasks::submit_all`] has an example.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SubmitError {
    /// The name belongs to one task and the key to another.
    #[error("the name and the key belong to two different tasks")]
    Conflict,
    /// A limit of the queue or the store is reached.
    #[error("there is no room for another task ({0:?})")]
    Full(FullReason),
    /// A part of the submission does not fit into a record. Nothing was stored.
    #[error("a part of the task is too long to be stored")]
    TooLong(#[source] TooLong),
    /// The engine is shutting down.
    #[error("the engine is shutting down")]
    ShuttingDown,
    /// The store did not confirm the task. The task may have been stored.
    #[error("the task could not be stored")]
    Store(#[source] StoreError),
}
