//! A request that does not ask for async is not changed, not buffered, and costs nothing. And both kinds of request,
//! polled by hand.

use std::{
    convert::Infallible,
    future::poll_fn,
    pin::{Pin, pin},
    sync::{Arc, Mutex},
    task::{Context, Poll},
};

use axum::{Router, body::Body, routing::any};
use bytes::Bytes;
use futures_util::{
    FutureExt,
    future::{Ready, ready},
};
use http::{HeaderMap, HeaderValue, Request, Response, Version};
use http_body::{Frame, SizeHint};
use http_body_util::{BodyExt, Full, channel::Channel};
use tokio::sync::mpsc;
use tokio_test::{assert_pending, assert_ready};
use tower::{Layer, Service, limit::ConcurrencyLimit};
use tower_respond_async::{
    MemoryStore, RequestBody, RespondAsyncLayer, TaskState, store::Operation, testing::FaultStore,
};

use crate::support::{Answered, App, Gate, WithoutBody, by_hand, fc, prefer, routes, soon};

/// A body that differs from every other by its type, its frames and its hints.
struct Marked(&'static str);

impl http_body::Body for Marked {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        panic!("the body was read");
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(4)
    }
}

/// Keeps the request as it came, with any body, and answers with unusual values.
#[derive(Clone)]
struct Keep(Arc<Mutex<Vec<Request<AnyBody>>>>);

type AnyBody = Box<dyn std::any::Any + Send>;

impl<B: Send + 'static> Service<Request<B>> for Keep {
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        self.0.lock().unwrap().push(request.map(|body| Box::new(body) as _));
        let mut response = Response::new(Full::from("\u{0}answer"));
        *response.status_mut() = 299.try_into().unwrap();
        *response.version_mut() = Version::HTTP_09;
        response
            .headers_mut()
            .insert("x-fc-request-id", HeaderValue::from_static("the handler's"));
        response.extensions_mut().insert("an extension");
        ready(Ok(response))
    }
}

#[tokio::test]
async fn what_does_not_ask_passes_through_as_it_is() {
    let kept = Arc::default();
    let layer = RespondAsyncLayer::new(MemoryStore::new()).unwrap();
    let mut service = layer.layer(Keep(Arc::clone(&kept)));
    for (hint, value) in [
        ("x-hint", "none"),
        ("x-fc-invocation-type", "Sync"),
        ("prefer", "return=minimal, wait=5"),
    ] {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            (hint, value.as_bytes()),
            ("connection", b"keep-alive, x-mine"),
            ("x-fc-async-task-id", b"without the header that asks"),
            ("x-fc-request-id", b"one"),
            ("x-respond-async-depth", b"99"),
            ("idempotency-key", b"\"open"),
            ("x-raw", b"\xff"),
            ("x-raw", b"second"),
            ("content-length", b"99999999999"),
        ] {
            headers.append(name, HeaderValue::from_bytes(value).unwrap());
        }
        let mut request = Request::new(Marked("mine"));
        *request.method_mut() = "PURGE".parse().unwrap();
        *request.uri_mut() = "/a%2F?b".parse().unwrap();
        *request.version_mut() = Version::HTTP_2;
        *request.headers_mut() = headers.clone();
        request.extensions_mut().insert(7_u8);

        let mut response = service.call(request).await.unwrap();
        // The only addition: with another preference the answer might have been different.
        let vary = response.headers_mut().remove("vary");
        assert_eq!(vary.is_some(), hint == "prefer");
        assert_eq!(
            (response.status().as_u16(), response.version()),
            (299, Version::HTTP_09)
        );
        assert_eq!(response.headers().len(), 1);
        assert_eq!(response.headers()["x-fc-request-id"], "the handler's");
        assert_eq!(response.extensions().get(), Some(&"an extension"));
        assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "\u{0}answer");

        let seen = kept.lock().unwrap().pop().unwrap();
        assert_eq!(
            (seen.method().as_str(), seen.uri().to_string().as_str()),
            ("PURGE", "/a%2F?b")
        );
        assert_eq!(seen.version(), Version::HTTP_2);
        assert_eq!(seen.headers(), &headers);
        assert_eq!(seen.extensions().get(), Some(&7_u8));
        assert_eq!(seen.extensions().len(), 1, "nothing was added");
        assert_eq!(seen.into_body().downcast::<Marked>().unwrap().0, "mine");
    }
}

