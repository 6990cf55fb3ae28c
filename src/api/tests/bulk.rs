//! Changing many tasks at once.

use super::*;

fn bulk(action: &str, body: &Value) -> Request<Full<Bytes>> {
    let mut request = request("POST", &format!("/bulk/{action}"));
    request
        .headers_mut()
        .insert("content-type", HeaderValue::from_static("application/json"));
    *request.body_mut() = Full::from(body.to_string());
    request
}

impl World {
    async fn state(&self, id: RequestId) -> Option<String> {
        let found = self.tasks.find(&id.into()).await.unwrap();
        found.map(|task| task.state.to_string())
    }
}

#[tokio::test]
async fn named_tasks_are_changed_and_each_has_an_outcome() {
    let world = World::new();
    let api = world.as_one(Access::full(Scope::All).as_user("ann"));
    let ended = world.ended(1, response(b"", &[])).await;
    let waiting = world.insert(2, |_| {}).await;
    let named = world
        .insert(3, |task| task.name = Some(TaskName::new("job").unwrap()))
        .await;
    let ids = json!({"ids": [ended.to_string(), waiting.to_string(), "job", "nowhere", "../x"]});

    let report = send(&api, bulk("stop", &ids)).await.json();
    assert_eq!((&report["matched"], &report["changed"]), (&json!(5), &json!(2)));
    let expected = json!([
        {"taskId": ended.to_string(), "requestId": ended.to_string(), "done": false, "status": "Succeeded", "code": "WrongTaskState"},
        {"taskId": waiting.to_string(), "requestId": waiting.to_string(), "done": true, "status": "Stopped"},
        {"taskId": "job", "requestId": named.to_string(), "done": true, "status": "Stopped"},
        {"taskId": "nowhere", "done": false, "code": "TaskNotFound"},
        {"taskId": "../x", "done": false, "code": "TaskNotFound"},
    ]);
    assert_eq!(report["results"], expected);

    let report = send(&api, bulk("retry", &json!({"ids": ["job"]}))).await.json();
    assert_eq!(report["results"][0]["status"], "Enqueued");
    let report = send(&api, bulk("delete", &json!({"ids": ["job", ended.to_string()]})))
        .await
        .json();
    assert_eq!(report["changed"], 1);
    assert_eq!(
        (world.state(ended).await, world.state(named).await),
        (None, Some("Enqueued".into()))
    );
    let mut audit = world.audit.0.lock().unwrap().clone();
    audit.sort();
    assert_eq!(audit, ["delete by ann", "retry by ann", "stop by ann", "stop by ann"]);
}

#[tokio::test]
async fn tasks_are_changed_by_their_labels() {
    let world = World::new();
    let api = world.open();
    for (number, labels) in [
        (1, vec![("team", "a")]),
        (2, vec![("team", "b")]),
        (3, vec![("a=b", "")]),
    ] {
        world
            .insert(number, |task| task.labels = labels.into_iter().collect())
            .await;
    }
    let by = |labels: Value| json!({"filter": {"labels": labels}, "expectedCount": 1});
    for labels in [json!({"team": "a"}), json!({"a=b": ""})] {
        let report = send(&api, bulk("stop", &by(labels))).await.json();
        assert_eq!((&report["matched"], &report["changed"]), (&json!(1), &json!(1)));
    }
    let many = json!({"a": "v".repeat(1024)});
    assert_eq!(send(&api, bulk("stop", &by(many))).await.code(), "InvalidArgument");
}

#[tokio::test]
async fn a_filter_changes_all_that_match_if_they_are_as_many_as_believed() {
    let world = World::new();
    let api = world.open();
    for number in 0..40 {
        world.insert(number, |_| {}).await;
    }
    let other = world.insert(99, |task| task.function = Some("other".into())).await;
    let filter = json!({"function": "work", "status": ["Enqueued"]});

    let question = json!({"filter": filter, "dryRun": true});
    let report = send(&api, bulk("stop", &question)).await.json();
    assert_eq!(report, json!({"matched": 40, "changed": 0, "results": []}));
    for wrong in [
        json!({"filter": filter}),
        json!({"filter": filter, "expectedCount": 39}),
    ] {
        let answer = send(&api, bulk("stop", &wrong)).await;
        assert_eq!((answer.status, answer.code().as_str()), (409, "CountDiffers"));
        assert_eq!(answer.header("x-respond-async-count"), "40");
    }
    assert!(world.audit.0.lock().unwrap().is_empty());

    let right = json!({"filter": filter, "expectedCount": 40});
    let report = send(&api, bulk("stop", &right)).await.json();
    assert_eq!(
        (&report["changed"], report["results"].as_array().unwrap().len()),
        (&json!(40), 40)
    );
    assert_eq!(world.state(other).await.as_deref(), Some("Enqueued"));
}

#[tokio::test]
async fn more_than_a_thousand_are_refused_and_nothing_is_changed() {
    let world = World::new();
    let api = world.open();
    let many: Vec<_> = (0..1001).map(|n| format!("job-{n}")).collect();
    assert_eq!(
        send(&api, bulk("stop", &json!({"ids": many}))).await.code(),
        "InvalidArgument"
    );
    for bad in [
        json!({}),
        json!([]),
        json!({"ids": [], "filter": {}}),
        json!({"ids": [], "surprise": 1}),
        json!({"filter": {"status": ["running"]}}),
        json!({"filter": {"stauts": ["Running"]}}),
    ] {
        assert_eq!(
            send(&api, bulk("delete", &bad)).await.code(),
            "InvalidArgument",
            "{bad}"
        );
    }
    assert_eq!(get(&api, "/bulk/stop").await.header("allow"), "POST, OPTIONS");
    assert_eq!(get(&api, "/bulk").await.status, 404);
}

#[tokio::test]
async fn a_stranger_s_tasks_are_neither_counted_nor_changed() {
    let world = World::new();
    let acme = Tenant::new("acme");
    let id = world.insert(1, |task| task.tenant = Some(acme.clone())).await;
    let stranger = world.as_one(Access::full(Scope::One(Some(Tenant::new("evil")))));
    let report = send(&stranger, bulk("stop", &json!({"filter": {}, "dryRun": true})))
        .await
        .json();
    assert_eq!(report["matched"], 0);
    let report = send(&stranger, bulk("stop", &json!({"ids": [id.to_string()]})))
        .await
        .json();
    assert_eq!(report["results"][0]["code"], "TaskNotFound");
    assert_eq!(world.state(id).await.as_deref(), Some("Enqueued"));

    // A caller with the permission stop, but not list, must not learn how many tasks match.
    let blind = world.as_one(Access::none(Scope::All).with(Permission::Stop));
    assert_eq!(
        send(&blind, bulk("stop", &json!({"filter": {}, "dryRun": true})))
            .await
            .code(),
        "Forbidden"
    );
    let mut cross = bulk("stop", &json!({"ids": [id.to_string()]}));
    cross
        .headers_mut()
        .insert("sec-fetch-site", HeaderValue::from_static("cross-site"));
    assert_eq!(send(&world.open(), cross).await.code(), "Forbidden");
    assert_eq!(world.state(id).await.as_deref(), Some("Enqueued"));
}
