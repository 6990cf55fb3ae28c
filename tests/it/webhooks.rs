//! Webhooks that the operator sets: what each one receives, how often, and how a receiver's answers count.

use std::{
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::PrivateKeyDer;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tower_respond_async::{
    MemoryStore, RequestId, Scope, TaskRecord, TaskState, TaskStore, Tasks, Tenant,
    error::BoxFuture,
    hook::{
        AppPath, Application, Completion, PayloadFormat, Schedule, Target, Tried, TryOutcome,
        webhook::{Resolve, Secret, Webhook, verify},
    },
    task::{Delivery, DeliveryStatus, Destination, delivery::Redeliver},
    testing::{FaultStore, ManualClock},
    time::Timestamp,
};
use tower_respond_async_redb::RedbStore;

use crate::{
    engine_support::{
        Reply, at_once, ended, eventually, find, ok, quick, reached, respond, serve, soon, stored, submission, submit,
    },
    receiver::{Answer, Received, Receiver},
};

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const NEW_SECRET: &str = "whsec_plJ3nmyCDGBKInavdOK15jsl7u2sZWGb";

pub(crate) fn secret() -> Secret {
    SECRET.parse().unwrap()
}

/// Tries follow each other so closely that no test waits for them.
pub(crate) fn hasty(tries: usize) -> Schedule {
    Schedule::new(vec![Duration::from_millis(5); tries - 1])
}

/// Answers with the status in the path.
async fn by_path(request: http::Request<tower_respond_async::RequestBody>) -> Reply {
    let status = request.uri().path()[1..].parse().unwrap_or(200);
    Ok(respond(status, "answer"))
}

pub(crate) async fn settled(tasks: &Tasks, id: RequestId, status: DeliveryStatus) -> Arc<TaskRecord> {
    eventually(&format!("{status:?}"), async || {
        find(tasks, id).await.destination_status() == status
    })
    .await;
    find(tasks, id).await
}

/// The delivery, as soon as it was tried so often.
async fn tried(tasks: &Tasks, id: RequestId, times: usize) -> Delivery {
    eventually("it is tried", async || {
        let record = find(tasks, id).await;
        record
            .deliveries
            .first()
            .is_some_and(|delivery| delivery.tries.len() >= times)
    })
    .await;
    find(tasks, id).await.deliveries[0].clone()
}

/// Runs one task with a receiver that answers like this, and a schedule of three tries.
async fn told(answer: impl Fn(usize, &Received) -> Answer + Send + Sync + 'static) -> (Receiver, Tasks, RequestId) {
    let receiver = Receiver::start(answer).await;
    let webhook = Webhook::new(&receiver.url("/hook")).unwrap().schedule(hasty(3));
    let tasks = serve(quick(MemoryStore::new()).on_completion(webhook), |_| async { ok() });
    let id = submit(&tasks, "/200").await;
    (receiver, tasks, id)
}

#[tokio::test]
async fn each_end_goes_to_its_own_destination_and_the_published_library_verifies_it() {
    let receiver = Receiver::start(|_, _| Answer::Status(204)).await;
    let to = |path: &str| Webhook::new(&receiver.url(path)).unwrap().secret(secret());
    let builder = quick(MemoryStore::new())
        .retry(at_once(0))
        .stop_grace(Duration::ZERO)
        .on_success(to("/dest-succ"))
        .on_success(
            to("/second")
                .named("second")
                .unwrap()
                .secret(NEW_SECRET.parse().unwrap()),
        )
        .on_failure(to("/dest-fail").format(PayloadFormat::CloudEvents))
        .on_stop(to("/dest-stop").format(PayloadFormat::Standard))
        .on_stop(to("/empty").format(PayloadFormat::Raw));
    let tasks = serve(builder, |request| async move {
        match request.uri().path() {
            "/hang" => std::future::pending().await,
            _ => by_path(request).await,
        }
    });
    let (good, bad, stopped) = (
        submit(&tasks, "/200").await,
        submit(&tasks, "/404").await,
        submit(&tasks, "/hang").await,
    );
    reached(&tasks, stopped, TaskState::Running).await;
    let _ = tasks.stop(stopped).await.unwrap();
    let received = receiver.has(5).await;
    for id in [good, bad, stopped] {
        settled(&tasks, id, DeliveryStatus::Delivered).await;
    }
    let by_path = |path: &str| received.iter().find(|received| received.path == path).unwrap();
    let published = standardwebhooks::Webhook::new(SECRET).unwrap();
    for message in &received {
        published.verify(&message.body, &message.headers).unwrap();
        let id = verify(&message.headers, &message.body, &[secret()]).unwrap();
        assert_eq!(id, message.header("webhook-id"));
        assert!(!id.contains('.') && message.method == "POST", "{message:?}");
        assert!(
            message.header("user-agent").starts_with("tower-respond-async/"),
            "{message:?}"
        );
        assert_eq!(message.header("content-length"), message.body.len().to_string());
        let forged = [&message.body, &b"!"[..]].concat();
        published.verify(&forged, &message.headers).unwrap_err();
    }
    let success = by_path("/dest-succ");
    assert_eq!(success.header("content-type"), "application/json");
    assert_eq!(success.json()["requestContext"]["requestId"], good.to_string());
    assert_eq!(
        (&success.json()["requestPayload"], &success.json()["responsePayload"]),
        (&"input".into(), &"answer".into())
    );

    let rotated = by_path("/second");
    assert_eq!(rotated.header("webhook-signature").split(' ').count(), 2);
    let new = standardwebhooks::Webhook::new(NEW_SECRET).unwrap();
    new.verify(&rotated.body, &rotated.headers).unwrap();
    assert_eq!(rotated.header("webhook-id"), format!("msg_{good}_1_second"));

    let failure = by_path("/dest-fail");
    assert_eq!(failure.header("content-type"), "application/cloudevents+json");
    assert_eq!(failure.json()["subject"], bad.to_string());
    assert_eq!(by_path("/dest-stop").json()["type"], "task.stopped");
    assert_eq!(by_path("/empty").body, "");
}

#[tokio::test]
async fn a_receiver_that_fails_is_called_again_with_the_same_webhook_id() {
    let (receiver, tasks, id) = told(|before, _| match before {
        0 => Answer::With(500, "connection: close\r\n".into(), "not yet"),
        1 => Answer::Close,
        _ => Answer::With(200, String::new(), "thanks"),
    })
    .await;
    let record = settled(&tasks, id, DeliveryStatus::Delivered).await;
    assert_eq!(record.state, TaskState::Succeeded);
    let received = receiver.has(3).await;
    for message in &received {
        assert_eq!(message.header("webhook-id"), received[0].header("webhook-id"));
        assert_eq!(message.body, received[0].body);
        let now = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap()
            .as_secs();
        let signed: u64 = message.header("webhook-timestamp").parse().unwrap();
        assert!(now - signed < 60, "of this try");
    }
    let tries = &record.deliveries[0].tries;
    let shown: Vec<_> = tries
        .iter()
        .map(|tried| (tried.status_code, tried.text.as_deref()))
        .collect();
    assert_eq!(
        (shown[0], shown[2]),
        ((Some(500), Some("not yet")), (Some(200), Some("thanks")))
    );
    assert_eq!(shown[1].0, None);
    assert!(shown[1].1.is_some_and(|text| !text.is_empty()), "{shown:?}");
}

#[tokio::test]
async fn a_schedule_that_is_used_up_ends_as_failed_and_a_redelivery_begins_it_anew() {
    let mended = Arc::new(AtomicBool::new(false));
    let is_mended = mended.clone();
    let (receiver, tasks, id) = told(move |_, _| match is_mended.load(Ordering::SeqCst) {
        false => Answer::Status(500),
        true => Answer::Status(200),
    })
    .await;
    let record = settled(&tasks, id, DeliveryStatus::Failed).await;
    assert_eq!(
        (record.state, record.deliveries[0].tries.len()),
        (TaskState::Succeeded, 3)
    );
    mended.store(true, Ordering::SeqCst);
    let name = record.deliveries[0].destination.clone();
    let redelivered = tasks.redeliver(id, 1, &name).await.unwrap();
    assert_eq!(redelivered, Redeliver::Due);
    let record = settled(&tasks, id, DeliveryStatus::Delivered).await;
    assert_eq!(record.deliveries[0].tries.len(), 4);
    let received = receiver.received();
    assert_eq!(received[0].header("webhook-id"), received[3].header("webhook-id"));
}

/// First nothing listens at the address, and then a receiver does.
#[tokio::test]
async fn a_receiver_that_is_down_for_a_while_gets_its_webhooks_when_it_is_back() {
    let address = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let webhook = Webhook::new(&format!("http://{address}/"))
        .unwrap()
        .schedule(hasty(1000));
    let tasks = serve(quick(MemoryStore::new()).on_completion(webhook), |_| async { ok() });
    let mut ids = Vec::new();
    for _ in 0..20 {
        ids.push(submit(&tasks, "/").await);
    }
    let delivery = tried(&tasks, ids[0], 1).await;
    assert_eq!(
        (delivery.status, delivery.tries[0].status_code),
        (DeliveryStatus::Pending, None)
    );
    let receiver = Receiver::start_on(address, |_, _| Answer::Status(200)).await;
    for id in &ids {
        settled(&tasks, *id, DeliveryStatus::Delivered).await;
    }
    receiver.has(ids.len()).await;
}

#[tokio::test]
async fn a_receiver_that_does_not_answer_is_given_up_after_fifteen_seconds() {
    let (receiver, tasks, id) = told(|before, _| match before {
        0 => Answer::Hang,
        _ => Answer::Status(200),
    })
    .await;
    receiver.has(1).await;
    // Only the timers' clock.
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(16)).await;
    tokio::time::resume();
    let delivery = tried(&tasks, id, 1).await;
    assert_eq!(delivery.tries[0].text.as_deref(), Some("no answer within 15s"));
    settled(&tasks, id, DeliveryStatus::Delivered).await;
}

