//! What a gRPC response says of itself: over HTTP it is a 200, and `grpc-status` tells how the call went.

use std::fmt;

use http::{HeaderMap, HeaderName, HeaderValue};
use percent_encoding::percent_decode;

use crate::task::{printable::printable_line, record::cut};

/// In the head where there is no message, else behind the body.
const STATUS: HeaderName = HeaderName::from_static("grpc-status");
const MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

/// How much of what was said is told, in bytes.
const MESSAGE_BYTES: usize = 1024;

/// The codes by their names, as the gRPC specification numbers them.
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

/// A call that did not end well.
pub(crate) struct GrpcFailure<'a> {
    code: usize,
    message: Option<&'a HeaderValue>,
}

impl<'a> GrpcFailure<'a> {
    /// What head and trailers say; none if the call ended well, or is none of gRPC.
    pub(crate) fn of(headers: &'a HeaderMap, trailers: Option<&'a HeaderMap>) -> Option<Self> {
        trailers.into_iter().chain([headers]).find_map(|map| {
            let code = map.get_all(STATUS).iter().map(code).find(|code| *code != OK)?;
            let message = map.get(MESSAGE);
            Some(Self { code, message })
        })
    }

    /// Whether the method is one that is not there.
    pub(crate) const fn is_unimplemented(&self) -> bool {
        self.code == UNIMPLEMENTED
    }

    /// Whether the same call may end well later.
    pub(crate) const fn may_pass(&self) -> bool {
        matches!(
            self.code,
            UNAVAILABLE | DEADLINE_EXCEEDED | RESOURCE_EXHAUSTED | ABORTED
        )
    }
}

/// A code that makes no sense is UNKNOWN, as the specification has it.
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
