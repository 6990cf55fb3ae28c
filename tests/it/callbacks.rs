//! Callback URLs in requests: when they are allowed, what happens to those that must not be called, and the API that
//! shows the deliveries.

use std::{
    net::IpAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use axum::{Router, routing::post};
use http::{Request, StatusCode};
use serde_json::json;
use tower_respond_async::{
    Access, MemoryStore, RequestId, Scope, TaskApi, Tenant,
    api::Permission,
    error::BoxFuture,
    hook::webhook::{CallbackPolicy, Resolve, Secret, Webhook},
    store::{Insert, Ledger},
    task::{Conditions, DeliveryStatus, Destination, NewTask, Subscription, Subscriptions},
};
use tower_respond_async_redb::RedbStore;

use crate::{
    engine_support::{at_once, eventually, find, inserted, ledger, new_task, ok, quick, serve},
    receiver::{Answer, Receiver},
    support::{App, WithoutBody, fc, prefer},
    webhooks::{hasty, settled},
};

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

fn routes() -> Router {
    Router::new()
        .route("/good", post(async || "made"))
        .route("/bad", post(async || StatusCode::NOT_FOUND))
        .route(
            "/callback-url",
            post(async |headers: http::HeaderMap| {
                headers
                    .get("x-callback-url")
                    .map(|url| url.to_str().unwrap().to_owned())
                    .unwrap_or_default()
            }),
        )
}

fn app(policy: CallbackPolicy) -> App {
    App::build(MemoryStore::new(), routes(), |builder| {
        builder.retry(at_once(0)).callbacks(policy.schedule(hasty(3)))
    })
}

/// Allows this machine only.
fn local() -> CallbackPolicy {
    CallbackPolicy::only()
        .allow("127.0.0.1")
        .unwrap()
        .secret(SECRET.parse::<Secret>().unwrap())
}

pub(crate) fn prefer_callback(path: &str, url: &str) -> Request<axum::body::Body> {
    prefer(path, &format!("respond-async, callback; url=\"{url}\"")).empty()
}

/// Answers with one list after another, then with the last one for ever. Counts the look-ups.
#[derive(Clone)]
struct Scripted(Arc<(Mutex<Vec<Vec<IpAddr>>>, AtomicUsize)>);

impl Scripted {
    fn new(answers: &[&[&str]]) -> Self {
        let answers = answers
            .iter()
            .rev()
            .map(|answer| answer.iter().map(|text| text.parse().unwrap()).collect());
        Self(Arc::new((Mutex::new(answers.collect()), AtomicUsize::new(0))))
    }

    fn asked(&self) -> usize {
        self.0.1.load(Ordering::SeqCst)
    }
}

impl Resolve for Scripted {
    fn resolve<'a>(&'a self, _: &'a str) -> BoxFuture<'a, std::io::Result<Vec<IpAddr>>> {
        self.0.1.fetch_add(1, Ordering::SeqCst);
        let mut answers = self.0.0.lock().unwrap();
        let answer = match answers.len() {
            0 | 1 => answers.last().cloned(),
            _ => answers.pop(),
        };
        let answer = answer.filter(|answer| !answer.is_empty());
        Box::pin(std::future::ready(
            answer.ok_or_else(|| std::io::Error::other("no such host")),
        ))
    }
}

const PUBLIC: &str = "93.184.216.34";

#[tokio::test]
async fn without_a_policy_a_callback_is_neither_called_nor_acknowledged() {
    let receiver = Receiver::start(|_, _| Answer::Status(200)).await;
    let app = App::build(MemoryStore::new(), routes(), |builder| builder);
    let url = receiver.url("/hook");
    let answer = app.send(prefer_callback("/good", &url)).await;
    answer.assert_accepted();
    assert_eq!(answer.header("preference-applied"), "respond-async");
    let record = app.ended(answer.id()).await;
    assert_eq!((record.callback.as_deref(), record.deliveries.len()), (None, 0));

    let answer = app
        .send(fc("/callback-url").header("X-Callback-Url", &url).empty())
        .await;
    answer.assert_accepted();
    assert_eq!(
        app.response(answer.id()).await.body,
        url,
        "it is the application's own header then"
    );
    let malformed = app
        .send(prefer("/good", "respond-async, callback; url=\"\"").empty())
        .await;
    malformed.assert_accepted();
    assert_eq!(receiver.connections(), 0);
}

#[tokio::test]
async fn an_allowed_callback_is_sent_signed_and_acknowledged() {
    let receiver = Receiver::start(|_, _| Answer::Status(200)).await;
    let app = app(local());
    let url = receiver.url("/hook?a=b,c;d");
    let preferred = app.send(prefer_callback("/good", &url)).await;
    preferred.assert_accepted();
    assert_eq!(preferred.header("preference-applied"), "respond-async, callback");
    let waited = app
        .send(
            prefer(
                "/bad",
                &format!("respond-async, wait=20, odata.callback; url=\"{url}\""),
            )
            .empty(),
        )
        .await;
    assert_eq!(
        (waited.status, waited.header("preference-applied")),
        (404, "respond-async, wait=20, callback")
    );
    let by_header = app.send(fc("/good").header("x-callback-url", &url).empty()).await;
    by_header.assert_accepted();
    assert_eq!(by_header.header("preference-applied"), "");
    for answer in [&preferred, &waited, &by_header] {
        let record = settled(&app.tasks, answer.id(), DeliveryStatus::Delivered).await;
        assert_eq!(record.callback.as_deref(), Some(&*url));
    }
    let published = standardwebhooks::Webhook::new(SECRET).unwrap();
    for message in receiver.has(3).await {
        published.verify(&message.body, &message.headers).unwrap();
        assert_eq!(message.path, "/hook?a=b,c;d");
        assert!(message.header("webhook-id").ends_with("_1_callback"), "{message:?}");
    }
}

#[tokio::test]
async fn a_callback_that_makes_no_sense_is_refused() {
    let app = app(local());
    for request in [
        prefer("/good", "respond-async, callback").empty(),
        prefer("/good", "respond-async, callback; url=\"http://127.0.0.1/a\"")
            .header("x-callback-url", "http://127.0.0.1/b")
            .empty(),
        fc("/good")
            .header("x-callback-url", "http://127.0.0.1/a")
            .header("x-callback-url", "http://127.0.0.1/b")
            .empty(),
        fc("/good").header("x-callback-url", "").empty(),
        // An allowed address does not allow the names that lead to it.
        fc("/good").header("x-callback-url", "http://localhost/").empty(),
        fc("/good")
            .header(
                "x-callback-url",
                http::HeaderValue::from_bytes(b"http://127.0.0.1/\xff").unwrap(),
            )
            .empty(),
        // Longer than the limit, as it is written or once it is encoded.
        fc("/good")
            .header("x-callback-url", format!("http://127.0.0.1/{}", "a".repeat(2032)))
            .empty(),
        fc("/good")
            .header(
                "x-callback-url",
                format!("http://127.0.0.1/{}", "é".repeat(500)).as_bytes(),
            )
            .empty(),
    ] {
        app.send(request).await.assert_refused(400, "InvalidArgument", None);
    }
    assert_eq!(app.kept().await, 0);
}

/// A request that was accepted before keeps its URL.
#[tokio::test]
async fn a_repeated_request_acknowledges_only_the_callback_that_will_be_called() {
    let receiver = Receiver::start(|_, _| Answer::Status(200)).await;
    let app = app(local());
    let ask = |path: &str| {
        let mut request = prefer_callback("/good", &receiver.url(path));
        request.headers_mut().insert("idempotency-key", "one".parse().unwrap());
        request
    };
    let first = app.send(ask("/first")).await;
    let again = app.send(ask("/first")).await;
    let other = app.send(ask("/other")).await;
    assert_eq!((again.id(), other.id()), (first.id(), first.id()));
    assert_eq!(again.header("preference-applied"), "respond-async, callback");
    assert_eq!(other.header("preference-applied"), "respond-async");
    settled(&app.tasks, first.id(), DeliveryStatus::Delivered).await;
    assert_eq!(receiver.has(1).await[0].path, "/first");
}

/// Ways to write an address that must not be called, or a name that leads to one.
const TRICKS: [&str; 29] = [
    "https://127.0.0.1/",
    "https://2130706433/",
    "https://0x7f.1/",
    "https://0177.0.0.1/",
    "https://127.1/",
    "https://%31%32%37.0.0.1/",
    "https://127.0.0.1./",
    "https://[::1]/",
    "https://[::ffff:7f00:1]/",
    "https://[64:ff9b::7f00:1]/",
    "https://[fd00:ec2::254]/",
    "https://169.254.169.254/latest/meta-data",
    "https://168.63.129.16/",
    "https://100.100.100.200/",
    "https://10.0.0.1/",
    "https://0/",
    "https://localhost/",
    "https://LOCALHOST./",
    "https://a.localhost/",
    "https://metadata.google.internal/",
    "https://printer.local/",
    "https://router.home.arpa/",
    "https://intranet/",
    "https://user:password@example.org/",
    "https://example.org/#fragment",
    "https://example.org:8443/",
    "http://example.org/",
    "ftp://example.org/",
    "file:///etc/passwd",
];

#[tokio::test]
async fn every_trick_is_refused_when_it_is_accepted_in_the_same_words() {
    let resolver = Scripted::new(&[&["127.0.0.1"]]);
    let app = app(CallbackPolicy::public().resolver(resolver.clone()));
    let mut details = Vec::new();
    for url in TRICKS {
        let answer = app.send(fc("/good").header("x-callback-url", url).empty()).await;
        answer.assert_refused(400, "InvalidArgument", None);
        details.push(answer.json()["detail"].clone());
    }
    assert_eq!(resolver.asked(), 0, "none of them is even looked up");
    let wide = "https://\u{ff11}\u{ff12}\u{ff17}.0.0.1/";
    let wide = http::HeaderValue::from_bytes(format!("respond-async, callback; url=\"{wide}\"").as_bytes()).unwrap();
    let answer = app
        .send(
            Request::post("/good")
                .header("prefer", wide)
                .body(Default::default())
                .unwrap(),
        )
        .await;
    answer.assert_refused(400, "InvalidArgument", None);
    details.push(answer.json()["detail"].clone());

    // A private address, one among public ones, and none at all: the answers do not differ.
    for answers in [&["127.0.0.1"][..], &[PUBLIC, "10.0.0.1"], &["::1", PUBLIC], &[]] {
        let app = self::app(CallbackPolicy::public().resolver(Scripted::new(&[answers])));
        let answer = app.send(prefer_callback("/good", "https://example.org/")).await;
        answer.assert_refused(400, "InvalidArgument", None);
        details.push(answer.json()["detail"].clone());
        assert_eq!(app.kept().await, 0);
    }
    assert!(details.iter().all(|detail| *detail == details[0]), "{details:?}");
    assert_eq!(app.kept().await, 0);
}

fn with_callback(url: &str) -> NewTask {
    let mut task = new_task("/good");
    task.callback = Some(url.into());
    task.subscriptions = Subscriptions::from([Subscription {
        destination: Destination::CALLBACK,
        on: Conditions::ALL,
    }]);
    task
}

/// The same URLs, already stored, as after the policy became narrower: they are blocked at the connection.
#[tokio::test]
async fn every_trick_is_blocked_when_it_is_called_and_not_tried_again() {
    let store = MemoryStore::new();
    let resolver = Scripted::new(&[&["127.0.0.1"]]);
    let policy = CallbackPolicy::public().resolver(resolver.clone()).schedule(hasty(5));
    let tasks = serve(quick(store.clone()).callbacks(policy), |_| async { ok() });
    let mut ids = Vec::new();
    for url in TRICKS.into_iter().chain([
        "https://\u{ff11}\u{ff12}\u{ff17}.0.0.1/",
        "https://example.org/",
        "no URL",
    ]) {
        ids.push((
            url,
            inserted(ledger(&store).insert(Insert::new(with_callback(url))).await.unwrap()).id,
        ));
    }
    for (url, id) in ids {
        let record = settled(&tasks, id, DeliveryStatus::Blocked).await;
        let tries = &record.deliveries[0].tries;
        assert_eq!(tries.len(), 1, "{url}");
        let text = tries[0].text.as_deref();
        assert_eq!(
            text,
            Some("the address is not one that is called"),
            "it does not say what was found"
        );
    }
    assert_eq!(resolver.asked(), 1, "only the one with nothing wrong but its address");
}

/// A name that leads to a public address when it is accepted, and to this machine when it is called.
#[tokio::test]
async fn a_name_that_leads_elsewhere_the_second_time_gets_no_further() {
    let receiver = Receiver::start(|_, _| Answer::Status(200)).await;
    let port = receiver.url("").rsplit(':').next().unwrap().to_owned();
    // A URL with another port must be allowed by its network, and both addresses must be in it.
    let resolver = Scripted::new(&[&["203.0.113.7"], &["127.0.0.1"]]);
    let policy = CallbackPolicy::public()
        .allow("203.0.113.0/24")
        .unwrap()
        .resolver(resolver.clone());
    let app = app(policy);
    let answer = app
        .send(prefer_callback("/good", &format!("http://rebinding.example:{port}/")))
        .await;
    answer.assert_accepted();
    let record = settled(&app.tasks, answer.id(), DeliveryStatus::Blocked).await;
    assert_eq!((record.deliveries[0].tries.len(), resolver.asked()), (1, 2));

    let resolver = Scripted::new(&[&[PUBLIC], &[PUBLIC, "127.0.0.1"]]);
    let app = self::app(CallbackPolicy::public().resolver(resolver.clone()));
    let answer = app.send(prefer_callback("/good", "https://rebinding.example/")).await;
    answer.assert_accepted();
    let record = settled(&app.tasks, answer.id(), DeliveryStatus::Blocked).await;
    assert_eq!((record.deliveries[0].tries.len(), resolver.asked()), (1, 2));
    assert_eq!(receiver.connections(), 0);
}

/// The checked address is dialled: only the given resolver leads the name to this machine.
#[tokio::test]
async fn the_address_that_was_checked_is_dialled() {
    let receiver = Receiver::start(|_, _| Answer::Status(200)).await;
    let port = receiver.url("").rsplit(':').next().unwrap().to_owned();
    let resolver = Scripted::new(&[&["127.0.0.1"]]);
    let policy = CallbackPolicy::only()
        .allow("127.0.0.0/8")
        .unwrap()
        .resolver(resolver.clone());
    let app = app(policy);
    let answer = app
        .send(prefer_callback("/good", &format!("http://hook.example:{port}/")))
        .await;
    answer.assert_accepted();
    settled(&app.tasks, answer.id(), DeliveryStatus::Delivered).await;
    assert_eq!(receiver.has(1).await[0].header("host"), format!("hook.example:{port}"));
    assert_eq!(resolver.asked(), 2, "at accept, and at the connection");
}

/// The process ends before the delivery. The URL is stored, so the next process delivers.
#[tokio::test]
async fn a_callback_survives_the_end_of_the_process() {
    let folder = std::env::temp_dir().join(format!("callbacks-{}-{}", std::process::id(), fastrand::u64(..)));
    std::fs::create_dir_all(&folder).unwrap();
    let path = folder.join("tasks.redb");
    let receiver = Receiver::start(|_, _| Answer::Status(200)).await;
    let ledger = Ledger::of(RedbStore::open(&path).await.unwrap());
    let task = with_callback(&receiver.url("/hook"));
    let id = inserted(ledger.insert(Insert::new(task)).await.unwrap()).id;
    ledger.store().close().await;
    drop(ledger);
    let store = RedbStore::open(&path).await.unwrap();
    let tasks = serve(quick(store).callbacks(local()), |_| async { ok() });
    settled(&tasks, id, DeliveryStatus::Delivered).await;
    assert_eq!(
        receiver.has(1).await[0].header("webhook-id"),
        format!("msg_{id}_1_callback")
    );
    tasks.shutdown(std::time::Duration::ZERO).await;
    std::fs::remove_dir_all(folder).unwrap();
}

/// A host that never answers gets a few places of the pool, and the other hosts keep theirs.
#[tokio::test]
async fn a_host_that_never_answers_leaves_places_to_the_others() {
    const TASKS: usize = 30;
    let dead = Receiver::start(|_, _| Answer::Hang).await;
    let alive = Receiver::start(|_, _| Answer::Status(200)).await;
    let store = MemoryStore::new();
    let tasks = serve(quick(store.clone()).callbacks(local()), |_| async { ok() });
    for _ in 0..TASKS {
        for receiver in [&dead, &alive] {
            let _ = inserted(
                ledger(&store)
                    .insert(Insert::new(with_callback(&receiver.url("/"))))
                    .await
                    .unwrap(),
            );
        }
    }
    alive.has(TASKS).await;
    assert!(
        dead.received().len() <= 4 && dead.most_open() <= 4,
        "{} at once",
        dead.most_open()
    );
    drop(tasks);
}

#[tokio::test]
async fn the_api_shows_every_try_and_redelivers_with_permission() {
    let receiver = Receiver::start(|before, _| match before {
        0 => Answer::With(500, String::new(), "not yet"),
        _ => Answer::With(200, String::new(), "thanks"),
    })
    .await;
    let webhook = Webhook::new(&receiver.url("/"))
        .unwrap()
        .named("billing")
        .unwrap()
        .schedule(hasty(2));
    let app = App::wrap(
        MemoryStore::new(),
        |builder| builder.on_success(webhook).callbacks(local()),
        |tasks| {
            let access = |request: &http::request::Parts| {
                let scope = match request.headers.get("tenant") {
                    Some(tenant) => Scope::One(Some(Tenant::new(tenant.to_str().unwrap()))),
                    None => Scope::All,
                };
                match request.headers.contains_key("reader") {
                    true => Access::read_only(scope),
                    false => Access::none(scope).with(Permission::Callbacks),
                }
            };
            routes().nest_service("/tasks", TaskApi::new(tasks, access))
        },
    );
    let id = app.accepted(fc("/good").empty()).await;
    let record = settled(&app.tasks, id, DeliveryStatus::Delivered).await;
    let tries = &record.deliveries[0].tries;
    let shown = app.get(format!("/tasks/{id}/callbacks")).await;
    let one = |status: &str, next: serde_json::Value, tries: serde_json::Value| {
        json!({
            "taskId": id.to_string(),
            "destinationStatus": status,
            "callbacks": [{
                "callbackId": 1,
                "destination": "billing",
                "webhookId": format!("msg_{id}_1_billing"),
                "generation": 1,
                "condition": "success",
                "status": status,
                "nextTryTime": next,
                "tries": tries,
            }],
        })
    };
    let both = json!([
        { "timestamp": tries[0].at, "statusCode": 500, "text": "not yet" },
        { "timestamp": tries[1].at, "statusCode": 200, "text": "thanks" },
    ]);
    assert_eq!((shown.status, shown.json()), (200, one("Delivered", json!(null), both)));

    let again = app.post(format!("/tasks/{id}/callbacks/1/redeliver")).await;
    let expected = json!({ "callbackId": 1, "webhookId": format!("msg_{id}_1_billing"), "status": "Pending" });
    assert_eq!((again.status, again.json()), (202, expected));
    receiver.has(3).await;
    eventually("it is noted", async || {
        find(&app.tasks, id).await.deliveries[0].tries.len() == 3
    })
    .await;

    for number in ["0", "2", "99999999999999999999999"] {
        let unknown = app.post(format!("/tasks/{id}/callbacks/{number}/redeliver")).await;
        assert_eq!(
            (unknown.status, &unknown.json()["code"]),
            (404, &json!("CallbackNotFound")),
            "{number}"
        );
    }
    let path = format!("/tasks/{id}/callbacks");
    let strange = Request::get(&path)
        .header("tenant", "stranger")
        .body(Default::default())
        .unwrap();
    assert_eq!(app.send(strange).await.status, 404);
    let reading = Request::get(&path)
        .header("reader", "")
        .body(Default::default())
        .unwrap();
    assert_eq!(app.send(reading).await.status, 403);
    let reading = Request::post(format!("{path}/1/redeliver"))
        .header("reader", "")
        .body(Default::default())
        .unwrap();
    assert_eq!(app.send(reading).await.status, 403);
    receiver.has(3).await;
}

/// The URL is shown without parts that may be secret.
#[tokio::test]
async fn a_callback_s_url_is_shown_without_its_secrets() {
    let receiver = Receiver::start(|_, _| Answer::Status(200)).await;
    let app = app(local());
    let url = receiver.url("/hook?token=sesame&a=b");
    let answer = app.send(prefer_callback("/good", &url)).await;
    let id: RequestId = answer.id();
    settled(&app.tasks, id, DeliveryStatus::Delivered).await;
    let shown = app.get(format!("/tasks/{id}/callbacks")).await.json();
    assert_eq!(shown["callbackUrl"], receiver.url("/hook?token=REDACTED&a=b"));
    let document = app.get(format!("/tasks/{id}")).await.json();
    assert_eq!(document["destinationStatus"], "Delivered");
    assert!(!document.to_string().contains("sesame"));
}
