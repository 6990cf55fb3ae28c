//! The formats in which completions are sent.

use std::{borrow::Cow, str::FromStr};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, header};
use serde::Serialize;

use crate::{
    hook::Completion,
    task::{
        Payload, TaskState,
        own::{STATUS, is_own},
    },
    time::Timestamp,
};

/// The format in which a completion is sent.
///
/// | format | body | for |
/// |---|---|---|
/// | `fc` | request, response and reason, as the cloud's async invocation sends them | receivers written for that |
/// | `cloudevents` | CloudEvents 1.0, structured: `application/cloudevents+json` | event buses |
/// | `standard` | Standard Webhooks: `{"type","timestamp","data"}`, without payloads | receivers that fetch the rest |
/// | `raw` | body and headers of the response, `X-Call-Id`, `X-Function-Status` | receivers written for OpenFaaS |
///
/// Bodies are sent unchanged. The rest is redacted: errors are sent without the secrets of URLs in them. `raw` leaves
/// out headers with secret names, also those of the layer's [`HeaderPolicy`](crate::HeaderPolicy), and the secrets of
/// URLs in other headers. If a receiver needs one of these, put it into the body.
///
/// In `fc` and `cloudevents`, a payload that is not UTF-8 is sent in base64, and `requestPayloadEncoding` or
/// `responsePayloadEncoding` is `base64`. `requestPayloadContentType`, `requestPayloadContentEncoding`,
/// `responsePayloadContentType` and `responsePayloadContentEncoding` are the headers of the request and of the
/// response, if they have them.
///
/// Both payloads together take up to [`LIMIT`](Self::LIMIT) bytes. A response that is longer is cut, with
/// `"responsePayloadTruncated":true`. A request that does not fit beside it is left out, with
/// `"requestPayloadOmitted":true`. A link then names its address in the task API, if there is one.
///
/// # Examples
///
/// ```
/// use tower_respond_async::{MemoryStore, RespondAsyncLayer, hook::{AppPath, PayloadFormat}};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let format: PayloadFormat = "cloudevents".parse()?; // from a setting
/// let layer = RespondAsyncLayer::builder(MemoryStore::new())
///     .on_success(AppPath::new("/dest-succ")?.format(format))
///     .build()?;
/// # drop(layer);
/// assert!("xml".parse::<PayloadFormat>().is_err());
/// # Ok(()) }
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum PayloadFormat {
    /// As the cloud's async invocation sends it.
    #[default]
    Fc,
    /// CloudEvents 1.0 in structured mode.
    CloudEvents,
    /// Standard Webhooks.
    Standard,
    /// The response itself.
    Raw,
}

/// A completion as it is sent.
///
/// # Examples
///
/// A hook that passes completions on to a message broker renders them first:
///
/// ```
/// use tower_respond_async::{Completion, MemoryStore, RespondAsyncLayer, hook::PayloadFormat};
///
/// async fn publish(completion: Completion) {
///     let message = PayloadFormat::Standard.render(&completion, PayloadFormat::LIMIT);
///     println!("{:?}: {} bytes", message.headers["content-type"], message.body.len());
/// }
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let layer = RespondAsyncLayer::builder(MemoryStore::new()).on_completion(publish).build()?;
/// # drop(layer);
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Rendered {
    /// `Content-Type`, and other headers of the format.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
}

impl PayloadFormat {
    /// The default limit of the payloads in a body, in bytes as they are encoded there. Queues and functions of most
    /// clouds accept this size.
    pub const LIMIT: usize = 20 * 1024;

    /// The completion in this format, with up to `limit` bytes of payloads. The same completion always gives the same
    /// bytes.
    #[must_use]
    pub fn render(self, completion: &Completion, limit: usize) -> Rendered {
        match self {
            Self::Fc => json("application/json", &fc(completion, limit)),
            Self::CloudEvents => json("application/cloudevents+json", &cloud_event(completion, limit)),
            Self::Standard => json("application/json", &standard(completion)),
            Self::Raw => raw(completion),
        }
    }
}

