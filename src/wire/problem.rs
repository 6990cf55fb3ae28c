//! [`Problem`]: a refusal.

use std::borrow::Cow;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Response, StatusCode, header};
use serde::Serialize;

use crate::{
    store::{StoreError, StoreErrorKind},
    task::{RequestId, TaskState, record::cut},
};

/// Why a request was not done, as one document (`application/problem+json`, RFC 9457) that every kind of client can read:
/// the members of problem details, and beside them the members in which the SDKs of several clouds look for the code.
///
/// The detail says what was wrong, where, and what to do about it. It holds a client's own words only
/// [`quoted`](Self::quoted).
#[derive(Clone, Debug)]
#[must_use]
pub(crate) struct Problem {
    status: StatusCode,
    code: &'static str,
    title: &'static str,
    detail: Cow<'static, str>,
    retry_after: Option<u32>,
    headers: Vec<(HeaderName, HeaderValue)>,
}

/// The longest detail that is sent, in bytes: a sentence or two, whatever a caller puts into it.
const DETAIL_BYTES: usize = 1024;

/// How much of a client's own words is said back to it, in bytes: enough to recognise them.
const QUOTED_BYTES: usize = 64;

/// When to try again what fails because there is no room, in seconds: about what a short queue takes to move.
const ROOM: u32 = 1;

/// When to try again what fails because something is down, in seconds: about what a restart takes.
const DOWN: u32 = 5;

impl Problem {
    fn new(status: StatusCode, code: &'static str, title: &'static str, detail: impl Into<Cow<'static, str>>) -> Self {
        Self {
            status,
            code,
            title,
            detail: detail.into(),
            retry_after: None,
            headers: Vec::new(),
        }
    }

    /// A client's own words as they may stand in a detail: in quotation marks, escaped, and not many of them.
    pub(crate) fn quoted(text: &str) -> String {
        match cut(text, QUOTED_BYTES) {
            whole if whole.len() == text.len() => format!("{whole:?}"),
            part => format!("{part:?}..."),
        }
    }

    /// 400: an option, parameter or document that cannot be used as it is.
    pub(crate) fn invalid_argument(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(
            StatusCode::BAD_REQUEST,
            "InvalidArgument",
            "An argument is not valid",
            detail,
        )
    }

    /// 400: the URL at which the client wants to be told is not one that is called. In the same words whatever is there.
    pub(crate) fn callback_refused() -> Self {
        Self::invalid_argument(
            "The callback URL is not one that this server calls. It must be the https URL of a public host that the server's \
             operator allows, on port 443, without user, password and fragment, of at most 2,048 characters.",
        )
    }

    /// 401: the caller is not known.
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

    /// 404: there is no such task, or not for this caller.
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
            "The task has no callback of this number; they are listed, and counted from 1, under its /callbacks.",
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

    /// 405: something is served at this path, to other methods.
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

    /// 409: the client's id for the task is another task's.
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

    /// 409: the name fits the tasks of several tenants.
    pub(crate) fn ambiguous_task() -> Self {
        Self::new(
            StatusCode::CONFLICT,
            "AmbiguousTask",
            "Several tasks have this name",
            "Tasks of several tenants have this name; name the task by its request id.",
        )
    }

