//! Which web pages may reach the task API through a user's browser, and which headers are trusted.

use axum::{Router, body::Body, response::IntoResponse, routing::post};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, header};
use serde_json::json;
use tower::{Layer, ServiceExt};
use tower_http::cors::CorsLayer;
use tower_respond_async::{
    Access, BearerToken, Console, MemoryStore, RespondAsync, RespondAsyncBuilder, RespondAsyncLayer, Scope, TaskApi,
    Tasks, allow_everyone,
};

use crate::support::{Answered, App, WithoutBody, fc, prefer, routes, soon};

/// An application with an API and a console. The console is made first.
fn app(configure: impl FnOnce(RespondAsyncBuilder) -> RespondAsyncBuilder, api: impl FnOnce(&Tasks) -> TaskApi) -> App {
    App::wrap(MemoryStore::new(), configure, |tasks| {
        let console = Console::new(tasks);
        routes()
            .nest_service("/console", console)
            .nest_service("/tasks", api(tasks))
    })
}

fn open(tasks: &Tasks) -> TaskApi {
    TaskApi::new(tasks, allow_everyone())
}

async fn at(app: &App, host: &str, path: &str) -> Answered {
    app.send(Request::get(path).header("Host", host).empty()).await
}

/// A page of evil.example whose name resolves to 127.0.0.1 (DNS rebinding): for the browser the API has the page's own
/// origin, and only `Host` shows the difference.
#[tokio::test]
async fn an_open_api_answers_no_page_whose_host_was_made_to_lead_to_it() {
    let app = app(|builder| builder, open);
    let id = app.accepted(fc("/echo").with("payload")).await;
    app.ended(id).await;
    for path in [
        "/tasks".to_owned(),
        format!("/tasks/{id}/request"),
        "/tasks/openapi.json".into(),
    ] {
        let answer = at(&app, "evil.example:3000", &path).await;
        assert_eq!(
            (answer.status, &answer.json()["code"]),
            (421, &json!("MisdirectedRequest")),
            "{path}"
        );
        let detail = answer.json()["detail"].as_str().unwrap().to_owned();
        assert!(
            detail.contains("\"evil.example:3000\"") && detail.contains(".hosts("),
            "{detail}"
        );
        assert_eq!(at(&app, "127.0.0.1:3000", &path).await.status, 200, "{path}");
    }
    let retry = Request::post(format!("/tasks/{id}/retry"))
        .header("Host", "evil.example:3000")
        .header("Origin", "http://evil.example:3000");
    assert_eq!(app.send(retry.empty()).await.status, 421);
    assert_eq!(app.record(id).await.generation, 1, "nothing was run again");
    for path in ["/console/", "/console/app.js", "/console/nothing"] {
        assert_eq!(at(&app, "evil.example", path).await.status, 421, "{path}");
    }
    assert_eq!(at(&app, "localhost:3000", "/console/").await.status, 200);
    assert_eq!(
        at(&app, "evil.example", "/echo").await.status,
        200,
        "the application itself answers as it always did"
    );
}

#[tokio::test]
async fn every_host_of_a_request_is_looked_at() {
    let app = app(|builder| builder, open);
    let twice = Request::get("/tasks")
        .header("Host", "localhost")
        .header("Host", "evil.example");
    assert_eq!(app.send(twice.empty()).await.status, 421);
    // As over HTTP/2, which has no `Host`.
    for (uri, status) in [
        ("http://evil.example/tasks", 421),
        ("http://localhost:3000/tasks", 200),
        ("/tasks", 200),
    ] {
        assert_eq!(app.get(uri).await.status, status, "{uri}");
    }
}

#[tokio::test]
async fn a_host_that_was_named_and_that_of_the_public_url_are_answered() {
    let app = app(
        |builder| {
            builder
                .hosts(["Tasks.Example.org"])
                .public_url("https://www.example.org:8443/app")
        },
        open,
    );
    for host in [
        "tasks.example.org",
        "tasks.example.org.:8080",
        "www.example.org",
        "WWW.example.org:443",
    ] {
        assert_eq!(at(&app, host, "/tasks").await.status, 200, "{host}");
        assert_eq!(at(&app, host, "/console/").await.status, 200, "{host}");
    }
    for host in ["example.org", "x.tasks.example.org", "app"] {
        let expected = if host == "app" { 200 } else { 421 };
        assert_eq!(at(&app, host, "/tasks").await.status, expected, "{host}");
    }
    let settings = at(&app, "localhost", "/tasks/settings").await.json();
    assert_eq!(
        settings["api"]["hosts"],
        json!(["tasks.example.org", "www.example.org"])
    );
}

