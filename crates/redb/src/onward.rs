//! A clock that does not go back between two openings of a file.

use std::{sync::Arc, time::Duration};

use tower_respond_async::time::{Clock, Timestamp};

/// A clock that adds a fixed offset to another clock: the time by which the other was behind when the file was opened.
///
/// # Why
///
/// Tasks in the file wait for times that an earlier process read from its clock. At the next start the clock may show
/// an earlier time: it was set back, or the machine has no battery for it and has not reached a time server yet. Then
/// all of these tasks would wait until the clock has caught up, perhaps for decades. Everything in the file has
/// happened already, so no time in it can be later than now.
#[derive(Debug)]
pub(crate) struct Onward {
    clock: Arc<dyn Clock>,
    ahead: Duration,
}

impl Onward {
    /// `clock`, but not behind `latest`, the latest time in the file.
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