    /// 409: somebody else changed the task at the same time.
    pub(crate) fn changed_meanwhile() -> Self {
        Self::new(
            StatusCode::CONFLICT,
            "ChangedMeanwhile",
            "The task was changed meanwhile",
            "Somebody else changed the task at the same time; look at it again, and decide anew.",
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

    /// 409: not as many tasks match as the caller expects.
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

    /// 413: the body is longer than `limit` bytes.
    pub(crate) fn entity_too_large(limit: usize) -> Self {
        Self::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "EntityTooLarge",
            "The body is too large",
            format!("The request's body is longer than the {limit} bytes that are accepted here; nothing was stored."),
        )
    }

    /// 415: the body is of a kind that is not read here.
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
            "A request with another method, target or body was accepted under this Idempotency-Key; send a new key.",
        )
    }

    /// 429: the tenant has as many tasks waiting as it may.
    pub(crate) fn tenant_queue_full() -> Self {
        Self::new(
            StatusCode::TOO_MANY_REQUESTS,
            "TenantQueueFull",
            "Your queue is full",
            "As many of your tasks wait to be run as may wait at once; nothing was stored; try again when some have run.",
        )
        .retry_after(ROOM)
    }

    /// 503: as many tasks wait as may wait.
    pub(crate) fn queue_full() -> Self {
        Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "QueueFull",
            "The queue is full",
            "As many tasks wait to be run as may wait at once; nothing was stored; try again when some have run.",
        )
        .retry_after(ROOM)
    }

    /// 503: as many bytes of bodies are being read as may be.
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

    /// 503: the store cannot be asked, or its answer was lost.
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

    /// 503: as many streams are open as may be.
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

    /// 503: the process is on its way out.
    pub(crate) fn shutting_down() -> Self {
        Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "ShuttingDown",
            "The server is shutting down",
            "The server is shutting down and takes nothing new; try again when it is back.",
        )
        .retry_after(DOWN)
    }

    /// 500: what is stored cannot be read.
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

    /// This problem with another status: what one kind of client expects in place of the usual.
    pub(crate) fn with_status(mut self, status: StatusCode) -> Self {
        self.status = status;
        self
    }

    /// This problem with a header added.
    pub(crate) fn with_header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.push((name, value));
        self
    }

    /// This problem, which may be gone after so many seconds.
    pub(crate) const fn retry_after(mut self, seconds: u32) -> Self {
        self.retry_after = Some(seconds);
        self
    }

    /// The word that a program branches on.
    pub(crate) const fn code(&self) -> &'static str {
        self.code
    }

    /// The status it is answered with.
    pub(crate) const fn status(&self) -> StatusCode {
        self.status
    }

    /// The answer. `request_id` is the id under which the request is known, where it was given one.
    pub(crate) fn into_response<B: From<Bytes>>(self, request_id: Option<RequestId>) -> Response<B> {
        let detail = cut(&self.detail, DETAIL_BYTES);
        let document = Document {
            kind: Kind(self.code),
            title: self.title,
            status: self.status.as_u16(),
            detail,
            request_id,
            code: self.code,
            upper_code: self.code,
            upper_message: detail,
            upper_request_id: request_id,
            error_code: self.code,
            error_message: detail,
            error: Nested {
                code: self.code,
                message: detail,
            },
        };
        let mut body = Vec::with_capacity(640 + 4 * detail.len());
        serde_json::to_writer(&mut body, &document).expect("strings and numbers are written to memory");

        let mut response = Response::new(B::from(body.into()));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/problem+json"),
        );
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        if let Some(id) = request_id {
            let id = HeaderValue::try_from(id.to_string()).expect("a UUID is visible ASCII");
            headers.insert(REQUEST_ID_HEADER, id);
        }
        if let Some(seconds) = self.retry_after {
            headers.insert(header::RETRY_AFTER, seconds.into());
        }
        for (name, value) in self.headers {
            headers.append(name, value);
        }
        response
    }
}

/// What a store's failure is to a client. Its words are for the log.
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

/// Under which a client knows the request.
pub(crate) const REQUEST_ID_HEADER: HeaderName = HeaderName::from_static("x-fc-request-id");

/// Where the task stands that an answer is about.
pub(crate) const STATUS_HEADER: HeaderName = HeaderName::from_static("x-respond-async-status");

/// On a task's response whose body was cut when it was stored.
pub(crate) const TRUNCATED_HEADER: HeaderName = HeaderName::from_static("x-respond-async-truncated");

#[derive(Serialize)]
struct Document<'a> {
    #[serde(rename = "type")]
    kind: Kind,
    title: &'a str,
    status: u16,
    detail: &'a str,
    #[serde(rename = "requestId", skip_serializing_if = "Option::is_none")]
    request_id: Option<RequestId>,
    code: &'a str,
    #[serde(rename = "Code")]
    upper_code: &'a str,
    #[serde(rename = "Message")]
    upper_message: &'a str,
    #[serde(rename = "RequestId", skip_serializing_if = "Option::is_none")]
    upper_request_id: Option<RequestId>,
    #[serde(rename = "ErrorCode")]
    error_code: &'a str,
    #[serde(rename = "ErrorMessage")]
    error_message: &'a str,
    error: Nested<'a>,
}

