//! Panics of other people's futures as values: a hook or store that panics must not take the engine along.

use std::{
    pin::{Pin, pin},
    task::{Context, Poll},
};

use pin_project_lite::pin_project;

pub(crate) use crate::error::{Panic, caught, let_go, looked_at};
use crate::store::{StoreError, StoreErrorKind};

/// Awaits what `begin` gives; if either panics, that is its error. Dropped before its end, a destructor that panics is
/// passed over.
pub(crate) async fn caught_async<F: Future>(begin: impl FnOnce() -> F) -> Result<F::Output, Panic> {
    pin!(Guarded::begin(begin)?).await
}

pin_project! {
    /// A future, polled and dropped inside the guard.
    pub(crate) struct Guarded<F> {
        #[pin]
        future: Option<F>,
    }

    impl<F> PinnedDrop for Guarded<F> {
        fn drop(this: Pin<&mut Self>) {
            let _ = caught(|| this.project().future.set(None));
        }
    }
}

impl<F> Guarded<F> {
    /// What `begin` gives. Called inside the guard as well: some code does its work then, and not when it is polled.
    pub(crate) fn begin(begin: impl FnOnce() -> F) -> Result<Self, Panic> {
        let future = Some(caught(begin)?);
        Ok(Self { future })
    }
}

impl<F: Future> Future for Guarded<F> {
    type Output = Result<F::Output, Panic>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project().future.as_pin_mut() {
            Some(future) => match caught(|| future.poll(cx)) {
                Ok(polled) => polled.map(Ok),
                Err(panic) => Poll::Ready(Err(panic)),
            },
            None => Poll::Pending,
        }
    }
}

/// The failure of a store that panicked.
pub(crate) fn panicked(panic: &Panic) -> StoreError {
    StoreError::new(StoreErrorKind::Unavailable, format!("the store panicked: {}", panic.0))
}
