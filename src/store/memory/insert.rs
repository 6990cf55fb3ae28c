//! Taking tasks in, and making room for them.

use std::sync::Arc;

use crate::{
    store::{
        BornClaimed, FullReason, Insert, Inserted, KnownBy, Limits,
        index::Place,
        memory::{
            MemoryStore, is_same,
            names::{Lookup, Names},
            shard::Kept,
        },
    },
    task::{NewTask, RequestDigest, RequestId, TaskRecord},
    time::Timestamp,
};

impl MemoryStore {
    pub(super) fn insert_now(&self, insert: Insert) -> Inserted {
        let Insert { task, limits, born } = insert;
        // Made once: a store that has been up for a while is full, and every insert into it has to make room first.
        let mut kept = Kept {
            record: Arc::new(record_of(&task, born, self.now())),
            input: task.input.clone(),
            output: None,
            digest: task.digest,
            logs: None,
            weight: task.input.weight(),
        };
        let weight = kept.weight + Names::weight(&task);
        loop {
            match self.try_insert(&task, limits, kept) {
                Ok(inserted) => return inserted,
                Err(NoRoom(back)) => kept = back,
            }
            // No lock is held here. Another insert may take the room that is made: then this one makes more.
            if !self.inner.room.could_hold(weight) || !self.drop_oldest_ended() {
                return Inserted::Full(FullReason::Storage);
            }
        }
    }

    fn try_insert(&self, task: &NewTask, limits: Limits, kept: Kept) -> Result<Inserted, NoRoom> {
        let now = kept.record.created_at;
        let weight = kept.weight + Names::weight(task);
        // Held to the end: between the look-up and the insert nobody else may take the name.
        let mut names = Names::concern(task).then(|| self.names());
        if let Some(names) = &names {
            if let Some(known) = self.known(task.id, KnownBy::Id, None, task.digest) {
                return Ok(known);
            }
            match names.look_up(task, now) {
                Lookup::Unknown => {}
                Lookup::Conflict => return Ok(Inserted::Conflict),
                Lookup::Known(id, by, digest) => {
                    let gone = Inserted::Known {
                        task: None,
                        id,
                        by,
                        same_request: is_same(digest, task.digest),
                    };
                    return Ok(self.known(id, by, digest, task.digest).unwrap_or(gone));
                }
            }
        }

        let place = Place::of(&kept.record);
        let mut tasks = self.tasks(task.id);
        if let Some(known) = tasks.get(task.id) {
            return Ok(Inserted::Known {
                task: Some(known.record.clone()),
                id: task.id,
                by: KnownBy::Id,
                same_request: is_same(known.digest, task.digest),
            });
        }
        if let Some(place) = place {
            let mut queue = self.inner.queue.lock();
            if let Some(full) = queue.full(task.tenant.as_ref(), limits) {
                return Ok(Inserted::Full(full));
            }
            if !self.inner.room.reserve(weight) {
                return Err(NoRoom(kept));
            }
            queue.push(task.id, task.tenant.as_ref(), place);
        } else if !self.inner.room.reserve(weight) {
            return Err(NoRoom(kept));
        }
        let record = kept.record.clone();
        tasks.add(kept);
        drop(tasks);
        if let Some(names) = &mut names {
            self.inner.room.shrink(names.note(task, now));
        }
        drop(names);
        if place.is_some() {
            self.inner.queue.notify();
        }
        Ok(Inserted::New(record))
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
            let tasks = self.inner.shards[shard].lock();
            if let Some(id) = tasks.oldest_ended()
                && self.remove_ended(tasks, id, |_| true)
            {
                return true;
            }
            // Somebody else removed it: look again.
        }
        false
    }
}

/// There is no room in the store for this, which is given back.
struct NoRoom(Kept);

/// The record of a task as it is stored: waiting, or claimed from birth.
fn record_of(task: &NewTask, born: Option<BornClaimed>, now: Timestamp) -> TaskRecord {
    let mut record = TaskRecord::accepted(task, now);
    if let Some(born) = born {
        let claimed = record.claim(born.worker, born.lease, now);
        debug_assert!(claimed.is_ok(), "a new task is waiting, and what waits can be claimed");
    }
    record
}
