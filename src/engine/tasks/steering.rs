//! Pauses and resumes pools and sets their slots, for every process on the store.

use crate::{
    engine::{
        Tasks,
        attempts::Attempts,
        node::Hint,
        pools::control::{Pause, PoolControl, value_of},
    },
    store::{ControlChange, StoreError, StoreErrorKind},
    task::{Page, PoolName, SortOrder, record::cut},
    time::Timestamp,
};

/// How many bytes of a reason are kept: enough for one line of a table.
const REASON_BYTES: usize = 256;

/// How many times a change of a named value is tried if other processes change it first.
const TRIES: usize = 16;

/// How many queued tasks get a later expiry in one call of the store.
const AT_ONCE: usize = 500;

/// The state of one pool. [`Tasks::pools`] returns it; [`Tasks::pause`] has an example.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PoolStats {
    /// The name of the pool.
    pub name: PoolName,
    /// The number of its handlers that run in this process.
    pub used: usize,
    /// The number of its handlers that may run in this process.
    pub total: usize,
    /// The number of its queued tasks, if the store counts them by pool.
    pub queued: Option<u64>,
    /// Whether [`Tasks::set_concurrency`] has set `total`.
    pub is_set: bool,
    /// The pause, if the pool is paused.
    pub paused: Option<PausedPool>,
}

/// The pause of a pool. [`Tasks::pause`] has an example.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PausedPool {
    /// When the pause began, by the store's clock.
    pub since: Timestamp,
    /// The reason that was given, cut to 256 bytes.
    pub reason: String,
    /// Whether the pool is being resumed: it stays paused until the expiry of its queued tasks is moved.
    pub resuming: bool,
}

/// Why a pool was not changed. [`Tasks::pause`] has an example.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PoolError {
    /// This process has no pool of this name.
    #[error("this process has no pool {:?}", .0.as_str())]
    Unknown(PoolName),
    /// With 0 slots its tasks would never run: [pause](Tasks::pause) it instead.
    #[error("a pool has at least one slot; pause it instead")]
    NoSlots,
    /// The store did not confirm the change. The change may have been made.
    #[error("the pool could not be changed")]
    Store(#[from] StoreError),
}

impl Tasks {
    /// The pools of this process: the default pool first, the others in the order of the builder.
    ///
    /// # Errors
    ///
    /// Any error of the store.
    ///
    /// # Cancel safety
    ///
    /// Only reads, so dropping the future has no effect.
    pub async fn pools(&self) -> Result<Vec<PoolStats>, StoreError> {
        let attempts = &self.engine().attempts;
        attempts.read_controls().await?;
        let stats = attempts.pools.all().map(|(name, used, total, control)| PoolStats {
            name: name.clone(),
            used,
            total,
            queued: attempts.core.queue_hint(None, Some(name)).pool_queued,
            is_set: control.as_ref().is_some_and(|control| control.concurrency.is_some()),
            paused: control.and_then(|control| control.paused).map(|pause| PausedPool {
                since: pause.since(),
                reason: pause.reason,
                resuming: pause.resuming,
            }),
        });
        Ok(stats.collect())
    }

    /// Pauses a pool: no process starts its tasks until you [resume](Self::resume) it.
    ///
    /// Tasks of the pool are still accepted and queued, and do not expire. Running tasks go on. The pause is kept in
    /// the store, and survives what tasks survive. Other processes see it within a second. Pausing a paused pool
    /// changes nothing, not even the reason. The reason is cut to 256 bytes.
    ///
    /// # Errors
    ///
    /// [`PoolError`] says why the pool was not paused.
    ///
    /// # Cancel safety
    ///
    /// If you drop the future, the pool may or may not be paused.
    ///
    /// # Examples
    ///
    /// ```
    /// use tower_respond_async::{MemoryStore, Pool, RespondAsyncLayer, task::PoolName};
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let layer = RespondAsyncLayer::builder(MemoryStore::new())
    ///     .pool(Pool::new("mail").when(|head| head.uri.path() == "/mail"))
    ///     .build()?;
    /// let (tasks, mail) = (layer.tasks(), PoolName::new("mail")?);
    ///
    /// tasks.pause(&mail, "the mail server is being moved").await?;
    /// let paused = tasks.pools().await?[1].paused.clone();
    /// assert_eq!(paused.map(|paused| paused.reason).as_deref(), Some("the mail server is being moved"));
    /// tasks.resume(&mail).await?;
    /// assert_eq!(tasks.pools().await?[1].paused, None);
    /// # Ok(()) }
    /// ```
    pub async fn pause(&self, pool: &PoolName, reason: &str) -> Result<(), PoolError> {
        let attempts = &self.engine().attempts;
        let since = attempts.core.ledger.store().now().as_millis();
        attempts
            .steer(pool, |control| {
                control.paused.get_or_insert_with(|| Pause {
                    since,
                    reason: cut(reason, REASON_BYTES).into(),
                    resuming: false,
                });
            })
            .await?;
        Ok(())
    }

