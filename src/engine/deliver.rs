//! Telling hooks that tasks ended: from the outbox, in a pool of their own, on a schedule of their own.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::time::timeout;

use crate::{
    engine::{Engine, caught::caught_async, node::Answer, slots::Slot},
    error::BoxError,
    hook::{Completion, CompletionHook},
    probe::Event,
    store::{ClaimedDelivery, DeliveryClaim, DeliverySettlement, StoreErrorKind, StoreResult},
    task::{
        CapturedRequest, Condition, Conditions, DeliveryStatus, DeliveryTry, Destination, Scope, Subscription,
        delivery::DeliveryOutcome,
        record::{cut, no_subscriptions},
    },
};

/// How many completions are delivered at once: hooks mostly wait for something, and must not crowd out handlers.
pub(crate) const POOL: usize = 16;

/// How long a hook may take. It runs after the task, so nobody waits for it, but its place in the pool is one of few.
const HOOK_TIMEOUT: Duration = Duration::from_secs(30);

/// When a failed delivery is tried again; after the last of these, no more. Fast at first for what was a hiccup, then for
/// three days, which is how long it may take somebody to mend a receiver over a weekend.
const SCHEDULE: [Duration; 9] = {
    const MINUTE: u64 = 60;
    const HOUR: u64 = 60 * MINUTE;
    [
        Duration::from_secs(5),
        Duration::from_secs(5 * MINUTE),
        Duration::from_secs(30 * MINUTE),
        Duration::from_secs(2 * HOUR),
        Duration::from_secs(5 * HOUR),
        Duration::from_secs(10 * HOUR),
        Duration::from_secs(14 * HOUR),
        Duration::from_secs(20 * HOUR),
        Duration::from_secs(24 * HOUR),
    ]
};

/// How much of a hook's error is kept, in bytes.
const ERROR_BYTES: usize = 1024;

/// The in-process hooks: together, the destination [`Destination::LOCAL`].
#[derive(Clone, Default)]
pub(crate) struct Hooks(Vec<(Conditions, Arc<dyn CompletionHook>)>);

impl Hooks {
    pub(crate) fn add(&mut self, on: Conditions, hook: Arc<dyn CompletionHook>) {
        self.0.push((on, hook));
    }

    /// What tasks are to be stored with, so that their end is told.
    pub(crate) fn subscriptions(&self) -> Arc<[Subscription]> {
        if self.0.is_empty() {
            return no_subscriptions();
        }
        let on = self.0.iter().fold(Conditions::NONE, |all, (on, _)| all.or(*on));
        Arc::from([Subscription {
            destination: Destination::LOCAL,
            on,
        }])
    }

    fn on(&self, condition: Condition) -> impl Iterator<Item = &Arc<dyn CompletionHook>> {
        self.0
            .iter()
            .filter(move |(on, _)| on.contains(condition))
            .map(|(_, hook)| hook)
    }
}

impl Engine {
    /// Claims completions and starts to deliver them.
    pub(crate) async fn deliver(self: &Arc<Self>, max: usize) -> StoreResult<Answer> {
        if self.settings.hooks.0.is_empty() {
            return Ok(Answer::Idle(None));
        }
        let mut places: Vec<_> = std::iter::from_fn(|| self.deliverers.take()).take(max).collect();
        if places.is_empty() {
            return Ok(Answer::Idle(None));
        }
        let asked = places.len();
        let claim = DeliveryClaim {
            destinations: vec![Destination::LOCAL],
            max: asked,
            lease: self.delivery_lease(),
        };
        let claimed = self
            .call("claim_deliveries", self.store.claim_deliveries(claim))
            .await?;
        let more = claimed.len() == asked;
        for (claimed, place) in claimed.into_iter().zip(places.drain(..)) {
            let busy = self.busy.enter();
            let engine = self.clone();
            self.runtime.spawn(async move {
                engine.deliver_one(claimed, place).await;
                drop(busy);
            });
        }
        Ok(if more { Answer::More } else { Answer::Idle(None) })
    }

