//! Counts what must be over before the engine can be.

use std::{
    ops::Deref,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use tokio::sync::Notify;

use crate::engine::Engine;

/// How many pieces of work are under way. Aligned, so that counting them does not keep other threads from the settings
/// that it would share a cache line with.
#[derive(Default)]
#[repr(align(128))]
pub(crate) struct Busy {
    count: AtomicUsize,
    /// Whether somebody waits for it to be idle: until then, the last one's leaving wakes nobody.
    awaited: AtomicBool,
    idle: Notify,
}

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

impl Busy {
    fn begin(&self) {
        self.count.fetch_add(1, Ordering::SeqCst);
    }

    fn end(&self) {
        let last = self.count.fetch_sub(1, Ordering::SeqCst) == 1;
        if last && self.awaited.load(Ordering::SeqCst) {
            self.idle.notify_waiters();
        }
    }

    pub(crate) fn count(&self) -> usize {
        self.count.load(Ordering::SeqCst)
    }

    /// Resolves when nothing is under way.
    pub(crate) async fn idle(&self) {
        // Before the count is looked at, while who leaves counts down first and looks here then: one of the two sees the
        // other. SeqCst on both sides makes that so.
        self.awaited.store(true, Ordering::SeqCst);
        loop {
            let idle = self.idle.notified();
            tokio::pin!(idle);
            // Enabled before the count is looked at, so that the last one's leaving is not missed.
            idle.as_mut().enable();
            if self.count() == 0 {
                return;
            }
            idle.await;
        }
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

#[cfg(test)]
mod tests {
    use std::{
        hint::spin_loop,
        pin::pin,
        task::{Context, Waker},
        thread,
    };

    use super::*;

    /// Nobody is woken who did not say that they wait: the last one may leave in the very moment in which they say so.
    #[test]
    fn who_waits_hears_of_the_last_one_that_leaves() {
        const ROUNDS: usize = 100_000;
        let rounds: Arc<[Busy]> = (0..ROUNDS).map(|_| Busy::default()).collect();
        let (begun, ended) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let reached = |counter: &AtomicUsize, round| {
            // Near in time, where there are two cores, and without wasting a slice of it, where there is one.
            for look in 1_u32.. {
                match counter.load(Ordering::SeqCst) < round {
                    true if look % 1024 == 0 => thread::yield_now(),
                    true => spin_loop(),
                    false => return,
                }
            }
        };
        rounds.iter().for_each(Busy::begin);
        let leaving = thread::spawn({
            let (rounds, begun, ended) = (rounds.clone(), begun.clone(), ended.clone());
            move || {
                for (round, busy) in (1..).zip(&*rounds) {
                    reached(&begun, round);
                    // A little later every time, so that all moments come.
                    (0..round % 32).for_each(|_| spin_loop());
                    busy.end();
                    ended.store(round, Ordering::SeqCst);
                }
            }
        });
        let mut context = Context::from_waker(Waker::noop());
        for (round, busy) in (1..).zip(&*rounds) {
            let mut idle = pin!(busy.idle());
            begun.store(round, Ordering::SeqCst);
            let at_once = idle.as_mut().poll(&mut context).is_ready();
            reached(&ended, round);
            assert!(
                at_once || idle.as_mut().poll(&mut context).is_ready(),
                "in round {round}"
            );
        }
        leaving.join().unwrap();
    }
}
