//! Shows everything at once: an application with a route for each way a handler can behave, to try and to test with.
//!
//! ```text
//! cargo run --release --example playground --features full
//!
//! curl -i -H 'X-Fc-Invocation-Type: Async' -d 'hello' http://127.0.0.1:3000/echo
//! curl -i -H 'Prefer: respond-async, wait=5' http://127.0.0.1:3000/hello/you
//! curl -i -H 'Prefer: respond-async' -X POST 'http://127.0.0.1:3000/sleep?ms=5000'
//! curl -s http://127.0.0.1:3000/tasks
//! curl -s http://127.0.0.1:3000/tasks/stats
//! ```
//!
//! and open <http://127.0.0.1:3000/console> in a browser.
//!
//! Settings come from the environment; all have a default:
//!
//! | variable | sets |
//! |---|---|
//! | `LISTEN` | the address, `127.0.0.1:3000`; port 0 takes a free one |
//! | `STORE` | `memory`, `redb:PATH` or `postgres://USER@HOST:PORT/DATABASE` with or without `?schema=NAME` |
//! | `WORKER_NAME` | the name of this process in task documents: the `instanceId` begins with it |
//! | `CONCURRENCY`, `QUEUE_DEPTH`, `BODY_LIMIT`, `BUFFER_LIMIT`, `RESULT_LIMIT` | the builder's settings |
//! | `LEASE_MS`, `ATTEMPT_TIMEOUT_MS`, `MAX_AGE_MS`, `RETENTION_MS` | the same, in milliseconds |
//! | `MAX_RETRIES`, `BACKOFF_BASE_MS` | the retry policy |
//! | `FC_STRICT` | `1`: answer exactly as the cloud does |
//! | `API_TOKEN` | the token of the task API; without it anyone may use it, and `LISTEN` must be loopback |
//! | `DESTINATION_SUCCESS`, `DESTINATION_FAILURE` | webhook URLs, or paths like `/echo`, comma-separated |
//! | `ALLOW_CALLBACKS` | hosts and networks for callback URLs, comma-separated; `public` allows any public host |
//! | `WEBHOOK_SECRET` | signs webhooks: `whsec_...`, several comma-separated during a change |
//! | `WEBHOOK_FORMAT` | the format of webhooks: `fc`, `cloudevents`, `standard` or `raw` |
//! | `WEBHOOK_SCHEDULE_MS` | the pauses between tries, comma-separated, in milliseconds |
//! | `GRACE_MS` | the grace after a SIGTERM, 20000; see below |
//! | `JOURNAL` | a file to which every start of a handler appends a line `taskId attempt path` |
//!
//! With PostgreSQL, any number of processes share their tasks.
//!
//! The logs of handlers go to stderr, and into the log of their task: `curl -X POST -H 'Prefer: respond-async'
//! http://127.0.0.1:3000/log?lines=3`, then `curl -H 'Accept: text/plain' http://127.0.0.1:3000/tasks/ID/logs`.
//!
//! SIGTERM and Ctrl-C begin a shutdown: running requests and tasks have `GRACE_MS`, then tasks get a stop signal. With
//! the 5 s of the stop grace, the default is less than the 30 s after which supervisors kill.
//!
//! `curl -i http://127.0.0.1:3000/ready` answers 200 while the store can be reached, and otherwise 503.

