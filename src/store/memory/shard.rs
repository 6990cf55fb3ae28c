//! One part of the tasks, and the indexes that are updated with every change of a row.

use std::{
    collections::{HashMap, HashSet, hash_map::Entry as MapEntry},
    hash::{BuildHasherDefault, Hasher},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::{
    names::weight_of_key,
    room::Room,
    waiting::{Waiting, waits},
};
use crate::{
    store::{
        NewRow, Payload, Row,
        kit::{ClientKey, Log, Outbox, Queue, Shelf},
    },
    task::{Counts, RequestId, Scope},
    time::Timestamp,
};

/// A part of the tasks behind a lock of its own. The alignment keeps the locks of two shards off one cache line.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(super) struct Shard(Mutex<Tasks>);

impl Shard {
    pub(super) fn lock(&self) -> MutexGuard<'_, Tasks> {
        // Only a bug in `lifecycle` could panic under the lock. It may leave one task in disorder, but not the others.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Everything that is kept of one task.
#[derive(Debug)]
pub(super) struct Kept {
    pub(super) row: Row,
    pub(super) request: Payload,
    pub(super) response: Option<Payload>,
    pub(super) logs: Option<Box<Log>>,
    pub(super) key: Option<KeptKey>,
    /// About how many bytes it takes, as counted in the room.
    weight: usize,
}

/// The key that a task came with, and where its bytes are counted.
#[derive(Debug)]
pub(super) enum KeptKey {
    /// With the task.
    Own(Arc<ClientKey>),
    /// With the keys of ended tasks.
    Ended(Arc<ClientKey>),
}

impl Kept {
    /// A task that room was reserved for.
    pub(super) fn new(row: Row, request: Payload, key: Option<Arc<ClientKey>>, weight: usize) -> Self {
        Self {
            row,
            request,
            response: None,
            logs: None,
            key: key.map(KeptKey::Own),
            weight,
        }
    }

    /// About how many bytes a new task takes.
    pub(super) fn weight_of_new(task: &NewRow) -> usize {
        let key = ClientKey::of(task).map_or(0, |key| weight_of_key(&key));
        task.request.len() + task.record.weight() + key
    }

    /// Updates the room after a change of the task. Answers whether the task takes more now.
    pub(super) fn weigh(&mut self, room: &Room) -> bool {
        let response = self.response.as_ref().map_or(0, Payload::len);
        let logs = self.logs.as_ref().map_or(0, |logs| logs.weight());
        let progress = self.row.columns.progress.as_ref();
        let progress = progress.map_or(0, |progress| progress.message.len());
        let key = match &self.key {
            Some(KeptKey::Own(key)) => weight_of_key(key),
            Some(KeptKey::Ended(_)) | None => 0,
        };
        let weight = self.request.len() + self.row.record.weight() + response + logs + progress + key;
        let before = std::mem::replace(&mut self.weight, weight);
        // Grow before shrinking: in between, other threads must not see less than there is.
        room.grow(weight.saturating_sub(before));
        room.shrink(before.saturating_sub(weight));
        weight > before
    }

    /// About how many bytes it takes.
    pub(super) const fn weight(&self) -> usize {
        self.weight
    }

    /// Whether its key is counted wrongly, because the task has ended or was run again.
    pub(super) const fn is_key_miscounted(&self) -> bool {
        match &self.key {
            Some(KeptKey::Own(_)) => self.row.columns.state.is_terminal(),
            Some(KeptKey::Ended(_)) => !self.row.columns.state.is_terminal(),
            None => false,
        }
    }
}

/// What is left to do after a change, once the shard is unlocked.
#[derive(Clone, Copy, Debug, Default)]
#[must_use]
pub(super) struct Replaced {
    /// A task may have become runnable.
    pub(super) work: bool,
    /// The task takes more room than before.
    pub(super) grown: bool,
    /// Its key is [miscounted](Kept::is_key_miscounted).
    pub(super) key: bool,
}

/// The indexes outside of a shard that are updated with a change in it.
pub(super) struct Around<'a> {
    pub(super) shard: usize,
    pub(super) queue: &'a Queue,
    pub(super) outbox: &'a Outbox,
    pub(super) waiting: &'a Waiting,
    pub(super) room: &'a Room,
}

#[derive(Debug, Default)]
pub(super) struct Tasks {
    /// Boxed, so that a growing map moves pointers, and its free places are small.
    kept: HashMap<RequestId, Box<Kept>, IdHash>,
    pub(super) shelf: Shelf,
    /// The tasks that a worker holds. Only these are searched for lapsed leases.
    held: HashSet<RequestId, IdHash>,
}

impl Tasks {
    pub(super) fn get(&self, id: RequestId) -> Option<&Kept> {
        self.kept.get(&id).map(|kept| &**kept)
    }

    pub(super) fn get_mut(&mut self, id: RequestId) -> Option<&mut Kept> {
        self.kept.get_mut(&id).map(|kept| &mut **kept)
    }

    /// The task, if it is in `scope`.
    pub(super) fn seen_by(&self, scope: &Scope, id: RequestId) -> Option<&Kept> {
        self.get(id).filter(|kept| kept.row.is_in(scope))
    }

    /// Adds a task that [`get`](Self::get) did not find. If the task waits, the caller puts it into the queue, whose
    /// lock it holds for the check of the limits.
    pub(super) fn add(&mut self, kept: Kept) {
        self.shelf.follow(None, Some(&kept.row));
        if kept.row.columns.is_held() {
            self.held.insert(kept.row.id);
        }
        if let MapEntry::Vacant(entry) = self.kept.entry(kept.row.id) {
            entry.insert(Box::new(kept));
        }
    }

    /// Replaces the row of a task and updates every index, all of it under the shard's lock. Every change of a row that
    /// an index depends on is made here, except for a claim of a delivery.
    pub(super) fn replace(&mut self, row: Row, around: &Around<'_>) -> Replaced {
        let Some(kept) = self.kept.get_mut(&row.id) else {
            return Replaced::default();
        };
        let before = std::mem::replace(&mut kept.row, row);
        let grown = kept.weigh(around.room);
        let after = &kept.row;
        match (before.columns.is_held(), after.columns.is_held()) {
            (false, true) => _ = self.held.insert(after.id),
            (true, false) => _ = self.held.remove(&after.id),
            _ => {}
        }
        self.shelf.follow(Some(&before), Some(after));
        if before.columns.rests_at != after.columns.rests_at {
            around.room.note_oldest(around.shard, &self.shelf);
        }
        around.outbox.follow(after.id, &before.outbox, &after.outbox);
        if waits(&before) || waits(after) {
            around.waiting.follow(after.id, Some(after), kept.weight);
        }
        Replaced {
            work: around.queue.follow(Some(&before), Some(after)),
            grown,
            key: kept.is_key_miscounted(),
        }
    }

    /// Removes a task and everything that belongs to it, except its name and key, which the caller removes.
    ///
    /// Returns the task, so that the caller can drop it after the shard is unlocked: dropping takes longer than
    /// everything else here.
    #[must_use]
    pub(super) fn remove(&mut self, id: RequestId, around: &Around<'_>) -> Option<Box<Kept>> {
        let kept = self.kept.remove(&id)?;
        self.held.remove(&id);
        self.shelf.follow(Some(&kept.row), None);
        if kept.row.columns.rests_at.is_some() {
            around.room.note_oldest(around.shard, &self.shelf);
        }
        around.outbox.follow(id, &kept.row.outbox, &[]);
        if waits(&kept.row) {
            around.waiting.follow(id, None, 0);
        }
        around.queue.follow(Some(&kept.row), None);
        around.room.release(kept.weight);
        Some(kept)
    }

    /// Tasks whose lease has run out.
    pub(super) fn lapsed(&self, now: Timestamp) -> impl Iterator<Item = RequestId> {
        self.held
            .iter()
            .copied()
            .filter(move |id| self.get(*id).is_some_and(|kept| kept.row.columns.has_lapsed(now)))
    }

    /// Held tasks for which `holds` is true.
    pub(super) fn held_where(&self, holds: impl Fn(&&Kept) -> bool) -> Vec<RequestId> {
        let held = self.held.iter().filter_map(|id| self.get(*id));
        held.filter(holds).map(|kept| kept.row.id).collect()
    }

    /// Adds the counts of this shard to `counts`.
    pub(super) fn count_into(&self, counts: &mut Counts, scope: &Scope) {
        self.shelf.tally.count_into(counts, scope);
    }
}

type IdHash = BuildHasherDefault<IdHasher>;

/// Uses the random half of a request id as its hash. This program made the id, so no client can choose it to cause
/// collisions.
#[derive(Debug, Default)]
pub(super) struct IdHasher(u64);

impl Hasher for IdHasher {
    fn write(&mut self, bytes: &[u8]) {
        let random = bytes.last_chunk().map_or(0, |last| u64::from_be_bytes(*last));
        // The two fixed bits of a UUID are its top bits, where the map needs entropy as well.
        self.0 = random.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }

    fn write_usize(&mut self, _length: usize) {}

    fn finish(&self) -> u64 {
        self.0
    }
}

/// The shard of a task. Uses bits that do not affect its place in the shard's map.
pub(super) const fn shard_of(id: RequestId, shards: usize) -> usize {
    id.as_bytes()[9] as usize % shards
}
