//! One part of the tasks, and the indexes that follow every change of a record.

use std::{
    collections::{HashMap, HashSet, hash_map::Entry as MapEntry},
    hash::{BuildHasherDefault, Hasher},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::{logs::Logs, room::Room};
use crate::{
    store::index::{Footprint, Outbox, Queue, Tally, Timeline},
    task::{CapturedRequest, CapturedResponse, Counts, RequestDigest, RequestId, Scope, TaskRecord, TaskState},
    time::Timestamp,
};

/// A part of the tasks behind a lock of its own. Aligned, so that two neighbours' locks share no cache line.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(super) struct Shard(Mutex<Tasks>);

impl Shard {
    pub(super) fn lock(&self) -> MutexGuard<'_, Tasks> {
        // A panic under the lock would be a bug in `lifecycle`; that one task is odd then, and the others are well.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// All that is kept of one task.
#[derive(Debug)]
pub(super) struct Kept {
    pub(super) record: Arc<TaskRecord>,
    pub(super) input: Arc<CapturedRequest>,
    pub(super) output: Option<Arc<CapturedResponse>>,
    pub(super) digest: Option<RequestDigest>,
    pub(super) logs: Option<Box<Logs>>,
    /// What it weighs: kept, since adding it up looks at every header, long after anybody else did.
    pub(super) weight: usize,
}

impl Kept {
    /// Adds up what it weighs.
    pub(super) fn weigh(&self) -> usize {
        let output = self.output.as_ref().map_or(0, |output| output.weight());
        let logs = self.logs.as_ref().map_or(0, |logs| logs.weight());
        let callback = self.record.callback.as_ref().map_or(0, |url| url.len());
        self.input.weight() + output + logs + callback
    }

    pub(super) fn is_in(&self, scope: &Scope) -> bool {
        scope.contains(self.record.tenant.as_ref())
    }
}

/// What the indexes outside a shard need to know of a change in it.
pub(super) struct Around<'a> {
    pub(super) shard: usize,
    pub(super) queue: &'a Queue,
    pub(super) outbox: &'a Outbox,
    pub(super) room: &'a Room,
}

/// What a change of a record brought about, for the caller to act on once the lock is released.
#[must_use]
pub(super) struct Change<T> {
    pub(super) answer: T,
    /// Something may be runnable that was not.
    pub(super) work: bool,
    /// A completion is now due.
    pub(super) completion: bool,
}

#[derive(Debug, Default)]
pub(super) struct Tasks {
    kept: HashMap<RequestId, Kept, IdHash>,
    /// All of them, by creation.
    pub(super) created: Timeline,
    /// Those that a worker holds: a rescue looks at these and no others.
    held: HashSet<RequestId, IdHash>,
    /// Those that succeeded and have no delivery pending, by their end: what may be pruned or dropped.
    pub(super) succeeded: Timeline,
    /// Those that ended otherwise and have no delivery pending, by their end.
    pub(super) others: Timeline,
    tally: Tally,
}

impl Tasks {
    pub(super) fn get(&self, id: RequestId) -> Option<&Kept> {
        self.kept.get(&id)
    }

    pub(super) fn get_mut(&mut self, id: RequestId) -> Option<&mut Kept> {
        self.kept.get_mut(&id)
    }

    /// The task, if it is in `scope`.
    pub(super) fn seen_by(&self, scope: &Scope, id: RequestId) -> Option<&Kept> {
        self.get(id).filter(|kept| kept.is_in(scope))
    }

    /// Adds a task that [`get`](Self::get) did not find. One that waits is put into the queue by the caller, who holds
    /// the queue's lock to have checked its limits.
    pub(super) fn add(&mut self, kept: Kept) {
        let record = &*kept.record;
        self.created.insert((record.created_at, record.id));
        if record.state.is_held() {
            self.held.insert(record.id);
        }
        self.tally.add(record.tenant.as_ref(), record.state);
        if let MapEntry::Vacant(place) = self.kept.entry(record.id) {
            place.insert(kept);
        }
    }

    /// Changes a record and lets every index follow. **The** place where a stored record is changed in a way that
    /// matters to an index; all of it happens under this shard's lock.
    ///
    /// `None` if there is no such task.
    pub(super) fn change<T>(
        &mut self,
        id: RequestId,
        around: &Around<'_>,
        step: impl FnOnce(&mut TaskRecord) -> T,
    ) -> Option<Change<T>> {
        let kept = self.kept.get_mut(&id)?;
        let before = Footprint::of(&kept.record);
        // Copies the record if a reader still has it, so that what was handed out never changes.
        let answer = step(Arc::make_mut(&mut kept.record));
        let record = &*kept.record;
        let after = Footprint::of(record);

        self.tally.change(record.tenant.as_ref(), before.state, after.state);
        match (before.state.is_held(), after.state.is_held()) {
            (false, true) => _ = self.held.insert(id),
            (true, false) => _ = self.held.remove(&id),
            _ => {}
        }
        let work = before.follow(&after, record, around.queue, around.outbox);
        if (before.rests, before.state) != (after.rests, after.state) {
            if let Some(at) = before.rests {
                ended(&mut self.succeeded, &mut self.others, before.state).remove((at, id));
            }
            if let Some(at) = after.rests {
                ended(&mut self.succeeded, &mut self.others, after.state).insert((at, id));
            }
            around.room.note_oldest(around.shard, [&self.succeeded, &self.others]);
        }
        Some(Change {
            answer,
            work,
            completion: after.pending.len() > before.pending.len(),
        })
    }

    /// Takes an ended task out with all that hangs on it. Its name is the caller's to forget.
    ///
    /// It is handed to the caller, who drops it once the shard is unlocked: that takes longer than all else under it.
    #[must_use]
    pub(super) fn remove(&mut self, id: RequestId, around: &Around<'_>) -> Option<Kept> {
        let kept = self.kept.remove(&id)?;
        let record = &*kept.record;
        let was = Footprint::of(record);
        self.created.remove((record.created_at, id));
        if let Some(at) = was.rests {
            ended(&mut self.succeeded, &mut self.others, was.state).remove((at, id));
            around.room.note_oldest(around.shard, [&self.succeeded, &self.others]);
        }
        around.outbox.replace(&was.pending, &[]);
        self.tally.remove(record.tenant.as_ref(), was.state);
        debug_assert_eq!(kept.weight, kept.weigh(), "what it weighs is what was counted");
        around.room.release(kept.weight);
        Some(kept)
    }

    /// The task that ended first of those that may be dropped.
    pub(super) fn oldest_ended(&self) -> Option<RequestId> {
        let first = [&self.succeeded, &self.others].into_iter().filter_map(Timeline::first);
        first.min().map(|(_, id)| id)
    }

    /// Tasks whose lease ran out.
    pub(super) fn lapsed(&self, now: Timestamp) -> impl Iterator<Item = RequestId> {
        self.held.iter().copied().filter(move |id| {
            let until = self.get(*id).and_then(|kept| kept.record.lease_until);
            until.is_some_and(|until| until <= now)
        })
    }

    /// Adds this shard's numbers to `counts`.
    pub(super) fn count_into(&self, counts: &mut Counts, scope: &Scope) {
        self.tally.count_into(counts, scope);
    }
}

fn ended<'a>(succeeded: &'a mut Timeline, others: &'a mut Timeline, state: TaskState) -> &'a mut Timeline {
    match state {
        TaskState::Succeeded => succeeded,
        _ => others,
    }
}

type IdHash = BuildHasherDefault<IdHasher>;

/// Uses the random half of a request id as its hash: it was made by this program, not chosen by a stranger.
#[derive(Debug, Default)]
pub(super) struct IdHasher(u64);

impl Hasher for IdHasher {
    fn write(&mut self, bytes: &[u8]) {
        let random = bytes.last_chunk().map_or(0, |last| u64::from_be_bytes(*last));
        // The two fixed bits of a UUID are at the top of it, where the map wants entropy as well.
        self.0 = random.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }

    fn write_usize(&mut self, _length: usize) {}

    fn finish(&self) -> u64 {
        self.0
    }
}

/// Which of `shards` a task is in: by bits that its place in the shard's map does not depend on.
pub(super) const fn shard_of(id: RequestId, shards: usize) -> usize {
    id.as_bytes()[9] as usize % shards
}
