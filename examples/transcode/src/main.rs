//! The app: a handler that takes minutes, the layer that answers before it ends, and the API that shows its progress.
//! `demo.sh` does all of this by itself. By hand:
//!
//! ```text
//! mkdir -p buckets/my-bucket && cp some-video.mp4 buckets/my-bucket/480P.mp4
//! cargo run -p transcode
//!
//! # answered at once: 202, and where to look
//! curl -v -H "X-Fc-Invocation-Type: Async" -H "Content-Type: application/json" \
//!   -d '{"bucket":"my-bucket","object":"480P.mp4","output_dir":"a","dst_format":"mov"}' -X POST http://127.0.0.1:3000/
//!
//! curl http://127.0.0.1:3000/tasks/{id}              # state, progress, history
//! curl -X POST http://127.0.0.1:3000/tasks/{id}/stop # ffmpeg is killed, nothing is written
//! curl http://127.0.0.1:3000/tasks/{id}/result       # the handler's own answer, once there is one
//!
//! # it prints the completion that its callback `/dest-succ` or `/dest-fail` receives
//! curl http://127.0.0.1:3000/tasks/{id}/callbacks
//!
//! # `kill -9` the app while a task runs, and start it again: the task is run again, and ends
//!
//! # the same without the header: the caller waits, and hanging up is the stop button
//! curl -H "Content-Type: application/json" \
//!   -d '{"bucket":"my-bucket","object":"480P.mp4","output_dir":"a","dst_format":"mov"}' http://127.0.0.1:3000/
//! ```
//!
//! `settings.rs` lists the environment variables.
#![forbid(unsafe_code)]

mod callbacks;

use std::{error::Error, process::ExitCode, time::Duration};

use axum::Router;
use futures_util::FutureExt;
use tokio::{
    net::TcpListener,
    time::{Instant, sleep_until},
};
use tower::{Layer, make::Shared};
use tower_respond_async::{
    BearerToken, MemoryStore, RespondAsyncLayer, TaskApi, TaskContext, Tasks, allow_everyone, hook::AppPath,
};
use tower_respond_async_postgres::PostgresStore;
use tower_respond_async_redb::RedbStore;
use transcode::{Settings, Store, Transcoder, Workspace, app};

#[tokio::main]
async fn main() -> ExitCode {
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("transcode: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Result<(), Box<dyn Error + Send + Sync>> {
    let mut settings = Settings::read(|name| std::env::var(name).ok())?;
    prepare(&mut settings.transcoder).await?;

    // Accepted tasks that have not ended go on as soon as `layer` is called below: waiting tasks, and tasks that ran
    // when the previous process was killed.
    let layer = match &settings.store {
        Store::File(path) => RespondAsyncLayer::builder(RedbStore::open(path).await?),
        Store::Database(url) => RespondAsyncLayer::builder(PostgresStore::connect(url.as_str()).await?),
        Store::Memory => RespondAsyncLayer::builder(MemoryStore::new()),
    };
    let layer = layer
        .api_base(TASKS)
        .concurrency(settings.concurrency)
        .function_name(|head| match head.uri.path() {
            "/" => Some("transcode".to_owned()),
            path => Some(path.trim_matches('/').to_owned()),
        })
        .on_success(AppPath::new(callbacks::SUCCESS)?)
        .on_failure(AppPath::new(callbacks::FAILURE)?)
        .build()?;
    let tasks = layer.tasks();
    let app = app::<TaskContext>(settings.transcoder).merge(callbacks::callbacks());
    let app = layer.layer(with_task_api(app, &tasks, settings.token));

    let listener = TcpListener::bind(settings.listen).await?;
    println!("listening on http://{}", listener.local_addr()?);

    // One deadline for everything that is under way when a shutdown begins: plain requests and tasks alike.
    let grace = settings.shutdown;
    let ending = async move {
        shutdown_signal().await;
        Instant::now() + grace
    };
    let ending = ending.shared();
    let (told, closing) = (ending.clone(), tasks.clone());
    let serving = axum::serve(listener, Shared::new(app)).with_graceful_shutdown(async move {
        told.await;
        closing.close();
    });
    // A second signal: wait no longer, neither for plain requests nor for tasks.
    let cut_short = tokio::select! {
        served = serving.into_future() => served.map(|()| false)?,
        () = ending.clone().then(sleep_until) => false,
        () = ending.clone().then(|_| shutdown_signal()) => true,
    };
    let left = match cut_short {
        false => ending.await.saturating_duration_since(Instant::now()),
        true => Duration::ZERO,
    };
    let report = tokio::select! {
        report = tasks.shutdown(left) => report,
        () = shutdown_signal() => tasks.shutdown(Duration::ZERO).await,
    };
    println!("ended: {report:?}");
    Ok(())
}

/// Without a token, everyone on this machine may see and stop tasks. `Settings` requires the token to listen on an
/// address that is reachable from elsewhere.
fn with_task_api(app: Router, tasks: &Tasks, token: Option<String>) -> Router {
    match token {
        Some(token) => app.nest_service(TASKS, TaskApi::new(tasks, BearerToken::new(token))),
        None => app.nest_service(TASKS, TaskApi::new(tasks, allow_everyone())),
    }
}

/// Removes what a killed app left, and checks the programs. The app starts without them too: it then answers each
/// caller with what is missing.
async fn prepare(transcoder: &mut Transcoder) -> Result<(), Box<dyn Error + Send + Sync>> {
    let unusable = |error| format!("WORK_DIR: no directory can be made in it: {error}");
    let left = Workspace::remove_left_behind(&transcoder.work_dir).map_err(unusable)?;
    if left > 0 {
        eprintln!("working directories removed whose app was killed: {left}");
    }
    let workspace = Workspace::create(&transcoder.work_dir).map_err(unusable)?;
    if !transcoder.ffmpeg.can_be_tethered(&workspace).await {
        transcoder.ffmpeg.setpriv = None;
        eprintln!("warning: no setpriv of util-linux here: if this app is killed, an ffmpeg of it runs on to its end");
    }
    if let Err(missing) = transcoder.ffmpeg.check(&workspace).await {
        eprintln!("warning: {missing}");
    }
    Ok(())
}

/// Waits for Ctrl-C in a terminal, or SIGTERM from a service manager.
async fn shutdown_signal() {
    #[cfg(unix)]
    let terminated = async {
        match tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()) {
            Ok(mut signal) => signal.recv().await,
            Err(_) => std::future::pending().await,
        }
    };
    #[cfg(not(unix))]
    let terminated = std::future::pending::<Option<()>>();
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        _ = terminated => {}
    }
}

const TASKS: &str = "/tasks";
