//! An application on the embedded store, ended and started again.

use std::time::Duration;

use axum::{Router, body::Body, routing::post};
use bytes::Bytes;
use http::{HeaderMap, HeaderName};
use tempfile::tempdir;
use tower_respond_async::TaskState;
use tower_respond_async_redb::RedbStore;

use crate::support::{App, Gate, fc, soon};

/// Answers with the request, so that a replay can be compared byte for byte.
async fn echo(headers: HeaderMap, body: Bytes) -> (HeaderMap, Bytes) {
    let sent = headers.get_all("x-sent").into_iter();
    (
        sent.map(|value| (HeaderName::from_static("x-sent"), value.clone()))
            .collect(),
        body,
    )
}

fn routes(gate: &Gate) -> Router {
    Router::new().route("/echo", post(echo)).route("/gate", gate.route())
}

/// A deploy: one running task is handed back, one waits behind it. The next process runs both, with their original
/// requests.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tasks_accepted_before_a_shutdown_run_after_reopening() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("tasks.redb");
    let (running, waiting, ended);
    {
        let gate = Gate::new();
        let store = RedbStore::open(&path).await.unwrap();
        let app = App::build(store, routes(&gate), |builder| {
            builder.concurrency(1).stop_grace(Duration::from_millis(10))
        });
        ended = app.accepted(fc("/echo").body(Body::from("first")).unwrap()).await;
        app.until(ended, TaskState::Succeeded).await;
        running = app.accepted(fc("/gate").body(Body::empty()).unwrap()).await;
        soon(gate.arrived()).await;
        let body: Vec<u8> = (0..=255).cycle().take(5_000).collect();
        let request = fc("/echo").header("x-sent", &b"\xff\x80raw"[..]);
        waiting = app.accepted(request.body(Body::from(body)).unwrap()).await;
        soon(app.tasks.shutdown(Duration::ZERO)).await;
    }

    let gate = Gate::new();
    gate.let_pass(10);
    let store = RedbStore::open(&path).await.unwrap();
    let app = App::build(store, routes(&gate), |builder| builder);
    let record = app.until(running, TaskState::Succeeded).await;
    assert_eq!((record.attempt, record.crashes), (1, 0), "it was handed back uncharged");
    app.until(waiting, TaskState::Succeeded).await;
    let answer = app.response(waiting).await;
    assert_eq!(answer.body, (0..=255).cycle().take(5_000).collect::<Vec<u8>>());
    assert_eq!(answer.headers["x-sent"].as_bytes(), b"\xff\x80raw");
    assert_eq!(app.response(ended).await.body, "first");
    soon(app.tasks.shutdown(Duration::ZERO)).await;
}