impl FromStr for PayloadFormat {
    type Err = UnknownFormat;

    fn from_str(name: &str) -> Result<Self, UnknownFormat> {
        Ok(match name {
            "fc" => Self::Fc,
            "cloudevents" => Self::CloudEvents,
            "standard" => Self::Standard,
            "raw" => Self::Raw,
            _ => return Err(UnknownFormat),
        })
    }
}

/// No format has this name.
///
/// See the example of [`PayloadFormat`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a payload format is one of fc, cloudevents, standard and raw")]
pub struct UnknownFormat;

fn json(content_type: &'static str, document: &impl Serialize) -> Rendered {
    let body = serde_json::to_vec(document).expect("memory takes it, and its names are texts");
    let content_type = HeaderValue::from_static(content_type);
    Rendered {
        headers: HeaderMap::from_iter([(header::CONTENT_TYPE, content_type)]),
        body: body.into(),
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct FcDocument<'a> {
    timestamp: u64,
    request_context: FcRequestContext<'a>,
    #[serde(flatten)]
    request: RequestPayload<'a>,
    response_context: FcResponseContext<'a>,
    #[serde(flatten)]
    response: ResponsePayload<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct FcRequestContext<'a> {
    request_id: String,
    function_arn: String,
    condition: &'a str,
    approximate_invoke_count: u32,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct FcResponseContext<'a> {
    status_code: Option<u16>,
    function_error: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    error_message: Option<Cow<'a, str>>,
}

fn fc(completion: &Completion, limit: usize) -> FcDocument<'_> {
    let (request, response) = payloads(completion, limit);
    let error = match completion.state {
        TaskState::Succeeded => "",
        _ => reason(completion.state),
    };
    FcDocument {
        timestamp: completion.ended_at.as_millis(),
        request_context: FcRequestContext {
            request_id: completion.request_id().to_string(),
            function_arn: format!("acs:fc:::functions/{}", completion.task.function()),
            condition: error,
            approximate_invoke_count: completion.attempt,
        },
        request,
        response_context: FcResponseContext {
            status_code: status_code(completion),
            function_error: error,
            error_message: error_text(completion),
        },
        response,
    }
}

/// Why the task did not succeed, in the cloud's words if it has one.
const fn reason(state: TaskState) -> &'static str {
    match state {
        TaskState::Expired => "EventAgeExceeded",
        TaskState::Invalid => "InvalidRequest",
        TaskState::Stopped => "Stopped",
        _ => "UnhandledInvocationError",
    }
}

#[derive(Serialize)]
struct CloudEvent<'a> {
    specversion: &'static str,
    id: &'a str,
    source: Cow<'a, str>,
    #[serde(rename = "type")]
    kind: String,
    subject: String,
    time: String,
    datacontenttype: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    traceparent: Option<&'a str>,
    data: CloudEventData<'a>,
}

#[derive(Serialize)]
struct CloudEventData<'a> {
    #[serde(flatten)]
    task: Thin<'a>,
    #[serde(flatten)]
    request: RequestPayload<'a>,
    #[serde(flatten)]
    response: ResponsePayload<'a>,
}

fn cloud_event(completion: &Completion, limit: usize) -> CloudEvent<'_> {
    let (request, response) = payloads(completion, limit);
    let traceparent = completion
        .request_headers()
        .and_then(|headers| headers.get("traceparent"));
    CloudEvent {
        specversion: "1.0",
        id: &completion.webhook_id,
        source: match completion.location() {
            Some(location) => location.into(),
            None => "urn:tower-respond-async".into(),
        },
        kind: format!("respond-async.task.{}", word(completion.state)),
        subject: completion.task_id(),
        time: completion.ended_at.to_rfc3339(),
        datacontenttype: "application/json",
        traceparent: traceparent.and_then(|value| value.to_str().ok()),
        data: CloudEventData {
            task: Thin::of(completion),
            request,
            response,
        },
    }
}

