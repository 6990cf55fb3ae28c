//! What decides and drives: it knows the ports, and neither HTTP nor any one store.
//!
//! - [`attempt`] and [`node`] are the two pure machines: times, randomness and results go in, actions come out
//! - [`driver`], [`run`], [`lease`] and [`deliver`] carry the actions out
//! - [`pools`] says which slots a task may run on; [`lookout`] hears what other processes do
//! - [`accept`] takes a task in; [`shutdown`] ends it all; [`tasks`] is the handle that applications hold

mod accept;
mod accept_all;
mod answering;
pub(crate) mod attempt;
mod budget;
mod busy;
mod caught;
mod context;
mod deliver;
mod destinations;
mod driver;
mod entry;
#[cfg_attr(not(feature = "api"), expect(dead_code, reason = "only the task API listens"))]
mod feed;
mod follow;
mod give_up;
mod grpc;
mod hosts;
mod judge;
mod lease;
mod log;
mod lookout;
pub(crate) mod node;
#[cfg(feature = "api")]
mod observe;
mod pool;
mod pool_control;
mod pool_steering;
mod pools;
mod rates;
pub(crate) mod retry;
mod run;
mod running;
#[cfg(feature = "api")]
mod served;
mod settings;
mod shutdown;
mod slots;
mod stats;
mod submit;
mod sync;
mod tasks;
mod told;
mod under_way;
mod watch;

use std::{
    future::poll_fn,
    pin::pin,
    sync::{
        Arc, Mutex, OnceLock, PoisonError, RwLock,
        atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering},
    },
    task::Poll,
    time::Duration,
};

use tokio::{
    runtime::Handle,
    sync::{Notify, Semaphore},
    time::{Instant, timeout},
};

pub(crate) use self::{
    accept::{Accepting, Unaccepted},
    answering::{Answering, Gathered},
    budget::{Budget, Reserved},
    destinations::Hooks,
    entry::{BodyEnd, Entry, Replayed},
    settings::{Intake, Settings, Strip},
    tasks::Alive,
};
use self::{
    busy::Busy,
    caught::{caught, caught_async, panicked},
    destinations::Destinations,
    lease::LeaseThread,
    lookout::Lookout,
    node::Hint,
    pools::Pools,
    rates::Rates,
    running::Running,
    shutdown::Phase,
    slots::Slots,
    watch::Watchers,
};
pub use self::{
    context::TaskContext,
    follow::Changes,
    pool::Pool,
    pool_steering::{PausedPool, PoolError, PoolStats},
    retry::{AttemptEnd, Backoff, DoNotRetry, RetryPolicy, Verdict},
    shutdown::ShutdownReport,
    stats::{ProcessStats, Stats},
    submit::{Submission, SubmitError, Submitted},
    tasks::{Tasks, WeakTasks},
};
#[cfg(feature = "api")]
pub(crate) use self::{feed::Place, observe::Observer};
use crate::{
    probe::{AttemptInfo, AttemptScope, Event, Probe},
    store::{Ledger, StoreError, StoreErrorKind, StoreResult, TaskStore},
    task::{CapturedRequest, RequestId, WorkerId, redact::Secrets},
    time::{Clock, SystemClock, Timestamp},
};

/// Everything that runs tasks in this process, for one layer.
pub(crate) struct Engine {
    pub(crate) ledger: Ledger,
    pub(crate) settings: Settings,
    pub(crate) probes: Probes,
    pub(crate) clock: EngineClock,
    pub(crate) budget: Budget,
    /// Whether there is a task API to point clients at.
    pub(crate) api_mounted: AtomicBool,
    api: OnceLock<ApiAddress>,
    worker: WorkerId,
    runtime: Handle,
    pub(crate) pools: Pools,
    running: Running,
    watchers: Watchers,
    lookout: Lookout,
    rates: Rates,
    busy: Busy,
    phase: Phase,
    /// Wakes the driver: a slot is free, or a hint was given.
    wake: Arc<Notify>,
    hints: AtomicU8,
    /// How many values the store has set aside, as far as the probes were told.
    set_aside: AtomicU64,
    /// How many keys it has forgotten for want of room, as far as the probes were told.
    forgotten_keys: AtomicU64,
    pub(crate) destinations: Destinations,
    searches: Slots,
    /// Room for those who look on for long.
    #[cfg_attr(not(feature = "api"), expect(dead_code, reason = "only the task API has streams"))]
    observers: Arc<Semaphore>,
    entry: RwLock<Option<Arc<dyn Entry>>>,
    lease_thread: Mutex<Option<LeaseThread>>,
}

