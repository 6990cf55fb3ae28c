//! Requests sent twice: by task id, by key, and by both.

use std::{collections::HashMap, sync::Arc, time::Duration};

use axum::body::Body;
use http::{Request, request::Parts};
use proptest::{collection::vec, option, prelude::*, sample::select};
use tokio::sync::Barrier;
use tower_respond_async::{
    Dialect, MemoryStore, RequestId, RespondAsyncBuilder, TaskState, Tenant, testing::ManualClock,
};

use crate::support::{Answered, App, Gate, WithoutBody, fc, prefer, soon};

fn named(name: &str, body: &'static str) -> Request<Body> {
    fc("/echo").header("X-Fc-Async-Task-Id", name).with(body)
}

fn keyed(key: &str, body: &'static str) -> Request<Body> {
    fc("/echo").header("Idempotency-Key", key).with(body)
}

#[track_caller]
fn assert_duplicate_of(answer: &Answered, id: RequestId) {
    answer.assert_accepted();
    assert!(answer.is_duplicate(), "{answer:?}");
    assert_eq!(answer.id(), id);
}

#[tokio::test]
async fn the_same_request_under_the_same_name_or_key_is_the_same_task() {
    for request in [named as fn(&str, &'static str) -> Request<Body>, keyed] {
        let app = App::new();
        let first = app.send(request("a", "hello")).await;
        first.assert_accepted();
        assert_eq!(first.header("x-respond-async-duplicate"), "");
        let second = app.send(request("a", "hello")).await;
        assert_duplicate_of(&second, first.id());
        for name in ["x-fc-async-task-id", "location", "operation-location"] {
            assert_eq!(second.header(name), first.header(name), "{name}");
        }
        app.until(first.id(), TaskState::Succeeded).await;
        let third = app.send(request("a", "hello")).await;
        assert_duplicate_of(&third, first.id());
        assert_eq!(third.json()["status"], "Succeeded");
        assert_eq!(third.json()["attempt"], 1, "it ran again");
        assert_eq!(app.kept().await, 1);
        app.accepted(request("b", "hello")).await;
    }
}

#[tokio::test]
async fn another_request_under_the_same_name_is_refused() {
    let app = App::new();
    app.accepted(named("a", "hello")).await;
    let other = || fc("/echo").header("X-Fc-Async-Task-Id", "a");
    for request in [
        other().with("hallo"),
        other().method("PUT").with("hello"),
        fc("/echo?").header("X-Fc-Async-Task-Id", "a").with("hello"),
        other().header("Idempotency-Key", "new").with("hallo"),
    ] {
        let answer = app.send(request).await;
        answer.assert_refused(409, "StatefulAsyncInvocationAlreadyExists", None);
    }
    // Headers do not make requests different: a repeated request may have another date or token.
    let answer = app.send(other().header("X-Other", "1").with("hello")).await;
    assert!(answer.is_duplicate());
    assert_eq!(app.kept().await, 1);
}

#[tokio::test]
async fn another_request_under_the_same_key_is_refused() {
    let app = App::new();
    app.accepted(keyed("k", "hello")).await;
    app.send(keyed("k", "hallo"))
        .await
        .assert_refused(422, "IdempotencyKeyReused", None);
    let elsewhere = fc("/hello/you").header("Idempotency-Key", "k").with("hello");
    app.send(elsewhere)
        .await
        .assert_refused(422, "IdempotencyKeyReused", None);
    assert_eq!(app.kept().await, 1);
}

#[tokio::test]
async fn a_name_and_a_key_of_two_tasks_are_refused() {
    let app = App::new();
    let named = app.accepted(named("a", "hello")).await;
    app.accepted(keyed("k", "hello")).await;
    let both = |name: &str, key: &str| {
        let request = fc("/echo")
            .header("X-Fc-Async-Task-Id", name)
            .header("Idempotency-Key", key);
        request.with("hello")
    };
    app.send(both("a", "k"))
        .await
        .assert_refused(409, "StatefulAsyncInvocationAlreadyExists", None);
    assert_duplicate_of(&app.send(both("a", "unused")).await, named);
    assert_eq!(app.kept().await, 2);
}

#[tokio::test]
async fn a_key_means_the_same_quoted_or_bare_and_in_every_dialect() {
    let app = App::with(|builder| builder.dialects([Dialect::Fc, Dialect::Prefer]));
    let id = app.accepted(keyed("k-1", "hello")).await;
    assert_duplicate_of(&app.send(keyed("\"k-1\"", "hello")).await, id);
    let request = prefer("/echo", "respond-async")
        .header("Idempotency-Key", "\"k-1\"")
        .with("hello");
    assert_duplicate_of(&app.send(request).await, id);
    app.accepted(keyed("K-1", "hello")).await;
}

#[tokio::test]
async fn names_and_keys_are_each_tenant_s_own() {
    let tenant = |head: &Parts| Some(Tenant::new(head.headers.get("x-tenant")?.to_str().ok()?));
    let app = App::with(|builder| builder.tenant(tenant));
    for by in ["X-Fc-Async-Task-Id", "Idempotency-Key"] {
        let of =
            |tenant: &str, body: &'static str| fc("/echo").header("X-Tenant", tenant).header(by, "same").with(body);
        let a = app.accepted(of("a", "hello")).await;
        let b = app.accepted(of("b", "other")).await;
        let nobody = app.accepted(fc("/echo").header(by, "same").with("nobody's")).await;
        assert_duplicate_of(&app.send(of("a", "hello")).await, a);
        assert_duplicate_of(&app.send(of("b", "other")).await, b);
        let again = fc("/echo").header(by, "same").with("nobody's");
        assert_duplicate_of(&app.send(again).await, nobody);
    }
    assert_eq!(app.kept().await, 6);
}

#[tokio::test]
async fn fc_strict_refuses_a_known_name_even_of_the_same_request() {
    let app = App::with(RespondAsyncBuilder::fc_strict);
    app.accepted(named("a", "hello")).await;
    let answer = app.send(named("a", "hello")).await;
    answer.assert_refused(409, "StatefulAsyncInvocationAlreadyExists", None);
    let detail = answer.json()["detail"].to_string();
    assert!(!detail.contains("before, for another"), "it was not another: {detail}");
    // The cloud has no keys, so requests with keys get this crate's answer, in the cloud's form.
    let id = app.accepted(keyed("k", "hello")).await;
    let answer = app.send(keyed("k", "hello")).await;
    assert_duplicate_of(&answer, id);
    assert_eq!(answer.body, "");
}

#[tokio::test]
async fn a_key_is_remembered_when_its_task_is_gone_and_a_name_is_free_again() {
    for strict in [false, true] {
        let app = App::with(|builder| if strict { builder.fc_strict() } else { builder });
        let both = |body: &'static str| {
            let request = fc("/echo")
                .header("X-Fc-Async-Task-Id", "a")
                .header("Idempotency-Key", "k");
            request.with(body)
        };
        let id = app.accepted(both("hello")).await;
        app.ended(id).await;
        let gone = Request::delete(format!("/tasks/{id}")).empty();
        assert_eq!(app.send(gone).await.status, 204);

        let answer = app.send(keyed("k", "hello")).await;
        answer.assert_refused(410, "TaskGone", None);
        assert_eq!(answer.id(), id);
        app.send(keyed("k", "hallo"))
            .await
            .assert_refused(422, "IdempotencyKeyReused", None);
        assert_eq!(app.kept().await, 0);
        app.accepted(named("a", "something new")).await;
    }
}

