//! [`Tasks`]: the handle an application watches and steers its tasks with.

use std::{
    fmt,
    sync::{Arc, Weak},
    time::Duration,
};

use crate::{
    engine::{Engine, Stats},
    store::{Delete, LogQuery, StoreError},
    task::{
        CapturedRequest, CapturedResponse, Filter, LogLine, Page, PageOf, RequestId, Scope, TaskRecord, TaskRef,
        lifecycle::{Edits, Rerun, Stop},
    },
    wire::ApiLinks,
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
    pub(crate) engine: Arc<Engine>,
}

impl Tasks {
    /// A handle that does not keep the engine alive.
    #[must_use]
    pub fn downgrade(&self) -> WeakTasks {
        WeakTasks {
            engine: Arc::downgrade(&self.engine),
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
        self.engine.store.find(scope, task).await
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
        self.engine.store.list(scope, filter, page).await
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
        self.engine.store.input(scope, id).await
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
        self.engine.store.output(scope, id).await
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
        self.engine.store.logs(scope, id, query).await
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
        self.engine.store.stop(scope, id).await
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
        self.engine.store.rerun(scope, id, edits).await
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
        self.engine.store.delete(scope, id).await
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
        let _ = limit;
        self.find(scope, &TaskRef::Id(id)).await
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
        Ok(Stats {
            counts: self.engine.store.counts(scope).await?,
            slots: None,
            rates: None,
            buffered_bytes: None,
        })
    }

    /// Says that there is a task API for these tasks: only then do answers to async requests name it.
    pub(crate) fn mark_api_mounted(&self) {}

    /// Where the task API is, for the links in its documents.
    pub(crate) fn links(&self) -> ApiLinks {
        ApiLinks::new("/tasks", None)
    }

    /// How long a client may wait for a result at most.
    pub(crate) fn wait_cap(&self) -> Duration {
        Duration::from_secs(60)
    }

    /// Tells the probes that somebody changed a task: [`Event::Changed`](crate::probe::Event::Changed).
    pub(crate) fn audit(&self, id: RequestId, action: &'static str, who: Option<&str>) {
        let _ = (id, action, who);
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
    engine: Weak<Engine>,
}

impl WeakTasks {
    /// The handle, unless the engine is gone.
    #[must_use]
    pub fn upgrade(&self) -> Option<Tasks> {
        self.engine.upgrade().map(|engine| Tasks { engine })
    }
}

impl fmt::Debug for WeakTasks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WeakTasks").finish_non_exhaustive()
    }
}
