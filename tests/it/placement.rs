//! Where the layer can stand, and how it works with its neighbours.

use std::{
    convert::Infallible,
    io,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    Extension, Router,
    body::Body,
    extract::{DefaultBodyLimit, MatchedPath, NestedPath, OptionalFromRequestParts, OriginalUri, Path},
    routing::any,
};
use bytes::Bytes;
use futures_util::future::{Ready, ready};
use http::{Request, Response, StatusCode, Uri, request::Parts};
use http_body_util::{BodyExt, Full};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    service::TowerToHyperService,
};
use tokio::net::TcpListener;
use tower::{Layer, Service, ServiceBuilder, ServiceExt, service_fn};
use tower_http::{
    map_request_body::MapRequestBodyLayer, map_response_body::MapResponseBodyLayer, timeout::TimeoutLayer,
    trace::TraceLayer,
};
use tower_respond_async::{
    Backoff, BoxError, MemoryStore, RequestBody, RespondAsync, RespondAsyncBuilder, RespondAsyncLayer, TaskApi,
    TaskContext, TaskState, allow_everyone,
};

use crate::support::{Answered, App, Gate, WithoutBody, fc, no_retries, prefer, routes, soon};

/// The layer changes no type. Checked at compile time.
#[test]
fn the_layer_changes_no_type_and_the_wrapped_service_can_be_shared() {
    fn is_service<S, B, R>()
    where
        S: Service<Request<B>, Response = Response<R>, Error = Infallible>,
    {
    }
    fn is_shared<T: Clone + Send + Sync + 'static>() {}
    is_service::<RespondAsync<Router>, Body, Body>();
    is_service::<RespondAsync<Router>, hyper::body::Incoming, Body>();
    is_service::<RespondAsync<Router>, Full<Bytes>, Body>();
    is_shared::<RespondAsync<Router>>();
    fn is_send<T: Send + 'static>() {}
    is_send::<<RespondAsync<Router> as Service<Request<Body>>>::Future>();
    fn layer_is_shared<T: Send + Sync + 'static>() {}
    layer_is_shared::<RespondAsyncLayer>();
}

#[tokio::test]
#[should_panic(expected = "wrap the application once, and clone the wrapped service")]
async fn wrapping_twice_panics() {
    let layer = RespondAsyncLayer::new(MemoryStore::new()).unwrap();
    let _first = layer.layer(routes());
    let _second = layer.layer(routes());
}

/// Counts the requests that pass.
#[derive(Clone, Default)]
struct Counter(Arc<AtomicUsize>);

impl Counter {
    fn count(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }

    fn layer<S>(&self) -> impl Layer<S, Service = Counted<S>> + Clone + use<S> {
        let counter = self.clone();
        tower::layer::layer_fn(move |inner| Counted {
            inner,
            counter: counter.clone(),
        })
    }
}

#[derive(Clone)]
struct Counted<S> {
    inner: S,
    counter: Counter,
}

impl<S: Service<R>, R> Service<R> for Counted<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: R) -> S::Future {
        self.counter.0.fetch_add(1, Ordering::SeqCst);
        self.inner.call(request)
    }
}

