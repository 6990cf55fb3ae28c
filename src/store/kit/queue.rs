//! The tasks that wait, in the order in which they are claimed.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use super::{Allowance, timeline::Moment};
use crate::{
    store::{FullReason, Limits, Row},
    task::{PoolName, RequestId, Scope, Tenant, WorkerId},
    time::Timestamp,
};

/// How many tasks of a lane a claim looks at, to find one whose tenant may hold another task.
const LOOK_AHEAD: usize = 1000;

/// The tasks that wait. A task that is stored claimed is never in it.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
///
/// # use bytes::Bytes;
/// # use http::{HeaderMap, Method, Uri};
/// use tower_respond_async::{
///     store::{Claim, kit::{Allowance, QueuePosition, Queue}},
///     task::{FenceToken, WorkerId},
///     time::Timestamp,
/// };
/// # use tower_respond_async::{store::NewRow, task::{CapturedRequest, NewTask, RequestId, TaskRecord}};
///
/// # let request = CapturedRequest::new(Method::GET, Uri::from_static("/"), HeaderMap::new(), Bytes::new());
/// # let task = NewTask::new(RequestId::from_bytes([7; 16]), request.into());
/// let now = Timestamp::from_millis(1_000);
/// # let new = NewRow::new(TaskRecord::accepted(&task, now).into(), task.request.to_payload());
/// let row = new.row(FenceToken::NONE, now);
/// let queue = Queue::default();
/// assert!(queue.follow(None, Some(&row)), "a task has become runnable");
/// assert_eq!(QueuePosition::of(&row).map(|place| place.run_at), Some(now));
///
/// let (worker, lease) = (WorkerId::new("w", 1), Duration::from_secs(30));
/// let mut allowance = Allowance::of(&Claim::new(worker.clone(), 10, lease));
/// let taken = queue.lock().take(&worker, &mut allowance, 10, now);
/// assert_eq!(taken[0].id, row.id);
///
/// let mut claimed = row.clone();
/// claimed.claim(worker, lease, FenceToken::NONE, now);
/// queue.follow(Some(&row), Some(&claimed));
/// assert_eq!(queue.waiting(), 0);
/// ```
#[derive(Debug, Default)]
pub struct Queue {
    lanes: Mutex<Lanes>,
    // How many wait. Readable without the lock, because every request that may go async reads it.
    waiting: AtomicU64,
}

/// The position of a waiting task in the queue.
///
/// See the example of [`Queue`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueuePosition {
    /// When it may run.
    pub run_at: Timestamp,
    /// When it expires.
    pub expires_at: Timestamp,
    /// Whether it is a suspect.
    pub suspect: bool,
}

impl QueuePosition {
    /// The position of a row, if the task waits.
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
///
/// See the example of [`Queue`].
#[derive(Clone, Copy, Debug)]
pub struct Candidate {
    /// The task.
    pub id: RequestId,
    /// Whether it is a suspect. Then the queue counts the worker as the holder of one.
    pub suspect: bool,
}

impl Queue {
    /// Updates the queue for a row that was `before` and is `after`. Answers whether a task may have become runnable.
    pub fn follow(&self, before: Option<&Row>, after: Option<&Row>) -> bool {
        let (was, is) = (before.and_then(QueuePosition::of), after.and_then(QueuePosition::of));
        let holds_suspect = |row: &&Row| row.columns.is_held() && row.columns.suspect;
        let freed = before
            .filter(holds_suspect)
            .filter(|_| after.filter(holds_suspect).is_none());
        if was != is || freed.is_some() {
            let mut queue = self.lock();
            if let Some(row) = before.filter(|_| was.is_some()) {
                queue.remove(row);
            }
            if let Some(row) = after.filter(|_| is.is_some()) {
                queue.push(row);
            }
            if let Some((row, worker)) = freed.and_then(|row| Some((row, row.columns.worker.as_ref()?))) {
                queue.free_suspect(worker, row.id);
            }
        }
        freed.is_some() || (is.is_some() && was != is)
    }

    /// Locks the queue, for several steps that belong together.
    pub fn lock(&self) -> QueueGuard<'_> {
        QueueGuard {
            lanes: self.lanes.lock().unwrap_or_else(PoisonError::into_inner),
            waiting: &self.waiting,
        }
    }

    /// How many tasks wait. Takes no lock.
    pub fn waiting(&self) -> u64 {
        self.waiting.load(Ordering::Relaxed)
    }
}

/// The queue, locked.
///
/// See the example of [`Queue`].
#[derive(Debug)]
pub struct QueueGuard<'a> {
    lanes: MutexGuard<'a, Lanes>,
    waiting: &'a AtomicU64,
}

