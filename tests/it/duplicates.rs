//! What a repeated request gets: from the same client, from another client, and after its task is gone.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    routing::{any, get},
};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, Request, Response, header, request, request::Parts};
use hyper::{client::conn, server::conn as serving, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tempfile::tempdir;
use tower::ServiceExt;
use tower_respond_async::{
    Credentials, HeaderPolicy, MemoryStore, RequestId, RespondAsyncBuilder, Submission, Submitted, TaskName, TaskStore,
    Tenant,
    hook::webhook::{CallbackPolicy, Secret},
    probe::{Event, Probe},
    store::{Ledger, Operation, Retention},
    task::{Caller, IdempotencyKey},
    testing::FaultStore,
};
use tower_respond_async_redb::RedbStore;

use crate::support::{Answered, App, WithoutBody, and_header, fc, routes, soon, talk};

/// An application in which `GET /me` answers with its caller, sets a session cookie, and counts its calls.
fn me(configure: impl FnOnce(RespondAsyncBuilder) -> RespondAsyncBuilder) -> (App, Arc<AtomicUsize>) {
    me_on(MemoryStore::new(), configure)
}

fn me_on(
    store: impl TaskStore,
    configure: impl FnOnce(RespondAsyncBuilder) -> RespondAsyncBuilder,
) -> (App, Arc<AtomicUsize>) {
    let runs = Arc::new(AtomicUsize::new(0));
    let counted = runs.clone();
    let handler = get(async move |headers: HeaderMap| {
        counted.fetch_add(1, Ordering::SeqCst);
        let who = headers.get(header::AUTHORIZATION);
        let who = who.map_or_else(String::new, |who| who.to_str().unwrap().to_owned());
        ([(header::SET_COOKIE, "session=of-the-first")], who)
    });
    let app = App::build(store, routes().route("/me", handler), configure);
    (app, runs)
}

/// `GET /me` with more headers, identified by the header `by`, and ready to wait.
fn ask(by: &str, more: &[(&str, &str)]) -> Request<Body> {
    let mut request = fc("/me").method("GET").header("Prefer", "respond-async, wait=5");
    request = request.header(by, "same");
    more.iter()
        .fold(request, |request, (name, value)| request.header(*name, *value))
        .empty()
}

const KEY: &str = "Idempotency-Key";
const NAME: &str = "X-Fc-Async-Task-Id";
const ALICE: (&str, &str) = ("Authorization", "Bearer alice");
const BOB: (&str, &str) = ("Authorization", "Bearer bob");

/// The task's own response, without its session cookie.
#[track_caller]
fn assert_shown(answer: &Answered, who: &str) {
    assert_eq!((answer.status, &answer.body[..]), (200, who.as_bytes()), "{answer:?}");
    assert!(answer.is_duplicate(), "{answer:?}");
    assert!(!answer.headers.contains_key(header::SET_COOKIE), "{answer:?}");
}

/// Only that there is a task, and where.
#[track_caller]
fn assert_withheld(answer: &Answered, id: RequestId) {
    assert_eq!((answer.status, &answer.body[..]), (202, &b""[..]), "{answer:?}");
    assert!(answer.is_duplicate(), "{answer:?}");
    assert_eq!(answer.id(), id);
    assert_eq!(answer.header("location"), format!("/tasks/{id}/result"));
    let known = [
        "location",
        "preference-applied",
        "vary",
        "x-fc-async-task-id",
        "x-fc-request-id",
        "x-respond-async-duplicate",
    ];
    let more: Vec<_> = answer
        .header_names()
        .into_iter()
        .filter(|name| !known.contains(name))
        .collect();
    assert!(more.is_empty(), "{more:?} of {answer:?}");
}

fn runs(runs: &AtomicUsize) -> usize {
    runs.load(Ordering::SeqCst)
}

#[tokio::test]
async fn the_same_request_of_another_user_gets_the_id_only() {
    for by in [KEY, NAME] {
        let (app, counted) = me(|builder| builder);
        let first = app.send(ask(by, &[ALICE])).await;
        assert_eq!((first.status, &first.body[..]), (200, &b"Bearer alice"[..]));
        assert_eq!(first.header("set-cookie"), "session=of-the-first");
        for other in [
            &[BOB][..],
            &[],
            &[ALICE, BOB],
            &[ALICE, ("Cookie", "a=b")],
            &[ALICE, ("X-Api-Key", "k")],
        ] {
            let answer = app.send(ask(by, other)).await;
            assert_withheld(&answer, first.id());
            assert_eq!(answer.header("preference-applied"), "respond-async", "it did not wait");
        }
        assert_shown(&app.send(ask(by, &[ALICE])).await, "Bearer alice");
        assert_eq!(runs(&counted), 1);
    }
}

#[tokio::test]
async fn a_name_missing_from_the_request_is_not_shown() {
    let (app, _) = me(|builder| builder);
    let first = app.send(ask(KEY, &[ALICE, (NAME, "alices-secret-plan")])).await;
    let answer = app.send(ask(KEY, &[BOB])).await;
    assert_withheld(&answer, first.id());
    assert_eq!(answer.header("x-fc-async-task-id"), first.id().to_string());
    let answer = app.send(ask(KEY, &[BOB, (NAME, "alices-secret-plan")])).await;
    assert_withheld(&answer, first.id());
    assert_eq!(answer.header("x-fc-async-task-id"), "alices-secret-plan");
}

#[tokio::test]
async fn a_request_with_a_new_token_does_not_run_twice() {
    let (app, counted) = me(|builder| builder);
    let first = app.send(ask(KEY, &[("Authorization", "Bearer of-monday")])).await;
    for token in ["Bearer of-tuesday", "Bearer of-wednesday"] {
        assert_withheld(&app.send(ask(KEY, &[("Authorization", token)])).await, first.id());
    }
    assert_eq!((runs(&counted), app.kept().await), (1, 1));
}

/// HTTP/2 may send each cookie in a line of its own.
#[tokio::test]
async fn cookies_are_the_same_however_they_are_split_over_lines() {
    let (app, _) = me(|builder| builder);
    let whole = ask(KEY, &[("Cookie", "a=1; b=2; c=3")]);
    let split = || ask(KEY, &[("Cookie", "a=1"), ("Cookie", "b=2; c=3")]);
    let first = app.send(whole).await;
    assert_shown(&app.send(split()).await, "");
    let other = ask(KEY, &[("Cookie", "a=1"), ("Cookie", "c=3; b=2")]);
    assert_withheld(&app.send(other).await, first.id());
}

#[tokio::test]
async fn what_the_policy_calls_a_secret_is_a_credential_and_what_it_does_not_store_is_another_one() {
    let secret = HeaderPolicy::new().secret("x-customer");
    let (app, _) = me(|builder| builder.headers(secret));
    let first = app.send(ask(KEY, &[("X-Customer", "1"), ("X-Other", "1")])).await;
    assert_shown(&app.send(ask(KEY, &[("X-Other", "2"), ("X-Customer", "1")])).await, "");
    assert_withheld(&app.send(ask(KEY, &[("X-Customer", "2")])).await, first.id());

    for dropped in [header::AUTHORIZATION, header::COOKIE] {
        let (app, _) = me(|builder| builder.headers(HeaderPolicy::new().without(dropped)));
        let first = app.send(ask(KEY, &[ALICE])).await;
        assert_withheld(&app.send(ask(KEY, &[ALICE])).await, first.id());
    }
}

#[tokio::test]
async fn what_is_not_replayed_is_no_credential_of_a_duplicate() {
    let (app, _) = me(|builder| builder);
    app.send(ask(KEY, &[ALICE])).await;
    let by_a_proxy = [
        ALICE,
        ("Proxy-Authorization", "Basic x"),
        ("X-Respond-Async-Token", "x"),
    ];
    assert_shown(&app.send(ask(KEY, &by_a_proxy)).await, "Bearer alice");
}

#[tokio::test]
async fn a_stored_request_that_cannot_be_read_counts_as_another_one_s() {
    let store = FaultStore::new(MemoryStore::new());
    let faults = store.faults();
    let (app, _) = me_on(store, |builder| builder);
    let first = app.send(ask(KEY, &[ALICE])).await;
    faults.fail_next(Operation::Payload, 1);
    assert_withheld(&app.send(ask(KEY, &[ALICE])).await, first.id());
    assert_shown(&app.send(ask(KEY, &[ALICE])).await, "Bearer alice");
}

#[tokio::test]
async fn other_credentials_are_withheld_from_refused_or_ignored_as_is_set() {
    for by in [KEY, NAME] {
        let (app, _) = me(|builder| builder.credentials(Credentials::Withhold));
        let first = app.send(ask(by, &[ALICE])).await;
        assert_withheld(&app.send(ask(by, &[BOB])).await, first.id());

        let (app, counted) = me(|builder| builder.credentials(Credentials::Refuse));
        app.send(ask(by, &[ALICE])).await;
        let refused = app.send(ask(by, &[BOB])).await;
        refused.assert_refused(409, "CredentialsDiffer", None);
        assert_shown(&app.send(ask(by, &[ALICE])).await, "Bearer alice");
        assert_eq!(runs(&counted), 1);

        let (app, _) = me(|builder| builder.credentials(Credentials::Ignore));
        app.send(ask(by, &[ALICE])).await;
        assert_shown(&app.send(ask(by, &[BOB])).await, "Bearer alice");
    }
}

#[tokio::test]
async fn another_request_is_refused_whatever_its_credentials() {
    for setting in [Credentials::Withhold, Credentials::Refuse, Credentials::Ignore] {
        let (app, _) = me(|builder| builder.credentials(setting));
        app.send(ask(KEY, &[ALICE])).await;
        for who in [ALICE, BOB] {
            let other = ask(KEY, &[who, ("Content-Type", "text/plain")]);
            app.send(other).await.assert_refused(422, "IdempotencyKeyReused", None);
        }
    }
}

/// The user, as an outer layer would determine it.
#[derive(Clone)]
struct User(&'static str);

fn of(user: &'static str, mut request: Request<Body>) -> Request<Body> {
    request.extensions_mut().insert(User(user));
    request
}

fn user(head: &Parts) -> Option<Caller> {
    Caller::new(head.extensions.get::<User>()?.0).ok()
}

#[tokio::test]
async fn with_a_caller_keys_are_each_caller_s_own_and_credentials_are_not_looked_at() {
    let (app, counted) = me(|builder| builder.caller(user));
    let alice = app.send(of("alice", ask(KEY, &[ALICE]))).await;
    let bob = app.send(of("bob", ask(KEY, &[BOB]))).await;
    assert_eq!((bob.status, &bob.body[..]), (200, &b"Bearer bob"[..]));
    assert!(!bob.is_duplicate());
    // Requests without a caller share their keys, and their credentials are compared.
    let nobody = app.send(ask(KEY, &[ALICE])).await;
    assert!(!nobody.is_duplicate());
    assert_withheld(&app.send(ask(KEY, &[BOB])).await, nobody.id());
    // An empty caller counts as none.
    assert_shown(&app.send(of("", ask(KEY, &[ALICE]))).await, "Bearer alice");
    assert_eq!(runs(&counted), 3);

    for token in [ALICE, ("Authorization", "Bearer renewed")] {
        let again = app.send(of("alice", ask(KEY, &[token]))).await;
        assert_shown(&again, "Bearer alice");
        assert_eq!(again.id(), alice.id());
    }
    assert_eq!(runs(&counted), 3);
}

#[tokio::test]
async fn a_name_of_another_caller_s_task_is_as_with_other_credentials() {
    let (app, counted) = me(|builder| builder.caller(user));
    let first = app.send(of("alice", ask(NAME, &[ALICE]))).await;
    let renewed = ("Authorization", "Bearer renewed");
    assert_shown(&app.send(of("alice", ask(NAME, &[renewed]))).await, "Bearer alice");
    // Even with her token: the callers differ, and that need not show in a header.
    for other in [of("bob", ask(NAME, &[ALICE])), ask(NAME, &[ALICE])] {
        let answer = app.send(other).await;
        assert_withheld(&answer, first.id());
        assert_eq!(answer.header("x-fc-async-task-id"), "same");
    }
    assert_eq!(runs(&counted), 1);

    // For a task without a caller, every caller is another one.
    let (app, _) = me(|builder| builder.caller(user));
    let first = app.send(ask(NAME, &[ALICE])).await;
    assert_withheld(&app.send(of("alice", ask(NAME, &[ALICE]))).await, first.id());

    let (app, _) = me(|builder| builder.caller(user).credentials(Credentials::Refuse));
    app.send(of("alice", ask(NAME, &[ALICE]))).await;
    let refused = app.send(of("bob", ask(NAME, &[ALICE]))).await;
    refused.assert_refused(409, "CredentialsDiffer", None);
}

#[tokio::test]
async fn a_caller_is_not_asked_for_credentials_that_are_not_stored() {
    let without = HeaderPolicy::new().without(header::AUTHORIZATION);
    let (app, _) = me(|builder| builder.headers(without).caller(user));
    app.send(of("alice", ask(KEY, &[ALICE]))).await;
    assert_shown(&app.send(of("alice", ask(KEY, &[ALICE]))).await, "");
}

#[tokio::test]
async fn callers_of_different_tenants_have_nothing_in_common() {
    let tenant = |head: &Parts| Some(Tenant::new(head.headers.get("x-tenant")?.to_str().ok()?));
    let (app, counted) = me(|builder| builder.caller(user).tenant(tenant));
    for (at, by) in [KEY, NAME].into_iter().enumerate() {
        for tenant in ["a", "b"] {
            let answer = app.send(of("alice", ask(by, &[("X-Tenant", tenant)]))).await;
            assert!(!answer.is_duplicate());
        }
        assert_eq!(runs(&counted), 2 * (at + 1));
    }
}

#[tokio::test]
async fn what_is_submitted_for_a_caller_is_known_over_http_and_the_other_way_round() {
    let (app, _) = me(|builder| builder.caller(user));
    let submission = |caller: Option<&str>| {
        let mut submission = Submission::new(Request::get("/me").body(Bytes::new()).unwrap());
        submission.key = IdempotencyKey::new("same").ok();
        submission.caller = caller.and_then(|caller| Caller::new(caller).ok());
        submission
    };
    let Submitted::New(task) = app.tasks.submit(submission(Some("alice"))).await.unwrap() else {
        panic!("it is new");
    };
    let again = app.send(of("alice", ask(KEY, &[ALICE]))).await;
    assert_shown(&again, "");
    assert_eq!(again.id(), task.id);
    for other in [Some("bob"), None] {
        let submitted = app.tasks.submit(submission(other)).await.unwrap();
        assert!(matches!(submitted, Submitted::New(_)), "{submitted:?}");
    }
    let submitted = app.tasks.submit(submission(Some("alice"))).await.unwrap();
    let Submitted::Known {
        task: Some(known),
        same_request: true,
        ..
    } = submitted
    else {
        panic!("{submitted:?}");
    };
    assert_eq!(known.id, task.id);
}

#[tokio::test]
async fn no_duplicate_is_given_what_begins_a_session() {
    let ignoring: fn(RespondAsyncBuilder) -> RespondAsyncBuilder = |builder| builder.credentials(Credentials::Ignore);
    for configure in [
        |builder| builder,
        |builder: RespondAsyncBuilder| builder.caller(user),
        ignoring,
    ] {
        let (app, _) = me(configure);
        let request = || of("alice", ask(KEY, &[ALICE]));
        assert!(app.send(request()).await.headers.contains_key("set-cookie"));
        assert_shown(&app.send(request()).await, "Bearer alice");
    }
}

/// A guess at the first request's callback address is not confirmed.
#[tokio::test]
async fn the_first_callback_url_is_not_revealed() {
    let policy = CallbackPolicy::only().allow("127.0.0.1").unwrap();
    let secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw".parse::<Secret>().unwrap();
    let app = App::with(|builder| builder.callbacks(policy.secret(secret)));
    let request = |(name, value): (&str, &str)| {
        let prefer = "respond-async, callback; url=\"http://127.0.0.1:9/hook\"";
        // The task does not end here, so no callback is made.
        let request = fc("/echo").header("X-Fc-Async-Delay", "3000").header("Prefer", prefer);
        request.header(KEY, "same").header(name, value).empty()
    };
    let first = app.send(request(ALICE)).await;
    assert_eq!(first.header("preference-applied"), "respond-async, callback");
    let other = app.send(request(BOB)).await;
    assert_withheld(&other, first.id());
    assert_eq!(other.header("preference-applied"), "respond-async");
    let again = app.send(request(ALICE)).await;
    assert_eq!(again.header("preference-applied"), "respond-async, callback");
}

#[derive(Clone, Debug, Default)]
struct Withheld(Arc<Mutex<Vec<(RequestId, String, bool)>>>);

impl Probe for Withheld {
    fn on_event(&self, event: &Event<'_>) {
        if let Event::Withheld { id, why, first, .. } = event {
            self.0.lock().unwrap().push((*id, (*why).to_owned(), *first));
        }
    }
}

#[tokio::test]
async fn a_probe_gets_every_withheld_answer_and_which_was_the_first() {
    let probe = Withheld::default();
    let (app, _) = me(|builder| builder.probe(probe.clone()).caller(user));
    let first = app.send(ask(NAME, &[ALICE])).await.id();
    app.send(ask(NAME, &[ALICE])).await;
    app.send(ask(NAME, &[BOB])).await;
    app.send(of("alice", ask(NAME, &[ALICE]))).await;
    let heard = probe.0.lock().unwrap().clone();
    let expected = [("other credentials", true), ("another caller", false)];
    assert_eq!(heard, expected.map(|(why, is_first)| (first, why.to_owned(), is_first)));
}

fn at_host(host: &str) -> String {
    format!(
        "POST /echo HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\nX-Fc-Invocation-Type: Async\r\n\
         Idempotency-Key: k\r\nContent-Length: 5\r\n\r\nhello"
    )
}

#[tokio::test]
async fn the_same_path_at_another_host_is_another_request() {
    for policy in [HeaderPolicy::new(), HeaderPolicy::new().without(header::HOST)] {
        let app = App::with(|builder| builder.headers(policy));
        let address = app.serve().await;
        let answer = talk(address, at_host("shop.example").as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 202"), "{answer}");
        for same in ["shop.example", "SHOP.example", "shop.example:80", "shop.example:443"] {
            let answer = talk(address, at_host(same).as_bytes()).await;
            assert!(answer.starts_with("HTTP/1.1 202"), "{answer}");
            assert!(answer.contains("x-respond-async-duplicate: true"), "{answer}");
        }
        for other in ["admin.example", "shop.example:8080", "shop.example.org"] {
            let answer = talk(address, at_host(other).as_bytes()).await;
            assert!(answer.starts_with("HTTP/1.1 422"), "{other}: {answer}");
        }
        assert_eq!(app.kept().await, 1);
    }
}

#[tokio::test]
async fn a_request_is_the_same_over_http_1_and_http_2() {
    let app = App::new();
    let request = |uri: &str| {
        let request = Request::post(uri).header("X-Fc-Invocation-Type", "Async");
        request.header(KEY, "k").body(Body::from("hello")).unwrap()
    };
    let service = || {
        let app = app.clone();
        service_fn(move |request: Request<hyper::body::Incoming>| app.service.clone().oneshot(request.map(Body::new)))
    };

    let (client, server) = tokio::io::duplex(64 * 1024);
    tokio::spawn(serving::http1::Builder::new().serve_connection(TokioIo::new(server), service()));
    let (mut sender, connection) = conn::http1::handshake(TokioIo::new(client)).await.unwrap();
    tokio::spawn(connection);
    let mut over_1 = request("/echo?x=1");
    over_1.headers_mut().insert("host", "example.org".parse().unwrap());
    let first = read(sender.send_request(over_1)).await;
    first.assert_accepted();
    assert!(!first.is_duplicate());

    let (client, server) = tokio::io::duplex(64 * 1024);
    let serving = serving::http2::Builder::new(TokioExecutor::new());
    tokio::spawn(serving.serve_connection(TokioIo::new(server), service()));
    let handshake = conn::http2::handshake(TokioExecutor::new(), TokioIo::new(client));
    let (mut sender, connection) = handshake.await.unwrap();
    tokio::spawn(connection);
    let again = read(sender.send_request(request("https://example.org/echo?x=1"))).await;
    assert_eq!((again.status, again.id()), (202, first.id()), "{again:?}");
    assert!(again.is_duplicate());
    let elsewhere = read(sender.send_request(request("https://example.com/echo?x=1"))).await;
    elsewhere.assert_refused(422, "IdempotencyKeyReused", None);
}

async fn read(answer: impl Future<Output = hyper::Result<Response<hyper::body::Incoming>>>) -> Answered {
    Answered::read(soon(answer).await.unwrap().map(Body::new)).await
}

#[tokio::test]
async fn another_content_type_is_another_request() {
    for policy in [HeaderPolicy::new(), HeaderPolicy::new().without(header::CONTENT_TYPE)] {
        let app = App::with(|builder| builder.headers(policy));
        let typed = |kind: &str| fc("/echo").header(KEY, "k").header("Content-Type", kind).with("1");
        let id = app.accepted(typed("application/json")).await;
        let again = app.send(typed("application/json")).await;
        assert_eq!((again.status, again.id(), again.is_duplicate()), (202, id, true));
        let other = app.send(typed("text/plain")).await;
        other.assert_refused(422, "IdempotencyKeyReused", None);
    }
}

#[tokio::test]
async fn what_a_client_would_like_to_get_makes_no_other_request() {
    let app = App::new();
    let wishing = |kind: &str| fc("/echo").header(KEY, "k").header("Accept", kind).empty();
    let id = app.accepted(wishing("text/html")).await;
    assert_eq!(app.send(wishing("*/*")).await.id(), id);
}

/// A form as a browser sends it: with another boundary every time.
fn form(boundary: &str, field: &str) -> (request::Builder, String) {
    let kind = format!("multipart/form-data; boundary={boundary}");
    let disposition = "Content-Disposition: form-data; name=\"f\"";
    let body = format!("--{boundary}\r\n{disposition}\r\n\r\n{field}\r\n--{boundary}--\r\n");
    (fc("/echo").header(KEY, "k").header("Content-Type", kind), body)
}

/// The content between the boundaries.
fn without_boundary(head: &Parts, body: &Bytes) -> Vec<u8> {
    let kind = head
        .headers
        .get(header::CONTENT_TYPE)
        .and_then(|kind| kind.to_str().ok());
    let boundary = kind
        .and_then(|kind| kind.split_once("boundary="))
        .map_or("", |(_, boundary)| boundary);
    let text = String::from_utf8_lossy(body);
    text.replace(boundary, "").into_bytes()
}

#[tokio::test]
async fn a_fingerprint_stands_for_type_and_body_and_for_nothing_else() {
    let app = App::with(|builder| builder.fingerprint(without_boundary));
    let send = |boundary: &str, field: &str| {
        let (request, body) = form(boundary, field);
        request.with(body)
    };
    let id = app.accepted(send("one", "hello")).await;
    let again = app.send(send("two", "hello")).await;
    assert_eq!((again.status, again.id(), again.is_duplicate()), (202, id, true));
    let other = app.send(send("two", "hallo")).await;
    other.assert_refused(422, "IdempotencyKeyReused", None);
    for (method, uri, host) in [
        ("PUT", "/echo", "h"),
        ("POST", "/hello/you", "h"),
        ("POST", "/echo?x", "h"),
    ] {
        let (request, body) = form("two", "hello");
        let elsewhere = request.method(method).uri(uri).header("Host", host).with(body);
        app.send(elsewhere)
            .await
            .assert_refused(422, "IdempotencyKeyReused", None);
    }

    let app = App::new();
    app.accepted(send("one", "hello")).await;
    let other = app.send(send("two", "hello")).await;
    other.assert_refused(422, "IdempotencyKeyReused", None);
}

#[tokio::test]
async fn a_fingerprint_sees_the_head_as_it_came_and_is_asked_for_no_request_without_a_name_or_key() {
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = asked.clone();
    let policy = HeaderPolicy::new().without(HeaderName::from_static("x-try"));
    let app = App::with(|builder| {
        builder.headers(policy).fingerprint(move |head, _| {
            counted.fetch_add(1, Ordering::SeqCst);
            head.headers["x-try"].as_bytes().to_vec()
        })
    });
    app.accepted(fc("/echo").with("1")).await;
    assert_eq!(runs(&asked), 0);
    let id = app
        .accepted(fc("/echo").header(KEY, "k").header("X-Try", "a").with("1"))
        .await;
    let again = app
        .send(fc("/echo").header(KEY, "k").header("X-Try", "a").with("2"))
        .await;
    // The policy leaves no credentials out, so it is shown.
    assert_eq!(
        (again.id(), again.json()["requestId"].as_str()),
        (id, Some(&*id.to_string()))
    );
    let other = app
        .send(fc("/echo").header(KEY, "k").header("X-Try", "b").with("1"))
        .await;
    other.assert_refused(422, "IdempotencyKeyReused", None);
    assert_eq!(runs(&asked), 3);
}

/// Asserts the answer for a task that is gone: 410, with the request id.
#[track_caller]
fn assert_gone(answer: &Answered, id: RequestId) {
    answer.assert_refused(410, "TaskGone", None);
    assert_eq!(answer.id(), id);
    assert_eq!(answer.json()["requestId"], id.to_string());
}

fn keyed(body: &'static str) -> Request<Body> {
    fc("/echo")
        .header(KEY, "k")
        .header("Prefer", "respond-async, wait=5")
        .with(body)
}

async fn a_gone_task_is_answered_410<S: TaskStore>(store: S) {
    let store = Arc::new(store);
    let app = App::build(FaultStore::over(store.clone()), routes(), |builder| {
        builder.tenant(|head| Some(Tenant::new(head.headers.get("x-round")?.to_str().ok()?)))
    });
    for round in ["deleted", "pruned"] {
        let keyed = |body: &'static str| and_header(keyed(body), "x-round", round.as_bytes());
        let id = app.send(keyed("hello")).await.id();
        app.ended(id).await;
        if round == "deleted" {
            let gone = Request::delete(format!("/tasks/{id}")).empty();
            assert_eq!(app.send(gone).await.status, 204);
        } else {
            let retention = Retention::new(Duration::ZERO, Duration::ZERO);
            assert_eq!(Ledger::new(store.clone()).prune(retention, 10).await.unwrap().tasks, 1);
        }
        for _ in 0..2 {
            assert_gone(&app.send(keyed("hello")).await, id);
        }
        let other = app.send(keyed("hallo")).await;
        other.assert_refused(422, "IdempotencyKeyReused", None);

        // A submission in the process gets what the store knows.
        let request = Request::post("/echo").body(Bytes::from_static(b"hello")).unwrap();
        let mut submission = Submission::new(request);
        submission.key = IdempotencyKey::new("k").ok();
        submission.tenant = Some(Tenant::new(round));
        let submitted = app.tasks.submit(submission).await.unwrap();
        let Submitted::Known {
            task: None,
            id: known,
            same_request: true,
        } = submitted
        else {
            panic!("{submitted:?}");
        };
        assert_eq!(known, id);
        assert_eq!(app.kept().await, 0);
    }
}

#[tokio::test]
async fn the_key_of_a_task_that_is_gone_is_answered_410_in_memory() {
    a_gone_task_is_answered_410(MemoryStore::new()).await;
}

#[tokio::test]
async fn the_key_of_a_task_that_is_gone_is_answered_410_in_a_file() {
    let folder = tempdir().unwrap();
    let store = RedbStore::open(folder.path().join("tasks.redb")).await.unwrap();
    a_gone_task_is_answered_410(store).await;
}

#[tokio::test]
async fn the_key_of_a_task_that_made_room_for_others_is_answered_410() {
    let store = MemoryStore::builder().max_tasks(1).build();
    let app = App::build(store, routes(), |builder| builder);
    let id = app.send(keyed("hello")).await.id();
    app.ended(id).await;
    let other = app.accepted(fc("/echo").with("another")).await;
    app.ended(other).await;
    assert_gone(&app.send(keyed("hello")).await, id);
}

/// A name is an address, and free again after its task is gone.
#[tokio::test]
async fn a_name_of_a_task_that_is_gone_is_a_new_task_s() {
    let app = App::build(
        MemoryStore::new(),
        Router::new().route("/echo", any(async || "")),
        |builder| builder,
    );
    let named = || fc("/echo").header(NAME, "a").empty();
    let id = app.accepted(named()).await;
    app.ended(id).await;
    let _ = app.tasks.delete(id).await.unwrap();
    let found = app.tasks.find(&TaskName::new("a").unwrap().into()).await.unwrap();
    assert!(found.is_none());
    assert_ne!(app.accepted(named()).await, id);
}
