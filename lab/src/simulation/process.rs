//! One process of the simulation: the shipped layer and engine, on a runtime whose clock the simulation moves.

use std::{sync::Arc, time::Duration};

use http::{Request, Response, request::Parts};
use tokio::{
    runtime::{Builder, EnterGuard, Runtime},
    time::{Instant, advance, sleep_until},
};
use tower::{Layer, ServiceExt, service_fn, util::BoxCloneSyncService};
use tower_respond_async::{Backoff, BoxError, RequestBody, RespondAsyncLayer, Tasks, Tenant, store::TaskStore};

use super::{
    clients::Sent,
    ends::{GONE, Hook, Listener, Receiver, TOLD},
    gate::Faulty,
    handler::handle,
    standing::Standing,
    tap::Tap,
    world::{
        ATTEMPT_TIMEOUT, BUDGET, CRASH_ALLOWANCE, FOR_EVER, LEASE, MAX_ATTEMPTS, PATIENCE, STOP_GRACE, STORE_TIMEOUT,
        Shared,
    },
};

/// The longest body that is accepted.
const BODY_LIMIT: usize = 500;
/// The header that names the tenant.
pub(super) const TENANT: &str = "x-tenant";

/// The application of a process, behind the layer.
pub(super) type App = BoxCloneSyncService<Request<Sent>, Response<()>, BoxError>;

/// A process. Dropping it ends it at once.
pub(super) struct Process {
    pub(super) number: u32,
    shared: Shared,
    /// Declared before the runtime, so that it is dropped before the runtime's tasks.
    pub(super) app: App,
    pub(super) tasks: Tasks,
    runtime: Runtime,
}

/// How a process is built.
pub(super) struct Build {
    pub(super) number: u32,
    pub(super) slots: usize,
    pub(super) max_age: Duration,
    pub(super) is_told: bool,
    pub(super) knows_gone: bool,
}

impl Process {
    /// Starts a process on this store.
    pub(super) fn start(
        shared: &Shared,
        store: Arc<Faulty>,
        handle_of: Option<Arc<dyn TaskStore>>,
        build: Build,
    ) -> Self {
        let Build { number, slots, .. } = build;
        let runtime = Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .expect("a runtime without I/O needs nothing");
        let shown = runtime.block_on(async { Instant::now() });
        let mut world = shared.lock();
        let (now, retention, clock) = (world.now, world.retention, world.skewed_clock());
        world.processes.insert(number, Standing::new(slots, shown, now));
        drop(world);
        let entered = runtime.enter();
        let tap = Tap {
            shared: shared.clone(),
            process: number,
            store,
            handle: handle_of,
            is_told: build.is_told,
        };
        let hook: Arc<dyn tower_respond_async::CompletionHook> = Arc::new(Hook {
            shared: shared.clone(),
            process: number,
        });
        let receiver = |name| Receiver::new(shared.clone(), number, name);
        let mut builder = RespondAsyncLayer::builder(tap)
            .simulated(clock)
            .worker_name(format!("process-{number}"))
            .concurrency(slots)
            .lease(LEASE)
            .store_timeout(STORE_TIMEOUT)
            .attempt_timeout(ATTEMPT_TIMEOUT)
            .stop_grace(STOP_GRACE)
            .retry(Backoff::new().max_retries(MAX_ATTEMPTS - 1))
            .crash_allowance(CRASH_ALLOWANCE)
            .max_age(build.max_age)
            .dedup_window(FOR_EVER)
            .retention(retention.succeeded, retention.others)
            .callback_patience(PATIENCE)
            .body_limit(BODY_LIMIT)
            .buffer_limit(BUDGET)
            .tenant(tenant_of)
            .on_completion(hook)
            .on_completion(receiver(TOLD))
            .probe(Listener {
                shared: shared.clone(),
                process: number,
                slots,
            });
        if build.knows_gone {
            builder = builder.on_completion(receiver(GONE));
        }
        let layer = builder.build().expect("the settings make sense");
        let tasks = layer.tasks();
        let of_handlers = shared.clone();
        let app = layer.layer(service_fn(move |request: Request<RequestBody>| {
            handle(of_handlers.clone(), number, request)
        }));
        let app = service_fn(move |request: Request<Sent>| {
            let request = request.map(RequestBody::live);
            let app = app.clone();
            async move { Ok(app.oneshot(request).await?.map(|_| ())) }
        });
        drop(entered);
        Self {
            number,
            shared: shared.clone(),
            app: BoxCloneSyncService::new(app),
            tasks,
            runtime,
        }
    }

    /// Runs it to this time, or until it is halted.
    pub(super) fn drive(&self, until: Duration) {
        let world = self.shared.lock();
        let Some(standing) = world.processes.get(&self.number) else {
            return;
        };
        let (halt, until) = (standing.halt.clone(), standing.shown_at(until));
        drop(world);
        let is_halted = || !self.shared.lock().is_awake(self.number);
        let halted = async {
            while !is_halted() {
                halt.notified().await;
            }
        };
        self.runtime.block_on(async {
            tokio::select! {
                biased;
                () = halted => {}
                () = sleep_until(until) => {}
            }
        });
    }

    /// Moves its clock to `now` after a standstill, before anything in it runs.
    pub(super) fn catch_up(&self, now: Duration) {
        let world = self.shared.lock();
        let Some(standing) = world.processes.get(&self.number) else {
            return;
        };
        let shown = standing.shown_at(now);
        drop(world);
        self.runtime.block_on(async {
            let behind = shown.saturating_duration_since(Instant::now());
            advance(behind).await;
        });
    }

    /// Spawns a task on its runtime.
    pub(super) fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        self.runtime.spawn(work);
    }

    /// Enters its runtime.
    pub(super) fn enter(&self) -> EnterGuard<'_> {
        self.runtime.enter()
    }

    /// Begins a shutdown: it claims nothing more, and running attempts have `grace`.
    pub(super) fn shut_down(&self, grace: Duration) {
        let (tasks, shared, number) = (self.tasks.clone(), self.shared.clone(), self.number);
        if let Some(standing) = shared.lock().processes.get_mut(&number) {
            standing.is_closing = true;
        }
        self.spawn(async move {
            tasks.shutdown(grace).await;
            let mut world = shared.enter(number);
            world.note(format_args!("process {number} has shut down"));
            if let Some(standing) = world.processes.get_mut(&number) {
                standing.is_closed = true;
            }
        });
    }

    /// Ends it, with everything that it was doing.
    pub(super) fn end(self) {
        let Self {
            number,
            shared,
            app,
            tasks,
            runtime,
        } = self;
        if let Some(standing) = shared.lock().processes.get_mut(&number) {
            standing.is_gone = true;
        }
        runtime.shutdown_background();
        drop((app, tasks));
        let mut world = shared.lock();
        let parked = world.take_orphaned(number);
        world.processes.remove(&number);
        world.handlers.retain(|(process, ..), _| *process != number);
        drop(world);
        drop(parked);
    }
}

fn tenant_of(head: &Parts) -> Option<Tenant> {
    let tenant = head.headers.get(TENANT)?.to_str().ok()?;
    Some(Tenant::new(tenant))
}
