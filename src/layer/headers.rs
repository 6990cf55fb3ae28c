//! [`HeaderPolicy`]: which headers of a request are stored.

use std::mem;

use http::{HeaderMap, HeaderName, HeaderValue, Method, header};

use crate::{
    layer::dialect::Dialect,
    task::{
        own::{DEPTH, GIVEN, is_own},
        redact::Secrets,
    },
    wire::is_about_the_connection,
};

/// Which headers are stored with a task and replayed, and which values are secret.
///
/// Set it with [`RespondAsyncBuilder::headers`](crate::RespondAsyncBuilder::headers).
///
/// - **Never stored:** headers of one connection, headers that ask for async, and headers that this crate sets itself.
/// - **Stored only if you [keep](Self::keep) them:** headers about one answer to one client. These are
///   `Accept-Encoding`, `Range` and `If-Range`, and for `GET` and `HEAD` also `If-None-Match` and `If-Modified-Since`.
///   Other clients may read the result later: a webhook receiver cannot read a response that was compressed for one
///   client, and "not modified" is not a result.
/// - **Stored:** all other headers. With methods other than `GET` and `HEAD`, this includes `If-None-Match` and
///   `If-Modified-Since`, since `If-None-Match` guards a change there.
///
/// A stored `Authorization` or `Cookie` stays in the store, and may have expired when the task runs. If your
/// application authenticates outside of the layer, you can leave both out. If it authenticates inside, it needs them.
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
    /// The default policy: stores all headers except those about one connection or one answer.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            dropped: Vec::new(),
            kept: Vec::new(),
            secrets: Secrets::new(),
        }
    }

    /// Does not store headers of this name, so a replay lacks them.
    ///
    /// If the header is a secret, such as `Cookie`, the credentials of a request that is sent twice cannot be compared.
    /// The second answer has [the ids only](crate::Credentials::Withhold), unless you set
    /// [`RespondAsyncBuilder::caller`](crate::RespondAsyncBuilder::caller).
    #[must_use]
    pub fn without(mut self, name: HeaderName) -> Self {
        self.dropped.push(name);
        self
    }

    /// Stores headers of this name although they are about one answer, so that handlers get them.
    ///
    /// Headers of a connection are never stored. [`without`](Self::without) overrides this.
    #[must_use]
    pub fn keep(mut self, name: HeaderName) -> Self {
        self.kept.push(name);
        self
    }

    /// Adds a name of headers, query parameters and log fields whose values are secret.
    ///
    /// No view shows the value of this name, or of a name that ends with its words: `customer-ref` covers
    /// `X-Customer-Ref` and `order.customerRef`. Case and separators do not matter.
    ///
    /// The usual names of credentials are always secret; [the guide](crate::guide::trust#what-views-show) has the rule.
    /// A name without a letter or digit adds nothing.
    #[must_use]
    pub fn secret(mut self, name: impl Into<String>) -> Self {
        self.secrets.add(&name.into());
        self
    }

    /// Whether a header of this name holds a secret.
    pub(crate) fn is_secret(&self, name: &HeaderName) -> bool {
        self.secrets.is_name(name.as_str())
    }

    pub(crate) const fn secrets(&self) -> &Secrets {
        &self.secrets
    }

    /// Whether a header that holds a secret is not stored.
    pub(crate) fn drops_secrets(&self) -> bool {
        self.dropped.iter().any(|name| self.is_secret(name))
    }
}

/// Removes the headers that are not stored for this method. The others keep their order.
pub(crate) fn strip(headers: &mut HeaderMap, method: &Method, policy: &HeaderPolicy) {
    let is_kept = |name: &HeaderName| {
        !is_about_the_connection(name)
            && *name != header::EXPECT
            && !is_own(name)
            && (!is_about_one_answer(name, method) || policy.kept.contains(name))
            && !policy.dropped.contains(name)
    };
    // A new map, since `HeaderMap::remove` fills the gap with the last header. It has room for the headers that a
    // replay adds.
    let mut kept = HeaderMap::with_capacity(headers.keys_len() + GIVEN);
    let mut of = None;
    for (name, value) in mem::take(headers) {
        // A value without a name belongs to the previous name.
        if let Some(name) = name {
            of = Some(name).filter(is_kept);
        }
        if let Some(name) = &of
            && let Some(value) = Dialect::replayed(name, value)
            && (*name != header::CONTENT_LENGTH || is_zero(&value))
        {
            kept.append(name, value);
        }
    }
    *headers = kept;
}

