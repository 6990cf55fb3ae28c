//! The latest changes of all tasks, for listeners.
//!
//! Changes are kept while there are listeners, and for a while after, so that a listener that reconnects misses
//! nothing. Only the latest changes are kept. A listener that falls further behind is marked as having missed some, and
//! reads the tasks again.

use std::{
    collections::VecDeque,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{sync::Notify, time::Instant};

use crate::task::RequestId;

/// How many changes are kept: 64 KiB, about a second of a busy process.
const KEPT: usize = 4096;

/// How long changes are kept after the last listener has left. A listener that was cut off reconnects in that time.
const LINGER: Duration = Duration::from_secs(30);

/// The changes of one engine.
pub(crate) struct Feed {
    /// Whether changes are recorded.
    recording: AtomicBool,
    state: Mutex<State>,
    changed: Notify,
    /// Distinguishes positions in this feed from positions in the feed of another engine.
    id: u64,
}

#[derive(Default)]
struct State {
    changes: VecDeque<RequestId>,
    /// The number of the next change.
    next: u64,
    listeners: usize,
    /// When the last listener left. `None` while there are listeners, and before the first.
    unused_since: Option<Instant>,
}

/// A position in the feed of one engine: the number of changes before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Position {
    pub(crate) feed: u64,
    pub(crate) number: u64,
}

/// Receives the changes of all tasks.
pub(crate) struct Listener<'a> {
    feed: &'a Feed,
    position: Position,
    missed: bool,
}

/// The changes that a listener receives at once.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Batch {
    /// The tasks that changed, each once.
    pub(crate) tasks: Vec<RequestId>,
    /// Whether changes are missing because they are no longer kept.
    pub(crate) missed: bool,
    /// The position after these changes.
    pub(crate) position: Position,
}

impl Feed {
    pub(crate) fn new() -> Self {
        Self {
            recording: AtomicBool::new(false),
            state: Mutex::default(),
            changed: Notify::new(),
            id: fastrand::u64(..),
        }
    }

    /// Adds a change. Costs one atomic load without listeners.
    pub(crate) fn note(&self, id: RequestId) {
        if !self.recording.load(Ordering::SeqCst) {
            return;
        }
        let mut state = self.state();
        if state.unused_since.is_some_and(|at| at.elapsed() > LINGER) {
            self.recording.store(false, Ordering::SeqCst);
            state.changes.clear();
            // From now on changes are skipped. Counting one here marks a listener that comes back as having missed
            // some.
            state.next += 1;
            return;
        }
        if state.changes.len() == KEPT {
            state.changes.pop_front();
        }
        state.changes.push_back(id);
        state.next += 1;
        drop(state);
        self.changed.notify_waiters();
    }

    /// Whether there are listeners.
    pub(crate) fn has_listeners(&self) -> bool {
        self.recording.load(Ordering::SeqCst) && self.state().listeners > 0
    }

    /// Records changes of unknown tasks: every listener is marked as having missed some.
    pub(crate) fn note_unknown(&self) {
        if !self.recording.load(Ordering::SeqCst) {
            return;
        }
        let mut state = self.state();
        state.changes.clear();
        state.next += 1;
        drop(state);
        self.changed.notify_waiters();
    }

