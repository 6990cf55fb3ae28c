//! What the store keeps in memory beside the file: indexes, and all that a process which ends may take with it.

use std::{
    collections::{HashMap, HashSet},
    sync::{Mutex, MutexGuard, PoisonError, atomic::AtomicU64},
    time::Duration,
};

use crate::{
    store::{
        Rescued,
        index::{Footprint, Moment, Outbox, Queue, Tally, Timeline},
    },
    task::{
        FenceToken, LeaseRef, Progress, RequestId, TaskRecord, TaskState,
        lifecycle::{Renewal, Rescue},
    },
    time::{Clock, Timestamp},
};

/// Built from the records when the file is opened, and changed with them by the writer. Everybody else only reads it,
/// but for [`Held`]: renewing and reporting progress write nothing to the file and need not ask the writer.
///
/// It runs ahead of the file by at most the batch that is being committed; a reader that finds a task here and not yet
/// in the file passes it over.
#[derive(Debug, Default)]
pub(super) struct Ram {
    pub(super) queue: Queue,
    pub(super) outbox: Outbox,
    /// How many values were found damaged since the file was opened.
    pub(super) set_aside: AtomicU64,
    /// What was rescued as the file was opened, and nobody has been told of.
    rescued: Mutex<Rescued>,
    shelf: Mutex<Shelf>,
    held: Mutex<Held>,
}

/// Every task, in the orders that somebody asks for.
#[derive(Debug, Default)]
pub(super) struct Shelf {
    /// All of them, by creation.
    pub(super) created: Timeline,
    /// Those that succeeded and have no delivery pending, by their end.
    pub(super) succeeded: Timeline,
    /// Those that ended otherwise and have no delivery pending, by their end.
    pub(super) others: Timeline,
    pub(super) tally: Tally,
    /// Tasks whose record cannot be read.
    pub(super) set_aside: HashSet<RequestId>,
}

impl Shelf {
    pub(super) const fn ended(&mut self, state: TaskState) -> &mut Timeline {
        match state {
            TaskState::Succeeded => &mut self.succeeded,
            _ => &mut self.others,
        }
    }
}

/// What a claim has that ends with the process: nobody outside of it may hold a task, so there is nobody to tell.
#[derive(Clone, Debug)]
pub(super) struct Hold {
    token: FenceToken,
    until: Timestamp,
    stop: bool,
    progress: Option<Progress>,
}

type Held = HashMap<RequestId, Hold>;

/// The records of a file as they are found, in the order of their ids. The timelines want another order, and take a
/// million moments sorted at once much faster than one by one.
#[derive(Debug, Default)]
pub(super) struct Arrival {
    created: Vec<Moment>,
    succeeded: Vec<Moment>,
    others: Vec<Moment>,
}

impl Arrival {
    pub(super) fn note(&mut self, ram: &Ram, record: &TaskRecord) {
        let after = Footprint::of(record);
        self.created.push((record.created_at, record.id));
        if let Some(at) = after.rests {
            let ended = match record.state {
                TaskState::Succeeded => &mut self.succeeded,
                _ => &mut self.others,
            };
            ended.push((at, record.id));
        }
        ram.note(&after, record);
    }

    /// Puts the timelines of all that was noted into `ram`, which has none.
    pub(super) fn shelve(self, ram: &Ram) {
        let mut shelf = ram.shelf();
        shelf.created = Timeline::of(self.created);
        shelf.succeeded = Timeline::of(self.succeeded);
        shelf.others = Timeline::of(self.others);
    }
}

impl Ram {
    pub(super) fn shelf(&self) -> MutexGuard<'_, Shelf> {
        self.shelf.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn rescued(&self) -> MutexGuard<'_, Rescued> {
        self.rescued.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A task was rescued as the file was opened; `outbox`: somebody is to be told of its end.
    pub(super) fn note_rescued(&self, id: RequestId, rescue: Rescue, outbox: bool) {
        let mut rescued = self.rescued();
        rescued.tasks.push((id, rescue));
        rescued.outbox |= outbox;
    }

    /// Up to `limit` of the tasks that were rescued as the file was opened, each once.
    pub(super) fn take_rescued(&self, limit: usize) -> Rescued {
        let mut rescued = self.rescued();
        let told = rescued.tasks.len().min(limit);
        let tasks = rescued.tasks.split_off(told);
        let outbox = rescued.outbox && !tasks.is_empty();
        std::mem::replace(&mut rescued, Rescued { tasks, outbox })
    }

    /// Notes a record that was not there before.
    pub(super) fn add(&self, record: &TaskRecord) {
        let after = Footprint::of(record);
        let mut shelf = self.shelf();
        shelf.created.insert((record.created_at, record.id));
        if let Some(at) = after.rests {
            shelf.ended(record.state).insert((at, record.id));
        }
        drop(shelf);
        self.note(&after, record);
    }

