//! The completions to deliver, in the order in which they are due.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::{Mutex, MutexGuard, PoisonError},
};

use crate::{
    store::OutboxRow,
    task::{Destination, RequestId},
    time::Timestamp,
};

/// An index over the outboxes of all tasks.
///
/// # Examples
///
/// ```
/// use std::{slice, time::Duration};
/// use tower_respond_async::{
///     store::{OutboxRow, kit::Outbox},
///     task::{Destination, FenceToken, RequestId},
///     time::Timestamp,
/// };
///
/// let (id, audit, now) = (RequestId::from_bytes([7; 16]), Destination::new("audit"), Timestamp::from_millis(1_000));
/// let before = OutboxRow::new(1, audit.clone());
/// let outbox = Outbox::default();
/// outbox.follow(id, &[], slice::from_ref(&before));
/// assert_eq!(outbox.take(&[(audit.clone(), 10)], now).len(), 1);
///
/// let mut after = before.clone();
/// after.claim(Duration::from_secs(30), FenceToken::NONE, now);
/// outbox.follow(id, &[before], &[after]);
/// assert!(outbox.take(&[(audit, 10)], now).is_empty(), "it is due when the lease runs out");
/// assert_eq!(outbox.pending(), 1);
/// ```
#[derive(Debug, Default)]
pub struct Outbox(Mutex<HashMap<Destination, BTreeSet<Due>>>);

/// When a completion is due, its task, and its generation.
///
/// See the example of [`Outbox`].
pub type Due = (Timestamp, RequestId, u32);

impl Outbox {
    /// Updates the index for a task whose outbox was `before` and is `after`.
    pub fn follow(&self, id: RequestId, before: &[OutboxRow], after: &[OutboxRow]) {
        if before == after {
            return;
        }
        let mut queues = self.lock();
        for row in before {
            if let Some(queue) = queues.get_mut(&row.destination) {
                queue.remove(&due(id, row));
                if queue.is_empty() {
                    queues.remove(&row.destination);
                }
            }
        }
        for row in after {
            queues.entry(row.destination.clone()).or_default().insert(due(id, row));
        }
    }

    /// Removes all completions of a task whose outbox is not known any more. Looks at all completions.
    pub fn purge(&self, id: RequestId) {
        self.lock().retain(|_, queue| {
            queue.retain(|(_, other, _)| *other != id);
            !queue.is_empty()
        });
    }

    /// How many completions are pending.
    #[must_use]
    pub fn pending(&self) -> u64 {
        self.lock().values().map(|queue| queue.len() as u64).sum()
    }

    /// Takes due completions out of the index, at most a given number for each destination, longest due first. The
    /// caller must [update](Self::follow) the index afterwards.
    pub fn take(&self, from: &[(Destination, usize)], now: Timestamp) -> Vec<(Destination, Due)> {
        let mut queues = self.lock();
        let mut taken = Vec::new();
        for (destination, max) in from {
            let Some(queue) = queues.get_mut(destination) else {
                continue;
            };
            for _ in 0..*max {
                match queue.first() {
                    Some(first) if first.0 <= now => {}
                    _ => break,
                }
                taken.extend(queue.pop_first().map(|first| (destination.clone(), first)));
            }
            if queue.is_empty() {
                queues.remove(destination);
            }
        }
        taken
    }

    /// Up to `max` tasks with a completion that has been due since `until` or longer, for any destination that is not
    /// `spared`; the longest due first.
    pub fn overdue(&self, spared: &[Destination], max: usize, until: Timestamp) -> Vec<RequestId> {
        let queues = self.lock();
        let others = queues.iter().filter(|(destination, _)| !spared.contains(destination));
        // A task may have several such completions, for one destination or for many.
        let overdue = others.flat_map(|(_, queue)| {
            let overdue = queue.iter().take_while(|due| due.0 <= until);
            of_different_tasks(overdue.copied()).take(max)
        });
        let mut overdue: Vec<Due> = overdue.collect();
        overdue.sort_unstable();
        let ids = of_different_tasks(overdue.into_iter()).map(|(_, id, _)| id);
        ids.take(max).collect()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Destination, BTreeSet<Due>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

const fn due(id: RequestId, row: &OutboxRow) -> Due {
    (row.due_at, id, row.generation)
}

/// The first completion of each task.
fn of_different_tasks(all: impl Iterator<Item = Due>) -> impl Iterator<Item = Due> {
    let mut known = HashSet::new();
    all.filter(move |(_, id, _)| known.insert(*id))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_tasks_are_overdue_as_asked_for_however_many_completions_each_has() {
        let outbox = Outbox::default();
        for number in 0..3 {
            // The completions of three generations for one destination.
            let mut rows = [1, 2, 3].map(|generation| OutboxRow::new(generation, Destination::new("audit")));
            for row in &mut rows {
                row.due_at = Timestamp::from_millis(number.into());
            }
            outbox.follow(RequestId::from_bytes([number; 16]), &[], &rows);
        }
        let overdue = |max| outbox.overdue(&[], max, Timestamp::from_millis(1));
        let [first, second] = [0, 1].map(|number| RequestId::from_bytes([number; 16]));
        assert_eq!(overdue(1), [first]);
        assert_eq!(overdue(2), [first, second]);
        assert_eq!(overdue(9), [first, second], "the third is not overdue yet");
    }
}