#[tokio::test]
async fn a_redirect_is_a_failure_and_not_followed() {
    let elsewhere = Receiver::start(|_, _| Answer::Status(200)).await;
    let place = elsewhere.url("/");
    let (receiver, tasks, id) = told(move |before, _| {
        let status = [301, 307, 308][before];
        Answer::With(status, format!("location: {place}\r\n"), "")
    })
    .await;
    let record = settled(&tasks, id, DeliveryStatus::Failed).await;
    let text = record.deliveries[0].tries[0].text.as_deref().unwrap();
    assert!(text.contains("redirect"), "{text}");
    receiver.has(3).await;
    assert_eq!(elsewhere.connections(), 0);
}

#[tokio::test]
async fn a_receiver_that_answers_gone_gets_no_more_webhooks() {
    let (receiver, tasks, id) = told(|_, _| Answer::Status(410)).await;
    let record = settled(&tasks, id, DeliveryStatus::Failed).await;
    assert_eq!(
        (
            record.deliveries[0].tries.len(),
            record.deliveries[0].tries[0].status_code
        ),
        (1, Some(410))
    );
    receiver.has(1).await;
}

#[tokio::test]
async fn retry_after_is_obeyed_where_it_means_busy() {
    for (status, obeyed) in [
        (429, true),
        (502, true),
        (503, true),
        (504, true),
        (500, false),
        (404, false),
    ] {
        let (_receiver, tasks, id) = told(move |_, _| Answer::With(status, "retry-after: 3600\r\n".into(), "")).await;
        let delivery = tried(&tasks, id, 1).await;
        let now = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap()
            .as_millis() as u64;
        let wait = delivery.due_at.since(Timestamp::from_millis(now));
        assert_eq!(wait > Duration::from_secs(1800), obeyed, "{status}: {wait:?}");
        assert!(wait <= Duration::from_secs(3600), "{status}: {wait:?}");
    }
}

