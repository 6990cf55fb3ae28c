//! The callback functions: two more paths of the app, to which the end of each transcoding is told.
//!
//! As in the cloud they are called by an asynchronous request, at least once, whatever happens to the app in between. They
//! only say what they heard; a real one would mail a link, or start the next step.

use axum::{Json, Router, routing::post};
use serde::Deserialize;
use serde_json::Value;

/// Where a success is told.
pub(crate) const SUCCESS: &str = "/dest-succ";

/// Where a failure is told.
pub(crate) const FAILURE: &str = "/dest-fail";

/// Of what is told, the part that is shown.
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
