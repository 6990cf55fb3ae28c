//! The asynchronous path: a request is read, stored and answered 202, or refused.

use std::{
    future::poll_fn,
    pin::{Pin, pin},
    sync::{Arc, atomic::Ordering},
    task::Poll,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header, request::Parts};
use http_body::Body;
use tokio::time::{Instant as Moment, timeout_at};

use crate::{
    engine::{Alive, Engine, Reserved, Tasks, Unaccepted},
    hook::Callbacks,
    layer::{
        carry,
        config::Config,
        dialect::{CallbackAsked, Options, PREFERENCE_APPLIED, Preferences, callback, idempotency_key},
        headers::{self, DUPLICATE},
        replay::Gathered,
    },
    probe::Event,
    store::{FullReason, Inserted, KnownBy, StoreErrorKind},
    task::{CapturedRequest, NewTask, RequestId, Scope, TaskRecord},
    wire::{ApiLinks, Problem, TRUNCATED_HEADER, TaskDocument, X_FC_ASYNC_TASK_ID, X_FC_REQUEST_ID},
};

/// When a client is to look for the first time, in seconds.
const FIRST_POLL: HeaderValue = HeaderValue::from_static("1");

/// A request that is being accepted.
pub(crate) struct Accept {
    pub(crate) alive: Arc<Alive>,
    pub(crate) config: Arc<Config>,
    /// When its head was there.
    pub(crate) at: Instant,
    pub(crate) preferences: Preferences,
    /// It carried a `Prefer`.
    pub(crate) vary: bool,
    /// Where the client reached the front, if the front is believed.
    pub(crate) origin: Option<String>,
}

/// What it asks for.
pub(crate) struct Asked {
    pub(crate) options: Options,
    pub(crate) head: Parts,
}

impl Accept {
    /// Reads the body, stores the task, and answers.
    ///
    /// # Cancel safety
    ///
    /// Dropped before the body was read, nothing is stored. After that the commit goes on without the client.
    pub(crate) async fn run<B>(self, asked: Asked, body: B) -> Response<Bytes>
    where
        B: Body<Data = Bytes> + Send,
    {
        let id = self.engine().request_id(self.at);
        match self.accept(id, asked, body).await {
            Ok(response) => response,
            Err(problem) => self.refused(problem, id),
        }
    }

    /// Answers that it cannot be done.
    pub(crate) async fn refuse(self, problem: Problem) -> Response<Bytes> {
        let id = self.engine().request_id(self.at);
        self.refused(problem, id)
    }

    async fn accept<B>(&self, id: RequestId, asked: Asked, body: B) -> Result<Response<Bytes>, Problem>
    where
        B: Body<Data = Bytes> + Send,
    {
        let engine = self.engine();
        let depth = headers::depth(&asked.head.headers).saturating_add(1);
        if depth > CapturedRequest::MAX_DEPTH {
            return Err(Problem::loop_detected());
        }
        if !engine.is_open() {
            return Err(Problem::shutting_down());
        }
        let key = idempotency_key(&asked.head.headers)?.or(asked.options.key);
        let tenant = self.config.tenant.as_ref().and_then(|tenant| tenant(&asked.head));
        if let Some(reason) = engine.full(tenant.as_ref(), asked.options.delay) {
            return Err(full(reason));
        }
        let callback = match engine.settings.hooks.callbacks() {
            // Boxed, so that only who may name a URL pays for the room that it takes.
            Some(policy) => Box::pin(admitted(policy, &asked.head.headers)).await?,
            None => None,
        };
        let function = self.config.function_name.as_ref().and_then(|name| name(&asked.head));
        let labels = self.config.labels.as_ref().map(|labels| labels(&asked.head));
        let carried = carry::pack(&self.config.carriers, &asked.head.extensions)
            .map_err(|error| Problem::invalid_argument(format!("The request cannot be stored: {error}.")))?;

        let mut reserved = engine.budget.reserve();
        let body = self.read(&asked.head.headers, body, &mut reserved).await?;

        let mut stored_headers = asked.head.headers;
        headers::strip(&mut stored_headers, &self.config.headers);
        let mut input = CapturedRequest::new(asked.head.method, asked.head.uri, stored_headers, body);
        input.depth = depth;
        input.carried = carried;
        engine.probes.capture(&mut input);

        let mut task = NewTask::new(id, Arc::new(input));
        engine.fill_in(&mut task);
        task.name = asked.options.name;
        task.key = key;
        if task.name.is_some() || task.key.is_some() {
            task.digest = Some(task.input.digest());
        }
        task.tenant = tenant;
        task.function = function.map(Into::into);
        task.labels = labels.unwrap_or_default();
        task.delay = asked.options.delay;
        if let Some(Admitted { url, .. }) = &callback {
            task.callback = Some(url.clone());
            task.subscriptions = engine.destinations.subscriptions_with_callback();
        }
        let born_claimed = |record: &TaskRecord| record.state.is_held();
        let applied = |record: &TaskRecord, duplicate| Applied {
            duplicate,
            callback: callback
                .as_ref()
                .is_some_and(|named| named.preferred && record.callback.as_ref() == Some(&named.url)),
        };
        let inserted = engine.accept(task, Some(reserved)).await.map_err(|error| match error {
            Unaccepted::ShuttingDown => Problem::shutting_down(),
            Unaccepted::Store(error) if error.kind() == StoreErrorKind::Full => Problem::storage_full(),
            Unaccepted::Store(_) => Problem::store_unavailable(),
        })?;
        match inserted {
            Inserted::New(record) => {
                self.note(record.id, born_claimed(&record), false);
                let applied = applied(&record, false);
                Ok(self.accepted(record, applied).await)
            }
            Inserted::Known {
                task,
                id,
                by,
                same_request,
            } => {
                let same = by == KnownBy::Id || same_request && !(self.config.fc_strict && by == KnownBy::Name);
                match (same, by) {
                    (true, _) => {
                        self.note(id, false, true);
                        Ok(match task {
                            Some(record) => {
                                let applied = applied(&record, true);
                                self.accepted(record, applied).await
                            }
                            None => self.remembered(id),
                        })
                    }
                    (false, KnownBy::Key) => Err(Problem::key_reused()),
                    (false, _) => Err(Problem::task_exists()),
                }
            }
            Inserted::Conflict => Err(Problem::id_and_key_differ()),
            Inserted::Full(reason) => Err(full(reason)),
        }
    }

