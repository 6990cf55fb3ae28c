//! What the task API asks of the engine beside what everybody may.

use std::{sync::atomic::Ordering, time::Duration};

use crate::{
    engine::{ApiAddress, Settings, Tasks, caught::caught},
    probe::Event,
    store::Durability,
    task::{RequestId, Subscription, WorkerId},
};

impl Tasks {
    /// There is a task API now: answers can point at it.
    pub(crate) fn mark_api_mounted(&self) {
        self.engine().core.api.is_mounted.store(true, Ordering::Relaxed);
    }

    /// Where clients find the task API.
    pub(crate) fn api_address(&self) -> ApiAddress {
        self.engine().core.api.clone()
    }

    /// What this engine was told when it was built.
    pub(crate) fn settings(&self) -> &Settings {
        &self.engine().core.settings
    }

    /// Who is told of the ends of tasks that are accepted now.
    pub(crate) fn subscriptions(&self) -> &[Subscription] {
        self.engine().outbox.destinations.subscriptions()
    }

    /// What this process calls itself.
    pub(crate) fn worker(&self) -> &WorkerId {
        &self.engine().core.worker
    }

    /// What an accepted task survives.
    pub(crate) fn durability(&self) -> Durability {
        self.engine().core.ledger.store().abilities().durability
    }

    /// How many retries a task has that is accepted now.
    pub(crate) fn max_retries(&self) -> u32 {
        self.engine().intake.max_retries()
    }

    /// The longest wait before each of the first retries, where the response does not say; empty where the policy
    /// panics.
    pub(crate) fn longest_waits(&self, retries: u32) -> Vec<Duration> {
        let policy = &self.engine().core.settings.retry;
        caught(|| (1..=retries).map(|retry| policy.delay(retry, 1.0)).collect()).unwrap_or_default()
    }

    /// Tells the probes who changed a task.
    pub(crate) fn audit(&self, id: RequestId, action: &'static str, who: Option<&str>) {
        self.engine().core.probes.emit(|| Event::Changed { id, action, who });
    }
}
