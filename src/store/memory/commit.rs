//! Changes of rows, and the search for rows that are due.

use super::{
    MemoryStore,
    shard::{Kept, KeptKey},
    waiting::waits,
};
use crate::{
    store::{Candidate, Candidates, Change, Committed, Due, DueReason, Response, Row, Which},
    task::{RequestId, Scope},
};

impl MemoryStore {
    pub(super) fn commit_now(&self, change: Change) -> Committed {
        let now = self.inner.now();
        if change.to.is_none() {
            return match self.remove_if(change.id, |row| change.holds(row, now)) {
                true => Committed::Done,
                false => self.stale(change.id),
            };
        }
        let mut tasks = self.tasks(change.id);
        let Some(kept) = tasks.get_mut(change.id) else {
            return Committed::Stale(None);
        };
        if !change.holds(&kept.row, now) {
            return Committed::Stale(Some(Box::new(kept.row.clone())));
        }
        let (is_due, is_stop) = (change.brings_completion(), change.asks_to_stop());
        let Change {
            id,
            to: Some(next),
            request,
            response,
            ..
        } = change
        else {
            return Committed::Stale(None);
        };
        let row = next.after(&kept.row, now);
        // Dropped when the shard is unlocked.
        let old_request = request.map(|request| std::mem::replace(&mut kept.request, request));
        let old_response = match response {
            Response::Keep => None,
            Response::Put(payload) => kept.response.replace(payload),
            Response::Drop => kept.response.take(),
        };
        let replaced = tasks.replace(row, &self.around(id));
        drop(tasks);
        drop((old_request, old_response));
        if replaced.key {
            self.recount_key(id);
        }
        if replaced.grown {
            self.make_up_for(id);
        }
        if replaced.work {
            self.news.work();
        }
        if is_due {
            self.news.outbox();
        }
        if is_stop {
            self.news.stop(id);
        }
        self.news.changed(id);
        Committed::Done
    }

    fn stale(&self, id: RequestId) -> Committed {
        Committed::Stale(self.tasks(id).get(id).map(|kept| Box::new(kept.row.clone())))
    }

    /// Moves the key of a task to where it is counted, after the task has ended or was run again.
    ///
    /// Names come before shards in the lock order. Therefore this is a separate step after the change of the task, and
    /// it reads both anew. In between, the key is known, and counted in one of the two places.
    fn recount_key(&self, id: RequestId) {
        let room = &self.inner.room;
        let mut names = self.names();
        let mut tasks = self.tasks(id);
        let Some(kept) = tasks.get_mut(id).filter(|kept| kept.is_key_miscounted()) else {
            return;
        };
        let freed = match kept.key.take() {
            Some(KeptKey::Own(key)) => {
                let (taken, freed) = names.end(&key, id).unwrap_or_default();
                kept.key = Some(KeptKey::Ended(key));
                room.grow(taken);
                kept.weigh(room);
                freed
            }
            Some(KeptKey::Ended(key)) => {
                let freed = names.revive(&key, id);
                // If the key was removed meanwhile, the task has none any more.
                kept.key = freed.is_some().then_some(KeptKey::Own(key));
                kept.weigh(room);
                freed.unwrap_or(0)
            }
            None => 0,
        };
        if waits(&kept.row) {
            self.inner.waiting.follow(id, Some(&kept.row), kept.weight());
        }
        room.shrink(freed);
    }

    /// Removes a task if `holds` is true of its row, and its name. Its key outlives it.
    pub(super) fn remove_if(&self, id: RequestId, holds: impl Fn(&Row) -> bool) -> bool {
        let tasks = self.tasks(id);
        let Some(kept) = tasks.get(id).filter(|kept| holds(&kept.row)) else {
            return false;
        };
        let is_named = kept.row.record.name.is_some() || matches!(kept.key, Some(KeptKey::Own(_)));
        let (mut names, mut tasks) = match is_named {
            false => (None, tasks),
            true => {
                // Names come before shards in the lock order: unlock, lock both, and check again.
                drop(tasks);
                let names = self.names();
                (Some(names), self.tasks(id))
            }
        };
        let Some(kept) = tasks.get(id).filter(|kept| holds(&kept.row)) else {
            return false;
        };
        let key = match (&mut names, &kept.key) {
            (Some(names), Some(KeptKey::Own(key))) => names.end(key, id),
            _ => None,
        };
        let (taken, freed) = key.unwrap_or_default();
        self.inner.room.grow(taken);
        let removed = tasks.remove(id, &self.around(id));
        drop(tasks);
        if let Some((names, removed)) = names.as_mut().zip(removed.as_ref()) {
            names.forget(&removed.row.record);
        }
        drop((names, removed));
        self.inner.room.shrink(freed);
        self.news.changed(id);
        true
    }

    pub(super) fn due_now(&self, what: &Due, max: usize) -> Candidates {
        let now = self.inner.now();
        let mut rows = Vec::new();
        match what {
            Due::Rescue { spared } => {
                let over_age = self.inner.queue.lock().over_age(spared, max, now);
                let is_over_age = |row: &Row| row.columns.is_over_age(now);
                rows.extend(self.candidates(over_age, DueReason::OverAge, is_over_age));
                for shard in &self.inner.shards {
                    let lapsed: Vec<_> = shard.lock().lapsed(now).take(max - rows.len()).collect();
                    rows.extend(self.candidates(lapsed, DueReason::Lapsed, |row| row.columns.has_lapsed(now)));
                }
            }
            Due::Prune(retention) => {
                for shard in &self.inner.shards {
                    let past = shard.lock().shelf.past(*retention, max - rows.len(), now);
                    rows.extend(self.candidates(past, DueReason::Retired, |_| true));
                }
            }
            Due::GiveUp { spared, overdue } => {
                let until = now.saturating_sub(*overdue);
                let overdue = self.inner.outbox.overdue(spared, max, until);
                rows.extend(self.candidates(overdue, DueReason::Overdue, |_| true));
            }
            Due::Crowded(answers) => {
                for (id, reason) in self.inner.waiting.beyond(answers, max) {
                    rows.extend(self.candidates(vec![id], reason, waits));
                }
            }
        }
        Candidates { now, rows }
    }

    /// The rows of these tasks, without those that are gone or not due any more.
    fn candidates(&self, ids: Vec<RequestId>, reason: DueReason, still: impl Fn(&Row) -> bool) -> Vec<Candidate> {
        let rows = ids.into_iter().filter_map(|id| {
            let row = self.tasks(id).get(id).filter(|kept| still(&kept.row))?.row.clone();
            Some(Candidate { row, reason })
        });
        rows.collect()
    }

    pub(super) fn rows_now(&self, scope: &Scope, which: &Which) -> Vec<Row> {
        let ids = match which {
            Which::Id(id) => return self.row_in(scope, *id).into_iter().collect(),
            Which::Name(name) => self.names().named(scope, name),
            Which::HeldBy(worker) => {
                let held = |kept: &&Kept| kept.row.columns.worker.as_ref() == Some(worker);
                let shards = self.inner.shards.iter();
                shards.flat_map(|shard| shard.lock().held_where(held)).collect()
            }
        };
        ids.into_iter().filter_map(|id| self.row_in(scope, id)).collect()
    }

    fn row_in(&self, scope: &Scope, id: RequestId) -> Option<Row> {
        self.tasks(id).seen_by(scope, id).map(|kept| kept.row.clone())
    }
}