#[tokio::test]
async fn what_is_no_host_is_not_taken_for_one() {
    for host in [
        "",
        "https://example.org",
        "example.org/",
        "example.org:80",
        "*.example.org",
        "a b",
    ] {
        let refused = RespondAsyncLayer::builder(MemoryStore::new()).hosts([host]).build();
        assert_eq!(refused.unwrap_err().setting(), "hosts", "{host}");
    }
    let good = [
        "example.org",
        "example.org.",
        "10.0.0.1",
        "[::1]",
        "under_score.example",
    ];
    assert!(
        RespondAsyncLayer::builder(MemoryStore::new())
            .hosts(good)
            .build()
            .is_ok()
    );
}

#[tokio::test]
async fn an_api_that_asks_for_a_credential_answers_at_every_host() {
    let app = app(|builder| builder, |tasks| TaskApi::new(tasks, BearerToken::new("t")));
    let asked = Request::get("/tasks").header("Host", "tasks.example.org");
    assert_eq!(
        app.send(asked.header("Authorization", "Bearer t").empty()).await.status,
        200
    );
    assert_eq!(at(&app, "tasks.example.org", "/tasks").await.status, 401);
    assert_eq!(at(&app, "tasks.example.org", "/console/").await.status, 200);
}

#[tokio::test]
async fn everyone_may_be_let_look_only_and_the_hosts_are_still_known_ones() {
    let app = app(
        |builder| builder,
        |tasks| TaskApi::new(tasks, allow_everyone().granting(Access::read_only(Scope::All))),
    );
    assert_eq!(at(&app, "localhost", "/tasks").await.status, 200);
    assert_eq!(at(&app, "evil.example", "/tasks").await.status, 421);
    assert_eq!(app.send(Request::post("/tasks/bulk/stop").empty()).await.status, 403);
}

const STATUS_PAGE: &str = "https://status.example.org";

/// As in the guide: CORS outside the layer that answers 202.
fn behind_cors() -> (tower_http::cors::Cors<RespondAsync<Router>>, Tasks) {
    let layer = RespondAsyncLayer::new(MemoryStore::new()).unwrap();
    let tasks = layer.tasks();
    let api = TaskApi::new(&tasks, BearerToken::new("t"))
        .allow_origin(STATUS_PAGE)
        .unwrap();
    let app = layer.layer(
        routes()
            .nest_service("/tasks", api)
            .nest_service("/console", Console::new(&tasks)),
    );
    let cors = CorsLayer::new()
        .allow_origin([HeaderValue::from_static(STATUS_PAGE)])
        .allow_methods([Method::GET, Method::POST, Method::PUT, Method::DELETE])
        .allow_headers([
            header::AUTHORIZATION,
            header::CONTENT_TYPE,
            HeaderName::from_static("prefer"),
        ])
        .expose_headers([header::LOCATION, HeaderName::from_static("x-fc-request-id")]);
    (cors.layer(app), tasks)
}

fn from_page(method: Method, uri: &str, origin: &str) -> http::request::Builder {
    Request::builder()
        .method(method)
        .uri(uri)
        .header("Host", "tasks.example.org")
        .header("Origin", origin)
        .header("Sec-Fetch-Site", "same-site")
        .header("Sec-Fetch-Mode", "cors")
        .header("Sec-Fetch-Dest", "empty")
}

