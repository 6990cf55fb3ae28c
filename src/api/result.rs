//! The response of a task, as the handler gave it.

use std::time::Duration;

use http::{
    HeaderMap, HeaderName, HeaderValue, Response, StatusCode,
    header::{CACHE_CONTROL, CONTENT_LENGTH, CONTENT_SECURITY_POLICY, ORIGIN, RETRY_AFTER, X_CONTENT_TYPE_OPTIONS},
};

use crate::{
    api::{
        Permission,
        answer::{self, NO_STORE, NOSNIFF},
        call::{Answer, Call},
        query,
    },
    layer::{Preferences, ResponseBody},
    task::{CapturedResponse, TaskRecord, redact::Secrets},
    wire::{OperationDocument, PROGRESS_HEADER, Problem, STATUS_HEADER, TaskDocument, handed_out, is_own},
};

/// The status of the response, for clients of OData (OData 4.01 Protocol §8.3.1).
const ASYNC_RESULT: HeaderName = HeaderName::from_static("asyncresult");

const SEC_FETCH_DEST: HeaderName = HeaderName::from_static("sec-fetch-dest");

/// Destinations whose content a browser runs or applies with the rights of the page, whatever its policy.
const RUN_BY_THE_PAGE: [&str; 10] = [
    "audioworklet",
    "embed",
    "object",
    "paintworklet",
    "script",
    "serviceworker",
    "sharedworker",
    "style",
    "worker",
    "xslt",
];

/// The headers of a response that a browser gets. The [module](crate::api) gives the reasons.
const FOR_A_BROWSER: [&str; 21] = [
    "accept-ranges",
    "allow",
    "content-digest",
    "content-disposition",
    "content-encoding",
    "content-language",
    "content-length",
    "content-location",
    "content-md5",
    "content-range",
    "content-security-policy",
    "content-type",
    "date",
    "digest",
    "etag",
    "last-modified",
    "location",
    "referrer-policy",
    "repr-digest",
    "retry-after",
    "x-frame-options",
];

/// `GET /{id}/result`
pub(super) async fn result(call: Call) -> Answer {
    let reader = Reader::of(&call.parts.headers)?;
    let wait = match query::wait(&call.parts.uri)? {
        Some(wait) => wait,
        None => Preferences::of(&call.parts.headers).wait.unwrap_or_default(),
    };
    let mut record = call.record().await?;
    if !record.state.is_terminal() && wait > Duration::ZERO {
        let limit = wait.min(call.tasks.api_address().wait_cap);
        let waited = call.tasks.wait(record.id, limit).await?;
        record = waited.ok_or_else(Problem::task_not_found)?;
    }
    if !record.state.is_terminal() {
        return Ok(not_done(&call, &record));
    }
    let response = match record.status_code {
        Some(_) => call.tasks.response(record.id).await?,
        None => None,
    };
    match response {
        // An informational status cannot be final, so such a response cannot be returned.
        Some(response) if !response.status.is_informational() => {
            let mut answer = verbatim(&record, &response, reader);
            if speaks_odata(&call.parts.headers) {
                let status = HeaderValue::from(response.status.as_u16());
                answer.headers_mut().insert(ASYNC_RESULT, status);
            }
            Ok(answer)
        }
        _ => Err(no_response(&record, &call.secrets)),
    }
}

/// The document that answered the request; less of it if the caller must not view the task.
fn not_done(call: &Call, record: &TaskRecord) -> Response<ResponseBody> {
    let document = match call.grant.allows(Permission::View) {
        true => TaskDocument::new(record, &call.links, &call.secrets).to_bytes(),
        false => OperationDocument::new(record, &call.links, &call.secrets).to_bytes(),
    };
    let mut response = answer::document(StatusCode::ACCEPTED, document);
    let headers = response.headers_mut();
    headers.insert(RETRY_AFTER, answer::RETRY_SECONDS);
    headers.insert(STATUS_HEADER, HeaderValue::from_static(record.state.as_str()));
    call.links.put_on(headers, record);
    if let Some(progress) = &record.progress {
        let fraction = HeaderValue::try_from(progress.fraction.to_string());
        headers.insert(PROGRESS_HEADER, fraction.expect("a number is visible ASCII"));
    }
    response
}

/// Whether the client speaks OData (OData 4.01 Protocol §8.1.5, §8.2.7).
fn speaks_odata(headers: &HeaderMap) -> bool {
    ["odata-version", "odata-maxversion"]
        .iter()
        .any(|name| headers.contains_key(*name))
}

fn no_response(record: &TaskRecord, secrets: &Secrets) -> Problem {
    let last = record.history.last().and_then(|event| event.detail.as_deref());
    let reason = record.error.as_deref().or(last).map(|reason| secrets.text(reason));
    Problem::no_response(record.state, reason.as_deref())
}

/// The kind of client that reads a result.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reader {
    Program,
    Browser,
}

impl Reader {
    fn of(headers: &HeaderMap) -> Result<Self, Problem> {
        let from_a_browser = |name: &HeaderName| *name == ORIGIN || name.as_str().starts_with("sec-fetch-");
        let reader = match headers.keys().any(from_a_browser) {
            true => Self::Browser,
            false => Self::Program,
        };
        let mut destinations = headers.get_all(SEC_FETCH_DEST).iter();
        match destinations.any(|wanted| RUN_BY_THE_PAGE.iter().any(|run| wanted == run)) {
            true => Err(Problem::forbidden("A result is data, and not to be run by a page.")),
            false => Ok(reader),
        }
    }
}

/// The stored response, with the changes that the [module](crate::api) lists.
fn verbatim(record: &TaskRecord, stored: &CapturedResponse, reader: Reader) -> Response<ResponseBody> {
    let mut response = Response::new(ResponseBody::from(stored.body.clone()));
    *response.status_mut() = stored.status;
    *response.headers_mut() = handed_out(stored, record);

    let headers = response.headers_mut();
    if reader == Reader::Browser {
        let others = headers.keys().filter(|name| !is_for_a_browser(name));
        for name in others.cloned().collect::<Vec<_>>() {
            headers.remove(name);
        }
    }
    // Not the stored length: the body may be truncated, or the response may answer a HEAD request.
    match stored.status {
        StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED => headers.remove(CONTENT_LENGTH),
        _ => headers.insert(CONTENT_LENGTH, stored.body.len().into()),
    };
    // Beside the policies of the handler, since a browser enforces all of them.
    headers.append(CONTENT_SECURITY_POLICY, HeaderValue::from_static("sandbox"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, NOSNIFF);
    headers.insert(CACHE_CONTROL, NO_STORE);
    response
}

fn is_for_a_browser(name: &HeaderName) -> bool {
    is_own(name) || FOR_A_BROWSER.contains(&name.as_str())
}
