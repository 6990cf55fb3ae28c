//! [`Outbox`] delivers completions to destinations.

mod deliver;
pub(crate) mod destinations;
pub(crate) mod give_up;
mod hosts;

use std::sync::Arc;

use crate::engine::{core::Core, outbox::destinations::Destinations, under_way::Part};

/// The destinations of this process, and the deliveries to them.
pub(crate) struct Outbox {
    pub(crate) core: Arc<Core>,
    pub(crate) destinations: Destinations,
}

impl Outbox {
    pub(crate) fn new(core: Arc<Core>) -> Self {
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
