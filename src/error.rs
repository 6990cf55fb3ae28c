//! Errors that several modules share, and panics of application code as values.

use std::{
    any::Any,
    borrow::Cow,
    mem::forget,
    panic::{AssertUnwindSafe, catch_unwind},
};

use crate::task::record::cut;

/// A boxed error, the usual error type of Tower services.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A boxed future, as methods of this crate's traits return it.
pub type BoxFuture<'a, T> = std::pin::Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// An invalid setting, found when the layer is built.
///
/// `Display` names the setting, the problem and a valid value. [`RespondAsyncBuilder`](crate::RespondAsyncBuilder) has an example.
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

    /// The name of the setting, as in the builder.
    #[must_use]
    pub const fn setting(&self) -> &'static str {
        self.setting
    }
}

/// The longest panic message that is kept, in bytes.
const PANIC_BYTES: usize = 1024;

/// The message of a panic.
#[derive(Debug)]
pub(crate) struct Panic(pub(crate) String);

/// Calls `call`, and turns a panic into an error.
///
/// A panic may leave borrowed values half changed. Afterwards, use only values that are consistent at any time. The
/// caller drops the result. If the result holds values of the application, the caller drops it with [`let_go`].
pub(crate) fn caught<T>(call: impl FnOnce() -> T) -> Result<T, Panic> {
    catch_unwind(AssertUnwindSafe(call)).map_err(Panic::from)
}

/// Drops a value of the application, and turns a panic of its destructor into an error.
///
/// A destructor is the application's code, like a handler. Its panic must not abort a settlement or end the engine.
pub(crate) fn let_go<T>(value: T) -> Result<(), Panic> {
    caught(|| drop(value))
}

/// Passes `value` to `look`, then drops `value`. If either of them panics, the panic is the error.
pub(crate) fn looked_at<T, R>(value: T, look: impl FnOnce(&T) -> R) -> Result<R, Panic> {
    // Borrowed, not moved: a destructor that panics while a panic of `look` unwinds would abort the process.
    let seen = caught(|| look(&value));
    let gone = let_go(value);
    seen.and_then(|seen| gone.map(|()| seen))
}

impl From<Box<dyn Any + Send>> for Panic {
    fn from(payload: Box<dyn Any + Send>) -> Self {
        let text = match (payload.downcast_ref::<&str>(), payload.downcast_ref::<String>()) {
            (Some(text), _) => text,
            (_, Some(text)) => text.as_str(),
            _ => "with a payload that is not text",
        };
        let panic = Self(cut(text, PANIC_BYTES).to_owned());
        if let Err(another) = catch_unwind(AssertUnwindSafe(|| drop(payload))) {
            // The payload of the second panic may panic when it is dropped, and so on: leak it.
            forget(another);
        }
        panic
    }
}
