//! Turns panics of hooks and stores into errors, so that they do not end the engine.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use pin_project_lite::pin_project;

pub(crate) use crate::error::{Panic, caught, let_go, looked_at};
use crate::store::{StoreError, StoreErrorKind};

/// Calls `begin` and awaits the future that it returns. A panic of either is returned as an error. A panic while the
/// future is dropped is ignored.
///
/// `begin` is called at once, and guarded too: some functions do their work when they are called, not when their future
/// is polled.
pub(crate) fn caught_async<F: Future>(begin: impl FnOnce() -> F) -> Guarded<F> {
    match caught(begin) {
        Ok(future) => Guarded {
            future: Some(future),
            panic: None,
        },
        Err(panic) => Guarded {
            future: None,
            panic: Some(panic),
        },
    }
}

pin_project! {
    /// A future whose panics are caught when it is polled or dropped, or the panic of the call that should have made
    /// it.
    #[must_use]
    pub(crate) struct Guarded<F> {
        #[pin]
        future: Option<F>,
        panic: Option<Panic>,
    }

    impl<F> PinnedDrop for Guarded<F> {
        fn drop(this: Pin<&mut Self>) {
            let _ = caught(|| this.project().future.set(None));
        }
    }
}

impl<F: Future> Future for Guarded<F> {
    type Output = Result<F::Output, Panic>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        match this.future.as_pin_mut() {
            Some(future) => match caught(|| future.poll(cx)) {
                Ok(polled) => polled.map(Ok),
                Err(panic) => Poll::Ready(Err(panic)),
            },
            None => this.panic.take().map_or(Poll::Pending, |panic| Poll::Ready(Err(panic))),
        }
    }
}

/// The error for a store that panicked.
pub(crate) fn panicked(panic: &Panic) -> StoreError {
    StoreError::new(StoreErrorKind::Unavailable, format!("the store panicked: {}", panic.0))
}
