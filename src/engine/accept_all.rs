//! Taking many tasks in at once.

use std::sync::Arc;

use tokio::time::{timeout, timeout_at};

use crate::{
    engine::{
        Engine,
        accept::{Born, Newborn, Unaccepted},
        caught::{caught_async, panicked},
        under_way::UnderWay,
    },
    store::{Durability, Inserted, NewRow, StoreError, StoreErrorKind, StoreResult},
    task::NewTask,
};

/// How many are stored at once by a store that keeps them in memory: then what was made of a task is still in the cache when
/// it is stored. Any other store gets all in one call, which it may commit as one.
const IN_MEMORY: usize = 64;

impl Engine {
    /// Stores tasks in one step where the store can, and starts as many at once as there are slots free. What each answer is
    /// turned into, in order.
    ///
    /// The insert is seen through though the caller leaves, as that of [one](Self::accept) is.
    pub(crate) async fn accept_all<T: Send + 'static>(
        self: &Arc<Self>,
        tasks: Vec<NewTask>,
        answer: fn(Inserted) -> T,
    ) -> Result<Vec<T>, Unaccepted> {
        // Entered before the phase is looked at: a shutdown that does not see this, is seen by it.
        let entered = self.enter();
        if !self.phase.is_open() {
            return Err(Unaccepted::ShuttingDown);
        }
        let commit = self.runtime.spawn(Self::commit_all(entered, tasks, answer));
        let limit = self.settings.store_timeout;
        let answers = match timeout(limit, commit).await {
            Ok(Ok(answers)) => answers,
            Ok(Err(_)) => Err(StoreError::new(
                StoreErrorKind::Unavailable,
                "the insert was cut off by a panic, or by the end of the runtime",
            )),
            Err(_) => Err(Self::too_slow("insert_all", limit)),
        };
        answers.map_err(Unaccepted::Store)
    }

    async fn commit_all<T>(engine: UnderWay, tasks: Vec<NewTask>, answer: fn(Inserted) -> T) -> StoreResult<Vec<T>> {
        let at_once = match engine.ledger.store().abilities().durability {
            Durability::Process => IN_MEMORY,
            _ => usize::MAX,
        };
        let mut answers = Vec::with_capacity(tasks.len());
        let mut tasks = tasks.into_iter();
        while !tasks.as_slice().is_empty() {
            let group = tasks.by_ref().take(at_once).map(|task| engine.newborn(task, None));
            let (rows, newborns) = group.unzip();
            answers.extend(engine.commit_group(rows, newborns).await?.into_iter().map(answer));
        }
        Ok(answers)
    }

    async fn commit_group(
        self: &Arc<Self>,
        rows: Vec<NewRow>,
        mut newborns: Vec<Newborn>,
    ) -> StoreResult<Vec<Inserted>> {
        let timing = self.probes.time("insert_all");
        let mut inserting = Box::pin(caught_async(|| self.insert_all(rows)));
        let asked_at = newborns.iter().map(|newborn| newborn.claimed_at).min();
        let in_time = match asked_at {
            Some(asked_at) => timeout_at((asked_at + self.holds_for()).into(), &mut inserting)
                .await
                .ok(),
            None => None,
        };
        let is_late = in_time.is_none();
        if is_late {
            // A store that never answers must not keep slots for ever.
            for newborn in &mut newborns {
                newborn.born = None;
            }
        }
        let answer = match in_time {
            Some(answer) => answer,
            None => inserting.await,
        };
        match timing.end(answer.unwrap_or_else(|panic| Err(panicked(&panic)))) {
            Ok(answers) if is_late => {
                let of_each = answers.into_iter().zip(&newborns);
                let mut answers: Vec<_> = of_each
                    .map(|(insertion, newborn)| newborn.inserted(insertion))
                    .collect();
                for inserted in &mut answers {
                    self.came_late(inserted).await;
                }
                Ok(answers)
            }
            Ok(answers) => {
                let of_each = answers.into_iter().zip(newborns);
                of_each
                    .map(|(insertion, newborn)| self.committed(self.enter(), Ok(insertion), newborn))
                    .collect()
            }
            Err(error) => {
                for newborn in newborns {
                    if let Some(Born { input, .. }) = newborn.born {
                        self.look_for_lost(self.enter(), newborn.id, input, newborn.claimed_at);
                    }
                }
                Err(error)
            }
        }
    }
}