    async fn read<B>(&self, headers: &HeaderMap, body: B, reserved: &mut Reserved) -> Result<Bytes, Problem>
    where
        B: Body<Data = Bytes> + Send,
    {
        let limit = self.config.body_limit;
        let promised = headers
            .get(header::CONTENT_LENGTH)
            .and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
        let least = promised.unwrap_or(0).max(body.size_hint().lower());
        let least = usize::try_from(least).unwrap_or(usize::MAX);
        if least > limit {
            return Err(Problem::entity_too_large(limit));
        }
        if !self.engine().budget.has_room(least) {
            return Err(Problem::buffer_full());
        }
        let mut body = pin!(body);
        let mut read = Gathered::default();
        let mut read_by = None;
        loop {
            let mut frame = poll_fn(|cx| {
                let frame = body.as_mut().poll_frame(cx);
                frame.map(|frame| frame.map(|frame| frame.map_err(|_| broken_off())))
            });
            let arrived = match poll_fn(|cx| Poll::Ready(Pin::new(&mut frame).poll(cx))).await {
                Poll::Ready(arrived) => arrived,
                // Only a body that is waited for costs a timer: short ones came with the head.
                Poll::Pending => {
                    let now = Moment::now();
                    let read_by = *read_by.get_or_insert(now + self.config.body_timeout);
                    let frame_by = read_by.min(now + self.config.body_idle_timeout);
                    let waited = timeout_at(frame_by, frame).await;
                    waited.map_err(|_| Problem::request_timeout())?
                }
            };
            let Some(frame) = arrived.transpose()? else {
                return Ok(read.finish());
            };
            // Trailers are not kept.
            let Ok(data) = frame.into_data() else { continue };
            let length = read.len() + data.len();
            if length > limit {
                return Err(Problem::entity_too_large(limit));
            }
            if !reserved.grow_to(length) {
                return Err(Problem::buffer_full());
            }
            read.push(data);
        }
    }