    /// Begins to listen, from `position` if its changes are still kept, or else from now. Read the tasks after this
    /// call.
    pub(crate) fn listen(&self, position: Option<Position>) -> Listener<'_> {
        let mut state = self.state();
        state.listeners += 1;
        state.unused_since = None;
        self.recording.store(true, Ordering::SeqCst);
        let now = Position {
            feed: self.id,
            number: state.next,
        };
        let known = position.filter(|position| position.feed == self.id && position.number <= state.next);
        Listener {
            feed: self,
            position: known.unwrap_or(now),
            missed: position.is_some() && known.is_none(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Listener<'_> {
    /// The position of the listener.
    pub(crate) const fn position(&self) -> Position {
        self.position
    }

    /// Waits for changes. Returns those since the last call, of at most `limit` tasks. If there are more, returns the
    /// latest and sets [`Batch::missed`].
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses no change.
    pub(crate) async fn next(&mut self, limit: usize) -> Batch {
        loop {
            let changed = self.feed.changed.notified();
            tokio::pin!(changed);
            // Enabled before the changes are read, so that no change in between is missed.
            changed.as_mut().enable();
            if let Some(batch) = self.take(limit) {
                return batch;
            }
            changed.await;
        }
    }

    fn take(&mut self, limit: usize) -> Option<Batch> {
        let state = self.feed.state();
        let behind = (state.next - self.position.number) as usize;
        if behind == 0 && !self.missed {
            return None;
        }
        let mut missed = std::mem::take(&mut self.missed) || behind > state.changes.len();
        let from = state.changes.len().saturating_sub(behind);
        let mut tasks = Vec::new();
        let mut seen = std::collections::HashSet::new();
        for id in state.changes.range(from..) {
            if seen.insert(*id) {
                tasks.push(*id);
            }
        }
        self.position.number = state.next;
        drop(state);
        if tasks.len() > limit {
            tasks.drain(..tasks.len() - limit);
            missed = true;
        }
        Some(Batch {
            tasks,
            missed,
            position: self.position,
        })
    }
}

impl Drop for Listener<'_> {
    fn drop(&mut self) {
        let mut state = self.feed.state();
        state.listeners -= 1;
        if state.listeners == 0 {
            state.unused_since = Some(Instant::now());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: u8) -> RequestId {
        RequestId::from_bytes([number; 16])
    }

    #[test]
    fn nothing_is_noted_without_listeners_and_everything_with_one() {
        let feed = Feed::new();
        feed.note(id(1));
        let mut listener = feed.listen(None);
        assert_eq!(listener.take(10), None);
        for number in [2, 3, 2] {
            feed.note(id(number));
        }
        let batch = listener.take(10).unwrap();
        assert_eq!((batch.tasks, batch.missed), (vec![id(2), id(3)], false));
        assert_eq!(listener.take(10), None);
    }

    #[test]
    fn a_listener_that_reconnects_in_time_misses_nothing() {
        let feed = Feed::new();
        let position = feed.listen(None).position();
        feed.note(id(1));
        let batch = feed.listen(Some(position)).take(10).unwrap();
        assert_eq!((batch.tasks, batch.missed), (vec![id(1)], false));
    }

    #[test]
    fn a_listener_that_was_away_too_long_is_marked() {
        let feed = Feed::new();
        let mut listener = feed.listen(None);
        let position = listener.position();
        for _ in 0..=KEPT {
            feed.note(id(1));
        }
        assert!(listener.take(10).unwrap().missed);
        drop(listener);
        assert!(feed.listen(Some(position)).take(10).unwrap().missed);
        // A position of another engine, and a position ahead of the feed.
        for other in [
            Position {
                feed: position.feed.wrapping_add(1),
                ..position
            },
            Position {
                number: u64::MAX,
                ..position
            },
        ] {
            assert!(feed.listen(Some(other)).take(10).unwrap().missed);
        }
        // After the linger no changes are kept, and a listener that comes back has missed some.
        let position = feed.listen(None).position();
        feed.state().unused_since = Instant::now().checked_sub(LINGER * 2);
        feed.note(id(2));
        assert!(!feed.recording.load(Ordering::SeqCst));
        feed.note(id(3));
        assert!(feed.listen(Some(position)).take(10).unwrap().missed);
    }

    #[test]
    fn unknown_changes_count_as_missed() {
        let feed = Feed::new();
        feed.note_unknown();
        let mut listener = feed.listen(None);
        assert_eq!(listener.take(10), None);
        feed.note(id(1));
        feed.note_unknown();
        feed.note(id(2));
        let batch = listener.take(10).unwrap();
        assert_eq!((batch.tasks, batch.missed), (vec![id(2)], true));
    }

    #[test]
    fn beyond_the_limit_only_the_latest_changes_are_returned() {
        let feed = Feed::new();
        let mut listener = feed.listen(None);
        (1..=5).for_each(|number| feed.note(id(number)));
        let batch = listener.take(2).unwrap();
        assert_eq!((batch.tasks, batch.missed), (vec![id(4), id(5)], true));
    }
}
