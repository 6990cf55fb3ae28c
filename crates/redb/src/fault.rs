//! The failures of an operation inside a commit.

use std::{any::Any, borrow::Cow, fmt, io::ErrorKind};

use tower_respond_async::{
    store::{StoreError, StoreErrorKind},
    task::RequestId,
};

/// Why an operation failed.
#[derive(Debug)]
pub(crate) enum Fault {
    /// This error is the answer to the caller. The batch continues.
    Answer(StoreError),
    /// The file failed. The store writes nothing any more.
    Broken(redb::Error),
}

macro_rules! broken_by {
    ($($error:ident)*) => {$(
        impl From<redb::$error> for Fault {
            fn from(error: redb::$error) -> Self {
                Self::Broken(error.into())
            }
        }
    )*};
}

broken_by!(Error CommitError DatabaseError StorageError TableError TransactionError);

impl Fault {
    pub(crate) fn not_found() -> Self {
        Self::Answer(StoreError::not_found())
    }

    /// Whether the value exists but no build can read it.
    pub(crate) fn is_corrupt(&self) -> bool {
        matches!(self, Self::Answer(error) if error.kind() == StoreErrorKind::Corrupt)
    }

    pub(crate) fn set_aside(id: RequestId) -> Self {
        let context = format!("the record of task {id} could not be read and was set aside");
        Self::Answer(StoreError::new(StoreErrorKind::Corrupt, context))
    }
}

impl From<StoreError> for Fault {
    fn from(error: StoreError) -> Self {
        Self::Answer(error)
    }
}

/// The first failure of the file, after which the store stopped. It does not write to the file again, since the
/// contents of the disk are unknown. A process must open the file again.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    kind: StoreErrorKind,
    text: String,
}

impl Failure {
    pub(crate) fn of_error(error: &redb::Error) -> Self {
        let kind = match error {
            redb::Error::Corrupted(_) => StoreErrorKind::Corrupt,
            // redb was directed to a page behind the end of the file.
            redb::Error::Io(io) if io.kind() == ErrorKind::UnexpectedEof => StoreErrorKind::Corrupt,
            _ => StoreErrorKind::Unavailable,
        };
        let text = error.to_string();
        Self { kind, text }
    }

    /// redb trusts its pages, and may panic if one was changed from outside.
    pub(crate) fn of_panic(panic: &(dyn Any + Send)) -> Self {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
        Self {
            kind: StoreErrorKind::Corrupt,
            text: format!("a panic inside redb: {}", text.unwrap_or("without a message")),
        }
    }

    /// The kind of the error.
    pub(crate) const fn kind(&self) -> StoreErrorKind {
        self.kind
    }

    /// The error for operations of the commit that failed.
    pub(crate) fn at_first(&self) -> StoreError {
        self.error("the file of the store failed")
    }

    /// The error with a context from the caller.
    pub(crate) fn error(&self, context: impl Into<Cow<'static, str>>) -> StoreError {
        StoreError::new(self.kind, context).because(self.clone())
    }

    /// The error for later operations.
    pub(crate) fn since(&self) -> StoreError {
        let context = "the file of the store has failed; open it again";
        StoreError::new(StoreErrorKind::Unavailable, context).because(self.clone())
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.text.fmt(f)
    }
}

impl std::error::Error for Failure {}
