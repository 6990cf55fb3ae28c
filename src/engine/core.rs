//! State and functions that all parts of the engine share.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    time::Duration,
};

use tokio::{
    runtime::Handle,
    sync::Notify,
    time::{Instant, sleep, timeout},
};

use crate::{
    engine::{
        Settings,
        api_address::ApiAddress,
        busy::Busy,
        caught::{caught, caught_async, panicked},
        clock::EngineClock,
        node::Hint,
        phase::Phase,
        probes::Probes,
        rates::{Counted, Rates},
        watch::Watchers,
    },
    probe::Event,
    store::{Ledger, QueueHint, Reply, StoreError, StoreErrorKind, StoreResult, TaskStore},
    task::{Condition, PoolName, RequestId, Tenant, WorkerId},
};

/// The store and its calls, the settings, the probes, the signals, and the phase of the shutdown.
pub(crate) struct Core {
    pub(crate) ledger: Ledger,
    pub(crate) settings: Settings,
    pub(crate) probes: Probes,
    pub(crate) clock: EngineClock,
    pub(crate) worker: WorkerId,
    pub(crate) runtime: Handle,
    pub(crate) watchers: Watchers,
    pub(crate) rates: Rates,
    pub(crate) busy: Busy,
    pub(crate) phase: Phase,
    pub(crate) signals: Signals,
    pub(crate) api: ApiAddress,
}

impl Core {
    pub(crate) fn new(
        store: Arc<dyn TaskStore>,
        settings: Settings,
        probes: Probes,
        runtime: Handle,
        api: ApiAddress,
    ) -> Self {
        let signals = Signals::default();
        Self {
            worker: WorkerId::new(settings.worker_name.clone(), fastrand::u64(..)),
            clock: EngineClock::new(settings.simulated.as_deref()),
            watchers: Watchers::new(&signals.wake),
            rates: Rates::new(),
            busy: Busy::default(),
            phase: Phase::default(),
            ledger: Ledger::new(store),
            settings,
            probes,
            runtime,
            signals,
            api,
        }
    }

    /// A new request id, made at `now`.
    pub(crate) fn request_id(&self, now: Instant) -> RequestId {
        let mut random = [0; 10];
        fastrand::fill(&mut random);
        RequestId::from_parts(self.clock.at(now), random)
    }

    /// Adds a hint for the driver, and wakes it.
    pub(crate) fn hint(&self, hint: Hint) {
        self.signals.hint(hint);
    }

    /// Makes a store call, limited to the store timeout. A call that times out may still take effect. A panic of the
    /// store is returned as an error.
    pub(crate) fn call<'a, T: Send + 'a>(
        &'a self,
        operation: &'static str,
        begin: impl FnOnce() -> Reply<'a, T>,
    ) -> Reply<'a, T> {
        let timing = self.probes.time(operation);
        // A store that answers at once needs no timer, and no space in the caller's future.
        let later = match caught(|| begin().at_once()) {
            Ok(Ok(answer)) => return Reply::now(timing.end(&self.probes, answer)),
            Ok(Err(later)) => later,
            Err(panic) => return Reply::now(timing.end(&self.probes, Err(panicked(&panic)))),
        };
        Reply::later(async move {
            let limit = self.settings.store_timeout;
            let answer = timeout(limit, caught_async(|| later)).await;
            let answer = answer.unwrap_or_else(|_| Ok(Err(too_slow(operation, limit))));
            timing.end(&self.probes, answer.unwrap_or_else(|panic| Err(panicked(&panic))))
        })
    }

    /// Makes a [`call`](Self::call) that takes several operations of the store.
    pub(crate) fn step<'a, T: Send + 'a, F>(
        &'a self,
        operation: &'static str,
        begin: impl FnOnce() -> F,
    ) -> Reply<'a, T>
    where
        F: Future<Output = StoreResult<T>> + Send + 'a,
    {
        self.call(operation, || Reply::later(begin()))
    }

    /// Waits for `pause`, or until the shutdown begins.
    pub(crate) async fn pause(&self, pause: Duration) {
        tokio::select! {
            biased;
            () = sleep(pause) => {}
            () = self.phase.closed() => {}
        }
    }

    /// How long this process uses a claim, counted from just before it requested the claim: the lease less its margin.
    pub(crate) fn holds_for(&self) -> Duration {
        self.settings.lease - self.settings.lease_margin()
    }

    pub(crate) fn trouble(&self, doing: &'static str, error: &StoreError, retry_in: Duration) {
        self.probes.emit(|| Event::Trouble { doing, error, retry_in });
    }

    pub(crate) fn count_end(&self, condition: Condition, now: Instant) {
        match condition {
            Condition::Success => self.rates.count(Counted::Succeeded, self.clock.uptime(now)),
            Condition::Failure => self.rates.count(Counted::Failed, self.clock.uptime(now)),
            Condition::Stop => {}
        }
    }

    /// The store's hint about its queue, or the default if the store panics.
    pub(crate) fn queue_hint(&self, tenant: Option<&Tenant>, pool: Option<&PoolName>) -> QueueHint {
        caught(|| self.ledger.store().queue_hint(tenant, pool)).unwrap_or_default()
    }
}

/// Makes a store call that fails after `limit`.
pub(crate) async fn limited<T>(
    operation: &'static str,
    limit: Duration,
    call: impl Future<Output = StoreResult<T>>,
) -> StoreResult<T> {
    timeout(limit, call)
        .await
        .unwrap_or_else(|_| Err(too_slow(operation, limit)))
}

pub(crate) fn too_slow(operation: &'static str, limit: Duration) -> StoreError {
    StoreError::new(
        StoreErrorKind::Unavailable,
        format!("{operation} took longer than {limit:?}"),
    )
}

/// Wakes the driver, for a free slot or for a hint.
#[derive(Default)]
pub(crate) struct Signals {
    pub(crate) wake: Arc<Notify>,
    hints: AtomicU8,
}

impl Signals {
    fn hint(&self, hint: Hint) {
        self.hints.fetch_or(1 << hint as u8, Ordering::SeqCst);
        self.wake.notify_one();
    }

    /// The hints since the last call.
    pub(crate) fn take_hints(&self) -> impl Iterator<Item = Hint> {
        let hints = self.hints.swap(0, Ordering::SeqCst);
        let all = [Hint::Work, Hint::Outbox, Hint::Changes, Hint::Control];
        all.into_iter().filter(move |hint| hints & 1 << *hint as u8 != 0)
    }
}
