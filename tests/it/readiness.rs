//! An inner service that is not always ready: what waits for it, and what does not.

use std::{
    fmt,
    future::{Ready, ready},
    io,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use axum::{Router, body::Body, extract::Path, routing::any};
use futures_util::FutureExt;
use http::{Request, Response, StatusCode};
use tokio::sync::Semaphore;
use tokio_test::{assert_pending, assert_ready, task};
use tower::{
    Layer, Service, ServiceExt,
    limit::{ConcurrencyLimit, GlobalConcurrencyLimitLayer},
    load_shed::LoadShed,
};
use tower_http::timeout::TimeoutLayer;
use tower_respond_async::{
    Backoff, MemoryStore, RespondAsyncLayer, TaskApi, TaskRecord, TaskState, Tasks, allow_everyone,
};

use crate::support::{Answered, App, Gate, WithoutBody, fc, no_retries, other_runtime, prefer, soon};

/// A synchronous request.
fn sync() -> Request<Body> {
    Request::post("/gate").empty()
}

/// An async request that does not run during the test.
fn delayed() -> Request<Body> {
    fc("/gate").header("X-Fc-Async-Delay", "3000").empty()
}

fn layer() -> RespondAsyncLayer {
    let builder = RespondAsyncLayer::builder(MemoryStore::new());
    builder.retry(no_retries()).build().unwrap()
}

/// Handlers behind a gate, one at a time, and the permit that each of them takes.
struct Limited {
    service: ConcurrencyLimit<Router>,
    permit: Arc<Semaphore>,
    gate: Gate,
}

impl Limited {
    fn new() -> Self {
        let (gate, permit) = (Gate::new(), Arc::new(Semaphore::new(1)));
        Self {
            service: ConcurrencyLimit::with_semaphore(gate.among_routes(), permit.clone()),
            permit,
            gate,
        }
    }
}

/// Makes a service ready and calls it. The test polls the answer. The service is kept.
fn call<S>(service: &mut S, request: Request<Body>) -> task::Spawn<S::Future>
where
    S: Service<Request<Body>, Error: fmt::Debug>,
{
    assert_ready!(task::spawn(()).enter(|cx, _| service.poll_ready(cx))).unwrap();
    task::spawn(service.call(request))
}

/// The task of a 202, after it has ended.
async fn ended(tasks: &Tasks, accepted: Response<Body>) -> Arc<TaskRecord> {
    let answer = Answered::read(accepted).await;
    answer.assert_accepted();
    let ended = soon(tasks.wait(answer.id(), Duration::from_secs(60)));
    ended.await.unwrap().expect("it has ended")
}

/// The second 202 used to come only after the handler with the only permit had ended.
#[tokio::test]
async fn a_202_waits_for_nothing_inside() {
    let limited = Limited::new();
    let layer = layer();
    let service = layer.layer(limited.service);
    let mut running = call(&mut service.clone(), sync());
    assert_pending!(running.poll());
    let mut accepted = Vec::new();
    for _ in 0..2 {
        let answer = call(&mut service.clone(), fc("/gate").empty()).poll();
        accepted.push(assert_ready!(answer).unwrap());
    }
    limited.gate.let_pass(3);
    assert_eq!(assert_ready!(running.poll()).unwrap().status(), 200);
    drop(running);
    for response in accepted {
        assert_eq!(ended(&layer.tasks(), response).await.state, TaskState::Succeeded);
    }
}

/// A kept service used to hold the permit of a request that had gone async, until its next request.
#[tokio::test]
async fn a_request_that_goes_async_takes_no_permit() {
    let limited = Limited::new();
    let layer = layer();
    let mut kept = layer.layer(limited.service);
    limited.gate.let_pass(3);
    for _ in 0..3 {
        let response = assert_ready!(call(&mut kept, fc("/gate").empty()).poll()).unwrap();
        assert_eq!(limited.permit.available_permits(), 1);
        assert_eq!(ended(&layer.tasks(), response).await.state, TaskState::Succeeded);
    }
}

#[tokio::test]
async fn polls_and_stops_wait_for_nothing_beside_the_limited_part() {
    let gate = Gate::new();
    let app = App::wrap(
        MemoryStore::new(),
        |builder| builder,
        |tasks| {
            let limited = gate.among_routes().layer(GlobalConcurrencyLimitLayer::new(1));
            limited.nest_service("/tasks", TaskApi::new(tasks, allow_everyone()))
        },
    );
    let running = app.accepted(fc("/gate").empty()).await;
    gate.arrived().await;
    let waiting = app.accepted(fc("/gate").empty()).await;
    for id in [waiting, running] {
        assert_eq!(app.get(format!("/tasks/{id}")).await.status, 200);
        let stopped = app.post(format!("/tasks/{id}/stop")).await;
        assert!([200, 202].contains(&stopped.status), "{stopped:?}");
    }
    // So that the stops need not wait for their grace.
    gate.let_pass(2);
    for id in [waiting, running] {
        assert_eq!(app.ended(id).await.state, TaskState::Stopped);
    }
}

#[tokio::test]
async fn synchronous_requests_wait_and_run_in_turn() {
    let (order, open) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Semaphore::new(0)));
    let (seen, opened) = (order.clone(), open.clone());
    let handler = any(async move |Path(number): Path<usize>| {
        seen.lock().unwrap().push(number);
        opened.acquire().await.unwrap().forget();
    });
    let router = Router::new().route("/{number}", handler);
    let mut service = layer().layer(ConcurrencyLimit::new(router, 1));
    let mut answers = Vec::new();
    for number in 0..4 {
        let path = format!("/{number}");
        // Both ways through the layer.
        let request = match number % 2 {
            0 => Request::post(path),
            _ => prefer(&path, "return=minimal"),
        };
        answers.push(call(&mut service, request.empty()));
    }
    for answer in answers.iter_mut().rev() {
        assert_pending!(answer.poll());
    }
    for number in 0..4 {
        assert_eq!(*order.lock().unwrap(), (0..=number).collect::<Vec<_>>());
        open.add_permits(1);
        let woken: Vec<_> = answers.iter().map(task::Spawn::is_woken).collect();
        assert!(woken[0] && !woken[1..].contains(&true), "{woken:?}");
        let response = assert_ready!(answers.remove(0).poll()).unwrap();
        assert_eq!(response.headers().contains_key("vary"), number % 2 == 1);
        if let Some(next) = answers.first_mut() {
            assert!(next.is_woken());
            assert_pending!(next.poll());
        }
    }
}

