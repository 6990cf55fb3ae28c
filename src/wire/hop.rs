//! Headers that belong to one connection and are neither replayed nor handed out.

use http::{HeaderMap, HeaderName, header};

/// Whether every header of this name belongs to one connection (RFC 9110 §7.6.1, and what is in use beside it).
fn is_hop_by_hop(name: &HeaderName) -> bool {
    matches!(
        *name,
        header::CONNECTION | header::TE | header::TRAILER | header::TRANSFER_ENCODING | header::UPGRADE
    ) || matches!(name.as_str(), "keep-alive" | "http2-settings" | "proxy-connection")
        || name.as_str().starts_with("proxy-auth")
}

/// The headers of one message that belong to its connection: the ones that always do, and those its `Connection` names.
pub(crate) struct HopByHop(Vec<HeaderName>);

impl HopByHop {
    /// Those of the message with these headers.
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        let values = headers.get_all(header::CONNECTION).iter();
        let names = values.flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
        Self(
            names
                .filter_map(|name| HeaderName::from_bytes(name.trim_ascii()).ok())
                .collect(),
        )
    }

    /// Whether a header of this name is one.
    pub(crate) fn contains(&self, name: &HeaderName) -> bool {
        is_hop_by_hop(name) || self.0.contains(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_that_connection_names_goes_with_it() {
        let mut headers = HeaderMap::new();
        headers.append("connection", "close, X-One".parse().unwrap());
        headers.append("connection", "x-two,".parse().unwrap());
        let hop = HopByHop::of(&headers);
        for name in ["connection", "x-one", "x-two", "keep-alive", "proxy-authenticate", "te"] {
            assert!(hop.contains(&HeaderName::from_static(name)), "{name}");
        }
        for name in ["content-type", "x-three", "content-length"] {
            assert!(!hop.contains(&HeaderName::from_static(name)), "{name}");
        }
    }
}
