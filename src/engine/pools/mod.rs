//! The pools of this process: the slots of each, and the tasks that a claim may return.

pub(crate) mod control;
pub(crate) mod pool;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use http::request::Parts;
use tokio::sync::Notify;

use crate::{
    engine::{
        caught::caught,
        pools::{
            control::{PoolControl, PoolControls},
            pool::{Pool, When},
        },
        slots::{Reserved, Slot, Slots},
    },
    store::{Claim, Controls, Limits, PoolClaim},
    task::{PoolName, TaskRecord, Tenant, WorkerId},
};

/// The pool for tasks of pools that this process does not have, because another process has them or they were renamed.
const UNKNOWN: &str = "";

/// The pools of one engine: the default one first, the one for unknown pools last.
pub(crate) struct Pools {
    pub(crate) slots: Slots,
    pools: Box<[PoolOf]>,
    controls: Mutex<PoolControls>,
    limits: Limits,
}

struct PoolOf {
    name: PoolName,
    when: Option<Arc<When>>,
    concurrency: usize,
    queue_depth: u64,
    tenants: Option<Arc<Tenants>>,
}

/// How many handlers of each tenant run in a pool.
struct Tenants {
    most: usize,
    state: Mutex<TenantState>,
}

#[derive(Default)]
struct TenantState {
    held: HashMap<Tenant, usize>,
    /// Whether a claim is under way that was sent with these numbers.
    claiming: bool,
    /// Whether the last claim passed over a task whose tenant is at its limit.
    waits: bool,
}

/// The permit to run one handler: a slot, counted for its pool and its tenant. Dropping it frees the slot.
#[must_use]
pub(crate) struct Permit {
    tenant: Option<(Arc<Tenants>, Tenant)>,
    slot: Option<Slot>,
}

/// The slots that are reserved for a claim.
#[must_use]
pub(crate) struct ClaimSlots<'a> {
    pools: &'a Pools,
    reserved: Reserved,
    asked: Box<[usize]>,
    sent_to_wait: Box<[u64]>,
    all: usize,
}

impl Pools {
    pub(crate) fn new(concurrency: usize, limits: Limits, pools: &[Pool], wake: Arc<Notify>) -> Self {
        let mut of_each = vec![PoolOf::of(&Pool::new(PoolName::DEFAULT.as_str()))];
        for pool in pools {
            let pool = PoolOf::of(pool);
            match pool.name.is_default() {
                true => of_each[0] = pool,
                false => of_each.push(pool),
            }
        }
        // A single pool may use the whole queue.
        let share = if of_each.len() == 1 {
            u64::MAX
        } else {
            limits.queued.div_ceil(2)
        };
        for pool in &mut of_each {
            pool.queue_depth = pool.queue_depth.min(share);
        }
        of_each.push(PoolOf {
            name: PoolName::stored(UNKNOWN),
            queue_depth: share,
            ..PoolOf::of(&Pool::new(PoolName::DEFAULT.as_str()))
        });
        let totals: Vec<_> = of_each.iter().map(|pool| pool.concurrency).collect();
        let slots = Slots::of_pools(concurrency, totals, wake);
        // Paused until the named values are read.
        (0..of_each.len()).for_each(|pool| slots.set_paused(pool, true));
        Self {
            slots,
            pools: of_each.into(),
            controls: Mutex::default(),
            limits,
        }
    }

    /// The pool of a request. If the application's function panics, the request does not match.
    pub(crate) fn of(&self, head: &Parts) -> PoolName {
        let is_of = |pool: &&PoolOf| {
            let when = pool.when.as_ref();
            when.is_some_and(|when| caught(|| when(head)).unwrap_or(false))
        };
        self.pools
            .iter()
            .find(is_of)
            .map_or(PoolName::DEFAULT, |pool| pool.name.clone())
    }

    /// Whether there are named pools besides the default one.
    pub(crate) fn are_several(&self) -> bool {
        self.pools.len() > 2
    }

    /// Whether this process has a pool of this name.
    pub(crate) fn has(&self, name: &PoolName) -> bool {
        self.pools.iter().any(|pool| pool.name == *name)
    }

    /// The limits for queued tasks when a task of this pool is stored.
    pub(crate) fn limits(&self, pool: &PoolName) -> Limits {
        Limits {
            per_pool: self.pools[self.index(pool)].queue_depth,
            ..self.limits
        }
    }

    /// Whether a new task of this pool would probably start at once.
    pub(crate) fn could_start(&self, pool: &PoolName) -> bool {
        let pool = self.index(pool);
        let (used, total) = self.slots.of_pool(pool);
        !self.slots.wanted(pool) && !self.slots.is_paused(pool) && used < total && self.slots.free() > 0
    }