/// An action on a kept service.
#[derive(Clone, Copy, Debug)]
enum Act {
    /// It is made ready, and not called.
    Ready,
    /// A synchronous request runs, or waits for its turn.
    Sync,
    /// The same, but not polled yet.
    SyncUnpolled,
    /// A request goes async.
    Async,
    /// The same, but its client leaves before it is polled.
    AsyncUnpolled,
    /// The first, or the last, client leaves.
    CancelFirst,
    CancelLast,
    /// A handler ends.
    End,
}

/// Every order of four actions. In the end every request is answered, and the permit is free, although the service is
/// kept.
#[tokio::test]
async fn no_permit_is_lost_whatever_happens_in_whatever_order() {
    const LENGTH: u32 = 4;
    use Act::*;
    let acts = [
        Ready,
        Sync,
        SyncUnpolled,
        Async,
        AsyncUnpolled,
        CancelFirst,
        CancelLast,
        End,
    ];
    let limited = Limited::new();
    let mut kept = layer().layer(limited.service);
    for order in 0..acts.len().pow(LENGTH) {
        let order: Vec<_> = (0..LENGTH)
            .map(|at| acts[order / acts.len().pow(at) % acts.len()])
            .collect();
        // A new budget: a used-up budget makes everything pending.
        tokio::task::yield_now().await;
        let mut waiting: Vec<task::Spawn<_>> = Vec::new();
        for act in &order {
            match act {
                Ready => {
                    let ready = ServiceExt::<Request<Body>>::ready(&mut kept);
                    assert!(ready.now_or_never().is_some());
                }
                Sync => {
                    let mut answer = call(&mut kept, sync());
                    assert_pending!(answer.poll());
                    waiting.push(answer);
                }
                SyncUnpolled => waiting.push(call(&mut kept, sync())),
                Async => {
                    let answer = assert_ready!(call(&mut kept, delayed()).poll()).unwrap();
                    assert_eq!(answer.status(), StatusCode::ACCEPTED);
                }
                AsyncUnpolled => drop(call(&mut kept, delayed())),
                CancelFirst => drop(waiting.drain(..1.min(waiting.len()))),
                CancelLast => drop(waiting.pop()),
                End if waiting.is_empty() => {}
                End => {
                    limited.gate.let_pass(1);
                    let before = waiting.len();
                    waiting.retain_mut(|answer| answer.poll().is_pending());
                    assert_eq!(waiting.len(), before - 1, "in {order:?}");
                }
            }
        }
        limited.gate.let_pass(waiting.len());
        // In turn: each gets the permit of the one before it.
        waiting.retain_mut(|answer| answer.poll().is_pending());
        assert!(
            waiting.is_empty(),
            "after {order:?} somebody waits for a permit that nobody uses"
        );
        let free = limited.permit.available_permits();
        assert_eq!(free, 1, "after {order:?} the permit is lost");
    }
}

