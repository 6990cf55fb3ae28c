//! [`Tasks`]: the handle an application watches and steers its tasks with.

use std::{
    fmt,
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

use tokio::time::sleep_until;

use crate::{
    engine::{Engine, ShutdownReport, SlotStats, Stats, Unaccepted, attempt::Input, node::Hint},
    store::{Delete, FullReason, Inserted, LogQuery, StoreError},
    task::{
        CapturedRequest, CapturedResponse, Filter, IdempotencyKey, LogLine, NewTask, Page, PageOf, RequestId, Scope,
        TaskName, TaskRecord, TaskRef, Tenant,
        lifecycle::{Edits, Rerun, Stop},
        record::Labels,
    },
};

/// The tasks behind a layer: look at them, wait for them, stop and re-run them. Cheap to clone.
///
/// A `Tasks` keeps its engine alive. Inside the application that the layer wraps, say in axum's `State`, keep a
/// [`WeakTasks`] instead, as the task API does: the engine owns the application, and the two would own each other until
/// [`shutdown`](Self::shutdown).
///
/// Every method takes a [`Scope`]: whose tasks the caller may see. [`Scope::All`] is everybody's.
#[derive(Clone)]
pub struct Tasks {
    alive: Arc<Alive>,
}

/// Keeps an engine going: held by the layer, its services and every [`Tasks`]. With the last of them the engine ends.
pub(crate) struct Alive(pub(crate) Arc<Engine>);

impl Drop for Alive {
    fn drop(&mut self) {
        self.0.abandon();
    }
}

impl Tasks {
    pub(crate) fn new(alive: Arc<Alive>) -> Self {
        Self { alive }
    }

    pub(super) fn engine(&self) -> &Arc<Engine> {
        &self.alive.0
    }

    /// A handle that does not keep the engine alive.
    #[must_use]
    pub fn downgrade(&self) -> WeakTasks {
        WeakTasks {
            alive: Arc::downgrade(&self.alive),
        }
    }

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
        let engine = self.engine();
        let mut task = NewTask::new(engine.request_id(Instant::now()), Arc::new(submission.request));
        engine.fill_in(&mut task);
        task.name = submission.name;
        task.key = submission.key;
        if task.name.is_some() || task.key.is_some() {
            task.digest = Some(task.input.digest());
        }
        task.tenant = submission.tenant;
        task.labels = submission.labels;
        task.delay = submission.delay;
        match engine.accept(task, None).await {
            Ok(Inserted::New(record)) => Ok(Submitted::New(record)),
            Ok(Inserted::Known {
                task, id, same_request, ..
            }) => Ok(Submitted::Known { task, id, same_request }),
            Ok(Inserted::Conflict) => Err(SubmitError::Conflict),
            Ok(Inserted::Full(reason)) => Err(SubmitError::Full(reason)),
            Err(Unaccepted::ShuttingDown) => Err(SubmitError::ShuttingDown),
            Err(Unaccepted::Store(error)) => Err(SubmitError::Store(error)),
        }
    }

    /// The task of this id or name, if it is in `scope`.
    ///
    /// # Errors
    ///
    /// The store's; `Conflict` if tasks of several tenants in `scope` have the name.
    ///
    /// # Cancel safety
    ///
    /// Reads only.
    pub async fn find(&self, scope: &Scope, task: &TaskRef) -> Result<Option<Arc<TaskRecord>>, StoreError> {
        let engine = self.engine();
        let found = engine.call("find", engine.store.find(scope, task)).await?;
        Ok(found.map(|record| engine.with_progress(record)))
    }

    /// One page of the tasks that match.
    ///
    /// # Errors
    ///
    /// The store's.
    ///
    /// # Cancel safety
    ///
    /// Reads only.
    pub async fn list(
        &self,
        scope: &Scope,
        filter: &Filter,
        page: Page,
    ) -> Result<PageOf<Arc<TaskRecord>>, StoreError> {
        let engine = self.engine();
        let mut found = engine.call("list", engine.store.list(scope, filter, page)).await?;
        found.items = found
            .items
            .into_iter()
            .map(|record| engine.with_progress(record))
            .collect();
        Ok(found)
    }

    /// The request of a task.
    ///
    /// # Errors
    ///
    /// The store's.
    ///
    /// # Cancel safety
    ///
    /// Reads only.
    pub async fn request(&self, scope: &Scope, id: RequestId) -> Result<Option<Arc<CapturedRequest>>, StoreError> {
        let engine = self.engine();
        engine.call("input", engine.store.input(scope, id)).await
    }

    /// The response of a task, once it has ended with one.
    ///
    /// # Errors
    ///
    /// The store's.
    ///
    /// # Cancel safety
    ///
    /// Reads only.
    pub async fn response(&self, scope: &Scope, id: RequestId) -> Result<Option<Arc<CapturedResponse>>, StoreError> {
        let engine = self.engine();
        engine.call("output", engine.store.output(scope, id)).await
    }

    /// Lines of a task's log.
    ///
    /// # Errors
    ///
    /// The store's; `NotFound` if the task is not in `scope`.
    ///
    /// # Cancel safety
    ///
    /// Reads only.
    pub async fn logs(&self, scope: &Scope, id: RequestId, query: LogQuery) -> Result<Vec<LogLine>, StoreError> {
        let engine = self.engine();
        engine.call("logs", engine.store.logs(scope, id, query)).await
    }

    /// Asks for a task to stop: one that waits has ended at once, one that runs is told and ends soon.
    ///
    /// # Errors
    ///
    /// The store's; `NotFound` if the task is not in `scope`.
    ///
    /// # Cancel safety
    ///
    /// Dropped before it answers, the task may or may not have been stopped.
    pub async fn stop(&self, scope: &Scope, id: RequestId) -> Result<Stop, StoreError> {
        let engine = self.engine();
        let stop = engine.call("stop", engine.store.stop(scope, id)).await?;
        match stop {
            // An attempt of this process is told at once; one elsewhere hears of it with its next renewal.
            Stop::Stopping => {
                let now = Instant::now();
                for live in engine.running.of(id) {
                    live.feed(Input::StopAsked, now);
                }
            }
            Stop::Stopped => engine.hint(Hint::Outbox),
            Stop::AlreadyEnded(_) => {}
        }
        engine.watchers.changed(id);
        Ok(stop)
    }

    /// Runs an ended task again under its old id, as a new generation, with the request edited if wanted.
    ///
    /// # Errors
    ///
    /// The store's; `NotFound` if the task is not in `scope`.
    ///
    /// # Cancel safety
    ///
    /// Dropped before it answers, the task may or may not run again.
    pub async fn retry(&self, scope: &Scope, id: RequestId, edits: Edits) -> Result<Rerun, StoreError> {
        let engine = self.engine();
        let rerun = engine.call("rerun", engine.store.rerun(scope, id, edits)).await?;
        if let Rerun::Enqueued { .. } = rerun {
            engine.slots.send_to_wait();
            engine.hint(Hint::Work);
            engine.watchers.changed(id);
        }
        Ok(rerun)
    }

    /// Removes an ended task and all that hangs on it.
    ///
    /// # Errors
    ///
    /// The store's; `NotFound` if the task is not in `scope`.
    ///
    /// # Cancel safety
    ///
    /// Dropped before it answers, the task may or may not be gone.
    pub async fn delete(&self, scope: &Scope, id: RequestId) -> Result<Delete, StoreError> {
        let engine = self.engine();
        engine.call("delete", engine.store.delete(scope, id)).await
    }

    /// Waits up to `limit` for a task to end, and answers with the task as it is then: ended or not. `None` if it is not
    /// in `scope`.
    ///
    /// Answers early when the engine is being closed, and at once when too many callers wait already.
    ///
    /// # Errors
    ///
    /// The store's.
    ///
    /// # Cancel safety
    ///
    /// Reads only.
    pub async fn wait(
        &self,
        scope: &Scope,
        id: RequestId,
        limit: Duration,
    ) -> Result<Option<Arc<TaskRecord>>, StoreError> {
        let engine = self.engine();
        let task = TaskRef::Id(id);
        let deadline = Instant::now() + limit.min(LONGEST_WAIT);
        if engine.watchers.count() >= engine.settings.max_waiters {
            return self.find(scope, &task).await;
        }
        let watcher = engine.watchers.watch(id);
        loop {
            let changed = watcher.changed().notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let found = self.find(scope, &task).await?;
            let now = Instant::now();
            let waits = found.as_ref().is_some_and(|record| !record.state.is_terminal());
            if !waits || now >= deadline || !engine.phase.is_open() {
                return Ok(found);
            }
            // A change made by another process is not told here, so look now and then.
            let look_again = deadline.min(now + LOOK_AGAIN);
            tokio::select! {
                () = changed => {}
                () = engine.phase.closed() => {}
                () = sleep_until(look_again.into()) => {}
            }
        }
    }

    /// Follows a task: answers with the task whenever it changed, first as it is now, last when it has ended.
    ///
    /// # Cancel safety
    ///
    /// Nothing happens until [`Changes::next`] is called.
    #[must_use]
    pub fn subscribe(&self, scope: Scope, id: RequestId) -> Changes {
        Changes {
            tasks: self.clone(),
            scope,
            id,
            seen: None,
            over: false,
        }
    }

    /// How things stand.
    ///
    /// # Errors
    ///
    /// The store's.
    ///
    /// # Cancel safety
    ///
    /// Reads only.
    pub async fn stats(&self, scope: &Scope) -> Result<Stats, StoreError> {
        let engine = self.engine();
        let counts = engine.call("counts", engine.store.counts(scope)).await?;
        let everybody = *scope == Scope::All;
        Ok(Stats {
            counts,
            slots: everybody.then(|| SlotStats {
                used: engine.slots.used(),
                total: engine.slots.total(),
                stuck: engine.slots.stuck(),
            }),
            rates: everybody.then(|| engine.rates.read(engine.clock.uptime(Instant::now()))),
            buffered_bytes: everybody.then(|| engine.budget.used()),
        })
    }

    /// Accepts nothing new: async requests are refused with 503 from now on, synchronous ones still pass, and everybody
    /// who waits for a task is answered now. Call it when the server begins to shut down, so that open waits do not hold
    /// up its connections. Calling it again does nothing.
    pub fn close(&self) {
        self.engine().close();
    }

    /// Ends the engine: closes it, lets running attempts go on for `grace`, tells the rest to end, drops those that do
    /// not within the stop grace and hands them back uncharged, then lets go of the application and closes the store.
    ///
    /// Tasks that wait stay in the store, and run again when an engine is built on it. With a store that lives only in
    /// this process they are lost.
    ///
    /// Call it after the server has ended. Called a second time while the first goes on, it cuts the grace short; later it
    /// answers what the first did.
    ///
    /// # Cancel safety
    ///
    /// Dropped before it answers, the engine is closed and ends no further; call it again to go on, without grace.
    pub async fn shutdown(&self, grace: Duration) -> ShutdownReport {
        self.engine().shutdown(grace).await
    }
}

