//! Accepts many tasks at once.

use std::sync::Arc;

use tokio::time::{Instant, timeout_at};

use crate::{
    engine::{
        caught::{caught, caught_async, panicked},
        intake::{
            Intake,
            accept::{PendingInsert, Unaccepted},
        },
        node::Hint,
        probes::Timing,
        under_way::{Part, UnderWay},
    },
    store::{Inserted, Reply, StoreResult},
    task::NewTask,
};

impl Intake {
    /// Stores tasks, in one step if the store can, and starts as many as there are free slots. Returns an answer for
    /// each, in order.
    ///
    /// The inserts are completed even if the caller drops the future, as for [one task](Self::accept).
    pub(crate) async fn accept_all(
        self: &Arc<Self>,
        tasks: impl Iterator<Item = NewTask> + Send,
    ) -> Result<Vec<Inserted>, Unaccepted> {
        // Entered before the phase is read: a shutdown that has not seen this insert is seen here.
        let entered = self.enter();
        if !self.core.phase.is_open() {
            return Err(Unaccepted::ShuttingDown);
        }
        let now = caught(|| self.core.ledger.store().now());
        let now = now.map_err(|panic| Unaccepted::Store(panicked(&panic)))?;
        let asked_at = Instant::now();
        let most = tasks.size_hint().1.unwrap_or(0);
        let (mut rows, mut inserts) = (Vec::with_capacity(most), Vec::with_capacity(most));
        for task in tasks {
            let (insert, pending) = self.prepare_insert(task, None, asked_at);
            rows.push(insert.into_row(now));
            inserts.push(pending);
        }
        if rows.is_empty() {
            return Ok(Vec::new());
        }
        let timing = self.core.probes.time("insert_all");
        let answer = match caught(|| self.insert_all(rows).at_once()) {
            Ok(Ok(answer)) => entered.all_answered(timing.end(&self.core.probes, answer), inserts),
            Ok(Err(later)) => {
                let commit = self
                    .core
                    .runtime
                    .spawn(Self::commit_all(entered, later, inserts, asked_at, timing));
                Self::answer_within(self.core.settings.store_timeout, "insert_all", commit).await
            }
            Err(panic) => entered.all_answered(timing.end(&self.core.probes, Err(panicked(&panic))), inserts),
        };
        answer.map_err(Unaccepted::Store)
    }

    /// Completes the inserts, in their spawned task.
    async fn commit_all(
        entered: UnderWay<Self>,
        inserting: Reply<'static, Vec<Inserted>>,
        mut inserts: Vec<PendingInsert>,
        asked_at: Instant,
        timing: Timing,
    ) -> StoreResult<Vec<Inserted>> {
        let mut inserting = caught_async(|| inserting);
        let in_time = timeout_at(asked_at + entered.core.holds_for(), &mut inserting)
            .await
            .ok();
        let is_late = in_time.is_none();
        if is_late {
            // Too late to start the tasks under these claims. A store that never answers must not keep slots for ever.
            for insert in &mut inserts {
                insert.direct_start = None;
            }
        }
        let answer = match in_time {
            Some(answer) => answer,
            None => inserting.await,
        };
        let answer = timing.end(
            &entered.core.probes,
            answer.unwrap_or_else(|panic| Err(panicked(&panic))),
        );
        match answer {
            Ok(mut answers) if is_late => {
                for inserted in &mut answers {
                    entered.inserted_late(inserted).await;
                }
                Ok(answers)
            }
            answer => entered.all_answered(answer, inserts),
        }
    }

    /// Handles the answer to inserts.
    fn all_answered(
        self: &Arc<Self>,
        mut answer: StoreResult<Vec<Inserted>>,
        inserts: Vec<PendingInsert>,
    ) -> StoreResult<Vec<Inserted>> {
        match &mut answer {
            Ok(answers) => {
                let of_each = answers.iter_mut().zip(inserts);
                let waiting = of_each.filter_map(|(inserted, insert)| self.inserted(inserted, insert).then_some(()));
                if waiting.count() > 0 {
                    self.core.hint(Hint::Work);
                }
            }
            // After any error, some of them may be stored.
            Err(_) => {
                for insert in inserts {
                    self.not_confirmed(insert);
                }
            }
        }
        answer
    }
}
