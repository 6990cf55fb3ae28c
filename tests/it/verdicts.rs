//! The verdict on an attempt: for a response that streams, for its trailers, and for a handler that answers "not now".

use std::{
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::{HeaderMap, Request, Response, StatusCode};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, StreamBody};
use serde_json::json;
use tower_respond_async::{
    AttemptEnd, BoxError, DoNotRetry, MemoryStore, RequestBody, RequestId, RetryPolicy, TaskContext, TaskState, Tasks,
    Verdict,
    probe::{AttemptOutcome, Event, Probe},
    task::{
        CapturedResponse, HistoryEvent,
        lifecycle::{DEFERRALS, Edits, Rerun, Stop},
    },
    testing::ManualClock,
    time::Timestamp,
};

use crate::{
    engine_support::{
        Gate, Reply, ReplyBody, at_once, context, ended, eventually, find, look_round, ok, quick, respond, serve, soon,
        submit,
    },
    support::{App, WithoutBody, fc},
};

const SHORT: Duration = Duration::from_millis(50);

type Frames = Vec<Result<Frame<Bytes>, BoxError>>;

fn data(text: &'static str) -> Result<Frame<Bytes>, BoxError> {
    Ok(Frame::data(Bytes::from_static(text.as_bytes())))
}

/// A response with these frames, and then no end.
fn unending(status: u16, frames: Frames) -> Response<ReplyBody> {
    respond(status, "").map(|_| StreamBody::new(stream::iter(frames).chain(stream::pending())).boxed_unsync())
}

async fn response(tasks: &Tasks, id: RequestId) -> Arc<CapturedResponse> {
    let response = tasks.response(id).await.unwrap();
    response.expect("it has a response")
}

/// A body of a hundred steps used to be dropped at the eleventh, at the limit, and the task succeeded.
#[tokio::test]
async fn a_streaming_handler_does_all_of_its_work_although_its_response_is_cut() {
    let steps = Arc::new(AtomicUsize::new(0));
    let done = steps.clone();
    let tasks = serve(quick(MemoryStore::new()).result_limit(10), move |_| {
        let done = done.clone();
        let work = stream::iter(0..100).map(move |_| {
            done.fetch_add(1, Ordering::SeqCst);
            data("x")
        });
        async { Ok(Response::new(StreamBody::new(work).boxed_unsync())) }
    });
    let id = submit(&tasks, "/").await;
    assert_eq!(ended(&tasks, id).await.state, TaskState::Succeeded);
    assert_eq!(steps.load(Ordering::SeqCst), 100);
    let kept = response(&tasks, id).await;
    assert_eq!((&kept.body[..], kept.truncated), (&b"xxxxxxxxxx"[..], true));
}

/// A response can still break off beyond the limit.
#[tokio::test]
async fn a_response_that_breaks_off_behind_the_limit_is_a_failure() {
    let tasks = serve(quick(MemoryStore::new()).retry(at_once(0)).result_limit(1), |_| async {
        let frames: Frames = vec![data("first"), data("second"), Err("the pipe broke".into())];
        Ok(Response::new(StreamBody::new(stream::iter(frames)).boxed_unsync()))
    });
    let id = submit(&tasks, "/").await;
    let record = ended(&tasks, id).await;
    assert_eq!(record.state, TaskState::Failed);
    assert_eq!(
        record.error.as_deref(),
        Some("the response body broke off: the pipe broke")
    );
    assert_eq!(response(&tasks, id).await.body, "f");
}

#[tokio::test]
async fn of_a_frame_that_is_cut_no_more_is_kept_than_the_limit() {
    struct Owner(Arc<AtomicUsize>);
    impl AsRef<[u8]> for Owner {
        fn as_ref(&self) -> &[u8] {
            &[b'x'; 100_000]
        }
    }
    impl Drop for Owner {
        fn drop(&mut self) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }
    let freed = Arc::new(AtomicUsize::new(0));
    let owned = freed.clone();
    let tasks = serve(quick(MemoryStore::new()).result_limit(4), move |_| {
        let frame = Ok(Frame::data(Bytes::from_owner(Owner(owned.clone()))));
        async { Ok(Response::new(StreamBody::new(stream::iter([frame])).boxed_unsync())) }
    });
    let id = submit(&tasks, "/").await;
    ended(&tasks, id).await;
    assert_eq!(response(&tasks, id).await.body, "xxxx");
    assert_eq!(freed.load(Ordering::SeqCst), 1, "the frame is still held");
}

