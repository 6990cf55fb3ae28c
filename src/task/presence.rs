//! What a process says of itself to the others on its store.

use std::{sync::Arc, time::Duration};

use crate::task::WorkerId;

/// A process that uses a store, and how it is: what its engine says of itself every few seconds.
///
/// # Examples
///
/// ```
/// use tower_respond_async::task::{Presence, WorkerId};
///
/// let mut here = Presence::new(WorkerId::new("web-1", 7));
/// here.slots.total = 64;
/// assert_eq!(Presence::decode(&here.encode())?, here);
/// # Ok::<_, tower_respond_async::task::DecodeError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Presence {
    /// The process: its name and the number of its start.
    pub worker: WorkerId,
    /// The version of the application, where it gave one.
    pub version: Option<Arc<str>>,
    /// Since when it has been up.
    pub up: Duration,
    /// Whether it is being shut down: it takes no new tasks in and claims none.
    pub draining: bool,
    /// Its handlers.
    pub slots: SlotStats,
    /// What it did in the last minute, 15 minutes, 60 minutes.
    pub rates: [RateStats; 3],
    /// What it did in each of the last 60 minutes, the oldest first, the one that goes on last.
    pub minutes: [RateStats; 60],
    /// Bytes of request bodies that it is reading.
    pub buffered_bytes: u64,
}

impl Presence {
    /// A process that has done nothing yet.
    #[must_use]
    pub const fn new(worker: WorkerId) -> Self {
        Self {
            worker,
            version: None,
            up: Duration::ZERO,
            draining: false,
            slots: SlotStats::NONE,
            rates: [RateStats::NONE; 3],
            minutes: [RateStats::NONE; 60],
            buffered_bytes: 0,
        }
    }

    /// What a store answers that one process uses at a time.
    #[must_use]
    pub fn alone(self) -> Vec<Seen> {
        let ago = Duration::ZERO;
        vec![Seen { presence: self, ago }]
    }
}

/// A process that was seen on a store.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Seen {
    /// What it said.
    pub presence: Presence,
    /// How long ago, by the store's clock.
    pub ago: Duration,
}

impl Seen {
    /// This process, heard of so long ago.
    #[must_use]
    pub const fn new(presence: Presence, ago: Duration) -> Self {
        Self { presence, ago }
    }
}

/// The handlers of a process, or of several.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SlotStats {
    /// That run. Of one process never more than `total`.
    pub used: usize,
    /// That may run.
    pub total: usize,
    /// That cannot be dropped although their time is over; they are among the used ones.
    pub stuck: usize,
}

impl SlotStats {
    const NONE: Self = Self {
        used: 0,
        total: 0,
        stuck: 0,
    };

    pub(crate) const fn add(&mut self, other: Self) {
        self.used = self.used.saturating_add(other.used);
        self.total = self.total.saturating_add(other.total);
        self.stuck = self.stuck.saturating_add(other.stuck);
    }
}

/// What was done in a stretch of time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RateStats {
    /// Tasks accepted.
    pub accepted: u64,
    /// Tasks that ended well.
    pub succeeded: u64,
    /// Tasks that ended otherwise, but for those stopped.
    pub failed: u64,
}

impl RateStats {
    const NONE: Self = Self {
        accepted: 0,
        succeeded: 0,
        failed: 0,
    };

    pub(crate) const fn add(&mut self, other: Self) {
        self.accepted = self.accepted.saturating_add(other.accepted);
        self.succeeded = self.succeeded.saturating_add(other.succeeded);
        self.failed = self.failed.saturating_add(other.failed);
    }
}
