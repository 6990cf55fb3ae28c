//! The example, and the tasks of committed and rolled back transactions.

#![expect(
    clippy::unwrap_used,
    reason = "a test that meets an error it does not expect should fail"
)]

#[expect(dead_code, reason = "it is a program of its own")]
#[path = "../../examples/orders.rs"]
mod orders;

use std::time::Duration;

use axum::{
    Router,
    body::{Body, to_bytes},
    http::{Request, StatusCode},
    routing::post,
};
use bytes::Bytes;
use servers::{Postgres, a_name};
use sqlx::{Connection as _, PgConnection};
use tower::{Layer as _, Service as _};
use tower_respond_async::{
    RespondAsyncLayer, Submission, SubmitError, Submitted,
    task::{IdempotencyKey, TaskState},
};
use tower_respond_async_postgres::PostgresStore;
use tower_respond_async_postgres_sqlx::Sqlx;

/// A new database for one test.
async fn database() -> String {
    let (server, name) = (Postgres::shared_and_durable(), a_name());
    let mut admin = PgConnection::connect(&server.url_over_tcp()).await.unwrap();
    let create = sqlx::AssertSqlSafe(format!("CREATE DATABASE {name}"));
    sqlx::query(create).execute(&mut admin).await.unwrap();
    let url = server.url_over_tcp();
    format!("{}/{name}", url.rsplit_once('/').unwrap().0)
}

#[tokio::test]
async fn the_example_sends_the_mail_of_every_order_that_is_stored_and_of_no_other() {
    let url = database().await;
    let mut app = orders::app(&url).await.unwrap();
    let mut ask = async |request: Request<Body>| {
        let answer = app.call(request).await.unwrap();
        let status = answer.status();
        let body = to_bytes(answer.into_body(), usize::MAX).await.unwrap();
        (status, String::from_utf8(body.into()).unwrap())
    };
    let order = |customer| Request::post("/orders").body(Body::from(customer)).unwrap();
    assert_eq!(ask(order("anna")).await.0, StatusCode::CREATED);
    assert_eq!(ask(order("nobody")).await.0, StatusCode::PAYMENT_REQUIRED);
    assert_eq!(ask(order("bert")).await.0, StatusCode::CREATED);
    loop {
        let list = Request::get("/tasks?status=Succeeded").body(Body::empty()).unwrap();
        let (_, ended) = ask(list).await;
        if ended.contains("/orders/1/mail") && ended.contains("/orders/3/mail") {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let (_, all) = ask(Request::get("/tasks").body(Body::empty()).unwrap()).await;
    assert!(!all.contains("/orders/2/mail"), "{all}");
}

#[tokio::test]
async fn a_key_of_a_transaction_is_known_when_it_is_committed_and_new_when_it_is_rolled_back() {
    let url = database().await;
    let store = PostgresStore::connect(&url).await.unwrap();
    let layer = RespondAsyncLayer::new(store.clone()).unwrap();
    let tasks = layer.tasks();
    let _app = layer.layer(Router::new().route("/", post(async || "done")));
    let keyed = || {
        let mut submission = Submission::new(Request::post("/").body(Bytes::new()).unwrap());
        submission.key = Some(IdempotencyKey::new("k").unwrap());
        submission
    };
    let mut connection = PgConnection::connect(&url).await.unwrap();
    for commits in [false, true] {
        let mut transaction = connection.begin().await.unwrap();
        let mut within = Sqlx(&mut transaction);
        let first = tasks.submit_in(&mut store.within(&mut within), keyed()).await.unwrap();
        let Submitted::New(first) = first else {
            panic!("{first:?}");
        };
        // The transaction itself sees its task.
        let mut within = Sqlx(&mut transaction);
        let again = tasks.submit_in(&mut store.within(&mut within), keyed()).await.unwrap();
        assert!(matches!(again, Submitted::Known { id, same_request: true, .. } if id == first.id));
        if commits {
            transaction.commit().await.unwrap();
            let ended = tasks.wait(first.id, Duration::from_secs(60)).await.unwrap();
            assert_eq!(ended.unwrap().state, TaskState::Succeeded);
            let known = tasks.submit(keyed()).await.unwrap();
            assert!(matches!(known, Submitted::Known { id, .. } if id == first.id));
        } else {
            transaction.rollback().await.unwrap();
            assert!(tasks.find(first.id).await.unwrap().is_none());
        }
    }
}

#[tokio::test]
async fn an_error_of_the_driver_is_passed_on() {
    let url = database().await;
    let store = PostgresStore::connect(&url).await.unwrap();
    let tasks = RespondAsyncLayer::new(store.clone()).unwrap().tasks();
    let mut connection = PgConnection::connect(&url).await.unwrap();
    let mut transaction = connection.begin().await.unwrap();
    sqlx::query("SELECT 1 / 0")
        .execute(&mut *transaction)
        .await
        .unwrap_err();
    let submission = Submission::new(Request::post("/").body(Bytes::new()).unwrap());
    let mut within = Sqlx(&mut transaction);
    let failed = tasks.submit_in(&mut store.within(&mut within), submission).await;
    let Err(SubmitError::Store(error)) = failed else {
        panic!("{failed:?}");
    };
    let said = std::error::Error::source(&error).unwrap().to_string();
    assert!(said.contains("current transaction is aborted"), "{said}");
}
