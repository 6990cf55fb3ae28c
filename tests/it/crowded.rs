//! Completions that wait for receivers without an answer, in a bounded store, and what that means for other requests.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{Router, body::Body, routing::post};
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use tokio::sync::Semaphore;
use tower::{Layer, ServiceExt, service_fn};
use tower_respond_async::{
    BoxError, Completion, MemoryStore, RequestBody, RequestId, RespondAsyncBuilder, RespondAsyncLayer, Scope,
    Submission, Submitted, Tasks,
    error::BoxFuture,
    hook::{Application, CallbackRefused, Callbacks, Schedule, Target, Tried, TryOutcome},
    probe::{Event, Probe},
    store::{Ledger, TaskStore},
    task::{DeliveryStatus, Destination, Filter},
};

use crate::engine_support::eventually;

/// A destination. As the callback destination it takes the host from the URL: a host that begins with `dead` is dead.
#[derive(Clone)]
struct Receiver {
    name: Destination,
    places: usize,
    schedule: Schedule,
    /// Each permit lets one delivery succeed.
    open: Arc<Semaphore>,
    told: Arc<AtomicUsize>,
    /// How many tries were begun that do not fail at once.
    begun: Arc<AtomicUsize>,
    is_dead: bool,
    /// So many tries fail before one never ends.
    fails: Arc<AtomicUsize>,
}

impl Receiver {
    fn new(name: Destination) -> Self {
        Self {
            name,
            places: 8,
            schedule: Schedule::new([60 * 60, 60 * 60].map(Duration::from_secs)),
            open: Arc::new(Semaphore::new(0)),
            told: Arc::default(),
            begun: Arc::default(),
            is_dead: false,
            fails: Arc::default(),
        }
    }

    fn dead(mut self) -> Self {
        self.is_dead = true;
        self
    }

    /// Fails three times, and then never ends in the only place.
    fn stuck(mut self) -> Self {
        self.places = 1;
        self.fails = Arc::new(AtomicUsize::new(3));
        self
    }
}

impl Target for Receiver {
    fn name(&self) -> &Destination {
        &self.name
    }

    fn deliver<'a>(&'a self, completion: Completion, _: &'a dyn Application) -> BoxFuture<'a, Tried> {
        Box::pin(async move {
            let one_less = |left: usize| left.checked_sub(1);
            if self
                .fails
                .fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_less)
                .is_ok()
            {
                return Tried::failed("it is down");
            }
            self.begun.fetch_add(1, Ordering::SeqCst);
            let host = completion.task.callback_host().unwrap_or_default();
            if self.is_dead || host.starts_with("dead") {
                std::future::pending::<()>().await;
            }
            self.open.acquire().await.unwrap().forget();
            self.told.fetch_add(1, Ordering::SeqCst);
            Tried::new(TryOutcome::Delivered)
        })
    }

    fn schedule(&self) -> &Schedule {
        &self.schedule
    }

    fn concurrency(&self) -> usize {
        self.places
    }

    fn limit(&self) -> Duration {
        match self.is_dead || self.name == Destination::CALLBACK {
            true => Duration::from_millis(50),
            false => Duration::from_secs(60),
        }
    }
}

impl Callbacks for Receiver {
    fn admit<'a>(&'a self, url: &'a str) -> BoxFuture<'a, Result<Arc<str>, CallbackRefused>> {
        Box::pin(async move { Ok(url.into()) })
    }
}

#[derive(Clone, Debug, Default)]
struct GivenUp(Arc<Mutex<Vec<RequestId>>>);

impl Probe for GivenUp {
    fn on_event(&self, event: &Event<'_>) {
        if let Event::GivenUp { id, .. } = event {
            self.0.lock().unwrap().push(*id);
        }
    }
}

impl GivenUp {
    fn all(&self) -> Vec<RequestId> {
        self.0.lock().unwrap().clone()
    }
}

async fn works(_: Request<RequestBody>) -> Result<Response<Full<Bytes>>, BoxError> {
    Ok(Response::new(Full::from("done")))
}

fn built(
    store: &MemoryStore,
    probe: &GivenUp,
    configure: impl FnOnce(RespondAsyncBuilder) -> RespondAsyncBuilder,
) -> RespondAsyncLayer {
    let builder = RespondAsyncLayer::builder(store.clone()).probe(probe.clone());
    configure(builder).build().unwrap()
}

async fn pending(store: &MemoryStore) -> u64 {
    let counts = store.counts(&Scope::All).await.unwrap();
    counts.pending_deliveries.unwrap()
}

/// Whether all tasks in the store have ended.
async fn all_ended(store: &MemoryStore) -> bool {
    let counts = store.counts(&Scope::All).await.unwrap();
    counts.iter().all(|(state, count)| count == 0 || state.is_terminal())
}

async fn submitted(tasks: &Tasks) -> RequestId {
    let request = Request::post("/work").body(Bytes::new()).unwrap();
    match tasks.submit(Submission::new(request)).await.unwrap() {
        Submitted::New(record) => record.id,
        Submitted::Known { .. } => panic!("it has neither name nor key"),
    }
}

