//! Shows a shutdown: new tasks are refused, running tasks may finish, and the others get a stop signal and are handed
//! back.
//!
//! ```text
//! cargo run --example shutdown
//!
//! curl -i -X POST http://127.0.0.1:3000/sleep/3 -H 'Prefer: respond-async'     # ends within the grace
//! curl -i -X POST http://127.0.0.1:3000/sleep/60 -H 'Prefer: respond-async'    # does not
//! ```
//!
//! Then press Ctrl-C, and look at the report. A second Ctrl-C cuts the grace short. `LISTEN=127.0.0.1:0` takes a free
//! port.

use std::{
    env,
    future::{IntoFuture, pending},
    time::Duration,
};

use axum::{Router, extract::Path, http::StatusCode, routing::post};
use tokio::{
    net::TcpListener,
    signal,
    sync::oneshot,
    time::{Instant, sleep, timeout_at},
};
use tower::{Layer, make::Shared};
use tower_respond_async::{BoxError, ConfigError, MemoryStore, RespondAsync, RespondAsyncLayer, TaskContext, Tasks};

/// How long running tasks may go on. Less than the time after which the supervisor kills: 30 s in Kubernetes.
const GRACE: Duration = Duration::from_secs(5);

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let (app, tasks) = app()?;
    let listen = env::var("LISTEN").unwrap_or_else(|_| "127.0.0.1:3000".into());
    let listener = TcpListener::bind(listen).await?;
    println!("listening on http://{}", listener.local_addr()?);

    let (told, end) = oneshot::channel::<()>();
    let server = axum::serve(listener, Shared::new(app)).with_graceful_shutdown(async {
        _ = end.await;
    });
    let mut server = tokio::spawn(server.into_future());

    asked_to_end().await;
    println!("closing: requests under way are answered, new tasks are refused; all that runs has {GRACE:?}");
    let deadline = Instant::now() + GRACE;
    // Close first: this answers all requests that wait for a task, and the server waits for their connections.
    tasks.close();
    _ = told.send(());
    let left = tokio::select! {
        // One deadline for plain requests and tasks: a connection that stays open must not use up the time for handing
        // tasks back.
        served = timeout_at(deadline, &mut server) => {
            if let Ok(served) = served { served?? }
            deadline.saturating_duration_since(Instant::now())
        }
        () = asked_to_end() => Duration::ZERO,
    };

    let report = tokio::select! {
        // Polled in this order: a second Ctrl-C that arrived already finds a shutdown to cut short.
        biased;
        report = tasks.shutdown(left) => report,
        () = asked_to_end() => tasks.shutdown(Duration::ZERO).await,
    };
    println!(
        "after the connections had closed: {} finished, {} handed back, {} blocked their thread",
        report.finished, report.handed_back, report.dropped
    );
    Ok(())
}

pub(crate) fn app() -> Result<(RespondAsync<Router>, Tasks), ConfigError> {
    let layer = RespondAsyncLayer::builder(MemoryStore::new())
        // The time between the stop signal and the drop of a handler, for cleaning up.
        .stop_grace(Duration::from_secs(2))
        .build()?;
    let tasks = layer.tasks();
    Ok((layer.layer(Router::new().route("/sleep/{seconds}", post(nap))), tasks))
}

async fn nap(Path(seconds): Path<u64>, task: TaskContext) -> Result<String, StatusCode> {
    tokio::select! {
        () = sleep(Duration::from_secs(seconds)) => Ok(format!("slept {seconds} s\n")),
        // Handle the signal if there is something to clean up; otherwise it is fine to be dropped. A success would end
        // the task. After anything else the task is handed back, and runs again in another process.
        () = task.stopped() => Err(StatusCode::SERVICE_UNAVAILABLE),
    }
}

async fn asked_to_end() {
    tokio::select! {
        _ = signal::ctrl_c() => {}
        () = terminated() => {}
    }
}

#[cfg(unix)]
async fn terminated() {
    match signal::unix::signal(signal::unix::SignalKind::terminate()) {
        Ok(mut terminate) => _ = terminate.recv().await,
        Err(_) => pending().await,
    }
}

#[cfg(not(unix))]
async fn terminated() {
    pending().await
}
