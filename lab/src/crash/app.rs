//! The process that gets killed: an application behind the layer, on a file or a database.

use std::{
    env,
    future::ready,
    io::{self, Read},
    net::SocketAddr,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::Duration,
};

use axum::{
    Json, Router,
    extract::{Query, Request, State},
    http::{HeaderName, HeaderValue, StatusCode},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::post,
};
use serde::{Deserialize, Serialize};
use tokio::{
    net::TcpListener,
    signal::unix::{Signal, SignalKind, signal},
    time::sleep,
};
use tower::{Layer, make::Shared};
use tower_respond_async::{
    Backoff, BoxError, Completion, RespondAsyncLayer, TaskApi, TaskContext, TaskStore, allow_everyone,
    hook::{Schedule, webhook::Webhook},
};
use tower_respond_async_postgres::PostgresStore;
use tower_respond_async_redb::RedbStore;

use super::{
    journal::{Answer, Journal, Line, Told},
    point::{Mark, Point, Points},
    process::DEADLINE,
    receiver::SECRET,
    store::MinedStore,
    wait::comes_about,
};

/// The environment variable that holds the [`Orders`] of a process.
pub(crate) const ORDERS: &str = "CRASH_ORDERS";

/// How long tasks are kept that ended without success: short, so that there is something to prune. Tasks that succeeded
/// are kept.
pub const KEPT: Duration = Duration::from_secs(5);

/// What a process must do.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Orders {
    /// The folder of the journal and of the file.
    pub folder: PathBuf,
    /// The URL of the database that holds the tasks, if they are not in a file.
    pub database: Option<String>,
    pub role: Role,
    /// Where the process kills or freezes itself.
    pub mark: Option<Mark>,
    pub lease: Duration,
    /// How long running tasks may go on after a SIGTERM.
    pub grace: Duration,
    /// How long they may then take to end by themselves; also after a stop.
    pub stop_grace: Duration,
    /// The receiver of webhooks.
    pub receiver: Option<SocketAddr>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Role {
    /// Serves the application until SIGTERM.
    Serve,
    /// Reports that it opens the file, reports the result, and holds the file until stdin ends.
    Hold,
}

impl Orders {
    /// Orders to serve the application with long times and without a mark.
    pub fn serve(folder: &Path) -> Self {
        Self {
            folder: folder.to_owned(),
            database: None,
            role: Role::Serve,
            mark: None,
            lease: Duration::from_secs(30),
            grace: Duration::from_secs(10),
            stop_grace: Duration::from_millis(20),
            receiver: None,
        }
    }

    pub fn file(&self) -> PathBuf {
        self.folder.join("tasks.redb")
    }

    /// The value of the [`FOLDER`] header.
    pub(crate) fn id(&self) -> HeaderValue {
        HeaderValue::from_bytes(self.folder.as_os_str().as_bytes()).expect("a temporary folder has a plain name")
    }

    pub fn journal(&self) -> PathBuf {
        self.folder.join("journal")
    }

    /// A file that lets gated handlers pass as soon as it exists.
    pub fn gate(&self) -> PathBuf {
        self.folder.join("gate")
    }
}

/// The prefix of the lines that a process prints for its parent; other output may come between them.
pub(crate) const SAYS: &str = "crash-harness: ";

/// The header that names the client's folder. The port of a dead process may by now belong to a process of another
/// harness, which must refuse requests that are not for it.
pub(crate) const FOLDER: HeaderName = HeaderName::from_static("x-crash-folder");

/// How long after a failed webhook, or after the death of its process, the next try is made.
const PAUSE: Duration = Duration::from_millis(50);

/// How many handlers run at once.
pub const CONCURRENCY: usize = 8;

/// What the handler must do, as given by the query.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Work {
    /// How long the handler takes, in milliseconds.
    pub ms: u64,
    /// The handler fails in this many attempts.
    pub fail: u32,
    /// The handler answers 422 in the end.
    pub refuse: bool,
    /// The handler aborts the process.
    pub abort: bool,
    /// The handler waits until the [gate](Orders::gate) exists.
    pub gated: bool,
}

/// Carries out the orders in the environment. Returns `false` if there are none.
pub fn obey() -> bool {
    let Ok(orders) = env::var(ORDERS) else {
        return false;
    };
    let orders: Orders = serde_json::from_str(&orders).expect("the orders were written by the harness");
    // When stdin ends, the parent is gone, and nothing else would end this process.
    thread::spawn(|| {
        let _ = io::stdin().read_to_end(&mut Vec::new());
        std::process::exit(0);
    });
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build();
    let runtime = runtime.expect("the operating system gives threads");
    let done = runtime.block_on(async {
        match orders.role {
            Role::Serve => serve(&orders).await,
            Role::Hold => hold(&orders).await,
        }
    });
    if let Err(error) = done {
        say(&error.to_string());
        std::process::exit(1);
    }
    // Exits instead of returning into a test runner, which would print more and run tests.
    std::process::exit(0);
}

fn say(what: &str) {
    println!("{SAYS}{what}");
}