use std::{
    convert::Infallible,
    env,
    fmt::Display,
    fs::{File, OpenOptions},
    io::{self, Write},
    net::SocketAddr,
    process::ExitCode,
    str::FromStr,
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    Json, Router,
    body::{Body, Bytes},
    extract::{Path, Query, Request, State},
    http::{HeaderMap, Method, StatusCode, Uri, header::CONTENT_TYPE},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{any, get, post},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use futures_util::FutureExt;
use http_body_util::StreamBody;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::{
    net::TcpListener,
    signal,
    time::{sleep_until, timeout},
};
use tower::{Layer, make::Shared};
use tower_respond_async::{
    Backoff, BearerToken, BoxError, Console, MemoryStore, RespondAsyncLayer, TaskApi, TaskContext, WeakTasks,
    allow_everyone,
    hook::{
        AppPath, PayloadFormat, Schedule,
        webhook::{CallbackPolicy, Secret, Webhook},
    },
    probe::Capture,
};
use tower_respond_async_postgres::PostgresStore;
use tower_respond_async_redb::RedbStore;
use tracing_subscriber::{Layer as _, filter::LevelFilter, layer::SubscriberExt, util::SubscriberInitExt};

#[tokio::main]
async fn main() -> ExitCode {
    let (capture, captured) = Capture::new();
    let shown = tracing_subscriber::fmt::layer().with_writer(io::stderr);
    let shown = shown.with_filter(LevelFilter::INFO);
    tracing_subscriber::registry().with(shown).with(captured).init();
    match serve(capture).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("playground: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn serve(capture: Capture) -> Result<(), BoxError> {
    let listen: SocketAddr = setting("LISTEN")?.unwrap_or(([127, 0, 0, 1], 3000).into());
    let token: Option<String> = setting("API_TOKEN")?;
    if token.is_none() && !listen.ip().is_loopback() {
        return Err(
            "LISTEN is not loopback: set API_TOKEN, or everybody who can reach it could use the task API".into(),
        );
    }

    let grace = millis("GRACE_MS")?.unwrap_or(Duration::from_secs(20));
    let layer = layer(capture).await?;
    let tasks = layer.tasks();
    let api = match token {
        Some(token) => TaskApi::new(&tasks, BearerToken::new(token)),
        None => TaskApi::new(&tasks, allow_everyone()),
    };
    let app = routes(Journal::open()?)
        .nest_service("/tasks", api)
        .nest_service("/console", Console::new(&tasks))
        .route("/ready", get(ready).with_state(tasks.downgrade()));
    let app = layer.layer(app);

    let listener = TcpListener::bind(listen).await?;
    println!("listening on http://{}", listener.local_addr()?);
    // One deadline for plain requests and tasks: a plain request that never ends must not use up the tasks' time.
    let ending = async move {
        asked_to_end().await;
        Instant::now() + grace
    };
    let ending = ending.shared();
    let (asked, closing) = (ending.clone(), tasks.clone());
    let serving = axum::serve(listener, Shared::new(app)).with_graceful_shutdown(async move {
        asked.await;
        closing.close();
    });
    tokio::select! {
        served = serving.into_future() => served?,
        () = ending.clone().then(|end| sleep_until(end.into())) => {}
    }
    let left = ending.await.saturating_duration_since(Instant::now());
    let report = tasks.shutdown(left).await;
    println!("{report:?}");
    Ok(())
}

async fn layer(capture: Capture) -> Result<RespondAsyncLayer, BoxError> {
    let store: String = setting("STORE")?.unwrap_or_else(|| "memory".into());
    let mut builder = match store.split_once(':') {
        None if store == "memory" => RespondAsyncLayer::builder(MemoryStore::new()),
        Some(("redb", path)) if !path.is_empty() => RespondAsyncLayer::builder(RedbStore::open(path).await?),
        Some(("postgres" | "postgresql", _)) => RespondAsyncLayer::builder(PostgresStore::connect(&store).await?),
        // Does not repeat the value, which may contain a password.
        _ => return Err("STORE can be memory, redb:PATH, or postgres://USER@HOST:PORT/DATABASE".into()),
    };
    builder = builder.api_base("/tasks").probe(capture);
    builder = builder.never_async("/console").never_async("/ready");
    if let Some(name) = setting::<String>("WORKER_NAME")? {
        builder = builder.worker_name(name);
    }
    if let Some(handlers) = setting("CONCURRENCY")? {
        builder = builder.concurrency(handlers);
    }
    if let Some(tasks) = setting("QUEUE_DEPTH")? {
        builder = builder.queue_depth(tasks);
    }
    if let Some(bytes) = setting("BODY_LIMIT")? {
        builder = builder.body_limit(bytes);
    }
    if let Some(bytes) = setting("BUFFER_LIMIT")? {
        builder = builder.buffer_limit(bytes);
    }
    if let Some(bytes) = setting("RESULT_LIMIT")? {
        builder = builder.result_limit(bytes);
    }
    if let Some(lease) = millis("LEASE_MS")? {
        builder = builder.lease(lease);
    }
    if let Some(limit) = millis("ATTEMPT_TIMEOUT_MS")? {
        builder = builder.attempt_timeout(limit);
    }
    if let Some(age) = millis("MAX_AGE_MS")? {
        builder = builder.max_age(age);
    }
    if let Some(kept) = millis("RETENTION_MS")? {
        builder = builder.retention(kept, kept);
    }
    let mut retry = Backoff::new();
    if let Some(retries) = setting("MAX_RETRIES")? {
        retry = retry.max_retries(retries);
    }
    if let Some(base) = millis("BACKOFF_BASE_MS")? {
        retry = retry.base(base);
    }
    builder = builder.retry(retry);
    if setting::<String>("FC_STRICT")?.is_some_and(|value| !matches!(value.as_str(), "" | "0" | "false")) {
        builder = builder.fc_strict();
    }
    for destination in list("DESTINATION_SUCCESS", Destination::new)? {
        builder = match destination {
            Destination::Path(path) => builder.on_success(path),
            Destination::Url(url) => builder.on_success(*url),
        };
    }
    for destination in list("DESTINATION_FAILURE", Destination::new)? {
        builder = match destination {
            Destination::Path(path) => builder.on_failure(path),
            Destination::Url(url) => builder.on_failure(*url),
        };
    }
    if let Some(policy) = callback_policy()? {
        builder = builder.callbacks(policy);
    }
    Ok(builder.build()?)
}

enum Destination {
    Path(AppPath),
    Url(Box<Webhook>),
}

impl Destination {
    fn new(place: &str) -> Result<Self, BoxError> {
        let (format, schedule) = (webhook_format()?, webhook_schedule()?);
        if place.starts_with('/') {
            return Ok(Self::Path(AppPath::new(place)?.format(format).schedule(schedule)));
        }
        let webhook = Webhook::new(place)?.format(format).schedule(schedule);
        let webhook = webhook_secrets()?.into_iter().fold(webhook, Webhook::secret);
        Ok(Self::Url(Box::new(webhook)))
    }
}

fn callback_policy() -> Result<Option<CallbackPolicy>, BoxError> {
    let hosts: Vec<String> = list("ALLOW_CALLBACKS", parse)?;
    if hosts.is_empty() {
        return Ok(None);
    }
    let policy = match hosts.iter().any(|host| host == "public") {
        true => CallbackPolicy::public(),
        false => CallbackPolicy::only(),
    };
    let policy = policy.format(webhook_format()?).schedule(webhook_schedule()?);
    let mut policy = webhook_secrets()?.into_iter().fold(policy, CallbackPolicy::secret);
    for host in hosts.iter().filter(|host| *host != "public") {
        policy = policy
            .allow(host)
            .map_err(|error| format!("ALLOW_CALLBACKS: {error}"))?;
    }
    Ok(Some(policy))
}

fn webhook_secrets() -> Result<Vec<Secret>, BoxError> {
    // Does not repeat the value, which may be a secret with a typing error.
    list("WEBHOOK_SECRET", |secret| Ok(secret.parse()?))
}

fn webhook_format() -> Result<PayloadFormat, BoxError> {
    Ok(setting("WEBHOOK_FORMAT")?.unwrap_or_default())
}

fn webhook_schedule() -> Result<Schedule, BoxError> {
    let pauses = list("WEBHOOK_SCHEDULE_MS", |millis| {
        Ok(Duration::from_millis(parse(millis)?))
    })?;
    Ok(match pauses.is_empty() {
        true => Schedule::default(),
        false => Schedule::new(pauses),
    })
}

fn routes(journal: Journal) -> Router {
    Router::new()
        .route("/echo", any(echo))
        .route("/inspect", any(inspect))
        .route("/hello/{name}", any(hello))
        .route("/sleep", post(sleep))
        .route("/flaky", post(flaky))
        .route("/status/{code}", any(status))
        .route("/panic", post(panics))
        .route("/hang", post(hang))
        .route("/abort", post(abort))
        .route("/block", post(block))
        .route("/log", post(log))
        .route("/big", post(big))
        .layer(middleware::from_fn_with_state(journal, keep_journal))
}

/// Answers within the time limit of usual readiness probes.
async fn ready(State(tasks): State<WeakTasks>) -> Response {
    let Some(tasks) = tasks.upgrade() else {
        return (StatusCode::SERVICE_UNAVAILABLE, "the process ends\n").into_response();
    };
    match timeout(Duration::from_secs(2), tasks.check()).await {
        Ok(Ok(())) => "ready\n".into_response(),
        Ok(Err(error)) => (StatusCode::SERVICE_UNAVAILABLE, format!("{error}\n")).into_response(),
        Err(_) => (StatusCode::SERVICE_UNAVAILABLE, "the store does not answer\n").into_response(),
    }
}

async fn echo(headers: HeaderMap, body: Bytes) -> Response {
    let mut response = Response::new(Body::from(body));
    if let Some(kind) = headers.get(CONTENT_TYPE) {
        response.headers_mut().insert(CONTENT_TYPE, kind.clone());
    }
    response
}

async fn inspect(task: TaskContext, method: Method, uri: Uri, headers: HeaderMap, body: Bytes) -> Json<Value> {
    let headers: Vec<_> = headers
        .iter()
        .map(|(name, value)| json!([name.as_str(), STANDARD.encode(value.as_bytes())]))
        .collect();
    Json(json!({
        "method": method.as_str(),
        "uri": uri.to_string(),
        "headers": headers,
        "bodyBase64": STANDARD.encode(&body),
        "taskId": task.task_id(),
        "attempt": task.attempt(),
    }))
}

async fn hello(Path(name): Path<String>) -> String {
    format!("hello {name}")
}

#[derive(Deserialize)]
struct Millis {
    #[serde(default)]
    ms: u64,
}

async fn sleep(task: TaskContext, Query(Millis { ms }): Query<Millis>) -> Response {
    let started = Instant::now();
    let whole = Duration::from_millis(ms);
    for step in 1..=10 {
        // Every step is measured from the start, so that late wake-ups do not add up.
        let until = started + whole / 10 * step;
        tokio::select! {
            () = tokio::time::sleep_until(until.into()) => {}
            () = task.stopped() => {
                let slept = started.elapsed().as_millis() as u64;
                let status = StatusCode::from_u16(499).unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
                return (status, Json(json!({ "error": "stopped", "slept": slept }))).into_response();
            }
        }
        task.progress(step as f32 / 10.0, format!("{step} of 10"));
    }
    Json(json!({ "slept": ms })).into_response()
}

#[derive(Deserialize)]
struct Flaky {
    #[serde(default)]
    fail: u32,
}

async fn flaky(task: TaskContext, Query(Flaky { fail }): Query<Flaky>) -> Response {
    let attempt = task.attempt().max(1);
    if attempt <= fail {
        return (StatusCode::SERVICE_UNAVAILABLE, format!("attempt {attempt} fails\n")).into_response();
    }
    Json(json!({ "attempt": attempt })).into_response()
}

async fn status(Path(code): Path<u16>) -> Response {
    match StatusCode::from_u16(code) {
        Ok(status) if code >= 200 => (status, format!("this is {status}\n")).into_response(),
        _ => (StatusCode::BAD_REQUEST, "no status that can be answered with\n").into_response(),
    }
}

async fn panics() -> Response {
    panic!("asked to panic");
}

async fn hang() -> Response {
    std::future::pending().await
}

async fn abort() -> Response {
    std::process::abort();
}

async fn block(Query(Millis { ms }): Query<Millis>) -> Json<Value> {
    std::thread::sleep(Duration::from_millis(ms));
    Json(json!({ "blocked": ms }))
}

#[derive(Deserialize)]
struct Lines {
    #[serde(default)]
    lines: u64,
}

async fn log(task: TaskContext, Query(Lines { lines }): Query<Lines>) -> Json<Value> {
    for line in 1..=lines {
        tracing::info!(line, task = task.task_id(), "a line of the log");
    }
    Json(json!({ "logged": lines }))
}

#[derive(Deserialize)]
struct Size {
    #[serde(default)]
    bytes: usize,
}

async fn big(Query(Size { bytes }): Query<Size>) -> Response {
    const CHUNK: usize = 64 * 1024;
    let chunk = Bytes::from(vec![b'x'; CHUNK]);
    let chunks = (0..bytes.div_ceil(CHUNK)).map(move |at| {
        let length = CHUNK.min(bytes - at * CHUNK);
        Ok::<_, Infallible>(http_body::Frame::data(chunk.slice(..length)))
    });
    let stream = StreamBody::new(futures_util::stream::iter(chunks));
    ([(CONTENT_TYPE, "application/octet-stream")], Body::new(stream)).into_response()
}

/// Writes every start of a task's handler into the journal, before anything else happens.
async fn keep_journal(State(journal): State<Journal>, task: TaskContext, request: Request, next: Next) -> Response {
    if let (Some(file), Some(id)) = (&journal.0, task.task_id()) {
        let line = format!("{id} {} {}\n", task.attempt(), request.uri().path());
        // One write, so that lines of several processes and threads do not mix.
        if let Err(error) = (&**file).write_all(line.as_bytes()) {
            eprintln!("playground: the journal cannot be written: {error}");
            return StatusCode::INTERNAL_SERVER_ERROR.into_response();
        }
    }
    next.run(request).await
}

#[derive(Clone)]
struct Journal(Option<Arc<File>>);

impl Journal {
    fn open() -> Result<Self, BoxError> {
        let Some(path) = setting::<String>("JOURNAL")? else {
            return Ok(Self(None));
        };
        let file = OpenOptions::new().append(true).create(true).open(&path);
        let file = file.map_err(|error| format!("JOURNAL is {path:?}, which cannot be opened: {error}"))?;
        Ok(Self(Some(Arc::new(file))))
    }
}

fn setting<T: FromStr<Err: Display>>(name: &str) -> Result<Option<T>, BoxError> {
    match env::var(name) {
        Ok(text) => match text.parse() {
            Ok(value) => Ok(Some(value)),
            Err(error) => Err(format!("{name} is {text:?}, which cannot be read: {error}").into()),
        },
        Err(env::VarError::NotPresent) => Ok(None),
        Err(error) => Err(format!("{name}: {error}").into()),
    }
}

/// The comma-separated items, trimmed.
fn list<T>(name: &str, read: impl Fn(&str) -> Result<T, BoxError>) -> Result<Vec<T>, BoxError> {
    let text: String = setting(name)?.unwrap_or_default();
    let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
    items
        .map(|item| read(item).map_err(|error| format!("{name}: {error}").into()))
        .collect()
}

fn parse<T: FromStr<Err: Display>>(text: &str) -> Result<T, BoxError> {
    text.parse()
        .map_err(|error| format!("{text:?} cannot be read: {error}").into())
}

fn millis(name: &str) -> Result<Option<Duration>, BoxError> {
    Ok(setting(name)?.map(Duration::from_millis))
}

async fn asked_to_end() {
    let mut terminate = signal::unix::signal(signal::unix::SignalKind::terminate()).expect("SIGTERM can be heard");
    tokio::select! {
        _ = terminate.recv() => {}
        _ = signal::ctrl_c() => {}
    }
}
