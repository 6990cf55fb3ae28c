//! The task API, through the layer, with tasks that really run.

use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{Router, routing::any};
use http::{Request, StatusCode, request::Parts};
use serde_json::{Value, json};
use tower_respond_async::{
    Access, BearerToken, MemoryStore, Scope, TaskApi, TaskContext, TaskState, Tenant, api::Permission,
};

use crate::support::{App, Gate, WithoutBody, fc, no_retries, prefer, routes, soon};

/// The ids on all pages of a listing, in order.
async fn pages(app: &App, query: &str) -> Vec<String> {
    let (mut ids, mut token) = (Vec::new(), String::new());
    loop {
        let page = app.get(format!("/tasks?{query}&nextToken={token}")).await;
        assert_eq!(page.status, 200, "{page:?}");
        let page = page.json();
        let tasks = page["tasks"].as_array().unwrap();
        ids.extend(tasks.iter().map(|task| task["taskId"].as_str().unwrap().to_owned()));
        token = page["nextToken"].as_str().unwrap().to_owned();
        if token.is_empty() {
            return ids;
        }
    }
}

/// Many tasks share a millisecond, where a listing by time alone would skip some.
#[tokio::test]
async fn every_one_of_1000_tasks_is_listed_exactly_once() {
    let app = App::new();
    for number in 0..1000 {
        let path = if number % 10 == 0 { "/hello/you" } else { "/echo" };
        let request = fc(path).header("X-Fc-Async-Delay", "3000");
        let name = format!("{}{number}", if number < 300 { "a" } else { "b" });
        app.accepted(
            request
                .header("X-Fc-Async-Task-Id", name)
                .with(format!("body {number}.")),
        )
        .await;
    }
    for query in ["limit=100", "limit=7&sortOrderByTime=asc", ""] {
        let ids = pages(&app, query).await;
        assert_eq!(
            (ids.len(), ids.iter().collect::<HashSet<_>>().len()),
            (1000, 1000),
            "{query}"
        );
    }
    let mut ascending = pages(&app, "limit=100&sortOrderByTime=asc").await;
    ascending.reverse();
    assert_eq!(pages(&app, "limit=100&sortOrderByTime=desc").await, ascending);

    for (query, count) in [
        ("prefix=a", 300),
        ("function=hello", 100),
        ("function=hello&prefix=b", 70),
        ("status=Enqueued", 1000),
        ("status=Running&status=Succeeded", 0),
        ("status=Dequeued", 0),
        ("text=body+7.", 1),
        ("text=nowhere", 0),
        ("startedTimeBegin=1", 1000),
        ("startedTimeEnd=1", 0),
    ] {
        assert_eq!(pages(&app, &format!("limit=100&{query}")).await.len(), count, "{query}");
    }
    for refused in [
        "limit=0",
        "limit=101",
        "status=Sleeping",
        "sortOrderByTime=up",
        "nextToken=x",
    ] {
        assert_eq!(app.get(format!("/tasks?{refused}")).await.status, 400, "{refused}");
    }
}

#[tokio::test]
async fn paging_on_sees_every_task_that_was_there_while_others_come() {
    let app = App::new();
    let delayed = || fc("/echo").header("X-Fc-Async-Delay", "3000");
    let mut there = HashSet::new();
    for _ in 0..100 {
        there.insert(app.accepted(delayed().empty()).await.to_string());
    }
    for order in ["asc", "desc"] {
        let (mut seen, mut token) = (Vec::new(), String::new());
        loop {
            let query = format!("/tasks?limit=9&sortOrderByTime={order}&nextToken={token}");
            let page = app.get(query).await.json();
            let tasks = page["tasks"].as_array().unwrap();
            seen.extend(tasks.iter().map(|task| task["taskId"].as_str().unwrap().to_owned()));
            token = page["nextToken"].as_str().unwrap().to_owned();
            // Fewer than a page, or an ascending listing would never end.
            for _ in 0..5 {
                app.accepted(delayed().empty()).await;
            }
            if token.is_empty() {
                break;
            }
        }
        let unique: HashSet<_> = seen.iter().cloned().collect();
        assert_eq!(unique.len(), seen.len(), "{order}: one was seen twice");
        assert!(unique.is_superset(&there), "{order}: one was not seen");
    }
}

