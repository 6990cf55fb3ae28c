//! Shows one task.

use std::{borrow::Cow, sync::Arc};

use http::{HeaderMap, StatusCode, header::RETRY_AFTER};
use serde::Serialize;

use crate::{
    api::{
        Permission, answer,
        call::{Answer, Call},
        query,
    },
    store::StoreErrorKind,
    task::{CapturedRequest, CapturedResponse, Payload, TaskRecord, redact::Secrets},
    wire::{OperationDocument, Problem, TaskDocument},
};

/// How much of a body `/request` and `/response` show, in bytes. This is the default limit for requests, so by default
/// nothing is cut; with a raised limit, a view does not grow to a hundred megabytes.
const BODY_BYTES: usize = 2 * 1024 * 1024;

/// `GET /{id}`
pub(super) async fn task(call: Call) -> Answer {
    let record = call.record().await?;
    let payloads = match query::include_payload(&call.parts.uri)? {
        true => {
            call.must_allow(Permission::Payload)?;
            call.payloads(&record).await?
        }
        false => Payloads::default(),
    };
    let document = payloads.put_in(TaskDocument::new(&record, &call.links, &call.secrets));
    Ok(answer::document(StatusCode::OK, document.to_bytes()))
}

/// `GET /{id}/operation`
pub(super) async fn operation(call: Call) -> Answer {
    let record = call.record().await?;
    let document = OperationDocument::new(&record, &call.links, &call.secrets).to_bytes();
    let mut response = answer::document(StatusCode::OK, document);
    if !record.state.is_terminal() {
        response.headers_mut().insert(RETRY_AFTER, answer::RETRY_SECONDS);
    }
    Ok(response)
}

/// `GET /{id}/request`
pub(super) async fn request(call: Call) -> Answer {
    let record = call.record().await?;
    let request = call.tasks.request(record.id).await?;
    let request = request.ok_or_else(Problem::task_not_found)?;
    Ok(answer::json(
        StatusCode::OK,
        &RequestDocument::new(&request, &call.secrets),
    ))
}

/// `GET /{id}/response`
pub(super) async fn response(call: Call) -> Answer {
    let record = call.record().await?;
    let response = match record.status_code {
        Some(_) => call.tasks.response(record.id).await?,
        None => None,
    };
    let response = response.ok_or_else(Problem::response_not_found)?;
    Ok(answer::json(
        StatusCode::OK,
        &ResponseDocument::new(&response, &call.secrets),
    ))
}

impl Call {
    /// The task that the path names, if the caller may see it.
    pub(super) async fn record(&self) -> Result<Arc<TaskRecord>, Problem> {
        let task = self.task.as_ref().expect("the route's path names a task");
        match self.tasks.find(task).await {
            Ok(found) => found.ok_or_else(Problem::task_not_found),
            Err(error) if error.kind() == StoreErrorKind::Conflict => Err(Problem::ambiguous_task()),
            Err(error) => Err(error.into()),
        }
    }

    /// The parts of the task's request and response that the caller may see.
    pub(super) async fn payloads(&self, record: &TaskRecord) -> Result<Payloads, Problem> {
        let request = self.tasks.request(record.id).await?;
        let response = match record.status_code {
            Some(_) if self.grant.allows(Permission::Result) => self.tasks.response(record.id).await?,
            _ => None,
        };
        Ok(Payloads { request, response })
    }
}

/// The request and the response of a task, for its document.
#[derive(Default)]
pub(super) struct Payloads {
    request: Option<Arc<CapturedRequest>>,
    response: Option<Arc<CapturedResponse>>,
}

impl Payloads {
    pub(super) fn put_in<'a>(&'a self, mut document: TaskDocument<'a>) -> TaskDocument<'a> {
        if let Some(request) = &self.request {
            document = document.with_task_payload(&request.body);
        }
        if let Some(response) = &self.response {
            document = document.with_return_payload(&response.body, !response.truncated);
        }
        document
    }
}

/// Headers with secrets redacted, in their order.
fn shown<'a>(headers: &'a HeaderMap, secrets: &Secrets) -> Vec<(&'a str, Cow<'a, str>)> {
    let shown = headers
        .iter()
        .map(|(name, value)| (name.as_str(), secrets.header(name, value)));
    shown.collect()
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct RequestDocument<'a> {
    method: &'a str,
    uri: String,
    headers: Vec<(&'a str, Cow<'a, str>)>,
    body: Cow<'a, str>,
    body_encoding: &'static str,
    truncated: bool,
}

impl<'a> RequestDocument<'a> {
    fn new(request: &'a CapturedRequest, secrets: &Secrets) -> Self {
        let body = Payload::new(&request.body, BODY_BYTES);
        Self {
            method: request.method.as_str(),
            uri: secrets.uri(&request.uri).to_string(),
            headers: shown(&request.headers, secrets),
            body: body.text,
            body_encoding: body.encoding,
            truncated: body.truncated,
        }
    }
}

/// A response as data. `/result` returns the response itself, and a browser acts on it: it follows a redirect, or asks
/// its user for a password.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ResponseDocument<'a> {
    status: u16,
    headers: Vec<(&'a str, Cow<'a, str>)>,
    body: Cow<'a, str>,
    body_encoding: &'static str,
    truncated: bool,
}

impl<'a> ResponseDocument<'a> {
    fn new(response: &'a CapturedResponse, secrets: &Secrets) -> Self {
        let body = Payload::new(&response.body, BODY_BYTES);
        Self {
            status: response.status.as_u16(),
            headers: shown(&response.headers, secrets),
            body: body.text,
            body_encoding: body.encoding,
            truncated: body.truncated || response.truncated,
        }
    }
}
