//! [`RespondAsyncBuilder`]: every setting, with its default and the reason for it.

mod address;
mod check;
mod identity;
mod process;

use std::{sync::Arc, time::Duration};

use http::request::Parts;
use serde::{Serialize, de::DeserializeOwned};
use tokio::runtime::Handle;

pub use self::address::Links;
use crate::{
    engine::{Alive, ApiAddress, Backoff, Engine, Hooks, IntakeSettings, Pool, Probes, RetryPolicy, Settings, Strip},
    error::{BoxError, ConfigError},
    hook::{Callbacks, IntoHook},
    layer::{
        Credentials, Dialect, HeaderPolicy, RespondAsyncLayer,
        carry::{self, Carrier},
        config::Config,
        headers::strip,
    },
    probe::Probe,
    store::{Limits, Retention, TaskStore},
    task::{Condition, Conditions},
    wire::{LinkBase, host},
};

const MIB: usize = 1024 * 1024;
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(60 * 60);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// Configures a layer. [`RespondAsyncLayer::builder`] returns it.
///
/// Every setting has a default that is right for most applications. If a setting is invalid, [`build`](Self::build)
/// returns an error that names it.
///
/// ```
/// use std::time::Duration;
///
/// use tower_respond_async::{Backoff, MemoryStore, RespondAsyncLayer};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let layer = RespondAsyncLayer::builder(MemoryStore::new())
///     .concurrency(4)
///     .attempt_timeout(Duration::from_secs(30 * 60))
///     .retry(Backoff::new().max_retries(1))
///     .on_failure(|completion: tower_respond_async::Completion| eprintln!("{completion:?}"))
///     .build()?;
/// # drop(layer);
///
/// let refused = RespondAsyncLayer::builder(MemoryStore::new()).concurrency(0).build();
/// assert_eq!(refused.unwrap_err().setting(), "concurrency");
/// # Ok(()) }
/// ```
#[must_use = "a builder does nothing until it is built"]
pub struct RespondAsyncBuilder {
    store: Arc<dyn TaskStore>,
    settings: Settings,
    config: Config,
    carriers: Vec<Carrier>,
    probes: Vec<Arc<dyn Probe>>,
    runtime: Option<Handle>,
    api_base: String,
    public_url: Option<String>,
    trust_forwarding: bool,
    links: Links,
    hosts: Vec<String>,
    never_async: Vec<String>,
}

impl RespondAsyncBuilder {
    pub(crate) fn new(store: Arc<dyn TaskStore>) -> Self {
        Self {
            store,
            settings: Settings {
                worker_name: "worker".into(),
                version: None,
                version_patience: 10 * MINUTE,
                concurrency: 64,
                limits: Limits {
                    queued: 100_000,
                    per_tenant: u64::MAX,
                    per_pool: u64::MAX,
                },
                pools: Vec::new(),
                buffer_limit: 64 * MIB,
                retry: Arc::new(Backoff::new()),
                crash_allowance: 3,
                attempt_timeout: HOUR,
                stop_grace: Duration::from_secs(5),
                max_age: DAY,
                lease: Duration::from_secs(30),
                retention: Retention {
                    succeeded: DAY,
                    others: 7 * DAY,
                },
                callback_patience: 7 * DAY,
                key_window: DAY,
                store_timeout: Duration::from_secs(10),
                max_waiters: 1024,
                hooks: Hooks::default(),
                simulated: None,
            },
            config: Config {
                dialects: vec![Dialect::Fc, Dialect::Prefer],
                fc_strict: false,
                when: None,
                never_async: Vec::new(),
                links: LinkBase::default(),
                api_base: String::new(),
                body_limit: 2 * MIB,
                body_idle_timeout: Duration::from_secs(10),
                body_timeout: MINUTE,
                wait_cap: MINUTE,
                result_limit: MIB,
                headers: HeaderPolicy::new(),
                tenant: None,
                caller: None,
                credentials: Credentials::default(),
                fingerprint: None,
                function_name: None,
                labels: None,
                carriers: Arc::from([]),
            },
            carriers: carry::unasked(),
            probes: Vec::new(),
            runtime: None,
            api_base: "/tasks".into(),
            public_url: None,
            trust_forwarding: false,
            links: Links::PathAbsolute,
            hosts: Vec::new(),
            never_async: Vec::new(),
        }
    }

