//! The state of a process, as it is published to other processes on its store.

use std::{sync::Arc, time::Duration};

use crate::task::WorkerId;

/// A process that uses a store, and its state. Its engine publishes this every few seconds.
///
/// # Examples
///
/// ```
/// use tower_respond_async::task::{Presence, WorkerId};
///
/// let mut here = Presence::new(WorkerId::new("web-1", 7));
/// here.slots.total = 64;
/// here.rates[0].accepted = 12; // in the last minute
/// assert_eq!(Presence::decode(&here.encode())?, here);
/// # Ok::<_, tower_respond_async::task::DecodeError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Presence {
    /// The process: its name, and the number of its start.
    pub worker: WorkerId,
    /// The version of the application, if it has one.
    pub version: Option<Arc<str>>,
    /// How long it has been up.
    pub up: Duration,
    /// Whether it is shutting down: it accepts no new tasks and claims none.
    pub draining: bool,
    /// The slots of its handlers.
    pub slots: SlotStats,
    /// Its counts in the last minute, 15 minutes and 60 minutes.
    pub rates: [RateStats; 3],
    /// Its counts in each of the last 60 minutes: the oldest first, the current one last.
    pub minutes: [RateStats; 60],
    /// How many bytes of request bodies it is reading.
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

    /// The answer of a store that only one process uses at a time: this process, seen just now.
    #[must_use]
    pub fn alone(self) -> Vec<Seen> {
        let ago = Duration::ZERO;
        vec![Seen { presence: self, ago }]
    }
}

/// A process that was seen on a store.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
///
/// use tower_respond_async::task::{Presence, Seen, WorkerId};
///
/// let here = Presence::new(WorkerId::new("web-1", 7));
/// assert_eq!(here.clone().alone(), [Seen::new(here, Duration::ZERO)]);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Seen {
    /// Its latest presence.
    pub presence: Presence,
    /// How long ago that was published, by the store's clock.
    pub ago: Duration,
}

impl Seen {
    /// A presence that was published this long ago.
    #[must_use]
    pub const fn new(presence: Presence, ago: Duration) -> Self {
        Self { presence, ago }
    }
}

/// The slots of a process, or of several.
///
/// See the example of [`Presence`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SlotStats {
    /// Slots in use. In one process never more than `total`.
    pub used: usize,
    /// All slots.
    pub total: usize,
    /// Slots whose handler cannot be dropped although its time is over. They are among the used ones.
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

/// What was done in a period of time.
///
/// See the example of [`Presence`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RateStats {
    /// Tasks accepted.
    pub accepted: u64,
    /// Tasks that succeeded.
    pub succeeded: u64,
    /// Tasks that ended otherwise, except for stopped ones.
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