impl Engine {
    pub(crate) fn new(store: Arc<dyn TaskStore>, settings: Settings, probes: Probes, runtime: Handle) -> Self {
        let wake = Arc::new(Notify::new());
        Self {
            worker: WorkerId::new(settings.worker_name.clone(), fastrand::u64(..)),
            pools: Pools::new(settings.concurrency, settings.limits, &settings.pools, wake.clone()),
            destinations: Destinations::new(&settings.hooks, &wake),
            searches: Slots::new(accept::SEARCHES, wake.clone()),
            observers: Arc::new(Semaphore::new(settings.max_waiters.min(Semaphore::MAX_PERMITS))),
            budget: Budget::new(settings.buffer_limit),
            clock: EngineClock::new(settings.simulated.as_deref()),
            api_mounted: AtomicBool::new(false),
            api: OnceLock::new(),
            running: Running::new(),
            lookout: Lookout::new(store.abilities()),
            watchers: Watchers::new(&wake),
            rates: Rates::new(),
            busy: Busy::default(),
            phase: Phase::new(),
            hints: AtomicU8::new(0),
            set_aside: AtomicU64::new(0),
            forgotten_keys: AtomicU64::new(0),
            entry: RwLock::new(None),
            lease_thread: Mutex::new(None),
            ledger: Ledger::new(store),
            settings,
            probes,
            runtime,
            wake,
        }
    }

    /// Begins to run tasks on `entry`: recovery of what an earlier process left does not wait for a request.
    ///
    /// # Errors
    ///
    /// The operating system's, if it has no thread left for the leases.
    pub(crate) fn begin(self: &Arc<Self>, entry: Arc<dyn Entry>) -> std::io::Result<()> {
        *self.entry.write().unwrap_or_else(PoisonError::into_inner) = Some(entry);
        let lease_thread = LeaseThread::start(self)?;
        *self.lease_thread.lock().unwrap_or_else(PoisonError::into_inner) = Some(lease_thread);
        self.runtime.spawn(driver::drive(self.clone()));
        Ok(())
    }

    /// Says where clients find the task API, for whoever serves it.
    pub(crate) fn set_api_address(&self, address: ApiAddress) {
        let _ = self.api.set(address);
    }

    /// A new request id, made at `now`.
    pub(crate) fn request_id(&self, now: Instant) -> RequestId {
        let mut random = [0; 10];
        fastrand::fill(&mut random);
        RequestId::from_parts(self.clock.at(now), random)
    }

