//! Headers that only this crate sets. A handler's headers of these names are not handed out.

use http::{HeaderMap, HeaderName, HeaderValue};

use crate::{
    task::{
        CapturedResponse, TaskRecord,
        own::{self, STATUS, TRUNCATED},
    },
    wire::{ApiLinks, OPERATION_LOCATION, is_about_the_connection},
};

/// The progress that the handler reported, between 0 and 1.
pub(crate) const PROGRESS_HEADER: HeaderName = HeaderName::from_static("x-progress");

/// Whether only this crate sets headers of this name on answers.
pub(crate) fn is_own(name: &HeaderName) -> bool {
    own::is_own(name) || [OPERATION_LOCATION, PROGRESS_HEADER].contains(name)
}

/// The headers of a task's response as it is handed out: those of the handler, without those of a connection and
/// without this crate's own, which state facts about the task.
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
