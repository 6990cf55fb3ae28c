//! Slots limit how many handlers run at once, in all and in each pool. They free themselves when dropped.

use crate::engine::sync::{Arc, AtomicBool, AtomicU64, AtomicUsize, Notify, Ordering};

/// A number of slots that pools share. Each pool may have a lower limit.
#[derive(Clone)]
pub(crate) struct Slots(Arc<Inner>);

struct Inner {
    all: Level,
    pools: Box<[Pool]>,
    stuck: AtomicUsize,
    /// Whether a slot that a task may wait for became free, so that the driver has to look at the queue again.
    freed: AtomicBool,
    wake: Arc<Notify>,
}

/// A limit, and how many slots of it are taken.
struct Level {
    total: AtomicUsize,
    used: AtomicUsize,
}

struct Pool {
    level: Level,
    /// Whether the pool is paused: none of its tasks begins.
    paused: AtomicBool,
    /// Whether tasks may wait for a slot. If not, a freed slot wakes nothing, and a new task may take it.
    wanted: AtomicBool,
    /// How many tasks were sent to wait. If it has changed since before a claim that found no task, a
    /// task may wait after all.
    sent_to_wait: AtomicU64,
}

/// The right to run one handler. Dropping it frees the slot.
#[must_use]
pub(crate) struct Slot {
    slots: Slots,
    pool: usize,
}

/// Slots that were taken for the tasks of a claim. Dropping it frees the slots that the claim did not use.
#[must_use]
pub(crate) struct Reserved {
    slots: Slots,
    all: usize,
    pools: Box<[usize]>,
}

impl Slots {
    /// Creates `total` slots in one pool. `wake` is notified when a slot becomes free while tasks may wait. At the
    /// start tasks may wait: those of an earlier process.
    pub(crate) fn new(total: usize, wake: Arc<Notify>) -> Self {
        Self::of_pools(total, [usize::MAX], wake)
    }

    /// Creates `total` slots for several pools with these limits.
    pub(crate) fn of_pools(total: usize, pools: impl IntoIterator<Item = usize>, wake: Arc<Notify>) -> Self {
        let pools = pools.into_iter().map(|total| Pool {
            level: Level::of(total),
            paused: AtomicBool::new(false),
            wanted: AtomicBool::new(true),
            sent_to_wait: AtomicU64::new(0),
        });
        Self(Arc::new(Inner {
            all: Level::of(total),
            pools: pools.collect(),
            stuck: AtomicUsize::new(0),
            freed: AtomicBool::new(false),
            wake,
        }))
    }

    /// A slot of a pool, if one is free.
    pub(crate) fn take(&self, pool: usize) -> Option<Slot> {
        let of = &self.0.pools[pool];
        // This may take the last slot of the pool and give it back below. A caller that is refused in between puts its
        // task into the queue, where a later claim finds it.
        if of.is_paused() || of.level.take(1) == 0 {
            return None;
        }
        if self.0.all.take(1) == 0 {
            of.level.give_back(1);
            return None;
        }
        Some(Slot {
            slots: self.clone(),
            pool,
        })
    }

    /// Takes up to `most` slots, and of each pool as many of these as are free in it.
    pub(crate) fn reserve(&self, most: usize) -> Reserved {
        let all = self.0.all.take(most);
        let of_each = |pool: &Pool| if pool.is_paused() { 0 } else { pool.level.take(all) };
        Reserved {
            pools: self.0.pools.iter().map(of_each).collect(),
            all,
            slots: self.clone(),
        }
    }

    pub(crate) fn total(&self) -> usize {
        self.0.all.total.load(Ordering::Relaxed)
    }

    /// The number of free slots. Ordered after an earlier [`send_to_wait`](Self::send_to_wait); dropping a slot relies
    /// on that.
    pub(crate) fn free(&self) -> usize {
        self.0.all.free()
    }

    pub(crate) fn used(&self) -> usize {
        self.0.all.used.load(Ordering::SeqCst)
    }

    /// How many slots of a pool are taken, and its limit.
    pub(crate) fn of_pool(&self, pool: usize) -> (usize, usize) {
        let level = &self.0.pools[pool].level;
        (level.used.load(Ordering::SeqCst), level.total.load(Ordering::SeqCst))
    }

    /// Sets the limit of a pool. Slots beyond it stay taken until they are freed.
    pub(crate) fn set_total(&self, pool: usize, total: usize) {
        self.0.pools[pool].level.total.store(total, Ordering::SeqCst);
        self.wake_if_wanted();
    }

    /// Pauses or resumes a pool.
    pub(crate) fn set_paused(&self, pool: usize, paused: bool) {
        self.0.pools[pool].paused.store(paused, Ordering::SeqCst);
        self.wake_if_wanted();
    }

    pub(crate) fn is_paused(&self, pool: usize) -> bool {
        self.0.pools[pool].is_paused()
    }

    /// The number of slots held by handlers that cannot be dropped.
    pub(crate) fn stuck(&self) -> usize {
        self.0.stuck.load(Ordering::Relaxed)
    }

