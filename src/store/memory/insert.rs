//! Taking tasks in, and making room for them.

use std::sync::Arc;

use crate::{
    store::{
        FullReason, Insert, Inserted, KnownBy,
        index::Place,
        memory::{
            MemoryStore, is_same,
            names::{Lookup, Names},
            shard::Kept,
        },
    },
    task::{RequestDigest, RequestId, TaskRecord},
    time::Timestamp,
};

impl MemoryStore {
    pub(super) fn insert_now(&self, insert: &Insert) -> Inserted {
        let own_weight = insert.task.input.weight();
        let weight = own_weight + Names::weight(&insert.task);
        // Made once: a store that has been up for a while is full, and every insert into it has to make room first.
        let record = Arc::new(record_of(insert, self.now()));
        loop {
            if let Some(inserted) = self.try_insert(insert, &record, own_weight) {
                return inserted;
            }
            // No lock is held here. Another insert may take the room that is made: then this one makes more.
            if !self.inner.room.could_hold(weight) || !self.drop_oldest_ended() {
                return Inserted::Full(FullReason::Storage);
            }
        }
    }

    /// `None` if there is no room in the store.
    fn try_insert(&self, insert: &Insert, record: &Arc<TaskRecord>, own_weight: usize) -> Option<Inserted> {
        let (task, now) = (&insert.task, record.created_at);
        let weight = own_weight + Names::weight(task);
        // Held to the end: between the look-up and the insert nobody else may take the name.
        let mut names = Names::concern(task).then(|| self.names());
        if let Some(names) = &names {
            if let Some(known) = self.known(task.id, KnownBy::Id, None, task.digest) {
                return Some(known);
            }
            match names.look_up(task, now) {
                Lookup::Unknown => {}
                Lookup::Conflict => return Some(Inserted::Conflict),
                Lookup::Known(id, by, digest) => {
                    let gone = Inserted::Known {
                        task: None,
                        id,
                        by,
                        same_request: is_same(digest, task.digest),
                    };
                    return Some(self.known(id, by, digest, task.digest).unwrap_or(gone));
                }
            }
        }

        let place = Place::of(record);
        let mut tasks = self.tasks(task.id);
        if let Some(kept) = tasks.get(task.id) {
            return Some(Inserted::Known {
                task: Some(kept.record.clone()),
                id: task.id,
                by: KnownBy::Id,
                same_request: is_same(kept.digest, task.digest),
            });
        }
        if let Some(place) = place {
            let mut queue = self.inner.queue.lock();
            if let Some(full) = queue.full(task.tenant.as_ref(), insert.limits) {
                return Some(Inserted::Full(full));
            }
            if !self.inner.room.reserve(weight) {
                return None;
            }
            queue.push(task.id, task.tenant.as_ref(), place);
        } else if !self.inner.room.reserve(weight) {
            return None;
        }
        tasks.add(Kept {
            record: record.clone(),
            input: task.input.clone(),
            output: None,
            digest: task.digest,
            logs: None,
            weight: own_weight,
        });
        drop(tasks);
        if let Some(names) = &mut names {
            self.inner.room.shrink(names.note(task, now));
        }
        drop(names);
        if place.is_some() {
            self.inner.queue.notify();
        }
        Some(Inserted::New(record.clone()))
    }

    /// What to answer for a task that is known, if it is there. `digest` is that of the key it is known by.
    pub(super) fn known(
        &self,
        id: RequestId,
        by: KnownBy,
        digest: Option<RequestDigest>,
        given: Option<RequestDigest>,
    ) -> Option<Inserted> {
        let tasks = self.tasks(id);
        let kept = tasks.get(id)?;
        Some(Inserted::Known {
            task: Some(kept.record.clone()),
            id,
            by,
            same_request: is_same(digest.or(kept.digest), given),
        })
    }

    /// Drops the task that ended first of those that nothing is left to be done about. False if there is none.
    pub(super) fn drop_oldest_ended(&self) -> bool {
        while let Some(shard) = self.inner.room.oldest() {
            let oldest = self.inner.shards[shard].lock().oldest_ended();
            if oldest.is_some_and(|id| self.remove_ended(id, |_| true)) {
                return true;
            }
            // Somebody else removed it: look again.
        }
        false
    }
}

/// The record of a task as it is stored: waiting, or claimed from birth.
fn record_of(insert: &Insert, now: Timestamp) -> TaskRecord {
    let mut record = TaskRecord::accepted(&insert.task, now);
    if let Some(born) = &insert.born {
        let claimed = record.claim(&born.worker, born.lease, now);
        debug_assert!(claimed.is_ok(), "a new task is waiting, and what waits can be claimed");
    }
    record
}
