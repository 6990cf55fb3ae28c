//! [`Outbox`]: what tells destinations that tasks ended.

use std::sync::Arc;

use crate::engine::{core::Core, destinations::Destinations, under_way::Part};

/// The destinations of this process, and the completions on their way to them.
pub(crate) struct Outbox {
    pub(super) core: Arc<Core>,
    pub(super) destinations: Destinations,
}

impl Outbox {
    pub(super) fn new(core: Arc<Core>) -> Self {
        Self {
            destinations: Destinations::new(&core.settings.hooks, &core.signals.wake),
            core,
        }
    }
}

impl Part for Outbox {
    fn core(&self) -> &Core {
        &self.core
    }
}
