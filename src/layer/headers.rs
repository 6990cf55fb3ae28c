//! Which headers of a request are kept.

use std::mem;

use http::{HeaderMap, HeaderName, header};

use crate::{
    engine::DEPTH,
    layer::dialect::Dialect,
    task::redact::Secrets,
    wire::{HopByHop, X_FC_REQUEST_ID},
};

/// Which headers are stored with a task and replayed, and which values are secret.
///
/// Headers that belong to one connection are never stored. The default keeps all others.
///
/// A stored `Authorization` or `Cookie` may have expired by the time the task runs, and lies in the store until then. An
/// application that authenticates outside the layer can leave both out; one that authenticates inside needs them kept.
///
/// ```
/// use http::header;
/// use tower_respond_async::HeaderPolicy;
///
/// let policy = HeaderPolicy::new()
///     .without(header::COOKIE) // not stored, so not replayed
///     .secret("x-customer"); // stored and replayed, and no view shows it
/// # drop(policy);
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeaderPolicy {
    dropped: Vec<HeaderName>,
    kept: Vec<HeaderName>,
    secrets: Secrets,
}

impl HeaderPolicy {
    /// The default: every end-to-end header is stored.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            dropped: Vec::new(),
            kept: Vec::new(),
            secrets: Secrets::new(),
        }
    }

    /// Does not store headers of this name, so that a replay lacks them.
    #[must_use]
    pub fn without(mut self, name: HeaderName) -> Self {
        self.dropped.push(name);
        self
    }

    /// Stores headers of this name although they are not replayed by default.
    #[must_use]
    pub fn keep(mut self, name: HeaderName) -> Self {
        self.kept.push(name);
        self
    }

    /// One more name whose values are secret: of headers, query parameters and log fields. No view shows such a value, nor that
    /// of a name which ends with these words: `customer-ref` is about `X-Customer-Ref` and `order.customerRef` too. Case and
    /// separators do not matter.
    ///
    /// Without it, the words are those that everybody uses for credentials; [the guide](crate::guide::trust#what-views-show)
    /// has the rule. A name without a letter or digit adds nothing.
    #[must_use]
    pub fn secret(mut self, name: impl Into<String>) -> Self {
        self.secrets.add(&name.into());
        self
    }

    /// Whether a header of this name holds a secret.
    pub(crate) fn is_secret(&self, name: &HeaderName) -> bool {
        self.secrets.is_name(name.as_str())
    }

    /// Which names are names of secrets.
    pub(crate) const fn secrets(&self) -> &Secrets {
        &self.secrets
    }

    /// Whether some header that holds a secret is not stored.
    #[expect(dead_code, reason = "read by what compares the credentials of duplicates")]
    pub(crate) fn drops_secrets(&self) -> bool {
        self.dropped.iter().any(|name| self.is_secret(name))
    }
}

/// What the layer itself puts on requests and answers begins so; a client's own is not believed.
const OURS: &str = "x-respond-async-";

/// Takes off what is not replayed. The rest stays in its order.
pub(crate) fn strip(headers: &mut HeaderMap, policy: &HeaderPolicy) {
    let hop = HopByHop::of(headers);
    let is_kept = |name: &HeaderName| {
        !hop.contains(name)
            && *name != header::CONTENT_LENGTH
            && *name != header::EXPECT
            && *name != X_FC_REQUEST_ID
            && !name.as_str().starts_with("proxy-")
            && !name.as_str().starts_with(OURS)
            && !policy.dropped.contains(name)
    };
    // Put together anew: `HeaderMap::remove` fills the gap with the last header.
    let mut kept = HeaderMap::with_capacity(headers.keys_len());
    let mut of = None;
    for (name, value) in mem::take(headers) {
        // A value without a name is one more of the name before.
        if let Some(name) = name {
            of = Some(name).filter(is_kept);
        }
        if let Some(name) = &of
            && let Some(value) = Dialect::replayed(name, value)
        {
            kept.append(name, value);
        }
    }
    *headers = kept;
}

/// How many async requests led to this one. What is not a number counts as none.
pub(crate) fn depth(headers: &HeaderMap) -> u8 {
    let value = headers.get(DEPTH).and_then(|value| value.to_str().ok());
    let digits = value.filter(|text| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()));
    digits.map_or(0, |text| text.parse().unwrap_or(u8::MAX))
}

/// The task id, for a handler.
pub(crate) const TASK_ID: HeaderName = HeaderName::from_static("x-respond-async-task-id");
/// The number of the attempt, for a handler.
pub(crate) const ATTEMPT: HeaderName = HeaderName::from_static("x-respond-async-attempt");
/// On a 202 for a request that was accepted before.
pub(crate) const DUPLICATE: HeaderName = HeaderName::from_static("x-respond-async-duplicate");

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn only_end_to_end_headers_stay_in_their_order() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("host", "a"),
            ("connection", "keep-alive, x-hop"),
            ("x-hop", "1"),
            ("keep-alive", "timeout=5"),
            ("te", "trailers"),
            ("trailer", "x-end"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "h2c"),
            ("http2-settings", "AAA"),
            ("expect", "100-continue"),
            ("content-length", "5"),
            ("proxy-authorization", "x"),
            ("proxy-status", "x"),
            ("x-fc-invocation-type", "Async"),
            ("x-fc-async-task-id", "a"),
            ("x-fc-async-delay", "5"),
            ("x-fc-request-id", "forged"),
            ("x-respond-async-depth", "3"),
            ("x-respond-async-task-id", "forged"),
            ("prefer", "respond-async, return=minimal"),
            ("x-two", "first"),
            ("cookie", "c"),
            ("x-two", "second"),
        ] {
            headers.append(name, HeaderValue::from_static(value));
        }
        assert_eq!(depth(&headers), 3);
        let all = headers.clone();
        strip(&mut headers, &HeaderPolicy::new());
        let kept: Vec<_> = headers
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_bytes()))
            .collect();
        // In their order, but for several values of one name, which a `HeaderMap` holds together.
        let expected: [(&str, &[u8]); 5] = [
            ("host", b"a"),
            ("prefer", b"return=minimal"),
            ("x-two", b"first"),
            ("x-two", b"second"),
            ("cookie", b"c"),
        ];
        assert_eq!(kept, expected);

        let mut headers = all;
        strip(&mut headers, &HeaderPolicy::new().without(header::COOKIE));
        assert!(!headers.contains_key(header::COOKIE));
    }

    #[test]
    fn a_depth_that_is_no_number_counts_as_none_and_a_huge_one_as_too_deep() {
        for (value, expected) in [
            ("8", 8),
            ("-1", 0),
            ("x", 0),
            ("", 0),
            ("300", 255),
            ("99999999999999999999999", 255),
        ] {
            let headers = HeaderMap::from_iter([(DEPTH, HeaderValue::from_static(value))]);
            assert_eq!(depth(&headers), expected, "{value}");
        }
    }
}
