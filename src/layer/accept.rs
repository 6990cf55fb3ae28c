//! The asynchronous path: admits a request, reads its body, and stores it.

use std::{
    future::{poll_fn, ready},
    pin::{Pin, pin},
    sync::{Arc, atomic::Ordering},
    task::Poll,
};

use bytes::Bytes;
use http::{HeaderMap, Response, header, request::Parts};
use http_body::Body;
use tokio::time::{Instant, sleep_until};

use crate::{
    engine::{Accepting, BodyBuffer, Intake, Reserved, Unaccepted},
    error::{BoxError, BoxFuture},
    hook::Callbacks,
    layer::{
        answer::Applied,
        async_request::AsyncRequest,
        carry,
        dialect::{Options, RequestedCallback, callback, idempotency_key},
        duplicate::{Comparison, DuplicateAnswer},
        headers,
        pace::{Pace, unread},
    },
    probe::Event,
    store::{FullReason, Inserted, KnownBy, StoreErrorKind},
    task::{Accepted, CapturedRequest, NewTask, RequestId, TaskName, TaskRecord, target},
    wire::Problem,
};

/// The task that the store has for a request.
enum Stored {
    /// A task that the answer shows.
    Task {
        record: Arc<TaskRecord>,
        /// Whether the task was stored for an earlier request.
        duplicate: bool,
    },
    /// A task of which the answer shows only the ids.
    Withheld {
        id: RequestId,
        /// The name that the request gives the task.
        name: Option<TaskName>,
    },
    /// A task that was removed, while the store still recognizes its request.
    Gone(RequestId),
}

/// The answer of the store to an insertion.
enum Found {
    Stored(Stored),
    /// A task of an earlier request. It is not checked yet that the same caller sent both.
    Earlier {
        record: Arc<TaskRecord>,
        comparison: Box<Comparison>,
    },
}

