//! Methods of [`Tasks`] that only the task API uses.

use std::{sync::atomic::Ordering, time::Duration};

use crate::{
    engine::{ApiAddress, Settings, Tasks, caught::caught},
    probe::Event,
    store::Durability,
    task::{RequestId, Subscription, WorkerId},
};

impl Tasks {
    /// Records that a task API is mounted, so that answers can link to it.
    pub(crate) fn mark_api_mounted(&self) {
        self.engine().core.api.is_mounted.store(true, Ordering::Relaxed);
    }

    /// The address of the task API.
    pub(crate) fn api_address(&self) -> ApiAddress {
        self.engine().core.api.clone()
    }

    /// The settings of this engine.
    pub(crate) fn settings(&self) -> &Settings {
        &self.engine().core.settings
    }

    /// The subscriptions that a task gets if it is accepted now.
    pub(crate) fn subscriptions(&self) -> &[Subscription] {
        self.engine().outbox.destinations.subscriptions()
    }

    /// The name of this process.
    pub(crate) fn worker(&self) -> &WorkerId {
        &self.engine().core.worker
    }

    /// What an accepted task survives.
    pub(crate) fn durability(&self) -> Durability {
        self.engine().core.ledger.store().abilities().durability
    }

    /// The number of retries that a task gets if it is accepted now.
    pub(crate) fn max_retries(&self) -> u32 {
        self.engine().intake.max_retries()
    }

    /// The longest wait before each of the first `retries` retries, for responses without a `Retry-After`. Empty if the
    /// policy panics.
    pub(crate) fn longest_waits(&self, retries: u32) -> Vec<Duration> {
        let policy = &self.engine().core.settings.retry;
        caught(|| (1..=retries).map(|retry| policy.delay(retry, 1.0)).collect()).unwrap_or_default()
    }

    /// Reports to the probes which user changed a task.
    pub(crate) fn audit(&self, id: RequestId, action: &'static str, who: Option<&str>) {
        self.engine().core.probes.emit(|| Event::Changed { id, action, who });
    }
}
