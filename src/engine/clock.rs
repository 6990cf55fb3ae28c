//! The time of one engine.

use std::time::Duration;

use tokio::time::Instant;

use crate::time::{Clock, SystemClock, Timestamp};

/// The clock of an engine. It is monotonic. Wall times are computed from one reading at the start.
pub(crate) struct EngineClock {
    started: Instant,
    wall: Timestamp,
}

impl EngineClock {
    pub(crate) fn new(simulated: Option<&dyn Clock>) -> Self {
        Self {
            started: Instant::now(),
            wall: simulated.map_or_else(|| SystemClock::new().now(), Clock::now),
        }
    }

    /// The wall time at `now`.
    pub(crate) fn at(&self, now: Instant) -> Timestamp {
        self.wall.saturating_add(now.saturating_duration_since(self.started))
    }

    /// The time from the start of the engine to `now`.
    pub(crate) fn uptime(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.started)
    }
}
