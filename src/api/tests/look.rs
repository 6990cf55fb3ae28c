//! Viewing one task.

use super::*;
use crate::task::{Conditions, Destination, Subscription, Subscriptions};

#[tokio::test]
async fn a_task_is_seen_by_its_id_and_by_its_name() {
    let world = World::new();
    let name = TaskName::new("job-1").unwrap();
    let id = world.insert(1, |task| task.name = Some(name)).await;
    for path in [format!("/{id}"), "/job-1".into()] {
        let answer = get(&world.open(), path).await;
        assert_eq!(answer.status, 200);
        assert_eq!(answer.header("cache-control"), "no-store");
        assert_eq!(answer.header("x-content-type-options"), "nosniff");
        let json = answer.json();
        assert_eq!(
            (&json["taskId"], &json["status"]),
            (&json!("job-1"), &json!("Enqueued"))
        );
        assert_eq!(json["uri"], "/work/on?token=REDACTED&x=1");
        assert_eq!(json["links"]["stop"], "/tasks/job-1/stop");
        assert!(json.get("taskPayload").is_none());
    }
    let answer = get(&world.open(), "/job-1?includePayload=true").await;
    assert_eq!(answer.json()["taskPayload"], "payload");
}

#[tokio::test]
async fn a_task_tells_of_its_crashes_and_which_worker_made_each_attempt() {
    let world = World::new();
    let id = world.insert(1, |_| {}).await;
    let look = async || get(&world.open(), format!("/{id}")).await.json();
    let runs = |task: &Value| -> Vec<String> {
        let events = task["events"].as_array().unwrap().iter();
        let runs = events.filter(|event| event["status"] == "Running");
        runs.map(|event| event["eventDetail"].as_str().unwrap().to_owned())
            .collect()
    };
    assert_eq!(look().await.get("crashes"), None);
    world.crash().await;
    assert_eq!(look().await["crashes"], 1);
    world.crash().await;
    let lease = world.claim().await;
    let task = look().await;
    assert_eq!((&task["attempt"], &task["crashes"]), (&json!(3), &json!(2)));
    let gone = "gone-0000000000000002";
    assert_eq!(runs(&task), [gone, gone, "w-0000000000000001"]);

    let response = Arc::new(response(b"", &[]));
    world.settle(lease, Outcome::Succeeded { response }).await;
    assert_eq!(look().await["crashes"], 2);
    post(&world.open(), format!("/{id}/retry")).await;
    assert_eq!(look().await.get("crashes"), None);
    world.claim().await;
    assert_eq!(runs(&look().await)[2..], ["w-0000000000000001", "w-0000000000000001"]);
}

#[tokio::test]
async fn a_task_leads_to_its_callbacks_once_it_has_some() {
    let world = World::new();
    let on = Conditions::ALL;
    let id = world
        .insert(1, |task| {
            task.subscriptions = Subscriptions::from([Subscription {
                destination: Destination::LOCAL,
                on,
            }]);
        })
        .await;
    let link = async || get(&world.open(), format!("/{id}")).await.json()["links"]["callbacks"].clone();
    assert_eq!(link().await, Value::Null);
    let lease = world.claim().await;
    let response = Arc::new(response(b"", &[]));
    world.settle(lease, Outcome::Succeeded { response }).await;
    assert_eq!(link().await, format!("/tasks/{id}/callbacks"));
}

#[tokio::test]
async fn the_operation_follows_the_task() {
    let world = World::new();
    let id = world.insert(1, |_| {}).await;
    let answer = get(&world.open(), format!("/{id}/operation")).await;
    assert_eq!((answer.status, answer.header("retry-after")), (200, "1"));
    assert_eq!(answer.json()["status"], "NotStarted");
    let error = "it broke".into();
    let lease = world.claim().await;
    world.settle(lease, Outcome::Failed { error, response: None }).await;
    let answer = get(&world.open(), format!("/{id}/operation")).await;
    assert_eq!(answer.header("retry-after"), "");
    assert_eq!(answer.json()["error"], json!({"code": "Failed", "message": "it broke"}));
}

#[tokio::test]
async fn the_request_is_shown_without_its_credentials() {
    let world = World::new();
    let id = world.insert(1, |_| {}).await;
    let answer = get(&world.open(), format!("/{id}/request")).await;
    let expected = json!({
        "method": "POST",
        "uri": "/work/on?token=REDACTED&x=1",
        "headers": [["authorization", "REDACTED"], ["x-plain", "p"]],
        "body": "payload",
        "bodyEncoding": "utf8",
        "truncated": false,
    });
    assert_eq!(answer.json(), expected);
}

#[tokio::test]
async fn a_name_that_two_tenants_use_is_ambiguous() {
    let world = World::new();
    for (number, tenant) in [(1, "a"), (2, "b")] {
        world
            .insert(number, |task| {
                task.tenant = Some(Tenant::new(tenant));
                task.name = Some(TaskName::new("job").unwrap());
            })
            .await;
    }
    let answer = get(&world.open(), "/job").await;
    assert_eq!((answer.status, answer.code().as_str()), (409, "AmbiguousTask"));
}
