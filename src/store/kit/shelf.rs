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

    /// Notes many rows at once, whatever order they come in.
    pub fn fill<'a>(&mut self, rows: impl Iterator<Item = &'a Row>) {
        let mut of_all = Vec::new();
        let mut of_rests = [Vec::new(), Vec::new()];
        for row in rows {
            of_all.push(created(row));
            self.tally.add(row.record.tenant.as_ref(), row.columns.state);
            if let Some((line, moment)) = rest_of(row) {
                of_rests[line].push(moment);
            }
        }
        self.created = Timeline::of(of_all);
        self.rests = of_rests.map(Timeline::of);
    }

    /// Up to `max` tasks that have rested for longer than they are kept, of each kind the longest first.
    #[must_use]
    pub fn past(&self, retention: Retention, max: usize, now: Timestamp) -> Vec<RequestId> {
        let kept = [retention.succeeded, retention.others];
        let past = self.rests.iter().zip(kept).flat_map(|(line, kept)| {
            let past = line
                .iter()
                .take(max)
                .take_while(move |(at, _)| at.saturating_add(kept) <= now);
            past.map(|(_, id)| id)
        });
        past.take(max).collect()
    }

    /// The task that has rested longest.
    #[must_use]
    pub fn longest_at_rest(&self) -> Option<Moment> {
        self.rests.iter().filter_map(Timeline::first).min()
    }

    /// Takes out a task of which nobody knows any more where it stands, by looking at all of them. It is counted on.
    pub fn purge(&mut self, id: RequestId) {
        self.created.purge(id);
        for line in &mut self.rests {
            line.purge(id);
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
