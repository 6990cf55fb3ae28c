//! Delivers completions to destinations. Each destination has its own slots and its own schedule.

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, timeout};

use crate::{
    engine::{
        caught::{caught, caught_async},
        node::{Answer, Hint},
        outbox::{Outbox, destinations::Group, give_up::MANY},
        phase::EndStep,
        slots::Slot,
        under_way::Part,
    },
    error::BoxError,
    hook::{Application, Completion, Schedule, Target, Tried, TryOutcome},
    probe::Event,
    store::{ClaimedDelivery, DeliveryClaim, DeliverySettlement, StoreErrorKind, StoreResult},
    task::{DeliveryStatus, DeliveryTry, Destination, Scope, delivery::DeliveryOutcome},
};

/// A delivery that is due again within this time is claimed when it is due. Regular claims, every 5 seconds, find those
/// that are due later.
const SOON: Duration = Duration::from_secs(6);

/// How long a delivery waits if the store could not return its request or response.
const STORE_PAUSE: Duration = Duration::from_secs(1);

impl Outbox {
    /// Claims up to `max` completions, and starts to deliver them.
    pub(crate) async fn deliver(
        self: &Arc<Self>,
        application: &Arc<dyn Application>,
        max: usize,
    ) -> StoreResult<Answer> {
        // Comes first: it makes room for the completions of tasks that just ended.
        let mut more = self.give_up_crowded(MANY).await? >= MANY;
        let mut left = max;
        for group in self.destinations.groups() {
            let mut slots = group.take_slots(left, Instant::now());
            if slots.is_empty() {
                continue;
            }
            let asked = slots.len();
            let claim = DeliveryClaim {
                from: vec![(group.name.clone(), asked)],
                lease: self.delivery_lease(group),
            };
            let claimed = self
                .core
                .step("claim_deliveries", || self.core.ledger.claim_deliveries(claim))
                .await?;
            left -= claimed.len();
            if claimed.len() == asked {
                more = true;
                group.note_backlog();
            }
            for (claimed, slot) in claimed.into_iter().zip(slots.drain(..)) {
                let (outbox, group, application) = (self.enter(), group.clone(), application.clone());
                self.core
                    .runtime
                    .spawn(async move { outbox.deliver_one(&*application, &group, claimed, slot).await });
            }
        }
        Ok(match more {
            true => Answer::More,
            false => Answer::Idle(self.destinations.next_look(Instant::now())),
        })
    }

    /// How long a claimed delivery is held. If it is not settled in this time, it is delivered again, perhaps by
    /// another process.
    ///
    /// It covers the time limits of the try and of each store call. If it were shorter, a slow try would be repeated
    /// for ever without being counted.
    fn delivery_lease(&self, group: &Group) -> Duration {
        group.limit().saturating_add(4 * self.core.settings.store_timeout)
    }

