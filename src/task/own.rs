//! The names of headers that this crate sets: the one list of them.
//!
//! What a client sends under such a name is not replayed, and what a handler answers under one is not believed.

use http::HeaderName;

/// What all of them begin with but the two that the cloud gives a name.
const PREFIX: &str = "x-respond-async-";

/// The request id, for a client and for a handler.
pub(crate) const X_FC_REQUEST_ID: HeaderName = HeaderName::from_static("x-fc-request-id");
/// The task id, for a client. From a client it is the name that the task is to have.
pub(crate) const X_FC_ASYNC_TASK_ID: HeaderName = HeaderName::from_static("x-fc-async-task-id");

/// How many async requests led to this one, for a handler and in what it sends on.
pub(crate) const DEPTH: HeaderName = HeaderName::from_static("x-respond-async-depth");
/// The task id, for a handler.
pub(crate) const TASK_ID: HeaderName = HeaderName::from_static("x-respond-async-task-id");
/// The number of the attempt, for a handler.
pub(crate) const ATTEMPT: HeaderName = HeaderName::from_static("x-respond-async-attempt");

/// How many headers a handler is given beside those of its request: the last three, the request id and a length.
pub(crate) const GIVEN: usize = 5;

/// On a 202 for a request that was accepted before.
pub(crate) const DUPLICATE: HeaderName = HeaderName::from_static("x-respond-async-duplicate");
/// The state of a task, on answers about it that are no document.
pub(crate) const STATUS: HeaderName = HeaderName::from_static("x-respond-async-status");
/// On a response of which not all was kept.
pub(crate) const TRUNCATED: HeaderName = HeaderName::from_static("x-respond-async-truncated");
/// How many tasks a change of many was about.
#[cfg_attr(
    not(feature = "api"),
    expect(dead_code, reason = "only the task API changes many at once")
)]
pub(crate) const COUNT: HeaderName = HeaderName::from_static("x-respond-async-count");

/// Whether a header of this name is this crate's to set.
pub(crate) fn is_own(name: &HeaderName) -> bool {
    name.as_str().starts_with(PREFIX) || *name == X_FC_REQUEST_ID || *name == X_FC_ASYNC_TASK_ID
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_of_the_list_is_an_own_one() {
        for name in [
            X_FC_REQUEST_ID,
            X_FC_ASYNC_TASK_ID,
            DEPTH,
            TASK_ID,
            ATTEMPT,
            DUPLICATE,
            STATUS,
            TRUNCATED,
            COUNT,
        ] {
            assert!(is_own(&name), "{name}");
        }
        for name in ["x-respondent", "x-fc-region", "x-request-id"] {
            assert!(!is_own(&HeaderName::from_static(name)), "{name}");
        }
    }
}
