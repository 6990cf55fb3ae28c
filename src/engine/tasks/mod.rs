//! [`Tasks`]: the handle with which an application reads and changes its tasks.

pub(crate) mod follow;
#[cfg(feature = "api")]
pub(crate) mod observe;
#[cfg(feature = "api")]
mod served;
pub(crate) mod stats;
pub(crate) mod steering;
pub(crate) mod submit;

use std::{
    fmt,
    sync::{Arc, Weak},
    time::Duration,
};

use tokio::time::Instant;

use crate::{
    engine::{Engine, ShutdownReport, Stats, attempts::attempt::Input, node::Hint},
    store::{Delete, LogQuery, StoreError},
    task::{
        CapturedRequest, CapturedResponse, Destination, Filter, LogLine, Page, PageOf, RequestId, Scope, TaskRecord,
        TaskRef,
        delivery::Redeliver,
        lifecycle::{Edits, Rerun, Stop},
    },
};

/// A handle to the tasks of a layer: read them, wait for them, stop them, run them again. Cheap to clone.
///
/// A `Tasks` keeps its engine running. Inside the application that the layer wraps, for example in axum's `State`, keep
/// a [`WeakTasks`] instead: the engine owns the application, so the two would keep each other alive until
/// [`shutdown`](Self::shutdown).
///
/// A handle covers the tasks of one [`Scope`]: all tasks, unless you narrow it with [`scoped`](Self::scoped).
///
/// # Examples
///
/// A task that the application submits by itself, waits for, and runs again:
///
/// ```
/// use std::time::Duration;
///
/// use axum::{Router, routing::post};
/// use bytes::Bytes;
/// use http::Request;
/// use tower::Layer;
/// use tower_respond_async::{
///     MemoryStore, RespondAsyncLayer, Submission, Submitted, TaskState,
///     task::lifecycle::{Edits, Rerun},
/// };
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let layer = RespondAsyncLayer::new(MemoryStore::new())?;
/// let tasks = layer.tasks();
/// let app = layer.layer(Router::new().route("/mail", post(async || "sent")));
///
/// let mail = Request::post("/mail").body(Bytes::new())?;
/// let Submitted::New(task) = tasks.submit(Submission::new(mail)).await? else { unreachable!("it has no name") };
/// let ended = tasks.wait(task.id, Duration::from_secs(10)).await?.expect("it is kept");
/// assert_eq!(ended.state, TaskState::Succeeded);
///
/// assert!(matches!(tasks.rerun(task.id, Edits::default()).await?, Rerun::Enqueued { .. }));
/// # drop(app);
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Tasks {
    alive: Arc<Alive>,
    scope: Scope,
}

/// Keeps an engine running. The layer, its services and every [`Tasks`] hold one; the engine ends when all are dropped.
pub(crate) struct Alive(pub(crate) Arc<Engine>);

impl Drop for Alive {
    fn drop(&mut self) {
        self.0.abandon();
    }
}

impl Tasks {
    pub(crate) const fn new(alive: Arc<Alive>) -> Self {
        Self {
            alive,
            scope: Scope::All,
        }
    }

    /// A handle for the tasks in `scope` only, for example those of one tenant. It does not find other tasks.
    ///
    /// Methods that do not concern tasks, such as `shutdown`, do the same for every scope.
    ///
    /// # Examples
    ///
    /// ```
    /// use tower_respond_async::{MemoryStore, RespondAsyncLayer, Scope, Tenant, task::Filter};
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let layer = RespondAsyncLayer::new(MemoryStore::new())?;
    /// let tasks = layer.tasks();
    /// let annas = tasks.scoped(Scope::One(Some(Tenant::new("anna"))));
    /// let page = annas.list(&Filter::default(), Default::default()).await?;
    /// # assert!(page.items.is_empty());
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn scoped(&self, scope: Scope) -> Self {
        Self {
            alive: self.alive.clone(),
            scope,
        }
    }

    #[cfg(feature = "api")]
    pub(crate) const fn scope(&self) -> &Scope {
        &self.scope
    }

    pub(crate) fn engine(&self) -> &Arc<Engine> {
        &self.alive.0
    }

    /// A handle that does not keep the engine running.
    #[must_use]
    pub fn downgrade(&self) -> WeakTasks {
        WeakTasks {
            alive: Arc::downgrade(&self.alive),
            scope: self.scope.clone(),
        }
    }

