//! A clock that does not go back from one opening of the file to the next.

use std::{sync::Arc, time::Duration};

use tower_respond_async::time::{Clock, Timestamp};

/// A clock that is ahead of another by as much as that one was behind when the file was opened.
///
/// # Why
///
/// What waits in the file waits for a time that an earlier process read off its clock. If the clock shows an earlier one
/// at the next start, since somebody set it, or since the machine has no battery for it and has not heard from a time
/// server yet, all of it would wait until the clock has caught up: for decades, perhaps. What is written has happened, so
/// it is not later than now.
#[derive(Debug)]
pub(crate) struct Onward {
    clock: Arc<dyn Clock>,
    ahead: Duration,
}

impl Onward {
    /// `clock`, but not behind `latest`, which has happened.
    pub(crate) fn from(latest: Timestamp, clock: Arc<dyn Clock>) -> Self {
        let ahead = latest.since(clock.now());
        Self { clock, ahead }
    }
}

impl Clock for Onward {
    fn now(&self) -> Timestamp {
        self.clock.now().saturating_add(self.ahead)
    }
}
