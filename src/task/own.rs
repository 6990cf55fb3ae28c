//! The only list of the headers that this crate sets.
//!
//! A client's header of such a name is not replayed, and a handler's is not handed out.

use http::HeaderName;

/// The prefix of all of them, except for the two names that the cloud uses.
const PREFIX: &str = "x-respond-async-";

/// The request id, in answers to clients and in replayed requests.
pub(crate) const X_FC_REQUEST_ID: HeaderName = HeaderName::from_static("x-fc-request-id");
/// The task id, in answers to clients. In a client's request, it is the name for the task.
pub(crate) const X_FC_ASYNC_TASK_ID: HeaderName = HeaderName::from_static("x-fc-async-task-id");

/// How many async requests led to this one: in replayed requests, and in requests that a handler sends on.
pub(crate) const DEPTH: HeaderName = HeaderName::from_static("x-respond-async-depth");
/// The task id, in replayed requests.
pub(crate) const TASK_ID: HeaderName = HeaderName::from_static("x-respond-async-task-id");
/// The number of the attempt, in replayed requests.
pub(crate) const ATTEMPT: HeaderName = HeaderName::from_static("x-respond-async-attempt");

/// How many headers a replayed request gets beside its own: the three above, the request id and `Content-Length`.
pub(crate) const GIVEN: usize = 5;

/// Marks a 202 for a request that was accepted before.
pub(crate) const DUPLICATE: HeaderName = HeaderName::from_static("x-respond-async-duplicate");
/// The state of a task, on answers about it that are not documents.
pub(crate) const STATUS: HeaderName = HeaderName::from_static("x-respond-async-status");
/// Marks a response that was not kept whole.
pub(crate) const TRUNCATED: HeaderName = HeaderName::from_static("x-respond-async-truncated");
/// How many tasks a bulk change affected.
#[cfg_attr(
    not(feature = "api"),
    expect(dead_code, reason = "only the task API changes many at once")
)]
pub(crate) const COUNT: HeaderName = HeaderName::from_static("x-respond-async-count");

/// Whether only this crate sets headers of this name.
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