#[tokio::test]
async fn a_key_is_forgotten_after_its_window() {
    let clock = ManualClock::default();
    let store = MemoryStore::builder().clock(clock.clone()).build();
    let app = App::build(store, crate::support::routes(), |builder| {
        builder.dedup_window(Duration::from_secs(60))
    });
    let id = app.accepted(keyed("k", "hello")).await;
    clock.advance(Duration::from_secs(59));
    assert_duplicate_of(&app.send(keyed("k", "hello")).await, id);
    clock.advance(Duration::from_secs(1));
    assert_ne!(app.accepted(keyed("k", "hello")).await, id);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_at_once_under_one_name_or_key_one_is_stored() {
    const SENDERS: usize = 8;
    let app = App::new();
    for round in 0..100 {
        let barrier = Arc::new(Barrier::new(SENDERS));
        let sending: Vec<_> = (0..SENDERS)
            .map(|sender| {
                let (app, barrier) = (app.clone(), barrier.clone());
                // Two requests with different bodies.
                let body = ["left", "right"][sender % 2];
                let request = match round % 2 {
                    0 => named(&format!("n{round}"), body),
                    _ => keyed(&format!("k{round}"), body),
                };
                tokio::spawn(async move {
                    barrier.wait().await;
                    (body, app.send(request).await)
                })
            })
            .collect();
        let mut answers = Vec::new();
        for sending in sending {
            answers.push(soon(sending).await.unwrap());
        }
        let new: Vec<_> = answers
            .iter()
            .filter(|(_, answer)| answer.status == 202 && !answer.is_duplicate())
            .collect();
        assert_eq!(new.len(), 1, "{answers:?}");
        let (winner, id) = (new[0].0, new[0].1.id());
        for (body, answer) in &answers {
            match (*body == winner, round % 2) {
                (true, _) => assert_eq!((answer.status, answer.id()), (202, id)),
                (false, 0) => answer.assert_refused(409, "StatefulAsyncInvocationAlreadyExists", None),
                (false, _) => answer.assert_refused(422, "IdempotencyKeyReused", None),
            }
        }
    }
    assert_eq!(app.kept().await, 100);
}

#[tokio::test]
async fn a_duplicate_of_a_running_task_can_wait_for_its_response() {
    let gate = Gate::new();
    let app = App::build(MemoryStore::new(), gate.among_routes(), |builder| builder);
    let request = |preferences: &str| prefer("/gate", preferences).header("Idempotency-Key", "k").empty();
    let id = app.accepted(request("respond-async")).await;
    gate.arrived().await;
    let waiting = tokio::spawn({
        let (app, request) = (app.clone(), request("respond-async, wait=50"));
        async move { app.send(request).await }
    });
    gate.let_pass(1);
    let answer = soon(waiting).await.unwrap();
    assert_eq!((answer.status, &answer.body[..]), (200, &b"passed"[..]));
    assert!(answer.is_duplicate());
    assert_eq!(answer.id(), id);
}

/// A request, as the model sees it.
#[derive(Clone, Copy, Debug)]
struct Sent {
    name: Option<&'static str>,
    key: Option<&'static str>,
    body: &'static str,
}

impl Sent {
    fn request(self) -> Request<Body> {
        let mut request = fc("/echo").header("X-Fc-Async-Delay", "60");
        if let Some(name) = self.name {
            request = request.header("X-Fc-Async-Task-Id", name);
        }
        if let Some(key) = self.key {
            request = request.header("Idempotency-Key", key);
        }
        request.with(self.body)
    }
}

fn sent() -> impl Strategy<Value = Sent> {
    let some = |words: &'static [&'static str]| option::weighted(0.7, select(words));
    (some(&["a", "b"]), some(&["k", "l"]), select(&["one", "two"][..])).prop_map(|(name, key, body)| Sent {
        name,
        key,
        body,
    })
}

