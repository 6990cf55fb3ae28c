//! Accepts many tasks at once.

use std::sync::Arc;

use tokio::time::timeout_at;

use crate::{
    engine::{
        caught::{caught_async, panicked},
        intake::{
            Intake,
            accept::{Born, Newborn, Unaccepted},
        },
        under_way::{Part, UnderWay},
    },
    store::{Insert, Inserted, StoreResult},
    task::NewTask,
};

impl Intake {
    /// Stores tasks, in one step if the store can, and starts as many as there are free slots. Returns an answer for
    /// each, in order.
    ///
    /// The inserts are completed even if the caller drops the future, as for [one task](Self::accept).
    pub(crate) async fn accept_all(self: &Arc<Self>, tasks: Vec<NewTask>) -> Result<Vec<Inserted>, Unaccepted> {
        // Entered before the phase is read: a shutdown that has not seen this insert is seen here.
        let entered = self.enter();
        if !self.core.phase.is_open() {
            return Err(Unaccepted::ShuttingDown);
        }
        if tasks.is_empty() {
            return Ok(Vec::new());
        }
        let (inserts, newborns) = tasks.into_iter().map(|task| self.newborn(task, None)).unzip();
        let commit = self.core.runtime.spawn(Self::commit_all(entered, inserts, newborns));
        let answer = Self::answer_within(self.core.settings.store_timeout, "insert_all", commit).await;
        answer.map_err(Unaccepted::Store)
    }

    async fn commit_all(
        entered: UnderWay<Self>,
        inserts: Vec<Insert>,
        mut newborns: Vec<Newborn>,
    ) -> StoreResult<Vec<Inserted>> {
        let timing = entered.core.probes.time("insert_all");
        let mut inserting = Box::pin(caught_async(|| entered.insert_all(inserts)));
        let asked_at = newborns.iter().map(|newborn| newborn.claimed_at).min();
        let in_time = match asked_at {
            Some(asked_at) => timeout_at(asked_at + entered.core.holds_for(), &mut inserting)
                .await
                .ok(),
            None => None,
        };
        let is_late = in_time.is_none();
        if is_late {
            // Too late to start the tasks under these claims. A store that never answers must not keep slots for ever.
            for newborn in &mut newborns {
                newborn.born = None;
            }
        }
        let answer = match in_time {
            Some(answer) => answer,
            None => inserting.await,
        };
        match timing.end(
            &entered.core.probes,
            answer.unwrap_or_else(|panic| Err(panicked(&panic))),
        ) {
            Ok(mut answers) if is_late => {
                for inserted in &mut answers {
                    entered.came_late(inserted).await;
                }
                Ok(answers)
            }
            Ok(answers) => {
                let of_each = answers.into_iter().zip(newborns);
                of_each
                    .map(|(inserted, newborn)| entered.committed(Ok(inserted), newborn))
                    .collect()
            }
            Err(error) => {
                for newborn in newborns {
                    if let Some(Born { request, .. }) = newborn.born {
                        entered.look_for_lost(newborn.id, request, newborn.claimed_at);
                    }
                }
                Err(error)
            }
        }
    }
}
