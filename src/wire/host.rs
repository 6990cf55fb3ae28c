//! Checks the name by which a client reached this server.
//!
//! A page that a browser loaded from `evil.example` may send requests to `evil.example` and read the answers. The owner
//! of that name can point it to 127.0.0.1 meanwhile (DNS rebinding). Only its `Host` tells such a request from one of
//! the user.

use http::{HeaderValue, header::HOST, request::Parts};

use crate::wire::Problem;

/// Refuses a request for a host whose name a stranger could point to this server.
///
/// # Errors
///
/// 421 unless every host of the request, in its URI and in `Host`, is an address, a name that cannot be registered for
/// the public, or one of `named`. A request without a host passes, since no browser sends one.
pub(crate) fn check(request: &Parts, named: &[Box<str>]) -> Result<(), Problem> {
    let in_uri = request.uri.authority().map(|authority| authority.as_str().as_bytes());
    let in_headers = request.headers.get_all(HOST).iter().map(HeaderValue::as_bytes);
    for given in in_uri.into_iter().chain(in_headers) {
        let host = std::str::from_utf8(given).ok().and_then(read);
        if !host.is_some_and(|host| is_private(&host) || named.iter().any(|named| **named == *host)) {
            return Err(Problem::misdirected(&String::from_utf8_lossy(given)));
        }
    }
    Ok(())
}

/// The host of an authority in the form that is compared: lower case, without port and final dot. `None` if there is no
/// host.
pub(crate) fn read(authority: &str) -> Option<String> {
    let (host, port) = match authority.strip_prefix('[') {
        // An IPv6 address has colons of its own.
        Some(rest) => {
            let (address, port) = rest.split_once(']')?;
            address.parse::<std::net::Ipv6Addr>().ok()?;
            (&authority[..address.len() + 2], port.strip_prefix(':').unwrap_or(port))
        }
        None => authority.split_once(':').unwrap_or((authority, "")),
    };
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'[' | b']' | b':');
    let good = host.bytes().all(plain) && port.bytes().all(|byte| byte.is_ascii_digit());
    good.then(|| host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase())
}

/// Whether a host is an address, or a name without a meaning on the public Internet: a name for this machine (RFC
/// 6761), for private use (`internal`) or for a cluster, or a name without a dot.
fn is_private(host: &str) -> bool {
    const ENDINGS: [&str; 3] = [".localhost", ".internal", ".svc.cluster.local"];
    host.starts_with('[')
        || !host.contains('.')
        || host.parse::<std::net::Ipv4Addr>().is_ok()
        || ENDINGS.iter().any(|ending| host.ends_with(ending))
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn passes(uri: &str, hosts: &[&str]) -> bool {
        let mut request = Request::get(uri);
        for host in hosts {
            request = request.header(HOST, *host);
        }
        let (parts, ()) = request.body(()).unwrap().into_parts();
        check(&parts, &["tasks.example.org".into()]).is_ok()
    }

    #[test]
    fn addresses_and_private_names_are_answered() {
        for host in [
            "127.0.0.1",
            "127.0.0.1:3000",
            "192.168.1.20:80",
            "[::1]",
            "[::1]:3000",
            "[FE80::1]",
            "localhost",
            "LocalHost:3000",
            "localhost.",
            "app.localhost:3000",
            "host.docker.internal",
            "tasks.default.svc.cluster.local:8080",
            "tasks",
            "tasks:8080",
            "",
            "tasks.example.org",
            "Tasks.Example.ORG.:8443",
        ] {
            assert!(passes("/", &[host]), "{host}");
        }
        assert!(passes("/", &[]));
        assert!(passes("http://localhost:3000/x", &["localhost:3000"]));
    }

    #[test]
    fn names_that_anybody_may_have_are_not() {
        for host in [
            "evil.example",
            "evil.example:3000",
            "evil.example.",
            "127.0.0.1.evil.example",
            "127.0.0.1.nip.io",
            "localhost.evil.example",
            "localhost@evil.example",
            "evil.example@localhost",
            "evilinternal.example",
            "a.internal.evil.example",
            "x.tasks.example.org",
            "example.org",
            "127.0.0.1:80@evil.example",
            "[evil.example]",
            "[::1].evil.example",
            "a b",
            "evil.example:x",
            "printer.local",
            "\u{e4}.localhost",
            "1.2.3",
        ] {
            let (host, in_uri) = (host, format!("http://{host}/"));
            assert!(!passes("/", &[host]), "{host}");
            assert!(!passes("/", &["localhost", host]), "{host} after another");
            if in_uri.parse::<http::Uri>().is_ok() {
                assert!(!passes(&in_uri, &[]), "{host} in the URI");
                assert!(!passes(&in_uri, &["localhost"]), "{host} in the URI");
            }
        }
    }
}