    /// Finds the task of this id or name. `None` if there is none in scope.
    ///
    /// # Errors
    ///
    /// Any error of the store; `Conflict` if tasks of several tenants in scope have the name.
    ///
    /// # Cancel safety
    ///
    /// Only reads, so dropping the future has no effect.
    pub async fn find(&self, task: impl Into<TaskRef>) -> Result<Option<Arc<TaskRecord>>, StoreError> {
        let (engine, task) = (self.engine(), task.into());
        let found = engine
            .core
            .step("find", || engine.core.ledger.find(&self.scope, &task))
            .await?;
        Ok(found.map(|record| engine.attempts.with_progress(record)))
    }

    /// Lists one page of the tasks that match `filter`. The last page has no `next`.
    ///
    /// # Errors
    ///
    /// Any error of the store.
    ///
    /// # Cancel safety
    ///
    /// Only reads, so dropping the future has no effect.
    pub async fn list(&self, filter: &Filter, page: Page) -> Result<PageOf<Arc<TaskRecord>>, StoreError> {
        let engine = self.engine();
        let limit = page.limit.max(1);
        // Reads one task more than the page has: a store may return a `next` although no task follows.
        let page = Page {
            limit: limit.saturating_add(1),
            ..page
        };
        let mut found = engine
            .core
            .step("list", || engine.core.ledger.list(&self.scope, filter, page))
            .await?;
        if found.items.len() > limit {
            found.items.truncate(limit);
            found.next = found.items.last().map(|record| record.cursor());
        }
        found.items = found
            .items
            .into_iter()
            .map(|record| engine.attempts.with_progress(record))
            .collect();
        Ok(found)
    }

    /// The stored request of a task. `None` if the task is not in scope.
    ///
    /// # Errors
    ///
    /// Any error of the store.
    ///
    /// # Cancel safety
    ///
    /// Only reads, so dropping the future has no effect.
    pub async fn request(&self, id: RequestId) -> Result<Option<Arc<CapturedRequest>>, StoreError> {
        let engine = self.engine();
        engine
            .core
            .step("request", || engine.core.ledger.request(&self.scope, id))
            .await
    }

    /// The stored response of a task. `None` if the task has none, or is not in scope.
    ///
    /// # Errors
    ///
    /// Any error of the store.
    ///
    /// # Cancel safety
    ///
    /// Only reads, so dropping the future has no effect.
    pub async fn response(&self, id: RequestId) -> Result<Option<Arc<CapturedResponse>>, StoreError> {
        let engine = self.engine();
        engine
            .core
            .step("response", || engine.core.ledger.response(&self.scope, id))
            .await
    }

    /// The lines of a task's log that `query` selects.
    ///
    /// # Errors
    ///
    /// Any error of the store; `NotFound` if the task is not in scope.
    ///
    /// # Cancel safety
    ///
    /// Only reads, so dropping the future has no effect.
    pub async fn logs(&self, id: RequestId, query: LogQuery) -> Result<Vec<LogLine>, StoreError> {
        let engine = self.engine();
        engine
            .core
            .call("logs", || engine.core.ledger.store().logs(&self.scope, id, query))
            .await
    }

    /// Stops a task. A queued task ends at once. If the task is running, its handler is asked to stop, and the task
    /// ends soon.
    ///
    /// # Errors
    ///
    /// Any error of the store; `NotFound` if the task is not in scope.
    ///
    /// # Cancel safety
    ///
    /// If you drop the future, the task may or may not be stopped.
    pub async fn stop(&self, id: RequestId) -> Result<Stop, StoreError> {
        let engine = self.engine();
        let stop = engine
            .core
            .step("stop", || engine.core.ledger.stop(&self.scope, id))
            .await?;
        match stop {
            // An attempt in this process is stopped now, an attempt in another process at its next renewal.
            Stop::Stopping => {
                let now = Instant::now();
                for live in engine.attempts.running.of(id) {
                    live.feed(Input::StopAsked, now);
                }
            }
            Stop::Stopped => engine.core.hint(Hint::Outbox),
            Stop::AlreadyEnded(_) => {}
        }
        engine.core.watchers.changed(id);
        Ok(stop)
    }

    /// Runs an ended task again under its id, as a new generation. `edits` can change the request.
    ///
    /// # Errors
    ///
    /// Any error of the store; `NotFound` if the task is not in scope.
    ///
    /// # Cancel safety
    ///
    /// If you drop the future, the task may or may not run again.
    pub async fn rerun(&self, id: RequestId, edits: Edits) -> Result<Rerun, StoreError> {
        let engine = self.engine();
        let rerun = engine
            .core
            .step("rerun", || engine.core.ledger.rerun(&self.scope, id, edits))
            .await?;
        if let Rerun::Enqueued { .. } = rerun {
            engine.attempts.pools.slots.send_some_to_wait();
            engine.core.hint(Hint::Work);
            engine.core.watchers.changed(id);
        }
        Ok(rerun)
    }