#[derive(Serialize)]
struct Nested<'a> {
    code: &'a str,
    message: &'a str,
}

/// The problem type: a name, not an address, so that it needs no page and outlives every move of the documentation.
struct Kind(&'static str);

impl Serialize for Kind {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("urn:problem-type:tower-respond-async:{}", self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::Timestamp;

    fn id() -> RequestId {
        RequestId::from_parts(Timestamp::from_millis(1_700_000_000_000), [7; 10])
    }

    fn body(response: Response<Bytes>) -> String {
        String::from_utf8(response.into_body().to_vec()).unwrap()
    }

    #[test]
    fn every_kind_of_client_finds_the_code_where_it_looks() {
        let response = Problem::queue_full().into_response::<Bytes>(Some(id()));
        assert_eq!(response.status(), 503);
        assert_eq!(response.headers()["content-type"], "application/problem+json");
        assert_eq!(response.headers()["retry-after"], "1");
        assert_eq!(response.headers()["x-fc-request-id"], id().to_string());
        let detail =
            "As many tasks wait to be run as may wait at once; nothing was stored; try again when some have run.";
        let id = id();
        let expected = format!(
            "{{\"type\":\"urn:problem-type:tower-respond-async:QueueFull\",\"title\":\"The queue is full\",\"status\":503,\
             \"detail\":\"{detail}\",\"requestId\":\"{id}\",\"code\":\"QueueFull\",\"Code\":\"QueueFull\",\
             \"Message\":\"{detail}\",\"RequestId\":\"{id}\",\"ErrorCode\":\"QueueFull\",\"ErrorMessage\":\"{detail}\",\
             \"error\":{{\"code\":\"QueueFull\",\"message\":\"{detail}\"}}}}"
        );
        assert_eq!(body(response), expected);
    }

    #[test]
    fn a_problem_without_a_request_id_leaves_its_members_out() {
        let response = Problem::not_found().into_response::<Bytes>(None);
        assert!(!response.headers().contains_key("x-fc-request-id"));
        assert!(!response.headers().contains_key("retry-after"));
        assert!(!body(response).contains("equestId"));
    }

    #[test]
    fn hostile_words_are_quoted_escaped_and_cut() {
        let hostile = format!("</script>\"\r\n\u{1b}[2J{}", "x".repeat(10_000));
        let quoted = Problem::quoted(&hostile);
        assert!(quoted.len() < 100, "{quoted}");
        assert!(!quoted.contains(['\r', '\n', '\u{1b}']), "{quoted}");
        let response = Problem::invalid_argument(hostile).into_response::<Bytes>(None);
        let body = body(response);
        assert!(body.len() < 8 * 1024);
        assert!(!body.contains(['\r', '\n', '\u{1b}']));
        serde_json::from_str::<serde_json::Value>(&body).unwrap();
    }

    #[test]
    fn one_client_gets_another_status_and_more_headers() {
        let response = Problem::entity_too_large(10)
            .with_status(StatusCode::BAD_REQUEST)
            .with_header(
                HeaderName::from_static("x-amzn-errortype"),
                HeaderValue::from_static("EntityTooLarge"),
            )
            .into_response::<Bytes>(None);
        assert_eq!(response.status(), 400);
        assert_eq!(response.headers()["x-amzn-errortype"], "EntityTooLarge");
        assert!(body(response).contains("\"status\":400"));
    }

    #[test]
    fn every_row_of_the_table_has_its_status_and_code() {
        let rows = [
            (Problem::invalid_argument("x"), 400, "InvalidArgument"),
            (Problem::entity_too_large(1), 413, "EntityTooLarge"),
            (Problem::request_timeout(), 408, "RequestTimeout"),
            (Problem::task_exists(), 409, "StatefulAsyncInvocationAlreadyExists"),
            (Problem::key_reused(), 422, "IdempotencyKeyReused"),
            (Problem::tenant_queue_full(), 429, "TenantQueueFull"),
            (Problem::queue_full(), 503, "QueueFull"),
            (Problem::buffer_full(), 503, "BufferFull"),
            (Problem::storage_full(), 503, "StorageFull"),
            (Problem::store_unavailable(), 503, "StoreUnavailable"),
            (Problem::shutting_down(), 503, "ShuttingDown"),
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