/// The attempt used to be retried as if nothing had been sent, and the part that was sent was dropped.
#[tokio::test]
async fn an_attempt_that_runs_out_of_time_is_judged_by_the_head_that_it_sent() {
    let builder = quick(MemoryStore::new()).attempt_timeout(SHORT);
    let tasks = serve(builder, |request| async move {
        let status = request.uri().path()[1..].parse().unwrap();
        Ok(unending(status, vec![data("so "), data("far")]))
    });
    for (status, state) in [
        (200, TaskState::Succeeded),
        (503, TaskState::Failed),
        (404, TaskState::Failed),
    ] {
        let id = submit(&tasks, &format!("/{status}")).await;
        let record = ended(&tasks, id).await;
        assert_eq!((record.state, record.attempt), (state, 1), "{status}");
        assert_eq!(record.status_code, Some(status));
        let kept = response(&tasks, id).await;
        assert_eq!((&kept.body[..], kept.truncated), (&b"so far"[..], true));
        match state {
            TaskState::Succeeded => assert_eq!(record.error, None),
            _ => {
                let error = record.error.as_deref().unwrap();
                assert!(error.starts_with(&format!("the handler answered {status}")), "{error}");
                assert!(error.ends_with(", and its body was not over after 0.05 s"), "{error}");
            }
        }
    }
}

/// A body that is always ready with the same frame.
struct Always(Bytes);

impl Body for Always {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        Poll::Ready(Some(Ok(Frame::data(self.0.clone()))))
    }
}

/// There is only one thread: other tasks get their turn, and the attempt's time limit works. Empty frames reached no
/// limit and held the thread for ever.
#[tokio::test]
async fn a_body_whose_frames_are_always_there_holds_no_thread_and_ends_with_its_time() {
    for text in ["", "data"] {
        let builder = quick(MemoryStore::new())
            .result_limit(1000)
            .attempt_timeout(Duration::from_millis(300));
        let tasks = serve(builder, move |request| async move {
            match request.uri().path() {
                "/always" => Ok(Response::new(
                    Always(Bytes::from_static(text.as_bytes())).boxed_unsync(),
                )),
                _ => ok(),
            }
        });
        let id = submit(&tasks, "/always").await;
        look_round(&tasks).await;
        let record = ended(&tasks, id).await;
        assert_eq!((record.state, record.attempt), (TaskState::Succeeded, 1));
        let kept = response(&tasks, id).await;
        assert_eq!((kept.body.len(), kept.truncated), (text.len() * 250, true));
    }
}

/// The watchdog records it, from another thread than that of the body.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_that_blocks_its_thread_is_judged_by_what_it_sent() {
    struct Blocks(Option<Bytes>, Arc<Mutex<mpsc::Receiver<()>>>);
    impl Body for Blocks {
        type Data = Bytes;
        type Error = BoxError;

        fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
            let sent = self.0.take();
            if sent.is_none() {
                let _ = self.1.lock().unwrap().recv();
            }
            Poll::Ready(sent.map(|data| Ok(Frame::data(data))))
        }
    }
    let (release, blocked) = mpsc::channel::<()>();
    let blocked = Arc::new(Mutex::new(blocked));
    let tasks = serve(quick(MemoryStore::new()).attempt_timeout(SHORT), move |_| {
        let body = Blocks(Some(Bytes::from_static(b"so far")), blocked.clone());
        async { Ok(Response::new(body.boxed_unsync())) }
    });
    let id = submit(&tasks, "/").await;
    let record = ended(&tasks, id).await;
    assert_eq!((record.state, record.attempt), (TaskState::Succeeded, 1));
    drop(release);
    eventually("a free slot", async || {
        tasks.stats().await.unwrap().slots.unwrap().used == 0
    })
    .await;
    assert_eq!(find(&tasks, id).await, record);
    let kept = response(&tasks, id).await;
    assert_eq!((&kept.body[..], kept.truncated), (&b"so far"[..], true));
}

/// A handler that waits at the gate within its body.
fn at_the_gate(
    gate: &Gate,
) -> impl Fn(Request<RequestBody>) -> std::future::Ready<Reply> + Clone + Send + Sync + 'static {
    let gate = gate.clone();
    move |_| {
        let gate = gate.clone();
        let rest = stream::once(async move {
            gate.pass().await;
            data("rest")
        });
        let body = StreamBody::new(stream::iter([data("first")]).chain(rest));
        std::future::ready(Ok(Response::new(body.boxed_unsync())))
    }
}