    /// Removes an ended task with all its data.
    ///
    /// # Errors
    ///
    /// Any error of the store; `NotFound` if the task is not in scope.
    ///
    /// # Cancel safety
    ///
    /// If you drop the future, the task may or may not be removed.
    pub async fn delete(&self, id: RequestId) -> Result<Delete, StoreError> {
        let engine = self.engine();
        let deleted = engine
            .core
            .step("delete", || engine.core.ledger.delete(&self.scope, id))
            .await?;
        if deleted == Delete::Deleted {
            engine.core.watchers.changed(id);
        }
        Ok(deleted)
    }

    /// Delivers the completion of a generation to a destination again.
    ///
    /// It is delivered at once, whether it was delivered before, was given up, or is pending. It keeps its webhook id,
    /// and its schedule starts again.
    ///
    /// # Errors
    ///
    /// Any error of the store; `NotFound` if the task is not in scope.
    ///
    /// # Cancel safety
    ///
    /// If you drop the future, the completion may or may not be delivered again.
    pub async fn redeliver(
        &self,
        id: RequestId,
        generation: u32,
        destination: &Destination,
    ) -> Result<Redeliver, StoreError> {
        let engine = self.engine();
        let redeliver = || engine.core.ledger.redeliver(&self.scope, id, generation, destination);
        let redelivered = engine.core.step("redeliver", redeliver).await?;
        if redelivered == Redeliver::Due {
            engine.core.hint(Hint::Outbox);
            engine.core.watchers.changed(id);
        }
        Ok(redelivered)
    }

    /// Counts of the tasks in scope, and the slots and rates of all processes on the store.
    ///
    /// # Examples
    ///
    /// ```
    /// use tower_respond_async::{MemoryStore, RespondAsyncLayer};
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let layer = RespondAsyncLayer::new(MemoryStore::new())?;
    /// let stats = layer.tasks().stats().await?;
    /// assert_eq!(stats.counts.oldest_queued, None);
    /// assert_eq!(stats.processes.map(|processes| processes.len()), Some(1));
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// Any error of the store.
    ///
    /// # Cancel safety
    ///
    /// Only reads, so dropping the future has no effect.
    pub async fn stats(&self) -> Result<Stats, StoreError> {
        let engine = self.engine();
        let counts = engine
            .core
            .call("counts", || engine.core.ledger.store().counts(&self.scope))
            .await?;
        Ok(match &self.scope {
            Scope::One(_) => Stats::of_one(counts),
            Scope::All => {
                let now = Instant::now();
                let own = engine.duties.presence(now);
                let others = engine.duties.lookout.other_processes(&own, now);
                Stats::of_all(counts, own, others)
            }
        })
    }

    /// Whether this process can accept async requests: the engine is open, and the store has not failed for good.
    ///
    /// Use it in a probe whose failure restarts the process. It makes no store call that waits. It stays `true` during
    /// an outage of the store, because a restart would not end the outage.
    ///
    /// # Examples
    ///
    /// ```
    /// use axum::{Router, http::StatusCode, routing::get};
    /// use tower::Layer;
    /// use tower_respond_async::{MemoryStore, RespondAsyncLayer, WeakTasks};
    ///
    /// fn readiness(tasks: WeakTasks) -> Router {
    ///     let ready = move || tasks.upgrade().is_some_and(|tasks| tasks.is_ready());
    ///     Router::new().route("/ready", get(async move || match ready() {
    ///         true => StatusCode::OK,
    ///         false => StatusCode::SERVICE_UNAVAILABLE,
    ///     }))
    /// }
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let layer = RespondAsyncLayer::new(MemoryStore::new())?;
    /// let tasks = layer.tasks();
    /// assert!(tasks.is_ready());
    /// let app = layer.layer(readiness(tasks.downgrade()));
    /// # drop::<tower_respond_async::RespondAsync<Router>>(app);
    /// tasks.close();
    /// assert!(!tasks.is_ready());
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn is_ready(&self) -> bool {
        let engine = self.engine();
        engine.core.phase.is_open() && !engine.core.queue_hint(None, None).failed
    }

