//! Errors of stores.

use std::{borrow::Cow, error::Error, fmt};

use crate::{
    error::{BoxError, let_go},
    task::DecodeError,
};

/// An error of a store operation.
///
/// [`kind`](Self::kind) is for code that branches, `Display` for people, and `source()` for the log.
///
/// # Examples
///
/// ```
/// use std::{error::Error, fs};
/// use tower_respond_async::store::{StoreError, StoreErrorKind, StoreResult};
///
/// fn read(file: &str) -> StoreResult<Vec<u8>> {
///     fs::read(file).map_err(StoreError::unavailable)
/// }
///
/// let error = read("/no/such/file").unwrap_err();
/// assert_eq!(error.kind(), StoreErrorKind::Unavailable);
/// assert_eq!(error.to_string(), "the store cannot be reached");
/// assert!(error.source().is_some(), "the error of the file system");
/// ```
#[derive(Debug)]
pub struct StoreError {
    kind: StoreErrorKind,
    context: Cow<'static, str>,
    source: Option<Source>,
}

/// The cause that a store gave. A panic of its destructor is caught: a settlement may be under way where the error is
/// dropped.
#[derive(Debug)]
struct Source(Option<BoxError>);

impl Drop for Source {
    fn drop(&mut self) {
        let _ = let_go(self.0.take());
    }
}

/// What the caller can do about an error.
///
/// See the example of [`StoreError`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum StoreErrorKind {
    /// Read again: several tasks match, or another change came between.
    Conflict,
    /// Stop looking: the task does not exist, or not in this scope.
    NotFound,
    /// Try again: the store cannot be reached now. The operation may have happened or not.
    Unavailable,
    /// Make room, or wait until there is.
    Full,
    /// Set it aside: the stored data cannot be read.
    Corrupt,
    /// Update: a newer version wrote the stored data.
    Incompatible,
    /// Do without: this store lacks the ability, as [`Abilities`](crate::store::Abilities) says.
    Unsupported,
}

impl StoreError {
    /// An error of this kind. `context` says what was being done, in lower case and without a full stop.
    pub fn new(kind: StoreErrorKind, context: impl Into<Cow<'static, str>>) -> Self {
        Self {
            kind,
            context: context.into(),
            source: None,
        }
    }

    /// Sets the cause of the error.
    #[must_use]
    pub fn because(mut self, source: impl Into<BoxError>) -> Self {
        self.source = Some(Source(Some(source.into())));
        self
    }

    /// The store cannot be reached now, because of `source`. The operation may have happened or not.
    pub fn unavailable(source: impl Into<BoxError>) -> Self {
        Self::new(StoreErrorKind::Unavailable, "the store cannot be reached").because(source)
    }

    /// There is no such task.
    #[must_use]
    pub fn not_found() -> Self {
        Self::new(StoreErrorKind::NotFound, "there is no such task")
    }

    /// The store has been closed.
    #[must_use]
    pub fn closed() -> Self {
        Self::new(StoreErrorKind::Unavailable, "the store is closed")
    }

    /// What the caller can do about the error.
    #[must_use]
    pub const fn kind(&self) -> StoreErrorKind {
        self.kind
    }
}

impl From<DecodeError> for StoreErrorKind {
    fn from(error: DecodeError) -> Self {
        match error {
            DecodeError::Newer(_) => Self::Incompatible,
            DecodeError::Malformed(_) => Self::Corrupt,
        }
    }
}

impl From<DecodeError> for StoreError {
    fn from(error: DecodeError) -> Self {
        Self::new(error.into(), "a stored value cannot be read").because(error)
    }
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.context)
    }
}

impl Error for StoreError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        let source = self.source.as_ref()?.0.as_deref()?;
        Some(source)
    }
}
