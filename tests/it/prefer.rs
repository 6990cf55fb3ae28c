//! RFC 7240: `respond-async`, and `wait` beside it.

use std::time::Duration;

use axum::routing::any;
use http::Request;
use tower_respond_async::{Backoff, Dialect, MemoryStore};

use crate::support::{App, Gate, WithoutBody, fc, no_retries, prefer, routes, soon};

#[tokio::test]
async fn respond_async_gives_202_and_says_that_it_was_applied() {
    let app = App::new();
    for preferences in ["respond-async", "Respond-Async", "return=minimal, respond-async; x=y"] {
        let answer = app.send(prefer("/echo", preferences).with("hello")).await;
        answer.assert_accepted();
        assert_eq!(answer.header("preference-applied"), "respond-async");
        assert_eq!(answer.header("vary"), "Prefer");
        assert_eq!(app.response(answer.id()).await.body, "hello");
    }
    let two_lines = prefer("/echo", "return=minimal").header("Prefer", "respond-async");
    app.accepted(two_lines.empty()).await;
}

#[tokio::test]
async fn a_prefer_that_does_not_ask_is_answered_at_once_and_varies() {
    let app = App::new();
    for preferences in ["return=minimal", "wait=5", "respond_async", "x=\"respond-async\"", ""] {
        let answer = app.send(prefer("/echo", preferences).with("hello")).await;
        assert_eq!((answer.status, &answer.body[..]), (200, &b"hello"[..]), "{preferences}");
        assert_eq!(answer.header("vary"), "Prefer");
        assert_eq!(answer.header("preference-applied"), "");
        assert_eq!(answer.header("x-fc-request-id"), "");
    }
    assert_eq!(app.kept().await, 0);
    assert_eq!(app.post("/echo").await.header("vary"), "", "who sent none");
}

#[tokio::test]
async fn the_handler_s_own_vary_stays() {
    let vary = any(|| async { ([("vary", "accept")], "hello") });
    let app = App::build(MemoryStore::new(), routes().route("/vary", vary), |builder| builder);
    for preferences in ["return=minimal", "respond-async, wait=50"] {
        let answer = app.send(prefer("/vary", preferences).empty()).await;
        let vary = crate::support::values(&answer.headers, "vary");
        assert_eq!(vary, [b"accept", b"Prefer"], "{preferences}");
    }
}

#[tokio::test]
async fn a_task_that_ends_within_the_wait_gives_its_own_response() {
    let app = App::new();
    let answer = app.send(prefer("/status/418", "respond-async, wait=50").empty()).await;
    assert_eq!(answer.status, 418);
    assert_eq!(answer.body, "this is 418 I'm a teapot");
    assert_eq!(answer.header("x-from"), "the handler");
    assert_eq!(answer.header("preference-applied"), "respond-async, wait=50");
    assert_eq!(answer.header("vary"), "Prefer");
    assert_eq!(answer.header("x-fc-async-task-id"), answer.id().to_string());
    for absent in ["location", "operation-location", "retry-after"] {
        assert_eq!(answer.header(absent), "", "{absent}");
    }

    let binary: Vec<u8> = (0..=255).collect();
    let answer = app
        .send(prefer("/echo", "wait=50, respond-async").with(binary.clone()))
        .await;
    assert_eq!((answer.status, &answer.body[..]), (200, &binary[..]));
}

/// A cut body used to look like a whole one.
#[tokio::test]
async fn a_response_that_was_cut_says_so_within_the_wait_too() {
    let app = App::with(|builder| builder.result_limit(3));
    for (body, kept, mark) in [("whole", "who", "true"), ("who", "who", "")] {
        let answer = app.send(prefer("/echo", "respond-async, wait=50").with(body)).await;
        assert_eq!((answer.status, &answer.body[..]), (200, kept.as_bytes()));
        assert_eq!(answer.header("x-respond-async-truncated"), mark);
    }
}

#[tokio::test]
async fn a_status_that_is_no_final_answer_gives_202_with_the_end() {
    let hints = any(|| async { http::StatusCode::from_u16(103).unwrap() });
    let app = App::build(MemoryStore::new(), routes().route("/hints", hints), |builder| {
        builder.retry(no_retries())
    });
    let answer = app.send(prefer("/hints", "respond-async, wait=50").empty()).await;
    answer.assert_accepted();
    assert_ne!(answer.json()["endTime"], serde_json::Value::Null);
}

#[tokio::test]
async fn a_wait_of_0_is_answered_at_once() {
    let gate = Gate::new();
    let app = App::build(MemoryStore::new(), gate.among_routes(), |builder| builder);
    let answer = app.send(prefer("/gate", "respond-async, wait=0").empty()).await;
    answer.assert_accepted();
    assert_eq!(answer.header("preference-applied"), "respond-async, wait=0");
    gate.let_pass(1);
    app.ended(answer.id()).await;
}

#[tokio::test]
async fn a_task_that_does_not_end_within_the_wait_gives_202() {
    let gate = Gate::new();
    let app = App::build(MemoryStore::new(), gate.among_routes(), |builder| builder);
    let answer = app.send(prefer("/gate", "respond-async, wait=1").empty()).await;
    answer.assert_accepted();
    assert_eq!(
        answer.json()["status"],
        "Running",
        "the document is of the end of the wait"
    );
    assert_eq!(answer.header("location"), format!("/tasks/{}/result", answer.id()));
    assert_eq!(answer.header("preference-applied"), "respond-async, wait=1");
    gate.let_pass(1);
    assert_eq!(app.response(answer.id()).await.body, "passed");
}

