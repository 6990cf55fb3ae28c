//! What the server sends, without a browser.

use axum::{Router, body::Body};
use bytes::Bytes;
use http::{Method, Request, header::IF_NONE_MATCH};
use http_body_util::{BodyExt, Empty};
use tower::ServiceExt;
use tower_respond_async::{Console, MemoryStore, RespondAsyncLayer};

use crate::support::{Answered, App, soon};

fn app() -> App {
    App::wrap(
        MemoryStore::new(),
        |builder| builder,
        |tasks| Router::new().nest_service("/console", Console::new(tasks)),
    )
}

async fn send(app: &App, method: Method, path: &str) -> Answered {
    let request = Request::builder().method(method).uri(path).body(Body::empty()).unwrap();
    app.send(request).await
}

#[tokio::test]
async fn every_answer_carries_the_policy() {
    let app = app();
    let policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; \
                  form-action 'self'; base-uri 'none'; frame-ancestors 'none'";
    for (method, path, status) in [
        (Method::GET, "/console/", 200),
        (Method::GET, "/console/app.js", 200),
        (Method::HEAD, "/console/base.css", 200),
        (Method::GET, "/console", 308),
        (Method::GET, "/console/nothing", 404),
        (Method::POST, "/console/", 405),
        (Method::OPTIONS, "/console/", 204),
    ] {
        let answer = send(&app, method.clone(), path).await;
        assert_eq!(answer.status, status, "{method} {path}");
        assert_eq!(answer.header("content-security-policy"), policy, "{method} {path}");
        assert_eq!(answer.header("x-content-type-options"), "nosniff");
        assert_eq!(answer.header("referrer-policy"), "no-referrer");
        assert_eq!(answer.header("cross-origin-opener-policy"), "same-origin");
    }
}

#[tokio::test]
async fn the_page_knows_its_way_to_the_api_and_the_application() {
    let page = app().get("/console/").await;
    assert_eq!(page.header("content-type"), "text/html; charset=utf-8");
    let text = std::str::from_utf8(&page.body).unwrap();
    assert!(text.contains("<meta name=\"api\" content=\"../tasks\">"), "{text}");
    assert!(text.contains("<meta name=\"root\" content=\"../\">"), "{text}");
    assert!(!text.contains("{{"), "{text}");

    let deeper = App::wrap(
        MemoryStore::new(),
        |builder| builder.api_base("/v1/tasks"),
        |tasks| {
            let console = Console::new(tasks).mounted_at("/ops/console");
            Router::new().nest_service("/ops/console", console)
        },
    );
    let page = deeper.get("/ops/console/").await;
    let text = std::str::from_utf8(&page.body).unwrap();
    assert!(
        text.contains("<meta name=\"api\" content=\"../../v1/tasks\">"),
        "{text}"
    );
}

#[tokio::test]
async fn an_address_without_its_slash_leads_to_the_one_with_it() {
    let answer = app().get("/console").await;
    assert_eq!((answer.status, answer.header("location")), (308, "./console/"));

    let outer = Router::new().nest_service("/front", app().service);
    let request = Request::get("/front/console").body(Body::empty()).unwrap();
    let answer = Answered::read(soon(outer.oneshot(request)).await.unwrap()).await;
    assert_eq!((answer.status, answer.header("location")), (308, "./console/"));
}

#[tokio::test]
async fn a_cached_file_is_answered_not_modified() {
    let app = app();
    for path in ["/console/", "/console/app.js"] {
        let first = app.get(path).await;
        assert_eq!(first.header("cache-control"), "no-cache");
        let again = Request::get(path).header(IF_NONE_MATCH, first.header("etag"));
        let again = app.send(again.body(Body::empty()).unwrap()).await;
        assert_eq!((again.status, again.body.len()), (304, 0), "{path}");
        assert_eq!(again.header("etag"), first.header("etag"));
        let other = Request::get(path).header(IF_NONE_MATCH, "\"other\"");
        assert_eq!(app.send(other.body(Body::empty()).unwrap()).await.status, 200, "{path}");
    }
}

#[tokio::test]
async fn a_head_is_answered_as_a_get_without_the_body() {
    let app = app();
    for path in ["/console/", "/console/json.js"] {
        let (get, head) = (app.get(path).await, send(&app, Method::HEAD, path).await);
        assert_eq!((head.status, head.body.len()), (200, 0));
        assert_eq!(head.header("content-length"), get.body.len().to_string());
        assert_eq!(head.header_names(), get.header_names());
    }
}

#[tokio::test]
async fn nothing_but_the_page_s_files_is_served() {
    let app = app();
    for path in [
        "/console/../console/app.js",
        "/console/..%2f..%2fCargo.toml",
        "/console/%2e%2e/%2e%2e/Cargo.toml",
        "/console/./app.js",
        "/console/app.js/",
        "/console/%61pp.js",
        "/console/assets/app.js",
        "/console/index.html",
        "/console/mod.rs",
        "/console/app.js%00.css",
    ] {
        assert_eq!(app.get(path).await.status, 404, "{path}");
    }
    for method in [Method::POST, Method::PUT, Method::DELETE, Method::PATCH] {
        let answer = send(&app, method, "/console/app.js").await;
        assert_eq!((answer.status, answer.header("allow")), (405, "GET, HEAD, OPTIONS"));
    }
}

#[tokio::test]
async fn the_console_stands_without_a_router() {
    let layer = RespondAsyncLayer::builder(MemoryStore::new()).build().unwrap();
    let console = Console::new(&layer.tasks())
        .strip_prefix("/ops/console")
        .api("/internal/\"tasks\"");
    let get = async |path: &str| {
        let request = Request::get(path).body(Empty::<Bytes>::new()).unwrap();
        let response = console.clone().oneshot(request).await.unwrap();
        let (head, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        (
            head.status.as_u16(),
            head.headers,
            String::from_utf8(body.to_vec()).unwrap(),
        )
    };
    let (status, _, page) = get("/ops/console/").await;
    assert_eq!(status, 200);
    assert!(page.contains("content=\"/internal/&quot;tasks&quot;\""), "{page}");
    assert!(page.contains("<meta name=\"root\" content=\"../../\">"), "{page}");
    let (status, headers, _) = get("/ops/console?x").await;
    assert_eq!((status, headers["location"].to_str().unwrap()), (308, "./console/"));
    assert_eq!(get("/console/").await.0, 404);
    assert_eq!(get("/ops/consoles/").await.0, 404);
}