/// An outer layer runs once, before a request is accepted. An inner layer runs on every attempt.
#[tokio::test]
async fn it_stands_among_other_layers_in_a_service_builder() {
    let (outside, inside) = (Counter::default(), Counter::default());
    let fails_once = any(|task: TaskContext| async move {
        match task.attempt() {
            1 => StatusCode::SERVICE_UNAVAILABLE,
            _ => StatusCode::OK,
        }
    });
    let layer = RespondAsyncLayer::builder(MemoryStore::new())
        .retry(Backoff::new().base(Duration::from_millis(1)))
        .build()
        .unwrap();
    let tasks = layer.tasks();
    let service = ServiceBuilder::new()
        .layer(TraceLayer::new_for_http())
        .layer(TimeoutLayer::with_status_code(
            StatusCode::REQUEST_TIMEOUT,
            Duration::from_secs(60),
        ))
        .layer(outside.layer())
        .layer(layer)
        .layer(inside.layer())
        .layer(MapResponseBodyLayer::new(Body::new))
        .layer(TraceLayer::new_for_http())
        .service(routes().route("/fails-once", fails_once));

    let response = soon(service.clone().oneshot(fc("/fails-once").empty())).await.unwrap();
    let answer = Answered::read(response.map(Body::new)).await;
    answer.assert_accepted();
    let ended = tasks.wait(answer.id(), Duration::from_secs(60)).await.unwrap().unwrap();
    assert_eq!((ended.state, ended.attempt), (TaskState::Succeeded, 2));
    assert_eq!((outside.count(), inside.count()), (1, 2));

    let response = soon(service.oneshot(Request::post("/echo").with("hello")))
        .await
        .unwrap();
    assert_eq!(Answered::read(response.map(Body::new)).await.body, "hello");
    assert_eq!((outside.count(), inside.count()), (2, 3));
}

/// A sub-application sees its own paths, live and on a replay, and its links lead to its public URL.
#[tokio::test]
async fn it_wraps_a_sub_application_that_is_nested() {
    let layer = RespondAsyncLayer::builder(MemoryStore::new())
        .public_url("http://example.org/sub")
        .build()
        .unwrap();
    let api = TaskApi::new(&layer.tasks(), allow_everyone());
    let sub = layer.layer(routes().nest_service("/tasks", api));
    let app = Router::new()
        .nest_service("/sub", sub)
        .route("/hello/{name}", any(|| async { "the outer one" }));

    let send = async |request: Request<Body>| {
        let response = soon(app.clone().oneshot(request)).await.unwrap();
        Answered::read(response).await
    };
    let answer = send(fc("/sub/hello/you?x=1").empty()).await;
    answer.assert_accepted();
    let location = answer.header("location");
    assert_eq!(location, format!("http://example.org/sub/tasks/{}/result", answer.id()));
    let result = send(Request::get(format!("{location}?wait=50")).empty()).await;
    assert_eq!((result.status, &result.body[..]), (200, &b"hello you"[..]));
    assert_eq!(send(Request::get("/sub/hello/me").empty()).await.body, "hello me");
    assert_eq!(send(fc("/hello/you").empty()).await.body, "the outer one");
}

#[tokio::test]
async fn it_wraps_a_service_over_our_own_body_and_plain_hyper_serves_it() {
    async fn handle(request: Request<RequestBody>) -> Result<Response<Full<Bytes>>, BoxError> {
        let task = TaskContext::of(request.extensions());
        let path = request.uri().path().to_owned();
        let body = request.into_body().collect().await?.to_bytes();
        let text = format!("{path} {body:?} task {}", task.is_task());
        Ok(Response::new(text.into()))
    }
    let layer = RespondAsyncLayer::new(MemoryStore::new()).unwrap();
    let service = ServiceBuilder::new()
        .layer(MapRequestBodyLayer::new(RequestBody::live))
        .layer(layer)
        .service_fn(handle);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (connection, _) = listener.accept().await.unwrap();
            let service = TowerToHyperService::new(service.clone());
            let serving =
                hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(connection), service);
            tokio::spawn(serving);
        }
    });

    let client = hyper_util::client::legacy::Client::builder(TokioExecutor::new()).build_http::<Full<Bytes>>();
    let send = async |request: http::request::Builder| {
        let request = request.body(Full::from("hi")).unwrap();
        let response = soon(client.request(request)).await.unwrap();
        Answered::read(response.map(Body::new)).await
    };
    let url = format!("http://{address}/a");
    assert_eq!(send(Request::post(&url)).await.body, "/a b\"hi\" task false");
    assert_eq!(
        send(prefer(&url, "respond-async, wait=50")).await.body,
        "/a b\"hi\" task true"
    );
    send(fc(&url)).await.assert_accepted();
}

