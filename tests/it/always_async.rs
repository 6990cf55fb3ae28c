//! Requests that run later because the operator decides so, and not the client: an outer layer sets the header.

use axum::{Router, body::Body, routing::any};
use http::{HeaderMap, HeaderValue, Method, Request};
use tower::{ServiceExt, util::MapRequestLayer};
use tower_respond_async::MemoryStore;

use crate::support::{Answered, App, WithoutBody, prefer, routes, soon};

const TYPE: &str = "x-fc-invocation-type";

/// Sends the request through the outer layer.
async fn send(app: &App, front: impl FnOnce(&mut Request<Body>), mut request: Request<Body>) -> Answered {
    front(&mut request);
    Answered::read(soon(app.service.clone().oneshot(request)).await.unwrap()).await
}

fn is_long(request: &Request<Body>) -> bool {
    request.method() == Method::POST && request.uri().path() == "/echo"
}

/// Async, whatever the client asked for.
fn always(request: &mut Request<Body>) {
    if is_long(request) {
        request.headers_mut().insert(TYPE, HeaderValue::from_static("Async"));
    }
}

/// Async, unless the client asked for something else.
fn by_default(request: &mut Request<Body>) {
    if is_long(request) {
        let headers = request.headers_mut();
        headers.entry(TYPE).or_insert(HeaderValue::from_static("Async"));
    }
}

#[tokio::test]
async fn a_request_that_does_not_ask_is_run_later_where_the_operator_says_so_and_nowhere_else() {
    let app = App::new();
    let answer = send(&app, always, Request::post("/echo").with("hello")).await;
    answer.assert_accepted();
    assert_eq!(app.response(answer.id()).await.body, "hello");
    for other in [Request::get("/echo"), Request::post("/hello/you")] {
        assert_eq!(send(&app, always, other.empty()).await.status, 200);
    }
    assert_eq!(app.kept().await, 1);
}

#[tokio::test]
async fn the_operator_s_word_is_the_last_or_the_first_as_the_header_is_set() {
    let app = App::new();
    let sync = || {
        Request::post("/echo")
            .header("X-Fc-Invocation-Type", "Sync")
            .with("hello")
    };
    send(&app, always, sync()).await.assert_accepted();
    let answer = send(&app, by_default, sync()).await;
    assert_eq!((answer.status, &answer.body[..]), (200, &b"hello"[..]));
    send(&app, by_default, Request::post("/echo").with("hello"))
        .await
        .assert_accepted();
}

/// What else the client asks for still applies: how long to wait, the name, the key.
#[tokio::test]
async fn a_preference_that_is_added_leaves_the_client_s_own() {
    let app = App::new();
    let front = |request: &mut Request<Body>| {
        let asks = HeaderValue::from_static("respond-async");
        request.headers_mut().append("prefer", asks);
    };
    let answer = send(&app, front, prefer("/echo", "wait=60").with("hello")).await;
    assert_eq!((answer.status, &answer.body[..]), (200, &b"hello"[..]));
    assert_eq!(answer.header("preference-applied"), "respond-async, wait=60");
    assert_eq!(app.kept().await, 1);
}

#[tokio::test]
async fn polls_are_answered_though_every_request_has_the_header() {
    let app = App::new();
    let front = |request: &mut Request<Body>| {
        request.headers_mut().insert(TYPE, HeaderValue::from_static("Async"));
    };
    let accepted = send(&app, front, Request::post("/echo").with("hello")).await;
    accepted.assert_accepted();
    app.ended(accepted.id()).await;
    let document = send(&app, front, Request::get(format!("/tasks/{}", accepted.id())).empty()).await;
    assert_eq!(
        (document.status, &document.json()["status"]),
        (200, &"Succeeded".into())
    );
    let result = send(&app, front, Request::get(accepted.header("location")).empty()).await;
    assert_eq!((result.status, &result.body[..]), (200, &b"hello"[..]));
    let again = format!("/tasks/{}/retry", accepted.id());
    assert_eq!(send(&app, front, Request::post(again).empty()).await.status, 202);
    assert_eq!(app.kept().await, 1, "nothing but the first was deferred");
}

/// A replay does not have the header, or it would ask for async again. Set inside the layer, it comes after the
/// decision.
#[tokio::test]
async fn the_header_is_set_outside_since_inside_it_says_nothing() {
    let heard = any(|headers: HeaderMap| async move { headers.contains_key(TYPE).to_string() });
    let app = App::build(MemoryStore::new(), Router::new().route("/echo", heard), |builder| {
        builder
    });
    let accepted = send(&app, always, Request::post("/echo").empty()).await;
    assert_eq!(app.response(accepted.id()).await.body, "false");

    let inside = MapRequestLayer::new(|mut request: Request<Body>| {
        always(&mut request);
        request
    });
    let app = App::build(MemoryStore::new(), routes().layer(inside), |builder| builder);
    assert_eq!(send(&app, |_| (), Request::post("/echo").empty()).await.status, 200);
    assert_eq!(app.kept().await, 0);
}
