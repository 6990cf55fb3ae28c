//! Values of the application that panic when they are used or dropped: a failed attempt, as with any panic.
//!
//! They used to be touched outside the guard. The panic ended the attempt's own task, nothing was written, the lease
//! ran out, and the task ran again as if its process had died: three times, whatever the policy.

use std::{
    error::Error,
    fmt,
    panic::panic_any,
    pin::Pin,
    sync::{
        Arc, LazyLock,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, Frame};
use http_body_util::BodyExt;
use tokio::sync::mpsc::unbounded_channel;
use tower_respond_async::{
    AttemptEnd, BoxError, Completion, MemoryStore, RequestBody, RetryPolicy, SubmitError, TaskRecord, TaskState,
    Verdict,
    error::BoxFuture,
    hook::{Application, CompletionHook, Schedule, Target, Tried},
    probe::{AttemptInfo, AttemptScope, Event, Probe},
    store::{Operation, StoreError, StoreErrorKind},
    task::{Destination, LogLine},
    testing::FaultStore,
    time::Timestamp,
};

use crate::engine_support::{
    Reply, at_once, context, ended, look_round, ok, quick, respond, serve, soon, submission, submit,
};

/// Panics when it is dropped.
#[derive(Clone, Debug)]
struct Bomb;

impl Drop for Bomb {
    fn drop(&mut self) {
        panic!("the bomb went off");
    }
}

/// An error that panics at a chosen place.
#[derive(Debug)]
enum Odd {
    Display,
    Source,
    Drop,
    /// It is its own source.
    Endless,
}

impl fmt::Display for Odd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        assert!(!matches!(self, Self::Display), "it cannot be shown");
        f.write_str("odd")
    }
}

impl Error for Odd {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        assert!(!matches!(self, Self::Source), "its cause cannot be told");
        matches!(self, Self::Endless).then_some(self)
    }
}

impl Drop for Odd {
    fn drop(&mut self) {
        assert!(!matches!(self, Self::Drop), "it cannot be dropped");
    }
}

/// An empty body that panics when it is dropped.
struct BombBody {
    _bomb: Bomb,
}

impl Body for BombBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        Poll::Ready(None)
    }
}

async fn odd(request: Request<RequestBody>) -> Reply {
    /// A body that breaks off with this error.
    fn broken(error: Odd) -> Reply {
        let frames = futures_util::stream::iter([Err::<Frame<Bytes>, BoxError>(error.into())]);
        Ok(Response::new(http_body_util::StreamBody::new(frames).boxed_unsync()))
    }
    match request.uri().path() {
        "/payload" => panic_any(Bomb),
        "/display" => Err(Odd::Display.into()),
        "/source" => Err(Odd::Source.into()),
        "/endless" => Err(Odd::Endless.into()),
        "/error" => Err(Odd::Drop.into()),
        "/broken-display" => broken(Odd::Display),
        "/broken-drop" => broken(Odd::Drop),
        "/body" => Ok(Response::new(BombBody { _bomb: Bomb }.boxed_unsync())),
        "/extensions" => {
            let mut response = respond(200, "");
            response.extensions_mut().insert(Bomb);
            Ok(response)
        }
        _ => ok(),
    }
}

/// The handler was called once, and the failure is recorded.
fn assert_failed_once(record: &TaskRecord, error: &str) {
    assert_eq!(
        (record.state, record.attempt, record.crashes, record.history.len()),
        (TaskState::Failed, 1, 0, 3),
        "{record:?}"
    );
    let told = record.error.as_deref().unwrap();
    assert!(told.starts_with(error), "{told}");
}

#[tokio::test]
async fn whatever_of_the_application_panics_the_attempt_has_failed_and_no_more() {
    let builder = quick(MemoryStore::new()).retry(at_once(0)).concurrency(1);
    let tasks = serve(builder, odd);
    for (path, error) in [
        ("/payload", "the handler panicked: with a payload that is not text"),
        ("/display", "the handler panicked: it cannot be shown"),
        ("/source", "the handler panicked: its cause cannot be told"),
        ("/endless", "the handler failed: odd: odd: odd"),
        ("/error", "the handler panicked: it cannot be dropped"),
        ("/broken-display", "the handler panicked: it cannot be shown"),
        ("/broken-drop", "the handler panicked: it cannot be dropped"),
        ("/body", "the handler panicked: the bomb went off"),
        ("/extensions", "the handler panicked: the bomb went off"),
    ] {
        let id = submit(&tasks, path).await;
        assert_failed_once(&*ended(&tasks, id).await, error);
        look_round(&tasks).await;
    }
}

