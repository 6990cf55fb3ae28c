//! A small application in two releases, to run side by side: the second has a route that the first does not have.
//!
//! ```text
//! cargo run -p lab --example release -- 1 postgres://me@localhost/tasks
//! cargo run -p lab --example release -- 2 postgres://me@localhost/tasks
//! ```

use std::{env, time::Duration};

use axum::{Router, routing::post};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    time::sleep,
};
use tower::{Layer, make::Shared};
use tower_respond_async::{BoxError, RespondAsyncLayer, TaskApi, allow_everyone};
use tower_respond_async_postgres::PostgresStore;

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let mut arguments = env::args().skip(1);
    let (Some(release), Some(url)) = (arguments.next(), arguments.next()) else {
        return Err("which release, and the URL of a database".into());
    };
    // One slot each: a task that one process has no slot for is claimed by the other.
    let layer = RespondAsyncLayer::builder(PostgresStore::connect(&url).await?)
        .version(&release)
        .worker_name(format!("release-{release}"))
        .concurrency(1)
        .build()?;
    let tasks = layer.tasks();
    let mut app = Router::new()
        .nest_service("/tasks", TaskApi::new(&tasks, allow_everyone()))
        .route("/v1", post(async || "one\n"));
    if release != "1" {
        let two = async || {
            sleep(Duration::from_millis(100)).await;
            "two\n"
        };
        app = app.route("/v2", post(two));
    }
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("listening on http://{}", listener.local_addr()?);
    let mut asked_to_end = signal(SignalKind::terminate())?;
    let serving = axum::serve(listener, Shared::new(layer.layer(app)));
    tokio::select! {
        served = serving.into_future() => served?,
        _ = asked_to_end.recv() => {}
    }
    tasks.shutdown(Duration::from_secs(20)).await;
    Ok(())
}
