//! The handler: an ordinary one. Nothing here depends on whether it runs long after its caller got an answer.

use axum::{
    Json, Router,
    extract::{DefaultBodyLimit, FromRequestParts, State, rejection::JsonRejection},
    routing::post,
};

use crate::{
    error::Error,
    job::Job,
    request::{Order, TranscodeRequest},
    transcoder::{Product, Transcoder},
};

/// `POST /` for `transcoder`. `J` is extracted from each request, to report progress to and to be stopped by.
pub fn app<J>(transcoder: Transcoder) -> Router
where
    J: Job + FromRequestParts<Transcoder>,
{
    Router::new()
        .route("/", post(transcode::<J>).fallback(async || Error::MethodNotAllowed))
        .fallback(async || Error::NoSuchPath)
        .layer(DefaultBodyLimit::max(LARGEST_BODY))
        .with_state(transcoder)
}

async fn transcode<J: Job>(
    State(transcoder): State<Transcoder>,
    job: J,
    body: Result<Json<TranscodeRequest>, JsonRejection>,
) -> Result<Json<Product>, Error> {
    let Json(request) = body?;
    let order = Order::try_from(request)?;
    transcoder.run(&order, &job).await.map(Json)
}

impl From<JsonRejection> for Error {
    fn from(rejection: JsonRejection) -> Self {
        Self::InvalidBody {
            // axum answers 422 for a missing field; here it is as bad as an empty one, which is 400.
            status: match &rejection {
                JsonRejection::JsonDataError(_) => axum::http::StatusCode::BAD_REQUEST,
                other => other.status(),
            },
            message: rejection.body_text().chars().take(LONGEST_MESSAGE).collect(),
        }
    }
}

/// Four names of a kilobyte each fit several times.
const LARGEST_BODY: usize = 64 << 10;
/// The message quotes the caller's own JSON.
const LONGEST_MESSAGE: usize = 400;