/// An axum application behind `Shared`, over a real connection. axum itself converts `Request<Incoming>`.
#[tokio::test]
async fn a_server_of_axum_serves_the_wrapped_router() {
    let app = App::new();
    let address = app.serve().await;
    let request =
        "POST /hello/you HTTP/1.1\r\nHost: here\r\nConnection: close\r\nPrefer: respond-async, wait=50\r\n\r\n";
    let answer = crate::support::talk(address, request.as_bytes()).await;
    assert!(
        answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("hello you"),
        "{answer}"
    );
}

/// Panics when it is called without having been ready, as the contract of `Service` allows.
struct Fastidious {
    ready: bool,
}

impl Clone for Fastidious {
    /// A clone must be made ready by itself.
    fn clone(&self) -> Self {
        Self { ready: false }
    }
}

impl<B> Service<Request<B>> for Fastidious {
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.ready = true;
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<B>) -> Self::Future {
        assert!(std::mem::take(&mut self.ready), "called unready");
        ready(Ok(Response::new("ready".into())))
    }
}

#[tokio::test]
async fn the_inner_service_is_never_called_unready() {
    let layer = RespondAsyncLayer::builder(MemoryStore::new())
        .retry(no_retries())
        .build()
        .unwrap();
    let mut service = layer.layer(Fastidious { ready: false });
    for request in [
        Request::post("/"),
        prefer("/", "respond-async, wait=50"),
        prefer("/", "return=minimal"),
        prefer("/", "respond-async, wait=50"),
        Request::post("/"),
    ] {
        let service = soon(ServiceExt::<Request<Body>>::ready(&mut service)).await.unwrap();
        let response = soon(service.call(request.empty())).await.unwrap();
        assert_eq!(response.status(), 200, "an attempt panicked");
        assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "ready");
    }
}

/// An error of the inner service is returned on the synchronous path, and fails the attempt of a task.
#[tokio::test]
async fn an_error_passes_through_and_fails_an_attempt() {
    let fails = service_fn(async |_: Request<RequestBody>| {
        Err::<Response<Full<Bytes>>, _>(io::Error::other("the disk is on fire"))
    });
    let layer = RespondAsyncLayer::builder(MemoryStore::new())
        .retry(no_retries())
        .build()
        .unwrap();
    let tasks = layer.tasks();
    let service = layer.layer(fails);
    let request = |builder: http::request::Builder| builder.body(RequestBody::empty()).unwrap();

    let error: io::Error = soon(service.clone().oneshot(request(Request::post("/"))))
        .await
        .unwrap_err();
    assert_eq!(error.to_string(), "the disk is on fire");
    let error = soon(service.clone().oneshot(request(prefer("/", "wait=5"))))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::Other);

    let response = soon(service.oneshot(request(fc("/")))).await.unwrap();
    let answer = Answered::read(response.map(Body::new)).await;
    let ended = tasks.wait(answer.id(), Duration::from_secs(60)).await.unwrap().unwrap();
    assert_eq!(ended.state, TaskState::Failed);
    assert!(
        ended.error.as_deref().unwrap().contains("the disk is on fire"),
        "{ended:?}"
    );
}

/// The engine lives as long as a service or a `Tasks`, so the layer may be dropped after use.
#[tokio::test]
async fn the_layer_itself_need_not_be_kept() {
    let gate = Gate::new();
    let service = {
        let layer = RespondAsyncLayer::new(MemoryStore::new()).unwrap();
        layer.layer(gate.among_routes())
    };
    let response = soon(service.clone().oneshot(fc("/gate").empty())).await.unwrap();
    Answered::read(response).await.assert_accepted();
    gate.arrived().await;
    gate.let_pass(1);
    let response = soon(service.oneshot(prefer("/hello/you", "respond-async, wait=50").empty()))
        .await
        .unwrap();
    assert_eq!(Answered::read(response).await.body, "hello you");
}

