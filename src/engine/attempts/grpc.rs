//! The result of a gRPC call. Its HTTP status is 200, and `grpc-status` has the code.

use std::fmt;

use http::{HeaderMap, HeaderName, HeaderValue};
use percent_encoding::percent_decode;

use crate::task::{printable::printable_line, record::cut};

/// In the head if the response has no message, otherwise in the trailers.
const STATUS: HeaderName = HeaderName::from_static("grpc-status");
const MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

/// How many bytes of the message are kept.
const MESSAGE_BYTES: usize = 1024;

/// The names of the codes, in the order of the gRPC specification.
const NAMES: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];

const OK: usize = 0;
const UNKNOWN: usize = 2;
const DEADLINE_EXCEEDED: usize = 4;
const RESOURCE_EXHAUSTED: usize = 8;
const ABORTED: usize = 10;
const UNIMPLEMENTED: usize = 12;
const UNAVAILABLE: usize = 14;

/// A call that failed.
pub(crate) struct GrpcFailure<'a> {
    code: usize,
    message: Option<&'a HeaderValue>,
}

impl<'a> GrpcFailure<'a> {
    /// The failure in the head or the trailers; `None` if the call succeeded or is not gRPC.
    pub(crate) fn of(headers: &'a HeaderMap, trailers: Option<&'a HeaderMap>) -> Option<Self> {
        trailers.into_iter().chain([headers]).find_map(|map| {
            let code = map.get_all(STATUS).iter().map(code).find(|code| *code != OK)?;
            let message = map.get(MESSAGE);
            Some(Self { code, message })
        })
    }

    /// Whether the method does not exist.
    pub(crate) const fn is_unimplemented(&self) -> bool {
        self.code == UNIMPLEMENTED
    }

    /// Whether the same call may succeed later.
    pub(crate) const fn may_pass(&self) -> bool {
        matches!(
            self.code,
            UNAVAILABLE | DEADLINE_EXCEEDED | RESOURCE_EXHAUSTED | ABORTED
        )
    }
}

/// The code. An invalid one counts as UNKNOWN, as the specification says.
fn code(value: &HeaderValue) -> usize {
    let digits = value
        .to_str()
        .ok()
        .filter(|text| text.bytes().all(|b| b.is_ascii_digit()));
    let code = digits.and_then(|digits| digits.parse().ok());
    code.filter(|code| *code < NAMES.len()).unwrap_or(UNKNOWN)
}

impl fmt::Display for GrpcFailure<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "grpc-status {} ({})", self.code, NAMES[self.code])?;
        let Some(message) = self.message.filter(|message| !message.is_empty()) else {
            return Ok(());
        };
        let bytes: Vec<u8> = percent_decode(message.as_bytes()).take(MESSAGE_BYTES).collect();
        let message = String::from_utf8_lossy(&bytes);
        write!(f, ": {}", cut(&printable_line(&message), MESSAGE_BYTES))
    }
}