    /// What tasks run on; none if the application was let go.
    fn entry(&self) -> Option<Arc<dyn Entry>> {
        self.entry.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Gives the driver a reason to look.
    fn hint(&self, hint: Hint) {
        self.hints.fetch_or(1 << hint as u8, Ordering::SeqCst);
        self.wake.notify_one();
    }

    /// A store call with its time limit. What times out may still happen; a panic is a failure like others.
    // No async fn: that keeps its arguments twice.
    fn call<T, F>(&self, operation: &'static str, begin: impl FnOnce() -> F) -> impl Future<Output = StoreResult<T>>
    where
        F: Future<Output = StoreResult<T>>,
    {
        let timing = self.probes.time(operation);
        async move {
            let mut call = pin!(caught_async(begin));
            // In place first: a store that is ready at once costs no timer, and no room for one in its caller's future.
            let answer = match poll_fn(|cx| Poll::Ready(call.as_mut().poll(cx))).await {
                Poll::Ready(answer) => answer,
                Poll::Pending => {
                    let limit = self.settings.store_timeout;
                    let limited = Box::pin(timeout(limit, call)).await;
                    limited.unwrap_or_else(|_| Ok(Err(Self::too_slow(operation, limit))))
                }
            };
            timing.end(answer.unwrap_or_else(|panic| Err(panicked(&panic))))
        }
    }

    /// How long a claim is good for here, counted from before it was asked for: somewhat less than its lease.
    fn holds_for(&self) -> Duration {
        self.settings.lease - self.settings.lease_margin()
    }

    /// A store call that is given up after `limit`.
    async fn limited<T>(
        operation: &'static str,
        limit: Duration,
        call: impl Future<Output = StoreResult<T>>,
    ) -> StoreResult<T> {
        timeout(limit, call)
            .await
            .unwrap_or_else(|_| Err(Self::too_slow(operation, limit)))
    }

    fn too_slow(operation: &'static str, limit: Duration) -> StoreError {
        StoreError::new(
            StoreErrorKind::Unavailable,
            format!("{operation} took longer than {limit:?}"),
        )
    }

    fn trouble(&self, doing: &'static str, error: &StoreError, retry_in: Duration) {
        self.probes.emit(|| Event::Trouble { doing, error, retry_in });
    }
}

/// Where clients find the task API, how long they may wait there, and what they are told of the layer.
#[derive(Clone, Debug, Default)]
#[cfg_attr(not(feature = "api"), expect(dead_code, reason = "what it says is for the task API"))]
pub(crate) struct ApiAddress {
    pub(crate) base: String,
    pub(crate) public_url: Option<String>,
    /// The forwarding headers of requests are believed.
    pub(crate) trust_forwarding: bool,
    /// Links begin with the host that the request names.
    pub(crate) from_host: bool,
    pub(crate) wait_cap: Duration,
    pub(crate) secrets: Arc<Secrets>,
    /// By which names it may be reached while it is open to everybody, beside those that are nobody's to register.
    pub(crate) hosts: Arc<[Box<str>]>,
    /// Whether some API is open to everybody.
    pub(crate) is_open: Arc<AtomicBool>,
    pub(crate) intake: Intake,
}

/// The engine's own clock: monotonic for what it decides, with a wall time for what it shows.
pub(crate) struct EngineClock {
    started: Instant,
    wall: Timestamp,
}

impl EngineClock {
    fn new(simulated: Option<&dyn Clock>) -> Self {
        Self {
            started: Instant::now(),
            wall: simulated.map_or_else(|| SystemClock::new().now(), Clock::now),
        }
    }

    /// The wall time at `now`.
    pub(crate) fn at(&self, now: Instant) -> Timestamp {
        self.wall.saturating_add(now.saturating_duration_since(self.started))
    }

    /// How long the engine has been there at `now`.
    pub(crate) fn uptime(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.started)
    }
}

/// The probes of one engine.
pub(crate) struct Probes(Box<[Arc<dyn Probe>]>);

impl Probes {
    pub(crate) fn new(probes: Vec<Arc<dyn Probe>>) -> Self {
        Self(probes.into())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Tells every probe; the event is not even made where there is none.
    pub(crate) fn emit<'a>(&self, event: impl FnOnce() -> Event<'a>) {
        if self.0.is_empty() {
            return;
        }
        let event = event();
        for probe in &self.0 {
            // It must not panic, but if it does, it is not to take the driver, or a slot, along.
            let _ = caught(|| probe.on_event(&event));
        }
    }

    /// Begins a store call that the probes hear of. Its time limit is inside, so that they hear of what never answers.
    fn time(&self, operation: &'static str) -> Timing<'_> {
        Timing {
            probes: self,
            operation,
            started: (!self.is_empty()).then(Instant::now),
        }
    }

    /// Lets every probe add to a request that is being captured.
    pub(crate) fn capture(&self, request: &mut CapturedRequest) {
        for probe in &self.0 {
            let _ = caught(|| probe.on_capture(request));
        }
    }

    fn scopes<'a>(&self, attempt: impl FnOnce() -> AttemptInfo<'a>) -> Vec<Box<dyn AttemptScope>> {
        if self.0.is_empty() {
            return Vec::new();
        }
        let attempt = attempt();
        let scope = |probe: &Arc<dyn Probe>| caught(|| probe.attempt(&attempt)).ok().flatten();
        self.0.iter().filter_map(scope).collect()
    }
}

/// A store call under way.
struct Timing<'a> {
    probes: &'a Probes,
    operation: &'static str,
    /// Only where somebody wants to know.
    started: Option<Instant>,
}

impl Timing<'_> {
    /// It was answered so.
    fn end<T>(self, answer: StoreResult<T>) -> StoreResult<T> {
        if let Some(started) = self.started {
            self.probes.emit(|| Event::StoreCall {
                operation: self.operation,
                took: started.elapsed(),
                error: answer.as_ref().err(),
            });
        }
        answer
    }
}
