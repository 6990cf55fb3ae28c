//! What a store's failure means to its caller.

use std::{borrow::Cow, error::Error, fmt};

use crate::{
    error::{BoxError, let_go},
    task::DecodeError,
};

/// A store operation failed.
///
/// [`kind`](Self::kind) is for a caller that branches, `Display` for a person, `source()` for the log.
#[derive(Debug)]
pub struct StoreError {
    kind: StoreErrorKind,
    context: Cow<'static, str>,
    source: Option<Source>,
}

/// What a store gave as the cause. Wherever the error is dropped, a settlement may be under way.
#[derive(Debug)]
struct Source(Option<BoxError>);

impl Drop for Source {
    fn drop(&mut self) {
        let _ = let_go(self.0.take());
    }
}

/// What the caller can do about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum StoreErrorKind {
    /// Look again: what was asked fits several things, or another change came between.
    Conflict,
    /// Stop looking: it is not there, or not for this caller.
    NotFound,
    /// Try again: the store cannot be reached now. Whether the operation happened is not known.
    Unavailable,
    /// Make room, or wait until there is.
    Full,
    /// Set it aside: what is stored cannot be read.
    Corrupt,
    /// Update: what is stored was written by a newer version.
    Incompatible,
    /// Do without: this store lacks the ability, as [`Abilities`](crate::store::Abilities) says.
    Unsupported,
}

impl StoreError {
    /// An error of this kind; `context` says what was being done, lower case, no full stop.
    pub fn new(kind: StoreErrorKind, context: impl Into<Cow<'static, str>>) -> Self {
        Self {
            kind,
            context: context.into(),
            source: None,
        }
    }

    /// This error, caused by `source`.
    #[must_use]
    pub fn because(mut self, source: impl Into<BoxError>) -> Self {
        self.source = Some(Source(Some(source.into())));
        self
    }

    /// The store cannot be reached now, because of `source`. Whether the operation happened is not known.
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

    /// What the caller can do about it.
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
        Self::new(error.into(), "what is stored cannot be read").because(error)
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