#[tokio::test]
async fn what_a_receiver_says_after_its_status_takes_nothing_back() {
    for answer in [Answer::BreakOff(200), Answer::Endless(200)] {
        let (receiver, tasks, id) = told(move |_, _| answer.clone()).await;
        let record = settled(&tasks, id, DeliveryStatus::Delivered).await;
        let tried = &record.deliveries[0].tries[0];
        assert_eq!(tried.status_code, Some(200));
        assert!(tried.text.as_ref().is_some_and(|text| text.len() <= 1024), "{tried:?}");
        receiver.has(1).await;
    }
    let (receiver, tasks, id) = told(|_, _| Answer::Endless(500)).await;
    settled(&tasks, id, DeliveryStatus::Failed).await;
    eventually("the receiver is cut off", async || receiver.endless().len() == 3).await;
    // No more than fits into the buffers of two sockets.
    assert!(
        receiver.endless().iter().all(|bytes| *bytes < 64 << 20),
        "{:?}",
        receiver.endless()
    );
}

/// One destination never answers. Tasks and the other destination are not delayed.
#[tokio::test]
async fn a_dead_destination_delays_neither_tasks_nor_another_destination() {
    const TASKS: usize = 200;
    let dead = Receiver::start(|_, _| Answer::Hang).await;
    let alive = Receiver::start(|_, _| Answer::Status(200)).await;
    let builder = quick(MemoryStore::new())
        .on_completion(Webhook::new(&dead.url("/")).unwrap())
        .on_completion(Webhook::new(&alive.url("/")).unwrap());
    let tasks = serve(builder, |_| async { ok() });
    let mut ids = Vec::new();
    for _ in 0..TASKS {
        ids.push(submit(&tasks, "/").await);
    }
    for id in &ids {
        assert_eq!(ended(&tasks, *id).await.state, TaskState::Succeeded);
    }
    alive.has(TASKS).await;
    assert!(
        dead.received().len() <= 4 && dead.most_open() <= 4,
        "{} at once",
        dead.most_open()
    );
    assert!(alive.most_open() <= 4, "{} at once", alive.most_open());
}

