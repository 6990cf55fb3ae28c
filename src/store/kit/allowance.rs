//! How many tasks a claim may still take, by pool and tenant.

use crate::{
    store::{Claim, PoolClaim},
    task::{PoolName, Tenant},
};

/// What is left of a [`Claim`] while its tasks are found one by one.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use tower_respond_async::{store::{Claim, kit::Allowance}, task::{PoolName, WorkerId}};
///
/// let mut claim = Claim::new(WorkerId::new("w", 1), 10, Duration::from_secs(30));
/// claim.others = 1;
/// let mut allowance = Allowance::of(&claim);
/// assert!(allowance.has(&PoolName::DEFAULT));
/// allowance.take(&PoolName::DEFAULT, None);
/// assert!(!allowance.has(&PoolName::DEFAULT));
/// ```
#[derive(Clone, Debug)]
pub struct Allowance {
    pools: Vec<PoolClaim>,
    others: usize,
    passed_over: bool,
}

impl Allowance {
    /// Everything that `claim` requests.
    #[must_use]
    pub fn of(claim: &Claim) -> Self {
        Self {
            pools: claim.pools.clone(),
            others: claim.others,
            passed_over: false,
        }
    }

    /// Whether the claim may take another task of this pool.
    #[must_use]
    pub fn has(&self, pool: &PoolName) -> bool {
        let named = self.pools.iter().find(|of| of.pool == *pool);
        named.map_or(self.others, |of| of.max) > 0
    }

    /// Whether the claim may take another task of this pool and tenant. If the tenant's limit is what keeps out a task
    /// that could run now, this is recorded as [`passed_over`](Self::passed_over).
    pub fn has_for(&mut self, pool: &PoolName, tenant: Option<&Tenant>, could_run: bool) -> bool {
        let Some(of) = self.pools.iter().find(|of| of.pool == *pool) else {
            return self.others > 0;
        };
        let held = || {
            of.held
                .iter()
                .find(|(holder, _)| Some(holder) == tenant)
                .map_or(0, |(_, held)| *held)
        };
        let is_free = match (of.per_tenant, tenant) {
            (Some(most), Some(_)) => held() < most,
            _ => true,
        };
        self.passed_over |= could_run && !is_free;
        of.max > 0 && is_free
    }

    /// Counts a task of this pool and tenant as taken.
    pub fn take(&mut self, pool: &PoolName, tenant: Option<&Tenant>) {
        let Some(of) = self.pools.iter_mut().find(|of| of.pool == *pool) else {
            self.others = self.others.saturating_sub(1);
            return;
        };
        of.max = of.max.saturating_sub(1);
        if let Some(tenant) = tenant.filter(|_| of.per_tenant.is_some()) {
            match of.held.iter_mut().find(|(holder, _)| holder == tenant) {
                Some((_, held)) => *held += 1,
                None => of.held.push((tenant.clone(), 1)),
            }
        }
    }

    /// Whether a task was passed over because its tenant has reached its limit.
    #[must_use]
    pub const fn passed_over(&self) -> bool {
        self.passed_over
    }
}
