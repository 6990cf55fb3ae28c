//! Inserting tasks, and making room for them.

use super::{
    MemoryStore,
    names::{Lookup, Names},
    shard::Kept,
};
use crate::{
    store::{FullReason, Insertion, KnownBy, NewRow},
    task::{FenceToken, RequestDigest, RequestId},
    time::Timestamp,
};

impl MemoryStore {
    /// Inserts tasks, and wakes those who claim if one of them waits.
    pub(super) fn insert_all_now(&self, tasks: impl Iterator<Item = NewRow>) -> Vec<Insertion> {
        let now = self.inner.now();
        let insertions: Vec<_> = tasks.map(|task| self.insert_at(task, now)).collect();
        if insertions.iter().any(is_waiting) {
            self.news.work();
        }
        insertions
    }

    pub(super) fn insert_now(&self, task: NewRow) -> Insertion {
        let insertion = self.insert_at(task, self.inner.now());
        if is_waiting(&insertion) {
            self.news.work();
        }
        insertion
    }

    fn insert_at(&self, task: NewRow, now: Timestamp) -> Insertion {
        let weight = Kept::weight_of_new(&task);
        let mut task = Some(task);
        loop {
            match self.try_insert(&mut task, weight, now) {
                Some(insertion) => return insertion,
                // No lock is held here. If another insert takes the room that is made, this one makes more.
                None if self.inner.room.could_hold(weight) && self.make_room_for(weight) => {}
                None => return Insertion::Full(FullReason::Storage),
            }
        }
    }

    /// Stores the task, if there is room for it. Otherwise leaves the task in `given`: a store that has run for a while
    /// is full, and every insert must make room first.
    fn try_insert(&self, given: &mut Option<NewRow>, weight: usize, now: Timestamp) -> Option<Insertion> {
        let task = given.as_ref()?;
        let id = task.record.id;
        // Locked until the end: no other insert may take the name between the look-up and the insert.
        let mut names = Names::concern(task).then(|| self.names());
        if let Some(names) = &names {
            if let Some(known) = self.known(id, KnownBy::Id, None) {
                return Some(known);
            }
            match names.look_up(task, now) {
                Lookup::Unknown => {}
                Lookup::Conflict => return Some(Insertion::Conflict),
                Lookup::Known(id, by, digest) => {
                    let gone = Insertion::Known {
                        row: None,
                        id,
                        by,
                        digest,
                    };
                    return Some(self.known(id, by, digest).unwrap_or(gone));
                }
            }
        }

        let mut tasks = self.tasks(id);
        if let Some(known) = tasks.get(id) {
            return Some(Insertion::Known {
                row: Some(known.row.clone()),
                id,
                by: KnownBy::Id,
                digest: None,
            });
        }
        let waits = task.claim.is_none();
        let mut queue = waits.then(|| self.inner.queue.lock());
        let tenant = task.record.tenant.as_ref();
        if let Some(full) = queue
            .as_ref()
            .and_then(|queue| queue.full(tenant, &task.record.pool, task.limits))
        {
            return Some(Insertion::Full(full));
        }
        if !self.inner.room.reserve(weight) {
            return None;
        }
        let task = given.take()?;
        let row = task.row(FenceToken::NONE, now);
        if let Some(queue) = &mut queue {
            queue.push(&row);
        }
        drop(queue);
        let noted = names.as_mut().map(|names| names.note(&task, now));
        let (key, freed) = noted.unwrap_or_default();
        tasks.add(Kept::new(row.clone(), task.request, key, weight));
        drop(tasks);
        drop(names);
        self.inner.room.shrink(freed);
        self.news.changed(id);
        Some(Insertion::New(row))
    }

    /// The answer for a known task, if it is still there. `digest` is that of its key, if it is known by its key.
    fn known(&self, id: RequestId, by: KnownBy, digest: Option<RequestDigest>) -> Option<Insertion> {
        let row = self.tasks(id).get(id)?.row.clone();
        Some(Insertion::Known {
            row: Some(row),
            id,
            by,
            digest,
        })
    }
}

/// Whether this is a new task that waits.
fn is_waiting(insertion: &Insertion) -> bool {
    matches!(insertion, Insertion::New(row) if !row.columns.is_held())
}