/// A handler that is dropped at its time limit is reported as timed out only.
#[tokio::test]
async fn a_handler_whose_values_panic_as_it_is_dropped_has_timed_out() {
    let builder = quick(MemoryStore::new())
        .retry(at_once(0))
        .concurrency(1)
        .attempt_timeout(Duration::from_millis(20));
    let tasks = serve(builder, |request| async move {
        struct PanicsWithBomb;
        impl Drop for PanicsWithBomb {
            fn drop(&mut self) {
                panic_any(Bomb);
            }
        }
        if request.uri().path() == "/hang" {
            let _bomb = PanicsWithBomb;
            std::future::pending::<()>().await;
        }
        ok()
    });
    let id = submit(&tasks, "/hang").await;
    assert_failed_once(&*ended(&tasks, id).await, "the attempt took longer than");
    look_round(&tasks).await;
}

/// A policy that panics in every method, with a value that cannot be dropped.
struct Bombing;

impl RetryPolicy for Bombing {
    fn max_retries(&self) -> u32 {
        panic_any(Bomb)
    }

    fn judge(&self, _: &AttemptEnd<'_>) -> Verdict {
        panic_any(Bomb)
    }

    fn delay(&self, _: u32, _: f64) -> Duration {
        panic_any(Bomb)
    }
}

#[tokio::test]
async fn a_policy_that_panics_with_anything_is_passed_over() {
    let tasks = serve(quick(MemoryStore::new()).retry(Bombing), |request| async move {
        match request.uri().path() {
            "/once" if context(&request).attempt() == 1 => Ok(respond(500, "")),
            "/refused" => Ok(respond(400, "")),
            _ => ok(),
        }
    });
    for (path, state, attempts) in [("/once", TaskState::Succeeded, 2), ("/refused", TaskState::Failed, 1)] {
        let id = submit(&tasks, path).await;
        let record = ended(&tasks, id).await;
        assert_eq!((record.state, record.attempt, record.crashes), (state, attempts, 0));
        assert_eq!(record.max_attempts, 4, "as the default policy has it");
    }
}

/// A probe that panics everywhere, with a value that cannot be dropped.
#[derive(Debug)]
struct Bombs {
    scopes: usize,
}

struct BombScope {
    _bomb: Bomb,
}

impl AttemptScope for BombScope {
    fn in_scope(&mut self, poll: &mut dyn FnMut()) {
        poll();
    }
}

impl Probe for Bombs {
    fn on_event(&self, _: &Event<'_>) {
        panic_any(Bomb)
    }

    fn attempt(&self, _: &AttemptInfo<'_>) -> Option<Box<dyn AttemptScope>> {
        match self.scopes {
            0 => panic_any(Bomb),
            _ => Some(Box::new(BombScope { _bomb: Bomb })),
        }
    }
}

/// The destructors of two scopes panic: dropped together, the second panic would abort the process.
#[tokio::test]
async fn probes_that_panic_with_anything_change_nothing() {
    let builder = quick(MemoryStore::new())
        .probe(Bombs { scopes: 1 })
        .probe(Bombs { scopes: 0 })
        .probe(Bombs { scopes: 1 });
    let tasks = serve(builder, |_| async { ok() });
    let id = submit(&tasks, "/").await;
    let record = ended(&tasks, id).await;
    assert_eq!(
        (record.state, record.attempt, record.crashes),
        (TaskState::Succeeded, 1, 0)
    );
}