/// A handler that reads its body frame by frame gets each at once, however long the next one takes.
#[tokio::test]
async fn a_body_is_not_buffered() {
    for preferences in ["", "return=minimal"] {
        let (told, mut heard) = mpsc::unbounded_channel();
        let handler = any(async move |body: Body| {
            let mut body = pin!(body);
            while let Some(frame) = body.frame().await {
                told.send(frame.unwrap().into_data().unwrap()).unwrap();
            }
        });
        let app = App::build(MemoryStore::new(), Router::new().route("/", handler), |builder| builder);
        let (mut sender, body) = Channel::<Bytes>::new(1);
        let mut answer = by_hand(&app, prefer("/", preferences).with(Body::new(body)));
        for frame in ["one", "two", "three"] {
            assert_pending!(answer.poll());
            assert!(heard.try_recv().is_err());
            sender.send_data(Bytes::from(frame)).await.unwrap();
            assert_pending!(answer.poll());
            assert_eq!(heard.try_recv().unwrap(), frame);
        }
        assert_eq!(app.buffered().await, 0);
        drop(sender);
        assert_ready!(answer.poll());
    }
}

#[tokio::test]
async fn a_response_is_not_buffered() {
    let (mut sender, body) = Channel::<Bytes>::new(1);
    let body = Arc::new(Mutex::new(Some(Body::new(body))));
    let handler = any(move || ready(body.lock().unwrap().take().unwrap()));
    let app = App::build(MemoryStore::new(), Router::new().route("/", handler), |builder| builder);
    let mut service = app.service.clone();
    let response = service.call(Request::get("/").empty()).await.unwrap();
    let mut body = response.into_body();
    for sent in ["one", "two"] {
        sender.send_data(Bytes::from(sent)).await.unwrap();
        let frame = soon(body.frame()).await.unwrap().unwrap();
        assert_eq!(frame.into_data().unwrap(), sent);
    }
    drop(sender);
    assert!(soon(body.frame()).await.is_none());
}

/// Answers at once, without an allocation.
#[derive(Clone)]
struct Bare;

impl<B> Service<Request<B>> for Bare {
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<B>) -> Self::Future {
        ready(Ok(Response::new(Full::new(Bytes::from_static(b"hello")))))
    }
}

/// How many allocations it takes to clone a service, make it ready and call it, for all requests together.
fn allocations<S, B>(service: &S, requests: Vec<Request<B>>) -> u64
where
    S: Service<Request<B>, Error = Infallible> + Clone,
{
    // Takes the requests one by one: they and the vector are freed here, not allocated.
    let counted = allocation_counter::measure(|| {
        for request in requests {
            let mut service = service.clone();
            let ready = poll_fn(|cx| service.poll_ready(cx)).now_or_never();
            assert!(matches!(ready, Some(Ok(()))));
            let answer = service.call(request).now_or_never();
            assert!(matches!(answer, Some(Ok(_))));
        }
    });
    counted.count_total
}

fn requests<B>(body: impl Fn() -> B) -> Vec<Request<B>> {
    let request = || {
        let request = Request::post("/hello?x=1")
            .header("Host", "example.org")
            .header("Accept", "*/*");
        let request = request.header("Content-Type", "application/json");
        request.header("X-Fc-Trace-Id", "abc").body(body()).unwrap()
    };
    (0..100).map(|_| request()).collect()
}

