//! Shows the layer without axum: a function from request to response on plain hyper, with the task API under a path.
//!
//! ```text
//! cargo run --example hyper_app
//!
//! curl -i http://127.0.0.1:3000/reverse -d 'stressed'                               # desserts
//! curl -i http://127.0.0.1:3000/reverse -d 'stressed' -H 'Prefer: respond-async'    # 202
//! curl -i "http://127.0.0.1:3000/tasks/$TASK_ID/result"                             # desserts
//! curl -s http://127.0.0.1:3000/tasks/stats
//! ```
//!
//! Anyone may use its task API, so keep it on loopback. `LISTEN=127.0.0.1:0` takes a free port.

use std::env;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body::Body;
use http_body_util::BodyExt;
use hyper::{body::Incoming, server::conn::http1};
use hyper_util::{rt::TokioIo, service::TowerToHyperService};
use tokio::net::TcpListener;
use tower::{Layer, Service, ServiceExt, service_fn};
use tower_http::map_request_body::MapRequestBodyLayer;
use tower_respond_async::{
    BoxError, ConfigError, MemoryStore, RequestBody, RespondAsyncLayer, ResponseBody, TaskApi, allow_everyone,
};

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    // Build it once, before the loop: one engine runs the tasks of one service. Connections get clones.
    let app = app::<Incoming>()?;
    let listen = env::var("LISTEN").unwrap_or_else(|_| "127.0.0.1:3000".into());
    let listener = TcpListener::bind(listen).await?;
    println!("listening on http://{}", listener.local_addr()?);
    loop {
        let (stream, _) = listener.accept().await?;
        let app = TowerToHyperService::new(app.clone());
        tokio::spawn(async move {
            let served = http1::Builder::new().serve_connection(TokioIo::new(stream), app);
            if let Err(error) = served.await {
                eprintln!("a connection failed: {error}");
            }
        });
    }
}

/// The layer stores whole requests and runs them later, so the inner function takes a [`RequestBody`] and not a
/// server's body. The layer turns a server's body and a stored body into one.
pub(crate) fn app<B>() -> Result<
    impl Service<Request<B>, Response = Response<ResponseBody>, Error = BoxError, Future: Send> + Clone + Send + 'static,
    ConfigError,
>
where
    B: Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
{
    let layer = RespondAsyncLayer::new(MemoryStore::new())?;
    let api = TaskApi::new(&layer.tasks(), allow_everyone()).strip_prefix("/tasks");
    let routes = service_fn(move |request| route(request, api.clone()));
    Ok(MapRequestBodyLayer::new(RequestBody::live).layer(layer.layer(routes)))
}

async fn route(request: Request<RequestBody>, api: TaskApi) -> Result<Response<ResponseBody>, BoxError> {
    match (request.method(), request.uri().path()) {
        (&Method::POST, "/reverse") => reverse(request).await,
        // Whole segments only: `/tasks-of-mine` is not one of its paths.
        (_, path) if path == "/tasks" || path.starts_with("/tasks/") => Ok(api.oneshot(request).await?),
        _ => Ok(answer(StatusCode::NOT_FOUND, "there is nothing here\n".into())),
    }
}

async fn reverse(request: Request<RequestBody>) -> Result<Response<ResponseBody>, BoxError> {
    let body = request.into_body().collect().await?.to_bytes();
    let Ok(text) = std::str::from_utf8(&body) else {
        return Ok(answer(StatusCode::BAD_REQUEST, "that is no text\n".into()));
    };
    Ok(answer(StatusCode::OK, text.chars().rev().collect()))
}

fn answer(status: StatusCode, text: String) -> Response<ResponseBody> {
    let mut response = Response::new(ResponseBody::from(Bytes::from(text)));
    *response.status_mut() = status;
    response
}
