//! The store of a run, and what happens to it in a crash.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Wake, Waker},
    thread::{self, Thread},
};

use tokio::runtime::Handle;
use tower_respond_async::{
    store::{MemoryStore, StoreResult, TaskStore},
    testing::ManualClock,
};

/// Opens the store of a run.
pub(super) trait Ground {
    /// Opens the store, for the first time or again, with a clock that may show any time.
    fn open(&mut self, clock: &ManualClock) -> StoreResult<Arc<dyn TaskStore>>;

    /// A handle for one process, if the store is shared.
    fn handle(&self) -> Option<Arc<dyn TaskStore>>;

    /// Whether news between its handles arrive in simulated time.
    fn tells_news(&self) -> bool {
        true
    }

    /// The runtime of the store's own tasks, if it has any.
    fn helper(&self) -> Option<Handle> {
        None
    }

    /// Whether it outlives its processes, and several can use it.
    fn is_shared(&self) -> bool;

    /// Called when the clock was moved.
    fn tick(&self) {}

    /// May schedule a failure of its disk.
    fn trouble(&mut self, _: &mut fastrand::Rng) {}

    /// Whether its disk is dead, and the machine with it.
    fn is_dead(&self) -> bool {
        false
    }

    /// The machine goes down. Everything that is not on the disk is lost.
    fn crash(&mut self, _: &mut fastrand::Rng) {}
}

/// A memory store that all processes share, as they would share a server.
#[derive(Debug, Default)]
pub(super) struct InMemory(Option<MemoryStore>);

impl Ground for InMemory {
    fn open(&mut self, clock: &ManualClock) -> StoreResult<Arc<dyn TaskStore>> {
        let store = MemoryStore::builder().clock(clock.clone()).build();
        self.0 = Some(store.clone());
        Ok(Arc::new(store))
    }

    fn handle(&self) -> Option<Arc<dyn TaskStore>> {
        let store = self.0.as_ref()?;
        Some(Arc::new(store.clone()))
    }

    fn is_shared(&self) -> bool {
        true
    }
}

/// Blocks this thread until the store has answered. Simulated time stands still meanwhile. Tasks that the call spawns
/// run on `helper`: on the runtime of the waiting process they would keep its clock from moving.
pub(super) fn see_through<T>(helper: Option<&Handle>, mut call: impl Future<Output = T> + Unpin) -> T {
    let _entered = helper.map(Handle::enter);
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    loop {
        if let Poll::Ready(answer) = Pin::new(&mut call).poll(&mut Context::from_waker(&waker)) {
            return answer;
        }
        thread::park();
    }
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}
