//! Errors that more than one floor speaks of.

use std::borrow::Cow;

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
