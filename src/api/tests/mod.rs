//! The API as a client sees it, over a memory store whose tasks the tests move by hand.

mod bulk;
mod change;
mod events;
mod list;
mod logs;
mod look;
mod openapi;
mod paths;
mod permission;
mod result;
mod settings;

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
    engine::{Alive, ApiAddress, Backoff, Engine, Hooks, Probes, Settings, Tasks},
    probe::{Event, Probe},
    store::{Claim, Held, Insert, Ledger, Limits, MemoryStore, Retention, TaskStore},
    task::{
        CapturedRequest, CapturedResponse, NewTask, Progress, RequestId, Scope, TaskName, Tenant, WorkerId,
        lifecycle::Outcome,
    },
    time::Timestamp,
};

/// Records the changes that the probes get.
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
            version: None,
            version_patience: Duration::ZERO,
            pools: Vec::new(),
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
            callback_patience: Duration::from_secs(60),
            key_window: Duration::from_secs(60),
            store_timeout: Duration::from_secs(5),
            max_waiters: 10,
            hooks: Hooks::default(),
            simulated: None,
        };
        let probes = Probes::new(vec![audit.clone()]);
        let address = ApiAddress {
            base: "/tasks".into(),
            wait_cap: Duration::from_secs(60),
            ..ApiAddress::default()
        };
        let engine = Engine::new(Arc::new(store.clone()), settings, probes, Handle::current(), address);
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
        let request = CapturedRequest::new(Method::POST, uri, headers, Bytes::from_static(b"payload"));
        let id = RequestId::from_parts(Timestamp::from_millis(1_700_000_000_000), [number; 10]);
        let mut task = NewTask::new(id, Arc::new(request));
        change(&mut task);
        let _ = self.ledger().insert(Insert::new(task)).await.unwrap();
        id
    }

    fn ledger(&self) -> Ledger {
        Ledger::of(self.store.clone())
    }

    async fn claim(&self) -> Held {
        let claim = Claim::new(WorkerId::new("w", 1), 1, Duration::from_secs(30));
        self.ledger().claim(claim).await.unwrap().tasks.remove(0).held
    }

    /// A claim whose holder is dead.
    async fn crash(&self) {
        let claim = Claim::new(WorkerId::new("gone", 2), 1, Duration::ZERO);
        assert_eq!(self.store.claim(claim).await.unwrap().tasks.len(), 1);
        assert_eq!(self.ledger().rescue(1).await.unwrap().tasks.len(), 1);
    }

    async fn settle(&self, held: Held, outcome: Outcome) {
        let _ = self.ledger().settle(&held, &outcome).await.unwrap();
    }

    /// A task that has ended with this response.
    async fn ended(&self, number: u8, response: CapturedResponse) -> RequestId {
        let id = self.insert(number, |_| {}).await;
        let response = Arc::new(response);
        let lease = self.claim().await;
        self.settle(lease, Outcome::Succeeded { response }).await;
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

const EVERY_ROUTE: [(&str, &str, Permission); 20] = [
    ("POST", "/bulk/stop", Permission::Stop),
    ("POST", "/bulk/retry", Permission::Retry),
    ("POST", "/bulk/delete", Permission::Delete),
    ("GET", "/", Permission::List),
    ("GET", "/events", Permission::List),
    ("GET", "/stats", Permission::List),
    ("GET", "/settings", Permission::List),
    ("GET", "/{id}", Permission::View),
    ("GET", "/{id}/operation", Permission::View),
    ("GET", "/{id}/request", Permission::Payload),
    ("GET", "/{id}/response", Permission::Result),
    ("GET", "/{id}/logs", Permission::Logs),
    ("GET", "/{id}/events", Permission::View),
    ("GET", "/{id}/result", Permission::Result),
    ("GET", "/{id}/callbacks", Permission::Callbacks),
    ("POST", "/{id}/callbacks/1/redeliver", Permission::Callbacks),
    ("POST", "/{id}/stop", Permission::Stop),
    ("PUT", "/{id}/stop", Permission::Stop),
    ("POST", "/{id}/retry", Permission::Retry),
    ("DELETE", "/{id}", Permission::Delete),
];
