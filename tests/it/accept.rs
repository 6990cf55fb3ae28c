//! What is taken in, and what is refused: the 202 and every refusal, exactly.

use std::{
    collections::BTreeMap,
    sync::{Arc, OnceLock},
    time::Duration,
};

use axum::{
    body::Body,
    routing::{any, post},
};
use bytes::Bytes;
use http::{Method, Request, request::Parts};
use http_body_util::{StreamBody, channel::Channel};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::mpsc,
    time::advance,
};
use tokio_test::{assert_pending, assert_ready};
use tower::{Layer, Service};
use tower_respond_async::{
    Completion, MemoryStore, RespondAsync, RespondAsyncLayer, Scope, TaskContext, TaskState, Tenant,
    task::Labels,
    testing::{FaultStore, Operation},
};

use crate::support::{
    Answered, App, Gate, WithoutBody, and_header, by_hand, fc, other_runtime, prefer, read_to_end, recorder, routes,
    soon, talk,
};

#[tokio::test]
async fn a_202_says_where_the_task_is_and_what_it_is() {
    let app = App::new();
    let answer = app
        .send(fc("/echo?a=b").header("X-Fc-Async-Delay", "3599").with("hello"))
        .await;
    assert_eq!(answer.status, 202);
    let id = answer.id().to_string();
    for (name, value) in [
        ("x-fc-async-task-id", id.clone()),
        ("location", format!("/tasks/{id}/result")),
        ("content-location", format!("/tasks/{id}")),
        ("operation-location", format!("/tasks/{id}/operation")),
        ("retry-after", "1".into()),
        ("content-type", "application/json".into()),
    ] {
        assert_eq!(answer.header(name), value, "{name}");
    }
    assert_eq!(
        answer.header_names(),
        [
            "content-location",
            "content-type",
            "location",
            "operation-location",
            "retry-after",
            "x-fc-async-task-id",
            "x-fc-request-id",
        ]
    );
    let document = answer.json();
    let created = document["createdTime"].as_u64().unwrap();
    assert_eq!(
        document,
        json!({
            "taskId": id,
            "requestId": id,
            "functionName": "echo",
            "status": "Enqueued",
            "method": "POST",
            "uri": "/echo?a=b",
            "startedTime": null,
            "endTime": null,
            "durationMs": null,
            "createdTime": created,
            "runAtTime": created + 3_599_000,
            "alreadyRetriedTimes": 0,
            "attempt": 0,
            "maxAttempts": 4,
            "instanceId": null,
            "qualifier": "LATEST",
            "taskErrorMessage": null,
            "destinationStatus": document["destinationStatus"],
            "events": [{ "eventId": 1, "status": "Enqueued", "timestamp": created, "eventDetail": document["events"][0]["eventDetail"] }],
            "labels": {},
            "generation": 1,
            "links": {
                "self": format!("/tasks/{id}"),
                "result": format!("/tasks/{id}/result"),
                "operation": format!("/tasks/{id}/operation"),
                "request": format!("/tasks/{id}/request"),
                "stop": format!("/tasks/{id}/stop"),
            },
        })
    );
    assert_eq!(app.get(answer.header("content-location")).await.json(), document);
}

#[tokio::test]
async fn a_client_s_own_task_id_is_the_one_to_ask_by() {
    let app = App::with(|builder| builder.public_url("https://example.org/app"));
    let request = fc("/echo").header("X-Fc-Async-Task-Id", "job_7").with("hello");
    let answer = app.send(request).await;
    assert_eq!(answer.status, 202);
    assert_eq!(answer.header("x-fc-async-task-id"), "job_7");
    assert_ne!(answer.header("x-fc-request-id"), "job_7");
    assert_eq!(answer.header("location"), "/app/tasks/job_7/result");
    assert_eq!(
        answer.header("operation-location"),
        "https://example.org/app/tasks/job_7/operation"
    );
    assert_eq!(answer.json()["taskId"], "job_7");
    app.until(answer.id(), TaskState::Succeeded).await;
    assert_eq!(app.get("/tasks/job_7/result").await.body, "hello");
}

#[tokio::test]
async fn without_a_task_api_nothing_points_at_one() {
    let app = App::wrap(MemoryStore::new(), |builder| builder, |_| routes());
    let answer = app.send(fc("/echo").empty()).await;
    assert_eq!(answer.status, 202);
    assert_eq!(
        answer.header_names(),
        ["content-type", "retry-after", "x-fc-async-task-id", "x-fc-request-id"]
    );
    assert!(answer.json().get("links").is_none(), "{answer:?}");
}

