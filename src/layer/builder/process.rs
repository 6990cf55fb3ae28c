//! What a process says of itself, and what it does beside those of another version.

use std::{sync::Arc, time::Duration};

use super::RespondAsyncBuilder;
use crate::task::{Accepted, record::cut};

impl RespondAsyncBuilder {
    /// What this process calls itself in task documents. A random number is added, so that two may share a name; of the name,
    /// [`WorkerId::NAME_BYTES`](crate::task::WorkerId::NAME_BYTES) are kept. Default: `worker`.
    pub fn worker_name(mut self, name: impl Into<Arc<str>>) -> Self {
        self.settings.worker_name = name.into();
        self
    }

    /// Which version of the application this process is. Shown in the statistics and the console, and stored with the tasks
    /// that it accepts, for [`version_patience`](Self::version_patience); of longer ones, 64 bytes are kept. Default: none.
    pub fn version(mut self, version: impl AsRef<str>) -> Self {
        self.settings.version = Some(cut(version.as_ref(), Accepted::VERSION_BYTES).into());
        self
    }

    /// How long a task waits, while versions of the application run side by side, for a process of the version that accepted
    /// it. Default: 10 minutes, in which most deploys are over. Zero: not at all.
    ///
    /// A process of another [`version`](Self::version), or of none, may not have the task's route yet, or any longer. So where
    /// it answers the task with 404, 405, 501 or gRPC's UNIMPLEMENTED, that is neither kept nor judged: the task is handed on,
    /// uncharged, and waits a moment, up to 10 s, before it is claimed again. From the first such answer on this goes on for as
    /// long as is said here; then, and in a process of the task's own version, they are answers like any other.
    ///
    /// A handler that is there, and means its 404 in any version, puts [`DoNotRetry`](crate::DoNotRetry) into the response's
    /// extensions: then it is not waited for.
    pub fn version_patience(mut self, patience: Duration) -> Self {
        self.settings.version_patience = patience;
        self
    }
}