#[derive(Serialize)]
struct StandardDocument<'a> {
    #[serde(rename = "type")]
    kind: String,
    timestamp: String,
    data: Thin<'a>,
}

fn standard(completion: &Completion) -> StandardDocument<'_> {
    StandardDocument {
        kind: format!("task.{}", word(completion.state)),
        timestamp: completion.ended_at.to_rfc3339(),
        data: Thin::of(completion),
    }
}

/// A task without its payloads: how it ended, and where to fetch the rest.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Thin<'a> {
    task_id: String,
    request_id: String,
    function_name: &'a str,
    status: &'static str,
    status_code: Option<u16>,
    task_error_message: Option<Cow<'a, str>>,
    attempt: u32,
    generation: u32,
    created_time: Timestamp,
    end_time: Timestamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    link: Option<&'a str>,
}

impl<'a> Thin<'a> {
    fn of(completion: &'a Completion) -> Self {
        Self {
            task_id: completion.task_id(),
            request_id: completion.request_id().to_string(),
            function_name: completion.task.function(),
            status: completion.state.as_str(),
            status_code: status_code(completion),
            task_error_message: error_text(completion),
            attempt: completion.attempt,
            generation: completion.generation,
            created_time: completion.task.created_at,
            end_time: completion.ended_at,
            link: completion.location(),
        }
    }
}

fn error_text(completion: &Completion) -> Option<Cow<'_, str>> {
    completion.error.as_deref().map(|error| completion.secrets.text(error))
}

fn word(state: TaskState) -> String {
    state.as_str().to_ascii_lowercase()
}

fn status_code(completion: &Completion) -> Option<u16> {
    completion.response.as_ref().map(|response| response.status.as_u16())
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct RequestPayload<'a> {
    request_payload: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    request_payload_encoding: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    request_payload_content_type: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    request_payload_content_encoding: Option<String>,
    #[serde(skip_serializing_if = "is_false")]
    request_payload_omitted: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    request_payload_link: Option<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ResponsePayload<'a> {
    response_payload: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    response_payload_encoding: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    response_payload_content_type: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    response_payload_content_encoding: Option<String>,
    #[serde(skip_serializing_if = "is_false")]
    response_payload_truncated: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    response_payload_link: Option<String>,
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde passes what it skips by reference"
)]
const fn is_false(flag: &bool) -> bool {
    !*flag
}

/// The response has priority for the room: it is new, while the sender of the request has the request.
fn payloads(completion: &Completion, limit: usize) -> (RequestPayload<'_>, ResponsePayload<'_>) {
    let link = |rest: &str| completion.location().map(|location| format!("{location}{rest}"));
    let base64 = |payload: &Payload<'_>| Some(payload.encoding).filter(|encoding| *encoding == "base64");

    let response = completion.response.as_ref();
    let kept_whole = response.is_none_or(|response| !response.truncated);
    let shown = response.map(|response| fitting(&response.body, limit));
    let room = limit - shown.as_ref().map_or(0, |shown| length(&shown.text));
    let truncated = !kept_whole || shown.as_ref().is_some_and(|shown| shown.truncated);
    let content = response.map(|response| response.content()).unwrap_or_default();
    let response = ResponsePayload {
        response_payload_content_type: content.content_type.as_deref().map(String::from),
        response_payload_content_encoding: content.content_encoding.as_deref().map(String::from),
        response_payload_encoding: shown.as_ref().and_then(base64),
        response_payload_truncated: truncated,
        response_payload_link: truncated.then(|| link("/result")).flatten(),
        response_payload: shown.map(|shown| shown.text),
    };

    let request = completion.request();
    let whole = request.filter(|request| request.body.len() <= room);
    let whole = whole.map(|request| Payload::new(&request.body, usize::MAX));
    let whole = whole.filter(|whole| length(&whole.text) <= room);
    let omitted = request.is_some() && whole.is_none();
    let content = request.map(|request| request.content()).unwrap_or_default();
    let request = RequestPayload {
        request_payload_content_type: content.content_type.as_deref().map(String::from),
        request_payload_content_encoding: content.content_encoding.as_deref().map(String::from),
        request_payload_encoding: whole.as_ref().and_then(base64),
        request_payload_omitted: omitted,
        request_payload_link: omitted.then(|| link("/request")).flatten(),
        request_payload: whole.map(|whole| whole.text),
    };
    (request, response)
}

