//! The answers of the asynchronous path: a 202, the response of the task, or a problem.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};

use crate::{
    engine::Tasks,
    layer::{async_request::AsyncRequest, dialect::PREFERENCE_APPLIED},
    probe::Event,
    task::{
        RequestId, TaskName, TaskRecord,
        own::{DUPLICATE, STATUS},
    },
    wire::{ApiLinks, Problem, TaskDocument, handed_out},
};

/// The `Retry-After` of a 202, in seconds: when the client should poll for the first time.
const FIRST_POLL: HeaderValue = HeaderValue::from_static("1");

/// What an answer says about the request, in addition to the task.
#[derive(Clone, Copy)]
pub(super) struct Applied {
    /// Whether the request was accepted before.
    pub(super) duplicate: bool,
    /// Whether the task has the callback URL that the request named in its `Prefer` header.
    pub(super) callback: bool,
}

impl AsyncRequest {
    /// The answer for a stored task: the task's response if it ends within the wait, else a 202.
    pub(super) async fn accepted(&self, record: Arc<TaskRecord>, applied: Applied) -> Response<Bytes> {
        let wait = self.wait();
        let record = match wait {
            // Boxed, so that only requests that wait pay for its space.
            Some(limit) if !limit.is_zero() => match Box::pin(self.response_within(limit, record)).await {
                Ok(mut response) => {
                    if applied.duplicate {
                        // The cookie belongs to the sender of the first request.
                        response.headers_mut().remove(header::SET_COOKIE);
                    }
                    self.finish(&mut response, applied, wait);
                    return response;
                }
                Err(record) => record,
            },
            _ => record,
        };
        let links = self.links();
        let document = match self.shared.config.fc_strict {
            true => Vec::new(),
            false => TaskDocument::new(&record, links, self.shared.config.headers.secrets()).to_vec(),
        };
        let mut response = Response::new(Bytes::new());
        *response.status_mut() = StatusCode::ACCEPTED;
        let headers = response.headers_mut();
        headers.reserve(11);
        if !self.shared.config.fc_strict {
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        headers.insert(header::RETRY_AFTER, FIRST_POLL);
        headers.insert(STATUS, HeaderValue::from_static(record.state.as_str()));
        *response.body_mut() = links.put_on_with_ids(headers, &record, document);
        self.finish(&mut response, applied, wait);
        response
    }

    /// The task's response if the task ends with one within `limit`, else the task as it is after the wait.
    async fn response_within(
        &self,
        limit: Duration,
        record: Arc<TaskRecord>,
    ) -> Result<Response<Bytes>, Arc<TaskRecord>> {
        let tasks = Tasks::new(self.shared.alive.clone());
        let waited = tasks.wait(record.id, limit).await;
        let waited = waited.ok().flatten().unwrap_or(record);
        if waited.state.is_terminal()
            && let Ok(Some(kept)) = tasks.response(waited.id).await
            // An informational status cannot be a final answer.
            && !kept.status.is_informational()
        {
            let mut response = Response::new(kept.body.clone());
            *response.status_mut() = kept.status;
            *response.headers_mut() = handed_out(&kept, &waited);
            return Ok(response);
        }
        Err(waited)
    }

    /// The answer to a duplicate that may come from another caller than the first request.
    ///
    /// It has the ids and the address of the task, and nothing else. The task API decides whether the caller may read
    /// the task.
    pub(super) fn withheld(&self, id: RequestId, name: Option<TaskName>) -> Response<Bytes> {
        let mut response = Response::new(Bytes::new());
        *response.status_mut() = StatusCode::ACCEPTED;
        let headers = response.headers_mut();
        self.links().put_location_on_with_ids(headers, id, name.as_ref());
        let applied = Applied {
            duplicate: true,
            callback: false,
        };
        self.finish(&mut response, applied, None);
        response
    }

    /// Adds the headers that every answer about a stored task has in addition to the ids.
    fn finish(&self, response: &mut Response<Bytes>, applied: Applied, wait: Option<Duration>) {
        let headers = response.headers_mut();
        if applied.duplicate {
            headers.insert(DUPLICATE, HeaderValue::from_static("true"));
        }
        self.preferences_applied(headers, wait, applied.callback);
    }

    fn preferences_applied(&self, headers: &mut HeaderMap, wait: Option<Duration>, callback: bool) {
        if self.preferences.respond_async {
            let callback = if callback { ", callback" } else { "" };
            let applied = match wait {
                Some(wait) => HeaderValue::try_from(format!("respond-async, wait={}{callback}", wait.as_secs()))
                    .expect("a number is visible ASCII"),
                None if callback.is_empty() => HeaderValue::from_static("respond-async"),
                None => HeaderValue::from_static("respond-async, callback"),
            };
            headers.insert(PREFERENCE_APPLIED, applied);
        }
        if self.vary {
            headers.append(header::VARY, HeaderValue::from_static("Prefer"));
        }
    }

    /// How long the answer may wait for the end of the task, if the client set a wait.
    fn wait(&self) -> Option<Duration> {
        let asked = self.preferences.wait.filter(|_| self.preferences.respond_async)?;
        Some(asked.min(self.shared.config.wait_cap))
    }

    pub(super) fn refused(&self, problem: Problem, id: RequestId) -> Response<Bytes> {
        let problem = match problem.status() {
            StatusCode::PAYLOAD_TOO_LARGE if self.shared.config.fc_strict => {
                problem.with_status(StatusCode::BAD_REQUEST)
            }
            _ => problem,
        };
        self.intake().emit(|| Event::Refused {
            code: problem.code(),
            took: self.at.elapsed(),
        });
        let mut response = problem.into_response(Some(id));
        if self.vary {
            response
                .headers_mut()
                .append(header::VARY, HeaderValue::from_static("Prefer"));
        }
        response
    }

    fn links(&self) -> &ApiLinks {
        static NONE: ApiLinks = ApiLinks::none();
        match self.shared.is_api_mounted() {
            true => self.links.as_ref().unwrap_or(self.shared.config.links.known()),
            false => &NONE,
        }
    }
}
