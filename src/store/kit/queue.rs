//! The tasks that wait, in the order they are to be claimed.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use super::timeline::Moment;
use crate::{
    store::{FullReason, Limits, Row},
    task::{RequestId, Scope, Tenant, WorkerId},
    time::Timestamp,
};

/// The tasks that wait. One that is born claimed never comes here.
#[derive(Debug, Default)]
pub struct Queue {
    lanes: Mutex<Lanes>,
    // How many wait, readable without the lock: every request that may go async asks.
    waiting: AtomicU64,
}

/// Where a waiting task stands in the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// When it may run.
    pub run_at: Timestamp,
    /// When it expires.
    pub expires_at: Timestamp,
    /// Whether it is a suspect.
    pub suspect: bool,
}

impl Place {
    /// The place of a row, if it waits.
    #[must_use]
    pub fn of(row: &Row) -> Option<Self> {
        row.columns.is_queued().then_some(Self {
            run_at: row.columns.run_at,
            expires_at: row.columns.expires_at,
            suspect: row.columns.suspect,
        })
    }
}

/// A task taken out of the queue to be claimed.
#[derive(Clone, Copy, Debug)]
pub struct Candidate {
    /// The task.
    pub id: RequestId,
    /// Whether it is a suspect: then the worker is noted as the holder of one.
    pub suspect: bool,
}

impl Queue {
    /// Notes that a row was `before` and is `after`. Answers whether something may be runnable now that was not.
    pub fn follow(&self, before: Option<&Row>, after: Option<&Row>) -> bool {
        let (was, is) = (before.and_then(Place::of), after.and_then(Place::of));
        let holds_suspect = |row: &&Row| row.columns.is_held() && row.columns.suspect;
        let freed = before
            .filter(holds_suspect)
            .filter(|_| after.filter(holds_suspect).is_none());
        if was != is || freed.is_some() {
            let mut queue = self.lock();
            if let Some((row, place)) = before.zip(was) {
                queue.remove(row.id, row.record.tenant.as_ref(), place);
            }
            if let Some((row, place)) = after.zip(is) {
                queue.push(row.id, row.record.tenant.as_ref(), place);
            }
            if let Some((row, worker)) = freed.and_then(|row| Some((row, row.columns.worker.as_ref()?))) {
                queue.free_suspect(worker, row.id);
            }
        }
        freed.is_some() || (is.is_some() && was != is)
    }

    /// Locks it, for several steps that belong together.
    pub fn lock(&self) -> QueueGuard<'_> {
        QueueGuard {
            lanes: self.lanes.lock().unwrap_or_else(PoisonError::into_inner),
            waiting: &self.waiting,
        }
    }

    /// How many tasks wait, without the lock.
    pub fn waiting(&self) -> u64 {
        self.waiting.load(Ordering::Relaxed)
    }
}

/// The queue, locked.
#[derive(Debug)]
pub struct QueueGuard<'a> {
    lanes: MutexGuard<'a, Lanes>,
    waiting: &'a AtomicU64,
}