    /// Checks [`is_ready`](Self::is_ready), and that the store answers a read.
    ///
    /// Use it in the readiness probe of processes that share a store: if one of them cannot reach the server, another
    /// may. It waits for the store, so set a time limit below that of the probe. It does not detect a server that is
    /// read-only or whose disk is full, because reads work there.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use axum::http::StatusCode;
    /// use tower_respond_async::WeakTasks;
    ///
    /// async fn ready(tasks: WeakTasks) -> StatusCode {
    ///     let Some(tasks) = tasks.upgrade() else {
    ///         return StatusCode::SERVICE_UNAVAILABLE;
    ///     };
    ///     match tokio::time::timeout(Duration::from_secs(2), tasks.check()).await {
    ///         Ok(Ok(())) => StatusCode::OK,
    ///         _ => StatusCode::SERVICE_UNAVAILABLE,
    ///     }
    /// }
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let layer = tower_respond_async::RespondAsyncLayer::new(tower_respond_async::MemoryStore::new())?;
    /// # assert_eq!(ready(layer.tasks().downgrade()).await, StatusCode::OK);
    /// # layer.tasks().close();
    /// # assert_eq!(ready(layer.tasks().downgrade()).await, StatusCode::SERVICE_UNAVAILABLE);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// Any error of the store; [`Unavailable`](crate::store::StoreErrorKind::Unavailable) also if the engine is
    /// shutting down or the store has failed for good.
    ///
    /// # Cancel safety
    ///
    /// Only reads, so dropping the future has no effect.
    pub async fn check(&self) -> Result<(), StoreError> {
        if !self.is_ready() {
            return Err(StoreError::closed());
        }
        // No task has this id.
        self.find(RequestId::from_bytes([0; 16])).await.map(drop)
    }

    /// Closes the engine: it accepts no more tasks, and answers every waiter now.
    ///
    /// From now on async requests are refused with 503; synchronous requests still pass. Call it when the server begins
    /// to shut down, so that open waits do not keep its connections open. A second call has no effect.
    pub fn close(&self) {
        self.engine().close();
    }

    /// Shuts the engine down, and reports what happened to the running attempts.
    ///
    /// It closes the engine and lets running attempts go on for `grace`. It signals the remaining attempts to stop,
    /// drops those that do not end within the stop grace, and hands their tasks back; these attempts are not charged.
    /// Then it drops the application and closes the store.
    ///
    /// Queued tasks stay in the store, and run when an engine is built on it again. A store in memory loses them.
    ///
    /// Call it after the server has ended. A second call during the first ends the grace at once. Every later call
    /// returns the report of the first.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use axum::Router;
    /// use tower::make::Shared;
    /// use tower_respond_async::{BoxError, RespondAsync, Tasks};
    ///
    /// async fn serve(listener: tokio::net::TcpListener, app: RespondAsync<Router>, tasks: Tasks) -> Result<(),
    /// BoxError> {
    ///     let closing = tasks.clone();
    ///     let signal = async move {
    ///         let _ = tokio::signal::ctrl_c().await;
    ///         closing.close(); // open waits end now, and do not keep the server
    ///     };
    ///     axum::serve(listener, Shared::new(app)).with_graceful_shutdown(signal).await?;
    ///     let report = tasks.shutdown(Duration::from_secs(20)).await;
    ///     println!("{} ended, {} are handed back", report.finished, report.handed_back);
    ///     Ok(())
    /// }
    /// ```
    ///
    /// # Cancel safety
    ///
    /// If you drop the future, the engine stays closed and the shutdown stops where it is. Call it again to go on; then
    /// there is no grace.
    pub async fn shutdown(&self, grace: Duration) -> ShutdownReport {
        self.engine().shutdown(grace).await
    }
}

impl fmt::Debug for Tasks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tasks").finish_non_exhaustive()
    }
}

/// A [`Tasks`] that does not keep the engine running, for use inside the application.
///
/// [`Tasks::is_ready`] has an example.
#[derive(Clone)]
pub struct WeakTasks {
    alive: Weak<Alive>,
    scope: Scope,
}

impl WeakTasks {
    /// The [`Tasks`] handle. `None` if no other handle of the engine is left.
    #[must_use]
    pub fn upgrade(&self) -> Option<Tasks> {
        let alive = self.alive.upgrade()?;
        Some(Tasks {
            alive,
            scope: self.scope.clone(),
        })
    }
}

impl fmt::Debug for WeakTasks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WeakTasks").finish_non_exhaustive()
    }
}
