//! [`Digesting`]: the digest that identifies a request, built piece by piece.

use http::{HeaderMap, Method, Uri, header};
use sha2::{Digest, Sha256};

use crate::task::RequestDigest;

/// The digest of a request whose body is still to come.
/// [`CapturedRequest::digest`](crate::task::CapturedRequest::digest) lists what it covers.
#[derive(Clone, Debug)]
pub(crate) struct Digesting(Sha256);

impl Digesting {
    /// The digest of a request with this head, to be finished with its body.
    pub(crate) fn request(method: &Method, uri: &Uri, headers: &HeaderMap) -> Self {
        let mut digest = Self::target(b"request", method, uri, headers);
        let types = headers.get_all(header::CONTENT_TYPE).iter();
        digest.list(types.map(|value| value.as_bytes().to_vec()));
        digest
    }

    /// The digest of a request with this head, to be finished with a fingerprint instead of the body. `Content-Type` is
    /// not included: the fingerprint covers the content, whatever its type.
    pub(crate) fn fingerprinted(method: &Method, uri: &Uri, headers: &HeaderMap) -> Self {
        Self::target(b"fingerprint", method, uri, headers)
    }

    pub(crate) fn finish(mut self, last: &[u8]) -> RequestDigest {
        self.part(last);
        RequestDigest::from_bytes(self.0.finalize().into())
    }

    fn target(kind: &[u8], method: &Method, uri: &Uri, headers: &HeaderMap) -> Self {
        let mut digest = Self(Sha256::new());
        digest.part(kind);
        digest.part(method.as_str().as_bytes());
        // HTTP/2 has the authority in the URI, HTTP/1 in `Host`. No rule says which of two `Host` lines counts: all do.
        match uri.authority() {
            Some(authority) => digest.list([host(authority.as_str().as_bytes())].into_iter()),
            None => digest.list(headers.get_all(header::HOST).iter().map(|value| host(value.as_bytes()))),
        }
        digest.part(uri.path().as_bytes());
        digest.list(uri.query().map(|query| query.as_bytes().to_vec()).into_iter());
        digest
    }

    /// Adds `part` behind its length, so that different parts never give the same bytes.
    fn part(&mut self, part: &[u8]) {
        self.0.update((part.len() as u64).to_be_bytes());
        self.0.update(part);
    }

    fn list(&mut self, parts: impl Iterator<Item = Vec<u8>>) {
        let parts: Vec<_> = parts.collect();
        self.0.update((parts.len() as u64).to_be_bytes());
        for part in &parts {
            self.part(part);
        }
    }
}

/// The authority as it is compared: in lower case, without user and password, which are credentials, and without a
/// default or empty port.
fn host(authority: &[u8]) -> Vec<u8> {
    let host = authority.rsplit(|byte| *byte == b'@').next().unwrap_or(authority);
    let default = [&b":80"[..], b":443", b":"];
    let host = default.iter().find_map(|port| host.strip_suffix(*port)).unwrap_or(host);
    host.to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn digest(uri: &str, headers: &[(header::HeaderName, &'static str)]) -> RequestDigest {
        let headers = headers.iter().cloned();
        let headers = headers.map(|(name, value)| (name, HeaderValue::from_static(value)));
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(name, value);
        }
        Digesting::request(&Method::GET, &uri.parse().unwrap(), &map).finish(b"")
    }

    #[test]
    fn one_host_has_one_digest_however_it_is_written() {
        let same = digest("/a?b", &[(header::HOST, "example.org")]);
        for uri in [
            "http://example.org/a?b",
            "https://EXAMPLE.org:443/a?b",
            "http://me:pw@example.org:80/a?b",
        ] {
            assert_eq!(digest(uri, &[]), same, "{uri}");
            assert_eq!(digest(uri, &[(header::HOST, "other")]), same, "the URI goes before");
        }
        for host in ["EXAMPLE.ORG", "example.org:80", "example.org:443", "example.org:"] {
            assert_eq!(digest("/a?b", &[(header::HOST, host)]), same, "{host}");
        }
        assert_eq!(digest("http://[::1]:80/", &[]), digest("/", &[(header::HOST, "[::1]")]));
    }

    #[test]
    fn another_host_port_path_query_or_type_is_another_request() {
        let requests = [
            digest("/a?b", &[]),
            digest("/a", &[]),
            digest("/a?", &[]),
            digest("/a?b", &[(header::HOST, "")]),
            digest("/a?b", &[(header::HOST, "h")]),
            digest("/a?b", &[(header::HOST, "h"), (header::HOST, "h")]),
            digest("/a?b", &[(header::HOST, "h:8080")]),
            digest("/a?b", &[(header::HOST, "hh")]),
            digest("/a?b", &[(header::CONTENT_TYPE, "")]),
            digest("/a?b", &[(header::CONTENT_TYPE, "text/plain")]),
            digest("/", &[(header::HOST, "[::1]")]),
            digest("/", &[(header::HOST, "[::80]")]),
        ];
        for (at, one) in requests.iter().enumerate() {
            for (other_at, other) in requests.iter().enumerate() {
                assert_eq!(one == other, at == other_at, "{at} and {other_at}");
            }
        }
        let of = Digesting::fingerprinted(&Method::GET, &Uri::from_static("/a?b"), &HeaderMap::new());
        assert_ne!(of.finish(b""), requests[0]);
    }
}
