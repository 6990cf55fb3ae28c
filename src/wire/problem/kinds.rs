//! All refusals: their status, code and text.

use std::borrow::Cow;

use http::{HeaderValue, StatusCode, header};

use super::{DETAIL_BYTES, Problem};
use crate::{
    store::{StoreError, StoreErrorKind},
    task::{TaskState, lifecycle::UNDELIVERED, own::STATUS as STATUS_HEADER, record::cut},
};

/// `Retry-After` of refusals for lack of room, in seconds: about the time in which a short queue moves.
const ROOM: u32 = 1;

/// `Retry-After` of refusals because something is down, in seconds: about the time of a restart.
const DOWN: u32 = 5;

impl Problem {
    /// 400: an option, parameter or document is not valid.
    pub(crate) fn invalid_argument(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(
            StatusCode::BAD_REQUEST,
            "InvalidArgument",
            "An argument is not valid",
            detail,
        )
    }

    /// 400: the callback URL is not one that is called. The text is the same whatever is at the address.
    pub(crate) fn callback_refused() -> Self {
        Self::invalid_argument(
            "The callback URL is not one that this server calls. It must be the https URL of a public host that the server's \
             operator allows, on port 443, without user, password and fragment, of at most 2,048 characters.",
        )
    }

    /// 401: the caller is not authenticated.
    pub(crate) fn unauthorized(challenge: HeaderValue) -> Self {
        Self::new(
            StatusCode::UNAUTHORIZED,
            "Unauthorized",
            "Credentials are needed",
            "The request carries no credentials that are accepted here; send them in the Authorization header.",
        )
        .with_header(header::WWW_AUTHENTICATE, challenge)
    }