/// An application whose layer is inside a router of axum.
struct Mounted {
    router: Router,
    inside: App,
}

fn mounted(
    inner: Router,
    configure: impl FnOnce(RespondAsyncBuilder) -> RespondAsyncBuilder,
    mount: impl FnOnce(RespondAsync<Router>) -> Router,
) -> Mounted {
    let inside = App::build(MemoryStore::new(), inner, |builder| {
        configure(builder).retry(no_retries())
    });
    Mounted {
        router: mount(inside.service.clone()),
        inside,
    }
}

impl Mounted {
    async fn send(&self, request: Request<Body>) -> Answered {
        Answered::read(soon(self.router.clone().oneshot(request)).await.unwrap()).await
    }

    /// Sends a request to run later. Answers with the handler's response.
    async fn later(&self, request: Request<Body>) -> Answered {
        let answer = self.send(request).await;
        answer.assert_accepted();
        self.inside.response(answer.id()).await
    }

    /// The same for a task that fails. Answers with its error.
    async fn failed(&self, path: &str) -> String {
        let id = self.send(fc(path).empty()).await.id();
        self.inside.ended(id).await.error.as_deref().unwrap().to_owned()
    }
}

/// The handler's response, synchronously and as a task. `NestedPath` used to give a 500, and `OriginalUri` lacked the
/// prefix.
#[tokio::test]
async fn what_a_router_of_axum_outside_has_said_is_said_to_a_replay() {
    async fn tell(
        original: OriginalUri,
        nested: Option<NestedPathOf>,
        matched: MatchedPath,
        parameters: Path<Vec<(String, String)>>,
        uri: Uri,
    ) -> String {
        let nested = nested.map(|nested| nested.0);
        format!(
            "{} {uri} {nested:?} {} {:?}",
            original.0,
            matched.as_str(),
            parameters.0
        )
    }
    let inner = || Router::new().route("/users/{id}", any(tell)).route("/", any(tell));
    type Mounting = fn(RespondAsync<Router>) -> Router;
    let mountings: [(&str, Mounting); 7] = [
        ("/api/users/7?x=1", |service| {
            Router::new().nest_service("/api", service)
        }),
        ("/a%20b/v1/users/7", |service| {
            Router::new().nest_service("/{tenant}/v1", service)
        }),
        ("/x/y/users/%2F", |service| {
            Router::new().nest("/{outer}", Router::new().nest_service("/{inner}", service))
        }),
        ("/api", |service| Router::new().nest_service("/api", service)),
        ("/api/", |service| Router::new().nest_service("/api", service)),
        ("/api?x", |service| Router::new().nest_service("/api", service)),
        ("/users/7?y", |service| Router::new().fallback_service(service)),
    ];
    for (target, mount) in mountings {
        let app = mounted(inner(), |builder| builder, mount);
        let now = app.send(Request::post(target).empty()).await;
        assert_eq!(now.status, 200, "{target}: {now:?}");
        assert_eq!(app.later(fc(target).empty()).await.body, now.body, "{target}");
    }

    // Without a prefix: the layer wraps one route.
    let leaf = Router::new().fallback(async |original: OriginalUri, parameters: Path<Vec<(String, String)>>| {
        format!("{} {:?}", original.0, parameters.0)
    });
    for mount in [
        (|service| Router::new().route_service("/films/{id}/{*rest}", service)) as Mounting,
        |service| Router::new().nest("/films", Router::new().route_service("/{id}/{*rest}", service)),
    ] {
        let app = mounted(leaf.clone(), |builder| builder, mount);
        let now = app.send(Request::post("/films/7/a/b").empty()).await;
        assert_eq!(app.later(fc("/films/7/a/b").empty()).await.body, now.body);
        assert!(now.body.starts_with(b"/films/7/a/b [(\"id\", \"7\")"), "{now:?}");
    }
}

/// axum's `NestedPath` as an optional extractor, which it is not itself.
struct NestedPathOf(String);

