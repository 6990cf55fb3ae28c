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
const REMEMBERED: usize = 4096;

/// How long changes are kept after the last listener has left. A listener that was cut off reconnects in that time.
const LINGER: Duration = Duration::from_secs(30);

/// The changes of one engine.
pub(crate) struct Feed {
    noting: AtomicBool,
    state: Mutex<State>,
    changed: Notify,
    /// Distinguishes places in this feed from places in the feed of another engine.
    life: u64,
}

#[derive(Default)]
struct State {
    changes: VecDeque<RequestId>,
    /// The number of the next change.
    next: u64,
    listeners: usize,
    deserted_at: Option<Instant>,
}

/// A position in the feed of one engine: the number of changes before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) life: u64,
    pub(crate) number: u64,
}

/// Receives the changes of all tasks.
pub(crate) struct Listener<'a> {
    feed: &'a Feed,
    place: Place,
    missed: bool,
}

/// What a listener received.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Heard {
    /// The tasks that changed, each once.
    pub(crate) tasks: Vec<RequestId>,
    /// Whether changes are missing because they are no longer kept.
    pub(crate) missed: bool,
    /// The position after these changes.
    pub(crate) place: Place,
}

impl Feed {
    pub(crate) fn new() -> Self {
        Self {
            noting: AtomicBool::new(false),
            state: Mutex::default(),
            changed: Notify::new(),
            life: fastrand::u64(..),
        }
    }

    /// Adds a change. Costs one atomic load without listeners.
    pub(crate) fn note(&self, id: RequestId) {
        if !self.noting.load(Ordering::SeqCst) {
            return;
        }
        let mut state = self.state();
        if state.deserted_at.is_some_and(|at| at.elapsed() > LINGER) {
            self.noting.store(false, Ordering::SeqCst);
            state.changes.clear();
            // From now on changes are skipped. Counting one here marks a listener that comes back as having missed
            // some.
            state.next += 1;
            return;
        }
        if state.changes.len() == REMEMBERED {
            state.changes.pop_front();
        }
        state.changes.push_back(id);
        state.next += 1;
        drop(state);
        self.changed.notify_waiters();
    }

    /// Whether there are listeners.
    pub(crate) fn is_heard(&self) -> bool {
        self.noting.load(Ordering::SeqCst) && self.state().listeners > 0
    }

    /// Records changes of unknown tasks: every listener is marked as having missed some.
    pub(crate) fn miss(&self) {
        if !self.noting.load(Ordering::SeqCst) {
            return;
        }
        let mut state = self.state();
        state.changes.clear();
        state.next += 1;
        drop(state);
        self.changed.notify_waiters();
    }

    /// Begins to listen, from `place` if its changes are still kept, or else from now. Read the tasks after this call.
    pub(crate) fn listen(&self, place: Option<Place>) -> Listener<'_> {
        let mut state = self.state();
        state.listeners += 1;
        state.deserted_at = None;
        self.noting.store(true, Ordering::SeqCst);
        let now = Place {
            life: self.life,
            number: state.next,
        };
        let known = place.filter(|place| place.life == self.life && place.number <= state.next);
        Listener {
            feed: self,
            place: known.unwrap_or(now),
            missed: place.is_some() && known.is_none(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Listener<'_> {
    /// The position of the listener.
    pub(crate) const fn place(&self) -> Place {
        self.place
    }

    /// Waits for changes. Returns those since the last call, of at most `limit` tasks. If there are more, returns the
    /// latest and sets [`Heard::missed`].
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses no change.
    pub(crate) async fn heard(&mut self, limit: usize) -> Heard {
        loop {
            let changed = self.feed.changed.notified();
            tokio::pin!(changed);
            // Enabled before the changes are read, so that no change in between is missed.
            changed.as_mut().enable();
            if let Some(heard) = self.take(limit) {
                return heard;
            }
            changed.await;
        }
    }

    fn take(&mut self, limit: usize) -> Option<Heard> {
        let state = self.feed.state();
        let behind = (state.next - self.place.number) as usize;
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
        self.place.number = state.next;
        drop(state);
        if tasks.len() > limit {
            tasks.drain(..tasks.len() - limit);
            missed = true;
        }
        Some(Heard {
            tasks,
            missed,
            place: self.place,
        })
    }
}

impl Drop for Listener<'_> {
    fn drop(&mut self) {
        let mut state = self.feed.state();
        state.listeners -= 1;
        if state.listeners == 0 {
            state.deserted_at = Some(Instant::now());
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
        let heard = listener.take(10).unwrap();
        assert_eq!((heard.tasks, heard.missed), (vec![id(2), id(3)], false));
        assert_eq!(listener.take(10), None);
    }

    #[test]
    fn a_listener_that_reconnects_in_time_misses_nothing() {
        let feed = Feed::new();
        let place = feed.listen(None).place();
        feed.note(id(1));
        let heard = feed.listen(Some(place)).take(10).unwrap();
        assert_eq!((heard.tasks, heard.missed), (vec![id(1)], false));
    }

    #[test]
    fn a_listener_that_was_away_too_long_is_marked() {
        let feed = Feed::new();
        let mut listener = feed.listen(None);
        let place = listener.place();
        for _ in 0..=REMEMBERED {
            feed.note(id(1));
        }
        assert!(listener.take(10).unwrap().missed);
        drop(listener);
        assert!(feed.listen(Some(place)).take(10).unwrap().missed);
        // A place of another engine, and a place ahead of the feed.
        for other in [
            Place {
                life: place.life.wrapping_add(1),
                ..place
            },
            Place {
                number: u64::MAX,
                ..place
            },
        ] {
            assert!(feed.listen(Some(other)).take(10).unwrap().missed);
        }
        // After the linger no changes are kept, and a listener that comes back has missed some.
        let place = feed.listen(None).place();
        feed.state().deserted_at = Instant::now().checked_sub(LINGER * 2);
        feed.note(id(2));
        assert!(!feed.noting.load(Ordering::SeqCst));
        feed.note(id(3));
        assert!(feed.listen(Some(place)).take(10).unwrap().missed);
    }

    #[test]
    fn unknown_changes_count_as_missed() {
        let feed = Feed::new();
        feed.miss();
        let mut listener = feed.listen(None);
        assert_eq!(listener.take(10), None);
        feed.note(id(1));
        feed.miss();
        feed.note(id(2));
        let heard = listener.take(10).unwrap();
        assert_eq!((heard.tasks, heard.missed), (vec![id(2)], true));
    }

    #[test]
    fn beyond_the_limit_only_the_latest_changes_are_returned() {
        let feed = Feed::new();
        let mut listener = feed.listen(None);
        (1..=5).for_each(|number| feed.note(id(number)));
        let heard = listener.take(2).unwrap();
        assert_eq!((heard.tasks, heard.missed), (vec![id(4), id(5)], true));
    }
}
