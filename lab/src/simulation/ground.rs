//! What the processes of a run stand on: a store, and what happens to it when they crash.

use std::{
    sync::Arc,
    task::{Context, Poll, Wake, Waker},
    thread::{self, Thread},
};

use tokio::runtime::Handle;
use tower_respond_async::{
    error::BoxFuture,
    store::{MemoryStore, StoreResult, TaskStore},
    testing::ManualClock,
};

/// Opens the store of a run.
pub(super) trait Ground {
    /// Opens it, for the first time or again, on a clock that may show any time.
    fn open(&mut self, clock: &ManualClock) -> StoreResult<Arc<dyn TaskStore>>;

    /// A handle of one process's own, if it is shared.
    fn handle(&self) -> Option<Arc<dyn TaskStore>>;

    /// Whether what its handles tell each other comes by the time of the life.
    fn tells_news(&self) -> bool {
        true
    }

    /// What runs its own threads, if it has any.
    fn helper(&self) -> Option<Handle> {
        None
    }

    /// Whether it outlives its processes, and several may use it.
    fn is_shared(&self) -> bool;

    /// Its clock shows another time.
    fn tick(&self) {}

    /// Something may go wrong with its disk soon.
    fn trouble(&mut self, _: &mut fastrand::Rng) {}

    /// Whether its disk is dead, and the machine with it.
    fn is_dead(&self) -> bool {
        false
    }

    /// The machine goes down, with all that was not on the disk.
    fn crash(&mut self, _: &mut fastrand::Rng) {}
}

/// A memory store that all processes share, as they would a server.
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

/// Waits on this thread until the store has answered: time stands still meanwhile.
/// What it does on threads, the helper runs: it would keep the clock of a process that waits for it from going on.
pub(super) fn see_through<T>(helper: Option<&Handle>, mut call: BoxFuture<'_, T>) -> T {
    let _entered = helper.map(Handle::enter);
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    loop {
        if let Poll::Ready(answer) = call.as_mut().poll(&mut Context::from_waker(&waker)) {
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
