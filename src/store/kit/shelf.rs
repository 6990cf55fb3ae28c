//! Tasks in the orders that somebody asks for.

use super::{Moment, Tally, Timeline};
use crate::{
    store::{Retention, Row},
    task::{RequestId, TaskState},
    time::Timestamp,
};

/// Every task by its creation, every one that rests by when it came to rest, and how many are in each state.
#[derive(Debug, Default)]
pub struct Shelf {
    /// All of them, by creation.
    pub created: Timeline,
    /// How many are in each state.
    pub tally: Tally,
    /// Those of which nothing is left to be done, by retention and since when.
    rests: [Timeline; 2],
}

impl Shelf {
    /// Notes a row that comes, goes, or is another one now.
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

    /// Up to `max` tasks that have rested for longer than they are kept, the longest past that first.
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

    /// The task that has rested longest.
    #[must_use]
    pub fn longest_at_rest(&self) -> Option<Moment> {
        self.rests.iter().filter_map(Timeline::first).min()
    }

    /// The same, with one left out.
    #[must_use]
    pub fn longest_at_rest_but(&self, spared: RequestId) -> Option<Moment> {
        let first = |line: &Timeline| line.iter().find(|(_, id)| *id != spared);
        self.rests.iter().filter_map(first).min()
    }

    /// Takes out a task of which nobody knows any more where it stands, by looking at all of them. It is counted on.
    pub fn purge(&mut self, id: RequestId) {
        self.created.purge(id);
        for line in &mut self.rests {
            line.purge(id);
        }
    }
}

/// Rows of a store that is being opened, noted in whatever order they are found: a million moments are sorted at once much
/// faster than one by one.
#[derive(Debug, Default)]
pub struct Unsorted {
    created: Vec<Moment>,
    tally: Tally,
    rests: [Vec<Moment>; 2],
}

impl Unsorted {
    /// Notes a row that was not noted before.
    pub fn note(&mut self, row: &Row) {
        self.created.push(created(row));
        self.tally.add(row.record.tenant.as_ref(), row.columns.state);
        if let Some((line, moment)) = rest_of(row) {
            self.rests[line].push(moment);
        }
    }

    /// All of them, in order.
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

/// In which line it rests, and since when.
fn rest_of(row: &Row) -> Option<(usize, Moment)> {
    let line = usize::from(row.columns.state != TaskState::Succeeded);
    row.columns.rests_at.map(|at| (line, (at, row.id)))
}
