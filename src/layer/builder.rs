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

/// A layer being configured. Made by [`RespondAsyncLayer::builder`].
///
/// Every setting has a default that is right for most; [`build`](Self::build) refuses what makes no sense, and names the
/// setting.
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

    /// Which ways of asking for async are understood, the first to find itself addressed decides. Default: [`Dialect::Fc`],
    /// [`Dialect::Prefer`].
    pub fn dialects(mut self, dialects: impl IntoIterator<Item = Dialect>) -> Self {
        self.config.dialects = dialects.into_iter().collect();
        self
    }

    /// Answers as the cloud does to the letter: 409 for any task id that is known, even of the same request, 400 for a
    /// body over the limit, and a 202 without a body. Default: off, since each tells a client less.
    pub fn fc_strict(mut self) -> Self {
        self.config.fc_strict = true;
        self
    }

    /// Which requests may go async, by their head; the others are answered synchronously whatever they ask for. Default:
    /// all.
    ///
    /// The opposite is no setting but a header: [a layer outside sets
    /// it](crate::guide::operating#requests-that-are-always-async) on requests that go async though they do not ask.
    pub fn when(mut self, when: impl Fn(&Parts) -> bool + Send + Sync + 'static) -> Self {
        self.config.when = Some(Box::new(when));
        self
    }

    /// The longest body that is taken in, in bytes; longer ones are refused with 413. Default: 2 MiB, as axum's.
    pub fn body_limit(mut self, bytes: usize) -> Self {
        self.config.body_limit = bytes;
        self
    }

    /// How long a body may make no progress before it is refused with 408. Default: 10 s: lost packets are sent again in
    /// less, and a client that stalls takes up room in the [`buffer_limit`](Self::buffer_limit).
    pub fn body_idle_timeout(mut self, limit: Duration) -> Self {
        self.config.body_idle_timeout = limit;
        self
    }

    /// How long a body may take as a whole before it is refused with 408. Default: 60 s, which 2 MiB manage at 35 KB/s.
    pub fn body_timeout(mut self, limit: Duration) -> Self {
        self.config.body_timeout = limit;
        self
    }

    /// How many bytes of bodies are held at once while they are read and stored; beyond, 503. Default: 64 MiB, 32 bodies
    /// of the greatest length.
    pub fn buffer_limit(mut self, bytes: usize) -> Self {
        self.settings.buffer_limit = bytes;
        self
    }

    /// How many handlers run at once in this process. Default: 64, for handlers that wait for something; for those that
    /// keep a core busy, as many as there are cores.
    pub fn concurrency(mut self, handlers: usize) -> Self {
        self.settings.concurrency = handlers;
        self
    }

    /// How many tasks may wait, delayed ones among them; beyond, 503. Default: 100,000, as many tasks as a
    /// [`MemoryStore`](crate::MemoryStore) keeps unless told otherwise. A store may have a lower bound of its own.
    pub fn queue_depth(mut self, tasks: u64) -> Self {
        self.settings.limits.queued = tasks;
        self
    }

    /// How many tasks of one tenant may wait; beyond, 429. Default: as many as of all.
    pub fn tenant_queue_depth(mut self, tasks: u64) -> Self {
        self.settings.limits.per_tenant = tasks;
        self
    }

    /// Gives tasks of some kind slots and limits of their own: see [`Pool`]. May be given several times; a request belongs to
    /// the first that matches. Default: one pool, `default`, which has all slots.
    pub fn pool(mut self, pool: Pool) -> Self {
        self.settings.pools.push(pool);
        self
    }

    /// What counts as failure, and when it is tried again. Default: [`Backoff::new`], 3 retries.
    pub fn retry(mut self, policy: impl RetryPolicy) -> Self {
        self.settings.retry = Arc::new(policy);
        self
    }

    /// How long one attempt may take. Default: 1 hour. A lease is no run limit: this is what ends a handler that hangs.
    ///
    /// The time is for the whole response, to the end of its body. If it is over before there is a head, the attempt has
    /// failed, and is tried again. If it is over amid the body, the attempt is judged by its status: the task has succeeded
    /// or failed with what was sent so far, marked as cut, and is not tried again.
    pub fn attempt_timeout(mut self, limit: Duration) -> Self {
        self.settings.attempt_timeout = limit;
        self
    }

    /// How long a handler that was told to end may take before it is dropped. Default: 5 s: enough to end a child process
    /// and remove a file, and little of the 30 s that supervisors give a process to end.
    pub fn stop_grace(mut self, grace: Duration) -> Self {
        self.settings.stop_grace = grace;
        self
    }

    /// How long a task may wait beyond its delay, retries included, before it expires. Default: 24 hours, as in the cloud.
    /// Looked for every 5 s.
    pub fn max_age(mut self, age: Duration) -> Self {
        self.settings.max_age = age;
        self
    }

    /// How many times a task may take its process down before it is given up as poison. Default: 3: once can be chance,
    /// and a suspect is run alone among suspects, so that three times is not.
    pub fn crash_allowance(mut self, crashes: u32) -> Self {
        self.settings.crash_allowance = crashes;
        self
    }

    /// How long a claim holds without being renewed. Default: 30 s: the longest that the tasks of a dead process wait. It
    /// is renewed every third of that, from a thread of its own.
    pub fn lease(mut self, lease: Duration) -> Self {
        self.settings.lease = lease;
        self
    }

    /// How long ended tasks are kept: those that succeeded, and all others. Default: 24 hours, in which who wants a
    /// result fetches it, and 7 days, since failures are looked into after the weekend. Looked for every 10 s. A task
    /// is kept while somebody is still to be told of its end, and as long again once that was given up.
    pub fn retention(mut self, succeeded: Duration, others: Duration) -> Self {
        self.settings.retention = Retention { succeeded, others };
        self
    }

    /// How long a completion may be due without anybody taking it before it is given up: its destination is no longer
    /// configured, or has not answered for so long that its turn does not come. Default: 7 days, as failures are kept:
    /// a configuration that was wrong is found in that time. [Callbacks](crate::guide::callbacks#names) says what
    /// becomes of it. Looked for every 10 s, in a process that has been up for an hour, or for this long if that is
    /// less.
    pub fn callback_patience(mut self, patience: Duration) -> Self {
        self.settings.callback_patience = patience;
        self
    }

    /// How long an `Idempotency-Key` is remembered, whether its task is kept or not. Default: 24 hours: longer than clients go
    /// on trying. A request under the key of a task that was deleted or has made room for others is answered 410 `TaskGone`.
    pub fn dedup_window(mut self, window: Duration) -> Self {
        self.settings.key_window = window;
        self
    }

    /// How much of a response body is kept, in bytes; what is longer is read to its end all the same, since a handler may do
    /// its work as it is read, and is handed out cut, with `X-Respond-Async-Truncated: true`. Default: 1 MiB: what is larger belongs where files are kept, and its address
    /// into the response.
    pub fn result_limit(mut self, bytes: usize) -> Self {
        self.config.result_limit = bytes;
        self
    }

    /// The longest that `Prefer: wait=N` and the like hold an answer. Default: 60 s, below what proxies cut off.
    pub fn wait_cap(mut self, cap: Duration) -> Self {
        self.config.wait_cap = cap;
        self
    }

    /// How many callers may wait at once; more are answered without waiting. Default: 1,024, since each
    /// keeps a connection open.
    pub fn max_waiters(mut self, callers: usize) -> Self {
        self.settings.max_waiters = callers;
        self
    }

    /// How long one store operation may take before it counts as failed. Default: 10 s: far more than a sound store takes,
    /// and less than clients wait for a 202.
    pub fn store_timeout(mut self, limit: Duration) -> Self {
        self.settings.store_timeout = limit;
        self
    }

    /// Which headers are stored, and which values no view shows. Default: [`HeaderPolicy::new`].
    pub fn headers(mut self, policy: HeaderPolicy) -> Self {
        self.config.headers = policy;
        self
    }

    /// Carries the request extension `T`, put there by a layer outside this one, to every attempt: encoded as JSON under
    /// `name`, which must stay the same as long as tasks are stored that were accepted with it.
    ///
    /// An extension that cannot be encoded refuses its request; one that cannot be decoded later fails the attempt.
    pub fn carry<T>(mut self, name: impl Into<String>) -> Self
    where
        T: Serialize + DeserializeOwned + Clone + Send + Sync + 'static,
    {
        self.carriers.push(Carrier::serde::<T>(name.into()));
        self
    }

    /// [`carry`](Self::carry) with an encoding of one's own.
    pub fn carry_with<T, E, D>(mut self, name: impl Into<String>, encode: E, decode: D) -> Self
    where
        T: Clone + Send + Sync + 'static,
        E: Fn(&T) -> Result<Vec<u8>, BoxError> + Send + Sync + 'static,
        D: Fn(&[u8]) -> Result<T, BoxError> + Send + Sync + 'static,
    {
        self.carriers.push(Carrier::with(name.into(), encode, decode));
        self
    }

    /// Carries axum's `ConnectInfo<SocketAddr>`, so that it can be extracted in every attempt.
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

    /// Tells `hook` of every task that succeeded. See [`hook`](crate::hook).
    pub fn on_success<M>(self, hook: impl IntoHook<M>) -> Self {
        self.hook(Conditions::NONE.with(Condition::Success), hook)
    }

    /// Tells `hook` of every task that failed, expired or could not be read.
    pub fn on_failure<M>(self, hook: impl IntoHook<M>) -> Self {
        self.hook(Conditions::NONE.with(Condition::Failure), hook)
    }

    /// Tells `hook` of every task that was stopped.
    pub fn on_stop<M>(self, hook: impl IntoHook<M>) -> Self {
        self.hook(Conditions::NONE.with(Condition::Stop), hook)
    }

    /// Tells `hook` of every task that ended, however it did.
    pub fn on_completion<M>(self, hook: impl IntoHook<M>) -> Self {
        self.hook(Conditions::ALL, hook)
    }

    /// Lets requests name a URL at which to be told how their task ended, under this policy: by
    /// `Prefer: respond-async, callback; url="https://..."` or `X-Callback-Url`. Default: none may, and both are ignored.
    ///
    /// With the feature `webhook`, `hook::webhook::CallbackPolicy` is one.
    pub fn callbacks(mut self, policy: impl Callbacks) -> Self {
        self.settings.hooks.set_callbacks(Arc::new(policy));
        self
    }

    fn hook<M>(mut self, on: Conditions, hook: impl IntoHook<M>) -> Self {
        self.settings.hooks.add(on, hook.into_hook());
        self
    }

    /// Lets `probe` watch the engine. May be given several times. See [`probe`](crate::probe).
    pub fn probe(mut self, probe: impl Probe) -> Self {
        self.probes.push(Arc::new(probe));
        self
    }

    /// The runtime that runs the tasks. Default: the one that `build` is called in.
    pub fn runtime(mut self, runtime: Handle) -> Self {
        self.runtime = Some(runtime);
        self
    }

    /// For tests on a paused clock, and for simulations: what is shown, and request ids, go by `clock`, and leases are kept on
    /// the runtime that runs the tasks. So all that the engine does follows that runtime's time.
    ///
    /// Not for an application: a handler that blocks its thread would lose every claim.
    #[cfg(feature = "testing")]
    pub fn simulated(mut self, clock: impl crate::time::Clock) -> Self {
        self.settings.simulated = Some(Arc::new(clock));
        self
    }

    /// The layer.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] names the first setting that makes no sense and says why; or `runtime`, if none was given and this
    /// is not called within one.
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
