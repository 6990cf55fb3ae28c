//! The possible differences between a request that is answered at once and the same request that runs later.
//!
//! `guide::same_handler` prints this list. A test sends thousands of requests both ways and compares what the handler
//! receives.

/// One possible difference. [`DIFFERENCES`] has all of them.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Difference {
    /// What differs, in the words of the guide.
    pub what: &'static str,
    /// What a replay has instead.
    pub replay: &'static str,
    /// The headers that may differ, in lower case. A `*` at the end stands for any suffix.
    pub headers: &'static [&'static str],
    /// The methods of the requests that may differ. If empty, all methods.
    pub methods: &'static [&'static str],
}

impl Difference {
    /// Whether this difference covers the header `header` of a request with the method `method`.
    #[must_use]
    pub fn is_about(&self, method: &str, header: &str) -> bool {
        let named = self.headers.iter().any(|name| match name.strip_suffix('*') {
            Some(beginning) => header.starts_with(beginning),
            None => header == *name,
        });
        named && (self.methods.is_empty() || self.methods.contains(&method))
    }

    const fn of_headers(what: &'static str, headers: &'static [&'static str], replay: &'static str) -> Self {
        Self {
            what,
            replay,
            headers,
            methods: &[],
        }
    }

    const fn of(what: &'static str, replay: &'static str) -> Self {
        Self::of_headers(what, &[], replay)
    }
}

/// All possible differences.
pub const DIFFERENCES: &[Difference] = &[
    Difference::of_headers(
        "`X-Fc-Invocation-Type`, `X-Fc-Async-Task-Id`, `X-Fc-Stateful-Async-Invocation-Id`, `X-Fc-Async-Delay`",
        &[
            "x-fc-invocation-type",
            "x-fc-async-task-id",
            "x-fc-stateful-async-invocation-id",
            "x-fc-async-delay",
        ],
        "has none of them, since they ask for async",
    ),
    Difference::of_headers(
        "`Prefer`",
        &["prefer"],
        "lacks `respond-async` and `wait`; other preferences are unchanged",
    ),
    Difference::of_headers(
        "`X-Fc-Request-Id`, `X-Respond-Async-*`",
        &["x-fc-request-id", "x-respond-async-*"],
        "has the values of this crate; a synchronous request has those that the client sent, so read `TaskContext` instead",
    ),
    Difference::of_headers(
        "`Connection`, `Close`, `HTTP2-Settings`, `Keep-Alive`, `Proxy-Authenticate`, `Proxy-Authentication-Info`, \
         `Proxy-Authorization`, `Proxy-Connection`, `TE`, `Trailer`, `Transfer-Encoding`, `Upgrade`, `Expect`",
        &[
            "connection",
            "close",
            "http2-settings",
            "keep-alive",
            "proxy-authenticate",
            "proxy-authentication-info",
            "proxy-authorization",
            "proxy-connection",
            "te",
            "trailer",
            "transfer-encoding",
            "upgrade",
            "expect",
        ],
        "has none of them, since their connection is closed; other headers that `Connection` names stay",
    ),
    Difference::of_headers(
        "`Accept-Encoding`, `Range`, `If-Range`",
        &["accept-encoding", "range", "if-range"],
        "has none of them unless `HeaderPolicy::keep` names them, since other clients read the result too",
    ),
    Difference {
        what: "`If-None-Match` and `If-Modified-Since` of `GET` and `HEAD`",
        replay: "has none of them unless `HeaderPolicy::keep` names them, since \"not modified\" is not a result",
        headers: &["if-none-match", "if-modified-since"],
        methods: &["GET", "HEAD"],
    },
    Difference::of_headers(
        "`Content-Length`",
        &["content-length"],
        "has the length of the body that arrived, also after chunked encoding; without a body, 0 if 0 was sent, and else none",
    ),
    Difference::of("Headers that `HeaderPolicy::without` names", "has none of them"),
    Difference::of(
        "The frames of the body, and its trailers",
        "has the whole body as one frame, and no trailers",
    ),
    Difference::of("The version of the protocol", "is `HTTP/1.1`"),
    Difference::of(
        "Request extensions",
        "has `TaskContext`, what `RespondAsyncBuilder::carry` names, and with the feature `axum` those of \
         its router and of `DefaultBodyLimit`; no others",
    ),
];

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderName, HeaderValue, Method};

    use super::*;
    use crate::layer::{HeaderPolicy, headers::strip};

    #[test]
    fn strip_removes_exactly_the_listed_headers() {
        let listed = DIFFERENCES.iter().flat_map(|difference| difference.headers);
        let listed: Vec<_> = listed.map(|name| name.replace('*', "anything")).collect();
        assert!(listed.len() > 20, "{listed:?}");
        for name in &listed {
            for method in [Method::GET, Method::PUT] {
                let may_differ = DIFFERENCES.iter().any(|row| row.is_about(method.as_str(), name));
                let header = HeaderName::try_from(name).unwrap();
                let value = HeaderValue::from_static(if name == "prefer" { "respond-async" } else { "5" });
                let mut headers = HeaderMap::from_iter([(header, value)]);
                strip(&mut headers, &method, &HeaderPolicy::new());
                assert_eq!(headers.is_empty(), may_differ, "{method} {name}");
            }
        }
    }

    #[test]
    fn the_guide_prints_the_list() {
        let page = include_str!("../guide/same_handler.md");
        let table = page.lines().skip_while(|line| *line != "| what | a replay |").skip(2);
        let printed: Vec<_> = table.take_while(|line| line.starts_with('|')).collect();
        let listed = DIFFERENCES
            .iter()
            .map(|row| format!("| {} | {} |", row.what, row.replay));
        assert_eq!(printed, listed.collect::<Vec<_>>());
    }
}