#[tokio::test]
async fn the_result_is_the_handler_s_response() {
    let app = App::with(|builder| builder.retry(no_retries()));
    let binary: Vec<u8> = (0..=255).collect();
    let answer = app
        .send(fc("/echo").header("Content-Type", "video/mp4").with(binary.clone()))
        .await;
    let result = app.get(format!("{}?wait=50", answer.header("location"))).await;
    assert_eq!((result.status, &result.body[..]), (200, &binary[..]));
    assert_eq!(result.header("content-type"), "video/mp4");
    assert_eq!(result.header("x-respond-async-status"), "Succeeded");

    let answer = app.send(fc("/status/503").empty()).await;
    let result = app.get(format!("{}?wait=50", answer.header("location"))).await;
    assert_eq!((result.status, result.header("x-from")), (503, "the handler"));
    assert_eq!(result.header("x-respond-async-status"), "Failed");

    let answer = app.send(fc("/panic").empty()).await;
    let result = app.get(format!("{}?wait=50", answer.header("location"))).await;
    assert_eq!(
        (result.status, &result.json()["code"]),
        (410, &json!("TaskHasNoResponse"))
    );
}

#[tokio::test]
async fn a_poll_that_waits_has_the_result_as_soon_as_it_is_there() {
    let gate = Gate::new();
    let app = App::build(MemoryStore::new(), gate.among_routes(), |builder| builder);
    let answer = app.send(fc("/gate").empty()).await;
    gate.arrived().await;
    let location = answer.header("location").to_owned();
    let polled = app.get(&location).await;
    assert_eq!((polled.status, polled.header("retry-after")), (202, "1"));
    assert_eq!(polled.header("location"), location);
    let waiting = tokio::spawn({
        let (app, location) = (app.clone(), location.clone());
        async move { app.get(format!("{location}?wait=50")).await }
    });
    gate.let_pass(1);
    assert_eq!(soon(waiting).await.unwrap().body, "passed");
}

#[tokio::test]
async fn a_poller_that_asks_for_async_on_its_polls_is_answered_at_once() {
    let gate = Gate::new();
    let app = App::build(MemoryStore::new(), gate.among_routes(), |builder| {
        // The gate ignores the stop signal.
        builder.stop_grace(Duration::ZERO)
    });
    let id = app.accepted(fc("/gate").empty()).await;
    gate.arrived().await;
    let asks = |method: &str, path: &str| {
        prefer(&format!("/tasks{path}"), "respond-async")
            .method(method)
            .header("X-Fc-Invocation-Type", "Async")
            .empty()
    };
    for (method, path, status) in [
        ("GET", String::new(), 200),
        ("GET", "?limit=5".into(), 200),
        ("GET", "/stats".into(), 200),
        ("GET", format!("/{id}"), 200),
        ("GET", format!("/{id}/operation"), 200),
        ("GET", format!("/{id}/result"), 202),
        ("GET", "/no/such/path".into(), 404),
        ("POST", format!("/{id}/stop"), 202),
    ] {
        let answer = app.send(asks(method, &path)).await;
        assert_eq!(answer.status, status, "{path}: {answer:?}");
        assert_eq!(answer.header("x-fc-async-task-id"), "", "{path}");
        assert_eq!(answer.header("preference-applied"), "", "{path}");
    }
    app.until(id, TaskState::Stopped).await;
    assert_eq!(app.send(asks("DELETE", &format!("/{id}"))).await.status, 204);
    assert_eq!(app.kept().await, 0);
}

