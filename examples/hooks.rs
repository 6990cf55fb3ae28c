//! Shows how to react to the end of a task: a closure for success, an async function that may fail for failure, and a
//! channel for everything.
//!
//! ```text
//! cargo run --example hooks
//!
//! curl -i http://127.0.0.1:3000/square -d 12 -H 'Prefer: respond-async'        # success
//! curl -i http://127.0.0.1:3000/square -d twelve -H 'Prefer: respond-async'    # failure
//! ```
//!
//! Then look at what it prints. `LISTEN=127.0.0.1:0` takes a free port.

use std::{env, fs::OpenOptions, io::Write, path::PathBuf, sync::Arc};

use axum::{Router, http::StatusCode, routing::post};
use tokio::{net::TcpListener, sync::mpsc, task::spawn_blocking};
use tower::{Layer, make::Shared};
use tower_respond_async::{BoxError, Completion, ConfigError, MemoryStore, RespondAsync, RespondAsyncLayer};

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let failures = env::temp_dir().join("failed-tasks.log");
    println!("failures are written to {}", failures.display());
    let (app, mut ended) = app(failures)?;
    tokio::spawn(async move {
        while let Some(completion) = ended.recv().await {
            println!("channel: {} {}", completion.uri(), completion.state);
        }
    });

    let listen = env::var("LISTEN").unwrap_or_else(|_| "127.0.0.1:3000".into());
    let listener = TcpListener::bind(listen).await?;
    println!("listening on http://{}", listener.local_addr()?);
    axum::serve(listener, Shared::new(app)).await?;
    Ok(())
}

pub(crate) fn app(failures: PathBuf) -> Result<(RespondAsync<Router>, mpsc::Receiver<Completion>), ConfigError> {
    let (tell, ended) = mpsc::channel(100);
    let failures = Arc::new(failures);
    let layer = RespondAsyncLayer::builder(MemoryStore::new())
        .on_success(|completion: Completion| {
            let body = completion.response.map(|response| response.body.clone());
            println!("success: {}", String::from_utf8_lossy(&body.unwrap_or_default()));
        })
        .on_failure(move |completion: Completion| note_failure(failures.clone(), completion))
        .on_completion(tell)
        .build()?;
    Ok((layer.layer(Router::new().route("/square", post(square))), ended))
}

/// An error of a hook does not change the task. The hook is called again later, each time after a longer pause.
async fn note_failure(file: Arc<PathBuf>, completion: Completion) -> Result<(), BoxError> {
    let error = completion.error.as_deref().unwrap_or("no reason was given");
    // With the webhook id, which is the same in every call for one end.
    let line = format!("{} {} {error}\n", completion.webhook_id, completion.task_id());
    print!("failure: {line}");
    spawn_blocking(move || {
        let mut file = OpenOptions::new().append(true).create(true).open(&*file)?;
        file.write_all(line.as_bytes())
    })
    .await??;
    Ok(())
}

async fn square(number: String) -> Result<String, (StatusCode, String)> {
    let number: i32 = match number.trim().parse() {
        Ok(number) => number,
        Err(error) => return Err((StatusCode::BAD_REQUEST, format!("{number:?}: {error}\n"))),
    };
    Ok(format!("{}\n", i64::from(number).pow(2)))
}