    /// Sets the ways to ask for async. Default: [`Dialect::Fc`], [`Dialect::Prefer`].
    ///
    /// The first dialect whose headers the request uses decides, except that `X-Fc-Invocation-Type: Sync` overrides all
    /// others.
    pub fn dialects(mut self, dialects: impl IntoIterator<Item = Dialect>) -> Self {
        self.config.dialects = dialects.into_iter().collect();
        self
    }

    /// Answers exactly as the cloud does. Default: off, since the answers of the cloud contain less.
    ///
    /// The differences: 409 for any known task id, even with the same request; 400 for a body over the limit; and a 202
    /// without a body.
    pub fn fc_strict(mut self) -> Self {
        self.config.fc_strict = true;
        self
    }

    /// Decides by the head of a request whether it may be async. Default: all requests may.
    ///
    /// Other requests are answered synchronously, even if they ask for async. To run requests later that do not ask for
    /// it, [set the header in a layer outside](crate::guide::operating#requests-that-are-always-async).
    pub fn when(mut self, when: impl Fn(&Parts) -> bool + Send + Sync + 'static) -> Self {
        self.config.when = Some(Box::new(when));
        self
    }

    /// Sets the longest request body, in bytes. Longer ones are refused with 413. Default: 2 MiB, as in axum.
    pub fn body_limit(mut self, bytes: usize) -> Self {
        self.config.body_limit = bytes;
        self
    }

    /// Sets how long the next part of a body may take until the request is refused with 408. Default: 10 s.
    ///
    /// Lost packets are sent again in less time, and a stalled client takes up room in the
    /// [`buffer_limit`](Self::buffer_limit).
    pub fn body_idle_timeout(mut self, limit: Duration) -> Self {
        self.config.body_idle_timeout = limit;
        self
    }

    /// Sets how long a whole body may take until the request is refused with 408. Default: 60 s.
    ///
    /// The default is enough for 2 MiB at 35 KB/s.
    pub fn body_timeout(mut self, limit: Duration) -> Self {
        self.config.body_timeout = limit;
        self
    }

    /// Limits the bytes of bodies that are in memory at once to be read and stored. Default: 64 MiB.
    ///
    /// The default is enough for 32 bodies of the greatest length. Requests beyond the limit are refused with 503.
    pub fn buffer_limit(mut self, bytes: usize) -> Self {
        self.settings.buffer_limit = bytes;
        self
    }

    /// Sets how many handlers run at once in this process. Default: 64.
    ///
    /// The default is for handlers that mostly wait. For handlers that keep a core busy, set the number of cores.
    pub fn concurrency(mut self, handlers: usize) -> Self {
        self.settings.concurrency = handlers;
        self
    }

    /// Sets how many tasks may be queued, including delayed ones. Default: 100,000.
    ///
    /// Further requests are refused with 503. A [`MemoryStore`](crate::MemoryStore) keeps the same number of tasks by
    /// default. A store may have a lower limit of its own.
    pub fn queue_depth(mut self, tasks: u64) -> Self {
        self.settings.limits.queued = tasks;
        self
    }

    /// Sets how many tasks of one tenant may be queued. Default: no limit besides [`queue_depth`](Self::queue_depth).
    ///
    /// Further requests of the tenant are refused with 429.
    pub fn tenant_queue_depth(mut self, tasks: u64) -> Self {
        self.settings.limits.per_tenant = tasks;
        self
    }

