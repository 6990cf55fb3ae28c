//! How things stand, for people and dashboards.

use crate::task::Counts;

/// What [`Tasks::stats`](crate::Tasks::stats) answers.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Stats {
    /// Tasks in each state, in the scope asked for.
    pub counts: Counts,
    /// The handlers of this process. `None` for a caller who may see one tenant only: they are everybody's.
    pub slots: Option<SlotStats>,
    /// What this process did lately: in the last minute, 15 minutes, 60 minutes. `None` as for `slots`.
    pub rates: Option<[RateStats; 3]>,
    /// What this process did in each of the last 60 minutes, the oldest first, the one that goes on last. `None` as for
    /// `slots`.
    pub minutes: Option<[RateStats; 60]>,
    /// Bytes of request bodies that are being read now. `None` as for `slots`.
    pub buffered_bytes: Option<usize>,
}

/// The handlers of this process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SlotStats {
    /// That run. Never more than `total`.
    pub used: usize,
    /// That may run.
    pub total: usize,
    /// That cannot be dropped although their time is over; they are among the used ones.
    pub stuck: usize,
}

/// What this process did in a stretch of time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RateStats {
    /// Tasks accepted.
    pub accepted: u64,
    /// Tasks that ended well.
    pub succeeded: u64,
    /// Tasks that ended otherwise, but for those stopped.
    pub failed: u64,
}
