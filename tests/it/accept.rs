//! Accepting requests: the exact 202, and which requests get one.

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
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tower::Service;
use tower_respond_async::{
    Completion, MemoryStore, RespondAsync, RespondAsyncBuilder, Submission, SubmitError, TaskContext, TaskState,
    Tenant, task::Labels,
};

use crate::support::{App, WithoutBody, fc, prefer, recorder, routes, soon};

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
        ("content-location", format!("/tasks/{id}/result")),
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
            "x-respond-async-status",
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
            "taskPayloadSize": 5,
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
                "logs": format!("/tasks/{id}/logs"),
                "events": format!("/tasks/{id}/events"),
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
    assert_eq!(answer.header("location"), "https://example.org/app/tasks/job_7/result");
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
        [
            "content-type",
            "retry-after",
            "x-fc-async-task-id",
            "x-fc-request-id",
            "x-respond-async-status",
        ]
    );
    assert!(answer.json().get("links").is_none(), "{answer:?}");
}

#[tokio::test]
async fn a_front_is_believed_about_the_origin_only_where_it_is_trusted() {
    let at = async |app: &App| {
        let request = fc("/echo")
            .header("X-Forwarded-Proto", "https")
            .header("X-Forwarded-Host", "example.org");
        let answer = app.send(request.empty()).await;
        let id = answer.id().to_string();
        let operation = answer.header("operation-location").replace(&id, "{id}");
        let result = answer.header("location").replace(&id, "{id}");
        assert_eq!(operation.replace("/operation", "/result"), result, "one base for both");
        operation
    };
    assert_eq!(at(&App::new()).await, "/tasks/{id}/operation");
    let trusting = App::with(RespondAsyncBuilder::trust_forwarding_headers);
    assert_eq!(at(&trusting).await, "https://example.org/tasks/{id}/operation");
    let public = App::with(|builder| builder.trust_forwarding_headers().public_url("http://public.org"));
    assert_eq!(at(&public).await, "http://public.org/tasks/{id}/operation");
    let without_api = App::wrap(
        MemoryStore::new(),
        RespondAsyncBuilder::trust_forwarding_headers,
        |_| routes(),
    );
    assert_eq!(at(&without_api).await, "");
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

/// A handler that posts asynchronously to its own route whenever it runs.
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

#[tokio::test]
async fn a_hook_that_submits_a_task_for_each_end_terminates() {
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
    assert_eq!(answer.header("vary"), "Prefer");
    assert_eq!(app.kept().await, 0);
    // curl offers this on ordinary requests.
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
        // The delay is invalid, but these requests are not the layer's to refuse.
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
    // These paths begin alike, but are not below the excluded ones.
    app.accepted(fc("/helloworld").empty()).await;
    app.accepted(fc("/tasksome").empty()).await;
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
async fn what_a_record_has_no_room_for_is_refused_or_shown_in_part() {
    let app = App::with(|builder| {
        builder
            .labels(|head: &Parts| {
                let said = head
                    .headers
                    .get("x-label")
                    .map(|value| value.to_str().unwrap().to_owned());
                said.map(|said| ("a", said)).into_iter().collect()
            })
            .tenant(|head: &Parts| {
                let said = head.headers.get("x-tenant")?;
                Some(Tenant::new(said.to_str().unwrap()))
            })
            .function_name(|_: &Parts| Some("f".repeat(1000)))
    });
    let with = |name: &str, length: usize| fc("/echo").header(name, "v".repeat(length));
    for (name, longest, what) in [
        ("x-label", 1021, "1025 bytes of labels"),
        ("x-tenant", 255, "256 bytes of tenant"),
    ] {
        app.accepted(with(name, longest).empty()).await;
        let answer = app.send(with(name, longest + 1).unread()).await;
        answer.assert_refused(400, "InvalidArgument", None);
        let detail = answer.json()["detail"].as_str().unwrap().to_owned();
        assert!(detail.contains(what), "{detail}");
    }

    let mut submission = Submission::new(Request::get("/echo").body(Bytes::new()).unwrap());
    submission.labels = Labels::from_iter([("a", "v".repeat(1022))]);
    let SubmitError::TooLong(refused) = app.tasks.submit(submission).await.unwrap_err() else {
        panic!("it is refused for its labels");
    };
    assert_eq!((refused.what, refused.bytes, refused.longest), ("labels", 1025, 1024));

    let uri = format!("/echo?{}", "q".repeat(3000));
    let document = app.send(fc(&uri).empty()).await.json();
    assert_eq!(document["uri"], uri[..1024]);
    assert_eq!(document["uriTruncated"], true);
    assert_eq!(document["functionName"], "f".repeat(128));
    let id = document["requestId"].as_str().unwrap();
    let request = app.send(Request::get(format!("/tasks/{id}/request")).empty()).await;
    assert_eq!(request.json()["uri"], uri);
}

#[tokio::test]
async fn labels_keep_their_order_in_documents() {
    let labels = BTreeMap::from([("b", "2"), ("a", "1")]);
    let app = App::with(|builder| builder.labels(move |_: &Parts| labels.clone().into_iter().collect()));
    let document = app.send(fc("/echo").empty()).await;
    let text = String::from_utf8(document.body.to_vec()).unwrap();
    assert!(text.contains(r#""labels":{"a":"1","b":"2"}"#), "{text}");
}
