//! What no view shows: credentials in headers, queries, URLs and logs, anywhere in a task's life.

use std::{
    io,
    sync::{Arc, Mutex},
};

use axum::{Router, body::Body, routing::post};
use http::{HeaderMap, HeaderName, Request};
use serde_json::{Value, json};
use tower_respond_async::{
    HeaderPolicy, MemoryStore, RequestId, TaskContext,
    hook::{
        PayloadFormat,
        webhook::{CallbackPolicy, Webhook},
    },
    probe::{Capture, TracingProbe},
    task::DeliveryStatus,
};
use tracing::info;
use tracing_subscriber::{Layer, filter::filter_fn, layer::SubscriberExt};

use crate::{
    engine_support::eventually,
    receiver::{Answer, Receiver},
    support::{App, WithoutBody, fc, no_retries},
};

/// Part of every secret below, and of nothing else.
const PLANTED: &str = "PLANTED";

const SECRET_HEADERS: [&str; 12] = [
    "authorization",
    "x-xsrf",
    "cookie",
    "api-key",
    "x-api-key",
    "x-goog-api-key",
    "x-authorization",
    "x-auth-key",
    "ocp-apim-subscription-key",
    "x-hub-signature-256",
    "x-functions-key",
    // The operator's own.
    "x-customer",
];

/// Values of ordinary headers, with a URL somewhere in them.
const WITH_URLS: [(&str, &str); 8] = [
    ("x-callback-url", "https://hooks.example/in?code=PLANTED"),
    ("referer", "https://me:PLANTED@example.org/from"),
    ("x-original-uri", "/in?%74oken=PLANTED&page=2"),
    ("x-return", "/login?next=https%3A%2F%2Fexample.org%2F%3Fkey%3DPLANTED"),
    (
        "x-feeds",
        "\"https://a.example/?x=1\", \"https://b.example/?sig=PLANTED\"",
    ),
    ("x-query-string", "page=2&accessToken=PLANTED"),
    ("x-fragment", "https://example.org/#access_token=PLANTED"),
    ("x-lookup", "https://example.org/?X-Customer=PLANTED"),
];

/// Values that are not secret, although they end like a secret or are in a URL.
const ORDINARY: [(&str, &str); 4] = [
    ("idempotency-key", "\"key-of-a-request\""),
    ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ("x-token-count", "1234"),
    ("x-link", "https://example.org/@me?page=2#top"),
];

/// The URL of a request, with secrets in its query.
const TARGET: &str = "?token=PLANTED&page=2&x_customer=PLANTED&next=%2Fb%3Fcode%3DPLANTED";

async fn works(task: TaskContext) -> (HeaderMap, &'static str) {
    let url = "https://me:PLANTED@example.org/?sig=PLANTED";
    info!(
        password = PLANTED,
        user.accessToken = PLANTED,
        x_customer = PLANTED,
        url,
        "asked for {url}"
    );
    task.progress(0.5, format!("fetching {url}"));
    let mut headers = HeaderMap::new();
    for (name, value) in headers_of_all_kinds() {
        headers.append(name, value.parse().unwrap());
    }
    headers.append("set-cookie", PLANTED.parse().unwrap());
    headers.append("location", "/next?code=PLANTED".parse().unwrap());
    headers.append("link", "</a?sig=PLANTED>; rel=next".parse().unwrap());
    (headers, "made")
}

fn headers_of_all_kinds() -> impl Iterator<Item = (HeaderName, &'static str)> {
    let secret = SECRET_HEADERS.into_iter().map(|name| (name, PLANTED));
    let all = secret.chain(WITH_URLS).chain(ORDINARY);
    all.map(|(name, value)| (HeaderName::from_static(name), value))
}

async fn breaks() -> &'static str {
    panic!("no answer from https://me:PLANTED@example.org/?sig=PLANTED&page=2")
}

/// Collects the written text.
#[derive(Clone, Default)]
struct Written(Arc<Mutex<Vec<u8>>>);