/// Whether a header of this name is about one answer to one client: compressed, partial, or empty because the client
/// has the content already. Other clients may read the stored result later.
fn is_about_one_answer(name: &HeaderName, method: &Method) -> bool {
    match *name {
        header::ACCEPT_ENCODING | header::RANGE | header::IF_RANGE => true,
        // With other methods, `If-None-Match` guards a change (RFC 9110 §13.1): `PUT` with `If-None-Match: *` creates,
        // but does not replace.
        header::IF_NONE_MATCH | header::IF_MODIFIED_SINCE => matches!(*method, Method::GET | Method::HEAD),
        _ => false,
    }
}

/// Whether a length is 0. Some handlers need this statement that there is no body. Other lengths are computed again.
fn is_zero(length: &HeaderValue) -> bool {
    let digits = length.as_bytes();
    !digits.is_empty() && digits.iter().all(|digit| *digit == b'0')
}

/// The number of async requests that led to this one. An invalid number counts as 0, a number above 255 as 255.
pub(crate) fn depth(headers: &HeaderMap) -> u8 {
    let value = headers.get(DEPTH).and_then(|value| value.to_str().ok());
    let digits = value.filter(|text| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()));
    digits.map_or(0, |text| text.parse().unwrap_or(u8::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_end_to_end_headers_stay_in_their_order() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("host", "a"),
            ("connection", "keep-alive, x-hop"),
            ("x-hop", "1"),
            ("close", "x"),
            ("keep-alive", "timeout=5"),
            ("te", "trailers"),
            ("trailer", "x-end"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "h2c"),
            ("http2-settings", "AAA"),
            ("expect", "100-continue"),
            ("content-length", "5"),
            ("accept-encoding", "br"),
            ("range", "bytes=0-1"),
            ("if-range", "x"),
            ("if-none-match", "*"),
            ("proxy-authorization", "x"),
            ("proxy-authentication-info", "x"),
            ("proxy-user", "ada"),
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
        strip(&mut headers, &Method::PUT, &HeaderPolicy::new());
        let kept: Vec<_> = headers
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_bytes()))
            .collect();
        // In order, except that a `HeaderMap` keeps the values of one name together.
        let expected: [(&str, &[u8]); 8] = [
            ("host", b"a"),
            ("x-hop", b"1"),
            ("if-none-match", b"*"),
            ("proxy-user", b"ada"),
            ("prefer", b"return=minimal"),
            ("x-two", b"first"),
            ("x-two", b"second"),
            ("cookie", b"c"),
        ];
        assert_eq!(kept, expected);

        let stripped = |policy: HeaderPolicy| {
            let mut headers = all.clone();
            strip(&mut headers, &Method::GET, &policy);
            headers
        };
        assert!(!stripped(HeaderPolicy::new().without(header::COOKIE)).contains_key(header::COOKIE));
        assert!(!stripped(HeaderPolicy::new()).contains_key(header::IF_NONE_MATCH));
        for name in [header::ACCEPT_ENCODING, header::RANGE, header::IF_NONE_MATCH] {
            let kept = stripped(HeaderPolicy::new().keep(name.clone()));
            assert_eq!(kept.get(&name), all.get(&name), "{name}");
        }
        let both = HeaderPolicy::new().keep(header::RANGE).without(header::RANGE);
        assert!(!stripped(both).contains_key(header::RANGE));
        for name in [header::CONNECTION, header::CONTENT_LENGTH, header::EXPECT] {
            assert!(
                !stripped(HeaderPolicy::new().keep(name.clone())).contains_key(&name),
                "{name}"
            );
        }
    }

    #[test]
    fn of_lengths_only_one_of_nothing_stays() {
        for (length, stays) in [("0", true), ("00", true), ("5", false), ("", false), ("0x", false)] {
            let length = HeaderValue::from_static(length);
            let mut headers = HeaderMap::from_iter([(header::CONTENT_LENGTH, length.clone())]);
            strip(&mut headers, &Method::POST, &HeaderPolicy::new());
            assert_eq!(headers.contains_key(header::CONTENT_LENGTH), stays, "{length:?}");
        }
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
