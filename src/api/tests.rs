//! The API as a client sees it, over a memory store whose tasks are moved by hand.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt, Full};
use serde_json::{Value, json};
use tokio::runtime::Handle;
use tower::ServiceExt;

use crate::{
    api::{Access, Authorizer, BearerToken, Permission, TaskApi, allow_everyone},
    engine::{Alive, Backoff, Engine, Hooks, Probes, Settings, Tasks},
    probe::{Event, Probe},
    store::{Claim, Insert, Limits, MemoryStore, Retention, TaskStore},
    task::{
        CapturedRequest, CapturedResponse, LeaseRef, NewTask, Progress, RequestId, Scope, TaskName, Tenant, WorkerId,
        lifecycle::{Outcome, Settlement},
    },
    time::Timestamp,
};

/// What the probes heard of changes.
#[derive(Debug, Default)]
struct Audit(Mutex<Vec<String>>);

impl Probe for Audit {
    fn on_event(&self, event: &Event<'_>) {
        if let Event::Changed { action, who, .. } = event {
            self.0
                .lock()
                .unwrap()
                .push(format!("{action} by {}", who.unwrap_or("?")));
        }
    }
}

/// A store, and an engine that runs nothing.
struct World {
    store: MemoryStore,
    tasks: Tasks,
    audit: Arc<Audit>,
}

struct Answered {
    status: u16,
    headers: HeaderMap,
    body: Bytes,
}

impl Answered {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    fn code(&self) -> String {
        assert_eq!(self.headers["content-type"], "application/problem+json");
        self.json()["code"].as_str().unwrap().to_owned()
    }

    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

impl World {
    fn new() -> Self {
        let (store, audit) = (MemoryStore::new(), Arc::new(Audit::default()));
        let settings = Settings {
            worker_name: "w".into(),
            concurrency: 1,
            limits: Limits::UNLIMITED,
            buffer_limit: 1,
            retry: Arc::new(Backoff::default()),
            crash_allowance: 3,
            attempt_timeout: Duration::from_secs(60),
            stop_grace: Duration::from_secs(5),
            max_age: Duration::from_secs(60),
            lease: Duration::from_secs(30),
            retention: Retention {
                succeeded: Duration::from_secs(60),
                others: Duration::from_secs(60),
            },
            key_window: Duration::from_secs(60),
            store_timeout: Duration::from_secs(5),
            max_waiters: 10,
            hooks: Hooks::default(),
        };
        let probes = Probes::new(vec![audit.clone()]);
        let engine = Engine::new(Arc::new(store.clone()), settings, probes, Handle::current());
        engine.set_api_address("/tasks".into(), None, Duration::from_secs(60));
        Self {
            store,
            tasks: Tasks::new(Arc::new(Alive(Arc::new(engine)))),
            audit,
        }
    }

    fn open(&self) -> TaskApi {
        TaskApi::new(&self.tasks, allow_everyone())
    }

    fn as_one(&self, access: Access) -> TaskApi {
        TaskApi::new(&self.tasks, move |_: &http::request::Parts| access.clone())
    }

    async fn insert(&self, number: u8, change: impl FnOnce(&mut NewTask)) -> RequestId {
        let mut headers = HeaderMap::new();
        headers.append("authorization", HeaderValue::from_static("Bearer user"));
        headers.append("x-plain", HeaderValue::from_static("p"));
        let uri = Uri::from_static("/work/on?token=t&x=1");
        let input = CapturedRequest::new(Method::POST, uri, headers, Bytes::from_static(b"payload"));
        let id = RequestId::from_parts(Timestamp::from_millis(1_700_000_000_000), [number; 10]);
        let mut task = NewTask::new(id, Arc::new(input));
        change(&mut task);
        let _ = self.store.insert(Insert::new(task)).await.unwrap();
        id
    }

    async fn claim(&self) -> LeaseRef {
        let claim = Claim {
            worker: WorkerId::new("w", 1),
            max: 1,
            lease: Duration::from_secs(30),
        };
        self.store.claim(claim).await.unwrap().tasks[0].record.lease()
    }

    async fn settle(&self, lease: LeaseRef, outcome: Outcome) {
        let _ = self.store.settle(Settlement::new(lease, outcome)).await.unwrap();
    }

