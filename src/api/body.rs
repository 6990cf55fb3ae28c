//! Reads the bodies of changing requests.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, header::CONTENT_TYPE};
use http_body::Body;
use http_body_util::{BodyExt, Limited};
use tokio::time::timeout;

use crate::{
    engine::BodyBuffer,
    error::BoxError,
    layer::{Pace, RequestBody, unread},
    wire::Problem,
};

/// The longest body that is read: an edited request of 2 MiB, the default limit for requests, fits in base64.
const BODY_BYTES: usize = 4 * 1024 * 1024;

/// How long reading a body may take. 4 MiB in this time is about one Mbit/s.
const READ_TIME: Duration = Duration::from_secs(30);

/// Reads a JSON body, without parsing it. Empty if there is no body.
pub(super) async fn read_json(headers: &HeaderMap, body: RequestBody) -> Result<Bytes, Problem> {
    if body.size_hint().lower() > BODY_BYTES as u64 {
        return Err(Problem::entity_too_large(BODY_BYTES));
    }
    let bytes = match timeout(READ_TIME, gathered(body)).await {
        Ok(Ok(bytes)) => bytes,
        Ok(Err(error)) => return Err(unread(&*error)),
        Err(_) => return Err(Problem::request_timeout()),
    };
    match bytes.is_empty() || is_json(headers) {
        true => Ok(bytes),
        false => Err(Problem::unsupported_media_type()),
    }
}

/// The whole body. Yields regularly, so that other tasks run.
async fn gathered(body: RequestBody) -> Result<Bytes, BoxError> {
    let mut body = Limited::new(body, BODY_BYTES);
    let (mut read, mut pace) = (BodyBuffer::default(), Pace::default());
    while let Some(frame) = body.frame().await.transpose()? {
        pace.after(frame.data_ref().map_or(0, Bytes::len)).await?;
        if let Ok(data) = frame.into_data() {
            read.push(data);
        }
    }
    Ok(read.finish())
}

fn is_json(headers: &HeaderMap) -> bool {
    let value = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    value.is_some_and(|value| {
        let essence = value.split(';').next().unwrap_or("").trim();
        essence.eq_ignore_ascii_case("application/json")
    })
}
