//! Errors that more than one floor speaks of, and panics of other people's code as values.

use std::{
    any::Any,
    borrow::Cow,
    mem::forget,
    panic::{AssertUnwindSafe, catch_unwind},
};

use crate::task::record::cut;

/// Any error, boxed: what the Tower ecosystem passes on when it does not look inside.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A future behind a pointer, as the ports return it.
pub type BoxFuture<'a, T> = std::pin::Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A setting that makes no sense, found when the layer is built.
///
/// `Display` names the setting, what is wrong with it, and what would be right.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{setting}: {problem}")]
pub struct ConfigError {
    setting: &'static str,
    problem: Cow<'static, str>,
}

impl ConfigError {
    pub(crate) fn new(setting: &'static str, problem: impl Into<Cow<'static, str>>) -> Self {
        Self {
            setting,
            problem: problem.into(),
        }
    }

    /// The name of the setting, as the builder spells it.
    #[must_use]
    pub const fn setting(&self) -> &'static str {
        self.setting
    }
}

/// How much of a panic's message is kept, in bytes.
const PANIC_BYTES: usize = 1024;

/// What was said in a panic.
#[derive(Debug)]
pub(crate) struct Panic(pub(crate) String);

/// Calls `call`; if it panics, that is its error.
///
/// What it borrows may be left half changed: use nothing of it after a panic, or only what is whole at any time. What it
/// answers is let go of by the caller: if it holds anything of the application's, with [`let_go`].
pub(crate) fn caught<T>(call: impl FnOnce() -> T) -> Result<T, Panic> {
    catch_unwind(AssertUnwindSafe(call)).map_err(Panic::from)
}

/// Drops what is the application's; if its destructor panics, that is the error.
///
/// A destructor is as much the application's code as a handler is: run by whoever drops the value last, its panic would
/// take a settlement along, or the engine.
pub(crate) fn let_go<T>(value: T) -> Result<(), Panic> {
    caught(|| drop(value))
}

/// Shows `value` to `look`, then lets go of it; if either panics, that is the error.
pub(crate) fn looked_at<T, R>(value: T, look: impl FnOnce(&T) -> R) -> Result<R, Panic> {
    // Not moved into the call: dropped while that unwinds, a value whose destructor panics too would end the process.
    let seen = caught(|| look(&value));
    let gone = let_go(value);
    seen.and_then(|seen| gone.map(|()| seen))
}

impl From<Box<dyn Any + Send>> for Panic {
    fn from(payload: Box<dyn Any + Send>) -> Self {
        let text = match (payload.downcast_ref::<&str>(), payload.downcast_ref::<String>()) {
            (Some(text), _) => text,
            (_, Some(text)) => text.as_str(),
            _ => "with something that is no text",
        };
        let panic = Self(cut(text, PANIC_BYTES).to_owned());
        if let Err(another) = catch_unwind(AssertUnwindSafe(|| drop(payload))) {
            // Each might panic with the next, without end: rather lost than dropped.
            forget(another);
        }
        panic
    }
}
