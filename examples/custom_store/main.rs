//! Shows a durable store of your own: [the whole of it](store), in one file.
//!
//! ```text
//! cargo run --example custom_store        # keeps its tasks in ./tasks.kv; TASKS=FILE elsewhere
//!
//! curl -i -X POST http://127.0.0.1:3000/shout -d 'hello' -H 'Prefer: respond-async'
//! curl -s http://127.0.0.1:3000/tasks
//! ```
//!
//! It keeps every promise of the contract: `tests/it/custom_store.rs` runs the conformance suite on it, as you should
//! on yours. Anyone may use its task API, so keep it on loopback. `LISTEN=127.0.0.1:0` takes a free port.

pub(crate) mod store;

use std::{env, path::Path};

use axum::{Router, routing::post};
use tokio::net::TcpListener;
use tower::{Layer, make::Shared};
use tower_respond_async::{
    BoxError, ConfigError, RespondAsync, RespondAsyncLayer, TaskApi, allow_everyone, time::SystemClock,
};

use self::store::KvStore;

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let file = env::var("TASKS").unwrap_or_else(|_| "tasks.kv".into());
    let app = app(KvStore::open(Path::new(&file), SystemClock::new())?)?;
    let listener = TcpListener::bind(env::var("LISTEN").unwrap_or_else(|_| "127.0.0.1:3000".into())).await?;
    println!("listening on http://{}", listener.local_addr()?);
    axum::serve(listener, Shared::new(app)).await?;
    Ok(())
}

pub(crate) fn app(store: KvStore) -> Result<RespondAsync<Router>, ConfigError> {
    let layer = RespondAsyncLayer::new(store)?;
    let app = Router::new()
        .route("/shout", post(async |text: String| text.to_uppercase()))
        .nest_service("/tasks", TaskApi::new(&layer.tasks(), allow_everyone()));
    Ok(layer.layer(app))
}
