//! The examples do what their curl lines show.

use std::{fmt, time::Duration};

use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode};
use http_body::Body;
use http_body_util::{BodyExt, Full};
use tower::{Service, ServiceExt};
use tower_respond_async::TaskState;

use crate::support::soon;

#[path = "../../examples/callbacks.rs"]
#[expect(dead_code, reason = "its main is for people")]
mod callbacks;
#[path = "../../examples/hooks.rs"]
#[expect(dead_code, reason = "its main is for people")]
mod hooks;
#[path = "../../examples/hyper_app.rs"]
#[expect(dead_code, reason = "its main is for people")]
mod hyper_app;
#[path = "../../examples/quickstart.rs"]
#[expect(dead_code, reason = "its main is for people")]
mod quickstart;
#[path = "../../examples/shutdown.rs"]
#[expect(dead_code, reason = "its main is for people")]
mod shutdown;

#[tokio::test]
async fn the_quickstart_counts_now_or_later() {
    let app = quickstart::app().unwrap();

    let waited = send(&app, post("/count/0", "")).await;
    assert_eq!(
        (waited.status(), &waited.body()[..]),
        (StatusCode::OK, &b"counted to 0\n"[..])
    );

    let accepted = send(&app, with("x-fc-invocation-type", "Async", post("/count/1", ""))).await;
    assert_eq!(result_of(&app, &accepted).await.body(), "counted to 1\n");

    let patient = send(&app, with("prefer", "respond-async, wait=1", post("/count/3", ""))).await;
    assert_eq!(patient.status(), StatusCode::ACCEPTED);
    assert_eq!(patient.headers()["preference-applied"], "respond-async, wait=1");

    let list = send(&app, get("/tasks")).await;
    let list: serde_json::Value = serde_json::from_slice(list.body()).unwrap();
    assert_eq!(list["tasks"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn the_hyper_app_reverses_now_or_later() {
    let app = hyper_app::app::<Full<Bytes>>().unwrap();

    let reversed = send(&app, post("/reverse", "stressed")).await;
    assert_eq!(
        (reversed.status(), &reversed.body()[..]),
        (StatusCode::OK, &b"desserts"[..])
    );

    let accepted = send(&app, async_post("/reverse", "stressed")).await;
    assert_eq!(result_of(&app, &accepted).await.body(), "desserts");

    let stats = send(&app, get("/tasks/stats")).await;
    let stats: serde_json::Value = serde_json::from_slice(stats.body()).unwrap();
    assert_eq!(stats["counts"]["Succeeded"], 1);
    for elsewhere in ["/nothing", "/tasks-of-mine"] {
        let answer = send(&app, get(elsewhere)).await;
        assert_eq!(answer.body(), "there is nothing here\n", "{elsewhere}");
        assert_eq!(answer.status(), StatusCode::NOT_FOUND);
    }
}

#[tokio::test]
async fn a_shutdown_lets_finish_what_can_and_hands_back_the_rest() {
    let (app, tasks) = shutdown::app().unwrap();
    for uri in ["/sleep/1", "/sleep/60"] {
        let accepted = send(&app, async_post(uri, "")).await;
        assert_eq!(accepted.status(), StatusCode::ACCEPTED);
    }
    let running = async || tasks.stats().await.unwrap().slots.unwrap().used;
    soon(async {
        while running().await < 2 {
            tokio::task::yield_now().await;
        }
    })
    .await;

    tasks.close();
    let refused = send(&app, async_post("/sleep/1", "")).await;
    assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert!(refused.headers().contains_key("retry-after"));
    assert_eq!(send(&app, post("/sleep/0", "")).await.body(), "slept 0 s\n");

    let report = tasks.shutdown(Duration::from_secs(3)).await;
    assert_eq!((report.finished, report.handed_back, report.dropped), (1, 1, 0));
}

#[tokio::test]
async fn hooks_hear_of_success_and_failure() {
    let failures = std::env::temp_dir().join(format!("failed-tasks-{}.log", std::process::id()));
    let (app, mut ended) = hooks::app(failures.clone()).unwrap();

    send(&app, async_post("/square", "12")).await;
    let completion = soon(ended.recv()).await.unwrap();
    assert_eq!(completion.state, TaskState::Succeeded);
    assert_eq!(completion.response.unwrap().body, "144\n");

    send(&app, async_post("/square", "twelve")).await;
    let completion = soon(ended.recv()).await.unwrap();
    assert_eq!(completion.state, TaskState::Failed);
    let written = std::fs::read_to_string(&failures).unwrap();
    assert!(written.starts_with(&completion.webhook_id), "{written}");
    std::fs::remove_file(failures).unwrap();
}

#[tokio::test]
async fn callbacks_are_signed_and_only_signed_ones_are_accepted() {
    let secret = || "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw".parse().unwrap();
    let (believed, mut messages) = tokio::sync::mpsc::channel(10);
    let receiver = callbacks::receiver(secret(), believed);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let serving = receiver.clone();
    tokio::spawn(async move { axum::serve(listener, serving).await });
    let app = callbacks::app(address, secret()).unwrap();

    for (body, place, payload) in [
        ("12", "dest-succ", "144\n"),
        ("twelve", "dest-fail", "\"twelve\": invalid digit"),
    ] {
        send(&app, async_post("/square", body)).await;
        let told = soon(messages.recv()).await.unwrap();
        assert_eq!(told.place, place);
        let document: serde_json::Value = serde_json::from_slice(&told.body).unwrap();
        assert!(
            document["responsePayload"].as_str().unwrap().starts_with(payload),
            "{document}"
        );
        assert!(told.id.starts_with("msg_"), "{told:?}");
    }

    let url = format!("http://{address}/mine");
    let prefer = format!("respond-async, callback; url=\"{url}\"");
    let mut asking = post("/square", "5");
    asking
        .headers_mut()
        .insert("prefer", HeaderValue::try_from(prefer).unwrap());
    let accepted = send(&app, asking).await;
    assert_eq!(accepted.headers()["preference-applied"], "respond-async, callback");
    let mut places = [(); 2].map(|()| String::new());
    for place in &mut places {
        *place = soon(messages.recv()).await.unwrap().place;
    }
    places.sort_unstable();
    assert_eq!(places, ["dest-succ", "mine"]);

    let forged = send(&receiver, post("/dest-succ", "forged")).await;
    assert_eq!(forged.status(), StatusCode::UNAUTHORIZED);
}

/// Calls a service as a server would, and reads its response to the end.
pub(crate) async fn send<S, R>(app: &S, request: Request<Full<Bytes>>) -> Response<Bytes>
where
    S: Service<Request<Full<Bytes>>, Response = Response<R>, Error: fmt::Debug> + Clone,
    R: Body<Data = Bytes, Error: fmt::Debug>,
{
    let (head, body) = app.clone().oneshot(request).await.unwrap().into_parts();
    Response::from_parts(head, body.collect().await.unwrap().to_bytes())
}

/// Waits for an accepted task. Answers with the handler's response.
pub(crate) async fn result_of<S, R>(app: &S, accepted: &Response<Bytes>) -> Response<Bytes>
where
    S: Service<Request<Full<Bytes>>, Response = Response<R>, Error: fmt::Debug> + Clone,
    R: Body<Data = Bytes, Error: fmt::Debug>,
{
    assert_eq!(accepted.status(), StatusCode::ACCEPTED);
    let place = accepted.headers()["location"].to_str().unwrap();
    send(app, with("prefer", "wait=10", get(place))).await
}

pub(crate) fn get(uri: &str) -> Request<Full<Bytes>> {
    Request::get(uri).body(Full::default()).unwrap()
}

pub(crate) fn post(uri: &str, body: &'static str) -> Request<Full<Bytes>> {
    Request::post(uri).body(Full::from(body)).unwrap()
}

pub(crate) fn async_post(uri: &str, body: &'static str) -> Request<Full<Bytes>> {
    with("prefer", "respond-async", post(uri, body))
}

fn with(name: &'static str, value: &'static str, mut request: Request<Full<Bytes>>) -> Request<Full<Bytes>> {
    request.headers_mut().insert(name, HeaderValue::from_static(value));
    request
}
