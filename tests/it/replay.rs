//! The request that a handler sees later: what was sent, and nothing forged.

use std::{collections::BTreeMap, convert::Infallible};

use axum::{Router, body::Body, routing::any};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri, Version, header};
use http_body::Frame;
use http_body_util::StreamBody;
use proptest::{collection::vec, prelude::*, sample::select};
use tokio::sync::mpsc;
use tower_http::compression::CompressionLayer;
use tower_respond_async::{HeaderPolicy, MemoryStore, TaskContext, task::CapturedRequest};

use crate::support::{App, WithoutBody, and_header, fc, other_runtime, prefer, recorder, soon, talk, values};

/// An application that records every request, whatever its method and path.
fn recording() -> (App, mpsc::UnboundedReceiver<Request<Bytes>>) {
    let (handler, requests) = recorder();
    let app = App::build(MemoryStore::new(), Router::new().fallback(handler), |builder| {
        builder.runtime(other_runtime())
    });
    (app, requests)
}

async fn replayed(request: Request<Body>) -> Request<Bytes> {
    let (app, mut requests) = recording();
    app.accepted(request).await;
    soon(requests.recv()).await.unwrap()
}

/// The headers that the layer adds to a replay.
const ADDED: [&str; 4] = [
    "x-fc-request-id",
    "x-respond-async-attempt",
    "x-respond-async-depth",
    "x-respond-async-task-id",
];

/// The headers that are not replayed.
const STRIPPED: [&str; 20] = [
    "connection",
    "close",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-authentication-info",
    "proxy-connection",
    "accept-encoding",
    "range",
    "if-range",
    "te",
    "trailer",
    "transfer-encoding",
    "http2-settings",
    "expect",
    "x-fc-request-id",
    "x-respond-async-task-id",
    "x-respond-async-attempt",
    "x-respond-async-duplicate",
    "x-respond-async-new-in-some-later-version",
];

/// Headers that are kept, and often repeated.
const KEPT: [&str; 10] = [
    "accept",
    "authorization",
    "cookie",
    "content-type",
    "host",
    "traceparent",
    "via",
    "x-fc-async-task-id-of-another",
    "x-forwarded-for",
    "x-respondent",
];

fn name() -> impl Strategy<Value = HeaderName> {
    prop_oneof![
        4 => select(&KEPT[..]).prop_map(HeaderName::from_static),
        1 => select(&STRIPPED[..]).prop_map(HeaderName::from_static),
        2 => "x-[a-z0-9]{1,6}".prop_map(|name| HeaderName::try_from(name).unwrap()),
    ]
}

fn value() -> impl Strategy<Value = HeaderValue> {
    let byte = prop_oneof![b' '..=b'~', 0x80..=0xff_u8, Just(b'\t')];
    (vec(byte, 0..20), proptest::bool::ANY).prop_map(|(bytes, sensitive)| {
        let mut value = HeaderValue::from_bytes(&bytes).unwrap();
        value.set_sensitive(sensitive);
        value
    })
}

fn header() -> impl Strategy<Value = (HeaderName, HeaderValue)> {
    let names_some = vec(select(&KEPT[..]), 0..3).prop_map(|names| {
        let value = HeaderValue::try_from(names.join(" , ")).unwrap();
        (header::CONNECTION, value)
    });
    prop_oneof![9 => (name(), value()), 1 => names_some]
}

fn target() -> impl Strategy<Value = String> {
    (
        "(/[a-z0-9%2F.~!$&'()*+,;=:@-]{0,8}){1,4}",
        prop::option::of("[a-z0-9=&%20+?/:@-]{0,16}"),
    )
        .prop_map(|(path, query)| match query {
            Some(query) => format!("{path}?{query}"),
            None => path,
        })
        .prop_filter("a path of the API is not deferred", |target| {
            !target.starts_with("/tasks")
        })
        .prop_filter("it must be a URI", |target| target.parse::<Uri>().is_ok())
}

/// The headers that must arrive, with the order of those with one name.
fn expected(sent: &HeaderMap) -> BTreeMap<String, Vec<(Vec<u8>, bool)>> {
    let mut kept = of(sent);
    kept.retain(|name, _| !STRIPPED.contains(&name.as_str()) && name != "x-fc-invocation-type");
    kept
}

