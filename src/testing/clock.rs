//! A clock that the test moves.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use crate::time::{Clock, Timestamp};

/// A clock that stands still until you move it. Clones are the same clock.
///
/// Give it to a store: then a lease of a minute lapses when the test moves the clock.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
///
/// use tower_respond_async::{
///     testing::ManualClock,
///     time::{Clock, Timestamp},
/// };
///
/// let clock = ManualClock::new(Timestamp::from_millis(1_000));
/// clock.advance(Duration::from_secs(60));
/// assert_eq!(clock.now(), Timestamp::from_millis(61_000));
/// ```
#[derive(Clone, Debug, Default)]
pub struct ManualClock(Arc<AtomicU64>);

impl ManualClock {
    /// A clock that shows `now`.
    #[must_use]
    pub fn new(now: Timestamp) -> Self {
        Self(Arc::new(AtomicU64::new(now.as_millis())))
    }

    /// Moves the time on by `duration`, in whole milliseconds.
    pub fn advance(&self, duration: Duration) {
        let add = |now| Some(Timestamp::from_millis(now).saturating_add(duration).as_millis());
        // Always `Ok`: the closure always returns a value.
        let _ = self.0.fetch_update(Ordering::AcqRel, Ordering::Acquire, add);
    }

    /// Turns the time back by `duration`, as when another server with a slow clock takes over.
    pub fn turn_back(&self, duration: Duration) {
        let subtract = |now| Some(Timestamp::from_millis(now).saturating_sub(duration).as_millis());
        // Always `Ok`: the closure always returns a value.
        let _ = self.0.fetch_update(Ordering::AcqRel, Ordering::Acquire, subtract);
    }

    /// Moves the time on to `now`. An earlier time is ignored.
    pub fn set(&self, now: Timestamp) {
        self.0.fetch_max(now.as_millis(), Ordering::AcqRel);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(self.0.load(Ordering::Acquire))
    }
}
