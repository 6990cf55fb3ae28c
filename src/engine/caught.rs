//! Panics of other people's code as values: a handler, hook, policy, probe or store that panics must not take the engine
//! along.

use std::{
    any::Any,
    future::poll_fn,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::pin,
    task::Poll,
};

use crate::{
    store::{StoreError, StoreErrorKind},
    task::record::cut,
};

/// How much of a panic's message is kept, in bytes.
const PANIC_BYTES: usize = 1024;

/// What was said in a panic.
#[derive(Debug)]
pub(crate) struct Panic(pub(crate) String);

/// Calls `call`; if it panics, that is its error.
///
/// What it borrows may be left half changed: use nothing of it after a panic, or only what is whole at any time.
pub(crate) fn caught<T>(call: impl FnOnce() -> T) -> Result<T, Panic> {
    catch_unwind(AssertUnwindSafe(call)).map_err(Panic::from)
}

/// Awaits what `begin` gives; if either panics, that is its error.
pub(crate) async fn caught_async<F: Future>(begin: impl FnOnce() -> F) -> Result<F::Output, Panic> {
    // Inside the guard as well: some code does its work when it is called, not when it is polled.
    let mut future = pin!(caught(begin)?);
    poll_fn(|cx| match caught(|| future.as_mut().poll(cx)) {
        Ok(polled) => polled.map(Ok),
        Err(panic) => Poll::Ready(Err(panic)),
    })
    .await
}

/// The failure of a store that panicked.
pub(crate) fn panicked(panic: &Panic) -> StoreError {
    StoreError::new(StoreErrorKind::Unavailable, format!("the store panicked: {}", panic.0))
}

impl From<Box<dyn Any + Send>> for Panic {
    fn from(payload: Box<dyn Any + Send>) -> Self {
        let text = match (payload.downcast_ref::<&str>(), payload.downcast_ref::<String>()) {
            (Some(text), _) => text,
            (_, Some(text)) => text.as_str(),
            _ => "with something that is no text",
        };
        Self(cut(text, PANIC_BYTES).to_owned())
    }
}
