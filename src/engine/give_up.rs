//! Completions that are given up: nobody takes them, or those who are to take them do not answer and there is no room for
//! all that wait for them.

use std::time::Duration;

use tokio::time::Instant;

use crate::{
    engine::{Engine, node::Answer},
    probe::Event,
    store::{FullReason, GiveUp, Insert, Inserted, StoreResult},
    task::Delivery,
};

/// How long a process is up, and a destination silent, before it is certain that deliveries have nobody to take them.
/// After an outage of everything, receivers and the other processes come back in any order.
const CERTAIN: Duration = Duration::from_secs(60 * 60);

/// How many tasks' completions are given up in one go for want of room.
pub(super) const MANY: usize = 1000;

impl Engine {
    /// Gives up completions that nobody takes, at most `max`.
    pub(crate) async fn give_up_deliveries(&self, max: usize) -> StoreResult<Answer> {
        let patience = self.settings.callback_patience;
        let certain = CERTAIN.min(patience);
        let now = Instant::now();
        let early = certain.saturating_sub(self.clock.uptime(now));
        if !early.is_zero() {
            return Ok(Answer::Idle(Some(early)));
        }
        let give_up = GiveUp {
            spared: self.destinations.served(now, certain),
            overdue: patience,
            max,
        };
        let given_up = self
            .call("give_up_deliveries", || self.ledger.give_up_deliveries(give_up))
            .await?;
        self.tell_given_up(&given_up);
        Ok(match given_up.len() < max {
            true => Answer::Idle(None),
            false => Answer::More,
        })
    }

    /// Gives up completions for whom does not answer, if they have more than their share of the store's room: those of at
    /// most `max` tasks. Answers of how many they were.
    pub(super) async fn give_up_crowded(&self, max: usize) -> StoreResult<usize> {
        if !self.queue_hint(None, None).crowded {
            return Ok(0);
        }
        let answers = self.destinations.answers(Instant::now());
        let given_up = self
            .call("give_up_crowded", || self.ledger.give_up_crowded(answers, max))
            .await?;
        self.tell_given_up(&given_up);
        Ok(given_up.len())
    }

    /// Inserts a task. If there is no room for it, completions that have more than their share of that are given up first.
    pub(super) fn insert(&self, insert: Insert) -> impl Future<Output = StoreResult<Inserted>> {
        // A copy is made only where it could help.
        let again = self.queue_hint(None, None).crowded.then(|| Box::new(insert.clone()));
        let inserting = self.ledger.insert(insert);
        async move {
            let inserted = inserting.await;
            let is_refused = matches!(&inserted, Ok(inserted) if is_without_room(inserted));
            let Some(again) = again.filter(|_| is_refused) else {
                return inserted;
            };
            // Gone, and the rest apart on the heap: it is seldom, and every insert would be larger.
            drop(inserted);
            Box::pin(self.insert_again(*again)).await
        }
    }

    async fn insert_again(&self, insert: Insert) -> StoreResult<Inserted> {
        match self.has_given_up().await {
            true => self.ledger.insert(insert).await,
            false => Ok(Inserted::Full(FullReason::Storage)),
        }
    }

    /// The same of many tasks: those are tried again that there was no room for.
    pub(super) async fn insert_all(&self, inserts: Vec<Insert>) -> StoreResult<Vec<Inserted>> {
        let again = self.queue_hint(None, None).crowded.then(|| inserts.clone());
        let mut inserted = self.ledger.insert_all(inserts).await?;
        let Some(again) = again.filter(|_| inserted.iter().any(is_without_room)) else {
            return Ok(inserted);
        };
        if self.has_given_up().await {
            let of_each = inserted.iter().zip(again).enumerate();
            let without_room = of_each.filter(|(_, (inserted, _))| is_without_room(inserted));
            let (places, again): (Vec<_>, _) = without_room.map(|(place, (_, insert))| (place, insert)).unzip();
            for (place, answer) in places.into_iter().zip(self.ledger.insert_all(again).await?) {
                inserted[place] = answer;
            }
        }
        Ok(inserted)
    }

    /// Whether completions were given up just now.
    async fn has_given_up(&self) -> bool {
        // If the store cannot, it has said so; the insert is answered as it was.
        self.give_up_crowded(MANY).await.is_ok_and(|tasks| tasks > 0)
    }

    fn tell_given_up(&self, given_up: &[Delivery]) {
        for Delivery { id, destination, .. } in given_up {
            self.probes.emit(|| Event::GivenUp { id: *id, destination });
            self.watchers.changed(*id);
        }
    }
}

const fn is_without_room(inserted: &Inserted) -> bool {
    matches!(inserted, Inserted::Full(FullReason::Storage))
}
