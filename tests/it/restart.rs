//! An application on the embedded store, killed or shut down, and started again.
//!
//! A copy of the open file stands for a kill: it is what a killed process leaves. The process itself goes on unseen.

use std::{
    fs,
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{Extension, Router, body::Body, routing::post};
use bytes::Bytes;
use http::{HeaderName, HeaderValue, Request, StatusCode};
use serde::{Deserialize, Serialize};
use tempfile::{TempDir, tempdir};
use tokio::sync::mpsc;
use tower_respond_async::{
    Completion, RequestId, RespondAsyncBuilder, TaskContext, TaskState, testing::ManualClock, time::Timestamp,
};
use tower_respond_async_redb::RedbStore;

use crate::support::{App, Gate, WithoutBody, fc, no_retries, recorder, routes, soon};

const HOUR: Duration = Duration::from_secs(3600);

/// The lives of one file.
struct Lives {
    folder: TempDir,
    clock: ManualClock,
    life: AtomicUsize,
}

impl Lives {
    fn new() -> Self {
        Self {
            folder: tempdir().unwrap(),
            clock: ManualClock::new(Timestamp::from_millis(1_700_000_000_000)),
            life: AtomicUsize::new(0),
        }
    }

    fn path(&self) -> PathBuf {
        self.folder
            .path()
            .join(format!("{}.redb", self.life.load(Ordering::Relaxed)))
    }

    /// Goes on with the file as a kill would leave it now.
    fn kill(&self) {
        let left = self.path();
        self.life.fetch_add(1, Ordering::Relaxed);
        fs::copy(left, self.path()).unwrap();
    }

    async fn store(&self) -> RedbStore {
        let settings = RedbStore::builder().clock(self.clock.clone());
        settings.open(self.path()).await.unwrap()
    }

    /// An application on the file. Its leases are so long that none lapses.
    async fn start(&self, routes: Router, configure: impl FnOnce(RespondAsyncBuilder) -> RespondAsyncBuilder) -> App {
        App::build(self.store().await, routes, |builder| {
            configure(builder.lease(HOUR).stop_grace(Duration::from_millis(10)))
        })
    }
}

async fn end(app: App) {
    soon(app.tasks.shutdown(Duration::ZERO)).await;
}

/// A handler that records the order of its requests, and never ends.
fn stands(seen: &Arc<Mutex<Vec<RequestId>>>) -> Router {
    let seen = seen.clone();
    let handler = async move |task: TaskContext| {
        seen.lock().unwrap().push(task.request_id().unwrap());
        std::future::pending::<()>().await;
    };
    Router::new().route("/stand", post(handler))
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct User {
    name: String,
    roles: Vec<u32>,
}

/// Across lives: what an outer layer put beside the request is there after a shutdown or a kill.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_carried_survives_a_shutdown_and_a_kill() {
    for killed in [false, true] {
        let lives = Lives::new();
        let user = User {
            name: "Anna \u{1F980}".into(),
            roles: vec![1, u32::MAX],
        };
        let gate = Gate::new();
        let first = lives
            .start(Router::new().route("/gate", gate.route()), |builder| {
                builder.concurrency(1).carry::<User>("user")
            })
            .await;
        first.accepted(fc("/gate").empty()).await;
        gate.arrived().await;
        let mut request = fc("/whoami").empty();
        request.extensions_mut().insert(user.clone());
        let waiting = first.accepted(request).await;
        if killed {
            lives.kill();
        } else {
            soon(first.tasks.shutdown(Duration::ZERO)).await;
        }
        gate.let_pass(1);

        let whoami = post(async |Extension(user): Extension<User>| axum::Json(user));
        let passes = post(async || "passed");
        let routes = Router::new().route("/whoami", whoami).route("/gate", passes);
        let second = lives.start(routes, |builder| builder.carry::<User>("user")).await;
        let answer = second.response(waiting).await;
        assert_eq!(serde_json::from_slice::<User>(&answer.body).unwrap(), user);
        end(second).await;
        end(first).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_come_byte_for_byte_after_a_kill() {
    const LIMIT: usize = 100_000;
    let lives = Lives::new();
    let stand = Router::new().route("/gate", Gate::new().route());
    let first = lives
        .start(stand, |builder| builder.concurrency(1).body_limit(LIMIT))
        .await;
    first.accepted(fc("/gate").empty()).await;
    let headers: [(&str, &[u8]); 9] = [
        ("x-t-raw", b"\xff\x80\xfe raw"),
        ("x-t-twice", b"first"),
        ("x-t-latin", "h\u{e9}llo".as_bytes()),
        ("x-t-empty", b""),
        ("x-t-twice", b"second"),
        ("x-t-tab", b"a\tb"),
        ("x-t-comma", b"a, b,, c"),
        ("x-t-twice", b"first"),
        ("x-t-long", &[b'l'; 8_000]),
    ];
    let every_byte: Vec<u8> = (0..=255).cycle().take(LIMIT).collect();
    let bodies = [Vec::new(), vec![0], every_byte, b"{\"a\": 1}\r\n\0".to_vec()];
    let uri = "/seen/%E2%82%AC/%2F?q=%00&q=a+b&empty=&=x";
    let mut ids = Vec::new();
    for body in &bodies {
        let mut request = fc(uri).with(body.clone());
        for (name, value) in headers {
            let value = HeaderValue::from_bytes(value).unwrap();
            request.headers_mut().append(HeaderName::from_static(name), value);
        }
        ids.push(first.accepted(request).await);
    }
    let too_long = first.send(fc(uri).with(vec![0; LIMIT + 1])).await;
    assert_eq!(too_long.status, 413);
    lives.kill();

    let (handler, mut seen) = recorder();
    let passes = post(async || "passed");
    let routes = Router::new().route("/gate", passes).fallback(handler);
    let second = lives.start(routes, |builder| builder.concurrency(1)).await;
    let mut came = Vec::new();
    for _ in &bodies {
        let request = soon(seen.recv()).await.unwrap();
        assert_eq!(request.uri(), uri);
        assert_eq!(request.method(), "POST");
        let names_in_order: Vec<_> = request
            .headers()
            .iter()
            .filter(|(name, _)| name.as_str().starts_with("x-t-"))
            .map(|(name, value)| (name.as_str().to_owned(), value.as_bytes().to_vec()))
            .collect();
        // A header map keeps the values of one name together, at the position of the first.
        let mut expected = http::HeaderMap::new();
        for (name, value) in headers {
            expected.append(HeaderName::from_static(name), HeaderValue::from_bytes(value).unwrap());
        }
        let expected: Vec<_> = expected
            .iter()
            .map(|(name, value)| (name.as_str().to_owned(), value.as_bytes().to_vec()))
            .collect();
        assert_eq!(names_in_order, expected);
        came.push(request.into_body());
    }
    // Tasks that were accepted in the same millisecond may come in any order.
    let mut sent = bodies.map(Bytes::from);
    sent.sort();
    came.sort();
    assert!(came == sent, "the bodies are not those that were sent");
    for id in ids {
        second.until(id, TaskState::Succeeded).await;
    }
    end(second).await;
    end(first).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_response_of_an_earlier_life_is_handed_out_as_it_was() {
    let lives = Lives::new();
    let handler = post(async || {
        let body: Vec<u8> = (0..=255).rev().cycle().take(3_000).collect();
        let mut response = http::Response::new(Body::from(body));
        *response.status_mut() = StatusCode::NON_AUTHORITATIVE_INFORMATION;
        for value in [&b"\xfe\xff"[..], b"again"] {
            let value = HeaderValue::from_bytes(value).unwrap();
            response.headers_mut().append("x-answer", value);
        }
        response
    });
    let routes = || Router::new().route("/work", handler.clone());
    let first = lives.start(routes(), |builder| builder).await;
    let id = first.accepted(fc("/work").empty()).await;
    first.until(id, TaskState::Succeeded).await;
    let before = first.get(format!("/tasks/{id}/result")).await;
    lives.kill();
    let killed = lives.start(routes(), |builder| builder).await;
    let after_kill = killed.get(format!("/tasks/{id}/result")).await;
    end(killed).await;
    let reopened = lives.start(routes(), |builder| builder).await;
    let after_shutdown = reopened.get(format!("/tasks/{id}/result")).await;
    assert_eq!((before.status, before.body.len()), (203, 3_000));
    assert_eq!(before.headers.get_all("x-answer").iter().count(), 2);
    for after in [after_kill, after_shutdown] {
        assert_eq!(after.status, before.status);
        assert_eq!(after.headers, before.headers);
        assert_eq!(after.body, before.body);
    }
    end(reopened).await;
    end(first).await;
}

/// No request is sent, and no lease is awaited. The task that ran is charged with a crash, the task that waited is not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_killed_process_ran_runs_again_as_soon_as_the_layer_is_there() {
    let lives = Lives::new();
    let gate = Gate::new();
    let first = lives.start(gate.among_routes(), |builder| builder.concurrency(1)).await;
    let running = first.accepted(fc("/gate").empty()).await;
    gate.arrived().await;
    let waiting = first.accepted(fc("/echo").with("waits")).await;
    lives.kill();

    let passes = Gate::new();
    passes.let_pass(1);
    // From here on nothing is sent. The test only reads the tasks.
    let second = lives.start(passes.among_routes(), |builder| builder).await;
    let ran = second.until(running, TaskState::Succeeded).await;
    assert_eq!((ran.attempt, ran.crashes), (2, 1));
    let waited = second.until(waiting, TaskState::Succeeded).await;
    assert_eq!((waited.attempt, waited.crashes), (1, 0));
    end(second).await;
    end(first).await;
}

/// A task that kills its process three times is poison, does not run again, and its hook is called once, with one id.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_under_which_its_process_was_killed_three_times_is_poison() {
    let lives = Lives::new();
    let seen = Arc::default();
    let mut apps = Vec::new();
    let mut id = None;
    for crashes in 0..3 {
        let app = lives.start(stands(&seen), |builder| builder).await;
        let id = match id {
            Some(id) => id,
            None => *id.insert(app.accepted(fc("/stand").empty()).await),
        };
        // The engine's first action is the rescue. Until then the state of the dead process is shown.
        let runs = async {
            loop {
                let running = app.until(id, TaskState::Running).await;
                if (running.attempt, running.crashes) == (crashes + 1, crashes + 1) {
                    return;
                }
                tokio::task::yield_now().await;
            }
        };
        soon(runs).await;
        lives.kill();
        apps.push(app);
    }
    let id = id.unwrap();
    let (tell, mut told) = mpsc::unbounded_channel();
    let hook = move |completion: Completion| {
        let _ = tell.send(completion);
    };
    let last = lives.start(stands(&seen), |builder| builder.on_failure(hook)).await;
    let record = last.until(id, TaskState::Failed).await;
    assert_eq!(record.crashes, 3);
    assert!(record.error.as_ref().unwrap().contains("poison"), "{record:?}");
    // The task was accepted before this hook existed, so the hook is not called for it; but for the next task.
    let other = last.accepted(fc("/nowhere").empty()).await;
    assert_eq!(soon(told.recv()).await.unwrap().task.id, other);
    end(last).await;
    for app in apps {
        end(app).await;
    }
    assert_eq!(*seen.lock().unwrap(), [id; 3]);
}

/// Four tasks ran when the process was killed. They are suspects and run one at a time, so that the next crash
/// identifies one of them. A task that waited is innocent, and runs beside them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn suspects_of_a_killed_process_run_one_at_a_time_beside_innocent_tasks() {
    let lives = Lives::new();
    let first = lives
        .start(stands(&Arc::default()), |builder| builder.concurrency(4))
        .await;
    let mut suspects = Vec::new();
    for _ in 0..4 {
        let id = first.accepted(fc("/stand").empty()).await;
        first.until(id, TaskState::Running).await;
        suspects.push(id);
    }
    // In the order in which they will run: within one millisecond, the ids decide.
    suspects.sort_unstable();
    let innocent = first.accepted(fc("/innocent").empty()).await;
    lives.kill();

    let (gate, innocents) = (Gate::new(), Gate::new());
    let routes = Router::new()
        .route("/stand", gate.route())
        .route("/innocent", innocents.route());
    let second = lives.start(routes, |builder| builder.concurrency(4)).await;
    innocents.arrived().await;
    for (ended, id) in suspects.iter().enumerate() {
        gate.arrived().await;
        for (number, other) in suspects.iter().enumerate() {
            let record = second.record(*other).await;
            let expected = match number.cmp(&ended) {
                std::cmp::Ordering::Less => TaskState::Succeeded,
                std::cmp::Ordering::Equal => TaskState::Running,
                std::cmp::Ordering::Greater => TaskState::Enqueued,
            };
            assert_eq!(record.state, expected, "suspect {number} while {ended} runs");
        }
        gate.let_pass(1);
        second.until(*id, TaskState::Succeeded).await;
    }
    assert_eq!(second.record(innocent).await.state, TaskState::Running);
    innocents.let_pass(1);
    let record = second.until(innocent, TaskState::Succeeded).await;
    assert_eq!(record.crashes, 0);
    end(second).await;
    end(first).await;
}

/// Everything an engine has is dropped with it: the application, the file, and everything that a hook and a handler
/// hold.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_is_opened_and_shut_down_many_times_in_one_process_and_nothing_is_left() {
    let lives = Lives::new();
    let held = Arc::new(());
    let mut ids = Vec::new();
    for life in 0..30 {
        let (in_handler, in_hook) = (held.clone(), held.clone());
        let handler = post(async move || {
            let _held = &in_handler;
            "done"
        });
        let hook = move |_: Completion| {
            let _held = &in_hook;
        };
        let routes = Router::new().route("/work", handler);
        let app = lives.start(routes, |builder| builder.on_completion(hook)).await;
        assert_eq!(app.kept().await, life, "all that was before is there");
        let id = app.accepted(fc("/work").empty()).await;
        app.until(id, TaskState::Succeeded).await;
        ids.push(id);
        end(app).await;
        assert_eq!(open_files(&lives.path()), 0, "life {life}");
        // A handler that got its stop signal may still be ending.
        let let_go = async {
            while Arc::strong_count(&held) > 1 {
                tokio::task::yield_now().await;
            }
        };
        soon(let_go).await;
    }
}