/// Counts its calls, is ready on demand, and must not be called when it is not.
#[derive(Default)]
struct Counting {
    counts: Arc<Counts>,
    is_ready: bool,
}

#[derive(Default)]
struct Counts {
    clones: AtomicUsize,
    polls: AtomicUsize,
    not_ready: AtomicUsize,
}

impl Clone for Counting {
    fn clone(&self) -> Self {
        self.counts.clones.fetch_add(1, Ordering::SeqCst);
        Self {
            counts: self.counts.clone(),
            is_ready: false,
        }
    }
}

impl<B> Service<Request<B>> for Counting {
    type Response = Response<Body>;
    type Error = io::Error;
    type Future = Ready<io::Result<Self::Response>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.counts.polls.fetch_add(1, Ordering::SeqCst);
        let counted = self
            .counts
            .not_ready
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        self.is_ready = counted.is_err();
        match self.is_ready {
            true => Poll::Ready(Ok(())),
            false => {
                cx.waker().wake_by_ref();
                Poll::Pending
            }
        }
    }

    fn call(&mut self, _: Request<B>) -> Self::Future {
        assert!(std::mem::take(&mut self.is_ready), "called unready");
        ready(Ok(Response::default()))
    }
}

#[tokio::test]
async fn only_a_waiting_request_clones_the_service() {
    let counting = Counting::default();
    let counts = counting.counts.clone();
    let mut service = layer().layer(counting);
    let count = || {
        (
            counts.clones.load(Ordering::SeqCst),
            counts.polls.load(Ordering::SeqCst),
        )
    };
    let (clones, _) = count();
    for number in 1..=3 {
        for request in [Request::post("/"), prefer("/", "return=minimal")] {
            assert_ready!(call(&mut service, request.empty()).poll()).unwrap();
        }
        assert_eq!(count(), (clones, 2 * number));
    }
    assert_ready!(call(&mut service, delayed()).poll()).unwrap();
    assert_eq!(count(), (clones, 6));

    counts.not_ready.store(2, Ordering::SeqCst);
    let mut waits = call(&mut service, sync());
    assert_pending!(waits.poll());
    assert!(waits.is_woken());
    assert_ready!(waits.poll()).unwrap();
    assert_eq!(count(), (clones + 1, 9));
}

/// Fails, and must not be polled again after that. A clone has not failed yet.
struct Failing {
    /// How often it is not ready before it fails.
    waits: usize,
    left: Option<usize>,
}

impl Failing {
    const fn after(waits: usize) -> Self {
        Self {
            waits,
            left: Some(waits),
        }
    }
}

impl Clone for Failing {
    fn clone(&self) -> Self {
        Self::after(self.waits)
    }
}

impl<B> Service<Request<B>> for Failing {
    type Response = Response<Body>;
    type Error = io::Error;
    type Future = Ready<io::Result<Self::Response>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let left = self.left.expect("it has not failed yet");
        self.left = left.checked_sub(1);
        match self.left {
            Some(_) => {
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            None => Poll::Ready(Err(io::Error::other("down"))),
        }
    }

    fn call(&mut self, _: Request<B>) -> Self::Future {
        unreachable!("it is never ready")
    }
}

/// The error is the response to the synchronous request, and affects nothing else.
#[tokio::test]
async fn an_error_of_readiness_is_the_answer_of_a_synchronous_request() {
    for waits in 0..3 {
        let layer = layer();
        let mut service = layer.layer(Failing::after(waits));
        for request in [Request::post("/"), prefer("/", "return=minimal"), Request::get("/")] {
            let mut answer = call(&mut service, request.empty());
            for _ in 1..waits {
                assert_pending!(answer.poll());
            }
            let error = assert_ready!(answer.poll()).unwrap_err();
            assert_eq!(
                (error.kind(), error.to_string().as_str()),
                (io::ErrorKind::Other, "down")
            );
        }
        let response = assert_ready!(call(&mut service, fc("/").empty()).poll()).unwrap();
        let ended = ended(&layer.tasks(), response).await;
        assert_eq!(ended.state, TaskState::Failed);
        assert!(ended.error.as_deref().unwrap().contains("down"), "{ended:?}");
    }
}