async fn hold(orders: &Orders) -> Result<(), BoxError> {
    say("opening");
    let _store = RedbStore::open(orders.file()).await?;
    say("open");
    std::future::pending().await
}

async fn serve(orders: &Orders) -> Result<(), BoxError> {
    let journal = Journal::open(&orders.journal())?;
    let points = Arc::new(Points::new(orders.mark));
    let store: Arc<dyn TaskStore> = match &orders.database {
        Some(url) => Arc::new(PostgresStore::connect(url).await?),
        None => Arc::new(RedbStore::open(orders.file()).await?),
    };
    let store = MinedStore::new(store, points.clone(), journal.clone());
    let gate = orders.gate();
    let child = Child { journal, points, gate };

    let hearing = child.clone();
    let mut builder = RespondAsyncLayer::builder(store)
        .concurrency(CONCURRENCY)
        .lease(orders.lease)
        .stop_grace(orders.stop_grace)
        .retention(Duration::from_secs(24 * 60 * 60), KEPT)
        .retry(
            Backoff::new()
                .base(Duration::from_millis(20))
                .cap(Duration::from_millis(50)),
        )
        .on_completion(move |completion: Completion| {
            let hearing = hearing.clone();
            async move { hearing.told(&completion) }
        });
    if let Some(address) = orders.receiver {
        let webhook = Webhook::new(&format!("http://{address}/"))?
            .named("receiver")?
            .secret(SECRET.parse()?)
            .schedule(Schedule::new([PAUSE; 100]))
            .concurrency(CONCURRENCY);
        builder = builder.on_completion(webhook);
    }
    let layer = builder.build()?;
    let tasks = layer.tasks();
    let app = Router::new().route("/work", post(work)).with_state(child.clone());
    let app = app.nest_service("/tasks", TaskApi::new(&tasks, allow_everyone()));
    let own = orders.id();
    let only_own = middleware::from_fn(move |request: Request, next: Next| {
        let is_own = request.headers().get(FOLDER) == Some(&own);
        async move {
            match is_own {
                true => next.run(request).await,
                false => StatusCode::MISDIRECTED_REQUEST.into_response(),
            }
        }
    });
    let app = only_own.layer(layer.layer(app));

    let mut terminated = signal(SignalKind::terminate())?;
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    say(&format!("serving {}", listener.local_addr()?));
    let closing = tasks.clone();
    let (asked, asking) = tokio::sync::oneshot::channel::<Signal>();
    axum::serve(listener, Shared::new(app))
        .with_graceful_shutdown(async move {
            terminated.recv().await;
            closing.close();
            let _ = asked.send(terminated);
        })
        .await?;
    let mut terminated = asking.await?;
    say("draining");
    let report = tokio::select! {
        // Polled in this order, so that the second SIGTERM finds a shutdown to cut short.
        biased;
        report = tasks.shutdown(orders.grace) => report,
        _ = terminated.recv() => tasks.shutdown(orders.grace).await,
    };
    child.journal.write(&Line::Drained {
        finished: report.finished,
        handed_back: report.handed_back,
        dropped: report.dropped,
    });
    Ok(())
}

/// The state of the handler and the hook.
#[derive(Clone)]
struct Child {
    journal: Journal,
    points: Arc<Points>,
    gate: PathBuf,
}

async fn work(State(child): State<Child>, task: TaskContext, Query(work): Query<Work>, nonce: String) -> Response {
    let (Some(id), Some(token)) = (task.request_id(), task.fence_token()) else {
        return (StatusCode::BAD_REQUEST, "ask for async").into_response();
    };
    let token = token.get();
    child.journal.write(&Line::Started {
        id,
        attempt: task.attempt(),
        token,
        nonce: nonce.clone(),
    });
    child.points.pass(Point::InHandler);
    if work.abort {
        std::process::abort();
    }
    // The simulated work: time in which the process can be killed.
    sleep(Duration::from_millis(work.ms)).await;
    if work.gated && !child.gate_opens().await {
        return (StatusCode::UNPROCESSABLE_ENTITY, "the gate stays shut").into_response();
    }
    if task.attempt() <= work.fail {
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    }
    let status = match work.refuse {
        true => StatusCode::UNPROCESSABLE_ENTITY,
        false => StatusCode::OK,
    };
    (status, Json(Answer { nonce, token })).into_response()
}

impl Child {
    /// Waits for the gate file, which the test creates. It is a file so that the handlers of the next process pass as
    /// well.
    async fn gate_opens(&self) -> bool {
        let opened = comes_about(DEADLINE, || ready(Ok(self.gate.exists()))).await;
        opened.is_ok_and(|opened| opened)
    }

    fn told(&self, completion: &Completion) {
        self.points.pass(Point::BeforeHook);
        let response = completion.response.as_ref();
        self.journal.write(&Line::Told(Told {
            webhook_id: completion.webhook_id.clone(),
            id: completion.request_id(),
            generation: completion.generation,
            state: completion.state.as_str().to_owned(),
            attempt: completion.attempt,
            error: completion.error.as_deref().map(str::to_owned),
            answer: response.and_then(|response| serde_json::from_slice(&response.body).ok()),
        }));
        self.points.pass(Point::AfterHook);
    }
}