    /// 403: the caller may not do this.
    pub(crate) fn forbidden(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::FORBIDDEN, "Forbidden", "This is not permitted", detail)
    }

    /// 421: the request was sent to a host whose name a stranger could point to this server.
    pub(crate) fn misdirected(host: &str) -> Self {
        Self::new(
            StatusCode::MISDIRECTED_REQUEST,
            "MisdirectedRequest",
            "This is not a host of this server's",
            format!(
                "This task API needs no credentials, so it answers only at hosts that it knows, and {} is not one of them. \
                 The operator of the server can name the host with .hosts([...]) on the layer's builder, or use an \
                 authorizer that needs credentials instead of allow_everyone().",
                Self::quoted(host)
            ),
        )
    }

    /// 404: the task does not exist, or not for this caller.
    pub(crate) fn task_not_found() -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            "TaskNotFound",
            "There is no such task",
            "No task of this id is kept; it never was, or it ended long enough ago to be removed.",
        )
    }

    /// 404: the task has no such delivery.
    pub(crate) fn callback_not_found() -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            "CallbackNotFound",
            "There is no such callback",
            "The task has no callback of this number; those it has are listed under its /callbacks.",
        )
    }

    /// 404: the task has no response, or none yet.
    pub(crate) fn response_not_found() -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            "ResponseNotFound",
            "There is no response",
            "The task has not ended with a response.",
        )
    }

    /// 404: nothing is served at this path.
    pub(crate) fn not_found() -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            "NotFound",
            "There is nothing here",
            "The task API serves nothing at this path.",
        )
    }

    /// 405: the path does not support this method.
    pub(crate) fn method_not_allowed(allow: HeaderValue) -> Self {
        Self::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "MethodNotAllowed",
            "The method is not allowed here",
            "This path is not served to this method; the Allow header names those it is served to.",
        )
        .with_header(header::ALLOW, allow)
    }

    /// 408: the body did not arrive in time.
    pub(crate) fn request_timeout() -> Self {
        Self::new(
            StatusCode::REQUEST_TIMEOUT,
            "RequestTimeout",
            "The body did not arrive in time",
            "The request's body stalled or took too long as a whole, and nothing was stored; send it again.",
        )
    }

    /// 409: the client's id for the task belongs to another task.
    pub(crate) fn task_exists() -> Self {
        Self::new(
            StatusCode::CONFLICT,
            "StatefulAsyncInvocationAlreadyExists",
            "The task id is in use",
            "A task of this id was accepted before; choose another id for another request.",
        )
    }

    /// 409: the task id and the idempotency key belong to two different tasks.
    pub(crate) fn id_and_key_differ() -> Self {
        Self::new(
            StatusCode::CONFLICT,
            "StatefulAsyncInvocationAlreadyExists",
            "The task id and the idempotency key are in use",
            "The task id and the idempotency key belong to two different tasks that were accepted before; send one of them.",
        )
    }

    /// 409: the request was accepted before, with other credentials.
    pub(crate) fn credentials_differ() -> Self {
        Self::new(
            StatusCode::CONFLICT,
            "CredentialsDiffer",
            "The request was sent before, with other credentials",
            "The same request was accepted before under this task id or Idempotency-Key, with credentials that are not known \
             to be these; send it with those, or choose another id or key for a request of your own.",
        )
    }

    /// 409: the name fits the tasks of several tenants.
    pub(crate) fn ambiguous_task() -> Self {
        Self::new(
            StatusCode::CONFLICT,
            "AmbiguousTask",
            "Several tasks have this name",
            "Tasks of several tenants have this name; name the task by its request id.",
        )
    }

    /// 409: the task was changed at the same time.
    pub(crate) fn changed_meanwhile() -> Self {
        Self::new(
            StatusCode::CONFLICT,
            "ChangedMeanwhile",
            "The task was changed meanwhile",
            "Another caller changed the task at the same time. Look at it again, then decide.",
        )
    }

    /// 409: the task's state does not allow it.
    pub(crate) fn wrong_state(state: TaskState, detail: impl Into<Cow<'static, str>>) -> Self {
        let state = HeaderValue::from_static(state.as_str());
        Self::new(
            StatusCode::CONFLICT,
            "WrongTaskState",
            "The task's state does not allow it",
            detail,
        )
        .with_header(STATUS_HEADER, state)
    }

    /// 409: too many completions of earlier generations are pending.
    #[cfg_attr(
        not(feature = "api"),
        expect(dead_code, reason = "only the task API runs tasks again")
    )]
    pub(crate) fn undelivered() -> Self {
        Self::new(
            StatusCode::CONFLICT,
            "CallbacksPending",
            "Callbacks of earlier runs are still to be made",
            format!(
                "More than {UNDELIVERED} completions of the task's runs are still to be delivered; run it again once some of \
                 them are, or are given up. They are listed under its /callbacks."
            ),
        )
    }

    /// 409: the number of tasks that match is not the one that the caller expects.
    #[cfg_attr(
        not(feature = "api"),
        expect(dead_code, reason = "only the task API changes many at once")
    )]
    pub(crate) fn other_count(found: usize) -> Self {
        Self::new(
            StatusCode::CONFLICT,
            "CountDiffers",
            "Another number of tasks matches",
            format!(
                "{found} tasks are named or match; nothing was changed; send that as expectedCount if it is what you mean."
            ),
        )
    }

    /// 410: the task ended without a response.
    pub(crate) fn no_response(state: TaskState, reason: Option<&str>) -> Self {
        let detail = match reason {
            Some(reason) => format!(
                "The task is {state} and has no response: {}",
                cut(reason, DETAIL_BYTES / 2)
            ),
            None => format!("The task is {state} and has no response."),
        };
        let state = HeaderValue::from_static(state.as_str());
        Self::new(
            StatusCode::GONE,
            "TaskHasNoResponse",
            "The task ended without a response",
            detail,
        )
        .with_header(STATUS_HEADER, state)
    }

    /// 410: the request was accepted before, and its task has been removed.
    pub(crate) fn task_gone() -> Self {
        Self::new(
            StatusCode::GONE,
            "TaskGone",
            "The task is gone",
            "The same request was accepted before under this Idempotency-Key, and its task was removed since; it does not run \
             again. Send a new key to run it once more.",
        )
    }

    /// 413: the body is longer than `limit` bytes.
    pub(crate) fn entity_too_large(limit: usize) -> Self {
        Self::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "EntityTooLarge",
            "The body is too large",
            format!("The request's body is longer than the {limit} bytes that are accepted here; nothing was stored."),
        )
    }

    /// 413: a layer outside of this one refused the body as too long.
    pub(crate) fn entity_too_large_outside() -> Self {
        Self::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "EntityTooLarge",
            "The body is too large",
            "The request body is longer than the limit; nothing was stored.",
        )
    }

    /// 414: the target is longer than `limit` bytes.
    pub(crate) fn uri_too_long(limit: usize) -> Self {
        Self::new(
            StatusCode::URI_TOO_LONG,
            "UriTooLong",
            "The URI is too long",
            format!("The request's URI is longer than the {limit} bytes that can be kept; nothing was stored."),
        )
    }

    /// 415: the body is of a media type that is not supported here.
    pub(crate) fn unsupported_media_type() -> Self {
        Self::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "UnsupportedMediaType",
            "The body must be JSON",
            "A body sent here must be JSON, and say so with Content-Type: application/json.",
        )
    }

    /// 422: the idempotency key was used for another request.
    pub(crate) fn key_reused() -> Self {
        Self::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "IdempotencyKeyReused",
            "The idempotency key was used for another request",
            "A request with another method, host, path, content type or body was accepted under this Idempotency-Key; send a \
             new key.",
        )
    }

    /// 429: the tenant has as many waiting tasks as it may have.
    pub(crate) fn tenant_queue_full() -> Self {
        Self::new(
            StatusCode::TOO_MANY_REQUESTS,
            "TenantQueueFull",
            "Your queue is full",
            "As many of your tasks wait to be run as may wait at once; nothing was stored; try again when some have run.",
        )
        .retry_after(ROOM)
    }

    /// 503: as many tasks wait as may wait at once.
    pub(crate) fn queue_full() -> Self {
        Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "QueueFull",
            "The queue is full",
            "As many tasks wait to be run as may wait at once; nothing was stored; try again when some have run.",
        )
        .retry_after(ROOM)
    }

    /// 503: as many tasks of the request's pool wait as may wait at once.
    pub(crate) fn pool_queue_full() -> Self {
        Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "PoolQueueFull",
            "The queue of its pool is full",
            "As many tasks of this kind wait to be run as may wait at once; nothing was stored; try again when some have run.",
        )
        .retry_after(ROOM)
    }

    /// 503: as many bytes of bodies are being read as may be read at once.
    pub(crate) fn buffer_full() -> Self {
        Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "BufferFull",
            "Too many bodies are being read",
            "There is no room to read the request's body, since others are being read; nothing was stored; try again.",
        )
        .retry_after(ROOM)
    }

    /// 503: the store has no room.
    pub(crate) fn storage_full() -> Self {
        Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "StorageFull",
            "The store is full",
            "The store of tasks has no room for another; nothing was stored; try again when some were removed.",
        )
        .retry_after(DOWN)
    }

    /// 503: the store does not answer, or its answer was lost.
    pub(crate) fn store_unavailable() -> Self {
        Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "StoreUnavailable",
            "The store does not answer",
            "The store of tasks did not answer in time, so that it is not known whether the request took effect; \
             sending it again under the same task id or Idempotency-Key is safe.",
        )
        .retry_after(DOWN)
    }

    /// 503: as many streams are open as may be open at once.
    #[cfg_attr(not(feature = "api"), expect(dead_code, reason = "only the task API has streams"))]
    pub(crate) fn too_many_streams() -> Self {
        Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "TooManyStreams",
            "Too many streams are open",
            "As many streams of events and logs are open as may be at once; try again when some have ended, or poll instead.",
        )
        .retry_after(ROOM)
    }

    /// 503: the process is shutting down.
    pub(crate) fn shutting_down() -> Self {
        Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "ShuttingDown",
            "The server is shutting down",
            "The server is shutting down and takes nothing new; try again when it is back.",
        )
        .retry_after(DOWN)
    }

    /// 500: the stored data of the task cannot be read.
    pub(crate) fn unreadable_record() -> Self {
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "RecordUnreadable",
            "What is stored cannot be read",
            "What is stored of the task is damaged or was written by a newer version; the server's log says more.",
        )
    }

    /// 501: the store lacks the ability.
    pub(crate) fn unsupported() -> Self {
        Self::new(
            StatusCode::NOT_IMPLEMENTED,
            "NotSupported",
            "The store cannot do this",
            "The store of tasks that is in use lacks the ability that this request needs.",
        )
    }

    /// 508: an async request led to itself too many times.
    pub(crate) fn loop_detected() -> Self {
        Self::new(
            StatusCode::LOOP_DETECTED,
            "LoopDetected",
            "Async requests lead to each other without end",
            "This async request was made by a chain of async requests that is too long; nothing was stored.",
        )
    }
}

