//! How attempts run and end.

use std::{
    collections::HashSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::{FutureExt, future::BoxFuture, stream};
use http::{Request, Response, header::RETRY_AFTER};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use tokio::sync::mpsc::unbounded_channel;
use tower::{Layer, Service};
use tower_respond_async::{
    AttemptEnd, BoxError, Completion, DoNotRetry, MemoryStore, RequestBody, RequestId, RetryPolicy, TaskState, Tasks,
    Verdict,
    store::{Insert, Operation},
    task::{Condition, FenceToken},
    testing::{FaultStore, ManualClock},
    time::Timestamp,
};

use crate::engine_support::{
    Gate, Reply, ReplyBody, at_once, context, ended, eventually, find, inserted, ledger, look_round, new_task, ok,
    quick, reached, respond, serve, soon, stored, submission, submit,
};

#[tokio::test]
async fn every_status_ends_its_task_as_documented() {
    let tasks = serve(quick(MemoryStore::new()).retry(at_once(1)), |request| async move {
        let status = request.uri().path()[1..].parse().unwrap();
        Ok(respond(status, "text"))
    });
    let mut all = Vec::new();
    for status in 200..=599 {
        all.push((status, submit(&tasks, &format!("/{status}")).await));
    }
    for (status, id) in all {
        let record = ended(&tasks, id).await;
        let (state, attempts) = match status {
            200..=399 => (TaskState::Succeeded, 1),
            408 | 425 | 429 | 500.. => (TaskState::Failed, 2),
            _ => (TaskState::Failed, 1),
        };
        assert_eq!((record.state, record.attempt), (state, attempts), "{status}");
        assert_eq!(record.status_code, Some(status));
        let response = tasks.response(id).await.unwrap().unwrap();
        assert_eq!((response.status.as_u16(), &response.body[..]), (status, &b"text"[..]));
        assert_eq!(record.error.is_some(), state == TaskState::Failed);
    }
}

#[tokio::test]
async fn retry_after_is_obeyed_up_to_an_hour() {
    let clock = ManualClock::new(Timestamp::from_millis(1_000_000));
    let tasks = serve(
        quick(MemoryStore::builder().clock(clock.clone()).build()),
        |request| async move {
            let wait = match request.uri().path() {
                "/short" => "90",
                "/long" => "86400",
                _ => return ok(),
            };
            let mut response = respond(
                if context(&request).fence_token().unwrap().get() == 1 {
                    503
                } else {
                    200
                },
                "",
            );
            response.headers_mut().insert(RETRY_AFTER, wait.parse().unwrap());
            Ok(response)
        },
    );
    let (short, long) = (submit(&tasks, "/short").await, submit(&tasks, "/long").await);
    let waits = [(short, 90), (long, 3600)];
    for (id, wait) in waits {
        let record = reached(&tasks, id, TaskState::Retrying).await;
        assert_eq!(record.run_at, Timestamp::from_millis(1_000_000 + wait * 1000));
    }

    clock.advance(Duration::from_secs(90));
    look_round(&tasks).await;
    assert_eq!(ended(&tasks, short).await.state, TaskState::Succeeded);
    assert_eq!(find(&tasks, long).await.state, TaskState::Retrying);
    clock.advance(Duration::from_secs(3510));
    look_round(&tasks).await;
    assert_eq!(ended(&tasks, long).await.state, TaskState::Succeeded);
}

#[tokio::test]
async fn a_panic_in_the_handler_is_a_failed_attempt_and_no_more() {
    let tasks = serve(quick(MemoryStore::new()).concurrency(1), |request| async move {
        assert!(request.uri().path() != "/panic", "{}", "!".repeat(5000));
        ok()
    });
    let id = submit(&tasks, "/panic").await;
    let record = ended(&tasks, id).await;
    assert_eq!((record.state, record.attempt), (TaskState::Failed, 4));
    let error = record.error.as_deref().unwrap();
    assert!(
        error.starts_with("the handler panicked: !!!") && error.len() < 1100,
        "{error}"
    );
    look_round(&tasks).await;
}

/// A service that panics at a chosen place.
struct Fragile {
    at: Arc<Mutex<Option<Place>>>,
    tries: Arc<AtomicUsize>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Place {
    Clone,
    Ready,
    Call,
    Poll,
    Drop,
}

impl Fragile {
    fn panic_at(&self, place: Place) {
        let told = *self.at.lock().unwrap() == Some(place);
        if told {
            self.tries.fetch_add(1, Ordering::SeqCst);
            panic!("at {place:?}");
        }
    }
}

impl Clone for Fragile {
    fn clone(&self) -> Self {
        self.panic_at(Place::Clone);
        Self {
            at: self.at.clone(),
            tries: self.tries.clone(),
        }
    }
}

impl Service<Request<RequestBody>> for Fragile {
    type Response = Response<ReplyBody>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Reply>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.panic_at(Place::Ready);
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<RequestBody>) -> Self::Future {
        struct Bomb(Fragile);
        impl Drop for Bomb {
            fn drop(&mut self) {
                self.0.panic_at(Place::Drop);
            }
        }
        self.panic_at(Place::Call);
        let bomb = Bomb(self.clone());
        async move {
            bomb.0.panic_at(Place::Poll);
            if request.uri().path() == "/hang" {
                std::future::pending::<()>().await;
            }
            ok()
        }
        .boxed()
    }
}

#[tokio::test]
async fn a_panic_anywhere_in_the_application_is_a_failed_attempt() {
    for place in [Place::Clone, Place::Ready, Place::Call, Place::Poll, Place::Drop] {
        let (at, tries) = (Arc::new(Mutex::new(None)), Arc::new(AtomicUsize::new(0)));
        let layer = quick(MemoryStore::new())
            .concurrency(1)
            .attempt_timeout(Duration::from_millis(20))
            .build()
            .unwrap();
        let tasks = layer.tasks();
        drop(layer.layer(Fragile {
            at: at.clone(),
            tries: tries.clone(),
        }));
        look_round(&tasks).await;

        *at.lock().unwrap() = Some(place);
        let id = submit(&tasks, "/hang").await;
        let record = ended(&tasks, id).await;
        assert_eq!((record.state, record.attempt), (TaskState::Failed, 4), "{place:?}");
        assert_eq!(tries.load(Ordering::SeqCst), 4);

        *at.lock().unwrap() = None;
        look_round(&tasks).await;
        eventually("a free slot", async || used(&tasks).await == 0).await;
    }
}

#[tokio::test]
async fn an_error_of_the_application_is_shown_with_its_causes() {
    #[derive(Debug, thiserror::Error)]
    #[error("could not transcode")]
    struct Outer(#[source] std::io::Error);

    let tasks = serve(quick(MemoryStore::new()), |_| async {
        Err(Outer(std::io::Error::other("the disk is full")).into())
    });
    let id = submit(&tasks, "/").await;
    let record = ended(&tasks, id).await;
    assert_eq!((record.state, record.attempt), (TaskState::Failed, 4));
    let error = record.error.as_deref();
    assert_eq!(error, Some("the handler failed: could not transcode: the disk is full"));
    assert_eq!(tasks.response(id).await.unwrap(), None);
}

#[tokio::test]
async fn a_body_that_breaks_off_fails_the_attempt_and_is_kept_marked() {
    let tasks = serve(quick(MemoryStore::new()), |_| async {
        let frames = [
            Ok(Frame::data(Bytes::from_static(b"first half"))),
            Err(BoxError::from("the pipe broke")),
        ];
        Ok(Response::new(StreamBody::new(stream::iter(frames)).boxed_unsync()))
    });
    let id = submit(&tasks, "/").await;
    let record = ended(&tasks, id).await;
    assert_eq!((record.state, record.attempt), (TaskState::Failed, 4));
    let error = record.error.as_deref();
    assert_eq!(error, Some("the response body broke off: the pipe broke"));
    let response = tasks.response(id).await.unwrap().unwrap();
    assert_eq!((&response.body[..], response.truncated), (&b"first half"[..], true));
}

#[tokio::test]
async fn a_body_over_the_limit_is_cut_and_marked() {
    let tasks = serve(quick(MemoryStore::new()).result_limit(4), |_| async {
        Ok(respond(200, "123456"))
    });
    let id = submit(&tasks, "/").await;
    assert_eq!(ended(&tasks, id).await.state, TaskState::Succeeded);
    let response = tasks.response(id).await.unwrap().unwrap();
    assert_eq!((&response.body[..], response.truncated), (&b"1234"[..], true));
}

#[tokio::test]
async fn an_attempt_that_takes_too_long_is_dropped_and_tried_again() {
    let builder = quick(MemoryStore::new())
        .attempt_timeout(Duration::from_millis(30))
        .concurrency(1);
    let tasks = serve(builder, |request| async move {
        match request.uri().path() {
            "/hang" => std::future::pending().await,
            _ => ok(),
        }
    });
    let id = submit(&tasks, "/hang").await;
    let record = ended(&tasks, id).await;
    assert_eq!((record.state, record.attempt), (TaskState::Failed, 4));
    assert_eq!(record.error.as_deref(), Some("the attempt took longer than 0.03 s"));
    look_round(&tasks).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handler_that_blocks_its_thread_fails_and_its_slot_is_shown_as_stuck() {
    let (release, blocked) = mpsc::channel::<()>();
    let blocked = Arc::new(Mutex::new(blocked));
    let builder = quick(MemoryStore::new())
        .retry(at_once(0))
        .attempt_timeout(Duration::from_millis(50))
        .concurrency(2);
    let tasks = serve(builder, move |request| {
        let blocked = blocked.clone();
        async move {
            if request.uri().path() == "/block" {
                let _ = blocked.lock().unwrap().recv();
            }
            ok()
        }
    });
    let id = submit(&tasks, "/block").await;
    let record = ended(&tasks, id).await;
    assert_eq!((record.state, record.attempt), (TaskState::Failed, 1));
    let slots = tasks.stats().await.unwrap().slots.unwrap();
    assert_eq!((slots.used, slots.total, slots.stuck), (1, 2, 1));
    look_round(&tasks).await;

    drop(release);
    eventually("free slots", async || {
        let slots = tasks.stats().await.unwrap().slots.unwrap();
        (slots.used, slots.stuck) == (0, 0)
    })
    .await;
    assert_eq!(
        find(&tasks, id).await,
        record,
        "what it answers in the end changes nothing"
    );
}

#[tokio::test]
async fn a_blocking_thread_goes_on_when_its_attempt_is_over_and_changes_nothing() {
    let (release, blocked) = mpsc::channel::<()>();
    let (went_on, mut goes_on) = unbounded_channel();
    let blocked = Arc::new(Mutex::new(blocked));
    let builder = quick(MemoryStore::new())
        .retry(at_once(0))
        .attempt_timeout(Duration::from_millis(30));
    let tasks = serve(builder, move |request| {
        let (blocked, went_on) = (blocked.clone(), went_on.clone());
        let task = context(&request);
        async move {
            let thread = tokio::task::spawn_blocking(move || {
                let _ = blocked.lock().unwrap().recv();
                task.progress(1.0, "too late");
                went_on.send(()).unwrap();
            });
            thread.await?;
            ok()
        }
    });
    let id = submit(&tasks, "/").await;
    let record = ended(&tasks, id).await;
    assert_eq!(record.state, TaskState::Failed);
    eventually("a free slot", async || used(&tasks).await == 0).await;
    drop(release);
    soon(goes_on.recv()).await.unwrap();
    assert_eq!(find(&tasks, id).await, record);
}

#[tokio::test]
async fn a_handler_can_say_that_trying_again_cannot_help() {
    let tasks = serve(quick(MemoryStore::new()), |_| async {
        let mut response = respond(500, "the file is damaged");
        response.extensions_mut().insert(DoNotRetry);
        Ok(response)
    });
    let id = submit(&tasks, "/").await;
    let record = ended(&tasks, id).await;
    assert_eq!(
        (record.state, record.attempt, record.status_code),
        (TaskState::Failed, 1, Some(500))
    );
}

/// Retries a 404, and takes a 500 for a success.
struct Contrary(u32);

impl RetryPolicy for Contrary {
    fn max_retries(&self) -> u32 {
        self.0
    }

    fn judge(&self, end: &AttemptEnd<'_>) -> Verdict {
        match end {
            AttemptEnd::Answered { status, .. } if status.as_u16() == 404 => Verdict::Retry { after: None },
            AttemptEnd::Answered { status, .. } if status.as_u16() == 500 => Verdict::Success,
            AttemptEnd::Error(_) => Verdict::Success,
            AttemptEnd::TimedOut => panic!("the policy is broken"),
            _ => Verdict::Failure,
        }
    }

    fn delay(&self, _: u32, jitter: f64) -> Duration {
        assert!((0.0..1.0).contains(&jitter));
        Duration::ZERO
    }
}

async fn contrary(request: Request<RequestBody>) -> Reply {
    let attempt = context(&request).attempt();
    match request.uri().path() {
        "/error" => Err("no".into()),
        "/hang" if attempt == 1 => std::future::pending().await,
        "/sixth" => Ok(respond(if attempt < 6 { 404 } else { 500 }, "")),
        path => Ok(respond(path[1..].parse().unwrap_or(500), "")),
    }
}

#[tokio::test]
async fn a_policy_of_ones_own_decides() {
    let tasks = serve(quick(MemoryStore::new()).retry(Contrary(2)), contrary);
    let expected = [
        ("/404", TaskState::Failed, 3),
        ("/500", TaskState::Succeeded, 1),
        ("/200", TaskState::Failed, 1),
        ("/error", TaskState::Succeeded, 1),
    ];
    for (path, state, attempts) in expected {
        let id = submit(&tasks, path).await;
        let record = ended(&tasks, id).await;
        assert_eq!((record.state, record.attempt), (state, attempts), "{path}");
    }
    let id = submit(&tasks, "/error").await;
    ended(&tasks, id).await;
    let response = tasks.response(id).await.unwrap().unwrap();
    assert_eq!(
        response.status.as_u16(),
        204,
        "a success without an answer has an empty one"
    );
}

/// A panic of the policy used to end the attempt's task: nothing was written, the lease ran out, and after three rounds
/// the task was poison. Where the policy panics, the default decides.
#[tokio::test]
async fn a_policy_that_panics_is_passed_over() {
    let builder = quick(MemoryStore::new())
        .retry(Contrary(2))
        .attempt_timeout(Duration::from_millis(30));
    let tasks = serve(builder, contrary);
    let id = submit(&tasks, "/hang").await;
    let record = ended(&tasks, id).await;
    assert_eq!(
        (record.state, record.attempt, record.crashes),
        (TaskState::Succeeded, 2, 0)
    );
}

/// `max_retries` of `u32::MAX` used to overflow when the first run was added, to no retries at all.
#[tokio::test]
async fn a_task_can_be_retried_for_ever() {
    let tasks = serve(quick(MemoryStore::new()).retry(Contrary(u32::MAX)), contrary);
    let id = submit(&tasks, "/sixth").await;
    let record = ended(&tasks, id).await;
    assert_eq!((record.state, record.attempt), (TaskState::Succeeded, 6));
}

#[tokio::test]
async fn progress_is_seen_while_the_task_runs_and_kept_when_it_ended() {
    let gate = Gate::new();
    let at_gate = gate.clone();
    let store = MemoryStore::new();
    let tasks = serve(quick(store.clone()), move |request| {
        let (gate, task) = (at_gate.clone(), context(&request));
        async move {
            task.progress(0.25, "started");
            gate.pass().await;
            task.progress(0.5, "half");
            gate.pass().await;
            task.progress(7.0, "done");
            ok()
        }
    });
    let id = submit(&tasks, "/").await;
    let seen = async || {
        let progress = find(&tasks, id).await.progress.clone().unwrap();
        (progress.fraction, progress.message.to_string())
    };
    gate.arrived(1).await;
    assert_eq!(seen().await, (0.25, "started".into()));
    gate.let_through(1);
    gate.arrived(1).await;
    assert_eq!(seen().await, (0.5, "half".into()));
    gate.let_through(1);
    let record = ended(&tasks, id).await;
    assert_eq!(seen().await, (1.0, "done".into()));
    assert_eq!(record.state, TaskState::Succeeded);
}

#[tokio::test]
async fn a_handler_knows_its_task_its_attempt_and_its_deadline() {
    let (tell, mut told) = unbounded_channel();
    let timeout = Duration::from_secs(500);
    let begun = Instant::now();
    let tasks = serve(quick(MemoryStore::new()).attempt_timeout(timeout), move |request| {
        let task = context(&request);
        tell.send((
            task.request_id().unwrap(),
            task.attempt(),
            task.fence_token().unwrap(),
            task.deadline().unwrap(),
        ))
        .unwrap();
        async move { Ok(respond(503, "")) }
    });
    let id = submit(&tasks, "/").await;
    ended(&tasks, id).await;
    let mut last = FenceToken::NONE;
    for expected in 1..=4 {
        let (request_id, attempt, token, deadline) = told.recv().await.unwrap();
        assert_eq!((request_id, attempt), (id, expected));
        assert!(token > last, "tokens grow");
        assert!(deadline >= begun + timeout && deadline <= Instant::now() + timeout);
        last = token;
    }
    assert!(told.try_recv().is_err());
}

#[tokio::test]
async fn a_backlog_runs_oldest_first_and_new_tasks_do_not_jump_it() {
    let clock = ManualClock::new(Timestamp::from_millis(1_000));
    let (gate, order) = (Gate::new(), Arc::new(Mutex::new(Vec::new())));
    let (at_gate, seen) = (gate.clone(), order.clone());
    let builder = quick(MemoryStore::builder().clock(clock.clone()).build()).concurrency(1);
    let tasks = serve(builder, move |request| {
        let (gate, order) = (at_gate.clone(), seen.clone());
        async move {
            order.lock().unwrap().push(request.uri().path().to_owned());
            gate.pass().await;
            ok()
        }
    });
    let mut expected = Vec::new();
    let mut next = async || {
        // A millisecond each: tasks of one millisecond are ordered by their random ids.
        clock.advance(Duration::from_millis(1));
        let path = format!("/{}", expected.len());
        let id = submit(&tasks, &path).await;
        expected.push(path);
        id
    };
    for _ in 0..20 {
        next().await;
    }
    for _ in 0..20 {
        gate.arrived(1).await;
        gate.let_through(1);
        next().await;
    }
    let last = next().await;
    gate.open();
    ended(&tasks, last).await;
    assert_eq!(*order.lock().unwrap(), expected);
}

#[tokio::test]
async fn a_delayed_task_is_not_early() {
    let clock = ManualClock::new(Timestamp::from_millis(1_000));
    let tasks = serve(quick(MemoryStore::builder().clock(clock.clone()).build()), |_| async {
        ok()
    });
    let mut submission = submission("/");
    submission.delay = Duration::from_secs(3600);
    let id = stored(tasks.submit(submission).await.unwrap());
    for wait in [Duration::ZERO, Duration::from_millis(3_599_999)] {
        clock.advance(wait);
        look_round(&tasks).await;
        // The engine has looked, and claimed nothing.
        assert_eq!(find(&tasks, id).await.attempt, 0);
    }
    clock.advance(Duration::from_millis(1));
    let record = ended(&tasks, id).await;
    assert_eq!(record.started_at, Some(Timestamp::from_millis(3_601_000)));
}

#[tokio::test]
async fn a_task_that_waited_too_long_expires_and_its_hook_is_called() {
    let clock = ManualClock::new(Timestamp::from_millis(1_000));
    let (tell, mut told) = tokio::sync::mpsc::channel(10);
    let builder = quick(MemoryStore::builder().clock(clock.clone()).build())
        .max_age(Duration::from_secs(600))
        .lease(Duration::from_secs(1))
        .on_failure(tell);
    let tasks = serve(builder, |_| async {
        let mut response = respond(503, "");
        response.headers_mut().insert(RETRY_AFTER, "3600".parse().unwrap());
        Ok(response)
    });
    let id = submit(&tasks, "/").await;
    reached(&tasks, id, TaskState::Retrying).await;
    clock.advance(Duration::from_secs(600));
    let record = ended(&tasks, id).await;
    assert_eq!((record.state, record.deferrals), (TaskState::Expired, 1));
    let completion: Completion = soon(told.recv()).await.unwrap();
    assert_eq!(
        (completion.request_id(), completion.state, completion.condition),
        (id, TaskState::Expired, Condition::Failure)
    );
    // It does not run, even after its time has come.
    clock.advance(Duration::from_secs(3600));
    assert_eq!(find(&tasks, id).await, record);
}

#[test]
fn a_blocked_runtime_does_not_lose_the_leases_of_its_neighbours() {
    const LEASE: Duration = Duration::from_millis(600);
    let runtime = |threads| {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        builder.worker_threads(threads).enable_all().build().unwrap()
    };
    let (one, other) = (runtime(1), runtime(1));
    let store = MemoryStore::new();
    let renewing = FaultStore::new(store.clone());
    let faults = renewing.faults();
    let gate = Gate::new();
    let (release, blocked) = mpsc::channel::<()>();
    let (at_gate, blocked) = (gate.clone(), Arc::new(Mutex::new(blocked)));
    let tasks = serve(
        quick(renewing).lease(LEASE).runtime(one.handle().clone()),
        move |request| {
            let (gate, blocked) = (at_gate.clone(), blocked.clone());
            async move {
                gate.pass().await;
                if request.uri().path() == "/block" {
                    let _ = blocked.lock().unwrap().recv();
                }
                ok()
            }
        },
    );
    other.block_on(async {
        let mut neighbours = Vec::new();
        while neighbours.len() < 5 {
            neighbours.push(submit(&tasks, "/wait").await);
        }
        let blocker = submit(&tasks, "/block").await;
        eventually("all of them run", async || {
            let counts = tasks.stats().await.unwrap().counts;
            counts.queued() == 0
        })
        .await;
        // An engine that would rescue a lapsed task. Built now, so that it claims nothing before.
        let rescuer = serve(quick(store).lease(LEASE).runtime(other.handle().clone()), |_| async {
            ok()
        });
        gate.open();
        let renewed = faults.calls(Operation::Renew);
        eventually("several leases pass", async || {
            faults.calls(Operation::Renew) >= renewed + 8
        })
        .await;
        drop(release);
        neighbours.push(blocker);
        for id in neighbours {
            let record = ended(&rescuer, id).await;
            assert_eq!(
                (record.state, record.attempt, record.crashes),
                (TaskState::Succeeded, 1, 0),
                "{record:?}"
            );
        }
    });
    drop(tasks);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_tasks_never_run_more_than_eight_at_once() {
    const TASKS: u64 = 10_000;
    let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (in_handler, seen) = (now.clone(), most.clone());
    let tasks = serve(quick(MemoryStore::new()).concurrency(8), move |_| {
        let (now, most) = (in_handler.clone(), seen.clone());
        async move {
            most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            tokio::task::yield_now().await;
            now.fetch_sub(1, Ordering::SeqCst);
            ok()
        }
    });
    let submitting = tokio::spawn({
        let tasks = tasks.clone();
        async move {
            for _ in 0..TASKS {
                submit(&tasks, "/").await;
            }
        }
    });
    let mut looks = 0;
    eventually("all have ended", async || {
        let stats = tasks.stats().await.unwrap();
        let slots = stats.slots.unwrap();
        assert!(slots.used <= slots.total && slots.total == 8, "{slots:?}");
        looks += 1;
        stats.counts.of(TaskState::Succeeded) == TASKS
    })
    .await;
    submitting.await.unwrap();
    assert_eq!(most.load(Ordering::SeqCst), 8, "and as many as that");
    assert!(looks > 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_engines_share_the_work_and_nothing_runs_twice() {
    const TASKS: usize = 1_000;
    let store = MemoryStore::new();
    let (ran, running) = (
        Arc::new(Mutex::new(Vec::new())),
        Arc::new(Mutex::new(HashSet::<RequestId>::new())),
    );
    let engine = |name: &'static str| {
        let (ran, running) = (ran.clone(), running.clone());
        serve(quick(store.clone()).concurrency(4), move |request| {
            let (ran, running, id) = (ran.clone(), running.clone(), context(&request).request_id().unwrap());
            async move {
                assert!(running.lock().unwrap().insert(id), "it runs twice at once");
                tokio::task::yield_now().await;
                running.lock().unwrap().remove(&id);
                ran.lock().unwrap().push((name, id));
                ok()
            }
        })
    };
    let engines = [engine("one"), engine("two")];
    let mut ids = HashSet::new();
    for _ in 0..TASKS {
        ids.insert(submit(&engines[0], "/").await);
        // Held by neither engine: the first to claim it gets it.
        let task = new_task("/");
        ids.insert(task.id);
        inserted(ledger(&store).insert(Insert::new(task)).await.unwrap());
    }
    for id in &ids {
        let record = ended(&engines[1], *id).await;
        assert_eq!((record.state, record.attempt), (TaskState::Succeeded, 1));
    }
    let ran = ran.lock().unwrap();
    assert_eq!(ran.len(), 2 * TASKS, "each once");
    assert_eq!(ran.iter().map(|(_, id)| *id).collect::<HashSet<_>>(), ids);
    let share = ran.iter().filter(|(name, _)| *name == "two").count();
    assert!(share > 0 && share < ran.len(), "both took part: {share}");
}

async fn used(tasks: &Tasks) -> usize {
    tasks.stats().await.unwrap().slots.unwrap().used
}
