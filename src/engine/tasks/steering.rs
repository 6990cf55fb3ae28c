//! Pausing pools, resuming them, and how many slots they have: for every process on the store.

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

/// How much of the reason for a pause is kept, in bytes: a line in a table.
const REASON_BYTES: usize = 256;

/// How often a named value is read and changed anew because somebody else changed it in between. People do.
const TRIES: usize = 16;

/// How many waiting tasks are given their time back in one go.
const AT_ONCE: usize = 500;

/// How one pool stands.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PoolStats {
    /// Its name.
    pub name: PoolName,
    /// How many of its handlers run in this process.
    pub used: usize,
    /// How many may run in this process.
    pub total: usize,
    /// How many of its tasks wait, where the store knows without looking at them.
    pub queued: Option<u64>,
    /// Whether [`Tasks::set_concurrency`] has set how many may run.
    pub is_set: bool,
    /// Since when it is paused, if it is.
    pub paused: Option<PausedPool>,
}

/// A pause of a pool.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PausedPool {
    /// Since when, by the store's clock.
    pub since: Timestamp,
    /// The reason that was given.
    pub reason: String,
    /// It is being resumed: its tasks are given their time back first.
    pub resuming: bool,
}

/// Why a pool was not changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PoolError {
    /// This process has no pool of this name.
    #[error("there is no pool {:?} here", .0.as_str())]
    Unknown(PoolName),
    /// With 0 slots none of its tasks would ever run: [pause](Tasks::pause) it instead.
    #[error("a pool has at least one slot; pause it instead")]
    NoSlots,
    /// The store did not say that it was done. It may have been.
    #[error("the pool could not be changed")]
    Store(#[from] StoreError),
}

impl Tasks {
    /// How the pools stand: the default one first, the others in the order of the builder.
    ///
    /// # Errors
    ///
    /// The store's.
    ///
    /// # Cancel safety
    ///
    /// Reads only.
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

    /// Begins no more tasks of a pool, in any process, until it is [resumed](Self::resume). Tasks are accepted and wait, and
    /// none of those that wait expires. What runs goes on.
    ///
    /// The pause is kept in the store and survives what a task survives. Other processes hear of it within a second. Of a
    /// pool that is paused already nothing changes, its reason included.
    ///
    /// # Errors
    ///
    /// [`PoolError`] says why it is not paused.
    ///
    /// # Cancel safety
    ///
    /// Dropped before it answers, the pool may or may not be paused.
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

    /// Begins tasks of a pool again, in every process. Before that, each of its tasks that waits is given back the time for
    /// which it could not be run: it expires so much later.
    ///
    /// That takes the store about as long as to store as many tasks. Should the process end meanwhile, the pool stays paused;
    /// resume it again, in any process.
    ///
    /// # Errors
    ///
    /// [`PoolError`] says why it is not resumed.
    ///
    /// # Cancel safety
    ///
    /// Dropped before it answers, the pool may be paused or not: resume it again.
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
            // Another pause than this one stays.
            if control.paused.as_ref().is_some_and(|now| now.since == pause.since) {
                control.paused = None;
            }
        };
        attempts.steer(pool, resumed).await?;
        attempts.core.hint(Hint::Work);
        Ok(())
    }

    /// Runs at most so many handlers of a pool at once in each process, whatever the builder was given; `None` takes that back.
    /// Those that run beyond it go on to their end.
    ///
    /// It is kept in the store as a [pause](Self::pause) is.
    ///
    /// # Errors
    ///
    /// [`PoolError`] says why it is not so.
    ///
    /// # Cancel safety
    ///
    /// Dropped before it answers, it may or may not be so.
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
    /// Changes what is said of a pool, and does as it says. Answers with what is said then.
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
        let contended = StoreError::new(
            StoreErrorKind::Unavailable,
            "the pool was changed by others again and again",
        );
        Err(contended.into())
    }

    /// Has the waiting tasks of a pool expire as much later as it was paused.
    async fn give_time_back(&self, pool: &PoolName, paused_at: Timestamp) -> Result<(), StoreError> {
        let mut page = Page {
            order: SortOrder::Ascending,
            after: None,
            limit: AT_ONCE,
        };
        loop {
            let next = self
                .core
                .call("resume", || self.core.ledger.resume(pool, paused_at, page.clone()))
                .await?;
            match next {
                Some(next) => page.after = Some(next),
                None => return Ok(()),
            }
            // Others have their turn.
            tokio::task::yield_now().await;
        }
    }
}
