//! Headers that belong to one connection and are neither replayed nor handed out.

use http::{HeaderName, header};

/// Whether every header of this name belongs to one connection: those of RFC 9110 §7.6.1 and RFC 9113 §8.2.2, what is in
/// use beside them, and `Close`, which the registry of field names reserves for this.
///
/// The list is fixed. `Connection` names more of them, but who writes it is the client, and what is taken off a request
/// is not the client's to choose: a header that a layer outside has set would be there for a synchronous request and
/// missing when it is replayed. A handler sees what `Connection` names as well, since servers leave it in place.
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
