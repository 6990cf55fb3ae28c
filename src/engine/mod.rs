//! What decides and drives: it knows the ports, and neither HTTP nor any one store.
//!
//! It has four parts, which know each other downwards only, and work with one [core](core::Core): the store, the settings,
//! the probes.
//!
//! - [`Duties`](driver::Duties): what a process does besides: claims, rescues, prunes, reports, hears of other processes
//! - [`Intake`]: takes tasks in; all that the layer talks to
//! - [`Outbox`](outbox::Outbox): tells destinations that tasks ended
//! - [`Attempts`](attempts::Attempts): runs tasks, keeps their claims, judges how they ended
//!
//! [`attempt`] and [`node`] are the two pure machines: times, randomness and results go in, actions come out. [`run`] and
//! [`driver`] carry the actions out. [`shutdown`] ends it all; [`tasks`] is the handle that applications hold.

mod accept;
mod accept_all;
mod answering;
mod api_address;
pub(crate) mod attempt;
mod attempts;
mod budget;
mod busy;
mod caught;
mod claim;
mod clock;
mod context;
mod core;
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
mod insert;
mod intake;
mod judge;
mod lease;
mod log;
mod lookout;
pub(crate) mod node;
#[cfg(feature = "api")]
mod observe;
mod outbox;
mod pool;
mod pool_control;
mod pool_steering;
mod pools;
mod probes;
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

use std::{io, sync::Arc};

use tokio::{runtime::Handle, sync::Semaphore};

pub(crate) use self::{
    accept::{Accepting, Unaccepted},
    answering::{Answering, Gathered},
    api_address::ApiAddress,
    budget::{Budget, Reserved},
    destinations::Hooks,
    entry::{BodyEnd, Entry, Replayed},
    intake::Intake,
    probes::Probes,
    settings::{IntakeSettings, Settings, Strip},
    tasks::Alive,
};
use self::{attempts::Attempts, core::Core, driver::Duties, outbox::Outbox};
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
use crate::store::TaskStore;

/// Everything that runs tasks in this process, for one layer.
pub(crate) struct Engine {
    core: Arc<Core>,
    attempts: Arc<Attempts>,
    outbox: Arc<Outbox>,
    pub(crate) intake: Arc<Intake>,
    duties: Arc<Duties>,
    /// Room for those who look on for long.
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
            core,
            attempts,
            outbox,
            intake,
        }
    }

    /// Begins to run tasks on `entry`: recovery of what an earlier process left does not wait for a request.
    ///
    /// # Errors
    ///
    /// The operating system's, if it has no thread left for the leases.
    pub(crate) fn begin(&self, entry: Arc<dyn Entry>) -> io::Result<()> {
        self.attempts.begin(entry)?;
        self.core.runtime.spawn(driver::drive(self.duties.clone()));
        Ok(())
    }

    /// Whether there is a task API that answers can point at.
    pub(crate) fn is_api_mounted(&self) -> bool {
        self.core.api.is_mounted()
    }
}
