//! Taking many tasks in at once.

use std::sync::Arc;

use tokio::time::{timeout, timeout_at};

use crate::{
    engine::{
        Engine, Submission, SubmitError, Submitted,
        accept::{Born, Newborn, Unaccepted},
        caught::{caught_async, panicked},
        under_way::UnderWay,
    },
    store::{Durability, Inserted, NewRow, StoreError, StoreErrorKind, StoreResult},
};

/// How many are stored at once by a store that keeps them in memory: it has nothing to gain from more, and what is made of them
/// need not all be there at once. Any other store gets all in one call, which it may commit as one.
const IN_MEMORY: usize = 64;

/// What became of each task.
type Answers = Vec<Result<Submitted, SubmitError>>;

impl Engine {
    /// Stores tasks in one step where the store can, and starts as many at once as there are slots free. One answer for each,
    /// in order.
    ///
    /// The insert is seen through though the caller leaves, as that of [one](Self::accept) is.
    pub(crate) async fn accept_all(self: &Arc<Self>, submissions: Vec<Submission>) -> Result<Answers, Unaccepted> {
        // Entered before the phase is looked at: a shutdown that does not see this, is seen by it.
        let entered = self.enter();
        if !self.phase.is_open() {
            return Err(Unaccepted::ShuttingDown);
        }
        let commit = self.runtime.spawn(Self::commit_all(entered, submissions));
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

    async fn commit_all(engine: UnderWay, submissions: Vec<Submission>) -> StoreResult<Answers> {
        let at_once = match engine.ledger.store().abilities().durability {
            Durability::Process => IN_MEMORY,
            _ => submissions.len(),
        };
        let mut answers = Vec::with_capacity(submissions.len());
        let mut left = submissions.into_iter();
        while !left.as_slice().is_empty() {
            let (mut rows, mut newborns) = (Vec::with_capacity(at_once), Vec::with_capacity(at_once));
            let mut refused = Vec::new();
            for (at, submission) in left.by_ref().take(at_once).enumerate() {
                match engine.task_of(submission) {
                    Ok(task) => {
                        let (row, newborn) = engine.newborn(task, None);
                        rows.push(row);
                        newborns.push(newborn);
                    }
                    Err(error) => refused.push((answers.len() + at, error)),
                }
            }
            if !rows.is_empty() {
                let inserted = engine.commit_group(rows, newborns).await?;
                answers.extend(inserted.into_iter().map(Submitted::of));
            }
            for (at, error) in refused {
                answers.insert(at, Err(error));
            }
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