/// How often this process has a file open.
#[cfg(target_os = "linux")]
fn open_files(path: &std::path::Path) -> usize {
    let open = fs::read_dir("/proc/self/fd").unwrap();
    let targets = open.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
    targets.filter(|target| target == path).count()
}

#[cfg(not(target_os = "linux"))]
fn open_files(path: &std::path::Path) -> usize {
    // Its lock is free, or this fails.
    drop(redb::Database::open(path).unwrap());
    0
}

/// The client cannot tell that the process was killed before the 202 was sent, and sends the request again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_and_a_task_id_mean_the_same_task_after_a_kill() {
    let lives = Lives::new();
    let first = lives.start(routes(), |builder| builder).await;
    let named = || fc("/echo").header("X-Fc-Async-Task-Id", "job-7").with("named");
    let keyed = || fc("/echo").header("Idempotency-Key", "\"a key\"").with("keyed");
    let (by_name, by_key) = (first.accepted(named()).await, first.accepted(keyed()).await);
    lives.kill();

    let second = lives.start(routes(), |builder| builder).await;
    for (request, id) in [(named(), by_name), (keyed(), by_key)] {
        let again = second.send(request).await;
        again.assert_accepted();
        assert!(again.is_duplicate(), "{again:?}");
        assert_eq!(again.id(), id);
    }
    let other = fc("/echo").header("X-Fc-Async-Task-Id", "job-7").with("another");
    assert_eq!(second.send(other).await.status, 409);
    let other = fc("/echo").header("Idempotency-Key", "\"a key\"").with("another");
    assert_eq!(second.send(other).await.status, 422);
    second.until(by_name, TaskState::Succeeded).await;
    second.until(by_key, TaskState::Succeeded).await;
    assert_eq!(second.kept().await, 2);
    end(second).await;
    end(first).await;
}