fn of(headers: &HeaderMap) -> BTreeMap<String, Vec<(Vec<u8>, bool)>> {
    let mut all = BTreeMap::<_, Vec<_>>::new();
    for (name, value) in headers {
        let values = all.entry(name.as_str().to_owned()).or_default();
        values.push((value.as_bytes().to_vec(), value.is_sensitive()));
    }
    all
}

fn method() -> impl Strategy<Value = Method> {
    prop_oneof![
        select(vec![
            Method::GET,
            Method::HEAD,
            Method::POST,
            Method::PUT,
            Method::DELETE,
            Method::OPTIONS
        ]),
        "[A-Z]{3,9}".prop_map(|method| Method::from_bytes(method.as_bytes()).unwrap()),
    ]
    .prop_filter("CONNECT is not deferred", |method| *method != Method::CONNECT)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn what_is_replayed_is_what_was_sent(
        method in method(),
        target in target(),
        headers in vec(header(), 0..16),
        body in vec(proptest::num::u8::ANY, 0..300),
    ) {
        let mut request = Request::new(Body::from(body.clone()));
        *request.method_mut() = method.clone();
        *request.uri_mut() = target.parse().unwrap();
        for (name, value) in headers {
            request.headers_mut().append(name, value);
        }
        request.headers_mut().insert("x-fc-invocation-type", HeaderValue::from_static("Async"));
        let expected = expected(request.headers());
        let seen = other_runtime().block_on(replayed(request));

        prop_assert_eq!(seen.method(), method);
        prop_assert_eq!(seen.uri().to_string(), target);
        prop_assert_eq!(&seen.body()[..], &body[..]);
        let mut arrived = of(seen.headers());
        for name in ADDED {
            prop_assert_eq!(arrived.remove(name).map(|values| values.len()), Some(1), "{}", name);
        }
        let length = arrived.remove("content-length");
        let rebuilt = (!body.is_empty()).then(|| vec![(body.len().to_string().into_bytes(), false)]);
        prop_assert_eq!(length, rebuilt);
        prop_assert_eq!(arrived, expected);
    }

    /// The encoding of a store on disk.
    #[test]
    fn a_request_that_was_encoded_is_the_same_decoded(
        method in method(),
        target in target(),
        headers in vec((name(), value()), 0..16),
        body in vec(proptest::num::u8::ANY, 0..300),
    ) {
        let headers = HeaderMap::from_iter(headers);
        let request = CapturedRequest::new(method, target.parse().unwrap(), headers, body.into());
        prop_assert_eq!(CapturedRequest::from_payload(request.to_payload()), Ok(request));
    }
}

/// The order of headers used to change: the last header took the place of one that was removed because it asked for
/// async.
#[tokio::test]
async fn headers_arrive_in_the_order_they_were_sent_in() {
    let request = fc("/a")
        .header("X-Fc-Async-Task-Id", "mine")
        .header("X-One", "1")
        .header("Connection", "keep-alive")
        .header("Keep-Alive", "1")
        .header("Prefer", "respond-async, return=minimal")
        .header("X-Two", "2")
        .header("Expect", "100-continue")
        .header("Cookie", "c")
        .header("X-Two", "3")
        .header("X-Four", "4");
    let seen = replayed(request.empty()).await;
    let sent: Vec<_> = seen
        .headers()
        .iter()
        .filter(|(name, _)| !ADDED.contains(&name.as_str()))
        .collect();
    let names: Vec<_> = sent.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["x-one", "prefer", "x-two", "x-two", "cookie", "x-four"]);
}

#[tokio::test]
async fn a_handler_gets_its_task_and_its_attempt() {
    let (app, mut requests) = recording();
    let id = app
        .accepted(fc("/a").header("X-Fc-Async-Task-Id", "mine").empty())
        .await;
    let seen = soon(requests.recv()).await.unwrap();
    for (name, value) in [
        ("x-fc-request-id", &*id.to_string()),
        ("x-respond-async-task-id", "mine"),
        ("x-respond-async-attempt", "1"),
        ("x-respond-async-depth", "1"),
    ] {
        assert_eq!(values(seen.headers(), name), [value.as_bytes()], "{name}");
    }
    let context = TaskContext::of(seen.extensions());
    assert!(context.is_task());
    assert_eq!(
        (context.request_id(), context.task_id().as_deref()),
        (Some(id), Some("mine"))
    );
    assert_eq!(context.attempt(), 1);
}