#[tokio::test]
async fn what_the_application_says_of_a_request_is_in_its_document() {
    let app = App::with(|builder| {
        builder
            .function_name(|head: &Parts| Some(format!("f{}", head.uri.path().len())))
            .labels(|head: &Parts| Labels::from_iter([("method", head.method.as_str())]))
            .tenant(|_: &Parts| Some(Tenant::new("acme")))
    });
    let document = app.send(fc("/echo").empty()).await.json();
    assert_eq!(document["functionName"], "f5");
    assert_eq!(document["labels"], json!({ "method": "POST" }));
    assert_eq!(document["tenant"], "acme");
}

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
async fn a_refusal_to_who_sent_a_prefer_varies_by_it() {
    let app = App::new();
    let request = prefer("/echo", "respond-async").header("Idempotency-Key", "\"open");
    let answer = app.send(request.unread()).await;
    answer.assert_refused(400, "InvalidArgument", None);
    assert_eq!(answer.header("vary"), "prefer");
}

/// S13: before `Expect: 100-continue` is answered too, since nothing has been read.
#[tokio::test]
async fn a_length_over_the_limit_is_refused_before_the_body_is_read() {
    let app = App::with(|builder| builder.body_limit(10));
    let answer = app.send(fc("/echo").header("Content-Length", "11").unread()).await;
    answer.assert_refused(413, "EntityTooLarge", None);
    let answer = app.send(fc("/echo").with(vec![b'x'; 11])).await;
    answer.assert_refused(413, "EntityTooLarge", None);
    assert_eq!(app.kept().await, 0);
    app.accepted(fc("/echo").with(vec![b'x'; 10])).await;
}

#[tokio::test]
async fn the_default_limit_is_2_mib() {
    let app = App::new();
    let limit = 2 * 1024 * 1024;
    let answer = app.send(fc("/echo").with(vec![0; limit + 1])).await;
    answer.assert_refused(413, "EntityTooLarge", None);
    app.accepted(fc("/status/204").with(vec![0; limit])).await;
}

/// S10: no length was promised, so the bytes are counted, and what comes after the limit is not asked for.
#[tokio::test]
async fn a_body_is_refused_at_the_first_byte_over_the_limit() {
    let app = App::with(|builder| builder.body_limit(10));
    let frames = |count: usize| {
        let given = Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let seen = given.clone();
        let frames = (0..count).map(move |_| {
            given.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            Ok::<_, std::io::Error>(http_body::Frame::data(Bytes::from_static(b"four")))
        });
        (Body::new(StreamBody::new(futures_util::stream::iter(frames))), seen)
    };
    let (body, given) = frames(1_000_000);
    let answer = app.send(fc("/echo").with(body)).await;
    answer.assert_refused(413, "EntityTooLarge", None);
    assert_eq!(given.load(std::sync::atomic::Ordering::SeqCst), 3);
    assert_eq!((app.kept().await, app.buffered().await), (0, 0));

    let (body, _) = frames(2);
    let id = app.accepted(fc("/echo").with(body)).await;
    assert_eq!(app.response(id).await.body, "fourfour");
}