/// The problem that a client gets for an error of the store. The text of the error is for the log.
impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        match error.kind() {
            StoreErrorKind::NotFound => Self::task_not_found(),
            StoreErrorKind::Full => Self::storage_full(),
            StoreErrorKind::Corrupt | StoreErrorKind::Incompatible => Self::unreadable_record(),
            StoreErrorKind::Unsupported => Self::unsupported(),
            StoreErrorKind::Conflict => Self::changed_meanwhile(),
            StoreErrorKind::Unavailable => Self::store_unavailable(),
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    #[test]
    fn every_row_of_the_table_has_its_status_and_code() {
        let rows = [
            (Problem::invalid_argument("x"), 400, "InvalidArgument"),
            (Problem::entity_too_large(1), 413, "EntityTooLarge"),
            (Problem::entity_too_large_outside(), 413, "EntityTooLarge"),
            (Problem::uri_too_long(1), 414, "UriTooLong"),
            (Problem::request_timeout(), 408, "RequestTimeout"),
            (Problem::task_exists(), 409, "StatefulAsyncInvocationAlreadyExists"),
            (Problem::credentials_differ(), 409, "CredentialsDiffer"),
            (Problem::task_gone(), 410, "TaskGone"),
            (Problem::key_reused(), 422, "IdempotencyKeyReused"),
            (Problem::tenant_queue_full(), 429, "TenantQueueFull"),
            (Problem::queue_full(), 503, "QueueFull"),
            (Problem::pool_queue_full(), 503, "PoolQueueFull"),
            (Problem::buffer_full(), 503, "BufferFull"),
            (Problem::storage_full(), 503, "StorageFull"),
            (Problem::store_unavailable(), 503, "StoreUnavailable"),
            (Problem::shutting_down(), 503, "ShuttingDown"),
            (Problem::misdirected("x"), 421, "MisdirectedRequest"),
            (Problem::loop_detected(), 508, "LoopDetected"),
        ];
        for (problem, status, code) in rows {
            assert_eq!((problem.status().as_u16(), problem.code()), (status, code));
            let can_help = matches!(status, 429 | 503);
            let response = problem.into_response::<Bytes>(None);
            assert_eq!(response.headers().contains_key("retry-after"), can_help, "{code}");
        }
    }
}