#[tokio::test]
async fn what_asked_for_async_is_not_there_when_it_runs() {
    let request = prefer("/a", "respond-async, return=minimal")
        .header("Prefer", "wait=0")
        .header("Prefer", "handling=lenient; x=\"respond-async\"")
        .header("X-Fc-Invocation-Type", "Async")
        .header("X-Fc-Async-Task-Id", "mine")
        .header("X-Fc-Stateful-Async-Invocation-Id", "mine");
    let seen = replayed(request.empty()).await;
    for gone in [
        "x-fc-invocation-type",
        "x-fc-async-task-id",
        "x-fc-stateful-async-invocation-id",
        "x-fc-async-delay",
    ] {
        assert_eq!(seen.headers().get(gone), None, "{gone}");
    }
    let left: [&[u8]; 2] = [b"return=minimal", b"handling=lenient; x=\"respond-async\""];
    assert_eq!(values(seen.headers(), "prefer"), left);
}

#[tokio::test]
async fn what_the_layer_says_to_a_handler_cannot_be_forged() {
    let forged = fc("/a")
        .header("X-Fc-Request-Id", "forged")
        .header("X-Respond-Async-Task-Id", "forged")
        .header("X-Respond-Async-Task-Id", "twice")
        .header("X-Respond-Async-Attempt", "99")
        .header("X-Respond-Async-Depth", "3")
        .header("X-Respond-Async-Duplicate", "true")
        .header(
            "Connection",
            "x-fc-request-id, x-respond-async-attempt, x-fc-invocation-type",
        );
    let seen = replayed(forged.empty()).await;
    for (name, value) in seen.headers() {
        assert_ne!(value, "forged", "{name}");
    }
    assert_eq!(values(seen.headers(), "x-respond-async-attempt"), [b"1"]);
    assert_eq!(values(seen.headers(), "x-respond-async-depth"), [b"4"]);
    assert_eq!(seen.headers().get_all("x-respond-async-task-id").iter().count(), 1);
    assert_eq!(seen.headers().get("x-respond-async-duplicate"), None);
}

/// Whatever length the client declared, the handler sees the length that arrived.
#[tokio::test]
async fn the_length_is_that_of_the_body() {
    let frames = ["chunk", "", "ed"].map(|data| Ok::<_, Infallible>(Frame::data(Bytes::from(data))));
    let trailers = Frame::trailers(HeaderMap::from_iter([(
        HeaderName::from_static("x-end"),
        HeaderValue::from_static("1"),
    )]));
    let frames = frames.into_iter().chain([Ok(trailers)]);
    let body = Body::new(StreamBody::new(futures_util::stream::iter(frames)));
    let request = fc("/a")
        .header("Content-Length", "3")
        .header("Content-Length", "5")
        .header("Transfer-Encoding", "chunked")
        .header("Trailer", "x-end");
    let seen = replayed(request.with(body)).await;
    assert_eq!(seen.body(), "chunked");
    assert_eq!(values(seen.headers(), "content-length"), [b"7"]);
    for gone in ["transfer-encoding", "trailer", "x-end"] {
        assert_eq!(seen.headers().get(gone), None, "{gone}");
    }
    let seen = replayed(fc("/a").header("Content-Length", "5").empty()).await;
    assert_eq!(seen.headers().get("content-length"), None);
}