#[tokio::test]
async fn a_long_wait_is_capped_and_the_answer_says_at_what() {
    let app = App::with(|builder| builder.wait_cap(Duration::from_secs(40)));
    for asked in ["41", "3600", "99999999999999999999"] {
        let request = prefer("/echo", &format!("respond-async, wait={asked}")).empty();
        let answer = app.send(request).await;
        assert_eq!(answer.status, 200);
        assert_eq!(answer.header("preference-applied"), "respond-async, wait=40");
    }

    let gate = Gate::new();
    let app = App::build(MemoryStore::new(), gate.among_routes(), |builder| {
        builder.wait_cap(Duration::ZERO)
    });
    let answer = app.send(prefer("/gate", "respond-async, wait=3600").empty()).await;
    answer.assert_accepted();
    assert_eq!(answer.header("preference-applied"), "respond-async, wait=0");
    gate.let_pass(1);
}

#[tokio::test]
async fn a_task_that_ends_without_a_response_gives_202_and_how_it_ended() {
    let app = App::with(|builder| builder.retry(no_retries()));
    let answer = app.send(prefer("/panic", "respond-async, wait=50").empty()).await;
    answer.assert_accepted();
    assert_eq!(answer.json()["status"], "Failed");
    assert_eq!(answer.header("preference-applied"), "respond-async, wait=50");
    assert_eq!(app.get(answer.header("location")).await.status, 410);
}

#[tokio::test]
async fn a_wait_spans_retries() {
    let app = App::with(|builder| builder.retry(Backoff::new().max_retries(1).base(Duration::from_millis(1))));
    let answer = app.send(prefer("/status/503", "respond-async, wait=50").empty()).await;
    assert_eq!(answer.status, 503);
    assert_eq!(answer.header("x-from"), "the handler");
    assert_eq!(app.record(answer.id()).await.attempt, 2);
}

#[tokio::test]
async fn a_wait_ends_when_the_engine_is_closed() {
    let gate = Gate::new();
    let app = App::build(MemoryStore::new(), gate.among_routes(), |builder| builder);
    let waiting = tokio::spawn({
        let (app, request) = (app.clone(), prefer("/gate", "respond-async, wait=3600").empty());
        async move { app.send(request).await }
    });
    gate.arrived().await;
    app.tasks.close();
    let answer = soon(waiting).await.unwrap();
    answer.assert_accepted();
    gate.let_pass(1);
    assert_eq!(soon(app.tasks.shutdown(Duration::from_secs(3600))).await.finished, 1);
}

#[tokio::test]
async fn more_waiters_than_allowed_are_answered_without_waiting() {
    let gate = Gate::new();
    let app = App::build(MemoryStore::new(), gate.among_routes(), |builder| {
        builder.max_waiters(0)
    });
    let answer = app.send(prefer("/gate", "respond-async, wait=3600").empty()).await;
    answer.assert_accepted();
    gate.let_pass(1);
}

#[tokio::test]
async fn both_dialects_on_one_request_are_both_obeyed() {
    let app = App::new();
    let both = || prefer("/echo", "respond-async, wait=50").header("X-Fc-Invocation-Type", "Async");
    let answer = app
        .send(both().header("X-Fc-Async-Task-Id", "mine").with("hello"))
        .await;
    assert_eq!((answer.status, &answer.body[..]), (200, &b"hello"[..]));
    assert_eq!(answer.header("x-fc-async-task-id"), "mine");
    assert_eq!(answer.header("preference-applied"), "respond-async, wait=50");

    let wait_alone = fc("/echo").header("Prefer", "wait=50").with("hello");
    let answer = app.send(wait_alone).await;
    answer.assert_accepted();
    assert_eq!(
        answer.header("preference-applied"),
        "",
        "wait counts with respond-async"
    );
    assert_eq!(answer.header("vary"), "Prefer");

    let wrong = prefer("/echo", "respond-async")
        .header("X-Fc-Invocation-Type", "Later")
        .unread();
    app.send(wrong).await.assert_refused(400, "InvalidArgument", None);
}

#[tokio::test]
async fn the_first_dialect_that_is_addressed_decides() {
    let app = App::with(|builder| builder.dialects([Dialect::Prefer, Dialect::Fc]));
    let wrong = prefer("/echo", "respond-async")
        .header("X-Fc-Invocation-Type", "Later")
        .empty();
    app.send(wrong).await.assert_accepted();
}

#[tokio::test]
async fn a_dialect_that_is_off_is_not_understood() {
    let app = App::with(|builder| builder.dialects([Dialect::Prefer]));
    assert_eq!(app.send(fc("/echo").empty()).await.status, 200);
    app.accepted(prefer("/echo", "respond-async").empty()).await;
    let app = App::with(|builder| builder.dialects([Dialect::Fc]));
    let answer = app.send(prefer("/echo", "respond-async").empty()).await;
    assert_eq!(answer.status, 200);
    app.accepted(fc("/echo").empty()).await;
}

#[tokio::test]
async fn a_head_that_waits_gives_no_body() {
    let app = App::new();
    let address = app.serve().await;
    let request =
        "HEAD /hello/you HTTP/1.1\r\nHost: here\r\nConnection: close\r\nPrefer: respond-async, wait=50\r\n\r\n";
    let answer = crate::support::talk(address, request.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert!(answer.ends_with("\r\n\r\n"), "{answer}");
    let request = Request::get("/tasks").empty();
    assert_eq!(app.send(request).await.json()["tasks"][0]["status"], "Succeeded");
}