    /// Gives tasks of one kind their own slots and limits: see [`Pool`].
    ///
    /// You can call it several times. A request belongs to the first pool that matches. Default: one pool, `default`,
    /// with all slots.
    pub fn pool(mut self, pool: Pool) -> Self {
        self.settings.pools.push(pool);
        self
    }

    /// Sets what counts as a failure, and when it is retried. Default: [`Backoff::new`], 3 retries.
    pub fn retry(mut self, policy: impl RetryPolicy) -> Self {
        self.settings.retry = Arc::new(policy);
        self
    }

    /// Sets how long one attempt may take. Default: 1 hour. This ends a handler that hangs; the lease does not.
    ///
    /// The time covers the whole response, to the end of its body.
    ///
    /// - If the time is over before the response head, the attempt has failed, and is retried by the retry policy.
    /// - If the time is over in the middle of the body, the attempt is judged by its response head. The task succeeds
    ///   or fails with the part of the body that has arrived, marked as cut, and is not retried.
    pub fn attempt_timeout(mut self, limit: Duration) -> Self {
        self.settings.attempt_timeout = limit;
        self
    }

    /// Sets how long a handler may continue after the signal to stop, until it is dropped. Default: 5 s.
    ///
    /// That is enough to end a child process and remove a file, and a small part of the 30 s that supervisors give a
    /// process to end.
    pub fn stop_grace(mut self, grace: Duration) -> Self {
        self.settings.stop_grace = grace;
        self
    }

    /// Sets how long a task may wait beyond its delay, retries included, until it expires. Default: 24 hours.
    ///
    /// The default is that of the cloud. The engine checks it every 5 s.
    pub fn max_age(mut self, age: Duration) -> Self {
        self.settings.max_age = age;
        self
    }

    /// Sets the number of crashes after which a task is given up as poison. Default: 3.
    ///
    /// A crash means that the process died while the task ran. One crash may be chance. After it, a worker runs the
    /// task together with no other task that has crashed, so three crashes are not chance.
    pub fn crash_allowance(mut self, crashes: u32) -> Self {
        self.settings.crash_allowance = crashes;
        self
    }

    /// Sets how long a claim holds without a renewal. Default: 30 s.
    ///
    /// This is the longest time for which the tasks of a dead process wait. A separate thread renews claims every third
    /// of it.
    pub fn lease(mut self, lease: Duration) -> Self {
        self.settings.lease = lease;
        self
    }

    /// Sets how long ended tasks are kept: those that succeeded, and all others. Default: 24 hours and 7 days.
    ///
    /// Clients fetch results within 24 hours, and failures of a weekend are still there after it. The engine checks
    /// this every 10 s. A task with a pending completion is kept. If the completion is given up, the task is kept for
    /// the same time again.
    pub fn retention(mut self, succeeded: Duration, others: Duration) -> Self {
        self.settings.retention = Retention { succeeded, others };
        self
    }

    /// Sets how long a completion may be due without being delivered until it is given up. Default: 7 days.
    ///
    /// A completion stays due if its destination is no longer configured, or has been silent for so long that the
    /// completion never gets its turn. The default leaves time to notice a wrong configuration.
    /// [Callbacks](crate::guide::callbacks#names) says what happens then. The engine checks this every 10 s, in a
    /// process that has been up for an hour, or for this time if it is shorter.
    pub fn callback_patience(mut self, patience: Duration) -> Self {
        self.settings.callback_patience = patience;
        self
    }

    /// Sets how long an `Idempotency-Key` is kept, even if its task is removed earlier. Default: 24 hours.
    ///
    /// Clients do not retry for longer than the default. A request with the key of a task that was removed is answered
    /// with 410 `TaskGone`.
    pub fn dedup_window(mut self, window: Duration) -> Self {
        self.settings.key_window = window;
        self
    }