/// A handler that requires a length answered 411 to a request that it accepted synchronously.
#[tokio::test]
async fn a_length_of_0_is_there_if_it_was_sent() {
    for (sent, expected) in [(Some("0"), &[&b"0"[..]][..]), (None, &[])] {
        let mut request = fc("/a");
        if let Some(length) = sent {
            request = request.header("Content-Length", length);
        }
        assert_eq!(
            values(replayed(request.empty()).await.headers(), "content-length"),
            expected
        );
    }
    let (app, mut requests) = recording();
    let id = app.accepted(fc("/a").with("body")).await;
    soon(requests.recv()).await.unwrap();
    app.ended(id).await;
    let emptied = Request::post(format!("/tasks/{id}/retry")).header("Content-Type", "application/json");
    app.send(emptied.with("{\"body\":\"\"}")).await.assert_accepted();
    let seen = soon(requests.recv()).await.unwrap();
    assert_eq!(
        (values(seen.headers(), "content-length"), &seen.body()[..]),
        (vec![&b"0"[..]], &b""[..])
    );
}

/// A client could remove a header that an outer layer had set: the handler then took its own client for one that had
/// not signed in.
#[tokio::test]
async fn a_client_does_not_choose_what_a_replay_lacks() {
    let request = fc("/a")
        .header(
            "Connection",
            "close, X-Authenticated-User, Authorization, X-Forwarded-For",
        )
        .header("X-Authenticated-User", "ada")
        .header("Proxy-User", "ada")
        .header("Authorization", "Bearer ada")
        .header("X-Forwarded-For", "10.0.0.1");
    let seen = replayed(request.empty()).await;
    for name in ["x-authenticated-user", "proxy-user", "authorization", "x-forwarded-for"] {
        assert!(seen.headers().contains_key(name), "{name}");
    }
    assert_eq!(seen.headers().get("connection"), None);
}

/// The other direction: the response of a handler to a synchronous request keeps them, whatever its `Connection` header
/// names.
#[tokio::test]
async fn a_result_has_what_the_handler_s_connection_header_names() {
    let handler = any(async || {
        [
            ("connection", "close, x-total"),
            ("x-total", "5"),
            ("keep-alive", "timeout=5"),
        ]
    });
    let app = App::build(MemoryStore::new(), Router::new().fallback(handler), |builder| builder);
    let answer = app.send(fc("/a").empty()).await;
    app.ended(answer.id()).await;
    let result = app.get(answer.header("location")).await;
    assert_eq!(result.header("x-total"), "5");
    assert_eq!((result.header("connection"), result.header("keep-alive")), ("", ""));
}

/// What one client has in its cache, or can decompress, does not concern the readers of the result.
#[tokio::test]
async fn what_is_about_one_answer_is_not_replayed_unless_it_is_kept() {
    let names = [
        header::ACCEPT_ENCODING,
        header::RANGE,
        header::IF_RANGE,
        header::IF_NONE_MATCH,
        header::IF_MODIFIED_SINCE,
    ];
    let request = |method: Method| {
        let request = fc("/a").method(method);
        let request = names.iter().fold(request, |request, name| request.header(name, "x"));
        request.header("Accept", "a/b").header("If-Match", "x").empty()
    };
    for (method, guards_a_change) in [(Method::GET, false), (Method::HEAD, false), (Method::PUT, true)] {
        let seen = replayed(request(method.clone())).await;
        for name in &names {
            let conditional = [header::IF_NONE_MATCH, header::IF_MODIFIED_SINCE].contains(name);
            let expected = conditional && guards_a_change;
            assert_eq!(seen.headers().contains_key(name), expected, "{method} {name}");
        }
        assert!(seen.headers().contains_key("accept") && seen.headers().contains_key("if-match"));
    }
    let (handler, mut requests) = recorder();
    let app = App::build(MemoryStore::new(), Router::new().fallback(handler), |builder| {
        builder.headers(names.iter().cloned().fold(HeaderPolicy::new(), HeaderPolicy::keep))
    });
    let id = app.accepted(request(Method::GET)).await;
    let kept = soon(requests.recv()).await.unwrap();
    assert!(
        names.iter().all(|name| kept.headers().contains_key(name)),
        "{:?}",
        kept.headers()
    );

    app.ended(id).await;
    let edited = Request::post(format!("/tasks/{id}/retry")).header("Content-Type", "application/json");
    let edits =
        "{\"headers\":{\"range\":\"edited\",\"x-respond-async-depth\":\"9\",\"x-fc-async-task-id\":\"forged\"}}";
    app.send(edited.with(edits)).await.assert_accepted();
    let seen = soon(requests.recv()).await.unwrap();
    assert_eq!(
        values(seen.headers(), "range"),
        [b"edited"],
        "the policy counts for edits"
    );
    assert_eq!(values(seen.headers(), "x-respond-async-depth"), [b"1"]);
    assert_eq!(seen.headers().get("x-fc-async-task-id"), None);
}

