//! Shows signed webhooks from both sides: an application that sends a message for each end of a task, and a receiver
//! that verifies messages, and acts once on a message that arrives twice.
//!
//! ```text
//! cargo run --example callbacks --features webhook
//!
//! curl -i http://127.0.0.1:3000/square -d 12 -H 'X-Fc-Invocation-Type: Async'        # delivered to /dest-succ
//! curl -i http://127.0.0.1:3000/square -d twelve -H 'X-Fc-Invocation-Type: Async'    # delivered to /dest-fail
//! curl -i http://127.0.0.1:3000/square -d 5 \
//!     -H 'Prefer: respond-async, callback; url="http://127.0.0.1:3001/mine"'         # and to a URL of the client's own
//! curl -i http://127.0.0.1:3001/dest-succ -d forged                                  # 401
//! ```
//!
//! Then look at what the receiver prints, and at `http://127.0.0.1:3000/tasks/{id}/callbacks`. `LISTEN` and
//! `RECEIVER_LISTEN` set the addresses; port 0 takes a free one.

use std::{
    collections::HashSet,
    env,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
};

use axum::{
    Router,
    body::Bytes,
    extract::{Path, State},
    http::{HeaderMap, StatusCode},
    routing::post,
};
use tokio::{net::TcpListener, sync::mpsc};
use tower::{Layer, make::Shared};
use tower_respond_async::{
    BoxError, MemoryStore, RespondAsync, RespondAsyncLayer, TaskApi, allow_everyone,
    hook::webhook::{CallbackPolicy, Secret, Webhook, verify},
};

/// Load yours from where you keep secrets. `echo "whsec_$(openssl rand -base64 32)"` makes one.
const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let listener = TcpListener::bind(setting("RECEIVER_LISTEN", "127.0.0.1:3001")).await?;
    let receiver_address = listener.local_addr()?;
    let (believed, mut messages) = mpsc::channel(100);
    let receiver = receiver(SECRET.parse()?, believed);
    tokio::spawn(async move { axum::serve(listener, receiver).await });
    tokio::spawn(async move {
        while let Some(Message { place, id, body }) = messages.recv().await {
            println!("/{place} was told, as {id}:\n{}", String::from_utf8_lossy(&body));
        }
    });
    println!("receiving on http://{receiver_address}");

    let app = app(receiver_address, SECRET.parse()?)?;
    let listener = TcpListener::bind(setting("LISTEN", "127.0.0.1:3000")).await?;
    println!("listening on http://{}", listener.local_addr()?);
    axum::serve(listener, Shared::new(app)).await?;
    Ok(())
}

/// The sender: one destination for success, another for failure. A client may name a third.
pub(crate) fn app(receiver: SocketAddr, secret: Secret) -> Result<RespondAsync<Router>, BoxError> {
    let to = |path: &str| Webhook::new(&format!("http://{receiver}/{path}"));
    let layer = RespondAsyncLayer::builder(MemoryStore::new())
        .on_success(to("dest-succ")?.secret(secret.clone()))
        .on_failure(to("dest-fail")?.secret(secret.clone()))
        // Allows any public host and this machine. Allow this machine only in an example.
        .callbacks(CallbackPolicy::public().allow("127.0.0.1")?.secret(secret))
        .build()?;
    let api = TaskApi::new(&layer.tasks(), allow_everyone());
    let app = Router::new().route("/square", post(square)).nest_service("/tasks", api);
    Ok(layer.layer(app))
}

async fn square(number: String) -> Result<String, (StatusCode, String)> {
    let number: i32 = match number.trim().parse() {
        Ok(number) => number,
        Err(error) => return Err((StatusCode::BAD_REQUEST, format!("{number:?}: {error}\n"))),
    };
    Ok(format!("{}\n", i64::from(number).pow(2)))
}

/// A message that was verified.
#[derive(Debug)]
pub(crate) struct Message {
    /// The path that it was sent to.
    pub(crate) place: String,
    /// The same each time the message is sent again.
    pub(crate) id: String,
    /// The content.
    pub(crate) body: Bytes,
}

#[derive(Clone)]
struct Receiver {
    secret: Secret,
    believed: mpsc::Sender<Message>,
    /// The ids of received messages. Keep yours in the database, in the transaction that acts on the message.
    seen: Arc<Mutex<HashSet<String>>>,
}

pub(crate) fn receiver(secret: Secret, believed: mpsc::Sender<Message>) -> Router {
    Router::new().route("/{place}", post(receive)).with_state(Receiver {
        secret,
        believed,
        seen: Arc::default(),
    })
}

/// Takes the body as bytes: JSON that was parsed and written again is not what was signed.
async fn receive(
    State(receiver): State<Receiver>,
    Path(place): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<StatusCode, (StatusCode, String)> {
    let id = verify(&headers, &body, &[receiver.secret])
        .map_err(|error| (StatusCode::UNAUTHORIZED, format!("{error}\n")))?;
    let new = receiver
        .seen
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .insert(id.to_owned());
    if new {
        let message = Message {
            place,
            id: id.to_owned(),
            body,
        };
        // After an answer other than 2xx the message is sent again.
        let gone = |_| (StatusCode::SERVICE_UNAVAILABLE, "nobody reads it\n".to_owned());
        receiver.believed.send(message).await.map_err(gone)?;
    }
    Ok(StatusCode::NO_CONTENT)
}

fn setting(name: &str, default: &str) -> String {
    env::var(name).unwrap_or_else(|_| default.to_owned())
}