    async fn deliver_one(&self, application: &dyn Application, group: &Group, claimed: ClaimedDelivery, slot: Slot) {
        let started = Instant::now();
        let id = claimed.delivery.id;
        let target = group.target(claimed.delivery.condition);
        let tried = self.try_once(application, group, &**target, &claimed).await;
        let now = Instant::now();
        group.note(tried.outcome, now);
        if group.name == Destination::CALLBACK
            && let Some(host) = claimed.record.callback_host()
        {
            self.destinations.hosts.note(&host, tried.outcome);
        }
        let tried_before = claimed.delivery.tried;
        let (outcome, status) = match tried.outcome {
            TryOutcome::Delivered => (DeliveryOutcome::Delivered, DeliveryStatus::Delivered),
            TryOutcome::Failed { retry_after } => {
                let jitter = fastrand::f64();
                let next = |schedule: &Schedule| schedule.next(tried_before, retry_after, jitter);
                match caught(|| next(target.schedule())).unwrap_or_else(|_| next(&Schedule::default())) {
                    Some(after) => (DeliveryOutcome::Retry(after), DeliveryStatus::Pending),
                    None => (DeliveryOutcome::Failed, DeliveryStatus::Failed),
                }
            }
            TryOutcome::GivenUp => (DeliveryOutcome::Failed, DeliveryStatus::Failed),
            TryOutcome::Blocked => (DeliveryOutcome::Blocked, DeliveryStatus::Blocked),
            TryOutcome::Postponed(after) => (DeliveryOutcome::Postponed(after), DeliveryStatus::Pending),
        };
        let again = match outcome {
            DeliveryOutcome::Retry(after) | DeliveryOutcome::Postponed(after) => Some(after),
            _ => None,
        };
        let mut shown = DeliveryTry::new(self.core.clock.at(started));
        shown.status_code = tried.status_code;
        shown.text = tried.text.as_deref().map(Into::into);
        let settlement = DeliverySettlement {
            claimed: claimed.clone(),
            outcome,
            tried: shown,
        };
        let settled = self
            .core
            .step("settle_delivery", || self.core.ledger.settle_delivery(settlement))
            .await;
        if let Err(error) = settled {
            // The completion is delivered again when its lease runs out: it is delivered at least once.
            self.core
                .trouble("settling a delivery", &error, self.delivery_lease(group));
        }
        drop(slot);
        if let Some(after) = again.filter(|after| *after < SOON) {
            self.destinations.note_upcoming(now + after);
            self.core.hint(Hint::Outbox);
        } else if group.take_backlog()
            || (status == DeliveryStatus::Pending && self.core.queue_hint(None, None).crowded)
        {
            // More may be due. Or the host has just turned out to be silent, and its completions take too much room.
            self.core.hint(Hint::Outbox);
        }
        if let TryOutcome::Postponed(_) = tried.outcome {
            // This does not count as a try. The store failed, which was reported already, or the shutdown cut it off.
            return;
        }
        let error = match status {
            DeliveryStatus::Delivered => None,
            _ => tried.text.map(|text| BoxError::from(self.core.api.secrets.text(&text))),
        };
        self.core.probes.emit(|| Event::Delivered {
            id,
            destination: &claimed.delivery.destination,
            status,
            error: error.as_ref(),
            took: started.elapsed(),
        });
        self.core.watchers.changed(id);
    }

    async fn try_once(
        &self,
        application: &dyn Application,
        group: &Group,
        target: &dyn Target,
        claimed: &ClaimedDelivery,
    ) -> Tried {
        let id = claimed.delivery.id;
        let request = readable(
            self.core
                .step("request", || self.core.ledger.request(&Scope::All, id))
                .await,
        );
        let response = readable(
            self.core
                .step("response", || self.core.ledger.response(&Scope::All, id))
                .await,
        );
        // Read last, so that the record is not older than the response: if the task was run again after the claim, the
        // response may belong to the later run.
        let record = match &response {
            Ok(Some(_)) => self.core.step("find", || self.core.ledger.task(id)).await.map(Some),
            _ => Ok(None),
        };
        let (Ok(request), Ok(response), Ok(record)) = (request, response, readable(record)) else {
            // Nothing was tried, so this does not count as a try.
            return Tried::new(TryOutcome::Postponed(STORE_PAUSE));
        };
        let record = record.unwrap_or_else(|| claimed.record.clone());
        let completion = Completion::new(record.clone(), &claimed.delivery, request, response);
        let completion = completion.with_location(self.core.api.of(&record));
        let completion = completion.with_secrets(self.core.api.secrets.clone());
        let call = caught_async(|| target.deliver(completion, application));
        let limit = caught(|| target.limit()).unwrap_or_else(|_| group.limit());
        // The shutdown cuts off a try at a receiver, and another process repeats it. Hooks in this process may have no
        // other process that repeats them, so they get their whole time.
        let cut = async {
            match group.is_local() {
                true => std::future::pending().await,
                false => self.core.phase.reached(EndStep::Cut).await,
            }
        };
        tokio::select! {
            biased;
            tried = timeout(limit, call) => match tried {
                Ok(Ok(tried)) => tried,
                Ok(Err(panic)) => Tried::failed(format_args!("the hook panicked: {}", panic.0)),
                Err(_) => Tried::failed(format_args!("it took longer than {limit:?}")),
            },
            () = cut => Tried::new(TryOutcome::Postponed(Duration::ZERO)),
        }
    }
}

/// Turns a value that can no longer be read into `None`. Otherwise its completion would never be delivered.
fn readable<T>(found: StoreResult<Option<T>>) -> StoreResult<Option<T>> {
    match found {
        Err(error) if error.kind() != StoreErrorKind::Unavailable => Ok(None),
        found => found,
    }
}
