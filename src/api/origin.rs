//! The origin of a changing request, as reported by a browser.

use http::{
    HeaderName, HeaderValue,
    header::{HOST, ORIGIN},
    request::Parts,
};

use crate::{error::ConfigError, wire::Problem};

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// Another origin whose pages may make changes: scheme, host and port, as a browser writes them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Origin(Box<str>);

impl Origin {
    /// Parses an origin as in an `Origin` header: `https://status.example.org`, with a port unless it is the scheme's
    /// default.
    pub(super) fn new(text: &str) -> Result<Self, ConfigError> {
        let refuse = || {
            let problem = format!("{text:?} is no origin: a scheme, a host and perhaps a port, as https://example.org");
            Err(ConfigError::new("allow_origin", problem))
        };
        let Some((scheme, authority)) = text.split_once("://") else {
            return refuse();
        };
        let in_scheme = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.');
        let in_authority = |byte: u8| byte.is_ascii_graphic() && !b"/?#@*\\,\"".contains(&byte);
        let good = !scheme.is_empty() && scheme.bytes().all(in_scheme);
        if !good || authority.is_empty() || !authority.bytes().all(in_authority) {
            return refuse();
        }
        Ok(Self(without_default_port(text).to_ascii_lowercase().into()))
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }

    fn is(&self, origin: &HeaderValue) -> bool {
        origin
            .to_str()
            .is_ok_and(|origin| without_default_port(origin).eq_ignore_ascii_case(&self.0))
    }
}

/// Refuses a request that a page of another origin made a browser send with the user's cookies, unless that origin is
/// in `allowed`.
///
/// A page cannot set `Sec-Fetch-Site`, and every current browser sends it over HTTPS. Without it, `Origin` must name
/// the host of the request. A request with neither header does not come from a browser.
pub(super) fn check(request: &Parts, allowed: &[Origin]) -> Result<(), Problem> {
    let headers = &request.headers;
    let origins = || headers.get_all(ORIGIN).iter();
    // A page cannot set `Origin` either.
    let named = origins().next().is_some() && origins().all(|origin| allowed.iter().any(|named| named.is(origin)));
    let mut sites = headers.get_all(SEC_FETCH_SITE).iter().peekable();
    let own = if sites.peek().is_some() {
        sites.all(|site| site == "same-origin" || site == "none")
    } else {
        let host = headers.get(HOST).map(HeaderValue::as_bytes);
        let host = host.or_else(|| request.uri.authority().map(|authority| authority.as_str().as_bytes()));
        origins().all(|origin| host.is_some_and(|host| is_at(origin, host)))
    };
    match own || named {
        true => Ok(()),
        false => Err(Problem::forbidden(
            "A page of another origin sent this request; changes are taken from the API's own origin, and from those that the \
             server's operator named with TaskApi::allow_origin.",
        )),
    }
}

/// Whether `origin` names `host`, which may have a port. `null`, an opaque origin, names no host.
fn is_at(origin: &HeaderValue, host: &[u8]) -> bool {
    let origin = origin.as_bytes();
    let (authority, default_port) = match (origin.strip_prefix(b"https://"), origin.strip_prefix(b"http://")) {
        (Some(authority), _) => (authority, &b":443"[..]),
        (_, Some(authority)) => (authority, &b":80"[..]),
        _ => return false,
    };
    let host = host.strip_suffix(default_port).unwrap_or(host);
    let authority = authority.strip_suffix(default_port).unwrap_or(authority);
    authority.eq_ignore_ascii_case(host)
}

fn without_default_port(origin: &str) -> &str {
    let begins = |scheme: &str| {
        origin
            .get(..scheme.len())
            .is_some_and(|begin| begin.eq_ignore_ascii_case(scheme))
    };
    let port = match (begins("https://"), begins("http://")) {
        (true, _) => ":443",
        (_, true) => ":80",
        _ => "",
    };
    origin.strip_suffix(port).unwrap_or(origin)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passes(headers: &[(&str, &str)]) -> bool {
        let mut request = http::Request::post("/x/stop");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let allowed = [Origin::new("https://Status.example.org:443").unwrap()];
        check(&request.body(()).unwrap().into_parts().0, &allowed).is_ok()
    }

    #[test]
    fn a_page_of_another_origin_changes_nothing() {
        assert!(passes(&[]));
        assert!(passes(&[("host", "a.org")]));
        for site in ["same-origin", "none"] {
            assert!(passes(&[
                ("sec-fetch-site", site),
                ("origin", "https://b.org"),
                ("host", "a.org")
            ]));
        }
        for site in ["cross-site", "same-site", "", "Same-Origin"] {
            let same = ("origin", "https://a.org");
            assert!(!passes(&[("sec-fetch-site", site), same, ("host", "a.org")]), "{site}");
        }
        assert!(!passes(&[("sec-fetch-site", "none"), ("sec-fetch-site", "cross-site")]));
    }

    #[test]
    fn without_fetch_metadata_the_origin_must_be_the_host() {
        for (origin, host) in [
            ("https://a.org", "a.org"),
            ("https://A.org", "a.ORG"),
            ("https://a.org", "a.org:443"),
            ("http://a.org:8080", "a.org:8080"),
            ("http://[::1]:80", "[::1]"),
        ] {
            assert!(passes(&[("origin", origin), ("host", host)]), "{origin} {host}");
        }
        for (origin, host) in [
            ("https://b.org", "a.org"),
            ("https://a.org.b.org", "a.org"),
            ("https://a.org", "a.org:8443"),
            ("null", "null"),
            ("a.org", "a.org"),
            ("", ""),
        ] {
            assert!(!passes(&[("origin", origin), ("host", host)]), "{origin} {host}");
        }
        assert!(!passes(&[("origin", "https://a.org")]));
    }

    #[test]
    fn a_page_of_an_origin_that_was_named_may_change_things() {
        let cross = ("sec-fetch-site", "cross-site");
        for origin in ["https://status.example.org", "https://STATUS.example.org:443"] {
            assert!(passes(&[cross, ("origin", origin), ("host", "a.org")]), "{origin}");
            assert!(passes(&[("origin", origin), ("host", "a.org")]), "{origin}");
        }
        for origin in [
            "http://status.example.org",
            "https://status.example.org:8443",
            "https://x.status.example.org",
            "https://status.example.org.evil.example",
            "null",
            "",
        ] {
            assert!(!passes(&[cross, ("origin", origin), ("host", "a.org")]), "{origin}");
            assert!(!passes(&[("origin", origin), ("host", "a.org")]), "{origin}");
        }
        let named = ("origin", "https://status.example.org");
        assert!(!passes(&[cross, named, ("origin", "https://evil.example")]));
        assert!(!passes(&[cross, ("host", "status.example.org")]), "without an origin");
    }

    #[test]
    fn what_no_browser_writes_as_an_origin_is_refused() {
        for bad in [
            "",
            "*",
            "null",
            "status.example.org",
            "https://",
            "https://status.example.org/",
            "https://*.example.org",
            "https://me@status.example.org",
            "https://a.org,https://b.org",
            "https://a b",
        ] {
            assert!(Origin::new(bad).is_err(), "{bad}");
        }
        assert!(Origin::new("http://localhost:5173").is_ok());
        assert!(Origin::new("tauri://localhost").is_ok());
    }
}