/// A minimal model of names and keys. Tasks are numbered in the order of their arrival.
#[derive(Default)]
struct Model {
    bodies: Vec<&'static str>,
    names: HashMap<&'static str, usize>,
    keys: HashMap<&'static str, usize>,
}

#[derive(Debug, PartialEq)]
enum Expected {
    New(usize),
    Same(usize),
    Refused(u16),
}

impl Model {
    fn send(&mut self, sent: Sent) -> Expected {
        let named = sent.name.and_then(|name| self.names.get(name).copied());
        let keyed = sent.key.and_then(|key| self.keys.get(key).copied());
        match (named, keyed) {
            (Some(named), Some(keyed)) if named != keyed => Expected::Refused(409),
            (Some(task), _) | (None, Some(task)) if self.bodies[task] == sent.body => Expected::Same(task),
            (Some(_), _) => Expected::Refused(409),
            (None, Some(_)) => Expected::Refused(422),
            (None, None) => {
                let task = self.bodies.len();
                self.bodies.push(sent.body);
                self.names.extend(sent.name.map(|name| (name, task)));
                self.keys.extend(sent.key.map(|key| (key, task)));
                Expected::New(task)
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn names_and_keys_mean_what_the_model_says(sequence in vec(sent(), 1..12)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (app, mut model, mut ids) = (App::new(), Model::default(), Vec::new());
            for sent in sequence {
                let answer = app.send(sent.request()).await;
                let found = match answer.status {
                    202 if answer.is_duplicate() => {
                        let id = answer.id();
                        Expected::Same(ids.iter().position(|known| *known == id).unwrap())
                    }
                    202 => {
                        ids.push(answer.id());
                        Expected::New(ids.len() - 1)
                    }
                    status => Expected::Refused(status),
                };
                prop_assert_eq!(found, model.send(sent), "{:?}", sent);
            }
            prop_assert_eq!(app.kept().await, ids.len() as u64);
            Ok(())
        })?;
    }
}