#[tokio::test]
async fn a_waiting_task_is_stopped_at_once_and_a_running_one_when_it_has_ended() {
    let gate = Gate::new();
    let gated = gate.clone();
    let obedient = any(move |task: TaskContext| async move {
        tokio::select! {
            () = gated.pass() => "passed",
            () = task.stopped() => "stopped",
        }
    });
    let app = App::build(MemoryStore::new(), routes().route("/gate", obedient), |builder| {
        builder.concurrency(1)
    });
    let running = app.accepted(fc("/gate").empty()).await;
    gate.arrived().await;
    let waiting = app.accepted(fc("/gate").empty()).await;

    let stopped = app.post(format!("/tasks/{waiting}/stop")).await;
    assert_eq!((stopped.status, &stopped.json()["status"]), (200, &json!("Stopped")));
    let stopping = app.post(format!("/tasks/{running}/stop")).await;
    assert_eq!((stopping.status, &stopping.json()["status"]), (202, &json!("Stopping")));
    for id in [running, waiting] {
        let task = app.until(id, TaskState::Stopped).await;
        assert_eq!(task.status_code, None, "what a stopped handler still said is dropped");
        let again = app.post(format!("/tasks/{id}/stop")).await;
        assert_eq!((again.status, again.header("x-respond-async-status")), (409, "Stopped"));
        assert_eq!(app.get(format!("/tasks/{id}/result")).await.status, 410);
    }
    assert_eq!(app.record(waiting).await.attempt, 0, "it never ran");
    let operation = app.get(format!("/tasks/{running}/operation")).await.json();
    assert_eq!(operation["status"], "Canceled");
}

#[tokio::test]
async fn an_ended_task_runs_again_as_a_new_generation() {
    let runs = Arc::new(AtomicUsize::new(0));
    let counted = runs.clone();
    let handler = any(move |body: String| async move {
        match counted.fetch_add(1, Ordering::SeqCst) {
            0 => (StatusCode::IM_A_TEAPOT, body),
            _ => (StatusCode::OK, body),
        }
    });
    let app = App::build(MemoryStore::new(), Router::new().route("/", handler), |builder| builder);
    let id = app.accepted(fc("/").with("as it was")).await;
    assert_eq!(app.ended(id).await.state, TaskState::Failed);

    let again = app.post(format!("/tasks/{id}/retry")).await;
    assert_eq!((again.status, &again.json()["generation"]), (202, &json!(2)));
    let task = app.until(id, TaskState::Succeeded).await;
    assert_eq!((task.generation, task.attempt), (2, 1));
    assert_eq!(app.response(id).await.body, "as it was");

    let edited = Request::post(format!("/tasks/{id}/retry"))
        .header("Content-Type", "application/json")
        .with(r#"{"body":"edited"}"#);
    assert_eq!(app.send(edited).await.json()["generation"], 3);
    app.until(id, TaskState::Succeeded).await;
    assert_eq!(app.response(id).await.body, "edited");
    assert_eq!(runs.load(Ordering::SeqCst), 3);
}

#[tokio::test]
async fn a_task_that_has_not_ended_is_neither_run_again_nor_deleted() {
    let gate = Gate::new();
    let app = App::build(MemoryStore::new(), gate.among_routes(), |builder| builder);
    let id = app.accepted(fc("/gate").empty()).await;
    gate.arrived().await;
    let retried = app.post(format!("/tasks/{id}/retry")).await;
    assert_eq!(
        (retried.status, retried.header("x-respond-async-status")),
        (409, "Running")
    );
    let delete = || Request::delete(format!("/tasks/{id}")).empty();
    assert_eq!(app.send(delete()).await.status, 409);
    gate.let_pass(1);
    app.ended(id).await;
    assert_eq!(app.send(delete()).await.status, 204);
    assert_eq!(app.send(delete()).await.status, 404);
    assert_eq!(app.get(format!("/tasks/{id}")).await.status, 404);
}

/// However many tasks are submitted: no more handlers run than there are slots, the stats never show more, and all end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn under_load_no_more_run_than_there_are_slots() {
    const SLOTS: u64 = 8;
    const TASKS: u64 = 2_000;
    let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (running, peak) = (now.clone(), most.clone());
    let handler = any(move || async move {
        peak.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        tokio::task::yield_now().await;
        running.fetch_sub(1, Ordering::SeqCst);
    });
    let app = App::build(MemoryStore::new(), Router::new().route("/", handler), |builder| {
        builder.concurrency(SLOTS as usize)
    });
    let sending: Vec<_> = (0..4)
        .map(|_| {
            let app = app.clone();
            tokio::spawn(async move {
                for _ in 0..TASKS / 4 {
                    app.accepted(fc("/").empty()).await;
                }
            })
        })
        .collect();
    let stats = async || app.get("/tasks/stats").await.json();
    let all_ended = async {
        loop {
            let stats = stats().await;
            let slots = &stats["slots"];
            assert_eq!(slots["total"], SLOTS);
            assert!(slots["used"].as_u64().unwrap() <= SLOTS, "{stats}");
            if stats["counts"]["Succeeded"] == TASKS {
                return;
            }
            tokio::task::yield_now().await;
        }
    };
    soon(all_ended).await;
    for sending in sending {
        sending.await.unwrap();
    }
    assert!(most.load(Ordering::SeqCst) as u64 <= SLOTS);
    assert_eq!(now.load(Ordering::SeqCst), 0);
    let free = async {
        while stats().await["slots"]["used"] != 0 {
            tokio::task::yield_now().await;
        }
    };
    soon(free).await;
    assert_eq!(stats().await["rates"]["1m"]["accepted"], TASKS);
}