impl<S: Send + Sync> OptionalFromRequestParts<S> for NestedPathOf {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Option<Self>, Infallible> {
        Ok(parts
            .extensions
            .get()
            .map(|path: &NestedPath| Self(path.as_str().to_owned())))
    }
}

#[tokio::test]
async fn an_edited_target_is_below_the_same_prefix() {
    let tell = any(async |original: OriginalUri, uri: Uri| format!("{} {uri}", original.0));
    let app = mounted(
        Router::new().fallback(tell),
        |builder| builder,
        |service| Router::new().nest_service("/api/{version}", service),
    );
    let id = app.send(fc("/api/v1/users?x=1").empty()).await.id();
    assert_eq!(app.inside.response(id).await.body, "/api/v1/users?x=1 /users?x=1");
    let edited = Request::post(format!("/api/v1/tasks/{id}/retry")).header("Content-Type", "application/json");
    app.send(edited.with("{\"uri\":\"/films?y=2\"}"))
        .await
        .assert_accepted();
    assert_eq!(app.inside.response(id).await.body, "/api/v1/films?y=2 /films?y=2");
}

/// A body that was accepted synchronously used to be 413 on a replay, and the other way round.
#[tokio::test]
async fn a_limit_that_axum_s_extractors_obey_is_the_same_on_a_replay() {
    let inner = || Router::new().route("/", any(async |body: Bytes| body.len().to_string()));
    let large = 3 * 1024 * 1024;
    for (limit, length, status) in [
        (None, large, 413),
        (Some(DefaultBodyLimit::disable()), large, 200),
        (Some(DefaultBodyLimit::max(large)), large, 200),
        (Some(DefaultBodyLimit::max(10)), 11, 413),
        (Some(DefaultBodyLimit::max(10)), 10, 200),
    ] {
        let raised = |builder: RespondAsyncBuilder| builder.body_limit(large);
        let app = mounted(inner(), raised, |service| {
            let router = Router::new().nest_service("/api", service);
            match limit {
                Some(limit) => router.layer(limit),
                None => router,
            }
        });
        let now = app.send(Request::post("/api").with(vec![0; length])).await;
        assert_eq!(now.status, status, "{limit:?}");
        let later = app.send(fc("/api").with(vec![0; length])).await;
        assert_eq!(
            app.inside.ended(later.id()).await.status_code,
            Some(status),
            "{limit:?}"
        );
    }
}

#[derive(Clone)]
struct User;

/// The message cannot say which extension is missing, but that one is.
#[tokio::test]
async fn an_attempt_that_misses_an_extension_says_that_there_was_one() {
    let inner = Router::new()
        .route("/needs", any(async |_: Extension<User>| ()))
        .route(
            "/panics",
            any(async |request: Request<Body>| {
                request.extensions().get::<User>().unwrap();
            }),
        )
        .route(
            "/status/{code}",
            any(async |Path(code): Path<u16>| StatusCode::from_u16(code).unwrap()),
        );
    let app = mounted(
        inner,
        |builder| builder,
        |service| Router::new().nest_service("/api", service).layer(Extension(User)),
    );
    assert_eq!(app.send(Request::post("/api/needs").empty()).await.status, 200);
    for (path, says) in [
        ("/api/needs", true),
        ("/api/panics", true),
        ("/api/status/403", true),
        ("/api/status/404", false),
    ] {
        let error = app.failed(path).await;
        let note = "; extensions of the original request that are missing on the replay: 1";
        assert_eq!(error.contains(note), says, "{path}: {error}");
    }
    // Nothing is missing that an outer router has set.
    let inner = Router::new().route("/", any(async || StatusCode::INTERNAL_SERVER_ERROR));
    let app = mounted(
        inner,
        |builder| builder,
        |service| {
            Router::new()
                .nest_service("/api", service)
                .layer(DefaultBodyLimit::disable())
        },
    );
    assert_eq!(
        app.failed("/api").await,
        "the handler answered 500 Internal Server Error"
    );
}
