//! [`Intake`] accepts tasks.

pub(crate) mod accept;
mod accept_all;
pub(crate) mod budget;
mod insert;

use std::sync::Arc;

use bytes::Bytes;
use http::{Request, request::Parts};
use tokio::time::{Duration, Instant};

use crate::{
    engine::{
        Budget, Reserved, Unaccepted,
        attempts::{
            Attempts,
            retry::{Backoff, RetryPolicy},
        },
        caught::caught,
        core::Core,
        intake::accept::SEARCHES,
        outbox::Outbox,
        slots::Slots,
        under_way::Part,
    },
    error::{BoxError, BoxFuture},
    hook::{Application, Callbacks, Completion, NotSubmitted},
    probe::Event,
    store::{FullReason, Inserted},
    task::{CapturedRequest, IdempotencyKey, NewTask, PoolName, RequestId, Subscriptions, Tenant},
};

/// Accepts tasks: adds the settings to them, checks for room, and stores them.
pub(crate) struct Intake {
    pub(crate) core: Arc<Core>,
    pub(crate) attempts: Arc<Attempts>,
    pub(crate) outbox: Arc<Outbox>,
    pub(crate) budget: Budget,
    /// The slots for searches after inserts whose answer was lost.
    searches: Slots,
}

impl Intake {
    pub(crate) fn new(core: Arc<Core>, attempts: Arc<Attempts>, outbox: Arc<Outbox>) -> Self {
        Self {
            budget: Budget::new(core.settings.buffer_limit),
            searches: Slots::new(SEARCHES, core.signals.wake.clone()),
            core,
            attempts,
            outbox,
        }
    }

    /// Whether tasks are accepted.
    pub(crate) fn is_open(&self) -> bool {
        self.core.phase.is_open()
    }

    /// A new request id, made at `now`.
    pub(crate) fn request_id(&self, now: Instant) -> RequestId {
        self.core.request_id(now)
    }

    /// The pool of a request.
    pub(crate) fn pool(&self, head: &Parts) -> PoolName {
        self.attempts.pools.of(head)
    }

    /// The policy for the callback URLs that requests name.
    pub(crate) fn callbacks(&self) -> Option<&Arc<dyn Callbacks>> {
        self.core.settings.hooks.callbacks()
    }

    /// The subscriptions of a task whose request named a callback URL.
    pub(crate) fn subscriptions_with_callback(&self) -> Subscriptions {
        self.outbox.destinations.subscriptions_with_callback()
    }

    /// Whether there is room to buffer a body of this size now.
    pub(crate) fn has_room(&self, bytes: usize) -> bool {
        self.budget.has_room(bytes)
    }

    /// A reservation for a body, still empty.
    pub(crate) fn reserve(&self) -> Reserved {
        self.budget.reserve()
    }

    /// Lets the probes add to a request before it is stored.
    pub(crate) fn capture(&self, request: &mut CapturedRequest) {
        self.core.probes.capture(request);
    }

    /// Sends an event to the probes.
    pub(crate) fn emit<'a>(&self, event: impl FnOnce() -> Event<'a>) {
        self.core.probes.emit(event);
    }

    /// The limit that another task would probably exceed, before its body is read. The insert decides.
    pub(crate) fn full(&self, tenant: Option<&Tenant>, pool: &PoolName, delay: Duration) -> Option<FullReason> {
        // A task that starts at once is not queued.
        if delay.is_zero() && self.attempts.pools.could_start(pool) {
            return None;
        }
        let limits = self.attempts.pools.limits(pool);
        let hint = self
            .core
            .queue_hint(tenant, Some(pool).filter(|_| limits.per_pool != u64::MAX));
        if hint.pool_queued.is_some_and(|queued| queued >= limits.per_pool) {
            return Some(FullReason::Pool);
        }
        if tenant.is_some() && hint.tenant_queued.is_some_and(|queued| queued >= limits.per_tenant) {
            return Some(FullReason::Tenant);
        }
        hint.queued
            .is_some_and(|queued| queued >= limits.queued)
            .then_some(FullReason::Queue)
    }

    /// Fills the settings of the engine into a task.
    pub(crate) fn fill_in(&self, task: &mut NewTask) {
        task.max_age = self.core.settings.max_age;
        task.max_attempts = self.max_retries().saturating_add(1);
        task.crash_allowance = self.core.settings.crash_allowance;
        task.key_window = self.core.settings.key_window;
        task.subscriptions = self.outbox.destinations.subscriptions().clone();
        task.version.clone_from(&self.core.settings.version);
    }

    /// The pool of a request that did not arrive over HTTP.
    pub(crate) fn pool_of(&self, request: &CapturedRequest) -> PoolName {
        if !self.attempts.pools.are_several() {
            return PoolName::DEFAULT;
        }
        let (mut head, ()) = http::Request::new(()).into_parts();
        head.method = request.method.clone();
        head.uri = request.uri.clone();
        head.headers = request.headers.clone();
        self.attempts.pools.of(&head)
    }

    /// The number of retries that a task gets if it is accepted now.
    pub(crate) fn max_retries(&self) -> u32 {
        caught(|| self.core.settings.retry.max_retries()).unwrap_or_else(|_| RetryPolicy::max_retries(&Backoff::new()))
    }
}

impl Part for Intake {
    fn core(&self) -> &Core {
        &self.core
    }
}

/// Submits tasks for targets that post completions to the application.
pub(crate) struct Reentry(pub(crate) Arc<Intake>);

impl Application for Reentry {
    fn submit<'a>(
        &'a self,
        completion: &'a Completion,
        request: Request<Bytes>,
    ) -> BoxFuture<'a, Result<RequestId, NotSubmitted>> {
        Box::pin(async move {
            let intake = &self.0;
            let depth = completion.request().map_or(0, |request| request.depth);
            if depth >= CapturedRequest::MAX_DEPTH {
                return Err(NotSubmitted::TooDeep(depth));
            }
            let mut request = CapturedRequest::from(request);
            request.depth = depth + 1;
            intake.core.probes.capture(&mut request);
            let mut task = NewTask::new(intake.core.request_id(Instant::now()), Arc::new(request));
            intake.fill_in(&mut task);
            task.pool = intake.pool_of(&task.request);
            task.subscriptions = intake.outbox.destinations.subscriptions_of_posted().clone();
            task.tenant = completion.task.tenant.clone();
            // The key makes one task of each completion, however often its delivery is tried.
            task.key = IdempotencyKey::new(&completion.webhook_id).ok();
            task.digest = Some(task.request.digest());
            let later = |error: BoxError| NotSubmitted::Later(error);
            match intake.accept(task, None).answer().await {
                Ok(Inserted::New(record, _)) => Ok(record.id),
                Ok(Inserted::Known { id, .. }) => Ok(id),
                Ok(Inserted::Full(reason)) => Err(later(format!("there is no room for it ({reason:?})").into())),
                Ok(Inserted::Conflict) => Err(later("its key belongs to another task".into())),
                Err(Unaccepted::ShuttingDown) => Err(later("the engine is shutting down".into())),
                Err(Unaccepted::Store(error)) => Err(later(error.into())),
            }
        })
    }
}
