//! [`Problem`]: a refusal, and how it is written. [`kinds`] lists all of them.

mod kinds;

use std::borrow::Cow;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Response, StatusCode, header};
use serde::Serialize;

use crate::task::{RequestId, own::X_FC_REQUEST_ID, record::cut};

/// Why a request was refused, as one document (`application/problem+json`, RFC 9457) for every kind of client. Beside
/// the members of problem details, it has the members in which the SDKs of several clouds look for the code.
///
/// The detail says what is wrong, where, and what to do about it. It repeats text of the client only
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

/// The longest detail that is sent, in bytes: a sentence or two.
const DETAIL_BYTES: usize = 1024;

/// How much text of a client is repeated in a detail, in bytes: enough to recognise it.
const QUOTED_BYTES: usize = 64;

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

    /// Text of a client as a part of a detail: in quotation marks, escaped, and cut.
    pub(crate) fn quoted(text: &str) -> String {
        match cut(text, QUOTED_BYTES) {
            whole if whole.len() == text.len() => format!("{whole:?}"),
            part => format!("{part:?}..."),
        }
    }

    /// Replaces the status, for a kind of client that expects another one.
    pub(crate) fn with_status(mut self, status: StatusCode) -> Self {
        self.status = status;
        self
    }

    /// Adds a header.
    pub(crate) fn with_header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.push((name, value));
        self
    }

    /// Adds that the request may succeed after this many seconds.
    pub(crate) const fn retry_after(mut self, seconds: u32) -> Self {
        self.retry_after = Some(seconds);
        self
    }

    /// The code, for programs to branch on.
    pub(crate) const fn code(&self) -> &'static str {
        self.code
    }

    /// The status of the answer.
    pub(crate) const fn status(&self) -> StatusCode {
        self.status
    }

    /// The answer. `request_id` is the id of the request, if it has one.
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
            headers.insert(X_FC_REQUEST_ID, id);
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

/// The problem type: a URN, not an address, so it needs no page and does not change when the documentation moves.
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
}
