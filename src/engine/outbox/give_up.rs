//! Gives up completions that no process delivers, and completions of silent receivers that take too much room.

use std::time::Duration;

use tokio::time::Instant;

use crate::{
    engine::{node::Answer, outbox::Outbox},
    probe::Event,
    store::{GiveUp, StoreResult},
    task::Delivery,
};

/// How long this process must be up before it gives up completions, and how long a destination must be silent before
/// this process counts as not serving it. After a large outage, receivers and processes come back in any order.
const CERTAIN: Duration = Duration::from_secs(60 * 60);

/// The number of tasks whose completions are given up in one call to make room.
pub(crate) const MANY: usize = 1000;

impl Outbox {
    /// Gives up completions that no process delivers, `max` of them at most.
    pub(crate) async fn give_up_deliveries(&self, max: usize) -> StoreResult<Answer> {
        let patience = self.core.settings.callback_patience;
        let certain = CERTAIN.min(patience);
        let now = Instant::now();
        let early = certain.saturating_sub(self.core.clock.uptime(now));
        if !early.is_zero() {
            return Ok(Answer::Idle(Some(early)));
        }
        let give_up = GiveUp {
            spared: self.destinations.served(now, certain),
            overdue: patience,
            max,
        };
        let given_up = self
            .core
            .step("give_up_deliveries", || self.core.ledger.give_up_deliveries(give_up))
            .await?;
        self.report_given_up(&given_up);
        Ok(match given_up.len() < max {
            true => Answer::Idle(None),
            false => Answer::More,
        })
    }

    /// Gives up completions of silent receivers that have more than their share of the store's room, for at most `max`
    /// tasks. Returns the number of tasks.
    pub(crate) async fn give_up_crowded(&self, max: usize) -> StoreResult<usize> {
        if !self.core.queue_hint(None, None).crowded {
            return Ok(0);
        }
        let answers = self.destinations.answers(Instant::now());
        let given_up = self
            .core
            .step("give_up_crowded", || self.core.ledger.give_up_crowded(answers, max))
            .await?;
        self.report_given_up(&given_up);
        Ok(given_up.len())
    }

    fn report_given_up(&self, given_up: &[Delivery]) {
        for Delivery { id, destination, .. } in given_up {
            self.core.probes.emit(|| Event::GivenUp { id: *id, destination });
            self.core.watchers.changed(*id);
        }
    }
}
