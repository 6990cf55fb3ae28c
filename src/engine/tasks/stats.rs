//! How things stand, for people and dashboards.

use std::{sync::Arc, time::Duration};

use crate::task::{Counts, Presence, RateStats, Seen, SlotStats};

/// What [`Tasks::stats`](crate::Tasks::stats) answers.
///
/// Figures that are not the store's are sums over all processes on it. Those of other processes are some seconds old.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Stats {
    /// Tasks in each state, in the scope asked for.
    pub counts: Counts,
    /// The handlers of all processes. `None` for a caller who may see one tenant only: they are everybody's.
    pub slots: Option<SlotStats>,
    /// What was done lately: in the last minute, 15 minutes, 60 minutes. `None` as for `slots`.
    pub rates: Option<[RateStats; 3]>,
    /// What was done in each of the last 60 minutes, the oldest first, the one that goes on last. `None` as for
    /// `slots`.
    pub minutes: Option<[RateStats; 60]>,
    /// Bytes of request bodies that are being read now. `None` as for `slots`.
    pub buffered_bytes: Option<u64>,
    /// The processes, this one first, the others by name. `None` as for `slots`.
    pub processes: Option<Vec<ProcessStats>>,
}

/// How one process is.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ProcessStats {
    /// Its name and the number of its start, as documents of the tasks that it runs have it.
    pub instance: Arc<str>,
    /// The version of the application there, where it gave one.
    pub version: Option<Arc<str>>,
    /// Since when it has been up.
    pub up: Duration,
    /// How long ago it was heard of. One that has not been for 15 seconds is not among them any more.
    pub seen: Duration,
    /// Whether it is being shut down.
    pub draining: bool,
    /// Its handlers.
    pub slots: SlotStats,
    /// What it did in the last minute.
    pub last_minute: RateStats,
    /// Bytes of request bodies that it is reading.
    pub buffered_bytes: u64,
}

impl Stats {
    /// What one tenant's tasks are.
    pub(crate) const fn of_one(counts: Counts) -> Self {
        Self {
            counts,
            slots: None,
            rates: None,
            minutes: None,
            buffered_bytes: None,
            processes: None,
        }
    }

    /// All there is, of this process and the others.
    pub(crate) fn of_all(counts: Counts, own: Presence, mut others: Vec<Seen>) -> Self {
        others.sort_by(|one, other| one.presence.worker.as_str().cmp(other.presence.worker.as_str()));
        let (mut slots, mut buffered_bytes) = (SlotStats::default(), 0_u64);
        let (mut rates, mut minutes) = ([RateStats::default(); 3], [RateStats::default(); 60]);
        let mut processes = Vec::with_capacity(1 + others.len());
        for Seen { presence, ago } in own.alone().into_iter().chain(others) {
            slots.add(presence.slots);
            buffered_bytes = buffered_bytes.saturating_add(presence.buffered_bytes);
            let of_each = rates.iter_mut().chain(&mut minutes);
            for (sum, more) in of_each.zip(presence.rates.iter().chain(&presence.minutes)) {
                sum.add(*more);
            }
            processes.push(ProcessStats {
                instance: presence.worker.shared(),
                version: presence.version,
                up: presence.up,
                seen: ago,
                draining: presence.draining,
                slots: presence.slots,
                last_minute: presence.rates[0],
                buffered_bytes: presence.buffered_bytes,
            });
        }
        Self {
            counts,
            slots: Some(slots),
            rates: Some(rates),
            minutes: Some(minutes),
            buffered_bytes: Some(buffered_bytes),
            processes: Some(processes),
        }
    }
}
