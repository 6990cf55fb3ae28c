//! Taking tasks in, and making room for them.

use super::{
    MemoryStore,
    names::{Lookup, Names},
    shard::Kept,
};
use crate::{
    store::{FullReason, Insertion, KnownBy, NewRow, kit::Place},
    task::{RequestDigest, RequestId},
};

impl MemoryStore {
    pub(super) fn insert_now(&self, task: NewRow) -> Insertion {
        // Made once: a store that has been up for a while is full, and every insert into it has to make room first.
        let mut kept = Kept {
            row: task.row(self.inner.now()),
            request: task.request.clone(),
            response: None,
            logs: None,
        };
        let weight = kept.weight() + Names::weight(&task);
        loop {
            match self.try_insert(&task, weight, kept) {
                Ok(insertion) => return insertion,
                Err(NoRoom(back)) => kept = *back,
            }
            // No lock is held here. Another insert may take the room that is made: then this one makes more.
            if !self.inner.room.could_hold(weight) || !self.drop_oldest_ended() {
                return Insertion::Full(FullReason::Storage);
            }
        }
    }

    fn try_insert(&self, task: &NewRow, weight: usize, kept: Kept) -> Result<Insertion, NoRoom> {
        let (id, now) = (kept.row.id, kept.row.columns.created_at);
        // Held to the end: between the look-up and the insert nobody else may take the name.
        let mut names = Names::concern(task).then(|| self.names());
        if let Some(names) = &names {
            if let Some(known) = self.known(id, KnownBy::Id, None) {
                return Ok(known);
            }
            match names.look_up(task, now) {
                Lookup::Unknown => {}
                Lookup::Conflict => return Ok(Insertion::Conflict),
                Lookup::Known(id, by, digest) => {
                    let gone = Insertion::Known {
                        row: None,
                        id,
                        by,
                        digest,
                    };
                    return Ok(self.known(id, by, digest).unwrap_or(gone));
                }
            }
        }

        let place = Place::of(&kept.row);
        let mut tasks = self.tasks(id);
        if let Some(known) = tasks.get(id) {
            return Ok(Insertion::Known {
                row: Some(known.row.clone()),
                id,
                by: KnownBy::Id,
                digest: None,
            });
        }
        if let Some(place) = place {
            let tenant = task.record.tenant.as_ref();
            let mut queue = self.inner.queue.lock();
            if let Some(full) = queue.full(tenant, task.limits) {
                return Ok(Insertion::Full(full));
            }
            if !self.inner.room.reserve(weight) {
                return Err(NoRoom(Box::new(kept)));
            }
            queue.push(id, tenant, place);
        } else if !self.inner.room.reserve(weight) {
            return Err(NoRoom(Box::new(kept)));
        }
        let row = kept.row.clone();
        tasks.add(kept);
        drop(tasks);
        if let Some(names) = &mut names {
            self.inner.room.shrink(names.note(task, now));
        }
        drop(names);
        if place.is_some() {
            self.inner.queue.notify();
        }
        Ok(Insertion::New(row))
    }

    /// What to answer for a task that is known, if it is there. `digest` is that of the key it is known by.
    fn known(&self, id: RequestId, by: KnownBy, digest: Option<RequestDigest>) -> Option<Insertion> {
        let row = self.tasks(id).get(id)?.row.clone();
        Some(Insertion::Known {
            row: Some(row),
            id,
            by,
            digest,
        })
    }

    /// Drops the task that ended first of those that nothing is left to be done about. False if there is none.
    pub(super) fn drop_oldest_ended(&self) -> bool {
        while let Some(shard) = self.inner.room.oldest() {
            let tasks = self.inner.shards[shard].lock();
            let oldest = tasks.shelf.longest_at_rest();
            drop(tasks);
            if oldest.is_some_and(|(_, id)| self.remove_if(id, |row| row.columns.rests_at.is_some())) {
                return true;
            }
            // Somebody else removed it: look again.
        }
        false
    }
}

/// There is no room in the store for this, which is given back.
struct NoRoom(Box<Kept>);