impl Engine {
    /// What every task is stored with, unless the request says otherwise.
    pub(crate) fn fill_in(&self, task: &mut NewTask) {
        task.max_age = self.settings.max_age;
        task.max_attempts = self.settings.retry.max_retries().saturating_add(1);
        task.crash_allowance = self.settings.crash_allowance;
        task.key_window = self.settings.key_window;
        task.subscriptions = self.subscriptions.clone();
    }

    /// The record with the latest progress, which is stored only now and then.
    fn with_progress(&self, mut record: Arc<TaskRecord>) -> Arc<TaskRecord> {
        if !record.state.is_held() {
            return record;
        }
        let token = record.token;
        let live = self
            .running
            .of(record.id)
            .into_iter()
            .find(|live| live.lease.token == token);
        if let Some(progress) = live.and_then(|live| live.progress()) {
            Arc::make_mut(&mut record).progress = Some(progress);
        }
        record
    }

    /// Nobody holds the engine any longer.
    fn abandon(self: &Arc<Self>) {
        self.close();
        let engine = self.clone();
        // On a runtime that has ended this does nothing, and there is nothing left to do.
        drop(self.runtime.spawn(async move { engine.shutdown(Duration::ZERO).await }));
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
    /// A key that makes submitting it twice do no harm.
    pub key: Option<IdempotencyKey>,
    /// Whose it is.
    pub tenant: Option<Tenant>,
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
            tenant: None,
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
    /// Its name or key is known; nothing was stored.
    Known {
        /// The task of that name or key, unless it is gone and only its key is remembered.
        task: Option<Arc<TaskRecord>>,
        /// The request id of that task.
        id: RequestId,
        /// Whether its request is the same as the one submitted.
        same_request: bool,
    },
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
    /// The engine is being shut down.
    #[error("the engine is shutting down")]
    ShuttingDown,
    /// The store did not say that it has the task. It may have.
    #[error("the task could not be stored")]
    Store(#[source] StoreError),
}

/// A task being followed. Made by [`Tasks::subscribe`].
#[derive(Debug)]
pub struct Changes {
    tasks: Tasks,
    scope: Scope,
    id: RequestId,
    seen: Option<Arc<TaskRecord>>,
    over: bool,
}

impl Changes {
    /// The task, as soon as it differs from what was answered last. `None` after it has ended or is gone, or when the
    /// engine is being closed.
    ///
    /// # Errors
    ///
    /// The store's; asking again goes on.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost: a change not answered is answered by the next call.
    pub async fn next(&mut self) -> Result<Option<Arc<TaskRecord>>, StoreError> {
        let engine = self.tasks.engine();
        let task = TaskRef::Id(self.id);
        while !self.over {
            let watcher = engine.watchers.watch(self.id);
            let changed = watcher.changed().notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let Some(found) = self.tasks.find(&self.scope, &task).await? else {
                self.over = true;
                break;
            };
            if self.seen.as_ref() != Some(&found) {
                self.over = found.state.is_terminal();
                self.seen = Some(found.clone());
                return Ok(Some(found));
            }
            if !engine.phase.is_open() {
                self.over = true;
                break;
            }
            tokio::select! {
                () = changed => {}
                () = engine.phase.closed() => {}
                () = tokio::time::sleep(LOOK_AGAIN) => {}
            }
        }
        Ok(None)
    }
}

/// Nobody waits longer than a year, and no clock runs over.
const LONGEST_WAIT: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// How often a task is looked at by somebody who waits for it, besides when this process changes it: another process may.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

impl fmt::Debug for Tasks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tasks").finish_non_exhaustive()
    }
}

/// A [`Tasks`] that does not keep the engine alive: the one to keep inside the application.
#[derive(Clone)]
pub struct WeakTasks {
    alive: Weak<Alive>,
}

impl WeakTasks {
    /// The handle, unless the engine is gone.
    #[must_use]
    pub fn upgrade(&self) -> Option<Tasks> {
        self.alive.upgrade().map(Tasks::new)
    }
}

impl fmt::Debug for WeakTasks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WeakTasks").finish_non_exhaustive()
    }
}
