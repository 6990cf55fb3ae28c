//! Listing tasks, and the stats.

use super::*;

#[tokio::test]
async fn a_list_is_filtered_and_read_page_by_page() {
    let world = World::new();
    for number in 0..5 {
        let name = TaskName::new(&format!("job-{number}")).unwrap();
        world.insert(number, |task| task.name = Some(name)).await;
    }
    let api = world.open();
    let mut seen = Vec::new();
    let mut token = String::new();
    loop {
        let page = get(&api, format!("/?limit=2&sortOrderByTime=asc&nextToken={token}"))
            .await
            .json();
        let tasks = page["tasks"].as_array().unwrap();
        assert!(tasks.len() <= 2);
        seen.extend(tasks.iter().map(|task| task["taskId"].as_str().unwrap().to_owned()));
        token = page["nextToken"].as_str().unwrap().to_owned();
        if token.is_empty() {
            break;
        }
    }
    seen.sort();
    assert_eq!(seen, ["job-0", "job-1", "job-2", "job-3", "job-4"]);

    let count = async |query: &str| {
        let answer = get(&api, format!("/?{query}")).await;
        answer.json()["tasks"].as_array().unwrap().len()
    };
    assert_eq!(count("prefix=job-3").await, 1);
    assert_eq!(count("status=Running&status=Enqueued").await, 5);
    assert_eq!(count("status=Dequeued").await, 0);
    assert_eq!(count("function=work&text=ayloa").await, 5);
    assert_eq!(count("function=other").await, 0);
    assert_eq!(count("startedTimeEnd=1").await, 0);
    assert_eq!(count("label=team=a").await, 0);
    let with = get(&api, "/?includePayload=1&limit=1").await.json();
    assert_eq!(with["tasks"][0]["taskPayload"], "payload");

    let answer = get(&api, "/?nextToken=AAAA").await;
    assert_eq!((answer.status, answer.code().as_str()), (400, "InvalidArgument"));
    let huge = format!("/?status={}", "x".repeat(60_000));
    let answer = get(&api, huge).await;
    assert_eq!(answer.status, 400);
    assert!(answer.body.len() < 2048);
}

#[tokio::test]
async fn tasks_are_found_by_their_labels() {
    let world = World::new();
    for (number, labels) in [
        (1, vec![("team", "a"), ("cost", "")]),
        (2, vec![("team", "a")]),
        (3, vec![("team", "b"), ("a=b", "c")]),
    ] {
        world
            .insert(number, |task| task.labels = labels.into_iter().collect())
            .await;
    }
    let api = world.open();
    let found = async |query: &str| {
        get(&api, format!("/?{query}")).await.json()["tasks"]
            .as_array()
            .unwrap()
            .len()
    };
    assert_eq!(found("label=team=a").await, 2);
    assert_eq!(found("label=team%3Da&label=cost=").await, 1, "all of them");
    assert_eq!(found("label=team=a&label=team=b").await, 0);
    assert_eq!(found("label=team=").await, 0);
    assert_eq!(found("label=a=b=c").await, 0, "the name ends at the first sign");
    for malformed in ["team", "=a", "%3D"] {
        let answer = get(&api, format!("/?label={malformed}")).await;
        assert_eq!((answer.status, answer.code().as_str()), (400, "InvalidArgument"));
        assert!(answer.json()["detail"].as_str().unwrap().contains("parameter label "));
    }
}

/// The list shows sizes and types without reading the payloads.
#[tokio::test]
async fn a_list_says_how_long_and_of_what_type_payloads_are() {
    let world = World::new();
    let headers = [("content-type", "text/x"), ("content-encoding", "gzip")];
    let id = world.ended(1, response(b"output", &headers)).await;
    let listed = async || get(&world.open(), "/").await.json()["tasks"][0].clone();
    let task = listed().await;
    assert_eq!(
        (&task["taskPayloadSize"], task.get("taskPayloadContentType")),
        (&json!(7), None)
    );
    assert_eq!(task["returnPayloadSize"], 6);
    assert_eq!(task["returnPayloadContentType"], "text/x");
    assert_eq!(task["returnPayloadContentEncoding"], "gzip");
    assert_eq!((task.get("taskPayload"), task.get("returnPayload")), (None, None));

    let mut edit = request("POST", &format!("/{id}/retry"));
    *edit.body_mut() = Full::from("{\"headers\":{\"content-type\":\"text/y\"},\"body\":\"four\"}");
    edit.headers_mut()
        .insert("content-type", HeaderValue::from_static("application/json"));
    assert_eq!(send(&world.open(), edit).await.status, 202);
    let task = listed().await;
    assert_eq!(
        (&task["taskPayloadSize"], &task["taskPayloadContentType"]),
        (&json!(4), &json!("text/y"))
    );
    assert_eq!(task.get("returnPayloadSize"), None);
}

/// A client with a token would request another page, and find it empty.
#[tokio::test]
async fn a_page_that_ends_with_the_last_task_has_no_token() {
    let world = World::new();
    for number in 0..4 {
        let name = TaskName::new(&format!("job-{number}")).unwrap();
        world.insert(number, |task| task.name = Some(name)).await;
    }
    let api = world.open();
    for order in ["asc", "desc"] {
        for (query, pages) in [
            ("limit=1", vec![1, 1, 1, 1]),
            ("limit=2", vec![2, 2]),
            ("limit=4", vec![4]),
            ("limit=5", vec![4]),
            ("limit=1&prefix=job-2", vec![1]),
            ("limit=2&status=Enqueued", vec![2, 2]),
            ("limit=2&status=Running", vec![0]),
        ] {
            let mut found = Vec::new();
            let mut seen = std::collections::BTreeSet::new();
            let mut token = String::new();
            loop {
                let path = format!("/?{query}&sortOrderByTime={order}&nextToken={token}");
                let page = get(&api, path).await.json();
                let tasks = page["tasks"].as_array().unwrap();
                found.push(tasks.len());
                seen.extend(tasks.iter().map(|task| task["taskId"].to_string()));
                token = page["nextToken"].as_str().unwrap().to_owned();
                if token.is_empty() {
                    break;
                }
            }
            assert_eq!(found, pages, "{query} {order}");
            assert_eq!(seen.len(), pages.iter().sum::<usize>(), "{query} {order}");
        }
    }
}

#[tokio::test]
async fn process_stats_need_the_scope_of_all_tenants() {
    let world = World::new();
    world.insert(1, |_| {}).await;
    let json = get(&world.open(), "/stats").await.json();
    assert_eq!(json["counts"]["Enqueued"], 1);
    assert_eq!(json["slots"]["total"], 1);
    assert_eq!(
        (&json["pendingCallbacks"], &json["forgottenKeys"]),
        (&json!(0), &json!(0))
    );
    let json = get(&world.as_one(Access::full(Scope::One(None))), "/stats")
        .await
        .json();
    assert_eq!(json["counts"]["Enqueued"], 1);
    for theirs in ["slots", "rates", "pendingCallbacks", "setAside", "forgottenKeys"] {
        assert!(json.get(theirs).is_none(), "{theirs}");
    }
}
