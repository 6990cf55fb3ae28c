//! Handing completions to those who deliver them.

use std::sync::Arc;

use super::{batch::Batch, fault::Fault};
use crate::{
    store::{
        ClaimedDelivery, DeliveryClaim, DeliverySettlement, GiveUp,
        index::{Due, Footprint},
    },
    task::{Delivery, Destination, RequestId, Scope, delivery::Redeliver},
    time::Timestamp,
};

impl Batch<'_> {
    pub(super) fn claim_deliveries(&mut self, claim: &DeliveryClaim) -> Result<Vec<ClaimedDelivery>, Fault> {
        let now = self.now();
        let mut claimed = Vec::new();
        loop {
            let more = claim.max - claimed.len();
            let due = self.ram.outbox.take(&claim.destinations, more, now);
            if due.is_empty() {
                return Ok(claimed);
            }
            for (destination, due) in due {
                claimed.extend(self.claim_delivery(claim, &destination, due, now)?);
            }
        }
    }

    fn claim_delivery(
        &mut self,
        claim: &DeliveryClaim,
        destination: &Destination,
        (_, id, generation): Due,
        now: Timestamp,
    ) -> Result<Option<ClaimedDelivery>, Fault> {
        let Some(mut stored) = self.load_or_set_aside(id)? else {
            return Ok(None);
        };
        let before = Footprint::of(&stored.record);
        let delivery = stored.record.delivery_mut(generation, destination);
        let found = delivery.and_then(|delivery| Some((delivery.claim(claim.lease, now)?, delivery.clone())));
        let Some((claim, delivery)) = found else {
            return Ok(None);
        };
        self.save(&before, &stored)?;
        Ok(Some(ClaimedDelivery {
            claim,
            delivery,
            record: Arc::new(stored.record),
        }))
    }

    pub(super) fn settle_delivery(&mut self, settlement: DeliverySettlement) -> Result<bool, Fault> {
        let claim = settlement.claim;
        let Some(mut stored) = self.load(claim.id)? else {
            return Ok(false);
        };
        let (before, now) = (Footprint::of(&stored.record), self.now());
        let of = stored.record.delivery_mut(claim.generation, &claim.destination);
        let settled = of.is_some_and(|delivery| {
            let settled = delivery.settle(claim.token, &settlement.outcome, settlement.tried, now);
            settled.is_ok()
        });
        if settled {
            self.save(&before, &stored)?;
        }
        Ok(settled)
    }

    pub(super) fn redeliver(
        &mut self,
        scope: &Scope,
        id: RequestId,
        generation: u32,
        destination: &Destination,
    ) -> Result<Redeliver, Fault> {
        let mut stored = self.load_in(scope, id)?;
        let (before, now) = (Footprint::of(&stored.record), self.now());
        let Some(delivery) = stored.record.delivery_mut(generation, destination) else {
            return Ok(Redeliver::Unknown);
        };
        delivery.redeliver(now);
        self.save(&before, &stored)?;
        Ok(Redeliver::Due)
    }

    pub(super) fn give_up_deliveries(&mut self, give_up: &GiveUp) -> Result<Vec<Delivery>, Fault> {
        let now = self.now();
        let until = now.saturating_sub(give_up.overdue);
        let mut given_up = Vec::new();
        for (destination, (_, id, generation)) in self.ram.outbox.overdue(&give_up.spared, give_up.max, until) {
            let Some(mut stored) = self.load_or_set_aside(id)? else {
                continue;
            };
            let before = Footprint::of(&stored.record);
            let delivery = stored.record.delivery_mut(generation, &destination);
            let changed =
                delivery.and_then(|delivery| delivery.give_up(give_up.overdue, now).then(|| delivery.clone()));
            if let Some(delivery) = changed {
                self.save(&before, &stored)?;
                given_up.push(delivery);
            }
        }
        Ok(given_up)
    }
}