/// A compressing layer inside used to compress for the client that asked, and all other clients got that.
#[tokio::test]
async fn a_result_is_not_compressed_for_the_client_that_asked() {
    let text = "the same again and again ".repeat(100);
    let told = text.clone();
    let routes = Router::new().route("/", any(move || async { told }));
    let app = App::build(MemoryStore::new(), routes.layer(CompressionLayer::new()), |builder| {
        builder
    });
    let request = |request: http::request::Builder| request.header("Accept-Encoding", "gzip, br").empty();
    let now = app.send(request(Request::post("/"))).await;
    assert_eq!(now.header("content-encoding"), "gzip", "the layer inside compresses");

    let answer = app.send(request(fc("/"))).await;
    let id = answer.id();
    app.ended(id).await;
    let result = app.get(answer.header("location")).await;
    assert_eq!(
        (result.header("content-encoding"), &result.body[..]),
        ("", text.as_bytes())
    );
    let shown = app.get(format!("/tasks/{id}?includePayload=true")).await.json();
    assert_eq!(shown["returnPayload"], text);
    assert_eq!(shown["returnPayloadContentType"], "text/plain; charset=utf-8");
    assert_eq!(shown.get("returnPayloadContentEncoding"), None);
}

/// `OPTIONS *` over HTTP/2 was taken for another host, and a target of 65 KB was answered 202 and could not be read
/// again.
#[tokio::test]
async fn a_target_in_parts_arrives_in_its_parts_and_one_that_is_too_long_is_refused() {
    let target = |authority: &str, path: &str| {
        let target = Uri::builder().scheme("https").authority(authority).path_and_query(path);
        target.build().unwrap()
    };
    let longest = |bytes: usize| target("h", &format!("/{}", "a".repeat(bytes - "https".len() - "h/".len())));
    for target in [target("here:1", "*"), target("u@[::1]", "/a?b"), longest(65_534)] {
        let (app, mut requests) = recording();
        let request = fc("/").method(Method::OPTIONS).uri(target.clone()).empty();
        let id = app.accepted(request).await;
        let seen = soon(requests.recv()).await.unwrap();
        assert_eq!(
            seen.uri().clone().into_parts().path_and_query,
            target.clone().into_parts().path_and_query
        );
        assert_eq!(seen.uri(), &target);
        let stored = app.tasks.request(id).await.unwrap().unwrap();
        assert_eq!(
            CapturedRequest::from_payload(stored.to_payload()).as_ref(),
            Ok(&*stored)
        );
    }
    let (app, _requests) = recording();
    let answer = app.send(fc("/").uri(longest(65_535)).unread()).await;
    answer.assert_refused(414, "UriTooLong", None);
    assert_eq!(app.kept().await, 0);
}

#[tokio::test]
async fn odd_targets_arrive_as_they_were_written() {
    for target in [
        "/",
        "/?",
        "/a%2Fb//c/./..?x=%20&&y=1?z#".trim_end_matches('#'),
        "/%e2%82%ac?%E2%82%AC",
        "/a;p=1:2@3",
        "http://example.org:8080/a?b",
        "*",
    ] {
        let request = fc("/").method(Method::OPTIONS).uri(target).empty();
        assert_eq!(replayed(request).await.uri().to_string(), target);
    }
}

#[tokio::test]
async fn every_method_is_replayed_as_itself() {
    let app = App::new();
    for method in ["GET", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS", "PURGE"] {
        let request = fc("/echo").method(method).with("body");
        let answer = app.send(request).await;
        answer.assert_accepted();
        assert_eq!(
            answer.body.is_empty(),
            method == "HEAD",
            "an HTTP/2 server would send it"
        );
        let id = answer.id();
        let response = app.response(id).await;
        let expected = if method == "HEAD" { "" } else { "body" };
        assert_eq!(response.body, expected, "{method}");
        assert_eq!(app.record(id).await.method, method);
    }
}

