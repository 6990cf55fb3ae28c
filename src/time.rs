//! Time in this crate: [`Timestamp`], in milliseconds, and [`Clock`], its source.

use std::{
    fmt,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use serde::{Deserialize, Serialize};

/// A moment, in whole milliseconds since the Unix epoch.
///
/// Stores and task documents use it for every time. Durations are [`Duration`]s. Arithmetic saturates, so that a huge
/// delay in a request cannot cause a panic.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
///
/// use tower_respond_async::time::Timestamp;
///
/// let begin = Timestamp::from_millis(1_000);
/// let end = begin.saturating_add(Duration::from_secs(2));
/// assert_eq!((end.as_millis(), end.since(begin)), (3_000, Duration::from_secs(2)));
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timestamp(u64);

impl Timestamp {
    /// The Unix epoch.
    pub const ZERO: Self = Self(0);

    /// A moment this many milliseconds after the Unix epoch.
    #[must_use]
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis)
    }

    /// Milliseconds since the Unix epoch.
    #[must_use]
    pub const fn as_millis(self) -> u64 {
        self.0
    }

    /// The moment `duration` later, or the greatest `Timestamp`. A fraction of a millisecond is dropped.
    #[must_use]
    pub fn saturating_add(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(millis(duration)))
    }

    /// The moment `duration` earlier, or the epoch.
    #[must_use]
    pub fn saturating_sub(self, duration: Duration) -> Self {
        Self(self.0.saturating_sub(millis(duration)))
    }

    /// The time that passed since `earlier`, or zero if `earlier` is the later one.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

impl Timestamp {
    /// The moment in UTC as RFC 3339 §5.6 writes it, with milliseconds.
    pub(crate) fn to_rfc3339(self) -> String {
        let (days, millis) = (self.0 / 86_400_000, self.0 % 86_400_000);
        // Counts years from March, so that a leap day is the last day of its year. 400 years have 146,097 days.
        let shifted = days + 719_468;
        let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
        let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let from_march = (5 * day_of_year + 2) / 153;
        let day = day_of_year - (153 * from_march + 2) / 5 + 1;
        let month = if from_march < 10 {
            from_march + 3
        } else {
            from_march - 9
        };
        let year = era * 400 + year_of_era + u64::from(month <= 2);
        let (secs, millis) = (millis / 1_000, millis % 1_000);
        let (hour, minute, second) = (secs / 3_600, secs / 60 % 60, secs % 60);
        format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{millis:03}Z")
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

fn millis(duration: Duration) -> u64 {
    let whole = duration.as_secs().saturating_mul(1000);
    whole.saturating_add(duration.subsec_millis().into())
}

/// The source of time for a store or the engine.
///
/// In tests, a [`ManualClock`](crate::testing::ManualClock) lets you set the time. [`SystemClock`] has an example.
pub trait Clock: Send + Sync + fmt::Debug + 'static {
    /// The current time. It is never earlier than the result of an earlier call.
    fn now(&self) -> Timestamp;
}

impl<C: Clock + ?Sized> Clock for std::sync::Arc<C> {
    fn now(&self) -> Timestamp {
        (**self).now()
    }
}

/// The system clock, read once at creation and then advanced by the monotonic clock.
///
/// Its timestamps never jump and never go back, even if the wall clock is set: leases and delays are measured with it.
/// They differ from the wall clock by every adjustment of that clock since the creation.
///
/// # Examples
///
/// ```
/// use tower_respond_async::time::{Clock, SystemClock};
///
/// let clock = SystemClock::new();
/// let first = clock.now();
/// assert!(clock.now() >= first);
/// ```
#[derive(Clone, Copy, Debug)]
pub struct SystemClock {
    anchor: Instant,
    wall: Duration,
}

impl SystemClock {
    /// A clock that starts at the current system time.
    #[must_use]
    pub fn new() -> Self {
        Self {
            anchor: Instant::now(),
            wall: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default(),
        }
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        Timestamp(millis(self.wall + self.anchor.elapsed()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_written_as_the_rfc_says() {
        for (millis, expected) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_399_999, "2000-02-28T23:59:59.999Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (951_868_800_000, "2000-03-01T00:00:00.000Z"),
            (1_735_689_599_000, "2024-12-31T23:59:59.000Z"),
            (1_735_689_600_001, "2025-01-01T00:00:00.001Z"),
            (4_107_542_400_000, "2100-03-01T00:00:00.000Z"),
        ] {
            assert_eq!(Timestamp::from_millis(millis).to_rfc3339(), expected);
        }
    }

    #[test]
    fn arithmetic_saturates_at_both_ends() {
        let now = Timestamp::from_millis(10);
        assert_eq!(now.saturating_add(Duration::MAX).as_millis(), u64::MAX);
        assert_eq!(now.saturating_sub(Duration::from_secs(1)), Timestamp::ZERO);
        assert_eq!(now.since(Timestamp::from_millis(50)), Duration::ZERO);
        assert_eq!(Timestamp::from_millis(50).since(now), Duration::from_millis(40));
    }
}