#[tokio::test]
async fn the_synchronous_path_allocates_nothing() {
    let layer = RespondAsyncLayer::new(MemoryStore::new()).unwrap();
    let layered = layer.layer(Bare);
    assert_eq!(allocations(&Bare, requests(RequestBody::empty)), 0, "the floor");
    assert_eq!(allocations(&layered, requests(RequestBody::empty)), 0);
    assert_eq!(allocations(&layered, requests(|| Marked("mine"))), 0);
    // A service that must be made ready, and is.
    let limited = RespondAsyncLayer::new(MemoryStore::new()).unwrap();
    let limited = limited.layer(ConcurrencyLimit::new(Bare, 1));
    assert_eq!(allocations(&limited, requests(RequestBody::empty)), 0);
    // An async request does allocate, which shows that allocations are counted.
    let asks = vec![fc("/hello").body(RequestBody::empty()).unwrap()];
    let mut service = layered.clone();
    let counted = allocation_counter::measure(|| {
        for request in asks {
            assert!(service.call(request).now_or_never().unwrap().unwrap().status() == 202);
        }
    });
    assert!(counted.count_total > 0);
}

#[tokio::test]
async fn a_router_allocates_no_more_inside_the_layer() {
    let router = Router::new().route("/hello", any(|| ready("hello")));
    let layered = RespondAsyncLayer::new(MemoryStore::new())
        .unwrap()
        .layer(router.clone());
    // One uncounted round: a router may allocate things that it keeps.
    allocations(&router, requests(Body::empty));
    allocations(&layered, requests(Body::empty));
    let bare = allocations(&router, requests(Body::empty));
    assert_eq!(allocations(&layered, requests(Body::empty)), bare);
}

#[tokio::test]
async fn polled_by_hand_a_synchronous_answer_is_there_when_the_handler_s_is() {
    let gate = Gate::new();
    let app = App::build(MemoryStore::new(), gate.among_routes(), |builder| builder);
    let mut answer = by_hand(&app, Request::post("/gate").empty());
    assert_pending!(answer.poll());
    assert_pending!(answer.poll());
    assert!(!answer.is_woken());
    gate.let_pass(1);
    assert!(answer.is_woken());
    let response = assert_ready!(answer.poll());
    assert_eq!(Answered::read(response).await.body, "passed");
}

#[tokio::test]
async fn polled_by_hand_a_202_is_there_when_the_body_and_the_commit_are() {
    let store = FaultStore::new(MemoryStore::new());
    let slow = store.faults().delay_next(Operation::Insert);
    let app = App::build(store, routes(), |builder| builder);
    let (mut sender, body) = Channel::<Bytes>::new(1);
    let mut answer = by_hand(&app, fc("/echo").with(Body::new(body)));
    assert_pending!(answer.poll());
    sender.send_data(Bytes::from_static(b"hello")).await.unwrap();
    assert!(answer.is_woken());
    assert_pending!(answer.poll());
    assert!(!answer.is_woken());
    assert_eq!((app.kept().await, app.buffered().await), (0, 5));

    drop(sender);
    assert!(answer.is_woken());
    assert_pending!(answer.poll());
    soon(slow.arrived()).await;
    assert_eq!(
        (app.kept().await, app.buffered().await),
        (0, 5),
        "the commit is under way"
    );

    slow.release();
    app.until_kept(1).await;
    while !answer.is_woken() {
        tokio::task::yield_now().await;
    }
    let answer = Answered::read(assert_ready!(answer.poll())).await;
    answer.assert_accepted();
    assert_eq!(app.buffered().await, 0);
    app.until(answer.id(), TaskState::Succeeded).await;
}

/// With a store that is ready at once, the first poll answers a request whose body is complete.
#[tokio::test]
async fn polled_by_hand_a_202_can_be_there_at_once() {
    let app = App::new();
    let mut answer = by_hand(&app, fc("/echo").with("hello"));
    let response = assert_ready!(answer.poll());
    assert_eq!(response.status(), 202);
    let mut refused = by_hand(&app, fc("/echo").header("X-Fc-Async-Delay", "0").unread());
    let response = assert_ready!(refused.poll());
    assert_eq!(response.status(), 400);
}

/// A call alone does not read the request: dropped unpolled, it leaves nothing.
#[tokio::test]
async fn an_answer_that_is_never_polled_leaves_nothing() {
    let app = App::new();
    drop(by_hand(&app, fc("/echo").unread()));
    drop(by_hand(&app, Request::post("/panic").empty()));
    assert_eq!((app.kept().await, app.buffered().await), (0, 0));
}
