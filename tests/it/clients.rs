//! Clients that poll, each as its specification says, over a real connection.

use std::net::SocketAddr;

use axum::{
    Router,
    body::Body,
    http::HeaderMap,
    response::IntoResponse,
    routing::{any, post},
};
use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, Request, StatusCode, Uri};
use http_body_util::Full;
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use tower_respond_async::{
    Access, Dialect, Links, MemoryStore, RespondAsyncBuilder, Scope, TaskApi, TaskContext, TaskState, api::Permission,
};

use crate::support::{Answered, App, Gate, WithoutBody, fc, no_retries, prefer, routes, soon};

/// An application that is served, and a client of it.
struct Served {
    app: App,
    gate: Gate,
    address: SocketAddr,
    http: Client<HttpConnector, Full<Bytes>>,
}

impl Served {
    async fn new(configure: impl FnOnce(RespondAsyncBuilder) -> RespondAsyncBuilder) -> Self {
        let gate = Gate::new();
        let halfway = gate.clone();
        let export = any(move |task: TaskContext| {
            let gate = halfway.clone();
            async move {
                task.progress(0.5, "half of it");
                gate.pass().await;
                ([("content-type", "application/json")], r#"{"output":[]}"#)
            }
        });
        let app = App::build(MemoryStore::new(), routes().route("/export", export), configure);
        let address = app.serve().await;
        let http = Client::builder(TokioExecutor::new()).build_http();
        Self {
            app,
            gate,
            address,
            http,
        }
    }

    /// Sends a request to a whole URL, or to a reference that is resolved against the server's address.
    async fn send(&self, method: Method, at: &str, lines: &[(&'static str, &str)]) -> Answered {
        let url = match at.starts_with('/') {
            true => format!("http://{}{at}", self.address),
            false => at.to_owned(),
        };
        let mut request = Request::builder()
            .method(method)
            .uri(url)
            .body(Full::default())
            .unwrap();
        for (name, value) in lines {
            let value = HeaderValue::from_str(value).unwrap();
            request.headers_mut().append(HeaderName::from_static(name), value);
        }
        let response = soon(self.http.request(request)).await.unwrap();
        Answered::read(response.map(Body::new)).await
    }

    async fn get(&self, at: &str) -> Answered {
        self.send(Method::GET, at, &[]).await
    }

    /// Polls while `pending` is true, for the first time while the handler waits.
    async fn poll(&self, at: &str, lines: &[(&'static str, &str)], pending: impl Fn(&Answered) -> bool) -> Answered {
        self.gate.arrived().await;
        let first = self.send(Method::GET, at, lines).await;
        assert!(pending(&first), "{first:?}");
        assert_eq!(first.header("retry-after"), "1");
        self.gate.let_pass(1);
        soon(async {
            loop {
                let answer = self.send(Method::GET, at, lines).await;
                if !pending(&answer) {
                    return answer;
                }
                tokio::task::yield_now().await;
            }
        })
        .await
    }
}

fn is_202(answer: &Answered) -> bool {
    answer.status == 202
}

#[tokio::test]
async fn curl_follows_location_until_the_result_is_there() {
    let served = Served::new(|builder| builder).await;
    let trigger = [("x-fc-invocation-type", "Async")];
    let accepted = served.send(Method::POST, "/export", &trigger).await;
    accepted.assert_accepted();
    // The trigger header stays on, as with a command from a shell's history. Polls are answered all the same.
    let result = served.poll(accepted.header("location"), &trigger, is_202).await;
    assert_eq!((result.status, &result.body[..]), (200, &br#"{"output":[]}"#[..]));
    assert_eq!(result.header("x-respond-async-status"), "Succeeded");
}

/// FHIR R5 Asynchronous Interaction Request Pattern, and Bulk Data Access: the client polls `Content-Location`.
mod fhir {
    use super::*;

    async fn kick_off(served: &Served) -> String {
        let asked = [("prefer", "respond-async"), ("accept", "application/fhir+json")];
        let accepted = served.send(Method::GET, "/export", &asked).await;
        accepted.assert_accepted();
        let status = accepted.header("content-location").to_owned();
        let absolute: Uri = status.parse().unwrap();
        assert_eq!(absolute.authority().unwrap().as_str(), served.address.to_string());
        status
    }

    #[tokio::test]
    async fn the_status_is_202_with_progress_and_then_the_result() {
        let served = Served::new(|builder| builder.links(Links::FromHost)).await;
        let status = kick_off(&served).await;
        let pending = |answer: &Answered| {
            assert!(answer.status != 202 || answer.header("content-location") == status);
            // A text for people of less than 100 characters.
            assert!(
                answer.status != 202 || answer.header("x-progress") == "0.5",
                "{answer:?}"
            );
            answer.status == 202
        };
        let done = served.poll(&status, &[("accept", "application/json")], pending).await;
        assert_eq!((done.status, done.header("content-type")), (200, "application/json"));
        assert_eq!(done.body, r#"{"output":[]}"#);
    }

    #[tokio::test]
    async fn a_delete_at_the_status_cancels_while_it_runs() {
        let served = Served::new(|builder| builder.links(Links::FromHost)).await;
        let status = kick_off(&served).await;
        served.gate.arrived().await;
        let cancelled = served.send(Method::DELETE, &status, &[]).await;
        assert_eq!(cancelled.status, 202);
        let id = cancelled.json()["requestId"].as_str().unwrap().parse().unwrap();
        served.app.until(id, TaskState::Stopped).await;
        let gone = served.get(&status).await;
        assert_eq!(gone.status, 410, "{gone:?}");
        let again = served.send(Method::DELETE, &status, &[]).await;
        assert_eq!((again.status, &again.json()["status"]), (202, &"Stopped".into()));
        assert_eq!(
            served.app.record(id).await.state,
            TaskState::Stopped,
            "it stays, to say so"
        );
    }

    #[tokio::test]
    async fn a_delete_at_the_status_removes_what_has_ended() {
        let served = Served::new(|builder| builder.links(Links::FromHost)).await;
        let status = kick_off(&served).await;
        served.poll(&status, &[], is_202).await;
        assert_eq!(served.send(Method::DELETE, &status, &[]).await.status, 204);
        assert_eq!(served.get(&status).await.status, 404);
        assert_eq!(served.send(Method::DELETE, &status, &[]).await.status, 404);
    }
}

/// OData 4.01 Protocol, §11.6: `Location` is the status monitor, on the 202 and on each 202 of the monitor.
#[tokio::test]
async fn odata_polls_the_status_monitor_and_gets_the_status_of_the_result() {
    let served = Served::new(|builder| builder).await;
    let lines = [("odata-maxversion", "4.01"), ("prefer", "respond-async")];
    let accepted = served.send(Method::POST, "/export", &lines).await;
    accepted.assert_accepted();
    assert_eq!(accepted.header("preference-applied"), "respond-async");
    let monitor = accepted.header("location").to_owned();
    let pending = |answer: &Answered| {
        assert!(
            answer.status != 202 || answer.header("location") == monitor,
            "{answer:?}"
        );
        answer.status == 202
    };
    let done = served.poll(&monitor, &[("odata-maxversion", "4.01")], pending).await;
    assert_eq!((done.status, done.header("asyncresult")), (200, "200"));
    let plain = served.get(&monitor).await;
    assert_eq!(plain.header("asyncresult"), "", "for clients of OData alone");

    let accepted = served.send(Method::POST, "/export", &lines).await;
    served.gate.arrived().await;
    let cancelled = served.send(Method::DELETE, accepted.header("location"), &lines).await;
    assert_eq!(cancelled.status, 202);
    served.app.until(accepted.id(), TaskState::Stopped).await;
}

/// Azure's guidelines for long-running operations: the client polls `Operation-Location` for a document whose `status`
/// ends as `Succeeded`, `Failed` or `Canceled`. Then it fetches `resourceLocation`. The pollers of its SDKs use each
/// URL as it is, without resolving it; that of Python refuses one without a scheme.
#[tokio::test]
async fn azure_pollers_read_the_operation_at_an_absolute_url() {
    let served = Served::new(|builder| builder.links(Links::FromHost)).await;
    for trigger in [("x-fc-invocation-type", "Async"), ("prefer", "respond-async")] {
        let accepted = served.send(Method::POST, "/export", &[trigger]).await;
        accepted.assert_accepted();
        let operation = accepted.header("operation-location");
        assert!(
            operation.starts_with(&format!("http://{}/", served.address)),
            "{operation}"
        );
        let pending = |answer: &Answered| {
            assert_eq!(answer.status, 200);
            let status = answer.json()["status"].as_str().unwrap().to_lowercase();
            !["succeeded", "failed", "canceled"].contains(&status.as_str())
        };
        let done = served.poll(operation, &[], pending).await.json();
        assert_eq!(done["status"], "Succeeded");
        assert_eq!(done["percentComplete"], 100);
        let resource = done["resourceLocation"].as_str().unwrap();
        assert_eq!(served.get(resource).await.body, r#"{"output":[]}"#);
    }
}

/// The SDKs of cloud functions read the ids, and look the task up by them.
#[tokio::test]
async fn a_cloud_function_sdk_finds_its_task_by_either_id() {
    let served = Served::new(|builder| builder).await;
    let lines = [("x-fc-invocation-type", "Async"), ("x-fc-async-task-id", "job-1")];
    let accepted = served.send(Method::POST, "/export", &lines).await;
    assert_eq!(accepted.header("x-fc-async-task-id"), "job-1");
    served.gate.arrived().await;
    for id in ["job-1", &accepted.id().to_string()] {
        let task = served.get(&format!("/tasks/{id}")).await;
        assert_eq!((task.status, &task.json()["status"]), (200, &"Running".into()));
    }
    let stopped = served.send(Method::PUT, "/tasks/job-1/stop", &[]).await;
    assert_eq!(stopped.status, 202);
    served.app.until(accepted.id(), TaskState::Stopped).await;
}

#[tokio::test]
async fn every_link_begins_with_one_base() {
    type Configure = fn(RespondAsyncBuilder) -> RespondAsyncBuilder;
    let configured: [(Configure, &str); 4] = [
        (|builder| builder, "/tasks/"),
        (
            |builder| builder.links(Links::FromHost),
            "http://client.example:81/tasks/",
        ),
        (
            |builder| builder.trust_forwarding_headers(),
            "https://front.example/app/tasks/",
        ),
        (
            |builder| builder.public_url("https://public.example/x").links(Links::FromHost),
            "https://public.example/x/tasks/",
        ),
    ];
    for (configure, base) in configured {
        let app = App::with(|builder| configure(builder.hosts(["client.example"])));
        let at = |request: http::request::Builder| {
            request
                .header("Host", "client.example:81")
                .header("X-Forwarded-Proto", "https")
                .header("X-Forwarded-Host", "front.example")
                .header("X-Forwarded-Prefix", "/app")
        };
        let accepted = app
            .send(at(fc("/echo")).header("X-Fc-Async-Delay", "3000").empty())
            .await;
        let id = accepted.id();
        let poll = app.send(at(Request::get(format!("/tasks/{id}/result"))).empty()).await;
        assert_eq!(poll.status, 202);
        for answer in [&accepted, &poll] {
            assert_eq!(answer.header("location"), format!("{base}{id}/result"));
            assert_eq!(answer.header("content-location"), answer.header("location"));
            assert_eq!(answer.header("operation-location"), format!("{base}{id}/operation"));
        }
        assert_eq!(accepted.json(), poll.json(), "it is the same resource");
        let listed = app.send(at(Request::get("/tasks")).empty()).await.json()["tasks"][0].clone();
        let viewed = app.send(at(Request::get(format!("/tasks/{id}"))).empty()).await.json();
        for document in [accepted.json(), listed, viewed] {
            let links = document["links"].as_object().unwrap();
            assert!(
                links.len() > 5 && links.values().all(|link| link.as_str().unwrap().starts_with(base)),
                "{links:?}"
            );
        }
        let stopped = app.send(at(Request::post(format!("/tasks/{id}/stop"))).empty()).await;
        assert_eq!(stopped.status, 200);
        let retried = app.send(at(Request::post(format!("/tasks/{id}/retry"))).empty()).await;
        assert_eq!(retried.header("location"), format!("{base}{id}/result"));
        app.ended(id).await;
        let operation = app
            .send(at(Request::get(format!("/tasks/{id}/operation"))).empty())
            .await
            .json();
        assert_eq!(operation["resourceLocation"], format!("{base}{id}/result"));
    }
}

/// A handler's own 202 or 503 must differ from that of a poll.
#[tokio::test]
async fn an_answer_says_whether_it_is_the_task_s_own_or_about_it() {
    let app = App::with(|builder| builder.retry(no_retries()));
    for (status, state) in [(202, "Succeeded"), (503, "Failed")] {
        let accepted = app
            .send(
                fc(&format!("/status/{status}"))
                    .header("X-Fc-Async-Delay", "3000")
                    .empty(),
            )
            .await;
        assert_eq!(accepted.header("x-respond-async-status"), "Enqueued");
        let waited = app
            .send(prefer(&format!("/status/{status}"), "respond-async, wait=50").empty())
            .await;
        assert_eq!(
            (waited.status, waited.header("x-respond-async-status")),
            (status, state)
        );
        let result = app.get(format!("/tasks/{}/result", waited.id())).await;
        assert_eq!(
            (result.status, result.header("x-respond-async-status")),
            (status, state)
        );
        assert_eq!(result.body, waited.body);
    }
}

async fn created(headers: HeaderMap) -> impl IntoResponse {
    let location = headers["x-location"].clone();
    (
        StatusCode::CREATED,
        [("location", location.clone()), ("content-location", location)],
    )
}

#[tokio::test]
async fn a_relative_location_is_resolved_against_what_was_asked() {
    let inner = Router::new().route("/films/new", post(created));
    let routes = Router::new().nest("/v1", inner.clone()).merge(inner);
    let app = App::build(MemoryStore::new(), routes, |builder| builder);
    for (path, location, expected) in [
        ("/films/new", "7", "/films/7"),
        ("/v1/films/new?a=b", "7?c#d", "/v1/films/7?c#d"),
        ("/v1/films/new", "../actors/1", "/v1/actors/1"),
        ("/v1/films/new", "/films/7", "/films/7"),
        (
            "/v1/films/new",
            "https://elsewhere.example/7",
            "https://elsewhere.example/7",
        ),
        ("/v1/films/new", "//elsewhere.example/7", "//elsewhere.example/7"),
    ] {
        let id = app.accepted(fc(path).header("X-Location", location).empty()).await;
        app.ended(id).await;
        let result = app.get(format!("/tasks/{id}/result")).await;
        assert_eq!(
            (result.status, result.header("location")),
            (201, expected),
            "{path} {location}"
        );
        assert_eq!(result.header("content-location"), expected);
        let sync = app
            .send(Request::post(path).header("X-Location", location).empty())
            .await;
        assert_eq!(sync.header("location"), location, "a synchronous answer is left alone");
    }
}

#[tokio::test]
async fn sync_wins_over_a_preference() {
    let app = App::new();
    for word in ["Sync", "sync"] {
        let request = prefer("/echo", "respond-async").header("X-Fc-Invocation-Type", word);
        let answer = app.send(request.with("hello")).await;
        assert_eq!((answer.status, &answer.body[..]), (200, &b"hello"[..]));
        assert_eq!(answer.header("preference-applied"), "");
    }
    assert_eq!(app.kept().await, 0);

    let other_order = App::with(|builder| builder.dialects([Dialect::Prefer, Dialect::Fc]));
    let request = prefer("/echo", "respond-async").header("X-Fc-Invocation-Type", "Sync");
    assert_eq!(other_order.send(request.empty()).await.status, 200);
}

#[tokio::test]
async fn a_path_of_the_application_is_deferred_where_no_api_stands_on_it() {
    let routes = Router::new().route("/tasks/7", any(|| async { "the application's own" }));
    let own = App::wrap(MemoryStore::new(), |builder| builder, |_| routes.clone());
    let id = own.accepted(fc("/tasks/7").empty()).await;
    assert_eq!(own.response(id).await.body, "the application's own");

    let excluded = App::wrap(MemoryStore::new(), |builder| builder.never_async("/tasks"), |_| routes);
    assert_eq!(excluded.send(fc("/tasks/7").empty()).await.status, 200);

    let mounted = App::new();
    let polled = mounted.send(fc("/tasks/7/result").empty()).await;
    assert_eq!((polled.status, mounted.kept().await), (405, 0), "the API's own answer");
}

#[tokio::test]
async fn a_cancel_needs_the_permission_for_what_it_comes_to() {
    let may = [Permission::Stop, Permission::Delete];
    for (granted, queued, ended) in [
        (&may[..], 202, 204),
        (&may[..1], 202, 403),
        (&may[1..], 403, 204),
        (&[], 403, 403),
    ] {
        let access = granted
            .iter()
            .fold(Access::none(Scope::All), |access, each| access.with(*each));
        let app = App::wrap(
            MemoryStore::new(),
            |builder| builder,
            |tasks| {
                let access = access.clone();
                let api = TaskApi::new(tasks, move |_: &http::request::Parts| access.clone());
                routes().nest_service("/tasks", api)
            },
        );
        let cancel = async |id| {
            let request = Request::delete(format!("/tasks/{id}/result"));
            app.send(request.empty()).await.status
        };
        let waiting = app
            .accepted(fc("/echo").header("X-Fc-Async-Delay", "3000").empty())
            .await;
        assert_eq!(cancel(waiting).await, queued, "{granted:?}");
        let done = app.accepted(fc("/echo").empty()).await;
        app.ended(done).await;
        assert_eq!(cancel(done).await, ended, "{granted:?}");
    }
}

#[tokio::test]
async fn a_caller_without_view_permission_polls_without_its_document() {
    let result = Access::none(Scope::All).with(Permission::Result);
    let app = App::wrap(
        MemoryStore::new(),
        |builder| builder,
        |tasks| {
            let api = TaskApi::new(tasks, move |_: &http::request::Parts| result.clone());
            routes().nest_service("/tasks", api)
        },
    );
    let id = app
        .accepted(fc("/echo?a=b").header("X-Fc-Async-Delay", "3000").empty())
        .await;
    let poll = app.get(format!("/tasks/{id}/result")).await;
    assert_eq!((poll.status, poll.json()["status"].as_str()), (202, Some("NotStarted")));
    assert!(poll.json().get("uri").is_none());
}
