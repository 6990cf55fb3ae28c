//! The callback functions: two more paths of the app, which are called at the end of each transcoding.
//!
//! As in the cloud, an asynchronous request calls them at least once, whatever happens to the app in between. They only
//! print the message; a real one would mail a link, or start the next step.

use axum::{Json, Router, routing::post};
use serde::Deserialize;
use serde_json::Value;

/// The path that is called after a success.
pub(crate) const SUCCESS: &str = "/dest-succ";

/// The path that is called after a failure.
pub(crate) const FAILURE: &str = "/dest-fail";

/// The parts of the message that are printed.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Told {
    request_context: RequestContext,
    #[serde(default)]
    response_payload: Value,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RequestContext {
    request_id: String,
    /// Why it failed.
    #[serde(default)]
    condition: String,
}

pub(crate) fn callbacks() -> Router {
    Router::new()
        .route(SUCCESS, post(succeeded))
        .route(FAILURE, post(failed))
}

async fn succeeded(Json(told): Json<Told>) {
    let id = told.request_context.request_id;
    println!("dest-succ: {id} succeeded: {}", told.response_payload);
}

async fn failed(Json(told): Json<Told>) {
    let RequestContext { request_id, condition } = told.request_context;
    println!("dest-fail: {request_id} failed: {condition}: {}", told.response_payload);
}
