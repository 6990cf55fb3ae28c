//! Completions on their way to those who want to know.

use crate::{
    store::{ClaimedDelivery, DeliveryClaim, DeliverySettlement, GiveUp, memory::MemoryStore},
    task::Delivery,
};

impl MemoryStore {
    pub(super) fn claim_deliveries_now(&self, claim: &DeliveryClaim) -> Vec<ClaimedDelivery> {
        let now = self.now();
        let mut claimed = Vec::new();
        loop {
            let more = claim.max - claimed.len();
            let due = self.inner.outbox.take(&claim.destinations, more, now);
            if due.is_empty() {
                return claimed;
            }
            for (destination, (_, id, generation)) in due {
                let mut tasks = self.tasks(id);
                let change = tasks.change(id, &self.around(id), |record| {
                    let delivery = record.delivery_mut(generation, &destination)?;
                    let claim = delivery.claim(claim.lease, now)?;
                    Some((claim, delivery.clone()))
                });
                let (Some(change), Some(kept)) = (change, tasks.get(id)) else {
                    continue;
                };
                claimed.extend(change.answer.map(|(claim, delivery)| ClaimedDelivery {
                    claim,
                    delivery,
                    record: kept.record.clone(),
                }));
            }
        }
    }

    pub(super) fn settle_delivery_now(&self, settlement: DeliverySettlement) -> bool {
        let now = self.now();
        let claim = settlement.claim;
        let mut tasks = self.tasks(claim.id);
        let change = tasks.change(claim.id, &self.around(claim.id), |record| {
            let of = record.delivery_mut(claim.generation, &claim.destination);
            of.is_some_and(|delivery| {
                let settled = delivery.settle(claim.token, &settlement.outcome, settlement.tried, now);
                settled.is_ok()
            })
        });
        change.is_some_and(|change| change.answer)
    }

    pub(super) fn give_up_deliveries_now(&self, give_up: &GiveUp) -> Vec<Delivery> {
        let now = self.now();
        let until = now.saturating_sub(give_up.overdue);
        let overdue = self.inner.outbox.overdue(&give_up.spared, give_up.max, until);
        let given_up = overdue.into_iter().filter_map(|(destination, (_, id, generation))| {
            let change = self.tasks(id).change(id, &self.around(id), |record| {
                let delivery = record.delivery_mut(generation, &destination)?;
                delivery.give_up(give_up.overdue, now).then(|| delivery.clone())
            });
            change?.answer
        });
        given_up.collect()
    }
}