    /// The answer for a task that is stored: its own response if it ends within the wait, or 202.
    async fn accepted(&self, record: Arc<TaskRecord>, applied: Applied) -> Response<Bytes> {
        let wait = self.wait();
        let record = match wait {
            // Boxed, so that only who waits pays for the room that it takes.
            Some(limit) if !limit.is_zero() => match Box::pin(self.response_within(limit, record)).await {
                Ok(mut response) => {
                    self.finish(&mut response, applied, wait);
                    return response;
                }
                Err(record) => record,
            },
            _ => record,
        };
        let links = self.links();
        let body = match self.config.fc_strict {
            true => Bytes::new(),
            false => TaskDocument::new(&record, links).to_bytes(),
        };
        let mut response = Response::new(body);
        *response.status_mut() = StatusCode::ACCEPTED;
        let headers = response.headers_mut();
        headers.reserve(10);
        if !self.config.fc_strict {
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        headers.insert(header::RETRY_AFTER, FIRST_POLL);
        links.put_on_with_ids(headers, &record, self.origin.as_deref());
        self.finish(&mut response, applied, wait);
        response
    }

    /// The task's own response if it ends within `limit` with one, and else the task as it is then.
    async fn response_within(
        &self,
        limit: Duration,
        record: Arc<TaskRecord>,
    ) -> Result<Response<Bytes>, Arc<TaskRecord>> {
        let tasks = Tasks::new(self.alive.clone());
        let waited = tasks.wait(&Scope::All, record.id, limit).await;
        let waited = waited.ok().flatten().unwrap_or(record);
        if waited.state.is_terminal()
            && let Ok(Some(output)) = tasks.response(&Scope::All, waited.id).await
            // Informational: it cannot be a final answer.
            && !output.status.is_informational()
        {
            let mut response = Response::new(output.body.clone());
            *response.status_mut() = output.status;
            *response.headers_mut() = output.headers.clone();
            response.headers_mut().remove(TRUNCATED_HEADER);
            if output.truncated {
                let cut = HeaderValue::from_static("true");
                response.headers_mut().insert(TRUNCATED_HEADER, cut);
            }
            ApiLinks::none().put_on_with_ids(response.headers_mut(), &waited, None);
            return Ok(response);
        }
        Err(waited)
    }

    /// The answer for a request whose task is gone already, and whose key is not.
    fn remembered(&self, id: RequestId) -> Response<Bytes> {
        let id = id.to_string();
        let body = match self.config.fc_strict {
            true => Bytes::new(),
            false => Bytes::from(format!(r#"{{"taskId":"{id}","requestId":"{id}"}}"#)),
        };
        let mut response = Response::new(body);
        *response.status_mut() = StatusCode::ACCEPTED;
        let headers = response.headers_mut();
        if !self.config.fc_strict {
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        let id = HeaderValue::try_from(id).expect("a UUID is visible ASCII");
        headers.insert(X_FC_REQUEST_ID, id.clone());
        headers.insert(X_FC_ASYNC_TASK_ID, id);
        headers.insert(DUPLICATE, HeaderValue::from_static("true"));
        let wait = Some(Duration::ZERO).filter(|_| self.wait().is_some());
        self.preferences_applied(headers, wait, false);
        response
    }

    /// What every answer about a stored task carries beside the ids of it.
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

    /// How long the answer may be held, if that was asked.
    fn wait(&self) -> Option<Duration> {
        let asked = self.preferences.wait.filter(|_| self.preferences.respond_async)?;
        Some(asked.min(self.config.wait_cap))
    }

    fn refused(&self, problem: Problem, id: RequestId) -> Response<Bytes> {
        let problem = match problem.status() {
            StatusCode::PAYLOAD_TOO_LARGE if self.config.fc_strict => problem.with_status(StatusCode::BAD_REQUEST),
            _ => problem,
        };
        self.engine().probes.emit(|| Event::Refused {
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

    fn note(&self, id: RequestId, born_claimed: bool, duplicate: bool) {
        self.engine().probes.emit(|| Event::Accepted {
            id,
            born_claimed,
            duplicate,
            took: self.at.elapsed(),
        });
    }

    fn links(&self) -> &ApiLinks {
        static NONE: ApiLinks = ApiLinks::none();
        match self.engine().api_mounted.load(Ordering::Relaxed) {
            true => &self.config.links,
            false => &NONE,
        }
    }

    fn engine(&self) -> &Arc<Engine> {
        &self.alive.0
    }
}

/// What is said of a task beside what it is.
#[derive(Clone, Copy)]
struct Applied {
    /// The request was accepted before.
    duplicate: bool,
    /// The URL that it prefers to be told at is the one that will be.
    callback: bool,
}

/// A URL that may be told.
struct Admitted {
    url: Arc<str>,
    preferred: bool,
}

async fn admitted(policy: &Arc<dyn Callbacks>, headers: &HeaderMap) -> Result<Option<Admitted>, Problem> {
    let Some(CallbackAsked { url, preferred }) = callback(headers)? else {
        return Ok(None);
    };
    let url = policy.admit(&url).await.map_err(|_| Problem::callback_refused())?;
    Ok(Some(Admitted { url, preferred }))
}

fn broken_off() -> Problem {
    Problem::invalid_argument("The request's body broke off before its end; nothing was stored.")
}

fn full(reason: FullReason) -> Problem {
    match reason {
        FullReason::Queue => Problem::queue_full(),
        FullReason::Tenant => Problem::tenant_queue_full(),
        FullReason::Storage => Problem::storage_full(),
    }
}
