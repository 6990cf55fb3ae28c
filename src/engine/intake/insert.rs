//! Inserts tasks, and makes room for them if the store is full.

use crate::{
    engine::{intake::Intake, outbox::give_up::MANY},
    store::{FullReason, Insert, Inserted, StoreResult},
};

impl Intake {
    /// Inserts a task. If the store has no room, gives up completions of silent receivers that take more than their
    /// share, and tries again.
    pub(crate) fn insert(&self, insert: Insert) -> impl Future<Output = StoreResult<Inserted>> {
        // Copied only if a second try may be necessary.
        let again = self
            .core
            .queue_hint(None, None)
            .crowded
            .then(|| Box::new(insert.clone()));
        let inserting = self.core.ledger.insert(insert);
        async move {
            let inserted = inserting.await;
            let is_refused = matches!(&inserted, Ok(inserted) if is_without_room(inserted));
            let Some(again) = again.filter(|_| is_refused) else {
                return inserted;
            };
            // The second try is rare. Dropping the answer and boxing the try keeps the future of every insert small.
            drop(inserted);
            Box::pin(self.insert_again(*again)).await
        }
    }

    async fn insert_again(&self, insert: Insert) -> StoreResult<Inserted> {
        match self.has_given_up().await {
            true => self.core.ledger.insert(insert).await,
            false => Ok(Inserted::Full(FullReason::Storage)),
        }
    }

    /// Inserts many tasks. Those for which the store has no room are tried again like a single one.
    pub(crate) async fn insert_all(&self, inserts: Vec<Insert>) -> StoreResult<Vec<Inserted>> {
        let again = self.core.queue_hint(None, None).crowded.then(|| inserts.clone());
        let mut inserted = self.core.ledger.insert_all(inserts).await?;
        let Some(again) = again.filter(|_| inserted.iter().any(is_without_room)) else {
            return Ok(inserted);
        };
        if self.has_given_up().await {
            let of_each = inserted.iter().zip(again).enumerate();
            let without_room = of_each.filter(|(_, (inserted, _))| is_without_room(inserted));
            let (places, again): (Vec<_>, _) = without_room.map(|(place, (_, insert))| (place, insert)).unzip();
            for (place, answer) in places.into_iter().zip(self.core.ledger.insert_all(again).await?) {
                inserted[place] = answer;
            }
        }
        Ok(inserted)
    }

    /// Gives up completions to make room. Returns whether there were any.
    async fn has_given_up(&self) -> bool {
        // The error was reported to the probes already. The insert keeps its first answer.
        self.outbox.give_up_crowded(MANY).await.is_ok_and(|tasks| tasks > 0)
    }
}

const fn is_without_room(inserted: &Inserted) -> bool {
    matches!(inserted, Inserted::Full(FullReason::Storage))
}