/// The beginning of `body` that takes up to `room` bytes in a document.
fn fitting(body: &[u8], room: usize) -> Payload<'_> {
    let mut bytes = body.len().min(room);
    loop {
        let payload = Payload::new(body, bytes);
        let length = length(&payload.text);
        if length <= room || bytes == 0 {
            return payload;
        }
        // Escapes and base64 are spread almost evenly, so two or three rounds are enough.
        let fitting = bytes as u64 * room as u64 / length as u64;
        bytes = (bytes - 1).min(usize::try_from(fitting).unwrap_or(0));
    }
}

/// How many bytes a text takes in a document, without quotation marks.
fn length(text: &str) -> usize {
    let escapes = text.bytes().map(|byte| match byte {
        b'"' | b'\\' | b'\n' | b'\r' | b'\t' | 0x08 | 0x0c => 1,
        0..=0x1f => 5,
        _ => 0,
    });
    text.len() + escapes.sum::<usize>()
}

const CALL_ID: HeaderName = HeaderName::from_static("x-call-id");
const DURATION: HeaderName = HeaderName::from_static("x-duration-seconds");
const FUNCTION_STATUS: HeaderName = HeaderName::from_static("x-function-status");
const FUNCTION_NAME: HeaderName = HeaderName::from_static("x-function-name");

/// Whether a response header is about the body. Other headers are about a connection, a session or a signature, and
/// would have another meaning on a request.
fn is_about_the_body(name: &HeaderName) -> bool {
    let ours = is_ours(name);
    let name = name.as_str();
    let content = name.starts_with("content-") && name != "content-length" && name != "content-security-policy";
    let own = name.starts_with("x-") && !name.starts_with("x-forwarded-") && !ours;
    content
        || own
        || matches!(
            name,
            "etag" | "last-modified" | "digest" | "repr-digest" | "link" | "date"
        )
}

/// Whether only the layer or this format sets headers of this name. They are not taken from a handler.
fn is_ours(name: &HeaderName) -> bool {
    is_own(name)
        || name.as_str().starts_with("x-fc-")
        || [CALL_ID, DURATION, FUNCTION_STATUS, FUNCTION_NAME].contains(name)
}

fn raw(completion: &Completion) -> Rendered {
    let mut headers = HeaderMap::new();
    let mut body = Bytes::new();
    if let Some(response) = &completion.response {
        for (name, value) in response.headers.iter().filter(|(name, _)| is_about_the_body(name)) {
            if let Some(value) = completion.secrets.sent_header(name, value) {
                headers.append(name, value);
            }
        }
        headers.insert(FUNCTION_STATUS, response.status.as_u16().into());
        body = response.body.clone();
    }
    let started = completion.task.started_at.filter(|_| completion.is_current());
    let took = started.map(|started| completion.ended_at.since(started));
    let texts = [
        (CALL_ID, Some(completion.request_id().to_string())),
        (DURATION, took.map(|took| format!("{:.3}", took.as_secs_f64()))),
        (FUNCTION_NAME, Some(completion.task.function().to_owned())),
        (STATUS, Some(completion.state.as_str().to_owned())),
    ];
    for (name, text) in texts {
        // The name of a function may have characters that a header cannot hold.
        if let Some(value) = text.and_then(|text| HeaderValue::try_from(text).ok()) {
            headers.insert(name, value);
        }
    }
    Rendered { headers, body }
}

#[cfg(test)]
mod tests;