impl AsyncRequest {
    /// Reads the body, stores the task, and answers.
    ///
    /// Every async request allocates one of these futures. To keep it small, the head is read before the future is
    /// made, and rare waits are boxed.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped before the body was read, nothing is stored. If it is dropped later, the commit still
    /// goes on.
    pub(crate) fn run<B>(self, options: Options, head: Parts, body: B) -> BoxFuture<'static, Response<Bytes>>
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let id = self.intake().request_id(self.at);
        let length = content_length(&head.headers);
        let unchecked = self.requested_callback(&head.headers);
        let admitted = self
            .admit(id, options, head)
            .and_then(|admitted| Ok((admitted, unchecked?)));
        let ((mut task, mut comparison), unchecked) = match admitted {
            Ok(admitted) => admitted,
            Err(problem) => return Box::pin(ready(self.refused(problem, id))),
        };
        Box::pin(async move {
            let callback = match unchecked {
                // Boxed, so that only requests with a callback URL pay for its space.
                Some(unchecked) => match Box::pin(unchecked.admitted()).await {
                    Ok(admitted) => Some(admitted),
                    Err(problem) => return self.refused(problem, id),
                },
                None => None,
            };
            if let Some(AdmittedCallback { url, .. }) = &callback {
                task.callback = Some(url.clone());
                task.subscriptions = self.intake().subscriptions_with_callback();
            }
            let stored = match self.read(length, pin!(body)).await {
                Ok((body, reserved)) => {
                    let accepting = self.store(task, comparison.as_deref_mut(), body, reserved);
                    self.found(accepting.answer().await, comparison)
                }
                Err(problem) => Err(problem),
            };
            let stored = match stored {
                Ok(Found::Stored(stored)) => Ok(stored),
                Ok(Found::Earlier { record, comparison }) => {
                    // Boxed, so that only duplicates pay for its space.
                    let answer = Box::pin(self.duplicate_answer(*comparison, &record)).await;
                    self.duplicate(record, answer)
                }
                Err(problem) => Err(problem),
            };
            match stored {
                Ok(Stored::Task { record, duplicate }) => {
                    let applied = Applied {
                        duplicate,
                        callback: callback.is_some_and(|admitted| admitted.is_preferred_and_in(&record)),
                    };
                    self.accepted(record, applied).await
                }
                Ok(Stored::Withheld { id, name }) => self.withheld(id, name),
                Ok(Stored::Gone(id)) => self.refused(Problem::task_gone(), id),
                Err(problem) => self.refused(problem, id),
            }
        })
    }

    /// Refuses a request whose headers are invalid.
    pub(crate) fn refuse(self, problem: Problem) -> BoxFuture<'static, Response<Bytes>> {
        let id = self.intake().request_id(self.at);
        Box::pin(ready(self.refused(problem, id)))
    }

    /// The callback URL in the head, not checked yet. `None` if there is none or callbacks are not configured.
    fn requested_callback(&self, headers: &HeaderMap) -> Result<Option<Box<UncheckedCallback>>, Problem> {
        let Some(policy) = self.intake().callbacks() else {
            return Ok(None);
        };
        let requested = callback(headers)?;
        Ok(requested.map(|requested| {
            Box::new(UncheckedCallback {
                policy: policy.clone(),
                requested,
            })
        }))
    }

    /// The task for a head, without the body.
    fn admit(
        &self,
        id: RequestId,
        options: Options,
        mut head: Parts,
    ) -> Result<(NewTask, Option<Box<Comparison>>), Problem> {
        let intake = self.intake();
        let depth = headers::depth(&head.headers).saturating_add(1);
        if depth > CapturedRequest::MAX_DEPTH {
            return Err(Problem::loop_detected());
        }
        if target::length(&head.uri) > target::LONGEST {
            return Err(Problem::uri_too_long(target::LONGEST));
        }
        if !intake.is_open() {
            return Err(Problem::shutting_down());
        }
        let key = idempotency_key(&head.headers)?.or(options.key);
        let tenant = self.shared.config.tenant.as_ref().and_then(|tenant| tenant(&head));
        let pool = intake.pool(&head);
        if let Some(reason) = intake.full(tenant.as_ref(), &pool, options.delay) {
            return Err(full(reason));
        }
        let caller = self.shared.config.caller.as_ref().and_then(|caller| caller(&head));
        let function = self.shared.config.function_name.as_ref().and_then(|name| name(&head));
        let labels = self.shared.config.labels.as_ref().map(|labels| labels(&head));
        let carried = carry::pack(&self.shared.config.carriers, &head.uri, &mut head.extensions)
            .map_err(|error| Problem::invalid_argument(format!("The request cannot be stored: {error}.")))?;

        // Boxed, so that only requests with a name or a key pay for its space.
        let comparison =
            (options.name.is_some() || key.is_some()).then(|| Box::new(Comparison::new(&self.shared.config, &head)));
        let mut headers = head.headers;
        headers::strip(&mut headers, &head.method, &self.shared.config.headers);
        let mut request = CapturedRequest::new(head.method, head.uri, headers, Bytes::new());
        request.depth = depth;
        request.carried = carried;

        let mut task = NewTask::new(id, Arc::new(request));
        intake.fill_in(&mut task);
        task.pool = pool;
        task.name = options.name;
        task.key = key;
        task.tenant = tenant;
        task.caller = caller;
        task.function = function.map(Into::into);
        task.labels = labels.unwrap_or_default();
        task.delay = options.delay;
        task.check()
            .map_err(|error| Problem::invalid_argument(format!("The request cannot be stored: {error}.")))?;
        Ok((task, comparison))
    }

    /// Stores the task with its body.
    fn store(
        &self,
        mut task: NewTask,
        comparison: Option<&mut Comparison>,
        body: Bytes,
        reserved: Reserved,
    ) -> Accepting {
        let request = Arc::make_mut(&mut task.request);
        request.body = body;
        self.intake().capture(request);
        task.digest = comparison.map(|comparison| comparison.digest(&self.shared.config, &task));
        self.intake().accept(task, Some(reserved))
    }

    /// Turns the answer of the store into the answer for the client.
    fn found(
        &self,
        answer: Result<Inserted, Unaccepted>,
        comparison: Option<Box<Comparison>>,
    ) -> Result<Found, Problem> {
        let inserted = answer.map_err(|error| match error {
            Unaccepted::ShuttingDown => Problem::shutting_down(),
            Unaccepted::Store(error) if error.kind() == StoreErrorKind::Full => Problem::storage_full(),
            Unaccepted::Store(_) => Problem::store_unavailable(),
        })?;
        match inserted {
            Inserted::New(record, _) => {
                self.emit_accepted(record.id, record.state.is_held(), false);
                Ok(Found::Stored(Stored::Task {
                    record,
                    duplicate: false,
                }))
            }
            Inserted::Known {
                task,
                id,
                by,
                same_request,
            } => {
                let same = by == KnownBy::Id || same_request && !(self.shared.config.fc_strict && by == KnownBy::Name);
                match (same, by, task) {
                    (false, KnownBy::Key, _) => Err(Problem::key_reused()),
                    (false, ..) => Err(Problem::task_exists()),
                    (true, _, None) => Ok(Found::Stored(Stored::Gone(id))),
                    (true, _, Some(record)) => match comparison {
                        Some(comparison) if by != KnownBy::Id => Ok(Found::Earlier { record, comparison }),
                        _ => self.duplicate(record, DuplicateAnswer::Task).map(Found::Stored),
                    },
                }
            }
            Inserted::Conflict => Err(Problem::id_and_key_differ()),
            Inserted::Full(reason) => Err(full(reason)),
        }
    }

    /// Reads a body, and reserves room for it in the budget. `length` is the length that the head states.
    async fn read<B>(&self, length: Option<u64>, mut body: Pin<&mut B>) -> Result<(Bytes, Reserved), Problem>
    where
        B: Body<Data = Bytes> + Send,
        B::Error: Into<BoxError>,
    {
        let limit = self.shared.config.body_limit;
        let least = length.unwrap_or(0).max(body.size_hint().lower());
        let least = usize::try_from(least).unwrap_or(usize::MAX);
        if least > limit {
            return Err(Problem::entity_too_large(limit));
        }
        if !self.intake().has_room(least) {
            return Err(Problem::buffer_full());
        }
        let mut reserved = self.intake().reserve();
        let mut read = BodyBuffer::default();
        let mut pace = Pace::default();
        let mut read_by = None;
        loop {
            let mut late = None;
            let frame = poll_fn(|cx| {
                if let Poll::Ready(frame) = body.as_mut().poll_frame(cx) {
                    return Poll::Ready(frame.transpose().map_err(|error| unread(&*error.into())));
                }
                // Short bodies arrive with the head, so only a frame that is not there yet costs a timer.
                let late = late.get_or_insert_with(|| {
                    let now = Instant::now();
                    let read_by = *read_by.get_or_insert(now + self.shared.config.body_timeout);
                    Box::pin(sleep_until(read_by.min(now + self.shared.config.body_idle_timeout)))
                });
                late.as_mut().poll(cx).map(|()| Err(Problem::request_timeout()))
            });
            let Some(frame) = frame.await? else {
                return Ok((read.finish(), reserved));
            };
            // Trailers are not stored.
            let data = frame.into_data().unwrap_or_default();
            let (more, length) = (data.len(), read.len() + data.len());
            if length > limit {
                return Err(Problem::entity_too_large(limit));
            }
            if !reserved.grow_to(length) {
                return Err(Problem::buffer_full());
            }
            read.push(data);
            pace.after(more).await.map_err(|error| unread(&error))?;
        }
    }

    /// The result for a duplicate of this task's request.
    fn duplicate(&self, record: Arc<TaskRecord>, answer: DuplicateAnswer) -> Result<Stored, Problem> {
        let id = record.id;
        let stored = match answer {
            DuplicateAnswer::Refusal => return Err(Problem::credentials_differ()),
            DuplicateAnswer::Task => Stored::Task {
                record,
                duplicate: true,
            },
            DuplicateAnswer::Id { name, why } => {
                let first = !self.shared.has_withheld.swap(true, Ordering::Relaxed);
                self.intake().emit(|| Event::Withheld { id, why, first });
                Stored::Withheld { id, name }
            }
        };
        self.emit_accepted(id, false, true);
        Ok(stored)
    }

    fn emit_accepted(&self, id: RequestId, claimed: bool, duplicate: bool) {
        self.intake().emit(|| Event::Accepted {
            id,
            claimed,
            duplicate,
            took: self.at.elapsed(),
        });
    }

    pub(super) fn intake(&self) -> &Arc<Intake> {
        &self.shared.alive.0.intake
    }
}

