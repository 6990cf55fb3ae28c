//! Waits for a task to change or to end.

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, sleep_until};

use crate::{
    engine::Tasks,
    store::StoreError,
    task::{RequestId, TaskRecord},
};

impl Tasks {
    /// Waits up to `limit` for a task to end, then returns the task, ended or not. `None` if it is not in scope.
    ///
    /// Returns early when the engine closes, and at once if the limit of waiters is reached.
    ///
    /// # Errors
    ///
    /// Any error of the store.
    ///
    /// # Cancel safety
    ///
    /// Only reads, so dropping the future has no effect.
    pub async fn wait(&self, id: RequestId, limit: Duration) -> Result<Option<Arc<TaskRecord>>, StoreError> {
        let engine = self.engine();
        let deadline = Instant::now() + limit.min(LONGEST_WAIT);
        if engine.core.watchers.count() >= engine.core.settings.max_waiters {
            return self.find(id).await;
        }
        let watcher = engine.core.watchers.watch(id);
        loop {
            let changed = watcher.changed().notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let found = self.find(id).await?;
            let now = Instant::now();
            let waits = found.as_ref().is_some_and(|record| !record.state.is_terminal());
            if !waits || now >= deadline || !engine.core.phase.is_open() {
                return Ok(found);
            }
            let look_again = deadline.min(now + LOOK_AGAIN);
            tokio::select! {
                biased;
                () = changed => {}
                () = engine.core.phase.closed() => {}
                () = sleep_until(look_again) => {}
            }
        }
    }

    /// Follows a task. [`Changes::next`] returns the task as it is now, then after each change until it has ended.
    ///
    /// # Examples
    ///
    /// ```
    /// use tower_respond_async::{Tasks, store::StoreError, task::RequestId};
    ///
    /// async fn follow(tasks: &Tasks, id: RequestId) -> Result<(), StoreError> {
    ///     let mut changes = tasks.subscribe(id);
    ///     while let Some(task) = changes.next().await? {
    ///         println!("{:?}", task.state);
    ///     }
    ///     Ok(())
    /// }
    /// ```
    ///
    /// # Cancel safety
    ///
    /// Nothing happens until you call [`Changes::next`].
    #[must_use]
    pub fn subscribe(&self, id: RequestId) -> Changes {
        Changes {
            tasks: self.clone(),
            id,
            seen: None,
            over: false,
        }
    }
}

/// A task that you follow. [`Tasks::subscribe`] returns it and has an example.
#[derive(Debug)]
pub struct Changes {
    tasks: Tasks,
    id: RequestId,
    seen: Option<Arc<TaskRecord>>,
    over: bool,
}

impl Changes {
    /// Waits until the task differs from the last one returned, then returns it. The first call returns at once.
    ///
    /// `None` after the end of the task was returned, if the task is not in scope or was removed, or when the engine
    /// closes.
    ///
    /// # Errors
    ///
    /// Any error of the store. You can call it again.
    ///
    /// # Cancel safety
    ///
    /// If you drop the future, no change is lost: the next call returns it.
    pub async fn next(&mut self) -> Result<Option<Arc<TaskRecord>>, StoreError> {
        let engine = self.tasks.engine();
        while !self.over {
            let watcher = engine.core.watchers.watch(self.id);
            let changed = watcher.changed().notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let Some(found) = self.tasks.find(self.id).await? else {
                self.over = true;
                break;
            };
            if self.seen.as_ref() != Some(&found) {
                self.over = found.state.is_terminal();
                self.seen = Some(found.clone());
                return Ok(Some(found));
            }
            if !engine.core.phase.is_open() {
                self.over = true;
                break;
            }
            tokio::select! {
                biased;
                () = changed => {}
                () = engine.core.phase.closed() => {}
                () = tokio::time::sleep(LOOK_AGAIN) => {}
            }
        }
        Ok(None)
    }
}

/// The longest wait: a year, so that no time overflows.
const LONGEST_WAIT: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// How often a waiter reads its task without a notification, in case one was lost.
pub(crate) const LOOK_AGAIN: Duration = Duration::from_secs(30);