#[tokio::test]
async fn a_task_that_is_stopped_amid_its_body_is_stopped_and_keeps_nothing() {
    let gate = Gate::new();
    let tasks = serve(quick(MemoryStore::new()).stop_grace(SHORT), at_the_gate(&gate));
    let id = submit(&tasks, "/").await;
    gate.arrived(1).await;
    assert_eq!(tasks.stop(id).await.unwrap(), Stop::Stopping);
    assert_eq!(ended(&tasks, id).await.state, TaskState::Stopped);
    assert_eq!(tasks.response(id).await.unwrap(), None);
}

#[tokio::test]
async fn a_task_amid_its_body_is_handed_back_by_a_shutdown() {
    let gate = Gate::new();
    let tasks = serve(quick(MemoryStore::new()).stop_grace(SHORT), at_the_gate(&gate));
    submit(&tasks, "/").await;
    gate.arrived(1).await;
    let report = soon(tasks.shutdown(SHORT)).await;
    assert_eq!((report.finished, report.handed_back), (0, 1));
}

fn map(pairs: &[(&'static str, &str)]) -> HeaderMap {
    let pairs = pairs
        .iter()
        .map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()));
    pairs.collect()
}

/// A gRPC response with status 200. The gRPC status is in the head, or in a trailer: `/head/13`, `/trailer/13`.
async fn grpc(request: Request<RequestBody>) -> Reply {
    let (place, code) = request.uri().path()[1..].split_once('/').unwrap_or(("ok", ""));
    let said = map(&[
        ("grpc-status", code),
        ("grpc-message", "the disk is full: 100%25 %e2%82%ac%0A"),
    ]);
    let mut response = respond(200, "");
    match place {
        "head" => response.headers_mut().extend(said),
        "trailer" => {
            let frames: Frames = vec![data("message"), Ok(Frame::trailers(said))];
            response = response.map(|_| StreamBody::new(stream::iter(frames)).boxed_unsync());
        }
        "final" => {
            response.headers_mut().extend(said);
            response.extensions_mut().insert(DoNotRetry);
        }
        _ => {}
    }
    Ok(response)
}

/// A 200 with `grpc-status: 13` in a trailer used to count as a success.
#[tokio::test]
async fn a_grpc_status_in_head_or_trailer_is_a_failure() {
    let tasks = serve(quick(MemoryStore::new()).retry(at_once(1)), grpc);
    for place in ["head", "trailer"] {
        for code in 1..=16 {
            let id = submit(&tasks, &format!("/{place}/{code}")).await;
            let record = ended(&tasks, id).await;
            let attempts = if [4, 8, 10, 14].contains(&code) { 2 } else { 1 };
            assert_eq!(
                (record.state, record.attempt),
                (TaskState::Failed, attempts),
                "{place} {code}"
            );
            assert_eq!(record.status_code, Some(200));
        }
        let id = submit(&tasks, &format!("/{place}/0")).await;
        assert_eq!(ended(&tasks, id).await.state, TaskState::Succeeded);
        for malformed in ["OK", "-1", "17", "4294967296", ""] {
            let id = submit(&tasks, &format!("/{place}/{malformed}")).await;
            let record = ended(&tasks, id).await;
            assert_eq!((record.state, record.attempt), (TaskState::Failed, 1), "{malformed}");
            let error = record.error.as_deref().unwrap();
            assert!(error.contains("with grpc-status 2 (UNKNOWN)"), "{malformed}: {error}");
        }
    }
    let id = submit(&tasks, "/final/14").await;
    assert_eq!(ended(&tasks, id).await.attempt, 1, "the handler's word is final");
}

#[tokio::test]
async fn the_error_says_which_grpc_status_it_was_and_what_was_said() {
    let tasks = serve(quick(MemoryStore::new()), grpc);
    let id = submit(&tasks, "/trailer/13").await;
    assert_eq!(
        ended(&tasks, id).await.error.as_deref(),
        Some("the handler answered 200 OK with grpc-status 13 (INTERNAL): the disk is full: 100% €␊")
    );
    let kept = response(&tasks, id).await;
    assert_eq!(
        (&kept.body[..], kept.headers.len()),
        (&b"message"[..], 0),
        "trailers are not kept"
    );
}

