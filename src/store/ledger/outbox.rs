//! Completions: claiming them, recording tries, and giving them up.

use std::sync::Arc;

use super::{ClaimedDelivery, DeliverySettlement, GiveUp, Ledger, TRIES, too_many_tries};
use crate::{
    store::{Answering, Answers, Candidate, Candidates, Change, Committed, DeliveryClaim, Due, DueReason, StoreResult},
    task::{Delivery, Destination, RequestId, Scope, delivery::Redeliver},
    time::Timestamp,
};

impl Ledger {
    /// Claims completions that are due, for a lease of their own.
    ///
    /// # Errors
    ///
    /// Any error of the store. Completions may have been claimed then; they are due again when the lease runs out.
    pub async fn claim_deliveries(&self, claim: DeliveryClaim) -> StoreResult<Vec<ClaimedDelivery>> {
        let claimed = self.store.claim_deliveries(claim).await?;
        let claimed = claimed.into_iter().filter_map(|mut found| {
            let record = found.row.restore().clone();
            let delivery = record.delivery(found.generation, &found.destination)?.clone();
            Some(ClaimedDelivery {
                delivery,
                record,
                row: found.row,
            })
        });
        Ok(claimed.collect())
    }

    /// Records how a try of a delivery ended. Answers whether its claim still held.
    ///
    /// # Errors
    ///
    /// Any error of the store.
    pub async fn settle_delivery(&self, settlement: DeliverySettlement) -> StoreResult<bool> {
        let DeliverySettlement {
            claimed,
            outcome,
            tried,
        } = settlement;
        let Delivery {
            generation,
            destination,
            token,
            ..
        } = claimed.delivery;
        let mut row = claimed.row;
        for _ in 0..TRIES {
            let now = self.store.now();
            let record = Arc::make_mut(row.restore());
            let delivery = record.delivery_mut(generation, &destination);
            let settled = delivery.is_some_and(|it| it.settle(token, &outcome, tried.clone(), now).is_ok());
            if !settled {
                return Ok(false);
            }
            match self
                .store
                .commit(Change::between(&row, row.record.clone(), now))
                .await?
            {
                Committed::Done => return Ok(true),
                Committed::Stale(Some(newer)) => row = *newer,
                Committed::Stale(None) => return Ok(false),
            }
        }
        Err(too_many_tries())
    }

    /// Makes the delivery of this generation to this destination due now, whatever its state.
    ///
    /// # Errors
    ///
    /// `NotFound` if the task is not in `scope`.
    pub async fn redeliver(
        &self,
        scope: &Scope,
        id: RequestId,
        generation: u32,
        destination: &Destination,
    ) -> StoreResult<Redeliver> {
        let mut row = self.found(scope, id).await?;
        for _ in 0..TRIES {
            let now = self.store.now();
            let record = Arc::make_mut(row.restore());
            let Some(delivery) = record.delivery_mut(generation, destination) else {
                return Ok(Redeliver::Unknown);
            };
            delivery.redeliver(now);
            match self.try_to(Change::between(&row, row.record.clone(), now)).await? {
                None => return Ok(Redeliver::Due),
                Some(newer) => row = newer,
            }
        }
        Err(too_many_tries())
    }

    /// Gives up completions that no process claims, as [`Delivery::give_up`] describes, and answers with them as they
    /// are then.
    ///
    /// # Errors
    ///
    /// Any error of the store. Some of the completions may have been given up then.
    pub async fn give_up_deliveries(&self, give_up: GiveUp) -> StoreResult<Vec<Delivery>> {
        let due = Due::GiveUp {
            spared: give_up.spared.clone(),
            overdue: give_up.overdue,
        };
        let due = self.store.due(due, give_up.max).await?;
        self.give_up(due, give_up.max, |_, delivery, now| {
            let is_spared = give_up.spared.contains(&delivery.destination);
            !is_spared && delivery.give_up(give_up.overdue, now)
        })
        .await
    }

    /// Gives up at most `max` completions for destinations and hosts that do not answer, as far as they use more than
    /// their share of the store's room. Answers with them as they are then.
    ///
    /// # Errors
    ///
    /// Any error of the store. Some of the completions may have been given up then.
    pub async fn give_up_crowded(&self, answers: Answers, max: usize) -> StoreResult<Vec<Delivery>> {
        let due = self.store.due(Due::Crowded(answers.clone()), max).await?;
        self.give_up(due, max, |of, delivery, now| {
            answers.are_missed_by(of, delivery, now) && delivery.give_up_for_room(now)
        })
        .await
    }

    /// Gives up at most `max` completions of the candidates. `gives_up` gives up a delivery and says whether it did.
    async fn give_up(
        &self,
        due: Candidates,
        max: usize,
        gives_up: impl Fn(&Of, &mut Delivery, Timestamp) -> bool,
    ) -> StoreResult<Vec<Delivery>> {
        let Candidates { now, rows } = due;
        let (mut changes, mut given_up, mut left) = (Vec::new(), Vec::new(), max);
        for Candidate { mut row, reason } in rows {
            let record = Arc::make_mut(row.restore());
            let of = Of {
                reason,
                host: record.callback_host(),
            };
            let deliveries = record.life.deliveries.iter_mut();
            let of_task = deliveries.filter_map(|it| gives_up(&of, it, now).then(|| it.clone()));
            let of_task: Vec<_> = of_task.take(left).collect();
            left -= of_task.len();
            if !of_task.is_empty() {
                changes.push(Change::between(&row, row.record.clone(), now));
                given_up.push(of_task);
            }
        }
        let committed = self.commit_all(changes).await?;
        let done = committed.iter().zip(given_up);
        let done = done.filter(|(committed, _)| matches!(committed, Committed::Done));
        Ok(done.flat_map(|(_, of)| of).collect())
    }
}

/// The task of a completion: why it is due, and the host of its callback.
struct Of {
    reason: DueReason,
    host: Option<String>,
}

impl Answers {
    /// Whether this completion waits for a destination or host that does not answer. If that is unknown, the completion
    /// must have been tried itself, or have been due for too long for a host that was not tried.
    fn are_missed_by(&self, of: &Of, delivery: &Delivery, now: Timestamp) -> bool {
        let is_callback = delivery.destination == Destination::CALLBACK;
        if of.reason == DueReason::CrowdedHost && !is_callback {
            return false;
        }
        match self.of(&delivery.destination, of.host.as_deref().filter(|_| is_callback)) {
            Answering::Yes => false,
            Answering::No => true,
            Answering::Unknown => {
                let is_overdue = delivery.due_at.saturating_add(self.overdue) <= now;
                delivery.tried > 0 || (is_callback && is_overdue)
            }
        }
    }
}