    /// A claimed delivery that is not settled within this time is delivered again, perhaps by another process. Every hook
    /// has its whole time, and every store call: one that took longer would be delivered again and again, and never count
    /// as tried.
    fn delivery_lease(&self) -> Duration {
        let hooks = HOOK_TIMEOUT.saturating_mul(self.settings.hooks.0.len() as u32);
        hooks.saturating_add(4 * self.settings.store_timeout)
    }

    async fn deliver_one(self: Arc<Self>, claimed: ClaimedDelivery, place: Slot) {
        let started = Instant::now();
        let id = claimed.delivery.id;
        let request = readable(self.call("input", self.store.input(&Scope::All, id)).await);
        let response = readable(self.call("output", self.store.output(&Scope::All, id)).await);
        let (outcome, error) = match (request, response) {
            (Ok(request), Ok(response)) => {
                let request: Option<Arc<CapturedRequest>> = request;
                let completion = Completion::new(claimed.record, &claimed.delivery, request, response);
                match self.call_hooks(completion).await {
                    Ok(()) => (DeliveryOutcome::Delivered, None),
                    Err(error) => (again(claimed.delivery.tried), Some(error)),
                }
            }
            // The hook was not tried, so this costs no try.
            (Err(error), _) | (_, Err(error)) => (DeliveryOutcome::Released, Some(error.into())),
        };
        let mut tried = DeliveryTry::new(self.clock.at(started));
        tried.text = error.as_ref().map(|error| cut(&error.to_string(), ERROR_BYTES).into());
        let status = match &outcome {
            DeliveryOutcome::Delivered => DeliveryStatus::Delivered,
            DeliveryOutcome::Failed => DeliveryStatus::Failed,
            DeliveryOutcome::Blocked => DeliveryStatus::Blocked,
            DeliveryOutcome::Retry(_) | DeliveryOutcome::Released => DeliveryStatus::Pending,
        };
        let settlement = DeliverySettlement {
            claim: claimed.claim,
            outcome,
            tried,
        };
        if let Err(error) = self
            .call("settle_delivery", self.store.settle_delivery(settlement))
            .await
        {
            // It will be delivered again when its lease runs out: that is what "at least once" means.
            self.trouble("settling a delivery", &error, self.delivery_lease());
        }
        drop(place);
        self.probes.emit(|| Event::Delivered {
            id,
            destination: &claimed.delivery.destination,
            status,
            error: error.as_ref(),
            took: started.elapsed(),
        });
        self.watchers.changed(id);
    }

    /// Calls every hook that wants to know. The first to fail ends it: all are called again at the next try.
    async fn call_hooks(&self, completion: Completion) -> Result<(), BoxError> {
        for hook in self.settings.hooks.on(completion.condition) {
            let call = caught_async(|| hook.deliver(completion.clone()));
            match timeout(HOOK_TIMEOUT, call).await {
                Ok(Ok(answer)) => answer?,
                Ok(Err(panic)) => return Err(format!("the hook panicked: {}", panic.0).into()),
                Err(_) => return Err(format!("the hook took longer than {HOOK_TIMEOUT:?}").into()),
            }
        }
        Ok(())
    }
}

/// What can no longer be read is told as missing, rather than nothing told for ever.
fn readable<T>(found: StoreResult<Option<T>>) -> StoreResult<Option<T>> {
    match found {
        Err(error) if error.kind() != StoreErrorKind::Unavailable => Ok(None),
        found => found,
    }
}

fn again(tried: u32) -> DeliveryOutcome {
    match SCHEDULE.get(tried as usize) {
        Some(after) => DeliveryOutcome::Retry(after.mul_f64(0.9 + 0.2 * fastrand::f64())),
        None => DeliveryOutcome::Failed,
    }
}
