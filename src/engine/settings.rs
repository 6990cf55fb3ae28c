//! The settings of an engine.

use std::{fmt, sync::Arc, time::Duration};

use http::{HeaderMap, Method};

use crate::{
    engine::{attempts::retry::RetryPolicy, outbox::destinations::Hooks, pools::pool::Pool},
    store::{Limits, Retention},
    time::Clock,
};

/// The settings of an engine. The builder documents each default.
pub(crate) struct Settings {
    pub(crate) worker_name: Arc<str>,
    pub(crate) version: Option<Arc<str>>,
    pub(crate) version_patience: Duration,
    pub(crate) concurrency: usize,
    pub(crate) limits: Limits,
    pub(crate) pools: Vec<Pool>,
    pub(crate) buffer_limit: usize,
    pub(crate) retry: Arc<dyn RetryPolicy>,
    pub(crate) crash_allowance: u32,
    pub(crate) attempt_timeout: Duration,
    pub(crate) stop_grace: Duration,
    pub(crate) max_age: Duration,
    pub(crate) lease: Duration,
    pub(crate) retention: Retention,
    pub(crate) callback_patience: Duration,
    pub(crate) key_window: Duration,
    pub(crate) store_timeout: Duration,
    pub(crate) max_waiters: usize,
    pub(crate) hooks: Hooks,
    /// The clock of a simulation, which controls the time and the runtime of this process.
    pub(crate) simulated: Option<Arc<dyn Clock>>,
}

/// Removes headers from a request before it is stored, depending on its method. The default removes none.
#[derive(Clone, Default)]
pub(crate) struct Strip(Option<Arc<StripHeaders>>);

type StripHeaders = dyn Fn(&mut HeaderMap, &Method) + Send + Sync;

#[cfg_attr(
    not(feature = "api"),
    expect(dead_code, reason = "only the task API stores headers beside the layer")
)]
impl Strip {
    pub(crate) fn new(strip: impl Fn(&mut HeaderMap, &Method) + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(strip)))
    }

    pub(crate) fn apply(&self, headers: &mut HeaderMap, method: &Method) {
        if let Some(strip) = &self.0 {
            strip(headers, method);
        }
    }
}

impl fmt::Debug for Strip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Strip").finish_non_exhaustive()
    }
}

/// The settings of the layer that the task API uses.
#[derive(Clone, Debug, Default)]
#[cfg_attr(not(feature = "api"), expect(dead_code, reason = "what it says is for the task API"))]
pub(crate) struct IntakeSettings {
    pub(crate) dialects: Vec<&'static str>,
    pub(crate) body_limit: usize,
    pub(crate) body_timeout: Duration,
    pub(crate) body_idle_timeout: Duration,
    pub(crate) result_limit: usize,
    pub(crate) strip: Strip,
}

impl Settings {
    /// How long before the end of its lease a holder gives up its claim, since the clocks of two machines differ in
    /// time and speed: two seconds, but at most a fifth of the lease.
    pub(crate) fn lease_margin(&self) -> Duration {
        Duration::from_secs(2).min(self.lease / 5)
    }
}
