//! The OpenAPI document agrees with what the API does.

use std::collections::BTreeSet;

use super::*;
use crate::task::{Conditions, Destination, LogLine, Subscription, Subscriptions};

fn names(object: &Value) -> BTreeSet<String> {
    object.as_object().unwrap().keys().cloned().collect()
}

async fn described(world: &World) -> Value {
    get(&world.open(), "/openapi.json").await.json()
}

#[tokio::test]
async fn every_request_it_describes_is_served_under_the_permission_it_names() {
    let world = World::new();
    let document = described(&world).await;
    assert_eq!(document["servers"][0]["url"], "/tasks");
    let paths = document["paths"].as_object().unwrap();
    let mut described = BTreeSet::new();
    for (template, operations) in paths {
        let path = template.replace("{task}", "job").replace("{number}", "1");
        let allowed = send(&world.open(), request("OPTIONS", &path)).await;
        let allowed: BTreeSet<_> = allowed.header("allow").split(", ").map(str::to_lowercase).collect();
        let mut expected = names(operations);
        if expected.contains("get") {
            expected.insert("head".into());
        }
        expected.insert("options".into());
        assert_eq!(allowed, expected, "{template}");
        for (method, operation) in operations.as_object().unwrap() {
            let permission = operation["x-permission"].as_str().unwrap_or("").to_owned();
            described.insert((method.to_uppercase(), template.clone(), permission));
        }
    }
    // `EVERY_ROUTE`, which other tests use, must be complete.
    let mut known: BTreeSet<_> = EVERY_ROUTE
        .iter()
        .map(|(method, path, needs)| {
            let path = path.replace("{id}", "{task}").replace("/1/", "/{number}/");
            ((*method).to_owned(), path, needs.as_str().to_owned())
        })
        .collect();
    // The permission depends on the state of the task.
    known.insert(("DELETE".into(), "/{task}/result".into(), String::new()));
    known.insert(("GET".into(), "/openapi.json".into(), String::new()));
    assert_eq!(described, known);
}

#[tokio::test]
async fn an_admitted_caller_may_read_it_and_no_other() {
    let world = World::new();
    let nothing = world.as_one(Access::none(Scope::One(None)));
    assert_eq!(get(&nothing, "/openapi.json").await.status, 200);
    assert_eq!(get(&world.as_one(Access::deny()), "/openapi.json").await.status, 403);
}

/// Headers that describe a body.
const SAID: [(&str, &str); 2] = [("content-type", "a/b"), ("content-encoding", "gzip")];

/// Every member that is sent is described, and every described member can be sent.
#[tokio::test]
async fn documents_have_the_members_that_it_says() {
    let world = World::new();
    let schemas = described(&world).await["components"]["schemas"].clone();
    let tenant = Tenant::new("acme");
    let id = world
        .insert(1, |task| {
            let request = Arc::make_mut(&mut task.request);
            request.uri = format!("/work?{}", "q".repeat(2000)).parse().unwrap();
            for (name, value) in SAID {
                request.headers.append(name, HeaderValue::from_static(value));
            }
            task.tenant = Some(tenant);
            task.callback = Some("https://client.example/".into());
            task.subscriptions = Subscriptions::from([Subscription {
                destination: Destination::LOCAL,
                on: Conditions::ALL,
            }]);
        })
        .await;
    world.crash().await;
    let deferred = Outcome::Deferred {
        after: Duration::ZERO,
        error: "not now".into(),
    };
    let lease = world.claim().await;
    world.settle(lease, deferred).await;
    let lease = world.claim().await;
    let mut line = LogLine::new(Timestamp::ZERO, "INFO", "t", "m");
    line.fields = vec![("n".into(), "1".into())];
    assert!(world.store.append_log(lease.lease(), vec![line]).await.unwrap());
    assert!(
        world
            .store
            .set_progress(lease.lease(), Progress::new(0.5, "half"))
            .await
            .unwrap()
    );
    let response = Some(Arc::new(response(b"no", &SAID)));
    let error = "it broke".into();
    world.settle(lease, Outcome::Failed { error, response }).await;

    let api = world.open();
    for (schema, path) in [
        ("Task", format!("/{id}?includePayload=1")),
        ("TaskList", "/".into()),
        ("Operation", format!("/{id}/operation")),
        ("Request", format!("/{id}/request")),
        ("Response", format!("/{id}/response")),
        ("Log", format!("/{id}/logs")),
        ("CallbackList", format!("/{id}/callbacks")),
        ("Stats", "/stats".into()),
        ("Settings", "/settings".into()),
        ("Problem", "/nowhere".into()),
    ] {
        let mut sent = get(&api, path).await.json();
        if schema == "Problem" {
            // Only in problems of requests to which the layer gave an id.
            sent["requestId"] = json!(id.to_string());
            sent["RequestId"] = json!(id.to_string());
        }
        assert_eq!(names(&sent), names(&schemas[schema]["properties"]), "{schema}");
    }
    let log = get(&api, format!("/{id}/logs")).await.json();
    assert_eq!(names(&log["lines"][0]), names(&schemas["LogLine"]["properties"]));
    let callbacks = get(&api, format!("/{id}/callbacks")).await.json();
    assert_eq!(
        names(&callbacks["callbacks"][0]),
        names(&schemas["Callback"]["properties"])
    );
    let redelivered = post(&api, format!("/{id}/callbacks/1/redeliver")).await.json();
    assert_eq!(names(&redelivered), names(&schemas["Redelivered"]["properties"]));
    let changed = post(&api, format!("/{id}/retry")).await.json();
    assert_eq!(names(&changed), names(&schemas["Changed"]["properties"]));
}

/// Every described parameter is read: an invalid value is refused, and the refusal names it.
#[tokio::test]
async fn parameters_that_it_describes_are_read() {
    let world = World::new();
    let id = world.insert(1, |_| {}).await;
    let document = described(&world).await;
    for (template, operations) in document["paths"].as_object().unwrap() {
        let path = template.replace("{task}", &id.to_string());
        for parameter in operations["get"]["parameters"].as_array().into_iter().flatten() {
            let name = parameter["$ref"].as_str().unwrap().rsplit('/').next().unwrap();
            // Any text is valid for these; and the stream of all tasks has no end.
            if name == "task" || name == "lastEventId" {
                continue;
            }
            let senseless = "!".repeat(2000);
            let answer = get(&world.open(), format!("{path}?{name}={senseless}")).await;
            assert_eq!(answer.status, 400, "{path} {name}");
            let detail = answer.json()["detail"].as_str().unwrap().to_owned();
            assert!(detail.contains(&format!("parameter {name} ")), "{detail}");
        }
    }
}