impl QueueGuard<'_> {
    /// The limit that keeps another task of this tenant and pool out, if one is reached.
    #[must_use]
    pub fn full(&self, tenant: Option<&Tenant>, pool: &PoolName, limits: Limits) -> Option<FullReason> {
        if self.lanes.waiting >= limits.queued {
            return Some(FullReason::Queue);
        }
        if limits.per_pool != u64::MAX && self.waiting_in(pool) >= limits.per_pool {
            return Some(FullReason::Pool);
        }
        (tenant.is_some() && self.waiting_of(tenant) >= limits.per_tenant).then_some(FullReason::Tenant)
    }

    /// How many tasks of `tenant` wait.
    #[must_use]
    pub fn waiting_of(&self, tenant: Option<&Tenant>) -> u64 {
        let own = self.lanes.tenants.get(&tenant.cloned());
        own.map_or(0, |own| own.len() as u64)
    }

    /// How many tasks of `pool` wait.
    #[must_use]
    pub fn waiting_in(&self, pool: &PoolName) -> u64 {
        self.lanes.pools.get(pool).map_or(0, |lane| lane.expiry.len() as u64)
    }

    /// Adds a task that waits.
    pub fn push(&mut self, row: &Row) {
        let Some(place) = QueuePosition::of(row) else { return };
        let (lanes, tenant) = (&mut *self.lanes, &row.record.tenant);
        let moment = (place.run_at, row.id);
        let own = lanes.tenants.entry(tenant.clone()).or_default();
        own.insert(moment);
        let pool = lanes.pools.entry(row.record.pool.clone()).or_default();
        let waits = Waits {
            expires_at: place.expires_at,
            tenant: tenant.clone(),
        };
        pool.lane(place.suspect).insert(moment, waits);
        if pool.expiry.insert((place.expires_at, row.id), place.run_at).is_none() {
            lanes.waiting += 1;
        }
        self.publish();
    }

    /// Removes a task that waits, if it is still in the queue.
    pub fn remove(&mut self, row: &Row) {
        let Some(place) = QueuePosition::of(row) else { return };
        let lanes = &mut *self.lanes;
        let moment = (place.run_at, row.id);
        if let Some(pool) = lanes.pools.get_mut(&row.record.pool) {
            pool.lane(place.suspect).remove(&moment);
            pool.overdue.remove(&moment);
            if pool.expiry.remove(&(place.expires_at, row.id)).is_some() {
                lanes.waiting -= 1;
            }
            if pool.expiry.is_empty() {
                lanes.pools.remove(&row.record.pool);
            }
        }
        if let Some(own) = lanes.tenants.get_mut(&row.record.tenant) {
            own.remove(&moment);
            if own.is_empty() {
                lanes.tenants.remove(&row.record.tenant);
            }
        }
        self.publish();
    }

    /// Removes a task whose position is not known any more. Looks at all tasks.
    pub fn purge(&mut self, id: RequestId) {
        let lanes = &mut *self.lanes;
        lanes.pools.retain(|_, pool| {
            pool.calm.retain(|(_, other), _| *other != id);
            pool.suspects.retain(|(_, other), _| *other != id);
            pool.overdue.retain(|(_, other)| *other != id);
            pool.expiry.retain(|(_, other), _| *other != id);
            !pool.expiry.is_empty()
        });
        lanes.waiting = lanes.pools.values().map(|pool| pool.expiry.len() as u64).sum();
        lanes.holders.retain(|_, other| *other != id);
        lanes.tenants.retain(|_, own| {
            own.retain(|(_, other)| *other != id);
            !own.is_empty()
        });
        self.publish();
    }

    /// Takes up to `max` tasks that `worker` may run now off their lanes, oldest first, as far as `allowance` permits,
    /// and counts them in `allowance`. At most one of them is a suspect; then `worker` counts as its holder. The tasks
    /// still count as waiting until they are claimed.
    pub fn take(&mut self, worker: &WorkerId, allowance: &mut Allowance, max: usize, now: Timestamp) -> Vec<Candidate> {
        let mut taken = Vec::new();
        while taken.len() < max {
            let Some(next) = self
                .lanes
                .next_for(worker, allowance, now)
                .filter(|next| next.moment.0 <= now)
            else {
                break;
            };
            let Some(lane) = self.lanes.pools.get_mut(&next.pool) else {
                break;
            };
            let waits = lane.lane(next.suspect).remove(&next.moment);
            allowance.take(&next.pool, waits.and_then(|waits| waits.tenant).as_ref());
            let (_, id) = next.moment;
            if next.suspect {
                self.lanes.holders.insert(worker.clone(), id);
            }
            taken.push(Candidate {
                id,
                suspect: next.suspect,
            });
        }
        taken
    }

    /// How long until the next task is due that `worker` may run, as far as `allowance` permits.
    pub fn next_due(&mut self, worker: &WorkerId, allowance: &mut Allowance, now: Timestamp) -> Option<Duration> {
        let next = self.lanes.next_for(worker, allowance, now)?;
        Some(next.moment.0.since(now))
    }

    /// Ends the state in which `worker` holds the suspect `id`.
    pub fn free_suspect(&mut self, worker: &WorkerId, id: RequestId) {
        if self.lanes.holders.get(worker) == Some(&id) {
            self.lanes.holders.remove(worker);
        }
    }

    /// Up to `limit` tasks that have waited longer than their age allows, except those in the pools `spared`.
    #[must_use]
    pub fn over_age(&self, spared: &[PoolName], limit: usize, now: Timestamp) -> Vec<RequestId> {
        let pools = self.lanes.pools.iter().filter(|(name, _)| !spared.contains(name));
        let first = pools.flat_map(|(_, pool)| pool.expiry.keys().take(limit).take_while(|(at, _)| *at <= now));
        let mut first: Vec<_> = first.copied().collect();
        first.sort_unstable();
        first.truncate(limit);
        first.into_iter().map(|(_, id)| id).collect()
    }

    /// The earliest time at which one of the waiting tasks in `scope` may run.
    #[must_use]
    pub fn oldest(&self, scope: &Scope) -> Option<Timestamp> {
        let lanes = &*self.lanes;
        let first = match scope {
            Scope::One(tenant) => lanes.tenants.get(tenant)?.first().copied(),
            Scope::All => lanes.pools.values().filter_map(Pool::oldest).min(),
        };
        first.map(|(run_at, _)| run_at)
    }

    fn publish(&self) {
        self.waiting.store(self.lanes.waiting, Ordering::Relaxed);
    }
}

