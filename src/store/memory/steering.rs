//! What people do to tasks, and what time does to those that have ended.

use std::sync::{Arc, MutexGuard};

use crate::{
    store::{
        Delete, Pruned, Retention, StoreError, StoreResult,
        memory::{
            MemoryStore, ambiguous,
            shard::{Kept, Tasks},
        },
    },
    task::{
        Destination, RequestId, Scope, TaskRecord, TaskRef,
        delivery::Redeliver,
        lifecycle::{Edits, Rerun, Stop},
    },
};

impl MemoryStore {
    pub(super) fn stop_now(&self, scope: &Scope, id: RequestId) -> StoreResult<Stop> {
        self.open()?;
        let now = self.now();
        let mut tasks = self.tasks(id);
        tasks.seen_by(scope, id).ok_or_else(StoreError::not_found)?;
        let change = tasks.change(id, &self.around(id), |record| record.stop(now));
        change.map(|change| change.answer).ok_or_else(StoreError::not_found)
    }

    pub(super) fn rerun_now(&self, scope: &Scope, id: RequestId, edits: Edits) -> StoreResult<Rerun> {
        self.open()?;
        let now = self.now();
        let mut tasks = self.tasks(id);
        let kept = tasks.seen_by(scope, id).ok_or_else(StoreError::not_found)?;
        let input = match edits.is_empty() {
            true => kept.input.clone(),
            false => Arc::new(edits.apply(&kept.input)),
        };
        let change = tasks.change(id, &self.around(id), |record| record.rerun(&input, now));
        let change = change.ok_or_else(StoreError::not_found)?;
        if let (Rerun::Enqueued { .. }, Some(kept)) = (change.answer, tasks.get_mut(id)) {
            let before = kept.weight;
            kept.input = input;
            kept.output = None;
            kept.weight = kept.weigh();
            self.inner.room.grow(kept.weight);
            self.inner.room.shrink(before);
        }
        drop(tasks);
        self.notify_if(change.work);
        Ok(change.answer)
    }

    pub(super) fn redeliver_now(
        &self,
        scope: &Scope,
        id: RequestId,
        generation: u32,
        destination: &Destination,
    ) -> StoreResult<Redeliver> {
        let now = self.now();
        let mut tasks = self.tasks(id);
        tasks.seen_by(scope, id).ok_or_else(StoreError::not_found)?;
        let change = tasks.change(id, &self.around(id), |record| {
            let delivery = record.delivery_mut(generation, destination);
            delivery.map_or(Redeliver::Unknown, |delivery| {
                delivery.redeliver(now);
                Redeliver::Due
            })
        });
        change.map(|change| change.answer).ok_or_else(StoreError::not_found)
    }

    pub(super) fn delete_now(&self, scope: &Scope, id: RequestId) -> StoreResult<Delete> {
        self.open()?;
        // Before its shard, as everywhere: the name goes with the task.
        let mut names = self.names();
        let mut tasks = self.tasks(id);
        let kept = tasks.seen_by(scope, id).ok_or_else(StoreError::not_found)?;
        let state = kept.record.state;
        if !state.is_terminal() {
            return Ok(Delete::NotEnded(state));
        }
        if let Some(name) = kept.record.name.clone() {
            names.forget(name, kept.record.tenant.clone(), id);
        }
        let removed = tasks.remove(id, &self.around(id));
        drop((tasks, names));
        drop(removed);
        Ok(Delete::Deleted)
    }

    pub(super) fn find_now(&self, scope: &Scope, task: &TaskRef) -> StoreResult<Option<Arc<TaskRecord>>> {
        self.open()?;
        let id = match task {
            TaskRef::Id(id) => *id,
            TaskRef::Name(name) => match self.names().named(scope, name)[..] {
                [] => return Ok(None),
                [id] => id,
                _ => return Err(ambiguous(name)),
            },
        };
        Ok(self.tasks(id).seen_by(scope, id).map(|kept| kept.record.clone()))
    }

    pub(super) fn prune_now(&self, retention: Retention, limit: usize) -> Pruned {
        let now = self.now();
        let mut pruned = Pruned::default();
        for shard in &self.inner.shards {
            let mut due = Vec::new();
            {
                let tasks = shard.lock();
                for (ended, keep) in [
                    (&tasks.succeeded, retention.succeeded),
                    (&tasks.others, retention.others),
                ] {
                    let room = limit - pruned.tasks - due.len();
                    let past = ended
                        .iter()
                        .take(room)
                        .take_while(|(at, _)| at.saturating_add(keep) <= now);
                    due.extend(past.map(|(_, id)| id));
                }
            }
            let past = |kept: &Kept| {
                let keep = retention.of(kept.record.state);
                let since = kept.record.rests_since();
                since.is_some_and(|since| since.saturating_add(keep) <= now)
            };
            let removed = due
                .into_iter()
                .filter(|id| self.remove_ended(self.tasks(*id), *id, past));
            pruned.tasks += removed.count();
        }
        let (keys, weight) = self.names().prune(limit, now);
        self.inner.room.shrink(weight);
        pruned.keys = keys;
        pruned
    }

    /// Removes a task that has ended, that no delivery is pending of, and that `also` holds for. `tasks` is its shard.
    pub(super) fn remove_ended(
        &self,
        mut tasks: MutexGuard<'_, Tasks>,
        id: RequestId,
        also: impl Fn(&Kept) -> bool,
    ) -> bool {
        let fits = |kept: &Kept| kept.record.rests_since().is_some() && also(kept);
        let Some(kept) = tasks.get(id).filter(|kept| fits(kept)) else {
            return false;
        };
        let Some(name) = kept.record.name.clone() else {
            let removed = tasks.remove(id, &self.around(id));
            drop(tasks);
            drop(removed);
            return true;
        };
        let tenant = kept.record.tenant.clone();
        drop(tasks);
        // It has a name, and names come before shards: let go, take both, look again.
        let mut names = self.names();
        let mut tasks = self.tasks(id);
        if !tasks.get(id).is_some_and(fits) {
            return false;
        }
        let removed = tasks.remove(id, &self.around(id));
        drop(tasks);
        names.forget(name, tenant, id);
        drop((names, removed));
        true
    }
}