impl io::Write for Written {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(text)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn request(path: &str, callback: &str) -> Request<Body> {
    let mut request = fc(&format!("{path}{TARGET}")).empty();
    for (name, value) in headers_of_all_kinds().filter(|(name, _)| *name != "idempotency-key") {
        request.headers_mut().append(name, value.parse().unwrap());
    }
    request
        .headers_mut()
        .insert("x-callback-url", callback.parse().unwrap());
    request
}

#[track_caller]
fn assert_hidden(view: &str, text: &str) {
    let at = text.find(PLANTED).map(|at| at.saturating_sub(200));
    let around = at.map(|at| {
        String::from_utf8_lossy(&text.as_bytes()[at..])
            .chars()
            .take(240)
            .collect::<String>()
    });
    assert_eq!(around, None, "a secret is shown in {view}");
}

fn shown_header<'a>(document: &'a Value, name: &str) -> &'a str {
    let headers = document["headers"].as_array().unwrap();
    let found = headers.iter().find(|pair| pair[0] == name);
    found.unwrap_or_else(|| panic!("{name} is not in {document}"))[1]
        .as_str()
        .unwrap()
}

#[tokio::test]
async fn no_planted_secret_is_in_any_view_of_a_task() {
    let written = Written::default();
    let (capture, captured) = Capture::new();
    let ours = filter_fn(|metadata| metadata.target().starts_with("tower_respond_async"));
    let sink = written.clone();
    let log = tracing_subscriber::fmt::layer()
        .with_ansi(false)
        .with_writer(move || sink.clone());
    let subscriber = tracing_subscriber::registry()
        .with(captured)
        .with(log.with_filter(ours));
    let _guard = tracing::subscriber::set_default(subscriber);

    let elsewhere = "location: https://me:PLANTED@example.org/?code=PLANTED\r\n".to_owned();
    let redirecting = Receiver::start(move |_, _| Answer::With(302, elsewhere.clone(), "")).await;
    let receivers = [
        PayloadFormat::Fc,
        PayloadFormat::CloudEvents,
        PayloadFormat::Standard,
        PayloadFormat::Raw,
    ];
    let mut told = Vec::new();
    for format in receivers {
        told.push((format, Receiver::start(|_, _| Answer::Status(200)).await));
    }
    let routes = Router::new()
        .route("/works", post(works))
        .route("/breaks", post(breaks));
    let app = App::build(MemoryStore::new(), routes, |mut builder| {
        for (format, receiver) in &told {
            let name = format!("{format:?}");
            let webhook = Webhook::new(&receiver.url("/")).unwrap().format(*format);
            builder = builder.on_completion(webhook.named(&name).unwrap());
        }
        builder
            .retry(no_retries())
            .headers(HeaderPolicy::new().secret("X-Customer"))
            .labels(|_| {
                [("from", "https://me:PLANTED@example.org/"), ("secret", PLANTED)]
                    .into_iter()
                    .collect()
            })
            .callbacks(CallbackPolicy::only().allow("127.0.0.1").unwrap())
            .probe(TracingProbe::new())
            .probe(capture)
    });

    let callback = redirecting.url("/hook?code=PLANTED&page=2");
    for (path, answers) in [("/works", true), ("/breaks", false)] {
        let accepted = app.send(request(path, &callback)).await;
        accepted.assert_accepted();
        assert_hidden("the 202", std::str::from_utf8(&accepted.body).unwrap());
        let id: RequestId = accepted.id();
        app.ended(id).await;
        eventually("everybody was told", async || {
            let deliveries = &app.record(id).await.deliveries;
            let done = |one: &tower_respond_async::task::Delivery| {
                one.status == DeliveryStatus::Delivered || !one.tries.is_empty()
            };
            deliveries.len() == 5 && deliveries.iter().all(done)
        })
        .await;

        for view in ["", "/operation", "/request", "/logs", "/callbacks", "/events"] {
            let view = format!("/tasks/{id}{view}");
            let answer = app.get(&view).await;
            assert_eq!(answer.status, 200, "{view}: {answer:?}");
            assert_hidden(&view, std::str::from_utf8(&answer.body).unwrap());
        }
        let text = Request::get(format!("/tasks/{id}/logs")).header("Accept", "text/plain");
        let text = app.send(text.empty()).await;
        assert_hidden("the log as text", std::str::from_utf8(&text.body).unwrap());
        let response = app.get(format!("/tasks/{id}/response")).await;
        assert_hidden("the response", std::str::from_utf8(&response.body).unwrap());
        if answers {
            assert!(text.body.windows(8).any(|word| word == b"REDACTED"), "{text:?}");
            let (request, response) = (app.get(format!("/tasks/{id}/request")).await.json(), response.json());
            assert_eq!(
                request["uri"],
                "/works?token=REDACTED&page=2&x_customer=REDACTED&next=REDACTED"
            );
            for document in [&request, &response] {
                for name in SECRET_HEADERS {
                    assert_eq!(shown_header(document, name), "REDACTED", "{name}");
                }
                assert_eq!(shown_header(document, "x-original-uri"), "/in?%74oken=REDACTED&page=2");
                for (name, value) in ORDINARY.into_iter().filter(|(name, _)| *name != "idempotency-key") {
                    assert_eq!(shown_header(document, name), value, "{name}");
                }
            }
            assert_eq!(shown_header(&response, "idempotency-key"), "\"key-of-a-request\"");
        } else {
            let gone = app.get(format!("/tasks/{id}/result")).await;
            assert_eq!(gone.status, 410, "{gone:?}");
            assert_hidden("the refusal of /result", std::str::from_utf8(&gone.body).unwrap());
            let task = app.get(format!("/tasks/{id}")).await.json();
            let error = task["taskErrorMessage"].as_str().unwrap();
            assert!(
                error.contains("https://REDACTED@example.org/?sig=REDACTED&page=2"),
                "{error}"
            );
        }
        let callbacks = app.get(format!("/tasks/{id}/callbacks")).await.json();
        assert_eq!(callbacks["callbackUrl"], redirecting.url("/hook?code=REDACTED&page=2"));
    }
    for view in [
        "/tasks",
        "/tasks?includePayload=true",
        "/tasks/settings",
        "/tasks/stats",
        "/tasks/openapi.json",
    ] {
        let answer = app.get(view).await;
        assert_eq!(answer.status, 200, "{view}: {answer:?}");
        assert_hidden(view, std::str::from_utf8(&answer.body).unwrap());
    }
    for (format, receiver) in &told {
        for message in receiver.has(2).await {
            let sent = format!("{message:?}");
            assert_hidden(&format!("what is sent as {format:?}"), &sent);
        }
    }
    let log = String::from_utf8(written.0.lock().unwrap().clone()).unwrap();
    assert!(log.contains("REDACTED@example.org"), "the redirect is told of: {log}");
    assert_hidden("the log of the process", &log);
}