/// A handler that answers "not now" as often as the path says, and then succeeds.
fn not_now(
    retry_after: &'static str,
) -> impl Fn(Request<RequestBody>) -> std::future::Ready<Reply> + Clone + Send + Sync {
    let calls = Arc::new(AtomicUsize::new(0));
    move |request| {
        let mut words = request.uri().path()[1..]
            .split('/')
            .map(|word| word.parse().unwrap_or(0));
        let (status, times) = (words.next().unwrap_or(0), words.next().unwrap_or(0));
        if times == 0 {
            return std::future::ready(ok());
        }
        let call = calls.fetch_add(1, Ordering::SeqCst);
        let mut response = respond(if call < times.into() { status } else { 200 }, "");
        response.headers_mut().extend(map(&[("retry-after", retry_after)]));
        std::future::ready(Ok(response))
    }
}

/// Each used to count as a retry, and after the third the task failed, although its handler had only asked for
/// patience.
#[tokio::test]
async fn a_handler_that_says_not_now_uses_up_no_attempt() {
    for status in [429, 503] {
        let tasks = serve(quick(MemoryStore::new()), not_now("0"));
        let id = submit(&tasks, &format!("/{status}/10")).await;
        let record = ended(&tasks, id).await;
        assert_eq!(
            (record.state, record.attempt, record.retries, record.crashes),
            (TaskState::Succeeded, 1, 0, 0)
        );
    }
}

/// A failure without a time for the next try is a failure.
#[tokio::test]
async fn only_429_and_503_with_a_time_are_not_now() {
    for (status, retry_after) in [(500, "0"), (408, "0"), (429, "soon"), (503, "")] {
        let tasks = serve(quick(MemoryStore::new()), not_now(retry_after));
        let id = submit(&tasks, &format!("/{status}/100")).await;
        let record = ended(&tasks, id).await;
        assert_eq!(
            (record.state, record.attempt, record.retries),
            (TaskState::Failed, 4, 3),
            "{status}"
        );
    }
}

/// With no retries allowed a task runs once, with any policy.
#[tokio::test]
async fn without_retries_a_task_runs_once_whatever_its_handler_asks_for() {
    struct Broken;
    impl RetryPolicy for Broken {
        fn max_retries(&self) -> u32 {
            0
        }
        fn judge(&self, _: &AttemptEnd<'_>) -> Verdict {
            panic!("the policy is broken")
        }
        fn delay(&self, _: u32, _: f64) -> Duration {
            Duration::ZERO
        }
    }
    let builders = [
        quick(MemoryStore::new()).retry(at_once(0)),
        quick(MemoryStore::new()).retry(Broken),
    ];
    for builder in builders {
        let tasks = serve(builder, not_now("0"));
        let id = submit(&tasks, "/503/100").await;
        let record = ended(&tasks, id).await;
        assert_eq!(
            (record.state, record.attempt, record.history.len()),
            (TaskState::Failed, 1, 3)
        );
    }
}

/// The response is then the end of the stop, as the documentation of `TaskContext::stopped` says.
#[tokio::test]
async fn not_now_from_a_handler_that_was_asked_to_stop_is_its_end() {
    let gate = Gate::new();
    let at_gate = gate.clone();
    let obedient = move |request: Request<RequestBody>| {
        let (gate, task) = (at_gate.clone(), context(&request));
        async move {
            gate.pass().await;
            task.stopped().await;
            let mut response = respond(503, "");
            response.headers_mut().extend(map(&[("retry-after", "60")]));
            Ok(response)
        }
    };
    let tasks = serve(quick(MemoryStore::new()), obedient);
    for path in ["/stop", "/shutdown"] {
        let id = submit(&tasks, path).await;
        gate.arrived(1).await;
        gate.let_through(1);
        match path {
            "/stop" => {
                assert_eq!(tasks.stop(id).await.unwrap(), Stop::Stopping);
                assert_eq!(ended(&tasks, id).await.state, TaskState::Stopped);
            }
            _ => assert_eq!(soon(tasks.shutdown(Duration::ZERO)).await.handed_back, 1),
        }
    }
}

