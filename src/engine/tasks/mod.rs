//! [`Tasks`]: the handle an application watches and steers its tasks with.

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
    scope: Scope,
}

/// Keeps an engine going: held by the layer, its services and every [`Tasks`]. With the last of them the engine ends.
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

    /// The same, of the tasks in scope alone: those of one tenant, say. A task that is not in it is not there. What is not
    /// about single tasks, such as a shutdown, is the same for every scope.
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

    /// A handle that does not keep the engine alive.
    #[must_use]
    pub fn downgrade(&self) -> WeakTasks {
        WeakTasks {
            alive: Arc::downgrade(&self.alive),
            scope: self.scope.clone(),
        }
    }

    /// The task of this id or name, if it is in scope.
    ///
    /// # Errors
    ///
    /// The store's; `Conflict` if tasks of several tenants in scope have the name.
    ///
    /// # Cancel safety
    ///
    /// Reads only.
    pub async fn find(&self, task: impl Into<TaskRef>) -> Result<Option<Arc<TaskRecord>>, StoreError> {
        let (engine, task) = (self.engine(), task.into());
        let found = engine
            .core
            .call("find", || engine.core.ledger.find(&self.scope, &task))
            .await?;
        Ok(found.map(|record| engine.attempts.with_progress(record)))
    }

    /// One page of the tasks that match. A page that ends with the last of them has no `next`.
    ///
    /// # Errors
    ///
    /// The store's.
    ///
    /// # Cancel safety
    ///
    /// Reads only.
    pub async fn list(&self, filter: &Filter, page: Page) -> Result<PageOf<Arc<TaskRecord>>, StoreError> {
        let engine = self.engine();
        let limit = page.limit.max(1);
        // One more than asked for says whether any follows: a store may point behind a full page at nothing.
        let page = Page {
            limit: limit.saturating_add(1),
            ..page
        };
        let mut found = engine
            .core
            .call("list", || engine.core.ledger.list(&self.scope, filter, page))
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

    /// The request of a task.
    ///
    /// # Errors
    ///
    /// The store's.
    ///
    /// # Cancel safety
    ///
    /// Reads only.
    pub async fn request(&self, id: RequestId) -> Result<Option<Arc<CapturedRequest>>, StoreError> {
        let engine = self.engine();
        engine
            .core
            .call("request", || engine.core.ledger.request(&self.scope, id))
            .await
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
    pub async fn response(&self, id: RequestId) -> Result<Option<Arc<CapturedResponse>>, StoreError> {
        let engine = self.engine();
        engine
            .core
            .call("response", || engine.core.ledger.response(&self.scope, id))
            .await
    }

    /// Lines of a task's log.
    ///
    /// # Errors
    ///
    /// The store's; `NotFound` if the task is not in scope.
    ///
    /// # Cancel safety
    ///
    /// Reads only.
    pub async fn logs(&self, id: RequestId, query: LogQuery) -> Result<Vec<LogLine>, StoreError> {
        let engine = self.engine();
        engine
            .core
            .call("logs", || engine.core.ledger.store().logs(&self.scope, id, query))
            .await
    }

    /// Asks for a task to stop: one that waits has ended at once, one that runs is told and ends soon.
    ///
    /// # Errors
    ///
    /// The store's; `NotFound` if the task is not in scope.
    ///
    /// # Cancel safety
    ///
    /// Dropped before it answers, the task may or may not have been stopped.
    pub async fn stop(&self, id: RequestId) -> Result<Stop, StoreError> {
        let engine = self.engine();
        let stop = engine
            .core
            .call("stop", || engine.core.ledger.stop(&self.scope, id))
            .await?;
        match stop {
            // An attempt of this process is told at once; one elsewhere hears of it with its next renewal.
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

    /// Runs an ended task again under its old id, as a new generation, with the request edited if wanted.
    ///
    /// # Errors
    ///
    /// The store's; `NotFound` if the task is not in scope.
    ///
    /// # Cancel safety
    ///
    /// Dropped before it answers, the task may or may not run again.
    pub async fn rerun(&self, id: RequestId, edits: Edits) -> Result<Rerun, StoreError> {
        let engine = self.engine();
        let rerun = engine
            .core
            .call("rerun", || engine.core.ledger.rerun(&self.scope, id, edits))
            .await?;
        if let Rerun::Enqueued { .. } = rerun {
            engine.attempts.pools.slots.send_some_to_wait();
            engine.core.hint(Hint::Work);
            engine.core.watchers.changed(id);
        }
        Ok(rerun)
    }

    /// Removes an ended task and all that hangs on it.
    ///
    /// # Errors
    ///
    /// The store's; `NotFound` if the task is not in scope.
    ///
    /// # Cancel safety
    ///
    /// Dropped before it answers, the task may or may not be gone.
    pub async fn delete(&self, id: RequestId) -> Result<Delete, StoreError> {
        let engine = self.engine();
        let deleted = engine
            .core
            .call("delete", || engine.core.ledger.delete(&self.scope, id))
            .await?;
        if deleted == Delete::Deleted {
            engine.core.watchers.changed(id);
        }
        Ok(deleted)
    }

    /// Has the completion of this generation told to this destination again, at once, whether it was delivered, given up, or
    /// waits for its next try. It shows the same webhook id, and has its whole schedule before it.
    ///
    /// # Errors
    ///
    /// The store's; `NotFound` if the task is not in scope.
    ///
    /// # Cancel safety
    ///
    /// Dropped before it answers, the completion may or may not be told again.
    pub async fn redeliver(
        &self,
        id: RequestId,
        generation: u32,
        destination: &Destination,
    ) -> Result<Redeliver, StoreError> {
        let engine = self.engine();
        let redeliver = || engine.core.ledger.redeliver(&self.scope, id, generation, destination);
        let redelivered = engine.core.call("redeliver", redeliver).await?;
        if redelivered == Redeliver::Due {
            engine.core.hint(Hint::Outbox);
            engine.core.watchers.changed(id);
        }
        Ok(redelivered)
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
                let others = engine.duties.lookout.others(&own, now);
                Stats::of_all(counts, own, others)
            }
        })
    }

    /// Whether async requests are accepted, as far as is known: the engine is not being shut down, and the store has not
    /// failed for good. For the readiness probe of whatever starts and restarts this process; it asks nobody and cannot
    /// wait. A store that is in trouble and may come back is no reason to be taken out of service.
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

    /// As [`is_ready`](Self::is_ready), and the store answers a read at this moment. That it refuses writes is not noticed: a server
    /// that only reads, or whose disk is full.
    /// For readiness probes of processes that share a store: where its server cannot be reached, another process may be
    /// better placed. It waits as long as the store does; give it a time limit that is shorter than the probe's.
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
    /// The store's; [`Unavailable`](crate::store::StoreErrorKind::Unavailable) also if the engine is being shut down or the store has
    /// failed for good.
    ///
    /// # Cancel safety
    ///
    /// Reads only.
    pub async fn check(&self) -> Result<(), StoreError> {
        if !self.is_ready() {
            return Err(StoreError::closed());
        }
        // There is no such task.
        self.find(RequestId::from_bytes([0; 16])).await.map(drop)
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

impl fmt::Debug for Tasks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tasks").finish_non_exhaustive()
    }
}

/// A [`Tasks`] that does not keep the engine alive: the one to keep inside the application.
#[derive(Clone)]
pub struct WeakTasks {
    alive: Weak<Alive>,
    scope: Scope,
}

impl WeakTasks {
    /// The handle, unless the engine is gone.
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