    /// A permit for a new task, unless other tasks wait before it. If it returns `None`, the task is counted as
    /// waiting.
    pub(crate) fn permit_for_new(&self, pool: &PoolName, tenant: Option<&Tenant>) -> Option<Permit> {
        let at = self.index(pool);
        let others_wait = || {
            let tenants = self.pools[at].tenants.as_ref().filter(|_| tenant.is_some());
            tenants.is_some_and(|tenants| tenants.state().waits)
        };
        let permit = match self.slots.wanted(at) || others_wait() {
            false => self.permit(at, tenant),
            true => None,
        };
        if permit.is_none() {
            self.slots.send_to_wait(at);
        }
        permit
    }

    /// A permit for a task that this process holds already.
    pub(crate) fn permit_for(&self, record: &TaskRecord) -> Option<Permit> {
        self.permit(self.index(&record.pool), record.tenant.as_ref())
    }

    /// A permit for a task that this process holds already, unless its pool is paused.
    pub(crate) fn permit_unless_paused(&self, record: &TaskRecord) -> Option<Permit> {
        match self.is_paused(&record.pool) {
            true => None,
            false => self.permit_for(record),
        }
    }

    fn permit(&self, at: usize, tenant: Option<&Tenant>) -> Option<Permit> {
        let slot = self.slots.take(at)?;
        let tenant = match self.pools[at].tenants.as_ref().zip(tenant) {
            Some((tenants, tenant)) => Some(tenants.hold(tenant)?),
            None => None,
        };
        Some(Permit {
            tenant,
            slot: Some(slot),
        })
    }

    /// Reserves slots for a claim of at most `most` tasks. `None` if no slot is free for any pool.
    pub(crate) fn reserve(&self, most: usize) -> Option<ClaimSlots<'_>> {
        let sent_to_wait = self.slots.sent_to_wait();
        let reserved = self.slots.reserve(most);
        let asked: Box<[_]> = (0..self.pools.len()).map(|pool| reserved.of_pool(pool)).collect();
        for (pool, asked) in asked.iter().enumerate() {
            if *asked == 0 {
                // This claim does not cover the tasks of the pool, so freeing a slot of it has to wake the driver.
                self.slots.send_to_wait(pool);
            }
        }
        let slots = ClaimSlots {
            pools: self,
            all: reserved.all(),
            asked,
            sent_to_wait,
            reserved,
        };
        for tenants in self.tenants() {
            tenants.state().claiming = true;
        }
        (slots.asked.iter().any(|asked| *asked > 0)).then_some(slots)
    }

    fn tenants(&self) -> impl Iterator<Item = &Arc<Tenants>> {
        self.pools.iter().filter_map(|pool| pool.tenants.as_ref())
    }

    /// Applies the store's named values.
    pub(crate) fn apply(&self, controls: &Controls) {
        let mut known = self.controls();
        if !known.update(controls) {
            return;
        }
        for (at, pool) in self.pools.iter().enumerate() {
            let control = known.of(&pool.name);
            let concurrency = control.and_then(|control| control.concurrency);
            self.slots.set_total(at, concurrency.unwrap_or(pool.concurrency));
            self.slots.set_paused(at, control.is_some_and(PoolControl::is_paused));
        }
    }

    /// The version of the named values that were last applied, if any.
    pub(crate) fn known_version(&self) -> Option<u64> {
        self.controls().version()
    }

    /// The paused pools, including those that this process does not have.
    pub(crate) fn paused(&self) -> Vec<PoolName> {
        self.controls().paused()
    }

    /// Whether the pool is paused.
    pub(crate) fn is_paused(&self, pool: &PoolName) -> bool {
        self.controls().of(pool).is_some_and(PoolControl::is_paused)
    }

    /// The named pools, each with its taken slots, its total slots, and its named value.
    pub(crate) fn all(&self) -> impl Iterator<Item = (&PoolName, usize, usize, Option<PoolControl>)> {
        let named = self
            .pools
            .iter()
            .enumerate()
            .filter(|(_, pool)| pool.name.as_str() != UNKNOWN);
        named.map(|(at, pool)| {
            let (used, total) = self.slots.of_pool(at);
            (
                &pool.name,
                used,
                total.min(self.slots.total()),
                self.controls().of(&pool.name).cloned(),
            )
        })
    }

    fn index(&self, name: &PoolName) -> usize {
        let at = self.pools.iter().position(|pool| pool.name == *name);
        at.unwrap_or(self.pools.len() - 1)
    }

    fn controls(&self) -> MutexGuard<'_, PoolControls> {
        self.controls.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl PoolOf {
    fn of(pool: &Pool) -> Self {
        Self {
            // The builder has checked the name.
            name: pool.name.clone().unwrap_or_default(),
            when: pool.when.clone(),
            concurrency: pool.concurrency.unwrap_or(usize::MAX),
            queue_depth: pool.queue_depth.unwrap_or(u64::MAX),
            tenants: pool.tenant_concurrency.map(|most| {
                Arc::new(Tenants {
                    most,
                    state: Mutex::default(),
                })
            }),
        }
    }
}

