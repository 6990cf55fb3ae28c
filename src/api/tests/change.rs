//! Stopping, re-running and deleting.

use super::*;
use crate::task::{Conditions, Destination, Subscription, Subscriptions};

#[tokio::test]
async fn stop_says_what_really_happened() {
    let world = World::new();
    let api = world.open();
    let (queued, path) = (world.insert(1, |_| {}).await, |id| format!("/{id}/stop"));
    let answer = post(&api, path(queued)).await;
    assert_eq!((answer.status, &answer.json()["status"]), (200, &json!("Stopped")));
    let answer = post(&api, path(queued)).await;
    assert_eq!((answer.status, answer.code().as_str()), (409, "WrongTaskState"));
    assert_eq!(answer.header("x-respond-async-status"), "Stopped");

    let running = world.insert(2, |_| {}).await;
    world.claim().await;
    let answer = send(&api, request("PUT", &path(running))).await;
    assert_eq!((answer.status, &answer.json()["status"]), (202, &json!("Stopping")));
}

#[tokio::test]
async fn an_ended_task_runs_again_as_it_was_or_edited() {
    let world = World::new();
    let api = world.as_one(Access::full(Scope::All).as_user("ann"));
    let id = world.insert(1, |_| {}).await;
    let path = format!("/{id}/retry");
    assert_eq!(post(&api, &path).await.code(), "WrongTaskState");
    let response = Arc::new(response(b"one", &[]));
    let lease = world.claim().await;
    world.settle(lease, Outcome::Succeeded { response }).await;

    let answer = post(&api, &path).await;
    assert_eq!(answer.status, 202);
    assert_eq!(
        (&answer.json()["status"], &answer.json()["generation"]),
        (&json!("Enqueued"), &json!(2))
    );
    assert_eq!(answer.header("location"), format!("/tasks/{id}/result"));
    post(&api, format!("/{id}/stop")).await;

    let edit = |body: &'static str| {
        let mut edit = request("POST", &path);
        *edit.body_mut() = Full::from(body);
        edit.headers_mut().insert(
            "content-type",
            HeaderValue::from_static("application/json; charset=utf-8"),
        );
        edit
    };
    assert_eq!(send(&api, edit("{\"uri\":\"http://evil/\"}")).await.status, 400);
    assert_eq!(send(&api, edit("{\"uri\":\"/tasks/x/stop\"}")).await.status, 400);
    let body = "{\"uri\":\"/other?token=REDACTED\",\"headers\":[[\"authorization\",\"REDACTED\"]],\"body\":\"new\"}";
    assert_eq!(
        send(
            &world.as_one(Access::full(Scope::All).without(Permission::Invoke)),
            edit(body)
        )
        .await
        .status,
        403
    );
    assert_eq!(send(&api, edit(body)).await.status, 202);
    let request = world.ledger().request(&Scope::All, id).await.unwrap().unwrap();
    assert_eq!(request.uri, "/other?token=t");
    assert_eq!(request.headers["authorization"], "Bearer user");
    assert_eq!((request.headers.len(), &request.body[..]), (1, &b"new"[..]));

    assert_eq!(
        *world.audit.0.lock().unwrap(),
        ["retry by ann", "stop by ann", "retry with edits by ann"]
    );
}

/// Each run adds one completion, and no process delivers them.
#[tokio::test]
async fn a_task_is_not_run_again_while_too_many_completions_are_pending() {
    let world = World::new();
    let api = world.open();
    let id = world
        .insert(1, |task| {
            task.subscriptions = Subscriptions::from([Subscription {
                destination: Destination::LOCAL,
                on: Conditions::ALL,
            }]);
        })
        .await;
    let end = async || assert_eq!(post(&api, format!("/{id}/stop")).await.status, 200);
    let callbacks = async || get(&api, format!("/{id}/callbacks")).await.json()["callbacks"].clone();
    end().await;
    for generation in 2..=9 {
        let answer = post(&api, format!("/{id}/retry")).await;
        assert_eq!((answer.status, &answer.json()["generation"]), (202, &json!(generation)));
        end().await;
    }
    let shown = callbacks().await;
    let ids = shown
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["callbackId"].as_u64().unwrap());
    assert_eq!(ids.collect::<Vec<_>>(), [1, 9, 17, 25, 33, 41, 49, 57, 65]);
    let answer = post(&api, format!("/{id}/retry")).await;
    assert_eq!((answer.status, answer.code().as_str()), (409, "CallbacksPending"));
    let body = json!({"ids": [id.to_string()]}).to_string();
    let mut bulk = request("POST", "/bulk/retry");
    *bulk.body_mut() = Full::from(body);
    bulk.headers_mut()
        .insert("content-type", HeaderValue::from_static("application/json"));
    assert_eq!(send(&api, bulk).await.json()["results"][0]["code"], "CallbacksPending");

    // Earlier completions keep their numbers, even after some were dropped.
    let answer = post(&api, format!("/{id}/callbacks/9/redeliver")).await;
    assert_eq!((answer.status, &answer.json()["callbackId"]), (202, &json!(9)));
    assert!(answer.json()["webhookId"].as_str().unwrap().ends_with("_2_local"));
    assert_eq!(
        post(&api, format!("/{id}/callbacks/2/redeliver")).await.code(),
        "CallbackNotFound"
    );
    let give_up = crate::store::GiveUp {
        spared: Vec::new(),
        overdue: Duration::ZERO,
        max: 1,
    };
    assert_eq!(world.ledger().give_up_deliveries(give_up).await.unwrap().len(), 1);
    assert_eq!(post(&api, format!("/{id}/retry")).await.status, 202);
    let callbacks = callbacks().await;
    assert_eq!(
        callbacks.as_array().unwrap().len(),
        8,
        "what came to nothing before is forgotten"
    );
}

#[tokio::test]
async fn a_body_must_be_json_and_of_bounded_length() {
    let world = World::new();
    let id = world.ended(1, response(b"", &[])).await;
    let mut form = request("POST", &format!("/{id}/retry"));
    *form.body_mut() = Full::from("uri=/x");
    form.headers_mut().insert(
        "content-type",
        HeaderValue::from_static("application/x-www-form-urlencoded"),
    );
    assert_eq!(send(&world.open(), form).await.status, 415);
    let mut huge = request("POST", &format!("/{id}/retry"));
    *huge.body_mut() = Full::from(vec![b' '; 4 * 1024 * 1024 + 1]);
    huge.headers_mut()
        .insert("content-type", HeaderValue::from_static("application/json"));
    assert_eq!(send(&world.open(), huge).await.status, 413);
}

#[tokio::test]
async fn only_an_ended_task_is_deleted() {
    let world = World::new();
    let api = world.open();
    let id = world.insert(1, |_| {}).await;
    let path = format!("/{id}");
    assert_eq!(send(&api, request("DELETE", &path)).await.code(), "WrongTaskState");
    post(&api, format!("{path}/stop")).await;
    let answer = send(&api, request("DELETE", &path)).await;
    assert_eq!((answer.status, answer.body.len()), (204, 0));
    assert_eq!(get(&api, &path).await.code(), "TaskNotFound");
    assert_eq!(*world.audit.0.lock().unwrap(), ["stop by ?", "delete by ?"]);
}
