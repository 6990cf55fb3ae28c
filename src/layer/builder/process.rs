//! Settings: the name and version of the process, and how processes of several versions share tasks.

use std::{sync::Arc, time::Duration};

use super::RespondAsyncBuilder;
use crate::task::{Accepted, record::cut};

impl RespondAsyncBuilder {
    /// Sets the name of this process in task documents. Default: `worker`.
    ///
    /// A random number is added, so several processes may have the same name. Only the first
    /// [`WorkerId::NAME_BYTES`](crate::task::WorkerId::NAME_BYTES) bytes are kept.
    pub fn worker_name(mut self, name: impl Into<Arc<str>>) -> Self {
        self.settings.worker_name = name.into();
        self
    }

    /// Sets the version of the application. Default: none.
    ///
    /// The statistics and the console show it. It is stored with each task that this process accepts, for
    /// [`version_patience`](Self::version_patience). Only the first 64 bytes are kept.
    pub fn version(mut self, version: impl AsRef<str>) -> Self {
        self.settings.version = Some(cut(version.as_ref(), Accepted::VERSION_BYTES).into());
        self
    }

    /// Sets how long a task waits for a process of the version that accepted it. Default: 10 minutes.
    ///
    /// This matters while several versions of the application run. The default is longer than most deploys. Zero means
    /// that tasks do not wait.
    ///
    /// A process of another [`version`](Self::version), or of none, may lack the task's route. If it answers the task
    /// with 404, 405, 501 or gRPC's UNIMPLEMENTED, the answer is not used: the task is handed on, uncharged, and waits
    /// up to 10 s until it is claimed again. This repeats for the given time from the first such answer. After that,
    /// and in a process of the task's own version, these answers count like any other.
    ///
    /// If a 404 of your handler is valid in every version, put [`DoNotRetry`](crate::DoNotRetry) into the extensions of
    /// the response. Then the task does not wait.
    pub fn version_patience(mut self, patience: Duration) -> Self {
        self.settings.version_patience = patience;
        self
    }
}
