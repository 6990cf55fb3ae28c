//! Tasks in the orders in which they are looked up.

use super::{Moment, Tally, Timeline};
use crate::{
    store::{Retention, Row},
    task::{RequestId, TaskState},
    time::Timestamp,
};

/// All tasks by creation, tasks at rest by the time they came to rest, and the number of tasks in each state.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
///
/// # use bytes::Bytes;
/// # use http::{HeaderMap, Method, Uri};
/// use tower_respond_async::{
///     store::{Retention, kit::Shelf},
///     task::{FenceToken, TaskState},
///     time::Timestamp,
/// };
/// # use tower_respond_async::{store::NewRow, task::{CapturedRequest, NewTask, RequestId, TaskRecord}};
///
/// # let request = CapturedRequest::new(Method::GET, Uri::from_static("/"), HeaderMap::new(), Bytes::new());
/// # let task = NewTask::new(RequestId::from_bytes([7; 16]), request.into());
/// let now = Timestamp::from_millis(1_000);
/// # let new = NewRow::new(TaskRecord::accepted(&task, now).into(), task.request.to_payload());
/// let row = new.row(FenceToken::NONE, now);
/// let mut shelf = Shelf::default();
/// shelf.follow(None, Some(&row));
/// assert_eq!(shelf.created.first(), Some((now, row.id)));
///
/// let mut ended = row.clone();
/// ended.columns.state = TaskState::Stopped;
/// ended.columns.rests_at = Some(now);
/// shelf.follow(Some(&row), Some(&ended));
/// let minute = Duration::from_secs(60);
/// let retention = Retention::new(minute, minute);
/// assert!(shelf.past(retention, 10, now).is_empty());
/// assert_eq!(shelf.past(retention, 10, now.saturating_add(minute)), [row.id]);
/// ```
#[derive(Debug, Default)]
pub struct Shelf {
    /// All tasks, by creation.
    pub created: Timeline,
    /// The number of tasks in each state.
    pub tally: Tally,
    /// Tasks with nothing left to do, by retention and the time they came to rest.
    rests: [Timeline; 2],
}

impl Shelf {
    /// Updates the index for a row that was `before` and is `after`.
    pub fn follow(&mut self, before: Option<&Row>, after: Option<&Row>) {
        let tenant = |row: &Row| row.record.tenant.clone();
        match (before, after) {
            (Some(before), Some(after)) => {
                let (from, to) = (before.columns.state, after.columns.state);
                self.tally.change(before.record.tenant.as_ref(), from, to);
            }
            (None, Some(after)) => {
                self.created.insert(created(after));
                self.tally.add(tenant(after).as_ref(), after.columns.state);
            }
            (Some(before), None) => {
                self.created.remove(created(before));
                self.tally.remove(tenant(before).as_ref(), before.columns.state);
            }
            (None, None) => {}
        }
        let (was, is) = (before.and_then(rest_of), after.and_then(rest_of));
        if was != is {
            if let Some((line, moment)) = was {
                self.rests[line].remove(moment);
            }
            if let Some((line, moment)) = is {
                self.rests[line].insert(moment);
            }
        }
    }

    /// Up to `max` tasks that are past their retention, longest past it first.
    #[must_use]
    pub fn past(&self, retention: Retention, max: usize, now: Timestamp) -> Vec<RequestId> {
        let kept = [retention.succeeded, retention.others];
        let past = self.rests.iter().zip(kept).flat_map(|(line, kept)| {
            let due = line.iter().map(move |(at, id)| (at.saturating_add(kept), id));
            due.take(max).take_while(move |(due, _)| *due <= now)
        });
        let mut past: Vec<Moment> = past.collect();
        past.sort_unstable();
        past.into_iter().take(max).map(|(_, id)| id).collect()
    }

    /// The task that has been at rest longest.
    #[must_use]
    pub fn longest_at_rest(&self) -> Option<Moment> {
        self.rests.iter().filter_map(Timeline::first).min()
    }

    /// The task that has been at rest longest, except `spared`.
    #[must_use]
    pub fn longest_at_rest_but(&self, spared: RequestId) -> Option<Moment> {
        let first = |line: &Timeline| line.iter().find(|(_, id)| *id != spared);
        self.rests.iter().filter_map(first).min()
    }

    /// Removes a task whose times are not known any more. Looks at all tasks. The tally still counts the task.
    pub fn purge(&mut self, id: RequestId) {
        self.created.purge(id);
        for line in &mut self.rests {
            line.purge(id);
        }
    }
}

/// Rows of a store that is being opened, in the order in which they are found. Sorting a million moments at once is
/// much faster than inserting them one by one.
///
/// # Examples
///
/// ```
/// # use bytes::Bytes;
/// # use http::{HeaderMap, Method, Uri};
/// use tower_respond_async::{
///     store::kit::{Shelf, Unsorted},
///     task::FenceToken,
///     time::Timestamp,
/// };
/// # use tower_respond_async::{store::NewRow, task::{CapturedRequest, NewTask, RequestId, TaskRecord}};
///
/// # let request = CapturedRequest::new(Method::GET, Uri::from_static("/"), HeaderMap::new(), Bytes::new());
/// # let task = NewTask::new(RequestId::from_bytes([7; 16]), request.into());
/// let now = Timestamp::from_millis(1_000);
/// # let new = NewRow::new(TaskRecord::accepted(&task, now).into(), task.request.to_payload());
/// let row = new.row(FenceToken::NONE, now);
/// let mut found = Unsorted::default();
/// found.note(&row);
/// let shelf: Shelf = found.sort();
/// assert_eq!(shelf.created.first(), Some((now, row.id)));
/// ```
#[derive(Debug, Default)]
pub struct Unsorted {
    created: Vec<Moment>,
    tally: Tally,
    rests: [Vec<Moment>; 2],
}

impl Unsorted {
    /// Adds a row that was not added before.
    pub fn note(&mut self, row: &Row) {
        self.created.push(created(row));
        self.tally.add(row.record.tenant.as_ref(), row.columns.state);
        if let Some((line, moment)) = rest_of(row) {
            self.rests[line].push(moment);
        }
    }

    /// All rows, sorted.
    #[must_use]
    pub fn sort(self) -> Shelf {
        Shelf {
            created: Timeline::of(self.created),
            tally: self.tally,
            rests: self.rests.map(Timeline::of),
        }
    }
}

fn created(row: &Row) -> Moment {
    (row.columns.created_at, row.id)
}

/// The timeline in which the task rests, and since when.
fn rest_of(row: &Row) -> Option<(usize, Moment)> {
    let line = usize::from(row.columns.state != TaskState::Succeeded);
    row.columns.rests_at.map(|at| (line, (at, row.id)))
}