#[tokio::test]
async fn the_next_process_with_the_destination_delivers_an_end() {
    let folder = std::env::temp_dir().join(format!("webhooks-{}-{}", std::process::id(), fastrand::u64(..)));
    std::fs::create_dir_all(&folder).unwrap();
    let path = folder.join("tasks.redb");
    let receiver = Receiver::start(|_, _| Answer::Status(200)).await;
    let webhook = || Webhook::new(&receiver.url("/")).unwrap().secret(secret());
    // The receiver is down, and the process ends.
    let down = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let first = Webhook::new(&format!("http://{down}/"))
        .unwrap()
        .named("there")
        .unwrap();
    let tasks = serve(
        quick(RedbStore::open(&path).await.unwrap()).on_completion(first),
        |_| async { ok() },
    );
    let id = submit(&tasks, "/").await;
    ended(&tasks, id).await;
    tried(&tasks, id, 1).await;
    soon(tasks.shutdown(Duration::ZERO)).await;

    // A process without this destination does not touch it.
    let tasks = serve(
        quick(RedbStore::open(&path).await.unwrap()).on_completion(webhook()),
        |_| async { ok() },
    );
    let other = submit(&tasks, "/").await;
    settled(&tasks, other, DeliveryStatus::Delivered).await;
    assert_eq!(find(&tasks, id).await.destination_status(), DeliveryStatus::Pending);
    soon(tasks.shutdown(Duration::ZERO)).await;

    let third = webhook().named("there").unwrap();
    let tasks = serve(
        quick(RedbStore::open(&path).await.unwrap()).on_completion(third),
        |_| async { ok() },
    );
    let redelivered = tasks.redeliver(id, 1, &Destination::new("there")).await.unwrap();
    assert_eq!(redelivered, Redeliver::Due);
    settled(&tasks, id, DeliveryStatus::Delivered).await;
    let received = receiver.has(2).await;
    assert_eq!(received[1].header("webhook-id"), format!("msg_{id}_1_there"));
    standardwebhooks::Webhook::new(SECRET)
        .unwrap()
        .verify(&received[1].body, &received[1].headers)
        .unwrap();
    soon(tasks.shutdown(Duration::ZERO)).await;
    std::fs::remove_dir_all(folder).unwrap();
}

/// A try under way is left to the next process, and is not charged.
#[tokio::test]
async fn a_shutdown_does_not_wait_for_a_receiver_that_does_not_answer() {
    let memory = MemoryStore::new();
    let silent = Receiver::start(|_, _| Answer::Hang).await;
    let to = |receiver: &Receiver| Webhook::new(&receiver.url("/")).unwrap().named("there").unwrap();
    let tasks = serve(
        quick(FaultStore::new(memory.clone())).on_success(to(&silent)),
        |_| async { ok() },
    );
    let id = submit(&tasks, "/").await;
    silent.has(1).await;
    soon(tasks.shutdown(Duration::ZERO)).await;

    let answering = Receiver::start(|_, _| Answer::Status(200)).await;
    let tasks = serve(quick(memory).on_success(to(&answering)), |_| async { ok() });
    let record = settled(&tasks, id, DeliveryStatus::Delivered).await;
    assert_eq!(record.deliveries[0].tries.len(), 1, "{record:?}");
    let (first, second) = (silent.received().remove(0), answering.has(1).await.remove(0));
    assert_eq!(first.header("webhook-id"), second.header("webhook-id"));
}

