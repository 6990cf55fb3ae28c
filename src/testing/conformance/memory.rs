//! The harness for [`MemoryStore`].

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use super::Harness;
use crate::{
    error::BoxFuture,
    store::{MemoryStore, TaskStore},
    task::RequestId,
    testing::ManualClock,
    time::Timestamp,
};

/// Opens memory stores with a clock that the test moves: an example of a [`Harness`].
///
/// See the example of the [module](super).
#[derive(Debug)]
pub struct MemoryHarness {
    clock: ManualClock,
    opened: Mutex<MemoryStore>,
}

impl MemoryHarness {
    /// A new harness, with a clock of its own.
    #[must_use]
    pub fn new() -> Self {
        let clock = ManualClock::new(Timestamp::from_millis(1_700_000_000_000));
        let opened = Mutex::new(MemoryStore::builder().clock(clock.clone()).build());
        Self { clock, opened }
    }
}

impl Default for MemoryHarness {
    fn default() -> Self {
        Self::new()
    }
}

impl Harness for MemoryHarness {
    fn open(&self) -> BoxFuture<'_, Arc<dyn TaskStore>> {
        let store = MemoryStore::builder().clock(self.clock.clone()).build();
        *self.opened.lock().unwrap_or_else(PoisonError::into_inner) = store.clone();
        Box::pin(async { Arc::new(store) as Arc<dyn TaskStore> })
    }

    fn pass(&self, time: Duration) -> BoxFuture<'_, ()> {
        self.clock.advance(time);
        Box::pin(async {})
    }

    fn set_back(&self, by: Duration) -> BoxFuture<'_, bool> {
        self.clock.turn_back(by);
        Box::pin(async { true })
    }

    fn unit(&self) -> Duration {
        Duration::from_secs(1)
    }

    fn rounds(&self) -> usize {
        2_000
    }

    fn reopen(&self) -> BoxFuture<'_, Option<Arc<dyn TaskStore>>> {
        Box::pin(async { None })
    }

    fn second(&self) -> BoxFuture<'_, Option<Arc<dyn TaskStore>>> {
        // "Another process" is another layer of this process.
        let store = self.opened.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Box::pin(async { Some(Arc::new(store) as Arc<dyn TaskStore>) })
    }

    fn corrupt(&self, _: RequestId) -> BoxFuture<'_, bool> {
        Box::pin(async { false })
    }

    fn make_newer(&self, _: RequestId) -> BoxFuture<'_, bool> {
        Box::pin(async { false })
    }
}
