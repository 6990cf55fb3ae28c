//! Headers by which this crate says something, and nobody else: a handler that sets one is not believed.

use http::{HeaderMap, HeaderName, HeaderValue};

use crate::{
    task::{CapturedResponse, TaskRecord},
    wire::{
        ApiLinks, HopByHop, OPERATION_LOCATION, STATUS_HEADER, TRUNCATED_HEADER, X_FC_ASYNC_TASK_ID, X_FC_REQUEST_ID,
    },
};

/// How far the handler says it is, between 0 and 1.
pub(crate) const PROGRESS_HEADER: HeaderName = HeaderName::from_static("x-progress");

/// Whether a header of this name is the crate's own.
pub(crate) fn is_own(name: &HeaderName) -> bool {
    name.as_str().starts_with("x-respond-async-")
        || [X_FC_REQUEST_ID, X_FC_ASYNC_TASK_ID, OPERATION_LOCATION, PROGRESS_HEADER].contains(name)
}

/// The headers of a task's response as it is handed out: the handler's, but for what names a connection and for our own, which
/// say what is true of the task.
pub(crate) fn handed_out(response: &CapturedResponse, task: &TaskRecord) -> HeaderMap {
    let hop = HopByHop::of(&response.headers);
    let mut headers = HeaderMap::with_capacity(response.headers.len() + 8);
    let kept = |name: &HeaderName| !hop.contains(name) && !is_own(name);
    for (name, value) in response.headers.iter().filter(|(name, _)| kept(name)) {
        headers.append(name, value.clone());
    }
    let _ = ApiLinks::none().put_on_with_ids(&mut headers, task, Vec::new());
    headers.insert(STATUS_HEADER, HeaderValue::from_static(task.state.as_str()));
    if response.truncated {
        headers.insert(TRUNCATED_HEADER, HeaderValue::from_static("true"));
    }
    headers
}
