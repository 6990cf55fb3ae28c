//! Under which scheme and host the client reached the front, as the front says.

use http::{HeaderMap, header::HOST};

/// The origin that the forwarding headers name: `Forwarded` (RFC 7239), else `X-Forwarded-Proto` and
/// `X-Forwarded-Host`. `None` unless there is a scheme, and a host that looks like one.
///
/// Only to be asked where the front sets them: anybody else could write what they like.
pub(crate) fn origin(headers: &HeaderMap) -> Option<String> {
    let (scheme, host) = match text(headers, "forwarded") {
        Some(forwarded) => (parameter(forwarded, "proto"), parameter(forwarded, "host")),
        None => (
            text(headers, "x-forwarded-proto").map(first),
            text(headers, "x-forwarded-host").map(first),
        ),
    };
    let scheme = ["https", "http"]
        .into_iter()
        .find(|known| scheme.is_some_and(|s| s.eq_ignore_ascii_case(known)))?;
    let host = match host {
        Some(host) => host,
        None => headers.get(HOST)?.to_str().ok()?,
    };
    is_host(host).then(|| format!("{scheme}://{host}"))
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
    !host.is_empty()
        && host.len() <= 255
        && host
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_' | b':' | b'[' | b']'))
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};

    use super::*;

    fn of(lines: &[(&'static str, &'static str)]) -> Option<String> {
        let each = lines.iter();
        let headers: HeaderMap = each
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
            .collect();
        origin(&headers)
    }

    #[test]
    fn both_kinds_of_headers_are_read_and_the_first_proxy_is_believed() {
        let expected = Some("https://example.org".to_owned());
        assert_eq!(
            of(&[("forwarded", "for=1.2.3.4;proto=https;host=\"example.org\", proto=http")]),
            expected
        );
        assert_eq!(
            of(&[
                ("x-forwarded-proto", "HTTPS, http"),
                ("x-forwarded-host", "example.org, inner")
            ]),
            expected
        );
        assert_eq!(of(&[("x-forwarded-proto", "https"), ("host", "example.org")]), expected);
        assert_eq!(
            of(&[("x-forwarded-proto", "http"), ("host", "[::1]:80")]),
            Some("http://[::1]:80".to_owned())
        );
    }

    #[test]
    fn what_is_no_scheme_or_no_host_names_nothing() {
        assert_eq!(of(&[("host", "example.org")]), None);
        assert_eq!(
            of(&[("x-forwarded-proto", "javascript"), ("host", "example.org")]),
            None
        );
        for host in ["", "a/b", "user@host", "a b", "host?x", "host#x", "a\\b"] {
            let headers: HeaderMap = [("x-forwarded-proto", "https"), ("x-forwarded-host", host)]
                .into_iter()
                .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_str(value).unwrap()))
                .collect();
            assert_eq!(origin(&headers), None, "{host}");
        }
    }
}
