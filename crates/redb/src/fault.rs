//! What can go wrong inside of a commit.

use std::{any::Any, borrow::Cow, fmt, io::ErrorKind};

use tower_respond_async::{
    store::{StoreError, StoreErrorKind},
    task::RequestId,
};

/// Why an operation has no answer.
#[derive(Debug)]
pub(crate) enum Fault {
    /// It has one after all: this error, for its caller alone.
    Answer(StoreError),
    /// The file failed. Nothing is written any more.
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

    /// Whether what is asked for is there, and cannot be read by any build.
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

/// Why the store stopped: the first failure of its file. After it the file is not written again, since what is on the
/// disk is no longer known; a process that opens it anew finds out.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    kind: StoreErrorKind,
    text: String,
}

impl Failure {
    pub(crate) fn of_error(error: &redb::Error) -> Self {
        let kind = match error {
            redb::Error::Corrupted(_) => StoreErrorKind::Corrupt,
            // A page that is said to be behind the end of the file.
            redb::Error::Io(io) if io.kind() == ErrorKind::UnexpectedEof => StoreErrorKind::Corrupt,
            _ => StoreErrorKind::Unavailable,
        };
        let text = error.to_string();
        Self { kind, text }
    }

    /// redb trusts its pages, and panics over some that were changed behind its back.
    pub(crate) fn of_panic(panic: &(dyn Any + Send)) -> Self {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
        Self {
            kind: StoreErrorKind::Corrupt,
            text: format!("a panic inside redb: {}", text.unwrap_or("without a message")),
        }
    }

    /// What can be done about it.
    pub(crate) const fn kind(&self) -> StoreErrorKind {
        self.kind
    }

    /// For who was part of it.
    pub(crate) fn at_first(&self) -> StoreError {
        self.error("the file of the store failed")
    }

    /// For who has more to say about it.
    pub(crate) fn error(&self, context: impl Into<Cow<'static, str>>) -> StoreError {
        StoreError::new(self.kind, context).because(self.clone())
    }

    /// For who comes later.
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