    /// All that is to be noted of a new record but its place in the timelines.
    fn note(&self, after: &Footprint, record: &TaskRecord) {
        self.shelf().tally.add(record.tenant.as_ref(), record.state);
        if record.state.is_held() {
            self.hold(record);
        }
        if let Some(place) = after.place {
            self.queue.lock().push(record.id, record.tenant.as_ref(), place);
        }
        self.outbox.replace(&[], &after.pending);
    }

    /// Follows a record that was `before` and is `record`. Answers whether something may be runnable now that was not.
    pub(super) fn follow(&self, before: &Footprint, after: &Footprint, record: &TaskRecord) -> bool {
        let id = record.id;
        {
            let mut shelf = self.shelf();
            shelf.tally.change(record.tenant.as_ref(), before.state, after.state);
            if (before.rests, before.state) != (after.rests, after.state) {
                if let Some(at) = before.rests {
                    shelf.ended(before.state).remove((at, id));
                }
                if let Some(at) = after.rests {
                    shelf.ended(after.state).insert((at, id));
                }
            }
        }
        if before.state.is_held() || after.state.is_held() {
            self.hold(record);
        }
        before.follow(after, record, &self.queue, &self.outbox)
    }

    /// Forgets a record that has ended.
    pub(super) fn remove(&self, record: &TaskRecord) {
        let was = Footprint::of(record);
        let mut shelf = self.shelf();
        shelf.created.remove((record.created_at, record.id));
        shelf.tally.remove(record.tenant.as_ref(), record.state);
        if let Some(at) = was.rests {
            shelf.ended(record.state).remove((at, record.id));
        }
        drop(shelf);
        self.outbox.replace(&was.pending, &[]);
    }

    /// Takes a task whose record cannot be read out of all orders that somebody asks for. Its record would have said where
    /// it stands; it was well when the file was opened, so this is rare. Only its state is counted on.
    ///
    /// Answers whether that was not done before.
    pub(super) fn set_aside(&self, id: RequestId) -> bool {
        let mut shelf = self.shelf();
        if !shelf.set_aside.insert(id) {
            return false;
        }
        shelf.created.purge(id);
        shelf.succeeded.purge(id);
        shelf.others.purge(id);
        drop(shelf);
        self.held().remove(&id);
        self.queue.lock().purge(id);
        self.outbox.purge(id);
        true
    }

    fn hold(&self, record: &TaskRecord) {
        let mut held = self.held();
        let Some(until) = record.lease_until.filter(|_| record.state.is_held()) else {
            held.remove(&record.id);
            return;
        };
        let stop = record.state == TaskState::Stopping;
        match held.get_mut(&record.id).filter(|hold| hold.token == record.token) {
            // Renewed since the writer looked, maybe: the lease is not the writer's.
            Some(hold) => hold.stop = stop,
            None => {
                let hold = Hold {
                    token: record.token,
                    until,
                    stop,
                    progress: None,
                };
                held.insert(record.id, hold);
            }
        }
    }

    /// Puts what only memory knows of a held task into its record.
    pub(super) fn complete(&self, record: &mut TaskRecord) {
        if !record.state.is_held() {
            return;
        }
        if let Some(hold) = self.held().get(&record.id).filter(|hold| hold.token == record.token) {
            record.lease_until = Some(hold.until);
            record.progress.clone_from(&hold.progress);
        }
    }

    pub(super) fn renew(&self, lease: LeaseRef, time: Duration, clock: &dyn Clock) -> Renewal {
        let mut held = self.held();
        // Read under the lock, as the rescue does: what has lapsed for one of the two has lapsed for both.
        let now = clock.now();
        match held.get_mut(&lease.id) {
            Some(hold) if hold.token == lease.token && now < hold.until => {
                hold.until = now.saturating_add(time);
                Renewal::Renewed { stop: hold.stop }
            }
            _ => Renewal::Lost,
        }
    }

    pub(super) fn set_progress(&self, lease: LeaseRef, progress: Progress) -> bool {
        let mut held = self.held();
        let hold = held.get_mut(&lease.id).filter(|hold| hold.token == lease.token);
        hold.map(|hold| hold.progress = Some(progress)).is_some()
    }

    /// Takes away up to `limit` leases that have run out, so that they cannot be renewed any more: the tasks, and until
    /// when each was held.
    pub(super) fn lapsed(&self, limit: usize, clock: &dyn Clock) -> Vec<(RequestId, Timestamp)> {
        let mut held = self.held();
        let now = clock.now();
        let lapsed = held.iter().filter(|(_, hold)| hold.until <= now);
        let lapsed: Vec<_> = lapsed.map(|(id, hold)| (*id, hold.until)).take(limit).collect();
        for (id, _) in &lapsed {
            held.remove(id);
        }
        lapsed
    }
}
