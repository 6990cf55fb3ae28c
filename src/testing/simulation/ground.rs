//! What the processes of a run stand on: a store, and what happens to it when they crash.

use std::sync::Arc;

use crate::{
    store::{MemoryStore, StoreResult, TaskStore},
    testing::ManualClock,
};

/// Opens the store of a run.
pub trait Ground {
    /// Opens it, for the first time or again, on a clock that may show any time.
    fn open(&mut self, clock: &ManualClock) -> StoreResult<Arc<dyn TaskStore>>;

    /// Whether it outlives its processes, and several may use it.
    fn is_shared(&self) -> bool;

    /// Something may go wrong with its disk soon.
    fn trouble(&mut self, random: &mut fastrand::Rng);

    /// Whether its disk is dead, and the machine with it.
    fn is_dead(&self) -> bool;

    /// The machine goes down, with all that was not on the disk.
    fn crash(&mut self, random: &mut fastrand::Rng);
}

/// A memory store that all processes share, as they would a server.
#[derive(Debug, Default)]
pub(super) struct InMemory;

impl Ground for InMemory {
    fn open(&mut self, clock: &ManualClock) -> StoreResult<Arc<dyn TaskStore>> {
        Ok(Arc::new(MemoryStore::builder().clock(clock.clone()).build()))
    }

    fn is_shared(&self) -> bool {
        true
    }

    fn trouble(&mut self, _: &mut fastrand::Rng) {}

    fn is_dead(&self) -> bool {
        false
    }

    fn crash(&mut self, _: &mut fastrand::Rng) {}
}