/// Neither a restart nor its duration changes a task's time, and the task waits no longer than it must.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_delayed_task_keeps_its_time_across_lives() {
    let lives = Lives::new();
    let first = lives.start(routes(), |builder| builder).await;
    let delayed = fc("/echo").header("X-Fc-Async-Delay", "3000").with("later");
    let id = first.accepted(delayed).await;
    let run_at = first.record(id).await.run_at;
    lives.kill();
    lives.clock.advance(Duration::from_secs(2_990));
    let second = lives.start(routes(), |builder| builder).await;
    let now = second.accepted(fc("/echo").with("now")).await;
    second.until(now, TaskState::Succeeded).await;
    let record = second.record(id).await;
    assert_eq!((record.state, record.run_at), (TaskState::Enqueued, run_at));
    lives.clock.advance(Duration::from_secs(10));
    second.until(id, TaskState::Succeeded).await;
    end(second).await;
    end(first).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn retention_goes_on_across_lives() {
    let lives = Lives::new();
    let keep = |builder: RespondAsyncBuilder| builder.retention(2 * HOUR, 48 * HOUR).retry(no_retries());
    let first = lives.start(routes(), keep).await;
    let succeeded = first.accepted(fc("/echo").empty()).await;
    let failed = first.accepted(fc("/status/404").empty()).await;
    first.until(succeeded, TaskState::Succeeded).await;
    first.until(failed, TaskState::Failed).await;
    lives.clock.advance(HOUR);
    lives.kill();
    let second = lives.start(routes(), keep).await;
    assert_eq!(second.kept().await, 2);
    end(second).await;
    lives.clock.advance(HOUR);
    let third = lives.start(routes(), keep).await;
    third.until_kept(1).await;
    assert_eq!(third.record(failed).await.state, TaskState::Failed);
    end(third).await;
    end(first).await;
}