#[tokio::test]
async fn without_the_token_the_api_has_no_news_and_the_application_is_served() {
    let app = App::wrap(
        MemoryStore::new(),
        |builder| builder,
        |tasks| routes().nest_service("/tasks", TaskApi::new(tasks, BearerToken::new("s3cret"))),
    );
    let id = app.accepted(fc("/echo").with("hello")).await;
    app.ended(id).await;
    let get = |path: String, authorization: &str| Request::get(path).header("Authorization", authorization).empty();
    for path in [
        "/tasks".into(),
        format!("/tasks/{id}"),
        "/tasks/none".into(),
        "/tasks/stats".into(),
    ] {
        for wrong in ["", "Bearer", "Bearer guess", "Basic s3cret"] {
            let answer = app.send(get(path.clone(), wrong)).await;
            assert_eq!(
                (answer.status, answer.header("www-authenticate")),
                (401, "Bearer"),
                "{path}"
            );
            assert!(
                !String::from_utf8_lossy(&answer.body).contains(&id.to_string()),
                "{answer:?}"
            );
        }
    }
    let stop = Request::post(format!("/tasks/{id}/stop")).empty();
    assert_eq!(app.send(stop).await.status, 401);
    let result = app.send(get(format!("/tasks/{id}/result"), "Bearer s3cret")).await;
    assert_eq!((result.status, &result.body[..]), (200, &b"hello"[..]));
}

fn tenant_of(head: &Parts) -> Option<Tenant> {
    Some(Tenant::new(head.headers.get("x-tenant")?.to_str().ok()?))
}

fn own_tasks(head: &Parts) -> Access {
    match tenant_of(head) {
        Some(tenant) => Access::full(Scope::One(Some(tenant))).without(Permission::Invoke),
        None => Access::deny(),
    }
}