    /// Resumes a paused pool: every process starts its tasks again. Does nothing if the pool is not paused.
    ///
    /// Before that, the expiry of each of its queued tasks is moved by the time of the pause. This takes about as long
    /// as storing the same number of tasks. If the process ends meanwhile, the pool stays paused. Then resume it again,
    /// in any process.
    ///
    /// # Errors
    ///
    /// [`PoolError`] says why the pool was not resumed.
    ///
    /// # Cancel safety
    ///
    /// If you drop the future, the pool may still be paused. Resume it again.
    pub async fn resume(&self, pool: &PoolName) -> Result<(), PoolError> {
        let attempts = &self.engine().attempts;
        let control = attempts
            .steer(pool, |control| {
                if let Some(pause) = &mut control.paused {
                    pause.resuming = true;
                }
            })
            .await?;
        let Some(pause) = control.paused else { return Ok(()) };
        attempts.give_time_back(pool, pause.since()).await?;
        let resumed = |control: &mut PoolControl| {
            // A pause that began since then stays.
            if control.paused.as_ref().is_some_and(|now| now.since == pause.since) {
                control.paused = None;
            }
        };
        attempts.steer(pool, resumed).await?;
        attempts.core.hint(Hint::Work);
        Ok(())
    }

    /// Sets how many handlers of a pool may run at once in each process.
    ///
    /// The number overrides that of the builder; `None` restores it. Running handlers beyond the number go on to their
    /// end. The number is kept in the store, like a [pause](Self::pause).
    ///
    /// # Errors
    ///
    /// [`PoolError`] says why the number was not set.
    ///
    /// # Cancel safety
    ///
    /// If you drop the future, the number may or may not be set.
    pub async fn set_concurrency(&self, pool: &PoolName, handlers: Option<usize>) -> Result<(), PoolError> {
        if handlers == Some(0) {
            return Err(PoolError::NoSlots);
        }
        self.engine()
            .attempts
            .steer(pool, |control| control.concurrency = handlers)
            .await?;
        Ok(())
    }
}

impl Attempts {
    /// Changes the named value of a pool, and applies it. Returns the new value.
    async fn steer(&self, pool: &PoolName, change: impl Fn(&mut PoolControl)) -> Result<PoolControl, PoolError> {
        if !self.pools.has(pool) {
            return Err(PoolError::Unknown(pool.clone()));
        }
        let (store, name) = (self.core.ledger.store(), value_of(pool));
        let mut controls = self.core.call("control", || store.control(None)).await?;
        for _ in 0..TRIES {
            self.pools.apply(&controls);
            let before = controls.get(&name);
            let mut control = before.map(PoolControl::read).unwrap_or_default();
            change(&mut control);
            let value = control.write();
            if before.map(|before| &before.value) == value.as_ref() {
                return Ok(control);
            }
            let change = ControlChange {
                name: name.as_str().into(),
                was: before.map_or(0, |before| before.version),
                value,
            };
            controls = self.core.call("control", || store.control(Some(change))).await?;
            if controls.changed {
                self.pools.apply(&controls);
                return Ok(control);
            }
        }
        let contended = StoreError::new(StoreErrorKind::Unavailable, "other processes kept changing the pool");
        Err(contended.into())
    }

    /// Moves the expiry of a pool's queued tasks by the time of its pause.
    async fn give_time_back(&self, pool: &PoolName, paused_at: Timestamp) -> Result<(), StoreError> {
        let mut page = Page {
            order: SortOrder::Ascending,
            after: None,
            limit: AT_ONCE,
        };
        loop {
            let next = self
                .core
                .step("resume", || self.core.ledger.resume(pool, paused_at, page.clone()))
                .await?;
            match next {
                Some(next) => page.after = Some(next),
                None => return Ok(()),
            }
            // Lets other tasks of the runtime run.
            tokio::task::yield_now().await;
        }
    }
}
