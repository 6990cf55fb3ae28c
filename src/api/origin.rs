//! Where a changing request comes from, as far as a browser says.

use http::{
    HeaderName, HeaderValue,
    header::{HOST, ORIGIN},
    request::Parts,
};

use crate::wire::Problem;

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// Refuses a request that a page of another origin made a browser send, with its user's cookies.
///
/// `Sec-Fetch-Site` cannot be set by a page, and is sent by every browser of the last years over HTTPS; for others the
/// `Origin` must be the host that was asked. A request with neither is no browser's.
pub(super) fn check(request: &Parts) -> Result<(), Problem> {
    let headers = &request.headers;
    let mut sites = headers.get_all(SEC_FETCH_SITE).iter().peekable();
    let own = if sites.peek().is_some() {
        sites.all(|site| site == "same-origin" || site == "none")
    } else {
        let host = headers.get(HOST).map(HeaderValue::as_bytes);
        let host = host.or_else(|| request.uri.authority().map(|authority| authority.as_str().as_bytes()));
        headers
            .get_all(ORIGIN)
            .iter()
            .all(|origin| host.is_some_and(|host| is_at(origin, host)))
    };
    match own {
        true => Ok(()),
        false => Err(Problem::forbidden(
            "A page of another origin sent this request; changes are taken from the API's own origin only.",
        )),
    }
}

/// Whether `origin` is at `host`, which may carry a port. `null`, the origin of no page in particular, is at none.
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

#[cfg(test)]
mod tests {
    use super::*;

    fn passes(headers: &[(&str, &str)]) -> bool {
        let mut request = http::Request::post("/x/stop");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        check(&request.body(()).unwrap().into_parts().0).is_ok()
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
}