#[tokio::test]
async fn a_tenant_s_task_is_not_there_for_another() {
    let app = App::wrap(
        MemoryStore::new(),
        |builder| builder.tenant(tenant_of),
        |tasks| routes().nest_service("/tasks", TaskApi::new(tasks, own_tasks)),
    );
    let of = |tenant: &str| {
        fc("/echo")
            .header("X-Tenant", tenant)
            .header("X-Fc-Async-Task-Id", "job")
    };
    let ada = app.accepted(of("ada").with("Ada's")).await;
    let bob = app.accepted(of("bob").with("Bob's")).await;
    let nobody = app.accepted(fc("/echo").with("nobody's")).await;
    for id in [ada, bob, nobody] {
        app.ended(id).await;
    }
    let asks = |tenant: &str, method: &str, path: String| {
        Request::post(path).method(method).header("X-Tenant", tenant).empty()
    };
    for other in [bob, nobody] {
        for (method, rest) in [
            ("GET", ""),
            ("GET", "/result"),
            ("GET", "/request"),
            ("GET", "/operation"),
            ("POST", "/stop"),
            ("POST", "/retry"),
            ("DELETE", ""),
        ] {
            let answer = app.send(asks("ada", method, format!("/tasks/{other}{rest}"))).await;
            let absent = app.send(asks("ada", method, format!("/tasks/nowhere{rest}"))).await;
            assert_eq!(answer.status, 404, "{method} {rest}: {answer:?}");
            assert_eq!(
                answer.json(),
                absent.json(),
                "it can be told from one that is not there"
            );
        }
    }
    // Each tenant has its own task of this name.
    for (tenant, body) in [("ada", "Ada's"), ("bob", "Bob's")] {
        let result = app.send(asks(tenant, "GET", "/tasks/job/result".into())).await;
        assert_eq!(result.body, body);
        let listed: Value = app.send(asks(tenant, "GET", "/tasks".into())).await.json();
        assert_eq!(listed["tasks"].as_array().unwrap().len(), 1);
        let stats = app.send(asks(tenant, "GET", "/tasks/stats".into())).await.json();
        assert_eq!(stats["counts"]["Succeeded"], 1);
    }
    assert_eq!(app.get("/tasks").await.status, 403);
}

#[tokio::test]
async fn an_operation_follows_its_task() {
    let gate = Gate::new();
    let app = App::build(MemoryStore::new(), gate.among_routes(), |builder| {
        builder.concurrency(1)
    });
    let running = app.send(fc("/gate").empty()).await;
    gate.arrived().await;
    let waiting = app.send(fc("/gate").empty()).await;
    for (answer, status) in [(&running, "Running"), (&waiting, "NotStarted")] {
        let operation = app.get(answer.header("operation-location")).await;
        assert_eq!((operation.status, &operation.json()["status"]), (200, &json!(status)));
        assert_eq!(operation.header("retry-after"), "1");
    }
    gate.let_pass(2);
    for answer in [running, waiting] {
        app.until(answer.id(), TaskState::Succeeded).await;
        let operation = app.get(answer.header("operation-location")).await;
        assert_eq!(operation.json()["status"], "Succeeded");
        assert_eq!(operation.header("retry-after"), "");
    }
}

#[tokio::test]
async fn a_delayed_task_waits_and_says_until_when() {
    let app = App::new();
    let answer = app.send(fc("/echo").header("X-Fc-Async-Delay", "60").empty()).await;
    let document = app.get(answer.header("content-location")).await.json();
    let waits = document["runAtTime"].as_u64().unwrap() - document["createdTime"].as_u64().unwrap();
    assert_eq!((&document["status"], waits), (&json!("Enqueued"), 60_000));
    let waited = app.tasks.wait(answer.id(), Duration::ZERO).await.unwrap().unwrap();
    assert_eq!(waited.attempt, 0);
}

/// The order used to change: the last header took the place of the handler's own `Content-Length`, which was removed
/// and set again.
#[tokio::test]
async fn a_result_has_the_headers_in_the_handler_s_order() {
    let ordered = any(|| async {
        (
            [
                ("x-one", "1"),
                ("content-length", "2"),
                ("x-two", "2"),
                ("x-three", "3"),
            ],
            "hi",
        )
    });
    let app = App::build(MemoryStore::new(), routes().route("/ordered", ordered), |builder| {
        builder
    });
    let id = app.accepted(fc("/ordered").empty()).await;
    app.ended(id).await;
    let answer = app.get(format!("/tasks/{id}/result")).await;
    let names = answer.headers.keys().map(http::HeaderName::as_str);
    let own: Vec<_> = names
        .filter(|name| name.starts_with("x-o") || name.starts_with("x-t"))
        .collect();
    assert_eq!(own, ["x-one", "x-two", "x-three"], "{answer:?}");
}
