//! Counts the tasks that were accepted and that ended in the last hour, without a lock.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use crate::task::RateStats;

/// The time that one bucket covers, and so the precision of the windows.
const BUCKET: Duration = Duration::from_secs(10);
/// An hour of buckets, and the one being filled.
const BUCKETS: usize = 361;
/// One minute, 15 minutes, 60 minutes, in buckets.
const WINDOWS: [u64; 3] = [6, 90, 360];
/// Buckets in a minute.
const MINUTE: u64 = 6;

/// Counters of the last hour.
pub(crate) struct Rates(Box<[Bucket]>);

#[derive(Default)]
struct Bucket {
    /// The number of the stretch of time that this counts, from 1. 0 if it is unused.
    stretch: AtomicU64,
    counts: [AtomicU64; 3],
}

/// What is counted.
#[derive(Clone, Copy)]
pub(crate) enum Counted {
    Accepted,
    Succeeded,
    Failed,
}

impl Rates {
    pub(crate) fn new() -> Self {
        let rates = Self((0..BUCKETS).map(|_| Bucket::default()).collect());
        // The bucket of the first stretch is empty already.
        rates.0[stretch(Duration::ZERO) as usize]
            .stretch
            .store(1, Ordering::Relaxed);
        rates
    }

    /// Adds one to `what`, `uptime` after the engine was built.
    pub(crate) fn count(&self, what: Counted, uptime: Duration) {
        let stretch = stretch(uptime);
        let bucket = &self.0[stretch as usize % BUCKETS];
        let present = bucket.stretch.load(Ordering::Acquire);
        // The first count in a new stretch empties the bucket of an hour ago. A count that another thread makes at the
        // same time may be lost. That is precise enough for display, and a lock would slow down every request.
        let renewed = present < stretch
            && bucket
                .stretch
                .compare_exchange(present, stretch, Ordering::AcqRel, Ordering::Relaxed)
                .is_ok();
        if renewed {
            bucket.counts.iter().for_each(|count| count.store(0, Ordering::Relaxed));
        }
        bucket.counts[what as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// The counts of the last minute, 15 minutes and 60 minutes.
    pub(crate) fn read(&self, uptime: Duration) -> [RateStats; 3] {
        let now = stretch(uptime);
        WINDOWS.map(|window| {
            let sum = |what: Counted| {
                self.0
                    .iter()
                    .filter(|bucket| {
                        let stretch = bucket.stretch.load(Ordering::Acquire);
                        stretch > 0 && stretch <= now && stretch + window > now
                    })
                    .map(|bucket| bucket.counts[what as usize].load(Ordering::Relaxed))
                    .sum()
            };
            RateStats {
                accepted: sum(Counted::Accepted),
                succeeded: sum(Counted::Succeeded),
                failed: sum(Counted::Failed),
            }
        })
    }

    /// The counts of each of the last 60 minutes, the oldest first, the current one last.
    pub(crate) fn minutes(&self, uptime: Duration) -> [RateStats; 60] {
        let now = stretch(uptime);
        let mut minutes = [RateStats::default(); 60];
        for bucket in &self.0 {
            let stretch = bucket.stretch.load(Ordering::Acquire);
            let age = match now.checked_sub(stretch) {
                Some(age) if stretch > 0 => age / MINUTE,
                _ => continue,
            };
            let Some(minute) = 59_usize.checked_sub(age as usize) else {
                continue;
            };
            let count = |what: Counted| bucket.counts[what as usize].load(Ordering::Relaxed);
            let minute = &mut minutes[minute];
            minute.accepted += count(Counted::Accepted);
            minute.succeeded += count(Counted::Succeeded);
            minute.failed += count(Counted::Failed);
        }
        minutes
    }
}

fn stretch(uptime: Duration) -> u64 {
    uptime.as_secs() / BUCKET.as_secs() + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_window_counts_its_own_stretch_of_time() {
        let rates = Rates::new();
        for minute in 0..120 {
            rates.count(Counted::Accepted, Duration::from_secs(60 * minute));
        }
        let [one, fifteen, sixty] = rates.read(Duration::from_secs(60 * 119)).map(|rate| rate.accepted);
        assert_eq!((one, fifteen, sixty), (1, 15, 60));
        let later = rates.read(Duration::from_secs(60 * 500));
        assert_eq!(later, [RateStats::default(); 3]);
    }

    #[test]
    fn each_minute_of_the_last_hour_has_its_own_counts() {
        let rates = Rates::new();
        for second in [0, 30, 61, 3599] {
            rates.count(Counted::Accepted, Duration::from_secs(second));
        }
        rates.count(Counted::Failed, Duration::from_secs(3599));
        let minutes = rates.minutes(Duration::from_secs(3599));
        assert_eq!(minutes.map(|minute| minute.accepted)[..3], [2, 1, 0]);
        assert_eq!((minutes[59].accepted, minutes[59].failed), (1, 1));
        let sum: u64 = minutes.iter().map(|minute| minute.accepted).sum();
        assert_eq!(sum, rates.read(Duration::from_secs(3599))[2].accepted);
        assert_eq!(rates.minutes(Duration::from_secs(60 * 500)), [RateStats::default(); 60]);
    }
}