    /// A task that has ended with this response.
    async fn ended(&self, number: u8, response: CapturedResponse) -> RequestId {
        let id = self.insert(number, |_| {}).await;
        let output = Arc::new(response);
        let lease = self.claim().await;
        self.settle(lease, Outcome::Succeeded { output }).await;
        id
    }
}

async fn send(api: &TaskApi, request: Request<Full<Bytes>>) -> Answered {
    let response: Response<_> = api.clone().oneshot(request).await.unwrap();
    let (parts, body) = response.into_parts();
    Answered {
        status: parts.status.as_u16(),
        headers: parts.headers,
        body: body.collect().await.unwrap().to_bytes(),
    }
}

fn request(method: &str, path: &str) -> Request<Full<Bytes>> {
    Request::builder()
        .method(method)
        .uri(path)
        .body(Full::default())
        .unwrap()
}

async fn get(api: &TaskApi, path: impl AsRef<str>) -> Answered {
    send(api, request("GET", path.as_ref())).await
}

async fn post(api: &TaskApi, path: impl AsRef<str>) -> Answered {
    send(api, request("POST", path.as_ref())).await
}

fn response(body: &'static [u8], headers: &[(&'static str, &'static str)]) -> CapturedResponse {
    let headers = headers.iter().map(|(name, value)| {
        (
            HeaderName::from_static(name),
            HeaderValue::from_bytes(value.as_bytes()).unwrap(),
        )
    });
    let mut map = HeaderMap::new();
    headers.for_each(|(name, value)| {
        map.append(name, value);
    });
    CapturedResponse::new(StatusCode::CREATED, map, Bytes::from_static(body))
}

const EVERY_ROUTE: [(&str, &str, Permission); 10] = [
    ("GET", "/", Permission::List),
    ("GET", "/stats", Permission::List),
    ("GET", "/{id}", Permission::View),
    ("GET", "/{id}/operation", Permission::View),
    ("GET", "/{id}/request", Permission::Payload),
    ("GET", "/{id}/result", Permission::Result),
    ("POST", "/{id}/stop", Permission::Stop),
    ("PUT", "/{id}/stop", Permission::Stop),
    ("POST", "/{id}/retry", Permission::Retry),
    ("DELETE", "/{id}", Permission::Delete),
];

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
async fn the_operation_follows_the_task() {
    let world = World::new();
    let id = world.insert(1, |_| {}).await;
    let answer = get(&world.open(), format!("/{id}/operation")).await;
    assert_eq!((answer.status, answer.header("retry-after")), (200, "1"));
    assert_eq!(answer.json()["status"], "NotStarted");
    let error = "it broke".into();
    let lease = world.claim().await;
    world.settle(lease, Outcome::Failed { error, output: None }).await;
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
async fn a_result_that_is_not_there_yet_says_where_to_ask_again() {
    let world = World::new();
    let id = world.insert(1, |_| {}).await;
    let lease = world.claim().await;
    let progress = Progress::new(0.5, "half");
    assert!(world.store.set_progress(lease, progress).await.unwrap());
    let answer = get(&world.open(), format!("/{id}/result")).await;
    assert_eq!(answer.status, 202);
    assert_eq!(answer.header("location"), format!("/tasks/{id}/result"));
    assert_eq!(answer.header("retry-after"), "1");
    assert_eq!(answer.header("x-progress"), "0.5");
    assert_eq!(answer.header("x-respond-async-status"), "Running");
    assert_eq!(answer.json()["percentComplete"], 50);
}

#[tokio::test(start_paused = true)]
async fn a_wait_ends_with_the_task_or_with_its_time() {
    let world = World::new();
    let id = world.insert(1, |_| {}).await;
    let mut preferring = request("GET", &format!("/{id}/result"));
    let prefer = HeaderValue::from_static("wait=1");
    preferring.headers_mut().insert("prefer", prefer);
    assert_eq!(send(&world.open(), preferring).await.status, 202);

    let api = world.open();
    let waiting = get(&api, format!("/{id}/result?wait=50"));
    let output = Arc::new(response(b"done", &[]));
    let ending = async {
        tokio::task::yield_now().await;
        let lease = world.claim().await;
        world.settle(lease, Outcome::Succeeded { output }).await;
    };
    let (answer, ()) = tokio::join!(waiting, ending);
    assert_eq!((answer.status, &answer.body[..]), (201, &b"done"[..]));

    assert_eq!(get(&api, format!("/{id}/result?wait=soon")).await.status, 400);
}

#[tokio::test]
async fn a_result_is_the_handler_s_response_and_cannot_script() {
    let world = World::new();
    let stored = response(
        b"<script>steal()</script>",
        &[
            ("content-type", "text/html"),
            ("x-raw", "\u{e9}"),
            ("x-two", "1"),
            ("x-two", "2"),
            ("set-cookie", "a=1"),
            ("cache-control", "public, max-age=9"),
            ("content-security-policy", "default-src *"),
            ("connection", "x-hop"),
            ("x-hop", "1"),
            ("transfer-encoding", "chunked"),
            ("content-length", "999"),
            ("x-respond-async-status", "Forged"),
        ],
    );
    let id = world.ended(1, stored).await;
    let path = format!("/{id}/result");
    let answer = get(&world.open(), &path).await;
    assert_eq!(
        (answer.status, &answer.body[..]),
        (201, &b"<script>steal()</script>"[..])
    );
    assert_eq!(answer.header("content-type"), "text/html");
    assert_eq!(answer.headers["x-raw"].as_bytes(), "\u{e9}".as_bytes());
    assert_eq!(answer.headers.get_all("x-two").iter().count(), 2);
    assert_eq!(answer.header("content-length"), "24");
    assert_eq!(answer.header("cache-control"), "no-store");
    assert_eq!(answer.header("x-content-type-options"), "nosniff");
    assert_eq!(answer.header("x-respond-async-status"), "Succeeded");
    assert_eq!(answer.header("set-cookie"), "a=1");
    let policies: Vec<_> = answer.headers.get_all("content-security-policy").iter().collect();
    assert_eq!(policies, ["default-src *", "sandbox"]);
    for hop in ["connection", "x-hop", "transfer-encoding"] {
        assert!(!answer.headers.contains_key(hop), "{hop}");
    }

    let mut browser = request("GET", &path);
    browser
        .headers_mut()
        .insert("sec-fetch-dest", HeaderValue::from_static("empty"));
    let answer = send(&world.open(), browser).await;
    assert_eq!((answer.status, answer.header("set-cookie")), (201, ""));
    for run in ["script", "serviceworker", "style"] {
        let mut browser = request("GET", &path);
        browser
            .headers_mut()
            .insert("sec-fetch-dest", HeaderValue::from_static(run));
        assert_eq!(send(&world.open(), browser).await.status, 403, "{run}");
    }
}

#[tokio::test]
async fn head_is_get_without_the_body() {
    let world = World::new();
    let id = world.ended(1, response(b"four", &[])).await;
    for path in [
        format!("/{id}/result"),
        format!("/{id}"),
        "/".into(),
        "/nowhere/at/all".into(),
    ] {
        let full = get(&world.open(), &path).await;
        let head = send(&world.open(), request("HEAD", &path)).await;
        assert_eq!(head.status, full.status, "{path}");
        assert_eq!(head.header("content-length"), full.body.len().to_string(), "{path}");
        assert_eq!(head.header("content-type"), full.header("content-type"), "{path}");
        assert!(head.body.is_empty(), "{path}");
    }
}

#[tokio::test]
async fn a_task_that_ended_without_a_response_is_gone() {
    let world = World::new();
    let id = world.insert(1, |_| {}).await;
    assert_eq!(post(&world.open(), format!("/{id}/stop")).await.status, 200);
    let answer = get(&world.open(), format!("/{id}/result")).await;
    assert_eq!((answer.status, answer.code().as_str()), (410, "TaskHasNoResponse"));
    assert_eq!(answer.header("x-respond-async-status"), "Stopped");
    let detail = answer.json()["detail"].as_str().unwrap().to_owned();
    assert!(detail.contains("stopped before it ran"), "{detail}");
    assert_eq!(get(&world.open(), format!("/{id}")).await.status, 200);
}

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
    let output = Arc::new(response(b"one", &[]));
    let lease = world.claim().await;
    world.settle(lease, Outcome::Succeeded { output }).await;

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
    let input = world.store.input(&Scope::All, id).await.unwrap().unwrap();
    assert_eq!(input.uri, "/other?token=t");
    assert_eq!(input.headers["authorization"], "Bearer user");
    assert_eq!((input.headers.len(), &input.body[..]), (1, &b"new"[..]));

    assert_eq!(
        *world.audit.0.lock().unwrap(),
        ["retry by ann", "stop by ann", "retry by ann"]
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

#[tokio::test]
async fn stats_are_the_process_s_only_for_who_sees_everything() {
    let world = World::new();
    world.insert(1, |_| {}).await;
    let json = get(&world.open(), "/stats").await.json();
    assert_eq!(json["counts"]["Enqueued"], 1);
    assert_eq!(json["slots"]["total"], 1);
    let json = get(&world.as_one(Access::full(Scope::One(None))), "/stats")
        .await
        .json();
    assert_eq!(json["counts"]["Enqueued"], 1);
    assert!(json.get("slots").is_none() && json.get("rates").is_none());
}

#[tokio::test]
async fn every_route_needs_its_permission_and_no_other() {
    for (method, path, needed) in EVERY_ROUTE {
        let world = World::new();
        let id = world.ended(1, response(b"", &[])).await;
        let path = path.replace("{id}", &id.to_string());
        let without = world.as_one(Access::full(Scope::All).without(needed));
        let answer = send(&without, request(method, &path)).await;
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (403, "Forbidden"),
            "{method} {path}"
        );
        let only = world.as_one(Access::none(Scope::All).with(needed));
        let answer = send(&only, request(method, &path)).await;
        assert_ne!(answer.status, 403, "{method} {path}");
        assert_eq!(
            world.tasks.find(&Scope::All, &id.into()).await.unwrap().is_none(),
            method == "DELETE"
        );
    }
}

#[tokio::test]
async fn payloads_in_documents_need_their_own_permissions() {
    let world = World::new();
    let id = world.ended(1, response(b"out", &[])).await;
    let no_payload = world.as_one(Access::full(Scope::All).without(Permission::Payload));
    for path in [format!("/{id}?includePayload=1"), "/?includePayload=1".into()] {
        assert_eq!(get(&no_payload, path).await.status, 403);
    }
    let path = format!("/{id}?includePayload=1");
    assert_eq!(get(&world.open(), &path).await.json()["returnPayload"], "out");
    let no_result = world.as_one(Access::full(Scope::All).without(Permission::Result));
    let json = get(&no_result, &path).await.json();
    assert_eq!(json["taskPayload"], "payload");
    assert!(json.get("returnPayload").is_none());
}

#[tokio::test]
async fn another_tenant_s_task_is_not_there() {
    let world = World::new();
    let name = TaskName::new("job").unwrap();
    let (acme, evil) = (Tenant::new("acme"), Tenant::new("evil"));
    let id = world
        .insert(1, |task| {
            task.tenant = Some(acme.clone());
            task.name = Some(name);
        })
        .await;
    let stranger = world.as_one(Access::full(Scope::One(Some(evil))));
    let nobody = world.as_one(Access::full(Scope::One(None)));
    for api in [&stranger, &nobody] {
        for (method, path, _) in EVERY_ROUTE.into_iter().filter(|(_, path, _)| path.contains("{id}")) {
            for name in [id.to_string(), "job".into()] {
                let answer = send(api, request(method, &path.replace("{id}", &name))).await;
                assert_eq!(
                    (answer.status, answer.code().as_str()),
                    (404, "TaskNotFound"),
                    "{method} {path}"
                );
            }
        }
        assert_eq!(get(api, "/").await.json()["tasks"], json!([]));
    }
    let own = world.as_one(Access::full(Scope::One(Some(acme))));
    assert_eq!(get(&own, "/job").await.json()["tenant"], "acme");
    assert!(world.audit.0.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_name_that_two_tenants_use_is_ambiguous_to_who_sees_both() {
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

#[tokio::test]
async fn without_the_right_token_nothing_is_told_apart() {
    let world = World::new();
    let id = world.insert(1, |_| {}).await;
    let api = TaskApi::new(&world.tasks, BearerToken::new("s3cret"));
    for path in [
        "/".into(),
        format!("/{id}"),
        "/nowhere/at/all".into(),
        "/missing".into(),
    ] {
        let answer = get(&api, &path).await;
        assert_eq!((answer.status, answer.code().as_str()), (401, "Unauthorized"), "{path}");
        assert_eq!(answer.header("www-authenticate"), "Bearer");
    }
    let mut right = request("GET", "/");
    right
        .headers_mut()
        .insert("authorization", HeaderValue::from_static("Bearer s3cret"));
    assert_eq!(send(&api, right).await.status, 200);
    assert_eq!(get(&world.as_one(Access::deny()), "/").await.status, 403);
}

#[tokio::test]
async fn hostile_paths_are_answered_404_as_problems() {
    let world = World::new();
    for path in [
        "/..",
        "/../../etc/passwd",
        "/%2e%2e%2fetc",
        "/a%2Fresult",
        "/%00",
        "/%ff%fe",
        "/%",
        "/a/result/../../b",
        "//",
        "/a//result",
        "/<script>",
        "/events",
        "/bulk",
        "/openapi.json",
    ] {
        let Ok(path) = Uri::try_from(path) else { continue };
        let answer = get(&world.open(), path.to_string()).await;
        assert_eq!(answer.status, 404, "{path}");
        answer.code();
    }
    let long = format!("/{}", "a".repeat(10_000));
    let answer = get(&world.open(), long).await;
    assert_eq!(answer.status, 404);
    assert!(answer.body.len() < 2048);
}

#[tokio::test]
async fn wrong_methods_are_told_the_right_ones() {
    let world = World::new();
    let answer = send(&world.open(), request("PATCH", "/a")).await;
    assert_eq!((answer.status, answer.code().as_str()), (405, "MethodNotAllowed"));
    assert_eq!(answer.header("allow"), "GET, HEAD, DELETE, OPTIONS");
    let answer = send(&world.open(), request("OPTIONS", "/a/stop")).await;
    assert_eq!((answer.status, answer.header("allow")), (204, "POST, PUT, OPTIONS"));
}

#[tokio::test]
async fn a_page_of_another_origin_changes_nothing() {
    let world = World::new();
    let id = world.insert(1, |_| {}).await;
    for (method, path) in [
        ("POST", format!("/{id}/stop")),
        ("DELETE", format!("/{id}")),
        ("POST", format!("/{id}/retry")),
    ] {
        let mut cross = request(method, &path);
        cross
            .headers_mut()
            .insert("sec-fetch-site", HeaderValue::from_static("cross-site"));
        assert_eq!(send(&world.open(), cross).await.code(), "Forbidden");
    }
    let mut own = request("POST", &format!("/{id}/stop"));
    own.headers_mut()
        .insert("sec-fetch-site", HeaderValue::from_static("same-origin"));
    assert_eq!(send(&world.open(), own).await.status, 200);
}

#[tokio::test]
async fn the_base_is_taken_off_where_nothing_did_before() {
    let world = World::new();
    let id = world.insert(1, |_| {}).await;
    let api = world.open().strip_prefix("/tasks/");
    for path in ["/tasks".into(), "/tasks/".into(), format!("/tasks/{id}")] {
        assert_eq!(get(&api, &path).await.status, 200, "{path}");
    }
    for path in ["/".into(), "/tasksx".into(), format!("/{id}")] {
        assert_eq!(get(&api, &path).await.code(), "NotFound", "{path}");
    }
}

#[tokio::test]
async fn it_nests_in_a_router() {
    let world = World::new();
    let id = world.insert(1, |_| {}).await;
    let app = axum::Router::<()>::new().nest_service("/tasks", world.open());
    for (path, status) in [
        ("/tasks".into(), 200),
        ("/tasks/".into(), 200),
        ("/tasks/stats".into(), 200),
        (format!("/tasks/{id}"), 200),
        ("/tasks/missing".into(), 404),
    ] {
        let request = Request::get(path.as_str()).body(axum::body::Body::empty()).unwrap();
        let response = app.clone().oneshot(request).await.unwrap();
        assert_eq!(response.status(), status, "{path}");
    }
}

#[tokio::test]
async fn when_the_engine_is_gone_the_api_says_so() {
    let world = World::new();
    let api = world.open();
    drop(world.tasks);
    let answer = get(&api, "/").await;
    assert_eq!((answer.status, answer.code().as_str()), (503, "ShuttingDown"));
    assert_eq!(answer.header("retry-after"), "5");
}

#[tokio::test]
async fn a_closed_store_is_unavailable() {
    let world = World::new();
    world.tasks.shutdown(Duration::ZERO).await;
    let answer = get(&world.open(), "/").await;
    assert_eq!((answer.status, answer.code().as_str()), (503, "StoreUnavailable"));
}

#[test]
fn the_api_can_be_shared_between_threads() {
    fn shared<T: Send + Sync + Clone + 'static>() {}
    shared::<TaskApi>();
    fn authorizer<T: Authorizer>() {}
    authorizer::<BearerToken>();
}