#[tokio::test]
async fn another_path_is_called_by_a_task_that_calls_none() {
    let builder = quick(MemoryStore::new())
        .retry(at_once(0))
        .on_success(AppPath::new("/dest-succ").unwrap())
        .on_failure(AppPath::new("/404?of=it").unwrap().named("failed").unwrap());
    let told = Arc::new(std::sync::Mutex::new(Vec::new()));
    let in_handler = told.clone();
    let tasks = serve(builder, move |request| {
        let told = in_handler.clone();
        async move {
            if request.headers().contains_key("webhook-id") {
                let (head, body) = request.into_parts();
                let body = body.collect().await.unwrap().to_bytes();
                told.lock().unwrap().push((head.clone(), body));
                return by_path(http::Request::from_parts(head, Default::default())).await;
            }
            by_path(request).await
        }
    });
    let mut submission = submission("/200");
    submission.tenant = Some(Tenant::new("acme"));
    let good = stored(tasks.submit(submission).await.unwrap());
    let bad = submit(&tasks, "/400").await;
    for id in [good, bad] {
        settled(&tasks, id, DeliveryStatus::Delivered).await;
    }
    eventually("both are told", async || told.lock().unwrap().len() == 2).await;
    let told = told.lock().unwrap().clone();
    for (head, body) in told {
        let (of, path) = match head.uri.path() {
            "/dest-succ" => (good, "path-dest-succ"),
            _ => (bad, "failed"),
        };
        assert_eq!(head.headers["webhook-id"], format!("msg_{of}_1_{path}"));
        let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(body["requestContext"]["requestId"], of.to_string());
        assert_eq!(head.headers["x-respond-async-depth"], "2");
        let id: RequestId = head.headers["x-fc-request-id"].to_str().unwrap().parse().unwrap();
        let record = ended(&tasks, id).await;
        let tenant = record.tenant.as_ref().map(Tenant::as_str);
        assert_eq!(tenant, (of == good).then_some("acme"));
        assert!(record.deliveries.is_empty(), "{record:?}");
    }
    let counts = tasks.stats().await.unwrap().counts;
    assert_eq!(
        counts.iter().map(|(_, count)| count).sum::<u64>(),
        4,
        "two tasks, and two that tell of them"
    );
}

/// A path whose handler asks for async again, with the depth that it was given, ends.
#[tokio::test]
async fn a_chain_of_paths_and_requests_is_cut_off_at_eight() {
    let receiver = Receiver::start(|_, _| Answer::Status(200)).await;
    let builder = quick(MemoryStore::new()).on_success(AppPath::new("/told").unwrap());
    let tasks = serve(builder, |_| async { ok() });
    let mut submission = submission("/start");
    submission.request.depth = 8;
    let id = stored(tasks.submit(submission).await.unwrap());
    let record = settled(&tasks, id, DeliveryStatus::Failed).await;
    let tried = &record.deliveries[0].tries[..];
    assert_eq!(tried.len(), 1, "there is no use in trying again");
    assert!(
        tried[0].text.as_deref().unwrap().contains("8 async requests"),
        "{tried:?}"
    );
    drop(receiver);
}

/// A resolver that always answers with these addresses.
pub(crate) struct Fixed(pub(crate) Vec<IpAddr>);

impl Resolve for Fixed {
    fn resolve<'a>(&'a self, _: &'a str) -> BoxFuture<'a, std::io::Result<Vec<IpAddr>>> {
        Box::pin(std::future::ready(Ok(self.0.clone())))
    }
}

/// The certificate is checked for the name in the URL, whichever address was dialled.
#[tokio::test]
async fn over_https_the_receiver_is_known_by_its_name() {
    let (acceptor, certificate) = tls(&[]);
    let receiver = Receiver::start_tls(acceptor, |_, _| Answer::Status(200)).await;
    let to = |host: &str, name: &str| {
        let url = format!("https://{host}:{}/", receiver.port());
        let webhook = Webhook::new(&url).unwrap().named(name).unwrap().schedule(hasty(1));
        webhook.resolver(Fixed(vec![[127, 0, 0, 1].into()]))
    };
    let trusting = |webhook: Webhook| webhook.root_certificate(&certificate).unwrap();
    let builder = quick(MemoryStore::new())
        .on_success(trusting(to("hook.example", "good")))
        .on_success(trusting(to("other.example", "other-name")))
        .on_success(to("hook.example", "not-trusted"));
    let tasks = serve(builder, |_| async { ok() });
    let id = submit(&tasks, "/").await;
    eventually("all are tried", async || {
        let record = find(&tasks, id).await;
        record.deliveries.len() == 3 && record.deliveries.iter().all(|d| d.status != DeliveryStatus::Pending)
    })
    .await;
    for delivery in &find(&tasks, id).await.deliveries {
        let expected = match delivery.destination.as_str() {
            "good" => DeliveryStatus::Delivered,
            _ => DeliveryStatus::Failed,
        };
        assert_eq!(delivery.status, expected, "{delivery:?}");
    }
    receiver.has(1).await;
}