    /// Whether tasks of a pool may wait. If so, a new task waits too, so that it does not overtake them.
    pub(crate) fn wanted(&self, pool: usize) -> bool {
        self.0.pools[pool].wanted.load(Ordering::SeqCst)
    }

    /// Records that a task of this pool waits for a slot. Call this before you store the task.
    pub(crate) fn send_to_wait(&self, pool: usize) {
        let pool = &self.0.pools[pool];
        pool.sent_to_wait.fetch_add(1, Ordering::SeqCst);
        pool.wanted.store(true, Ordering::SeqCst);
    }

    /// Records that tasks of unknown pools wait for slots. Call this before you store them.
    pub(crate) fn send_some_to_wait(&self) {
        (0..self.0.pools.len()).for_each(|pool| self.send_to_wait(pool));
    }

    /// How many tasks of each pool were sent to wait. Read it before a claim.
    pub(crate) fn sent_to_wait(&self) -> Box<[u64]> {
        let pools = self.0.pools.iter();
        pools.map(|pool| pool.sent_to_wait.load(Ordering::SeqCst)).collect()
    }

    /// Records that a claim left no runnable task of this pool. `sent_to_wait` was read before the claim.
    pub(crate) fn none_waits(&self, pool: usize, sent_to_wait: u64) {
        let pool = &self.0.pools[pool];
        pool.wanted.store(false, Ordering::SeqCst);
        // A task that was sent to wait since then may have been missed, and its flag was just overwritten.
        if pool.sent_to_wait.load(Ordering::SeqCst) != sent_to_wait {
            pool.wanted.store(true, Ordering::SeqCst);
        }
    }

    /// Whether a slot that a task may wait for became free since the last call.
    pub(crate) fn take_freed(&self) -> bool {
        self.0.freed.swap(false, Ordering::SeqCst)
    }

    /// Counts a slot as stuck until the guard is dropped.
    pub(crate) fn mark_stuck(&self) -> Stuck {
        self.0.stuck.fetch_add(1, Ordering::Relaxed);
        Stuck(self.clone())
    }

    /// Wakes the driver if a task may wait and a slot is free for it.
    fn wake_if_wanted(&self) {
        let could_run = |pool: &Pool| {
            pool.wanted.load(Ordering::SeqCst) && !pool.is_paused() && pool.level.free() > 0 && self.free() > 0
        };
        if self.0.pools.iter().any(could_run) {
            self.look_again();
        }
    }

    fn look_again(&self) {
        self.0.freed.store(true, Ordering::SeqCst);
        self.0.wake.notify_one();
    }
}

impl Level {
    fn of(total: usize) -> Self {
        Self {
            total: AtomicUsize::new(total),
            used: AtomicUsize::new(0),
        }
    }

    /// Takes up to `most`. Returns how many.
    fn take(&self, most: usize) -> usize {
        let total = self.total.load(Ordering::SeqCst);
        let free = |used: usize| total.saturating_sub(used).min(most);
        let more = |used: usize| (free(used) > 0).then(|| used + free(used));
        let before = self.used.fetch_update(Ordering::SeqCst, Ordering::SeqCst, more);
        before.map_or(0, free)
    }

    fn give_back(&self, count: usize) {
        self.used.fetch_sub(count, Ordering::SeqCst);
    }

    fn free(&self) -> usize {
        let used = self.used.load(Ordering::SeqCst);
        self.total.load(Ordering::SeqCst).saturating_sub(used)
    }
}

impl Pool {
    fn is_paused(&self) -> bool {
        self.paused.load(Ordering::SeqCst)
    }
}

impl Reserved {
    /// The number of reserved slots.
    pub(crate) const fn all(&self) -> usize {
        self.all
    }

    /// How many of them may go to this pool.
    pub(crate) fn of_pool(&self, pool: usize) -> usize {
        self.pools[pool]
    }

    /// Takes a reserved slot for a task of this pool. `None` if none is left for it.
    pub(crate) fn slot(&mut self, pool: usize) -> Option<Slot> {
        if self.all == 0 || self.pools[pool] == 0 {
            return None;
        }
        self.all -= 1;
        self.pools[pool] -= 1;
        Some(Slot {
            slots: self.slots.clone(),
            pool,
        })
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        let Self { slots, all, pools } = self;
        slots.0.all.give_back(*all);
        for (pool, count) in slots.0.pools.iter().zip(&*pools) {
            pool.level.give_back(*count);
        }
        slots.wake_if_wanted();
    }
}

impl Slot {
    /// Frees the slot, and wakes the driver in any case.
    pub(crate) fn free_and_look_again(self) {
        let slots = self.slots.clone();
        drop(self);
        slots.look_again();
    }
}

/// Counts a slot as stuck until it is dropped.
pub(crate) struct Stuck(Slots);

impl Drop for Stuck {
    fn drop(&mut self) {
        self.0.0.stuck.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let slots = &self.slots;
        // Free the slot first, then read `wanted`. A caller that sets `wanted` looks for a free slot after that, so
        // either this sees `wanted` or the caller sees the slot. This relies on SeqCst on both sides.
        slots.0.pools[self.pool].level.give_back(1);
        slots.0.all.give_back(1);
        slots.wake_if_wanted();
    }
}
