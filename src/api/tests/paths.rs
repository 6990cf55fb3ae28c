//! Paths and methods, and where the service is mounted.

use super::*;

#[tokio::test]
async fn head_is_get_without_the_body() {
    let world = World::new();
    let id = world.ended(1, response(b"four", &[])).await;
    for path in [
        format!("/{id}/result"),
        format!("/{id}"),
        "/".into(),
        "/nowhere/at/all".into(),
    ] {
        let full = get(&world.open(), &path).await;
        let head = send(&world.open(), request("HEAD", &path)).await;
        assert_eq!(head.status, full.status, "{path}");
        assert_eq!(head.header("content-length"), full.body.len().to_string(), "{path}");
        assert_eq!(head.header("content-type"), full.header("content-type"), "{path}");
        assert!(head.body.is_empty(), "{path}");
    }
}

#[tokio::test]
async fn hostile_paths_are_answered_404_as_problems() {
    let world = World::new();
    for path in [
        "/..",
        "/../../etc/passwd",
        "/%2e%2e%2fetc",
        "/a%2Fresult",
        "/%00",
        "/%ff%fe",
        "/%",
        "/a/result/../../b",
        "//",
        "/a//result",
        "/<script>",
        "/bulk",
        "/openapi.yaml",
    ] {
        let Ok(path) = Uri::try_from(path) else { continue };
        let answer = get(&world.open(), path.to_string()).await;
        assert_eq!(answer.status, 404, "{path}");
        answer.code();
    }
    let long = format!("/{}", "a".repeat(10_000));
    let answer = get(&world.open(), long).await;
    assert_eq!(answer.status, 404);
    assert!(answer.body.len() < 2048);
}

#[tokio::test]
async fn wrong_methods_get_405_with_allow() {
    let world = World::new();
    let answer = send(&world.open(), request("PATCH", "/a")).await;
    assert_eq!((answer.status, answer.code().as_str()), (405, "MethodNotAllowed"));
    assert_eq!(answer.header("allow"), "GET, HEAD, DELETE, OPTIONS");
    let answer = send(&world.open(), request("OPTIONS", "/a/stop")).await;
    assert_eq!((answer.status, answer.header("allow")), (204, "POST, PUT, OPTIONS"));
}

#[tokio::test]
async fn the_base_is_taken_off_where_nothing_did_before() {
    let world = World::new();
    let id = world.insert(1, |_| {}).await;
    let api = world.open().strip_prefix("/tasks/");
    for path in ["/tasks".into(), "/tasks/".into(), format!("/tasks/{id}")] {
        assert_eq!(get(&api, &path).await.status, 200, "{path}");
    }
    for path in ["/".into(), "/tasksx".into(), format!("/{id}")] {
        assert_eq!(get(&api, &path).await.code(), "NotFound", "{path}");
    }
}

#[tokio::test]
async fn it_nests_in_a_router() {
    let world = World::new();
    let id = world.insert(1, |_| {}).await;
    let app = axum::Router::<()>::new().nest_service("/tasks", world.open());
    for (path, status) in [
        ("/tasks".into(), 200),
        ("/tasks/".into(), 200),
        ("/tasks/stats".into(), 200),
        (format!("/tasks/{id}"), 200),
        ("/tasks/missing".into(), 404),
    ] {
        let request = Request::get(path.as_str()).body(axum::body::Body::empty()).unwrap();
        let response = app.clone().oneshot(request).await.unwrap();
        assert_eq!(response.status(), status, "{path}");
    }
}

#[tokio::test]
async fn when_the_engine_is_gone_the_api_says_so() {
    let world = World::new();
    let api = world.open();
    drop(world.tasks);
    let answer = get(&api, "/").await;
    assert_eq!((answer.status, answer.code().as_str()), (503, "ShuttingDown"));
    assert_eq!(answer.header("retry-after"), "5");
}

#[tokio::test]
async fn a_closed_store_is_unavailable() {
    let world = World::new();
    world.tasks.shutdown(Duration::ZERO).await;
    let answer = get(&world.open(), "/").await;
    assert_eq!((answer.status, answer.code().as_str()), (503, "StoreUnavailable"));
}

#[test]
fn the_api_can_be_shared_between_threads() {
    fn shared<T: Send + Sync + Clone + 'static>() {}
    shared::<TaskApi>();
    fn authorizer<T: Authorizer>() {}
    authorizer::<BearerToken>();
}
