//! Statistics of the processes on a store: counts, slots and rates.

use std::{sync::Arc, time::Duration};

use crate::task::{Counts, Presence, RateStats, Seen, SlotStats};

/// The result of [`Tasks::stats`](crate::Tasks::stats), which has an example.
///
/// `counts` comes from the store. The other figures are sums over all processes on the store; those of
/// other processes are some seconds old.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Stats {
    /// The number of tasks in each state, in the scope of the handle.
    pub counts: Counts,
    /// The slots of all processes. `None` for the scope of one tenant, since they include those of other tenants.
    pub slots: Option<SlotStats>,
    /// The numbers of tasks accepted and ended in the last minute, 15 minutes and 60 minutes. `None` as for `slots`.
    pub rates: Option<[RateStats; 3]>,
    /// The same numbers for each of the last 60 minutes, the oldest first, the current one last. `None` as for `slots`.
    pub minutes: Option<[RateStats; 60]>,
    /// The bytes of request bodies that are being read now. `None` as for `slots`.
    pub buffered_bytes: Option<u64>,
    /// The processes: this process first, the others by name. `None` as for `slots`.
    pub processes: Option<Vec<ProcessStats>>,
}

/// One process, as [`Stats::processes`] lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ProcessStats {
    /// The name of the process and the number of its start, as in the documents of its tasks.
    pub instance: Arc<str>,
    /// The version of the application, if it has one.
    pub version: Option<Arc<str>>,
    /// The time since its engine was built.
    pub up: Duration,
    /// The time since it last reported itself. A process is not listed if that is more than 15 seconds.
    pub seen: Duration,
    /// Whether it is shutting down.
    pub draining: bool,
    /// Its slots.
    pub slots: SlotStats,
    /// The numbers of tasks that it accepted and ended in the last minute.
    pub last_minute: RateStats,
    /// The bytes of request bodies that it is reading now.
    pub buffered_bytes: u64,
}

impl Stats {
    /// The statistics for the scope of one tenant.
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

    /// The statistics of this process and the others.
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
