//! Headers by which this crate says something, and nobody else: a handler that sets one is not believed.

use http::{HeaderMap, HeaderName, HeaderValue};

use crate::{
    task::{
        CapturedResponse, TaskRecord,
        own::{self, STATUS, TRUNCATED},
    },
    wire::{ApiLinks, OPERATION_LOCATION, is_about_the_connection},
};

/// How far the handler says it is, between 0 and 1.
pub(crate) const PROGRESS_HEADER: HeaderName = HeaderName::from_static("x-progress");

/// Whether a header of this name on an answer is the crate's own.
pub(crate) fn is_own(name: &HeaderName) -> bool {
    own::is_own(name) || [OPERATION_LOCATION, PROGRESS_HEADER].contains(name)
}

/// The headers of a task's response as it is handed out: the handler's, but for what names a connection and for our own, which
/// say what is true of the task.
pub(crate) fn handed_out(response: &CapturedResponse, task: &TaskRecord) -> HeaderMap {
    let mut headers = HeaderMap::with_capacity(response.headers.len() + 8);
    let kept = |name: &HeaderName| !is_about_the_connection(name) && !is_own(name);
    for (name, value) in response.headers.iter().filter(|(name, _)| kept(name)) {
        headers.append(name, value.clone());
    }
    let _ = ApiLinks::none().put_on_with_ids(&mut headers, task, Vec::new());
    headers.insert(STATUS, HeaderValue::from_static(task.state.as_str()));
    if response.truncated {
        headers.insert(TRUNCATED, HeaderValue::from_static("true"));
    }
    headers
}
