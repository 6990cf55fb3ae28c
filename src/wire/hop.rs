//! Headers that belong to one connection, and are neither replayed nor handed out.

use http::{HeaderName, header};

/// Whether every header of this name belongs to one connection: those of RFC 9110 §7.6.1 and RFC 9113 §8.2.2, others in
/// use, and `Close`, which the registry of field names reserves for this.
///
/// The list is fixed. `Connection` names more headers, but the client writes it, and must not choose what is removed
/// from a request: a header that an outer layer set would be there in a synchronous request, and missing in a replay.
/// Handlers see the headers that `Connection` names also in synchronous requests, since servers leave them in place.
pub(crate) fn is_about_the_connection(name: &HeaderName) -> bool {
    matches!(
        *name,
        header::CONNECTION
            | header::PROXY_AUTHENTICATE
            | header::PROXY_AUTHORIZATION
            | header::TE
            | header::TRAILER
            | header::TRANSFER_ENCODING
            | header::UPGRADE
    ) || matches!(
        name.as_str(),
        "close" | "http2-settings" | "keep-alive" | "proxy-authentication-info" | "proxy-connection"
    )
}
