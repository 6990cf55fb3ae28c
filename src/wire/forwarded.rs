//! Where the client reached the front, as the front says.

use http::{
    HeaderMap, Uri,
    header::HOST,
    uri::{Authority, PathAndQuery},
};

/// What the forwarding headers say: `Forwarded` (RFC 7239), else `X-Forwarded-Proto` and `X-Forwarded-Host`; and
/// `X-Forwarded-Prefix`, which has no place in `Forwarded`.
///
/// Only to be asked where the front sets them: anybody else could write what they like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Front<'a> {
    /// `http` or `https`, if it is one of them.
    pub(crate) scheme: Option<&'static str>,
    host: Option<&'a str>,
    /// The beginning of the path that the front takes off: empty, or from its one slash on, without one at its end.
    pub(crate) prefix: &'a str,
}

impl<'a> Front<'a> {
    /// What these headers say.
    pub(crate) fn of(headers: &'a HeaderMap) -> Self {
        let (scheme, host) = match text(headers, "forwarded") {
            Some(forwarded) => (parameter(forwarded, "proto"), parameter(forwarded, "host")),
            None => (
                text(headers, "x-forwarded-proto").map(first),
                text(headers, "x-forwarded-host").map(first),
            ),
        };
        let mut known = ["https", "http"].into_iter();
        let prefix = text(headers, "x-forwarded-prefix").map(first).unwrap_or_default();
        let prefix = prefix.trim_end_matches('/');
        Self {
            scheme: known.find(|known| scheme.is_some_and(|scheme| scheme.eq_ignore_ascii_case(known))),
            host,
            prefix: if is_prefix(prefix) { prefix } else { "" },
        }
    }

    /// The host and port that the client reached: of the front, or else the one that the request names (RFC 9110 §7.2).
    /// `None` for what is no plain host and port, which could lead elsewhere in a URL.
    pub(crate) fn host(&self, uri: &'a Uri, headers: &'a HeaderMap) -> Option<&'a str> {
        let named = || match uri.authority() {
            Some(authority) => Some(authority.as_str()),
            None => headers.get(HOST)?.to_str().ok(),
        };
        self.host.or_else(named).filter(|host| is_host(host))
    }
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// What the first proxy wrote: each further one adds to the end.
fn first(list: &str) -> &str {
    list.split(',').next().unwrap_or_default().trim()
}

/// A parameter of the first element of `Forwarded`.
fn parameter<'a>(forwarded: &'a str, name: &str) -> Option<&'a str> {
    first(forwarded).split(';').find_map(|pair| {
        let (key, value) = pair.split_once('=')?;
        key.trim()
            .eq_ignore_ascii_case(name)
            .then(|| value.trim().trim_matches('"'))
    })
}

/// A name or address, perhaps with a port, and nothing that would lead somewhere else in a URL.
fn is_host(host: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_' | b':' | b'[' | b']');
    host.len() <= 255
        && host.bytes().all(plain)
        && host.parse::<Authority>().is_ok_and(|authority| {
            let port = &authority.as_str()[authority.host().len()..];
            !authority.host().is_empty() && (port.is_empty() || authority.port_u16().is_some())
        })
}

/// The beginning of a path, with one slash to begin with: two would name a host.
fn is_prefix(prefix: &str) -> bool {
    prefix.starts_with('/')
        && !prefix.starts_with("//")
        && prefix.len() <= 255
        && !prefix.contains(['?', '#', '\\', '"', '<', '>', '{', '}', '|', '^', '`'])
        && prefix.split('/').all(|segment| !matches!(segment, "." | ".."))
        && prefix.parse::<PathAndQuery>().is_ok()
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};

    use super::*;

    /// The scheme and the host that the client reached.
    fn of(lines: &[(&'static str, &'static str)]) -> (Option<&'static str>, Option<String>) {
        let each = lines.iter();
        let headers: HeaderMap = each
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
            .collect();
        let (front, uri) = (Front::of(&headers), Uri::from_static("/"));
        (front.scheme, front.host(&uri, &headers).map(str::to_owned))
    }

    #[test]
    fn both_kinds_of_headers_are_read_and_the_first_proxy_is_believed() {
        let expected = (Some("https"), Some("example.org".to_owned()));
        for lines in [
            &[("forwarded", "for=1.2.3.4;proto=https;host=\"example.org\", proto=http")][..],
            &[
                ("x-forwarded-proto", "HTTPS, http"),
                ("x-forwarded-host", "example.org, inner"),
            ],
            &[("x-forwarded-proto", "https"), ("host", "example.org")],
        ] {
            assert_eq!(of(lines), expected);
        }
        assert_eq!(
            of(&[("x-forwarded-proto", "http"), ("host", "[::1]:80")]),
            (Some("http"), Some("[::1]:80".to_owned()))
        );
    }

    #[test]
    fn what_is_no_scheme_or_no_host_names_nothing() {
        assert_eq!(of(&[("host", "example.org")]).0, None);
        assert_eq!(of(&[("x-forwarded-proto", "javascript")]).0, None);
        for host in [
            "",
            "a/b",
            "user@host",
            "a b",
            "host?x",
            "host#x",
            "a\\b",
            "a:b",
            "a:1:2",
            ":80",
            "a:99999",
        ] {
            // Not the request's own instead: the front says that it is another.
            assert_eq!(of(&[("x-forwarded-host", host), ("host", "own")]).1, None, "{host}");
        }
    }
}