    /// Sets how many bytes of a response body are kept. Default: 1 MiB.
    ///
    /// A longer body is still read to its end, since a handler may work while its body is read. Clients get the part
    /// that was kept, with `X-Respond-Async-Truncated: true`. Store larger results elsewhere, and answer with their
    /// address.
    pub fn result_limit(mut self, bytes: usize) -> Self {
        self.config.result_limit = bytes;
        self
    }

    /// Sets the longest time for which an answer waits, as with `Prefer: wait=N` or `?wait=N`. Default: 60 s.
    ///
    /// The default is below the limits of proxies.
    pub fn wait_cap(mut self, cap: Duration) -> Self {
        self.config.wait_cap = cap;
        self
    }

    /// Sets how many clients may wait at once. Default: 1,024, since each keeps a connection open.
    ///
    /// Further clients are answered without waiting.
    pub fn max_waiters(mut self, callers: usize) -> Self {
        self.settings.max_waiters = callers;
        self
    }

    /// Sets how long one store operation may take until it counts as failed. Default: 10 s.
    ///
    /// That is far more than a healthy store needs, and less than clients wait for a 202.
    pub fn store_timeout(mut self, limit: Duration) -> Self {
        self.settings.store_timeout = limit;
        self
    }

    /// Sets which headers are stored, and which values are secret. Default: [`HeaderPolicy::new`].
    pub fn headers(mut self, policy: HeaderPolicy) -> Self {
        self.config.headers = policy;
        self
    }

    /// Carries the request extension `T`, which a layer outside has set, to every attempt.
    ///
    /// It is stored as JSON under `name`. Keep the name for as long as tasks with it are stored. If an extension cannot
    /// be encoded, the request is refused with 400. If it cannot be decoded later, the attempt fails.
    pub fn carry<T>(mut self, name: impl Into<String>) -> Self
    where
        T: Serialize + DeserializeOwned + Clone + Send + Sync + 'static,
    {
        self.carriers.push(Carrier::serde::<T>(name.into()));
        self
    }

    /// Like [`carry`](Self::carry), with your own encoding.
    pub fn carry_with<T, E, D>(mut self, name: impl Into<String>, encode: E, decode: D) -> Self
    where
        T: Clone + Send + Sync + 'static,
        E: Fn(&T) -> Result<Vec<u8>, BoxError> + Send + Sync + 'static,
        D: Fn(&[u8]) -> Result<T, BoxError> + Send + Sync + 'static,
    {
        self.carriers.push(Carrier::with(name.into(), encode, decode));
        self
    }

    /// Carries axum's `ConnectInfo<SocketAddr>`, so that handlers can extract it in every attempt.
    #[cfg(feature = "axum")]
    pub fn carry_connect_info(self) -> Self {
        use std::net::SocketAddr;

        use axum::extract::ConnectInfo;

        self.carry_with(
            "axum.connect-info",
            |ConnectInfo(address): &ConnectInfo<SocketAddr>| Ok(address.to_string().into_bytes()),
            |bytes| Ok(ConnectInfo(std::str::from_utf8(bytes)?.parse::<SocketAddr>()?)),
        )
    }

    /// Calls `hook` for every task that succeeded. See [`hook`](crate::hook).
    pub fn on_success<M>(self, hook: impl IntoHook<M>) -> Self {
        self.hook(Conditions::NONE.with(Condition::Success), hook)
    }

    /// Calls `hook` for every task that failed, expired or could not be read.
    pub fn on_failure<M>(self, hook: impl IntoHook<M>) -> Self {
        self.hook(Conditions::NONE.with(Condition::Failure), hook)
    }

    /// Calls `hook` for every task that was stopped.
    pub fn on_stop<M>(self, hook: impl IntoHook<M>) -> Self {
        self.hook(Conditions::NONE.with(Condition::Stop), hook)
    }

    /// Calls `hook` for every task that ended, however it ended.
    pub fn on_completion<M>(self, hook: impl IntoHook<M>) -> Self {
        self.hook(Conditions::ALL, hook)
    }

