//! Work that a shutdown waits for.

use std::{ops::Deref, sync::Arc};

use crate::engine::Engine;

/// A piece of work under way, and the engine that it is done for. Dropped, it is over.
#[must_use]
pub(crate) struct UnderWay(Arc<Engine>);

impl Engine {
    /// Begins a piece of work that a shutdown waits for.
    pub(crate) fn enter(self: &Arc<Self>) -> UnderWay {
        self.busy.begin();
        UnderWay(self.clone())
    }
}

impl Deref for UnderWay {
    type Target = Arc<Engine>;

    fn deref(&self) -> &Arc<Engine> {
        &self.0
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.busy.end();
    }
}
