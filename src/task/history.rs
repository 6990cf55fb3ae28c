//! [`History`]: the events in the life of a task.

use std::{
    ops::{Deref, DerefMut},
    sync::Arc,
};

use smallvec::SmallVec;

use crate::{
    task::{TaskState, shorten::shorten},
    time::Timestamp,
};

/// The events in the life of a task, oldest first: a slice of [`HistoryEvent`]s.
///
/// At most [`KEPT`](Self::KEPT) events are kept: the first and the newest.
///
/// # Examples
///
/// ```
/// use tower_respond_async::{
///     task::{History, TaskState},
///     time::Timestamp,
/// };
///
/// let mut history = History::default();
/// history.note(TaskState::Enqueued, Timestamp::from_millis(1), 0, None);
/// assert_eq!(history[0].id, 1);
/// assert_eq!(history.last().map(|event| event.state), Some(TaskState::Enqueued));
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct History(SmallVec<[HistoryEvent; 3]>); // accepted, begun, ended

/// An event in the life of a task.
///
/// See the example of [`History`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct HistoryEvent {
    /// The number of the event, from 1. Numbers are missing only where a very long history was thinned out.
    pub id: u32,
    /// The state it led to.
    pub state: TaskState,
    /// When it happened.
    pub at: Timestamp,
    /// The number of the attempt, or 0.
    pub attempt: u32,
    /// A sentence for people. Of a `Running` event, it is the worker, set at the next claim; until then the record has
    /// it.
    pub detail: Option<Arc<str>>,
}

impl History {
    /// How many events are kept: the first, which says when the task was accepted, and the newest. All are written with
    /// every change of the task. A task that retries three times has nine. Of a task that is released by every deploy
    /// of a month, the beginning and the latest events are enough.
    pub const KEPT: usize = 16;

    /// Adds an event, and removes an earlier one if there are too many. A detail that is too long is shortened.
    pub fn note(&mut self, state: TaskState, at: Timestamp, attempt: u32, detail: Option<Arc<str>>) {
        let id = self.last().map_or(1, |last| last.id + 1);
        // A record written by another build may have more events.
        let more = (self.len() + 1).saturating_sub(Self::KEPT);
        if more > 0 {
            self.0.drain(1..=more);
        }
        let detail = detail.map(|detail| match detail.len() > HistoryEvent::DETAIL_BYTES {
            true => shorten(&detail, HistoryEvent::DETAIL_BYTES).into(),
            false => detail,
        });
        self.0.push(HistoryEvent {
            id,
            state,
            at,
            attempt,
            detail,
        });
    }
}

impl HistoryEvent {
    /// The longest detail that is kept, in bytes: a sentence. The record has the whole of the latest error, and the log
    /// has every error.
    pub const DETAIL_BYTES: usize = 128;
}

impl From<Vec<HistoryEvent>> for History {
    /// A history of these events, unchanged.
    fn from(events: Vec<HistoryEvent>) -> Self {
        Self(events.into())
    }
}

impl Deref for History {
    type Target = [HistoryEvent];

    fn deref(&self) -> &[HistoryEvent] {
        &self.0
    }
}

impl DerefMut for History {
    fn deref_mut(&mut self) -> &mut [HistoryEvent] {
        &mut self.0
    }
}

impl<'a> IntoIterator for &'a History {
    type Item = &'a HistoryEvent;
    type IntoIter = std::slice::Iter<'a, HistoryEvent>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}
