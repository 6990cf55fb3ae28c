//! Refusals: the exact answers, and where possible before the body is read.

use std::time::Duration;

use http::request::Parts;
use tower::Layer;
use tower_respond_async::{MemoryStore, RespondAsyncLayer, TaskState, Tenant, store::Operation, testing::FaultStore};

use crate::support::{App, Gate, WithoutBody, and_header, fc, prefer, recorder, routes, soon};

#[tokio::test]
async fn what_is_wrong_with_the_head_is_refused_before_the_body_is_read() {
    let app = App::new();
    let cases: [(&'static str, &[u8]); 15] = [
        ("x-fc-invocation-type", b"Later"),
        ("x-fc-invocation-type", b""),
        ("x-fc-invocation-type", b"\xff"),
        ("x-fc-async-task-id", b""),
        ("x-fc-async-task-id", b"1st"),
        ("x-fc-async-task-id", b"a b"),
        ("x-fc-async-task-id", b"stats"),
        ("x-fc-async-task-id", b"events"),
        ("x-fc-async-task-id", b"bulk"),
        ("x-fc-async-delay", b"0"),
        ("x-fc-async-delay", b"3600"),
        ("x-fc-async-delay", b"soon"),
        ("idempotency-key", b""),
        ("idempotency-key", b"\"open"),
        ("idempotency-key", b"\xff"),
    ];
    for (name, value) in cases {
        let answer = app.send(and_header(fc("/echo").unread(), name, value)).await;
        answer.assert_refused(400, "InvalidArgument", None);
    }
    let long = [b'a'; 129];
    let answer = app
        .send(and_header(fc("/echo").unread(), "x-fc-async-task-id", &long))
        .await;
    answer.assert_refused(400, "InvalidArgument", None);
    let both = fc("/echo")
        .header("X-Fc-Async-Task-Id", "one")
        .header("X-Fc-Stateful-Async-Invocation-Id", "two");
    app.send(both.unread())
        .await
        .assert_refused(400, "InvalidArgument", None);
    assert_eq!(app.kept().await, 0);
}

#[tokio::test]
async fn a_refusal_of_a_request_with_prefer_varies_by_it() {
    let app = App::new();
    let request = prefer("/echo", "respond-async").header("Idempotency-Key", "\"open");
    let answer = app.send(request.unread()).await;
    answer.assert_refused(400, "InvalidArgument", None);
    assert_eq!(answer.header("vary"), "Prefer");
}

#[tokio::test]
async fn a_full_queue_is_said_before_the_body_is_read() {
    let gate = Gate::new();
    let app = App::build(MemoryStore::new(), gate.among_routes(), |builder| {
        builder.concurrency(1).queue_depth(1)
    });
    app.accepted(fc("/gate").empty()).await;
    gate.arrived().await;
    let waiting = app.accepted(fc("/gate").empty()).await;
    app.send(fc("/echo").unread())
        .await
        .assert_refused(503, "QueueFull", Some("1"));
    assert_eq!(app.kept().await, 2);
    assert_eq!(app.post("/echo").await.status, 200, "who does not ask is served still");

    gate.let_pass(2);
    app.ended(waiting).await;
    app.accepted(fc("/echo").empty()).await;
}

#[tokio::test]
async fn a_tenant_s_full_queue_is_that_tenant_s_alone() {
    let gate = Gate::new();
    let tenant = |head: &Parts| Some(Tenant::new(head.headers.get("x-tenant")?.to_str().ok()?));
    let app = App::build(MemoryStore::new(), gate.among_routes(), |builder| {
        builder.concurrency(1).tenant_queue_depth(1).tenant(tenant)
    });
    app.accepted(fc("/gate").empty()).await;
    gate.arrived().await;
    app.accepted(fc("/echo").header("X-Tenant", "a").empty()).await;
    let answer = app.send(fc("/echo").header("X-Tenant", "a").unread()).await;
    answer.assert_refused(429, "TenantQueueFull", Some("1"));
    app.accepted(fc("/echo").header("X-Tenant", "b").empty()).await;
    app.accepted(fc("/echo").empty()).await;
    gate.let_pass(1);
}

#[tokio::test]
async fn a_store_with_room_for_no_more_is_full() {
    let gate = Gate::new();
    let store = MemoryStore::builder().max_tasks(1).build();
    let app = App::build(store, gate.among_routes(), |builder| builder);
    let id = app.accepted(fc("/gate").empty()).await;
    let answer = app.send(fc("/echo").empty()).await;
    answer.assert_refused(503, "StorageFull", Some("5"));
    gate.let_pass(1);
    app.ended(id).await;
    app.accepted(fc("/echo").empty()).await;
}

#[tokio::test]
async fn once_closed_only_synchronous_requests_are_served() {
    let app = App::new();
    app.tasks.close();
    let answer = app.send(fc("/echo").unread()).await;
    answer.assert_refused(503, "ShuttingDown", Some("5"));
    assert_eq!(app.post("/echo").await.status, 200);
}

#[tokio::test]
async fn a_store_that_is_down_gives_503_and_never_202() {
    let store = FaultStore::new(MemoryStore::new());
    let faults = store.faults();
    let app = App::build(store, routes(), |builder| builder);
    faults.fail_next(Operation::Insert, 2);
    for _ in 0..2 {
        let answer = app.send(fc("/echo").with("hello")).await;
        answer.assert_refused(503, "StoreUnavailable", Some("5"));
    }
    assert_eq!((app.kept().await, app.buffered().await), (0, 0));
    let id = app.accepted(fc("/echo").with("hello")).await;
    assert_eq!(app.response(id).await.body, "hello");
}

/// The insert took effect, and its answer was lost.
#[tokio::test]
async fn an_insert_of_unknown_outcome_may_be_sent_again_and_runs_once() {
    for (name, value) in [("Idempotency-Key", "k"), ("X-Fc-Async-Task-Id", "t")] {
        let (handler, mut requests) = recorder();
        let store = FaultStore::new(MemoryStore::new());
        let faults = store.faults();
        let app = App::build(store, routes().route("/record", handler), |builder| builder);
        faults.lose_replies(Operation::Insert, 1);
        let request = || fc("/record").header(name, value).with("hello");
        let refused = app.send(request()).await;
        refused.assert_refused(503, "StoreUnavailable", Some("5"));

        let again = app.send(request()).await;
        again.assert_accepted();
        assert!(again.is_duplicate());
        assert_eq!(again.id(), refused.id(), "the problem named the task");
        app.until(again.id(), TaskState::Succeeded).await;
        assert_eq!(app.kept().await, 1);
        assert_eq!(soon(requests.recv()).await.unwrap().body(), "hello");
        assert!(requests.try_recv().is_err(), "it ran twice");
    }
}

/// The client gets an answer after the store's time limit, and the insert goes on.
#[tokio::test]
async fn a_store_that_is_slow_gives_503_and_the_task_runs_once_all_the_same() {
    let (handler, mut requests) = recorder();
    let store = FaultStore::new(MemoryStore::new());
    let faults = store.faults();
    let app = App::build(store, routes().route("/record", handler), |builder| {
        builder.store_timeout(Duration::from_millis(20))
    });
    let slow = faults.delay_next(Operation::Insert);
    let request = || fc("/record").header("Idempotency-Key", "k").with("hello");
    let refused = app.send(request()).await;
    refused.assert_refused(503, "StoreUnavailable", Some("5"));
    assert_eq!(app.buffered().await, 5, "its body is still held");
    slow.release();
    assert_eq!(soon(requests.recv()).await.unwrap().body(), "hello");
    app.until(refused.id(), TaskState::Succeeded).await;
    assert_eq!(app.buffered().await, 0);

    let again = app.send(request()).await;
    again.assert_accepted();
    assert!(again.is_duplicate());
    assert_eq!(again.id(), refused.id());
    assert!(requests.try_recv().is_err(), "it ran twice");
}

#[tokio::test]
async fn fc_strict_answers_as_the_cloud_does() {
    let app = App::with(|builder| builder.fc_strict().body_limit(10));
    let answer = app.send(fc("/echo").with("hello")).await;
    assert_eq!(answer.status, 202);
    assert_eq!(answer.body, "");
    assert_eq!(answer.header("content-type"), "");
    let id = answer.id();
    assert_eq!(answer.header("location"), format!("/tasks/{id}/result"));
    let answer = app.send(fc("/echo").header("Content-Length", "11").unread()).await;
    answer.assert_refused(400, "EntityTooLarge", None);
}

#[tokio::test]
async fn an_extension_that_cannot_be_encoded_refuses_its_request() {
    #[derive(Clone)]
    struct Claims;
    let layer = RespondAsyncLayer::builder(MemoryStore::new())
        .carry_with("claims", |_: &Claims| Err("not today".into()), |_| Ok(Claims))
        .build()
        .unwrap();
    let tasks = layer.tasks();
    let app = App {
        service: layer.layer(routes()),
        tasks,
    };
    let mut request = fc("/echo").unread();
    request.extensions_mut().insert(Claims);
    app.send(request).await.assert_refused(400, "InvalidArgument", None);
    app.accepted(fc("/echo").empty()).await;
}
