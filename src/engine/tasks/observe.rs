//! [`Observer`]: follows tasks for a long time without keeping the engine alive.

use std::sync::Arc;

use tokio::sync::OwnedSemaphorePermit;

use crate::{
    engine::{
        Engine, Tasks,
        watch::{
            Watcher,
            feed::{Listener, Position},
        },
    },
    store::{LogQuery, StoreError},
    task::{LogLine, RequestId, Scope, TaskRecord, TaskRef},
};

/// Follows the tasks in one scope. It does not keep the engine open: that closes when its last [`Tasks`] is dropped.
#[derive(Clone)]
pub(crate) struct Observer {
    engine: Arc<Engine>,
    scope: Scope,
}

impl Tasks {
    /// An observer of the tasks in scope.
    pub(crate) fn observer(&self) -> Observer {
        Observer {
            engine: self.engine().clone(),
            scope: self.scope().clone(),
        }
    }
}

impl Observer {
    /// The task as it is now.
    pub(crate) async fn find(&self, id: RequestId) -> Result<Option<Arc<TaskRecord>>, StoreError> {
        let task = TaskRef::Id(id);
        let found = self
            .engine
            .core
            .step("find", || self.engine.core.ledger.find(&self.scope, &task))
            .await?;
        Ok(found.map(|record| self.engine.attempts.with_progress(record)))
    }

    /// Lines of the task's log.
    pub(crate) async fn logs(&self, id: RequestId, query: LogQuery) -> Result<Vec<LogLine>, StoreError> {
        let logs = || self.engine.core.ledger.store().logs(&self.scope, id, query);
        self.engine.core.call("logs", logs).await
    }

    /// Begins to wait for a task to change.
    pub(crate) fn watch(&self, id: RequestId) -> Watcher<'_> {
        self.engine.core.watchers.watch(id)
    }

    /// Begins to listen to the changes of all tasks, from `position` if its changes are still kept.
    pub(crate) fn listen(&self, position: Option<Position>) -> Listener<'_> {
        self.engine.core.watchers.listen(position)
    }

    /// A permit for a long stream, if one is left.
    pub(crate) fn permit(&self) -> Option<OwnedSemaphorePermit> {
        self.engine.observers.clone().try_acquire_owned().ok()
    }

    /// Whether the engine is open.
    pub(crate) fn is_open(&self) -> bool {
        self.engine.core.phase.is_open()
    }

    /// Resolves when the engine closes.
    pub(crate) async fn closed(&self) {
        self.engine.core.phase.closed().await;
    }

    /// Runs `work` on the engine's runtime.
    pub(crate) fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        self.engine.core.runtime.spawn(work);
    }
}