/// A scope that panics after the handler has answered. The response cannot be dropped either.
#[tokio::test]
async fn an_answer_that_a_scope_lost_is_let_go_of_within_the_guard() {
    #[derive(Debug)]
    struct After;
    impl Probe for After {
        fn on_event(&self, _: &Event<'_>) {}
        fn attempt(&self, _: &AttemptInfo<'_>) -> Option<Box<dyn AttemptScope>> {
            Some(Box::new(Self))
        }
    }
    impl AttemptScope for After {
        fn in_scope(&mut self, poll: &mut dyn FnMut()) {
            poll();
            panic!("after the answer");
        }
    }
    let builder = quick(MemoryStore::new()).retry(at_once(0)).probe(After);
    let tasks = serve(builder, odd);
    let id = submit(&tasks, "/extensions").await;
    assert_failed_once(&*ended(&tasks, id).await, "the handler panicked: after the answer");
}

#[tokio::test]
async fn a_hook_whose_values_panic_is_a_hook_that_failed() {
    struct HangsWithBomb;
    impl Target for HangsWithBomb {
        fn name(&self) -> &Destination {
            static NAME: LazyLock<Destination> = LazyLock::new(|| Destination::new("hangs"));
            &NAME
        }
        fn deliver<'a>(&'a self, _: Completion, _: &'a dyn Application) -> BoxFuture<'a, Tried> {
            Box::pin(async {
                let _bomb = Bomb;
                std::future::pending().await
            })
        }
        fn schedule(&self) -> &Schedule {
            panic_any(Bomb)
        }
        fn concurrency(&self) -> usize {
            1
        }
        fn limit(&self) -> Duration {
            Duration::from_millis(10)
        }
    }
    struct Given(Arc<AtomicUsize>);
    impl CompletionHook for Given {
        fn deliver(&self, _: Completion) -> BoxFuture<'_, Result<(), BoxError>> {
            self.0.fetch_add(1, Ordering::SeqCst);
            Box::pin(async { Err(Odd::Drop.into()) })
        }
    }
    let (told, mut events) = unbounded_channel();
    #[derive(Debug)]
    struct Listening(tokio::sync::mpsc::UnboundedSender<(String, String)>);
    impl Probe for Listening {
        fn on_event(&self, event: &Event<'_>) {
            if let Event::Delivered { destination, error, .. } = event {
                let error = error.map(ToString::to_string).unwrap_or_default();
                let _ = self.0.send((destination.as_str().to_owned(), error));
            }
        }
    }
    let calls = Arc::new(AtomicUsize::new(0));
    let hook: Arc<dyn CompletionHook> = Arc::new(Given(calls.clone()));
    let builder = quick(MemoryStore::new())
        .on_success(hook)
        .on_failure(|_: Completion| -> () { panic_any(Bomb) })
        .on_failure(HangsWithBomb)
        .probe(Listening(told));
    let tasks = serve(builder, odd);
    submit(&tasks, "/").await;
    submit(&tasks, "/display").await;
    let mut all = Vec::new();
    while all.len() < 3 {
        all.push(soon(events.recv()).await.unwrap());
    }
    all.sort();
    assert_eq!(all[0].0, "hangs");
    assert!(all[0].1.starts_with("it took longer than"), "{all:?}");
    assert_eq!(
        all[1],
        ("local".into(), "the hook panicked: it cannot be dropped".into())
    );
    assert_eq!(
        all[2],
        (
            "local".into(),
            "the hook panicked: with a payload that is not text".into()
        )
    );
    assert_eq!(calls.load(Ordering::SeqCst), 1);
}

/// An error of a store that could not be dropped used to abort the settlement that it answered; so did a store that
/// panicked.
#[tokio::test]
async fn a_settlement_outlives_a_store_that_panics() {
    let odd = || StoreError::new(StoreErrorKind::Unavailable, "the disk is away").because(Odd::Drop);
    for answer in [odd, || panic_any(Bomb)] {
        let store = FaultStore::new(MemoryStore::new());
        for operation in [Operation::SetProgress, Operation::AppendLog, Operation::Commit] {
            store.faults().fail_next_with(operation, answer);
        }
        let builder = quick(store).probe(Logging).concurrency(1);
        let tasks = serve(builder, |request| async move {
            context(&request).progress(1.0, "done");
            ok()
        });
        let id = submit(&tasks, "/").await;
        let record = ended(&tasks, id).await;
        assert_eq!(
            (record.state, record.attempt, record.crashes),
            (TaskState::Succeeded, 1, 0)
        );
        look_round(&tasks).await;
    }
}

/// Makes each attempt log a line.
#[derive(Debug)]
struct Logging;

impl Probe for Logging {
    fn on_event(&self, _: &Event<'_>) {}

    fn attempt(&self, attempt: &AttemptInfo<'_>) -> Option<Box<dyn AttemptScope>> {
        attempt
            .log()
            .push(LogLine::new(Timestamp::ZERO, "INFO", "here", "a line"));
        None
    }
}

/// The caller gets an error as from a store that is down. The task runs once if it is submitted again.
#[tokio::test]
async fn an_insert_into_a_store_that_panics_is_refused() {
    let store = FaultStore::new(MemoryStore::new());
    store.faults().fail_next_with(Operation::Insert, || panic_any(Bomb));
    let tasks = serve(quick(store).concurrency(1), |_| async { ok() });
    let SubmitError::Store(error) = tasks.submit(submission("/")).await.unwrap_err() else {
        panic!("the store refused it");
    };
    assert_eq!(error.kind(), StoreErrorKind::Unavailable);
    look_round(&tasks).await;
}
