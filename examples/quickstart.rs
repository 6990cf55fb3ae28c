//! Shows the minimum: a slow handler, and callers that need not wait for it.
//!
//! ```text
//! cargo run --example quickstart
//!
//! curl -i -X POST http://127.0.0.1:3000/count/3                                     # waits three seconds
//! curl -i -X POST http://127.0.0.1:3000/count/3 -H 'X-Fc-Invocation-Type: Async'    # 202 at once
//! curl -i -X POST http://127.0.0.1:3000/count/3 -H 'Prefer: respond-async, wait=1'  # 202 after a second
//! curl -s http://127.0.0.1:3000/tasks                                               # what became of them
//! curl -i "http://127.0.0.1:3000/tasks/$TASK_ID/result"                             # a handler's own answer
//! ```
//!
//! Anyone may use its task API, so keep it on loopback. `LISTEN=127.0.0.1:0` takes a free port.

use std::{env, time::Duration};

use axum::{Router, extract::Path, routing::post};
use tokio::{net::TcpListener, time::sleep};
use tower::{Layer, make::Shared};
use tower_respond_async::{
    BoxError, ConfigError, MemoryStore, RespondAsync, RespondAsyncLayer, TaskApi, TaskContext, allow_everyone,
};

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let app = app()?;
    let listen = env::var("LISTEN").unwrap_or_else(|_| "127.0.0.1:3000".into());
    let listener = TcpListener::bind(listen).await?;
    println!("listening on http://{}", listener.local_addr()?);
    axum::serve(listener, Shared::new(app)).await?;
    Ok(())
}

pub(crate) fn app() -> Result<RespondAsync<Router>, ConfigError> {
    let layer = RespondAsyncLayer::new(MemoryStore::new())?;
    let app = Router::new()
        .route("/count/{seconds}", post(count))
        .nest_service("/tasks", TaskApi::new(&layer.tasks(), allow_everyone()));
    Ok(layer.layer(app))
}

/// An ordinary handler. It takes a `TaskContext` only to report its progress.
async fn count(Path(seconds): Path<u32>, task: TaskContext) -> String {
    for second in 1..=seconds {
        sleep(Duration::from_secs(1)).await;
        task.progress(second as f32 / seconds as f32, format!("{second} of {seconds}"));
    }
    format!("counted to {seconds}\n")
}
