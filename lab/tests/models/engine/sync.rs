//! The model checker's primitives, in place of those of the standard library and tokio.

use std::{
    mem::replace,
    pin::Pin,
    task::{Context, Poll, Waker},
};

use shuttle::sync::Mutex;
pub(crate) use shuttle::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
};

/// tokio's `Notify`, as far as its documentation promises it and the engine relies on it: a permit for one, kept until
/// it is taken, and a call that wakes every future made before it.
#[derive(Debug, Default)]
pub(crate) struct Notify(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    permit: bool,
    calls_to_all: usize,
    waiting: Vec<Waker>,
}

impl Notify {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    pub(crate) fn notify_one(&self) {
        let mut state = self.0.lock().unwrap();
        state.permit = true;
        Self::wake(&mut state);
    }

    pub(crate) fn notify_waiters(&self) {
        let mut state = self.0.lock().unwrap();
        state.calls_to_all += 1;
        Self::wake(&mut state);
    }

    pub(crate) fn notified(&self) -> Notified<'_> {
        Notified {
            notify: self,
            made_after: self.0.lock().unwrap().calls_to_all,
        }
    }

    /// A future that is woken and finds nothing waits again.
    fn wake(state: &mut State) {
        state.waiting.drain(..).for_each(Waker::wake);
    }
}

pub(crate) struct Notified<'a> {
    notify: &'a Notify,
    made_after: usize,
}

impl Future for Notified<'_> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = self.notify.0.lock().unwrap();
        if state.calls_to_all > self.made_after || replace(&mut state.permit, false) {
            return Poll::Ready(());
        }
        state.waiting.push(cx.waker().clone());
        Poll::Pending
    }
}