/// When the file is opened: no attempt follows an acknowledged stop.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_asked_for_before_a_kill_is_honoured_after_it() {
    let lives = Lives::new();
    let (before, after) = (Arc::default(), Arc::default());
    let first = lives
        .start(stands(&before), |builder| builder.concurrency(1).stop_grace(HOUR))
        .await;
    let running = first.accepted(fc("/stand").empty()).await;
    first.until(running, TaskState::Running).await;
    let waiting = first.accepted(fc("/stand").empty()).await;
    for (id, status) in [(running, 202), (waiting, 200)] {
        let stopped = first.post(format!("/tasks/{id}/stop")).await;
        assert_eq!(stopped.status, status, "{stopped:?}");
    }
    lives.kill();

    let second = lives.start(stands(&after).merge(routes()), |builder| builder).await;
    for id in [running, waiting] {
        second.until(id, TaskState::Stopped).await;
    }
    let next = second.accepted(fc("/echo").empty()).await;
    second.until(next, TaskState::Succeeded).await;
    assert_eq!(*after.lock().unwrap(), []);
    end(second).await;
}

/// The process dies after the task ended and before its hook was called, or before that call was recorded. The hook is
/// called after the restart, with the same id.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hook_that_a_kill_prevented_is_called_after_it_with_the_same_id() {
    let lives = Lives::new();
    let (tell, mut told) = mpsc::unbounded_channel();
    let hook = |waits: bool| {
        let tell = tell.clone();
        move |completion: Completion| {
            let _ = tell.send(completion.webhook_id);
            async move {
                if waits {
                    std::future::pending::<()>().await;
                }
            }
        }
    };
    let first = lives.start(routes(), |builder| builder.on_completion(hook(true))).await;
    let id = first.accepted(fc("/echo").with("told")).await;
    let before = soon(told.recv()).await.unwrap();
    assert_eq!(first.record(id).await.state, TaskState::Succeeded);
    lives.kill();
    // The claim of the interrupted delivery must lapse first.
    lives.clock.advance(HOUR);
    let second = lives
        .start(routes(), |builder| builder.on_completion(hook(false)))
        .await;
    assert_eq!(soon(told.recv()).await.unwrap(), before);
    let delivered = async {
        while second.record(id).await.deliveries[0].status != tower_respond_async::task::DeliveryStatus::Delivered {
            tokio::task::yield_now().await;
        }
    };
    soon(delivered).await;
    end(second).await;
    let third = lives
        .start(routes(), |builder| builder.on_completion(hook(false)))
        .await;
    let other = third.accepted(fc("/echo").with("another")).await;
    let next = soon(told.recv()).await.unwrap();
    assert!(next != before, "it was told once more after it was delivered");
    third.until(other, TaskState::Succeeded).await;
    end(third).await;
}

/// The synchronous path does not need the file.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn synchronous_requests_pass_while_the_store_is_closed() {
    let lives = Lives::new();
    let app = lives.start(routes(), |builder| builder).await;
    soon(app.tasks.shutdown(Duration::ZERO)).await;
    assert!(!app.tasks.is_ready());
    let answer = app.send(Request::post("/echo").with("still here")).await;
    assert_eq!((answer.status, &answer.body[..]), (200, &b"still here"[..]));
    let refused = app.send(fc("/echo").with("later")).await;
    refused.assert_refused(503, "ShuttingDown", Some("5"));
}