/// Outside the layer it sheds nothing: the layer is always ready.
#[tokio::test]
async fn a_load_shed_outside_sheds_nothing_of_what_is_inside() {
    let limited = Limited::new();
    let mut service = LoadShed::new(layer().layer(limited.service));
    let mut running = call(&mut service, sync());
    assert_pending!(running.poll());
    let mut waiting = call(&mut service, sync());
    assert_pending!(waiting.poll());
    let response = assert_ready!(call(&mut service, delayed()).poll()).unwrap();
    assert_eq!(response.status(), StatusCode::ACCEPTED);
    limited.gate.let_pass(2);
    assert_ready!(running.poll()).unwrap();
    drop(running);
    assert_eq!(assert_ready!(waiting.poll()).unwrap().status(), 200);
}

/// Inside the layer it sheds requests at once, and also attempts, which are tried again.
#[tokio::test]
async fn a_load_shed_inside_sheds_requests_and_attempts() {
    let limited = Limited::new();
    let retry = Backoff::new()
        .max_retries(1000)
        .base(Duration::from_millis(1))
        .cap(Duration::from_millis(1));
    let layer = RespondAsyncLayer::builder(MemoryStore::new())
        .retry(retry)
        .build()
        .unwrap();
    let mut service = layer.layer(LoadShed::new(limited.service));
    let mut running = call(&mut service, sync());
    assert_pending!(running.poll());
    let shed = assert_ready!(call(&mut service, sync()).poll()).unwrap_err();
    assert!(shed.is::<tower::load_shed::error::Overloaded>(), "{shed:?}");

    let response = assert_ready!(call(&mut service.clone(), fc("/gate").empty()).poll()).unwrap();
    let answer = Answered::read(response).await;
    let mut changes = layer.tasks().subscribe(answer.id());
    let mut retried = soon(changes.next()).await.unwrap().unwrap();
    while retried.attempt < 2 {
        retried = soon(changes.next()).await.unwrap().unwrap();
    }
    assert!(retried.error.as_deref().unwrap().contains("overloaded"), "{retried:?}");
    limited.gate.let_pass(2);
    assert_ready!(running.poll()).unwrap();
    // A kept `LoadShed` also keeps the place in the queue of a request that it shed.
    drop((running, service));
    let ended = soon(layer.tasks().wait(answer.id(), Duration::from_secs(60)))
        .await
        .unwrap();
    assert_eq!(ended.unwrap().state, TaskState::Succeeded);
}

#[tokio::test(start_paused = true)]
async fn a_time_limit_outside_counts_the_wait() {
    let limited = Limited::new();
    let layer = RespondAsyncLayer::builder(MemoryStore::new())
        .runtime(other_runtime())
        .build()
        .unwrap();
    let service = layer.layer(limited.service);
    let mut running = call(&mut service.clone(), sync());
    assert_pending!(running.poll());
    let limit = TimeoutLayer::with_status_code(StatusCode::REQUEST_TIMEOUT, Duration::from_secs(1));
    let response = soon(limit.layer(service.clone()).oneshot(sync())).await.unwrap();
    assert_eq!(response.status(), StatusCode::REQUEST_TIMEOUT);
    limited.gate.let_pass(1);
    assert_ready!(running.poll()).unwrap();
    drop(running);
    assert_eq!(limited.permit.available_permits(), 1);
}

#[tokio::test]
async fn a_limit_outside_counts_requests_that_wait_inside() {
    let limited = Limited::new();
    let mut service = ConcurrencyLimit::new(layer().layer(limited.service), 2);
    let mut inside = [call(&mut service, sync()), call(&mut service, sync())];
    for answer in &mut inside {
        assert_pending!(answer.poll());
    }
    let mut outside = task::spawn(ServiceExt::<Request<Body>>::ready(&mut service));
    assert_pending!(outside.poll());
    limited.gate.let_pass(1);
    let [first, _second] = &mut inside;
    assert_ready!(first.poll()).unwrap();
    drop(inside);
    assert!(outside.is_woken() && outside.poll().is_ready());
}