    /// Lets requests name a callback URL that `policy` admits. Default: no callbacks.
    ///
    /// A request names it by `Prefer: respond-async, callback; url="https://..."` or by `X-Callback-Url`. Without a
    /// policy, both are ignored. With the feature `webhook`, use `hook::webhook::CallbackPolicy`.
    pub fn callbacks(mut self, policy: impl Callbacks) -> Self {
        self.settings.hooks.set_callbacks(Arc::new(policy));
        self
    }

    fn hook<M>(mut self, on: Conditions, hook: impl IntoHook<M>) -> Self {
        self.settings.hooks.add(on, hook.into_hook());
        self
    }

    /// Adds a probe, which receives the events of the engine: see [`probe`](crate::probe).
    ///
    /// You can call it several times.
    pub fn probe(mut self, probe: impl Probe) -> Self {
        self.probes.push(Arc::new(probe));
        self
    }

    /// Sets the runtime that runs the tasks. Default: the runtime in which [`build`](Self::build) is called.
    pub fn runtime(mut self, runtime: Handle) -> Self {
        self.runtime = Some(runtime);
        self
    }

    /// For tests on a paused clock and for simulations: everything follows the time of the runtime.
    ///
    /// `clock` gives the times that are shown and the times in request ids. Leases are renewed on the runtime that runs
    /// the tasks. Do not use it in an application: a handler that blocks its thread would lose every claim.
    #[cfg(feature = "testing")]
    pub fn simulated(mut self, clock: impl crate::time::Clock) -> Self {
        self.settings.simulated = Some(Arc::new(clock));
        self
    }

    /// Builds the layer.
    ///
    /// # Errors
    ///
    /// Returns a [`ConfigError`] that names the first invalid setting and the problem. It names `runtime` if no runtime
    /// was set and this is called outside of a Tokio runtime.
    pub fn build(self) -> Result<RespondAsyncLayer, ConfigError> {
        self.check()?;
        let runtime = match self.runtime {
            Some(runtime) => runtime,
            None => Handle::try_current().map_err(|_| {
                ConfigError::new(
                    "runtime",
                    "there is none here: call build within a tokio runtime, or name one with .runtime(handle)",
                )
            })?,
        };
        let mut config = self.config;
        config.never_async = self.never_async;
        config.api_base.clone_from(&self.api_base);
        config.carriers = self.carriers.into();
        let of_public_url = self
            .public_url
            .as_deref()
            .and_then(|url| url.split("://").nth(1)?.split('/').next());
        let hosts = self.hosts.iter().map(String::as_str).chain(of_public_url);
        let hosts = hosts.filter_map(host::read).map(String::into_boxed_str).collect();
        let address = ApiAddress {
            base: self.api_base,
            public_url: self.public_url,
            trust_forwarding: self.trust_forwarding,
            from_host: self.links == Links::FromHost,
            wait_cap: config.wait_cap,
            hosts,
            is_open: Arc::default(),
            is_mounted: Arc::default(),
            secrets: Arc::new(config.headers.secrets().clone()),
            intake: IntakeSettings {
                dialects: config.dialects.iter().map(|dialect| dialect.as_str()).collect(),
                body_limit: config.body_limit,
                body_timeout: config.body_timeout,
                body_idle_timeout: config.body_idle_timeout,
                result_limit: config.result_limit,
                strip: {
                    let policy = config.headers.clone();
                    Strip::new(move |headers, method| strip(headers, method, &policy))
                },
            },
        };
        config.links = LinkBase::new(&address);
        let engine = Engine::new(self.store, self.settings, Probes::new(self.probes), runtime, address);
        Ok(RespondAsyncLayer::from_parts(Arc::new(Alive(Arc::new(engine))), config))
    }
}

impl std::fmt::Debug for RespondAsyncBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RespondAsyncBuilder")
            .field("store", &self.store)
            .finish_non_exhaustive()
    }
}
