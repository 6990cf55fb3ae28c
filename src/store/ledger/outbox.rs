//! Completions on their way to those who want to know.

use std::sync::Arc;

use super::{ClaimedDelivery, DeliverySettlement, GiveUp, Ledger, TRIES, too_many_tries};
use crate::{
    store::{Candidates, Change, Committed, DeliveryClaim, Due, StoreResult},
    task::{Delivery, Destination, RequestId, Scope, delivery::Redeliver},
};

impl Ledger {
    /// Takes completions that are due, for a lease of their own.
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

    /// Makes the delivery of this generation to this destination due now, however it stands.
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

    /// Gives up completions that nobody takes, as [`Delivery::give_up`] says, and answers with them as they are now.
    pub async fn give_up_deliveries(&self, give_up: GiveUp) -> StoreResult<Vec<Delivery>> {
        let due = Due::GiveUp {
            spared: give_up.spared.clone(),
            overdue: give_up.overdue,
        };
        let Candidates { now, rows } = self.store.due(due, give_up.max).await?;
        let (mut changes, mut given_up, mut left) = (Vec::new(), Vec::new(), give_up.max);
        for mut candidate in rows {
            let record = Arc::make_mut(candidate.row.restore());
            let others = record
                .deliveries
                .iter_mut()
                .filter(|it| !give_up.spared.contains(&it.destination));
            let of: Vec<_> = others
                .filter_map(|it| it.give_up(give_up.overdue, now).then(|| it.clone()))
                .take(left)
                .collect();
            left -= of.len();
            if !of.is_empty() {
                changes.push(Change::between(&candidate.row, candidate.row.record.clone(), now));
                given_up.push(of);
            }
        }
        let committed = self.commit_all(changes).await?;
        let done = committed.iter().zip(given_up);
        let done = done.filter(|(committed, _)| matches!(committed, Committed::Done));
        Ok(done.flat_map(|(_, of)| of).collect())
    }
}
