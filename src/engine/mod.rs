//! Accepts tasks, runs them and delivers their completions. Uses the traits of the stores, and no HTTP server.
//!
//! The engine has a [core](core::Core) (the store, the settings, the probes) and four parts. Each part uses only the
//! core and the parts listed below it.
//!
//! - [`duties`]: what a process does besides attempts: it claims, rescues, prunes, reports, and follows other processes
//! - [`intake`]: accepts tasks; the layer stores tasks only through it
//! - [`outbox`]: delivers completions to destinations
//! - [`attempts`]: runs tasks, renews their leases, judges how attempts ended
//!
//! [`attempts::attempt`] and [`node`] are two pure state machines: times, randomness and results go in, actions come
//! out. [`attempts::run`] and [`duties`] carry out the actions. [`pools`] gives slots to tasks, [`watch`] wakes
//! waiters, [`shutdown`] ends everything, and [`tasks`] is the handle for applications.

mod api_address;
mod attempts;
mod busy;
mod caught;
mod clock;
mod core;
mod duties;
mod intake;
mod latch;
mod node;
mod outbox;
mod phase;
mod pools;
mod probes;
mod rates;
mod settings;
mod shutdown;
mod slots;
mod sync;
mod tasks;
mod under_way;
mod watch;

use std::{io, sync::Arc};

use tokio::{
    runtime::Handle,
    sync::{Mutex, Semaphore},
};

pub(crate) use self::{
    api_address::ApiAddress,
    attempts::{
        Attempts,
        answer_buffer::{AnswerWriter, BodyBuffer},
        entry::{BodyEnd, Entry, Replayed},
    },
    intake::{
        Intake,
        accept::{Accepting, Unaccepted},
        budget::{Budget, Reserved},
    },
    outbox::destinations::Hooks,
    probes::Probes,
    settings::{IntakeSettings, Settings, Strip},
    tasks::Alive,
};
pub use self::{
    attempts::{
        context::TaskContext,
        retry::{AttemptEnd, Backoff, DoNotRetry, RetryPolicy, Verdict},
    },
    pools::pool::Pool,
    shutdown::ShutdownReport,
    tasks::{
        Tasks, WeakTasks,
        follow::Changes,
        stats::{ProcessStats, Stats},
        steering::{PausedPool, PoolError, PoolStats},
        submit::{Submission, SubmitError, Submitted},
    },
};
use self::{core::Core, duties::Duties, outbox::Outbox};
#[cfg(feature = "api")]
pub(crate) use self::{tasks::observe::Observer, watch::feed::Position};
use crate::store::TaskStore;

/// Everything that runs tasks in this process, for one layer.
pub(crate) struct Engine {
    core: Arc<Core>,
    attempts: Arc<Attempts>,
    outbox: Arc<Outbox>,
    pub(crate) intake: Arc<Intake>,
    duties: Arc<Duties>,
    /// The report of the shutdown, once it is over. The first call of `shutdown` holds the lock; a second call waits
    /// for it.
    report: Mutex<Option<ShutdownReport>>,
    /// Limits the number of open streams.
    #[cfg_attr(not(feature = "api"), expect(dead_code, reason = "only the task API has streams"))]
    observers: Arc<Semaphore>,
}

impl Engine {
    pub(crate) fn new(
        store: Arc<dyn TaskStore>,
        settings: Settings,
        probes: Probes,
        runtime: Handle,
        api: ApiAddress,
    ) -> Self {
        let core = Arc::new(Core::new(store, settings, probes, runtime, api));
        let attempts = Arc::new(Attempts::new(core.clone()));
        let outbox = Arc::new(Outbox::new(core.clone()));
        let intake = Arc::new(Intake::new(core.clone(), attempts.clone(), outbox.clone()));
        Self {
            observers: Arc::new(Semaphore::new(core.settings.max_waiters.min(Semaphore::MAX_PERMITS))),
            duties: Arc::new(Duties::new(intake.clone())),
            report: Mutex::new(None),
            core,
            attempts,
            outbox,
            intake,
        }
    }

    /// Begins to run tasks on `entry`. Tasks of an earlier process run without waiting for a first request.
    ///
    /// # Errors
    ///
    /// The error of the operating system if it cannot start the thread for leases.
    pub(crate) fn begin(&self, entry: Arc<dyn Entry>) -> io::Result<()> {
        self.attempts.begin(entry)?;
        self.core.runtime.spawn(duties::drive(self.duties.clone()));
        Ok(())
    }

    /// Whether a task API is mounted, so that answers can link to it.
    pub(crate) fn is_api_mounted(&self) -> bool {
        self.core.api.is_mounted()
    }
}