impl Tenants {
    fn state(&self) -> MutexGuard<'_, TenantState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts one more handler of this tenant. `None` if the tenant is at its limit, or if a claim is under way, since
    /// it may return tasks of the tenant.
    fn hold(self: &Arc<Self>, tenant: &Tenant) -> Option<(Arc<Self>, Tenant)> {
        let mut state = self.state();
        let held = state.held.get(tenant).copied().unwrap_or(0);
        if state.claiming || held >= self.most {
            return None;
        }
        state.held.insert(tenant.clone(), held + 1);
        Some((self.clone(), tenant.clone()))
    }

    /// Counts one handler less. Returns whether a task may wait for it.
    fn release(&self, tenant: &Tenant) -> bool {
        let mut state = self.state();
        if let Some(held) = state.held.get_mut(tenant) {
            *held -= 1;
            if *held == 0 {
                state.held.remove(tenant);
            }
        }
        state.waits
    }
}

impl ClaimSlots<'_> {
    /// The claim to send to the store.
    pub(crate) fn claim(&self, worker: WorkerId, lease: Duration) -> Claim {
        let mut claim = Claim::new(worker, self.all, lease);
        for (at, pool) in self.pools.pools.iter().enumerate() {
            let (most, tenants) = (self.asked[at], pool.tenants.as_ref());
            if pool.name.as_str() == UNKNOWN {
                if most < self.all {
                    claim.others = most;
                }
            } else if most < self.all || tenants.is_some() {
                let mut of_pool = PoolClaim::new(pool.name.clone(), most);
                if let Some(tenants) = tenants {
                    of_pool.per_tenant = Some(tenants.most);
                    let held = tenants.state().held.clone();
                    of_pool.held = held.into_iter().collect();
                }
                claim.pools.push(of_pool);
            }
        }
        let unknown = self.pools.paused().into_iter().filter(|name| !self.pools.has(name));
        claim.pools.extend(unknown.map(|name| PoolClaim::new(name, 0)));
        claim
    }

    /// The maximum number of tasks.
    pub(crate) const fn all(&self) -> usize {
        self.all
    }

    /// The permit for a task that the claim returned. `None` if no reserved slot of its pool is left.
    pub(crate) fn permit(&mut self, record: &TaskRecord) -> Option<Permit> {
        let at = self.pools.index(&record.pool);
        let slot = self.reserved.slot(at)?;
        let tenants = self.pools.pools[at].tenants.as_ref();
        let tenant = tenants.zip(record.tenant.as_ref()).map(|(tenants, tenant)| {
            *tenants.state().held.entry(tenant.clone()).or_default() += 1;
            (tenants.clone(), tenant.clone())
        });
        Some(Permit {
            tenant,
            slot: Some(slot),
        })
    }

    /// Records that the store has no other runnable tasks. `passed_over` says that it has some of tenants at their
    /// limit.
    pub(crate) fn found_all(&self, passed_over: bool) {
        for (at, asked) in self.asked.iter().enumerate() {
            // A pool of which the claim returned as many tasks as were claimed may have more.
            if self.reserved.of_pool(at) > 0 && *asked > 0 {
                self.pools.slots.none_waits(at, self.sent_to_wait[at]);
            }
        }
        for tenants in self.pools.tenants() {
            tenants.state().waits = passed_over;
        }
    }
}

impl Drop for ClaimSlots<'_> {
    fn drop(&mut self) {
        for tenants in self.pools.tenants() {
            tenants.state().claiming = false;
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let tenant = self.tenant.take();
        let waits = tenant.is_some_and(|(tenants, tenant)| tenants.release(&tenant));
        let Some(slot) = self.slot.take() else { return };
        match waits {
            false => drop(slot),
            true => slot.free_and_look_again(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pools(pool: Pool) -> Pools {
        Pools::new(4, Limits::UNLIMITED, &[pool], Arc::new(Notify::new()))
    }

    #[test]
    fn nothing_is_begun_until_it_is_known_which_pools_are_paused() {
        let pools = pools(Pool::new("a"));
        assert!(pools.reserve(10).is_none());
        assert!(pools.permit_for_new(&PoolName::DEFAULT, None).is_none());
        pools.apply(&Controls::default());
        assert!(pools.reserve(10).is_some());
    }

    /// The driver has to be woken, because its next poll may be a second away.
    #[test]
    fn freeing_a_tenants_slot_wakes_the_driver_if_a_task_was_passed_over() {
        for passed_over in [false, true] {
            let pools = pools(Pool::new("a").tenant_concurrency(1));
            pools.apply(&Controls::default());
            let slots = pools.reserve(10).unwrap();
            slots.found_all(passed_over);
            drop(slots);
            let permit = pools.permit(pools.index(&PoolName::stored("a")), Some(&Tenant::new("anna")));
            pools.slots.take_freed();
            drop(permit.unwrap());
            assert_eq!(pools.slots.take_freed(), passed_over);
        }
    }
}