#[tokio::test]
async fn a_replay_over_a_connection_sees_what_curl_would_send() {
    let (app, mut requests) = recording();
    let address = app.serve().await;
    let request = b"PUT /a%20b?c HTTP/1.1\r\nHost: here:80\r\nUser-Agent: curl/8\r\nX-Raw: \xff\xfe\r\nX-Two: 1\r\n\
        x-two: 2\r\nContent-Length: 3\r\nX-Fc-Invocation-Type: Async\r\nConnection: close\r\n\r\n\0\xff\n";
    let answer = talk(address, request).await;
    assert!(answer.starts_with("HTTP/1.1 202 "), "{answer}");
    let seen = soon(requests.recv()).await.unwrap();
    assert_eq!(
        (seen.method(), seen.uri().to_string().as_str()),
        (&Method::PUT, "/a%20b?c")
    );
    assert_eq!(&seen.body()[..], b"\0\xff\n");
    assert_eq!(values(seen.headers(), "x-raw"), [b"\xff\xfe"]);
    assert_eq!(values(seen.headers(), "x-two"), [b"1", b"2"]);
    assert_eq!(values(seen.headers(), "host"), [b"here:80"]);
    assert_eq!(seen.version(), Version::HTTP_11);
}

#[tokio::test]
async fn headers_that_are_not_to_be_stored_are_not() {
    let (handler, mut requests) = recorder();
    let app = App::build(MemoryStore::new(), Router::new().fallback(handler), |builder| {
        builder.headers(
            HeaderPolicy::new()
                .without(header::AUTHORIZATION)
                .without(header::COOKIE),
        )
    });
    let request = || {
        let request = Request::post("/a").header("Authorization", "Bearer secret");
        request
            .header("Cookie", "a=1")
            .header("Cookie", "b=2")
            .header("X-Kept", "1")
    };
    app.accepted(request().header("X-Fc-Invocation-Type", "Async").empty())
        .await;
    let seen = soon(requests.recv()).await.unwrap();
    assert_eq!(seen.headers().get("authorization"), None);
    assert_eq!(seen.headers().get("cookie"), None);
    assert_eq!(seen.headers()["x-kept"], "1");

    app.send(request().empty()).await;
    let seen = soon(requests.recv()).await.unwrap();
    assert_eq!(
        seen.headers()["authorization"],
        "Bearer secret",
        "they are dropped from stored requests only"
    );
}

#[tokio::test]
async fn credentials_are_replayed_and_not_shown() {
    let (app, mut requests) = recording();
    let request = fc("/a?token=s3cret&x=1")
        .header("Authorization", "Bearer s3cret")
        .header("Cookie", "id=s3cret");
    let answer = app.send(request.empty()).await;
    let id = answer.id();
    let seen = soon(requests.recv()).await.unwrap();
    assert_eq!(seen.headers()["authorization"], "Bearer s3cret");
    assert_eq!(seen.uri(), "/a?token=s3cret&x=1");
    app.ended(id).await;
    for view in ["", "/request", "/operation", "?includePayload=true"] {
        let shown = app.get(format!("/tasks/{id}{view}")).await;
        assert_eq!(shown.status, 200, "{shown:?}");
        assert!(
            !String::from_utf8_lossy(&shown.body).contains("s3cret"),
            "{view}: {shown:?}"
        );
    }
    assert!(!String::from_utf8_lossy(&answer.body).contains("s3cret"), "{answer:?}");
    assert!(!format!("{answer:?}").contains("s3cret"));
}

#[tokio::test]
async fn a_value_that_is_not_text_is_shown_in_a_form_that_is() {
    let (app, mut requests) = recording();
    let id = app
        .accepted(and_header(fc("/a").with(vec![0xff, 0]), "x-raw", b"\xff"))
        .await;
    soon(requests.recv()).await.unwrap();
    let shown = app.get(format!("/tasks/{id}/request")).await.json();
    assert_eq!(shown["bodyEncoding"], "base64");
    assert_eq!(shown["body"], "/wA=");
}
