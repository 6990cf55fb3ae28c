//! A web application with a slow endpoint that can be called asynchronously. Copy this folder to begin with.

use std::{env, time::Duration};

use axum::{Router, extract::Path, routing::post};
use tokio::{net::TcpListener, signal::unix, time::sleep};
use tower::{Layer, make::Shared};
use tower_respond_async::{
    BearerToken, BoxError, Console, RespondAsyncLayer, TaskApi, TaskContext, allow_everyone, hook::webhook::Webhook,
};
use tower_respond_async_redb::RedbStore;

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    // Accepted tasks are in this file, and survive the end of the process and a power cut.
    let store = RedbStore::open(setting("TASKS_FILE", "tasks.redb")).await?;
    let mut builder = RespondAsyncLayer::builder(store).api_base("/tasks");
    if let (Ok(url), Ok(secret)) = (env::var("WEBHOOK_URL"), env::var("WEBHOOK_SECRET")) {
        builder = builder.on_completion(Webhook::new(&url)?.secret(secret.parse()?));
    }
    let layer = builder.build()?;
    let tasks = layer.tasks();
    let api = match env::var("API_TOKEN") {
        Ok(token) => TaskApi::new(&tasks, BearerToken::new(token)),
        // Only behind a private address.
        Err(_) => TaskApi::new(&tasks, allow_everyone()),
    };
    let app = Router::new()
        .route("/report/{month}", post(report))
        .nest_service("/tasks", api)
        .nest_service("/console", Console::new(&tasks));

    let listener = TcpListener::bind(setting("LISTEN", "127.0.0.1:3000")).await?;
    println!("listening on http://{}", listener.local_addr()?);
    let closing = tasks.clone();
    axum::serve(listener, Shared::new(layer.layer(app)))
        .with_graceful_shutdown(async move {
            asked_to_end().await;
            closing.close();
        })
        .await?;
    // Tasks that do not end by then are handed back, and run again after the next start.
    let ended = tasks.shutdown(Duration::from_secs(20)).await;
    println!(
        "{} tasks have ended, {} are handed back",
        ended.finished, ended.handed_back
    );
    Ok(())
}

/// An ordinary handler: it runs the same whether its caller waits or not.
async fn report(Path(month): Path<String>, task: TaskContext) -> String {
    for step in 1..=10 {
        sleep(Duration::from_secs(1)).await;
        task.progress(step as f32 / 10.0, format!("page {step} of 10"));
    }
    format!("the report of {month}\n")
}

fn setting(name: &str, default: &str) -> String {
    env::var(name).unwrap_or_else(|_| default.into())
}

/// Waits for Ctrl-C, or SIGTERM from a supervisor.
async fn asked_to_end() {
    let terminated = unix::signal(unix::SignalKind::terminate());
    let mut terminated = terminated.expect("a process can be told to end");
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        _ = terminated.recv() => {}
    }
}