/// S10
#[tokio::test]
async fn a_connection_whose_body_was_too_long_is_closed() {
    let app = App::with(|builder| builder.body_limit(10));
    let address = app.serve().await;
    // No chunk of length 0: the client goes on and on.
    let request = "POST /echo HTTP/1.1\r\nHost: here\r\nX-Fc-Invocation-Type: Async\r\nTransfer-Encoding: chunked\r\n\r\n\
                   b\r\nhello world\r\n";
    let answer = talk(address, request.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    assert_eq!(app.kept().await, 0);
}

/// S13
#[tokio::test]
async fn a_client_that_expects_100_is_refused_without_it() {
    let app = App::with(|builder| builder.body_limit(10));
    let address = app.serve().await;
    let head = "POST /echo HTTP/1.1\r\nHost: here\r\nX-Fc-Invocation-Type: Async\r\nConnection: close\r\n\
                Expect: 100-continue\r\n";
    let answer = talk(address, format!("{head}Content-Length: 11\r\n\r\n").as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");

    let mut connection = TcpStream::connect(address).await.unwrap();
    let accepted = format!("{head}Content-Length: 5\r\n\r\n");
    connection.write_all(accepted.as_bytes()).await.unwrap();
    let mut told = [0; 25];
    soon(connection.read_exact(&mut told)).await.unwrap();
    assert_eq!(&told, b"HTTP/1.1 100 Continue\r\n\r\n");
    connection.write_all(b"hello").await.unwrap();
    let answer = read_to_end(&mut connection).await;
    assert!(answer.starts_with("HTTP/1.1 202 "), "{answer}");
}

#[tokio::test]
async fn a_body_that_breaks_off_is_refused_and_nothing_is_stored() {
    let app = App::new();
    let frames = [
        Ok(http_body::Frame::data(Bytes::from_static(b"half"))),
        Err(std::io::Error::other("the wire was cut")),
    ];
    let body = Body::new(StreamBody::new(futures_util::stream::iter(frames)));
    let answer = app.send(fc("/echo").with(body)).await;
    answer.assert_refused(400, "InvalidArgument", None);
    assert_eq!((app.kept().await, app.buffered().await), (0, 0));
}

/// S11
#[tokio::test(start_paused = true)]
async fn a_body_that_stalls_is_refused_after_its_idle_time() {
    let app = App::with(|builder| builder.runtime(other_runtime()));
    let (mut sender, body) = Channel::<Bytes>::new(1);
    sender.send_data(Bytes::from_static(b"begun")).await.unwrap();
    let mut answer = by_hand(&app, fc("/echo").with(Body::new(body)));
    assert_pending!(answer.poll());
    assert_eq!(app.buffered().await, 5);
    advance(Duration::from_millis(9_990)).await;
    assert_pending!(answer.poll());
    advance(Duration::from_millis(20)).await;
    let response = assert_ready!(answer.poll());
    Answered::read(response)
        .await
        .assert_refused(408, "RequestTimeout", None);
    assert_eq!((app.kept().await, app.buffered().await), (0, 0));
    drop(sender);
}

/// S11: one byte at a time is no way to keep a body open for ever.
#[tokio::test(start_paused = true)]
async fn a_body_that_trickles_is_refused_after_its_whole_time() {
    let app = App::with(|builder| builder.runtime(other_runtime()));
    let (mut sender, body) = Channel::<Bytes>::new(1);
    let mut answer = by_hand(&app, fc("/echo").with(Body::new(body)));
    for _ in 0..6 {
        sender.send_data(Bytes::from_static(b"x")).await.unwrap();
        assert_pending!(answer.poll());
        advance(Duration::from_millis(9_900)).await;
    }
    assert_pending!(answer.poll());
    sender.send_data(Bytes::from_static(b"x")).await.unwrap();
    assert_pending!(answer.poll());
    advance(Duration::from_millis(700)).await;
    let response = assert_ready!(answer.poll());
    Answered::read(response)
        .await
        .assert_refused(408, "RequestTimeout", None);
    assert_eq!((app.kept().await, app.buffered().await), (0, 0));
}

/// S11: bodies that are being read share one budget.
#[tokio::test]
async fn when_the_budget_for_bodies_is_used_up_more_are_refused() {
    let app = App::with(|builder| builder.body_limit(8).buffer_limit(8));
    let (mut sender, body) = Channel::<Bytes>::new(1);
    sender.send_data(Bytes::from_static(b"12345678")).await.unwrap();
    let mut held = by_hand(&app, fc("/echo").with(Body::new(body)));
    assert_pending!(held.poll());
    assert_eq!(app.buffered().await, 8);

    let answer = app.send(fc("/echo").header("Content-Length", "1").unread()).await;
    answer.assert_refused(503, "BufferFull", Some("1"));
    let (mut unannounced, body) = Channel::<Bytes>::new(1);
    unannounced.send_data(Bytes::from_static(b"x")).await.unwrap();
    drop(unannounced);
    let answer = app.send(fc("/echo").with(Body::new(body))).await;
    answer.assert_refused(503, "BufferFull", Some("1"));
    app.accepted(fc("/echo").empty()).await;

    drop(sender);
    let answer = Answered::read(soon(held).await).await;
    assert_eq!((answer.status, app.buffered().await), (202, 0));
    app.accepted(fc("/echo").with("x")).await;
}

/// S7
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

/// S7
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
async fn once_closed_only_who_does_not_ask_is_served() {
    let app = App::new();
    app.tasks.close();
    let answer = app.send(fc("/echo").unread()).await;
    answer.assert_refused(503, "ShuttingDown", Some("5"));
    assert_eq!(app.post("/echo").await.status, 200);
}

/// S4
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

/// S5: the insert took place, and its answer was lost.
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

/// S5: the client is told after the store's time, and the insert goes on.
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

/// S16
#[tokio::test]
async fn a_chain_of_async_requests_is_cut_off_at_eight() {
    let (handler, mut requests) = recorder();
    let app = App::build(MemoryStore::new(), routes().route("/record", handler), |builder| {
        builder
    });
    for deeper in ["8", "9", "255", "99999999999999999999"] {
        let answer = app
            .send(fc("/echo").header("X-Respond-Async-Depth", deeper).unread())
            .await;
        answer.assert_refused(508, "LoopDetected", None);
    }
    app.accepted(fc("/record").header("X-Respond-Async-Depth", "7").empty())
        .await;
    let seen = soon(requests.recv()).await.unwrap();
    assert_eq!(seen.headers()["x-respond-async-depth"], "8");
}

type Slot = Arc<OnceLock<RespondAsync<axum::Router>>>;

async fn send_to(app: &Slot, request: Request<Body>) -> u16 {
    let mut app = app.get().unwrap().clone();
    app.call(request).await.unwrap().status().as_u16()
}

/// S16: a handler that posts to its own route, asynchronously, whenever it runs.
#[tokio::test]
async fn a_task_that_submits_itself_ends() {
    let slot = Slot::default();
    let (told, mut answers) = mpsc::unbounded_channel();
    let app = slot.clone();
    let again = post(async move |task: TaskContext| {
        let mut request = fc("/again").empty();
        task.propagate(request.headers_mut());
        told.send(send_to(&app, request).await).unwrap();
    });
    let app = App::build(MemoryStore::new(), routes().route("/again", again), |builder| builder);
    slot.set(app.service.clone()).unwrap();
    app.accepted(fc("/again").empty()).await;
    let mut seen = Vec::new();
    while seen.last() != Some(&508) {
        seen.push(soon(answers.recv()).await.unwrap());
    }
    assert_eq!(seen, [202, 202, 202, 202, 202, 202, 202, 508]);
    app.tasks.shutdown(Duration::ZERO).await;
}

/// S61
#[tokio::test]
async fn a_hook_that_submits_what_it_heard_of_ends() {
    let slot = Slot::default();
    let (told, mut answers) = mpsc::unbounded_channel();
    let hooked = slot.clone();
    let app = App::with(|builder| {
        builder.on_completion(move |completion: Completion| {
            let (hooked, told) = (hooked.clone(), told.clone());
            async move {
                let depth = completion.request().unwrap().depth.to_string();
                let request = fc("/echo").header("X-Respond-Async-Depth", depth).empty();
                told.send(send_to(&hooked, request).await).unwrap();
            }
        })
    });
    slot.set(app.service.clone()).unwrap();
    app.accepted(fc("/echo").empty()).await;
    let mut seen = Vec::new();
    while seen.last() != Some(&508) {
        seen.push(soon(answers.recv()).await.unwrap());
    }
    assert_eq!(seen, [202, 202, 202, 202, 202, 202, 202, 508]);
    app.tasks.shutdown(Duration::ZERO).await;
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

/// S14
#[tokio::test]
async fn what_changes_the_connection_is_never_deferred() {
    let app = App::build(
        MemoryStore::new(),
        routes().fallback(any(|| async { "answered now" })),
        |builder| builder,
    );
    let connect = fc("example.org:443").method(Method::CONNECT).empty();
    let upgrade = fc("/ws")
        .header("Connection", "upgrade")
        .header("Upgrade", "websocket")
        .empty();
    for request in [connect, upgrade] {
        let answer = app.send(request).await;
        assert_eq!((answer.status, answer.header("x-fc-request-id")), (200, ""));
    }
    let upgrade = prefer("/ws", "respond-async").header("Upgrade", "websocket").empty();
    let answer = app.send(upgrade).await;
    assert_eq!((answer.status, answer.header("preference-applied")), (200, ""));
    assert_eq!(answer.header("vary"), "prefer");
    assert_eq!(app.kept().await, 0);
    // Curl offers this on ordinary requests.
    app.accepted(fc("/echo").header("Upgrade", "h2c").empty()).await;
}

#[tokio::test]
async fn only_what_may_be_deferred_is() {
    let app = App::with(|builder| {
        builder
            .when(|head: &Parts| head.method == Method::POST)
            .never_async("/hello")
    });
    for request in [
        fc("/hello/you").empty(),
        fc("/echo").method(Method::PUT).empty(),
        // Wrong, and not for us to say.
        fc("/echo")
            .method(Method::PUT)
            .header("X-Fc-Async-Delay", "soon")
            .empty(),
    ] {
        let answer = app.send(request).await;
        assert_eq!((answer.status, answer.header("x-fc-request-id")), (200, ""));
    }
    assert_eq!(app.kept().await, 0);
    app.accepted(fc("/echo").empty()).await;
    // Beside the path, not below it.
    app.accepted(fc("/helloworld").empty()).await;
    app.accepted(fc("/tasksome").empty()).await;
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

/// S8
#[tokio::test]
async fn a_client_that_leaves_amid_its_body_leaves_nothing() {
    let app = App::new();
    let (mut sender, body) = Channel::<Bytes>::new(1);
    sender.send_data(Bytes::from_static(b"half of ")).await.unwrap();
    let mut answer = by_hand(&app, fc("/echo").with(Body::new(body)));
    assert_pending!(answer.poll());
    assert_eq!(app.buffered().await, 8);
    drop(answer);
    assert_eq!((app.kept().await, app.buffered().await), (0, 0));
    assert!(sender.send_data(Bytes::new()).await.is_err(), "the body is still held");
}

/// S8, over a connection.
#[tokio::test]
async fn a_connection_that_breaks_amid_its_body_leaves_nothing() {
    let app = App::new();
    let address = app.serve().await;
    let mut connection = TcpStream::connect(address).await.unwrap();
    let request = "POST /echo HTTP/1.1\r\nHost: here\r\nX-Fc-Invocation-Type: Async\r\nContent-Length: 8\r\n\r\nhalf";
    connection.write_all(request.as_bytes()).await.unwrap();
    app.until_buffered(4).await;
    drop(connection);
    app.until_buffered(0).await;
    assert_eq!(app.kept().await, 0);
}

/// S9
#[tokio::test]
async fn a_client_that_leaves_during_the_commit_has_its_task_run() {
    let store = FaultStore::new(MemoryStore::new());
    let faults = store.faults();
    let app = App::build(store, routes(), |builder| builder);
    let slow = faults.delay_next(Operation::Insert);
    let request = fc("/echo").header("X-Fc-Async-Task-Id", "left").with("whole body");
    let mut answer = by_hand(&app, request);
    assert_pending!(answer.poll());
    soon(slow.arrived()).await;
    drop(answer);
    assert_eq!(app.kept().await, 0);
    assert_eq!(app.buffered().await, 10, "the commit holds the body still");

    slow.release();
    let again = fc("/echo").header("X-Fc-Async-Task-Id", "left").with("whole body");
    app.until_kept(1).await;
    let answer = app.send(again).await;
    assert!(answer.is_duplicate());
    assert_eq!(app.response(answer.id()).await.body, "whole body");
    assert_eq!((app.kept().await, app.buffered().await), (1, 0));
}

/// S9: the store refuses after the client has left.
#[tokio::test]
async fn a_commit_that_is_refused_after_the_client_left_leaves_nothing() {
    let store = FaultStore::new(MemoryStore::builder().max_tasks(0).build());
    let faults = store.faults();
    let app = App::build(store, routes(), |builder| builder);
    let slow = faults.delay_next(Operation::Insert);
    let mut answer = by_hand(&app, fc("/echo").with("whole body"));
    assert_pending!(answer.poll());
    soon(slow.arrived()).await;
    drop(answer);
    slow.release();
    app.until_buffered(0).await;
    let stats = app.tasks.stats(&Scope::All).await.unwrap();
    assert_eq!((app.kept().await, stats.slots.unwrap().used), (0, 0));
    app.send(fc("/echo").empty())
        .await
        .assert_refused(503, "StorageFull", Some("5"));
}

#[tokio::test]
async fn a_document_and_its_task_agree() {
    let app = App::new();
    let answer = app
        .send(fc("/whoami").header("X-Fc-Async-Task-Id", "mine").empty())
        .await;
    let id = answer.id();
    let seen: Value = app.response(id).await.json();
    assert_eq!(
        seen,
        json!({ "isTask": true, "taskId": "mine", "requestId": id.to_string(), "attempt": 1 })
    );
}

#[tokio::test]
async fn labels_keep_their_order_in_documents() {
    let labels = BTreeMap::from([("b", "2"), ("a", "1")]);
    let app = App::with(|builder| builder.labels(move |_: &Parts| labels.clone().into_iter().collect()));
    let document = app.send(fc("/echo").empty()).await;
    let text = String::from_utf8(document.body.to_vec()).unwrap();
    assert!(text.contains(r#""labels":{"a":"1","b":"2"}"#), "{text}");
}