#[tokio::test]
async fn a_policy_sees_the_trailers_and_whether_the_time_was_over() {
    /// The trailers, whether it was cut, and whether its time was over.
    type Seen = (Option<HeaderMap>, bool, bool);
    #[derive(Clone, Default)]
    struct Sees(Arc<Mutex<Vec<Seen>>>);
    impl RetryPolicy for Sees {
        fn max_retries(&self) -> u32 {
            3
        }
        fn judge(&self, end: &AttemptEnd<'_>) -> Verdict {
            let AttemptEnd::Answered {
                trailers,
                truncated,
                timed_out,
                ..
            } = end
            else {
                panic!("{end:?}");
            };
            self.0.lock().unwrap().push((trailers.cloned(), *truncated, *timed_out));
            Verdict::Retry { after: None }
        }
        fn delay(&self, _: u32, _: f64) -> Duration {
            Duration::ZERO
        }
    }
    let seen = Sees::default();
    let builder = quick(MemoryStore::new()).retry(seen.clone()).attempt_timeout(SHORT);
    let tasks = serve(builder, |request| async move {
        let last = context(&request).attempt() == 3;
        let mut frames: Frames = vec![
            Ok(Frame::trailers(map(&[("a", "1")]))),
            Ok(Frame::trailers(map(&[("b", "2")]))),
        ];
        match context(&request).attempt() {
            1 => ok(),
            2 => Ok(Response::new(StreamBody::new(stream::iter(frames)).boxed_unsync())),
            _ => {
                frames.truncate(1);
                assert!(last);
                Ok(unending(200, frames))
            }
        }
    });
    let id = submit(&tasks, "/").await;
    let record = ended(&tasks, id).await;
    assert_eq!(
        (record.state, record.attempt),
        (TaskState::Failed, 3),
        "sent by half, it is not tried again"
    );
    let expected = [
        (None, false, false),
        (Some(map(&[("a", "1"), ("b", "2")])), false, false),
        (Some(map(&[("a", "1")])), true, true),
    ];
    assert_eq!(*seen.0.lock().unwrap(), expected);
}

#[tokio::test]
async fn beyond_ten_times_not_now_is_a_failure_like_others() {
    let tasks = serve(quick(MemoryStore::new()), not_now("0"));
    let id = submit(&tasks, "/429/1000").await;
    let record = ended(&tasks, id).await;
    assert_eq!(
        (record.state, record.attempt, record.retries, record.deferrals),
        (TaskState::Failed, 4, 3, DEFERRALS)
    );
    let said = |event: &&HistoryEvent| {
        event.state == TaskState::Retrying
            && event.detail.as_deref() == Some("deferred, uncharged: the handler answered 429 Too Many Requests")
    };
    let kept = record.history.iter().filter(said).count();
    assert_eq!(kept, 4, "of ten; the tries after them are the newer events");
    let rerun = tasks.rerun(id, Edits::default()).await.unwrap();
    assert_eq!(rerun, Rerun::Enqueued { generation: 2 });
    assert_eq!(
        ended(&tasks, id).await.deferrals,
        DEFERRALS,
        "each generation has its own"
    );
}

/// It waits as long as it asked for, up to the cap, and the document does not call that a failure.
#[tokio::test]
async fn a_deferred_task_waits_for_its_time_and_its_document_says_so() {
    #[derive(Clone, Debug, Default)]
    struct Outcomes(Arc<Mutex<Vec<(AttemptOutcome, TaskState)>>>);
    impl Probe for Outcomes {
        fn on_event(&self, event: &Event<'_>) {
            if let Event::Ended { outcome, state, .. } = event {
                self.0.lock().unwrap().push((*outcome, *state));
            }
        }
    }
    let clock = ManualClock::new(Timestamp::from_millis(1_000_000));
    let store = MemoryStore::builder().clock(clock.clone()).build();
    let outcomes = Outcomes::default();
    let routes = axum::Router::new().route(
        "/busy",
        axum::routing::post(async |task: TaskContext| match task.fence_token() {
            Some(token) if token.get() < 2 => (StatusCode::TOO_MANY_REQUESTS, [("retry-after", "7200")]),
            _ => (StatusCode::OK, [("retry-after", "0")]),
        }),
    );
    let app = App::build(store, routes, |builder| builder.probe(outcomes.clone()));
    let id = app.accepted(fc("/busy").empty()).await;
    let record = app.until(id, TaskState::Retrying).await;
    assert_eq!((record.attempt, record.retries, record.deferrals), (0, 0, 1));
    assert_eq!(record.run_at, Timestamp::from_millis(1_000_000 + 3_600_000));
    let document = app.get(format!("/tasks/{id}")).await.json();
    assert_eq!(
        (&document["deferrals"], &document["alreadyRetriedTimes"]),
        (&json!(1), &json!(0))
    );
    assert_eq!(
        document["taskErrorMessage"],
        "the handler answered 429 Too Many Requests"
    );

    clock.advance(Duration::from_secs(3600));
    app.accepted(fc("/busy").empty()).await;
    let record = app.ended(id).await;
    assert_eq!(
        (record.state, record.attempt, record.deferrals),
        (TaskState::Succeeded, 1, 1)
    );
    let seen = outcomes.0.lock().unwrap().clone();
    assert_eq!(seen[0], (AttemptOutcome::Deferred, TaskState::Retrying));
}