#[tokio::test]
async fn a_page_of_an_origin_that_was_named_reads_and_stops_with_a_token() {
    let (app, tasks) = behind_cors();
    let send = async |request: Request<Body>| {
        let answer = soon(app.clone().oneshot(request)).await.unwrap();
        Answered::read(answer).await
    };
    let asked = prefer("/echo", "respond-async").header("X-Fc-Async-Delay", "3000");
    let accepted = send(asked.header("Origin", STATUS_PAGE).empty()).await;
    accepted.assert_accepted();
    assert_eq!(
        accepted.header("access-control-allow-origin"),
        STATUS_PAGE,
        "on the 202"
    );
    assert_eq!(
        accepted.header("access-control-expose-headers"),
        "location,x-fc-request-id"
    );
    let id = accepted.id();

    let stop = format!("/tasks/{id}/stop");
    let preflight = from_page(Method::OPTIONS, &stop, STATUS_PAGE)
        .header("Access-Control-Request-Method", "POST")
        .header("Access-Control-Request-Headers", "authorization");
    let preflight = send(preflight.empty()).await;
    assert_eq!(
        (preflight.status, preflight.header("access-control-allow-origin")),
        (200, STATUS_PAGE)
    );

    let token = |request: http::request::Builder| request.header("Authorization", "Bearer t").empty();
    let read = send(token(from_page(Method::GET, &format!("/tasks/{id}"), STATUS_PAGE))).await;
    assert_eq!(
        (read.status, read.header("access-control-allow-origin")),
        (200, STATUS_PAGE)
    );
    let settings = send(token(from_page(Method::GET, "/tasks/settings", STATUS_PAGE))).await;
    assert_eq!(
        settings.json()["api"],
        json!({ "hosts": null, "origins": [STATUS_PAGE] })
    );

    for origin in [
        "https://evil.example",
        "http://status.example.org",
        "https://status.example.org:8443",
        "null",
    ] {
        let refused = send(token(from_page(Method::POST, &stop, origin))).await;
        assert_eq!(refused.status, 403, "{origin}");
        assert_eq!(refused.header("access-control-allow-origin"), "", "{origin}");
    }
    let without = send(from_page(Method::POST, &stop, STATUS_PAGE).empty()).await;
    assert_eq!(without.status, 401, "the origin is no credential");

    // The console's own page still works.
    let own = from_page(Method::POST, "/tasks/bulk/stop", "https://tasks.example.org");
    let mut own = token(own.header("Content-Type", "application/json"));
    own.headers_mut()
        .insert("sec-fetch-site", HeaderValue::from_static("same-origin"));
    *own.body_mut() = Body::from(r#"{"ids":[]}"#);
    assert_eq!(send(own).await.status, 200);

    let stopped = send(token(from_page(Method::POST, &stop, STATUS_PAGE))).await;
    assert_eq!(
        (stopped.status, stopped.header("access-control-allow-origin")),
        (200, STATUS_PAGE)
    );
    drop(tasks);
}

#[tokio::test]
async fn what_no_browser_sends_as_an_origin_cannot_be_named() {
    let layer = RespondAsyncLayer::new(MemoryStore::new()).unwrap();
    for origin in [
        "*",
        "null",
        "status.example.org",
        "https://status.example.org/",
        "https://*.example.org",
    ] {
        let refused = open(&layer.tasks()).allow_origin(origin);
        assert_eq!(refused.unwrap_err().setting(), "allow_origin", "{origin}");
    }
}

/// Headers that change a browser's state, or make it load something, when a user opens the result.
const ACTS_ON_A_BROWSER: [(&str, &str); 22] = [
    ("set-cookie", "session=1"),
    ("alt-svc", "h3=\":443\""),
    ("accept-ch", "Sec-CH-UA-Model"),
    ("critical-ch", "Sec-CH-UA-Model"),
    ("refresh", "0; url=https://evil.example/"),
    ("service-worker-allowed", "/"),
    ("strict-transport-security", "max-age=9"),
    ("clear-site-data", "\"*\""),
    ("nel", "{}"),
    ("report-to", "{}"),
    ("reporting-endpoints", "x=\"https://evil.example/\""),
    ("link", "</a>; rel=preload"),
    ("speculation-rules", "\"/rules.json\""),
    ("sourcemap", "/a.map"),
    ("origin-agent-cluster", "?1"),
    ("access-control-allow-origin", "https://evil.example"),
    ("access-control-allow-credentials", "true"),
    ("cross-origin-resource-policy", "cross-origin"),
    ("www-authenticate", "Basic"),
    ("public-key-pins", "x"),
    (
        "content-security-policy-report-only",
        "default-src 'none'; report-uri https://evil.example/",
    ),
    ("x-of-tomorrow", "who knows"),
];

const ABOUT_THE_BODY: [(&str, &str); 7] = [
    ("content-type", "text/html"),
    ("content-language", "de"),
    ("content-disposition", "attachment"),
    ("content-security-policy", "default-src 'none'"),
    ("etag", "\"a\""),
    ("last-modified", "Thu, 01 Jan 1970 00:00:00 GMT"),
    ("location", "/elsewhere"),
];

async fn answers() -> Response<Body> {
    let mut response = "made".into_response();
    for (name, value) in ACTS_ON_A_BROWSER.into_iter().chain(ABOUT_THE_BODY) {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

#[tokio::test]
async fn a_browser_gets_of_a_result_what_is_about_its_body_and_a_program_gets_all() {
    let app = App::build(
        MemoryStore::new(),
        Router::new().route("/answers", post(answers)),
        |builder| builder,
    );
    let id = app.accepted(fc("/answers").empty()).await;
    app.ended(id).await;
    let result = || Request::get(format!("/tasks/{id}/result"));
    let program = app.send(result().empty()).await;
    for (name, value) in ACTS_ON_A_BROWSER.into_iter().chain(ABOUT_THE_BODY) {
        let first = program.headers.get(name).map(HeaderValue::as_bytes);
        assert_eq!(first, Some(value.as_bytes()), "{name} to a program");
    }
    for (name, value) in [
        ("Sec-Fetch-Dest", "document"),
        ("Sec-Fetch-Mode", "cors"),
        ("Sec-Fetch-Site", "same-origin"),
        ("Origin", "https://app.example"),
    ] {
        let browser = app.send(result().header(name, value).empty()).await;
        assert_eq!((browser.status, &browser.body[..]), (200, &b"made"[..]));
        for (acts, _) in ACTS_ON_A_BROWSER {
            assert!(
                !browser.headers.contains_key(acts),
                "{acts} to a browser known by {name}"
            );
        }
        for (about, value) in ABOUT_THE_BODY {
            assert_eq!(browser.headers[about], value, "{about} to a browser known by {name}");
        }
        assert_eq!(browser.header("x-respond-async-status"), "Succeeded");
        assert_eq!(browser.id(), id);
    }
}

/// Headers in a handler's response that only the layer may set.
const FORGED: [(&str, &str); 10] = [
    ("x-fc-request-id", "forged"),
    ("x-fc-async-task-id", "forged"),
    ("operation-location", "https://evil.example/"),
    ("x-progress", "0.9"),
    ("x-respond-async-status", "Forged"),
    ("x-respond-async-truncated", "forged"),
    ("x-respond-async-duplicate", "forged"),
    ("x-respond-async-task-id", "forged"),
    ("x-respond-async-attempt", "99"),
    ("x-respond-async-of-tomorrow", "forged"),
];

async fn forges() -> (HeaderMap, &'static str) {
    let forged = FORGED.map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)));
    let mut headers = HeaderMap::from_iter(forged);
    headers.append("x-fc-request-id", HeaderValue::from_static("forged again"));
    headers.insert("x-mine", HeaderValue::from_static("kept"));
    (headers, "made")
}

#[tokio::test]
async fn a_handler_is_not_believed_about_its_task() {
    let app = App::build(
        MemoryStore::new(),
        Router::new().route("/forges", post(forges)),
        |builder| builder,
    );
    let waited = app.send(prefer("/forges", "respond-async, wait=50").empty()).await;
    assert_eq!((waited.status, &waited.body[..]), (200, &b"made"[..]));
    let id = waited.id();
    let result = app.get(format!("/tasks/{id}/result")).await;
    for answer in [&waited, &result] {
        assert_eq!((answer.id(), answer.header("x-mine")), (id, "kept"));
        assert_eq!(answer.header("x-fc-async-task-id"), id.to_string());
        for (name, value) in FORGED {
            let values = answer.headers.get_all(name).iter();
            assert_eq!(values.filter(|given| *given == value).count(), 0, "{name}: {answer:?}");
        }
    }
    let sync = app.post("/forges").await;
    for (name, value) in FORGED {
        assert_eq!(
            sync.headers[name], value,
            "{name}: the synchronous path is the handler's own"
        );
    }
}
