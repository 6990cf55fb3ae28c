//! Reading the body of a changing request.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, header::CONTENT_TYPE};
use http_body::Body;
use http_body_util::{BodyExt, Limited};
use tokio::time::timeout;

use crate::{
    engine::Gathered,
    error::BoxError,
    layer::{Pace, RequestBody, unread},
    wire::Problem,
};

/// The longest body that is read: an edited request of the 2 MiB that are accepted by default, in base64, fits.
const BODY_BYTES: usize = 4 * 1024 * 1024;

/// How long a body may take: 4 MiB within it is a megabit a second.
const READ_TIME: Duration = Duration::from_secs(30);

/// The JSON that was sent, not parsed; empty if nothing was.
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

/// The whole body, read in turns with everything else.
async fn gathered(body: RequestBody) -> Result<Bytes, BoxError> {
    let mut body = Limited::new(body, BODY_BYTES);
    let (mut read, mut pace) = (Gathered::default(), Pace::default());
    while let Some(frame) = body.frame().await.transpose()? {
        pace.after(&frame).await?;
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
