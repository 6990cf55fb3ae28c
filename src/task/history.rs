//! [`History`]: what a task went through.

use std::{
    ops::{Deref, DerefMut},
    sync::Arc,
};

use smallvec::SmallVec;

use crate::{
    task::{TaskState, shorten::shorten},
    time::Timestamp,
};

/// What a task went through, oldest first: a slice of [`HistoryEvent`]s.
///
/// Of a long one the first event and the newest are kept, [`KEPT`](Self::KEPT) in all.
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
/// assert_eq!(history.last().unwrap().state, TaskState::Enqueued);
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct History(SmallVec<[HistoryEvent; 3]>); // accepted, begun, ended

/// One thing that happened to a task.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct HistoryEvent {
    /// Counts from 1 and has no gaps but where a very long history was thinned out.
    pub id: u32,
    /// The state it led to.
    pub state: TaskState,
    /// When.
    pub at: Timestamp,
    /// In which attempt, or 0.
    pub attempt: u32,
    /// A sentence for people. Of a `Running`, the worker, once the task was claimed again: until then it is the record's.
    pub detail: Option<Arc<str>>,
}

impl History {
    /// How many events are kept: the first, which says when the task was accepted, and the newest. They are written with
    /// every change of the task. One that retries three times has nine; of one that is released by every deploy of a month,
    /// how it began and how it goes tell the story.
    pub const KEPT: usize = 16;

    /// Adds an event, and forgets an earlier one if that is one too many. A detail that is too long is shortened.
    pub fn note(&mut self, state: TaskState, at: Timestamp, attempt: u32, detail: Option<Arc<str>>) {
        let id = self.last().map_or(1, |last| last.id + 1);
        // A record that another build has written may have more.
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
    /// The longest detail that is kept, in bytes: a sentence. The latest error stands whole in the record, and every one in
    /// the log.
    pub const DETAIL_BYTES: usize = 128;
}

impl From<Vec<HistoryEvent>> for History {
    /// These, as they are.
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
