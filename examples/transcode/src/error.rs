//! All errors, and whether a retry can help.
//!
//! The status decides the result of a task: the layer's default policy tries again after 5xx, 408, 425 and 429, and
//! takes any other 4xx as final. So the question for each failure is: *could the same request succeed later?*
//!
//! - No (bad fields, no such object, a broken video): 4xx, final.
//! - Yes, the machine failed (bucket away, disk full, ffmpeg killed, shutdown): 5xx, tried again.
//! - The machine failed, but a retry after a few seconds does not help, since it installs no program and changes no
//!   key: a missing ffmpeg or encoder is 501, and a bucket that refuses the app's credentials is 500. These answers
//!   carry [`DoNotRetry`].

use std::{io, time::Duration};

use axum::{
    Json,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde::Serialize;
use tower_respond_async::DoNotRetry;

use crate::{
    format::Format,
    process::Said,
    request::{BucketName, Key},
};

/// Why a transcoding failed.
///
/// `Display` is the sentence for the caller; `source()` has what only an operator should see.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the sentence above each variant says what it is")]
pub enum Error {
    #[error("{message}")]
    InvalidBody { status: StatusCode, message: String },
    #[error("`{field}` {problem}")]
    InvalidField { field: &'static str, problem: &'static str },
    #[error("`dst_format` must be one of {}", Format::names())]
    UnknownFormat,
    #[error("the product would replace `{0}`, which it is made from: choose another `output_dir` or `dst_format`")]
    OutputIsInput(Key),
    #[error("there is nothing at this path: POST / takes a transcoding request")]
    NoSuchPath,
    #[error("only POST is answered here")]
    MethodNotAllowed,
    #[error("there is no bucket `{0}`")]
    NoBucket(BucketName),
    #[error("there is no object `{object}` in bucket `{bucket}`")]
    NoObject { bucket: BucketName, object: Key },
    #[error("`{object}` has {size} bytes, and at most {limit} are taken")]
    ObjectTooLarge { object: Key, size: u64, limit: u64 },
    #[error("`{object}` holds no video")]
    NoVideo { object: Key },
    #[error("`{object}` cannot be read as a video to its end: {said}")]
    CorruptVideo { object: Key, said: Said },
    #[error(
        "`{program}` does not start on this machine: install it with `apt-get install ffmpeg` and send the request again"
    )]
    NoFfmpeg { program: String, source: io::Error },
    #[error("the ffmpeg of this machine cannot write {format}: {said}")]
    NoEncoder { format: &'static str, said: Said },
    #[error("the bucket could not be {doing}")]
    BucketUnavailable {
        doing: &'static str,
        source: object_store::Error,
    },
    #[error("this app is refused by the bucket, which was to be {doing}: its credentials are wrong or do not allow it")]
    BucketDenied {
        doing: &'static str,
        source: object_store::Error,
    },
    #[error("the disk of this machine is full")]
    DiskFull,
    #[error("`{program}` was silent for {} s", waited.as_secs())]
    Hung { program: String, waited: Duration },
    #[error("`{program}` was killed")]
    Killed { program: String },
    #[error("stopped before the product was complete")]
    Stopped,
    #[error("could not {step}")]
    Io { step: &'static str, source: io::Error },
}

impl Error {
    /// The status of the answer. The top of this file gives the reasons.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        match self {
            Self::InvalidBody { status, .. } => *status,
            Self::InvalidField { .. } | Self::UnknownFormat | Self::OutputIsInput(_) => StatusCode::BAD_REQUEST,
            Self::NoSuchPath | Self::NoBucket(_) | Self::NoObject { .. } => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::ObjectTooLarge { .. } | Self::NoVideo { .. } | Self::CorruptVideo { .. } => {
                StatusCode::UNPROCESSABLE_ENTITY
            }
            Self::NoFfmpeg { .. } | Self::NoEncoder { .. } => StatusCode::NOT_IMPLEMENTED,
            // A shutdown stops jobs too, and those must run again: so it is not a 4xx.
            Self::BucketUnavailable { .. } | Self::DiskFull | Self::Stopped => StatusCode::SERVICE_UNAVAILABLE,
            Self::BucketDenied { .. } | Self::Hung { .. } | Self::Killed { .. } | Self::Io { .. } => {
                StatusCode::INTERNAL_SERVER_ERROR
            }
        }
    }

    /// A code for programs. It stays when the sentence changes.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::InvalidBody { .. } => "invalid_body",
            Self::InvalidField { .. } => "invalid_field",
            Self::UnknownFormat => "unknown_format",
            Self::OutputIsInput(_) => "output_is_input",
            Self::NoSuchPath => "no_such_path",
            Self::MethodNotAllowed => "method_not_allowed",
            Self::NoBucket(_) => "no_such_bucket",
            Self::NoObject { .. } => "no_such_object",
            Self::ObjectTooLarge { .. } => "object_too_large",
            Self::NoVideo { .. } => "no_video",
            Self::CorruptVideo { .. } => "corrupt_video",
            Self::NoFfmpeg { .. } => "no_ffmpeg",
            Self::NoEncoder { .. } => "no_encoder",
            Self::BucketUnavailable { .. } => "bucket_unavailable",
            Self::BucketDenied { .. } => "bucket_denied",
            Self::DiskFull => "disk_full",
            Self::Hung { .. } => "ffmpeg_hung",
            Self::Killed { .. } => "ffmpeg_killed",
            Self::Stopped => "stopped",
            Self::Io { .. } => "internal",
        }
    }

    /// A failure of the bucket in this step: opened, read or written.
    pub(crate) const fn bucket(doing: &'static str) -> impl FnOnce(object_store::Error) -> Self {
        move |source| match source {
            object_store::Error::PermissionDenied { .. } | object_store::Error::Unauthenticated { .. } => {
                Self::BucketDenied { doing, source }
            }
            source => Self::BucketUnavailable { doing, source },
        }
    }

    /// An I/O failure. A full disk has an error of its own.
    pub(crate) fn io(step: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| match source.kind() {
            io::ErrorKind::StorageFull => Self::DiskFull,
            _ => Self::Io { step, source },
        }
    }
}

/// For example `{"error":{"code":"no_such_object","message":"there is no object ..."}}`
impl IntoResponse for Error {
    fn into_response(self) -> Response {
        let status = self.status();
        if status.is_server_error() {
            eprintln!("{}", Chain(&self));
        }
        let mut response = (status, Json(Document::from(&self))).into_response();
        if status == StatusCode::NOT_IMPLEMENTED || matches!(self, Self::BucketDenied { .. }) {
            response.extensions_mut().insert(DoNotRetry);
        }
        response
    }
}

#[derive(Serialize)]
struct Document {
    error: Detail,
}

#[derive(Serialize)]
struct Detail {
    code: &'static str,
    message: String,
}

impl From<&Error> for Document {
    fn from(error: &Error) -> Self {
        Self {
            error: Detail {
                code: error.code(),
                message: error.to_string(),
            },
        }
    }
}

/// An error with all its sources on one line: for the operator's log, never for the caller.
struct Chain<'a>(&'a dyn std::error::Error);

impl std::fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)?;
        let mut source = self.0.source();
        while let Some(error) = source {
            write!(f, ": {error}")?;
            source = error.source();
        }
        Ok(())
    }
}