/// Fifty callbacks to a socket that never answered, in a store for fifty tasks, used to block all requests for up to
/// seven days.
#[tokio::test]
async fn callbacks_to_a_host_that_never_answers_block_no_requests() {
    let store = MemoryStore::builder().max_tasks(50).build();
    let given_up = GivenUp::default();
    let layer = built(&store, &given_up, |builder| {
        builder.callbacks(Receiver::new(Destination::CALLBACK))
    });
    let app = layer.layer(Router::new().route("/", post(async || "done")));
    let send = async || {
        let prefer = "respond-async, callback; url=\"https://dead.example/hook\"";
        let request = Request::post("/").header("Prefer", prefer).body(Body::empty());
        let answer = app.clone().oneshot(request.unwrap()).await.unwrap();
        assert_eq!(answer.status(), StatusCode::ACCEPTED);
        answer.headers()["x-fc-request-id"]
            .to_str()
            .unwrap()
            .parse::<RequestId>()
            .unwrap()
    };
    let mut sent = Vec::new();
    for _ in 0..50 {
        sent.push(send().await);
    }
    eventually("they are run", async || all_ended(&store).await).await;
    eventually("those beyond an eighth are given up", async || {
        pending(&store).await <= 6
    })
    .await;
    for _ in 0..100 {
        send().await;
        eventually("it is run", async || all_ended(&store).await).await;
    }
    eventually("later ones are given up as well", async || pending(&store).await <= 6).await;

    let given_up = given_up.all();
    assert!(given_up.len() >= 140, "{}", given_up.len());
    let ledger = Ledger::of(store.clone());
    let kept = ledger.list_all(&Scope::All, &Filter::default()).await.unwrap();
    let failed: Vec<_> = kept
        .iter()
        .filter(|record| !record.deliveries[0].is_pending())
        .collect();
    assert!(failed.len() >= 40, "{}", failed.len());
    for record in failed {
        let delivery = &record.deliveries[0];
        assert_eq!(delivery.status, DeliveryStatus::Failed);
        let why = delivery.tries.last().unwrap().text.as_deref().unwrap();
        assert!(why.starts_with("given up: "), "{why}");
        assert!(given_up.contains(&record.id), "whoever watches was told");
    }
}

#[tokio::test]
async fn a_destination_that_never_answers_blocks_no_requests() {
    let store = MemoryStore::builder().max_tasks(40).build();
    let given_up = GivenUp::default();
    let dead = Receiver::new(Destination::new("dead")).dead();
    let layer = built(&store, &given_up, |builder| builder.on_completion(dead));
    let tasks = layer.tasks();
    drop(layer.layer(service_fn(works)));
    for _ in 0..40 {
        submitted(&tasks).await;
    }
    eventually("they are run", async || all_ended(&store).await).await;
    eventually("the half beyond its share is given up", async || {
        pending(&store).await <= 20
    })
    .await;
    for _ in 0..100 {
        submitted(&tasks).await;
        eventually("it is run", async || all_ended(&store).await).await;
    }
    eventually("later ones are given up as well", async || pending(&store).await <= 20).await;
    assert!(given_up.all().len() >= 120);
}

#[tokio::test]
async fn a_destination_that_is_only_slow_loses_nothing() {
    let store = MemoryStore::builder().max_tasks(40).build();
    let given_up = GivenUp::default();
    let slow = Receiver::new(Destination::new("slow"));
    let dead = Receiver::new(Destination::new("dead")).dead();
    let layer = built(&store, &given_up, |builder| {
        builder.on_completion(slow.clone()).on_failure(dead)
    });
    let tasks = layer.tasks();
    drop(layer.layer(service_fn(works)));
    for _ in 0..40 {
        submitted(&tasks).await;
    }
    eventually("all of it waits", async || pending(&store).await == 40).await;
    assert!(store.queue_hint(None, None).crowded);
    let request = Request::post("/work").body(Bytes::new()).unwrap();
    let refused = tasks.submit(Submission::new(request)).await;
    assert!(
        refused.is_err(),
        "nobody is told less so that it is taken in: {refused:?}"
    );
    slow.open.add_permits(100);
    eventually("all of it is told", async || pending(&store).await == 0).await;
    assert_eq!((slow.told.load(Ordering::SeqCst), given_up.all()), (40, vec![]));
}

/// Here no delivery makes room in passing.
#[tokio::test]
async fn a_request_that_finds_no_room_makes_it() {
    let store = MemoryStore::builder().max_tasks(20).build();
    let given_up = GivenUp::default();
    let stuck = Receiver::new(Destination::new("stuck")).stuck();
    let layer = built(&store, &given_up, |builder| builder.on_completion(stuck.clone()));
    let tasks = layer.tasks();
    drop(layer.layer(service_fn(works)));
    for _ in 0..3 {
        submitted(&tasks).await;
    }
    eventually("three tries fail", async || stuck.fails.load(Ordering::SeqCst) == 0).await;
    submitted(&tasks).await;
    eventually("the fourth has the only place", async || {
        stuck.begun.load(Ordering::SeqCst) == 1
    })
    .await;
    for _ in 4..20 {
        submitted(&tasks).await;
    }
    eventually("they are run", async || all_ended(&store).await).await;
    assert_eq!((pending(&store).await, given_up.all().len()), (20, 0));
    submitted(&tasks).await;
    let told = given_up.all().len();
    assert!(
        (9..=10).contains(&told),
        "half but for what is being tried, and whoever watches is told: {told}"
    );
    for _ in 0..8 {
        submitted(&tasks).await;
    }
    eventually("they are run", async || all_ended(&store).await).await;
    assert!(pending(&store).await >= 19);
    let many = (0..5).map(|_| Submission::new(Request::post("/work").body(Bytes::new()).unwrap()));
    for one in tasks.submit_all(many.collect()).await.unwrap() {
        assert!(matches!(one.unwrap(), Submitted::New(_)));
    }
}
