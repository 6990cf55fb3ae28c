//! The address by which a client reached the front (the reverse proxy), by the front's headers.

use http::{
    HeaderMap, Uri,
    header::HOST,
    uri::{Authority, PathAndQuery},
};

/// The content of the forwarding headers: `Forwarded` (RFC 7239), or else `X-Forwarded-Proto` and `X-Forwarded-Host`;
/// and `X-Forwarded-Prefix`, for which `Forwarded` has no parameter.
///
/// Use it only where the front sets these headers. Without such a front, clients can write anything into them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Front<'a> {
    /// The scheme, if it is `http` or `https`.
    pub(crate) scheme: Option<&'static str>,
    host: Option<&'a str>,
    /// The prefix that the front removes from paths: empty, or with one slash at its start and none at its end.
    pub(crate) prefix: &'a str,
}

impl<'a> Front<'a> {
    /// Reads these headers.
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

    /// The host and port that the client reached: those of the front, or else those that the request names (RFC 9110
    /// §7.2). `None` if that is not a plain host and port: in a URL, it could lead elsewhere.
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

/// The first element of a list, which the first proxy wrote: further proxies append theirs.
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

/// Whether `host` is a name or an address, with or without a port, and nothing that leads elsewhere in a URL.
fn is_host(host: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_' | b':' | b'[' | b']');
    host.len() <= 255
        && host.bytes().all(plain)
        && host.parse::<Authority>().is_ok_and(|authority| {
            let port = &authority.as_str()[authority.host().len()..];
            !authority.host().is_empty() && (port.is_empty() || authority.port_u16().is_some())
        })
}

/// Whether `prefix` can begin a path. It has one slash at its start; two would name a host.
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

    /// The scheme and the host that the client reached, by these headers.
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
            // The request's own host is not used instead: the front says that the client reached another one.
            assert_eq!(of(&[("x-forwarded-host", host), ("host", "own")]).1, None, "{host}");
        }
    }
}