/// A TLS acceptor for `hook.example`, and its certificate.
pub(crate) fn tls(protocols: &[&[u8]]) -> (TlsAcceptor, Vec<u8>) {
    let authority = rcgen::generate_simple_self_signed(["hook.example".to_owned()]).unwrap();
    let key = PrivateKeyDer::try_from(authority.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![authority.cert.der().clone()], key)
        .unwrap();
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
    (TlsAcceptor::from(Arc::new(config)), authority.cert.der().to_vec())
}

#[tokio::test]
async fn a_receiver_that_speaks_http_2_is_told_over_it() {
    let (acceptor, certificate) = tls(&[b"h2"]);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (seen, mut received) = tokio::sync::mpsc::channel(10);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let stream = acceptor.accept(stream).await.unwrap();
            let seen = seen.clone();
            let service = hyper::service::service_fn(move |request: http::Request<hyper::body::Incoming>| {
                let seen = seen.clone();
                async move {
                    let (head, body) = request.into_parts();
                    let body = body.collect().await?.to_bytes();
                    seen.send((head, body)).await.unwrap();
                    Ok::<_, hyper::Error>(http::Response::new(Full::new(Bytes::new())))
                }
            });
            let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            tokio::spawn(connection.serve_connection(TokioIo::new(stream), service));
        }
    });
    let webhook = Webhook::new(&format!("https://hook.example:{port}/told")).unwrap();
    let webhook = webhook.secret(secret()).resolver(Fixed(vec![[127, 0, 0, 1].into()]));
    let webhook = webhook.root_certificate(&certificate).unwrap();
    let tasks = serve(quick(MemoryStore::new()).on_success(webhook), |_| async { ok() });
    let id = submit(&tasks, "/").await;
    let (head, body) = soon(received.recv()).await.unwrap();
    assert_eq!((head.version, head.uri.path()), (http::Version::HTTP_2, "/told"));
    verify(&head.headers, &body, &[secret()]).unwrap();
    settled(&tasks, id, DeliveryStatus::Delivered).await;
}

#[tokio::test]
async fn what_makes_no_sense_is_refused_when_it_is_built() {
    for url in [
        "",
        "/hook",
        "ftp://example.org/",
        "https://user@example.org/",
        "https://example.org/#a",
        "https://",
    ] {
        let refused = Webhook::new(url).unwrap_err();
        assert_eq!(refused.setting(), "Webhook", "{url}");
        assert!(!refused.to_string().contains("user@"), "{refused}");
    }
    for path in ["", "dest", "https://example.org/", "/a b"] {
        assert!(AppPath::new(path).is_err(), "{path}");
    }
    let hook = || Webhook::new("http://127.0.0.1:1/hook").unwrap();
    let twice = quick(MemoryStore::new())
        .on_completion(hook())
        .on_success(hook())
        .build();
    assert_eq!(twice.unwrap_err().setting(), "destinations");
    let many = || {
        (0..8).fold(quick(MemoryStore::new()), |builder, number| {
            builder.on_success(AppPath::new(&format!("/told/{number}")).unwrap())
        })
    };
    assert!(many().build().is_ok());
    let more = many().on_failure(|_: Completion| {}).build().unwrap_err();
    assert_eq!(more.setting(), "destinations");
    assert!(
        more.to_string()
            .contains("there are 9 destinations, and a task can have 8"),
        "{more}"
    );
    let named = quick(MemoryStore::new()).on_success(hook()).on_failure(hook()).build();
    assert!(named.is_ok(), "each end has one destination");
    assert!(
        quick(MemoryStore::new())
            .on_success(hook().concurrency(0))
            .build()
            .is_err()
    );
    assert!(hook().named("a.b").is_err() && hook().root_certificate(b"none").is_err());
    assert_eq!(
        format!("{:?}", hook().secret(secret())),
        "Webhook { name: Destination(\"webhook-d5f1a38b49b8\"), host: Some(\"127.0.0.1\"), .. }"
    );
}