/// An edit can be made from what is shown: secrets that are left redacted keep their value, also in URLs in headers.
#[tokio::test]
async fn an_edit_puts_back_every_secret_that_reads_redacted() {
    let (recorder, mut seen) = crate::support::recorder();
    let app = App::build(MemoryStore::new(), Router::new().route("/seen", recorder), |builder| {
        builder.headers(HeaderPolicy::new().secret("x-customer"))
    });
    let accepted = request("/seen", "https://hooks.example/in?code=PLANTED&page=2");
    let id = app.accepted(accepted).await;
    let first = crate::support::soon(seen.recv()).await.unwrap();
    app.ended(id).await;

    let shown = app.get(format!("/tasks/{id}/request")).await.json();
    let edits = json!({ "uri": shown["uri"], "headers": shown["headers"], "body": "another" });
    let edit = Request::post(format!("/tasks/{id}/retry")).header("Content-Type", "application/json");
    let edited = app.send(edit.with(edits.to_string())).await;
    assert_eq!(edited.status, 202, "{edited:?}");
    let again = crate::support::soon(seen.recv()).await.unwrap();
    assert_eq!((again.uri(), &again.body()[..]), (first.uri(), &b"another"[..]));
    for (name, _) in headers_of_all_kinds() {
        assert_eq!(again.headers().get(&name), first.headers().get(&name), "{name}");
    }

    app.ended(id).await;
    let elsewhere = json!({ "headers": [["x-callback-url", "https://evil.example/?code=REDACTED"]] });
    let edit = Request::post(format!("/tasks/{id}/retry")).header("Content-Type", "application/json");
    let refused = app.send(edit.with(elsewhere.to_string())).await;
    assert_eq!(
        refused.status, 400,
        "a secret goes to the host that it was for: {refused:?}"
    );
}
