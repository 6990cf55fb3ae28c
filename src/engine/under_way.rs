//! Work that a shutdown waits for.

use std::{ops::Deref, sync::Arc};

use crate::engine::core::Core;

/// A part of the engine that does such work.
pub(crate) trait Part: Sized {
    /// The core that counts its work.
    fn core(&self) -> &Core;

    /// Begins a piece of work that a shutdown waits for.
    fn enter(self: &Arc<Self>) -> UnderWay<Self> {
        self.core().busy.begin();
        UnderWay(self.clone())
    }
}

/// A piece of work under way, with the part that does it. Dropping it ends the work.
#[must_use]
pub(crate) struct UnderWay<T: Part>(Arc<T>);

impl<T: Part> Deref for UnderWay<T> {
    type Target = Arc<T>;

    fn deref(&self) -> &Arc<T> {
        &self.0
    }
}

impl<T: Part> Drop for UnderWay<T> {
    fn drop(&mut self) {
        self.0.core().busy.end();
    }
}