/// A new kind of destination needs only the port.
#[tokio::test]
async fn a_custom_target_is_called_postponed_and_given_up() {
    struct Ledger(Destination, Schedule, std::sync::Mutex<Vec<TryOutcome>>);
    impl Target for Ledger {
        fn name(&self) -> &Destination {
            &self.0
        }
        fn deliver<'a>(&'a self, _: Completion, _: &'a dyn Application) -> BoxFuture<'a, Tried> {
            let next = self.2.lock().unwrap().pop().unwrap();
            Box::pin(async move { Tried::new(next).saying("ledger") })
        }
        fn schedule(&self) -> &Schedule {
            &self.1
        }
    }
    let long = Ledger(Destination::new("l".repeat(65)), hasty(9), std::sync::Mutex::default());
    let refused = quick(MemoryStore::new()).on_completion(long).build().unwrap_err();
    assert!(refused.to_string().contains("longer than 64 bytes"), "{refused}");
    let ledger = Ledger(Destination::new("ledger"), hasty(9), {
        let mut script = vec![
            TryOutcome::Postponed(Duration::from_millis(5)),
            TryOutcome::Failed { retry_after: None },
            TryOutcome::GivenUp,
        ];
        script.reverse();
        std::sync::Mutex::new(script)
    });
    let tasks = serve(quick(MemoryStore::new()).on_success(ledger), |_| async { ok() });
    let id = submit(&tasks, "/").await;
    let record = settled(&tasks, id, DeliveryStatus::Failed).await;
    assert_eq!(record.deliveries[0].tries.len(), 2, "a postponement is no try");
}

/// Completions are given up for a destination that is configured and never answers, as for one that is not configured.
/// For one that is only slow, none is given up, however long they wait for their turn.
#[tokio::test]
async fn what_waits_for_a_destination_that_answers_nothing_is_given_up_and_for_a_slow_one_is_not() {
    let clock = ManualClock::new(Timestamp::from_millis(1_000));
    let store = MemoryStore::builder().clock(clock.clone()).build();
    let dead = Receiver::start(|_, _| Answer::Status(500)).await;
    let slow = Receiver::start(|_, _| Answer::Hang).await;
    let to = |receiver: &Receiver, name| {
        let webhook = Webhook::new(&receiver.url("/")).unwrap().named(name).unwrap();
        webhook.schedule(hasty(1000)).concurrency(1)
    };
    let patience = Duration::from_millis(200);
    let builder = quick(store)
        .callback_patience(patience)
        .on_completion(to(&dead, "dead"))
        .on_completion(to(&slow, "slow"));
    let tasks = serve(builder, |_| async { ok() });
    let mut ids = Vec::new();
    for _ in 0..40 {
        ids.push(submit(&tasks, "/").await);
    }
    for id in &ids {
        ended(&tasks, *id).await;
    }
    dead.has(4).await;
    clock.advance(2 * patience);
    let of = async |name: &str| {
        let mut deliveries = Vec::new();
        for id in &ids {
            let record = find(&tasks, *id).await;
            let of = record
                .deliveries
                .iter()
                .find(|delivery| delivery.destination.as_str() == name);
            deliveries.push(of.unwrap().clone());
        }
        deliveries
    };
    let given_up = |delivery: &Delivery| {
        let why = delivery.tries.last().and_then(|entry| entry.text.as_deref());
        delivery.status == DeliveryStatus::Failed && why.is_some_and(|why| why.starts_with("given up: "))
    };
    eventually("something is given up", async || of("dead").await.iter().any(given_up)).await;
    let pending = |delivery: &Delivery| delivery.status == DeliveryStatus::Pending;
    assert!(of("slow").await.iter().all(pending));
}

/// Pending completions are counted, and the count can be watched.
#[tokio::test]
async fn the_backlog_is_counted() {
    let store = MemoryStore::new();
    let dead = Receiver::start(|_, _| Answer::Hang).await;
    let tasks = serve(
        quick(store.clone()).on_completion(Webhook::new(&dead.url("/")).unwrap()),
        |_| async { ok() },
    );
    for _ in 0..7 {
        let id = submit(&tasks, "/").await;
        ended(&tasks, id).await;
    }
    let counts = store.counts(&Scope::All).await.unwrap();
    assert_eq!(counts.pending_deliveries, Some(7));
}
