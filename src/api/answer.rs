//! The common answers of the API's handlers.

use bytes::Bytes;
use http::{
    HeaderValue, Response, StatusCode,
    header::{CACHE_CONTROL, CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS},
};
use serde::Serialize;

use crate::layer::ResponseBody;

pub(super) const NO_STORE: HeaderValue = HeaderValue::from_static("no-store");
pub(super) const NOSNIFF: HeaderValue = HeaderValue::from_static("nosniff");

/// `Retry-After` for a task that has not ended, in seconds.
pub(super) const RETRY_SECONDS: HeaderValue = HeaderValue::from_static("1");

/// An answer with JSON that is already serialized.
pub(super) fn document(status: StatusCode, json: Bytes) -> Response<ResponseBody> {
    let mut response = Response::new(ResponseBody::from(json));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(CACHE_CONTROL, NO_STORE);
    headers.insert(X_CONTENT_TYPE_OPTIONS, NOSNIFF);
    response
}

/// An answer with `value` as JSON.
pub(super) fn json(status: StatusCode, value: &impl Serialize) -> Response<ResponseBody> {
    let json = serde_json::to_vec(value).expect("maps with names for keys are written to memory");
    document(status, json.into())
}
