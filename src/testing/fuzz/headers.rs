//! Headers that a client sends.

use std::time::Duration;

use bytes::Bytes;
use http::{
    Extensions, HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri,
    header::{CONNECTION, CONTENT_LENGTH, RANGE, RETRY_AFTER, TE, TRANSFER_ENCODING, UPGRADE},
};

use crate::{
    engine::{ApiAddress, AttemptEnd, Backoff, RetryPolicy, Verdict},
    layer::{
        HeaderPolicy,
        dialect::{self, Ask, Dialect, PREFER, Preferences},
        headers::{depth, strip},
    },
    task::{CapturedRequest, own::is_own},
    wire::LinkBase,
};

/// Parses lines of `name: value`. Leaves out other lines, as a server refuses them.
pub(super) fn lines(data: &[u8]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for line in data.split(|byte| *byte == b'\n').take(64) {
        let Some(colon) = line.iter().position(|byte| *byte == b':') else {
            continue;
        };
        let value = HeaderValue::from_bytes(line[colon + 1..].trim_ascii());
        if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(line[..colon].trim_ascii()), value) {
            headers.append(name, value);
        }
    }
    headers
}

/// Makes each line a value of the header.
fn values(data: &[u8], name: &HeaderName) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for line in data.split(|byte| *byte == b'\n').take(16) {
        if let Ok(value) = HeaderValue::from_bytes(line) {
            headers.append(name, value);
        }
    }
    headers
}

/// Whatever the lines are, the replayed header does not prefer async, and no value is longer than all lines together. A
/// request is async if and only if the header prefers it.
pub(super) fn prefer(data: &[u8]) {
    let headers = values(data, &PREFER);
    let asked = Preferences::of(&headers);
    let mut replayed = HeaderMap::new();
    for value in headers.get_all(&PREFER) {
        if let Some(value) = Dialect::replayed(&PREFER, value.clone()) {
            assert!(value.len() <= headers.get_all(&PREFER).iter().map(HeaderValue::len).sum());
            replayed.append(&PREFER, value);
        }
    }
    assert!(
        !Preferences::of(&replayed).respond_async,
        "{headers:?} leaves {replayed:?}"
    );
    let is_async = matches!(Dialect::Prefer.read(&headers), Ask::Async(_));
    assert_eq!(is_async, asked.respond_async);
}

/// Accepted options are within their limits.
pub(super) fn fc(data: &[u8]) {
    for dialect in [Dialect::Fc, Dialect::Prefer] {
        if let Ask::Async(options) = dialect.read(&lines(data)) {
            assert!(options.delay <= Duration::from_secs(3_600), "{:?}", options.delay);
            assert!(options.name.is_none_or(|name| name.as_str().len() <= 128));
        }
    }
}

/// A key is the text of the header, quoted or bare.
pub(super) fn idempotency_key(data: &[u8]) {
    let name = HeaderName::from_static("idempotency-key");
    let headers = values(data, &name);
    if let Ok(Some(key)) = dialect::idempotency_key(&headers) {
        let sent = headers.get(name).map_or(&b""[..], HeaderValue::as_bytes).trim_ascii();
        let quoted = format!("\"{}\"", key.as_str());
        assert!(sent == key.as_str().as_bytes() || sent == quoted.as_bytes());
        assert!((1..=255).contains(&key.as_str().len()));
    }
}

/// Stored headers concern no connection, do not make a replay async, and are read from the store as they were stored.
pub(super) fn strip_headers(data: &[u8]) {
    let sent = lines(data);
    let mut kept = sent.clone();
    strip(&mut kept, &Method::PUT, &HeaderPolicy::new());
    for name in [CONNECTION, TRANSFER_ENCODING, TE, UPGRADE, RANGE] {
        assert!(!kept.contains_key(&name), "{name} is kept of {sent:?}");
    }
    for name in kept.keys() {
        let all: Vec<_> = sent.get_all(name).iter().collect();
        let left: Vec<_> = kept.get_all(name).iter().collect();
        if *name == CONTENT_LENGTH {
            assert!(
                left.iter()
                    .all(|length| length.as_bytes().iter().all(|digit| *digit == b'0'))
            );
        } else if *name != PREFER {
            assert_eq!(left, all, "{name} is not as it was sent");
        }
        assert!(!is_own(name), "{name} is kept of {sent:?}");
    }
    for dialect in [Dialect::Fc, Dialect::Prefer] {
        assert!(matches!(dialect.read(&kept), Ask::No), "{kept:?} asks again");
    }
    let mut again = kept.clone();
    strip(&mut again, &Method::PUT, &HeaderPolicy::new());
    assert_eq!(again, kept, "stripping twice is stripping once");
    let request = CapturedRequest::new(Method::PUT, Uri::from_static("/"), kept, Bytes::new());
    let read = CapturedRequest::from_payload(request.to_payload()).expect("what was just written can be read");
    let order = |headers: &HeaderMap| -> Vec<_> { headers.iter().map(|(n, v)| (n.clone(), v.clone())).collect() };
    assert_eq!(order(&read.headers), order(&request.headers));
    let _ = depth(&sent);
}

/// Whatever the headers are, a link is a valid URI without user information, and leads to the API.
pub(super) fn forwarded(data: &[u8]) {
    let base = LinkBase::new(&ApiAddress {
        base: "/tasks".into(),
        trust_forwarding: true,
        from_host: true,
        ..ApiAddress::default()
    });
    let Some(links) = base.of(&Uri::from_static("/"), &lines(data)) else {
        return;
    };
    let link = links.base().expect("there is an API");
    assert!(HeaderValue::try_from(link).is_ok());
    let uri: Uri = link.parse().expect("a link is a URI");
    assert!(
        link.starts_with('/') || uri.authority().is_some_and(|host| !host.as_str().contains('@')),
        "{link}"
    );
    assert!(
        uri.path().ends_with("/tasks") && !uri.path().starts_with("//") && uri.query().is_none(),
        "{link}"
    );
}

/// However long a response asks to wait, the wait is bounded.
pub(super) fn retry_after(data: &[u8]) {
    let headers = values(data, &RETRY_AFTER);
    let extensions = Extensions::new();
    let verdict = Backoff::new().judge(&AttemptEnd::Answered {
        status: StatusCode::SERVICE_UNAVAILABLE,
        headers: &headers,
        extensions: &extensions,
        trailers: None,
        truncated: false,
        timed_out: false,
    });
    match verdict {
        Verdict::Defer { after } => assert!(after <= Backoff::RETRY_AFTER_CAP),
        verdict => assert_eq!(verdict, Verdict::Retry { after: None }),
    }
}