#[derive(Debug, Default)]
struct Lanes {
    /// The pools with tasks that wait.
    pools: BTreeMap<PoolName, Pool>,
    waiting: u64,
    /// Every waiting task by tenant and (run_at, id).
    tenants: HashMap<Option<Tenant>, BTreeSet<Moment>>,
    /// The suspect that each worker holds.
    holders: HashMap<WorkerId, RequestId>,
}

/// The waiting tasks of one pool.
#[derive(Debug, Default)]
struct Pool {
    /// Tasks without a crash by (run_at, id).
    calm: BTreeMap<Moment, Waits>,
    /// Tasks with a crash, by (run_at, id). They have a lane of their own, so that a worker that holds a suspect does
    /// not look at each of them.
    suspects: BTreeMap<Moment, Waits>,
    /// Tasks that a claim found too old, by (run_at, id). They wait to be rescued, and claims do not look at them
    /// again.
    overdue: BTreeSet<Moment>,
    /// Every task of the pool by (expires_at, id), with its `run_at`.
    expiry: BTreeMap<Moment, Timestamp>,
}

/// What a claim needs of a task that waits.
#[derive(Debug)]
struct Waits {
    expires_at: Timestamp,
    tenant: Option<Tenant>,
}

/// The next task for a worker.
struct Next {
    moment: Moment,
    suspect: bool,
    pool: PoolName,
}

impl Lanes {
    /// The first task that `worker` may run, now or later.
    fn next_for(&mut self, worker: &WorkerId, allowance: &mut Allowance, now: Timestamp) -> Option<Next> {
        let has_suspect = self.holders.contains_key(worker);
        let mut next: Option<Next> = None;
        for (name, pool) in &mut self.pools {
            if !allowance.has(name) {
                continue;
            }
            for suspect in [false, true] {
                if suspect && has_suspect {
                    continue;
                }
                let Some(moment) = pool.head(suspect, name, allowance, now) else {
                    continue;
                };
                if next.as_ref().is_none_or(|next| moment < next.moment) {
                    next = Some(Next {
                        moment,
                        suspect,
                        pool: name.clone(),
                    });
                }
            }
        }
        next
    }
}

impl Pool {
    const fn lane(&mut self, suspect: bool) -> &mut BTreeMap<Moment, Waits> {
        if suspect { &mut self.suspects } else { &mut self.calm }
    }

    /// The first task of a lane whose tenant may hold another one. Moves the tasks at the front that are too old to
    /// `overdue`.
    fn head(&mut self, suspect: bool, name: &PoolName, allowance: &mut Allowance, now: Timestamp) -> Option<Moment> {
        loop {
            let first = self.lane(suspect).first_entry()?;
            if first.get().expires_at > now {
                break;
            }
            let moment = *first.key();
            first.remove();
            self.overdue.insert(moment);
        }
        let mut ahead = self.lane(suspect).iter().take(LOOK_AHEAD);
        let next = ahead.find(|(moment, waits)| {
            waits.expires_at > now && allowance.has_for(name, waits.tenant.as_ref(), moment.0 <= now)
        });
        next.map(|(moment, _)| *moment)
    }

    fn oldest(&self) -> Option<Moment> {
        let runnable = [&self.calm, &self.suspects].map(|lane| lane.keys().next().copied());
        let heads = runnable.into_iter().chain([self.overdue.first().copied()]);
        heads.flatten().min()
    }
}