impl QueueGuard<'_> {
    /// Which limit keeps another task of `tenant` out, if one does.
    pub fn full(&self, tenant: Option<&Tenant>, limits: Limits) -> Option<FullReason> {
        if self.lanes.expiry.len() as u64 >= limits.queued {
            return Some(FullReason::Queue);
        }
        (tenant.is_some() && self.waiting_of(tenant) >= limits.per_tenant).then_some(FullReason::Tenant)
    }

    /// How many tasks of `tenant` wait.
    #[must_use]
    pub fn waiting_of(&self, tenant: Option<&Tenant>) -> u64 {
        let lane = self.lanes.tenants.get(&tenant.cloned());
        lane.map_or(0, |lane| lane.len() as u64)
    }

    /// Puts a task in.
    pub fn push(&mut self, id: RequestId, tenant: Option<&Tenant>, place: Place) {
        let lanes = &mut *self.lanes;
        lanes.lane(place.suspect).insert((place.run_at, id), place.expires_at);
        lanes.expiry.insert((place.expires_at, id), place.run_at);
        let own = lanes.tenants.entry(tenant.cloned()).or_default();
        own.insert((place.run_at, id));
        self.publish();
    }

    /// Takes a task out, if it is still in.
    pub fn remove(&mut self, id: RequestId, tenant: Option<&Tenant>, place: Place) {
        let lanes = &mut *self.lanes;
        lanes.lane(place.suspect).remove(&(place.run_at, id));
        lanes.overdue.remove(&(place.run_at, id));
        lanes.expiry.remove(&(place.expires_at, id));
        let tenant = tenant.cloned();
        if let Some(own) = lanes.tenants.get_mut(&tenant) {
            own.remove(&(place.run_at, id));
            if own.is_empty() {
                lanes.tenants.remove(&tenant);
            }
        }
        self.publish();
    }

    /// Takes a task out of which nobody knows any more where it stands: by looking at all of them.
    pub fn purge(&mut self, id: RequestId) {
        let lanes = &mut *self.lanes;
        lanes.calm.retain(|(_, other), _| *other != id);
        lanes.suspects.retain(|(_, other), _| *other != id);
        lanes.overdue.retain(|(_, other)| *other != id);
        lanes.expiry.retain(|(_, other), _| *other != id);
        lanes.holders.retain(|_, other| *other != id);
        lanes.tenants.retain(|_, own| {
            own.retain(|(_, other)| *other != id);
            !own.is_empty()
        });
        self.publish();
    }

    /// Takes the first `max` tasks that `worker` may run now off their lanes, oldest first, at most one suspect among
    /// them; the worker is noted as the holder of that suspect. They still count as waiting until they are claimed.
    pub fn take(&mut self, worker: &WorkerId, max: usize, now: Timestamp) -> Vec<Candidate> {
        let mut taken = Vec::new();
        while taken.len() < max {
            let Some((moment, suspect)) = self.lanes.next_for(worker, now) else {
                break;
            };
            if moment.0 > now {
                break;
            }
            self.lanes.lane(suspect).remove(&moment);
            let (_, id) = moment;
            if suspect {
                self.lanes.holders.insert(worker.clone(), id);
            }
            taken.push(Candidate { id, suspect });
        }
        taken
    }

    /// How long until the next task is due that `worker` could run.
    pub fn next_due(&mut self, worker: &WorkerId, now: Timestamp) -> Option<Duration> {
        let ((due, _), _) = self.lanes.next_for(worker, now)?;
        Some(due.since(now))
    }

    /// `worker` no longer holds the suspect `id`.
    pub fn free_suspect(&mut self, worker: &WorkerId, id: RequestId) {
        if self.lanes.holders.get(worker) == Some(&id) {
            self.lanes.holders.remove(worker);
        }
    }

    /// Up to `limit` tasks that have waited longer than their age allows.
    pub fn over_age(&self, limit: usize, now: Timestamp) -> Vec<RequestId> {
        let first = self
            .lanes
            .expiry
            .keys()
            .take_while(|(expires_at, _)| *expires_at <= now);
        first.map(|(_, id)| *id).take(limit).collect()
    }

    /// When the task that has waited longest could have been run.
    pub fn oldest(&self, scope: &Scope) -> Option<Timestamp> {
        let lanes = &*self.lanes;
        let first = match scope {
            Scope::One(tenant) => lanes.tenants.get(tenant)?.first().copied(),
            Scope::All => {
                let runnable = [&lanes.calm, &lanes.suspects].map(|lane| lane.keys().next().copied());
                let heads = runnable.into_iter().chain([lanes.overdue.first().copied()]);
                heads.flatten().min()
            }
        };
        first.map(|(run_at, _)| run_at)
    }

    fn publish(&self) {
        self.waiting.store(self.lanes.expiry.len() as u64, Ordering::Relaxed);
    }
}

#[derive(Debug, Default)]
struct Lanes {
    /// Tasks without a crash by (run_at, id), with the time they expire.
    calm: BTreeMap<Moment, Timestamp>,
    /// Tasks with one. A lane of their own, so that a crowd of them is not waded through by a worker which has one.
    suspects: BTreeMap<Moment, Timestamp>,
    /// By (run_at, id): tasks that a claim found too old. They wait to be rescued, and no claim sees them again.
    overdue: BTreeSet<Moment>,
    /// Every waiting task by (expires_at, id), with its `run_at`.
    expiry: BTreeMap<Moment, Timestamp>,
    /// Every waiting task by tenant and (run_at, id).
    tenants: HashMap<Option<Tenant>, BTreeSet<Moment>>,
    /// The suspect that each worker holds.
    holders: HashMap<WorkerId, RequestId>,
}

impl Lanes {
    const fn lane(&mut self, suspect: bool) -> &mut BTreeMap<Moment, Timestamp> {
        if suspect { &mut self.suspects } else { &mut self.calm }
    }

    /// The first task that `worker` may run, now or later, and whether it is a suspect.
    fn next_for(&mut self, worker: &WorkerId, now: Timestamp) -> Option<(Moment, bool)> {
        let calm = self.head(false, now);
        if self.holders.contains_key(worker) {
            return calm.map(|moment| (moment, false));
        }
        let suspect = self.head(true, now);
        match (calm, suspect) {
            (Some(calm), Some(suspect)) if suspect < calm => Some((suspect, true)),
            (Some(calm), _) => Some((calm, false)),
            (None, suspect) => suspect.map(|moment| (moment, true)),
        }
    }

    /// The first of a lane, once those in front of it that are too old have been put aside.
    fn head(&mut self, suspect: bool, now: Timestamp) -> Option<Moment> {
        loop {
            let first = self.lane(suspect).first_entry()?;
            let moment = *first.key();
            if *first.get() > now {
                return Some(moment);
            }
            first.remove();
            self.overdue.insert(moment);
        }
    }
}