/// A callback URL that a request named and the policy has not checked yet.
struct UncheckedCallback {
    policy: Arc<dyn Callbacks>,
    requested: RequestedCallback,
}

impl UncheckedCallback {
    async fn admitted(self: Box<Self>) -> Result<AdmittedCallback, Problem> {
        let RequestedCallback { url, preferred } = self.requested;
        let is_kept = |url: &str| url.len() <= Accepted::CALLBACK_BYTES;
        if !is_kept(&url) {
            return Err(Problem::callback_refused());
        }
        match self.policy.admit(&url).await {
            // Keep the URL as the policy returned it: the policy may have encoded some characters.
            Ok(url) if is_kept(&url) => Ok(AdmittedCallback { url, preferred }),
            Ok(_) | Err(_) => Err(Problem::callback_refused()),
        }
    }
}

/// A callback URL that the policy admitted.
struct AdmittedCallback {
    url: Arc<str>,
    preferred: bool,
}

impl AdmittedCallback {
    /// Whether the URL was named in a `Prefer` header, and the task has it as its callback.
    fn is_preferred_and_in(&self, record: &TaskRecord) -> bool {
        self.preferred && record.callback.as_ref() == Some(&self.url)
    }
}

fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

fn full(reason: FullReason) -> Problem {
    match reason {
        FullReason::Queue => Problem::queue_full(),
        FullReason::Tenant => Problem::tenant_queue_full(),
        FullReason::Pool => Problem::pool_queue_full(),
        FullReason::Storage => Problem::storage_full(),
    }
}
