//! What the task API asks of the engine beside what everybody may.

use std::sync::atomic::Ordering;

use crate::{
    engine::{ApiAddress, Tasks},
    probe::Event,
    task::RequestId,
};

impl Tasks {
    /// There is a task API now: answers can point at it.
    pub(crate) fn mark_api_mounted(&self) {
        self.engine().api_mounted.store(true, Ordering::Relaxed);
    }

    /// Where clients find the task API.
    pub(crate) fn api_address(&self) -> ApiAddress {
        self.engine().api.get().cloned().unwrap_or_default()
    }

    /// Tells the probes who changed a task.
    pub(crate) fn audit(&self, id: RequestId, action: &'static str, who: Option<&str>) {
        self.engine().probes.emit(|| Event::Changed { id, action, who });
    }
}
