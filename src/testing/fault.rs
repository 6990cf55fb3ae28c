//! A store that fails on demand.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::sync::Semaphore;

use crate::{
    error::BoxFuture,
    store::{
        Abilities, Claim, Claimed, ClaimedDelivery, Delete, DeliveryClaim, DeliverySettlement, Insert, Inserted,
        LogQuery, Pruned, QueueHint, Rescued, Retention, Settled, StoreError, StoreErrorKind, StoreResult, TaskStore,
    },
    task::{
        CapturedRequest, CapturedResponse, Counts, Destination, Filter, LeaseRef, LogLine, Page, PageOf, Progress,
        RequestId, Scope, TaskRecord, TaskRef, Tenant,
        delivery::Redeliver,
        lifecycle::{Edits, Renewal, Rerun, Settlement, Stop},
    },
};

/// Any store, with faults put between it and its caller.
///
/// What should go wrong is said through [`faults`](Self::faults); everything else goes to the store within.
#[derive(Debug)]
pub struct FaultStore<S: ?Sized> {
    faults: Faults,
    store: Arc<S>,
}

impl<S: TaskStore> FaultStore<S> {
    /// `store`, without faults as yet.
    #[must_use]
    pub fn new(store: S) -> Self {
        Self::over(Arc::new(store))
    }
}

impl<S: TaskStore + ?Sized> FaultStore<S> {
    /// A shared store, without faults as yet.
    #[must_use]
    pub fn over(store: Arc<S>) -> Self {
        Self {
            faults: Faults::default(),
            store,
        }
    }

    /// The handle by which faults are ordered; keep a clone of it when the store is given away.
    #[must_use]
    pub fn faults(&self) -> Faults {
        self.faults.clone()
    }

    fn with_faults<'a, T: Send + 'a>(
        &self,
        operation: Operation,
        call: impl FnOnce() -> BoxFuture<'a, StoreResult<T>> + Send + 'a,
    ) -> BoxFuture<'a, StoreResult<T>> {
        match self.faults.next(operation) {
            None => call(),
            Some(Fault::Fail) => Box::pin(std::future::ready(Err(ordered(operation)))),
            Some(Fault::LoseReply) => Box::pin(async move {
                let _ = call().await;
                Err(ordered(operation))
            }),
            Some(Fault::Delay(gate)) => Box::pin(async move {
                gate.arrived.add_permits(1);
                // Closed when it is released.
                let _ = gate.released.acquire().await;
                call().await
            }),
        }
    }
}

/// What should go wrong in a [`FaultStore`], and what was called. Clones are the same handle.
///
/// A call is counted, and its fault chosen, when the method is called. If several faults are ordered for one call, the
/// last one ordered holds.
#[derive(Clone, Debug, Default)]
pub struct Faults(Arc<Mutex<Script>>);

impl Faults {
    /// The `nth` call of `operation` from now on fails, and nothing is done; 1 is the next one.
    pub fn fail_nth(&self, operation: Operation, nth: u64) {
        self.order(operation, nth, Fault::Fail);
    }

    /// The next `count` calls of `operation` fail, and nothing is done.
    pub fn fail_next(&self, operation: Operation, count: u64) {
        for nth in 1..=count {
            self.order(operation, nth, Fault::Fail);
        }
    }

    /// The next `count` calls of `operation` are done, but their callers are told that they failed.
    pub fn lose_replies(&self, operation: Operation, count: u64) {
        for nth in 1..=count {
            self.order(operation, nth, Fault::LoseReply);
        }
    }

    /// The next call of `operation` waits until it is released, and is done then.
    pub fn delay_next(&self, operation: Operation) -> Delayed {
        let gate = Arc::new(Gate {
            arrived: Semaphore::new(0),
            released: Semaphore::new(0),
        });
        self.order(operation, 1, Fault::Delay(gate.clone()));
        Delayed(gate)
    }

    /// Every call of every operation fails until [`heal`](Self::heal), as if the store could not be reached.
    pub fn fail_everything(&self) {
        self.script().down = true;
    }

    /// Nothing goes wrong any more.
    pub fn heal(&self) {
        let mut script = self.script();
        script.down = false;
        script.ordered.clear();
    }

    /// How often `operation` was called.
    #[must_use]
    pub fn calls(&self, operation: Operation) -> u64 {
        self.script().calls.get(&operation).copied().unwrap_or(0)
    }

    fn order(&self, operation: Operation, nth: u64, fault: Fault) {
        let mut script = self.script();
        let call = script.calls.get(&operation).copied().unwrap_or(0) + nth;
        script.ordered.insert((operation, call), fault);
    }

    fn next(&self, operation: Operation) -> Option<Fault> {
        let mut script = self.script();
        let calls = script.calls.entry(operation).or_default();
        *calls += 1;
        let call = (operation, *calls);
        let fault = script.ordered.remove(&call);
        if script.down { Some(Fault::Fail) } else { fault }
    }

    fn script(&self) -> MutexGuard<'_, Script> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A call that waits, or will. Dropping this releases it, so that a failing test does not hang.
#[derive(Debug)]
pub struct Delayed(Arc<Gate>);

impl Delayed {
    /// Resolves when the call has come and waits.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future changes nothing; the call stays delayed.
    pub async fn arrived(&self) {
        if let Ok(permit) = self.0.arrived.acquire().await {
            drop(permit);
        }
    }

    /// Lets the call go on.
    pub fn release(self) {}
}

impl Drop for Delayed {
    fn drop(&mut self) {
        self.0.released.close();
    }
}

/// An operation of a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
#[expect(missing_docs, reason = "each is the method of `TaskStore` of that name")]
pub enum Operation {
    Insert,
    Claim,
    Renew,
    Settle,
    Rescue,
    Stop,
    Rerun,
    Delete,
    Find,
    List,
    Count,
    Counts,
    Input,
    Output,
    SetProgress,
    AppendLog,
    Logs,
    ClaimDeliveries,
    SettleDelivery,
    Redeliver,
    Prune,
}

#[derive(Debug, Default)]
struct Script {
    calls: HashMap<Operation, u64>,
    ordered: HashMap<(Operation, u64), Fault>,
    down: bool,
}

#[derive(Debug)]
enum Fault {
    Fail,
    LoseReply,
    Delay(Arc<Gate>),
}

#[derive(Debug)]
struct Gate {
    arrived: Semaphore,
    released: Semaphore,
}

fn ordered(operation: Operation) -> StoreError {
    let context = format!("{operation:?} failed, as the test ordered");
    StoreError::new(StoreErrorKind::Unavailable, context)
}

#[deny(clippy::missing_trait_methods)]
impl<S: TaskStore + ?Sized> TaskStore for FaultStore<S> {
    fn abilities(&self) -> Abilities {
        self.store.abilities()
    }

    fn queue_hint(&self, tenant: Option<&Tenant>) -> QueueHint {
        self.store.queue_hint(tenant)
    }

    fn insert(&self, insert: Insert) -> BoxFuture<'_, StoreResult<Inserted>> {
        self.with_faults(Operation::Insert, || self.store.insert(insert))
    }

    fn claim(&self, claim: Claim) -> BoxFuture<'_, StoreResult<Claimed>> {
        self.with_faults(Operation::Claim, || self.store.claim(claim))
    }

    fn renew(&self, leases: Vec<LeaseRef>, lease: Duration) -> BoxFuture<'_, StoreResult<Vec<Renewal>>> {
        self.with_faults(Operation::Renew, move || self.store.renew(leases, lease))
    }

    fn settle(&self, settlement: Settlement) -> BoxFuture<'_, StoreResult<Settled>> {
        self.with_faults(Operation::Settle, || self.store.settle(settlement))
    }

    fn rescue(&self, limit: usize) -> BoxFuture<'_, StoreResult<Rescued>> {
        self.with_faults(Operation::Rescue, move || self.store.rescue(limit))
    }

    fn stop<'a>(&'a self, scope: &'a Scope, id: RequestId) -> BoxFuture<'a, StoreResult<Stop>> {
        self.with_faults(Operation::Stop, move || self.store.stop(scope, id))
    }

    fn rerun<'a>(&'a self, scope: &'a Scope, id: RequestId, edits: Edits) -> BoxFuture<'a, StoreResult<Rerun>> {
        self.with_faults(Operation::Rerun, move || self.store.rerun(scope, id, edits))
    }

    fn delete<'a>(&'a self, scope: &'a Scope, id: RequestId) -> BoxFuture<'a, StoreResult<Delete>> {
        self.with_faults(Operation::Delete, move || self.store.delete(scope, id))
    }

    fn find<'a>(&'a self, scope: &'a Scope, task: &'a TaskRef) -> BoxFuture<'a, StoreResult<Option<Arc<TaskRecord>>>> {
        self.with_faults(Operation::Find, move || self.store.find(scope, task))
    }

    fn list<'a>(
        &'a self,
        scope: &'a Scope,
        filter: &'a Filter,
        page: Page,
    ) -> BoxFuture<'a, StoreResult<PageOf<Arc<TaskRecord>>>> {
        self.with_faults(Operation::List, move || self.store.list(scope, filter, page))
    }

    fn count<'a>(&'a self, scope: &'a Scope, filter: &'a Filter, cap: u64) -> BoxFuture<'a, StoreResult<u64>> {
        self.with_faults(Operation::Count, move || self.store.count(scope, filter, cap))
    }

    fn counts<'a>(&'a self, scope: &'a Scope) -> BoxFuture<'a, StoreResult<Counts>> {
        self.with_faults(Operation::Counts, move || self.store.counts(scope))
    }

    fn input<'a>(
        &'a self,
        scope: &'a Scope,
        id: RequestId,
    ) -> BoxFuture<'a, StoreResult<Option<Arc<CapturedRequest>>>> {
        self.with_faults(Operation::Input, move || self.store.input(scope, id))
    }

    fn output<'a>(
        &'a self,
        scope: &'a Scope,
        id: RequestId,
    ) -> BoxFuture<'a, StoreResult<Option<Arc<CapturedResponse>>>> {
        self.with_faults(Operation::Output, move || self.store.output(scope, id))
    }

    fn set_progress(&self, lease: LeaseRef, progress: Progress) -> BoxFuture<'_, StoreResult<bool>> {
        self.with_faults(Operation::SetProgress, move || self.store.set_progress(lease, progress))
    }

    fn append_log(&self, lease: LeaseRef, lines: Vec<LogLine>) -> BoxFuture<'_, StoreResult<bool>> {
        self.with_faults(Operation::AppendLog, move || self.store.append_log(lease, lines))
    }

    fn logs<'a>(
        &'a self,
        scope: &'a Scope,
        id: RequestId,
        query: LogQuery,
    ) -> BoxFuture<'a, StoreResult<Vec<LogLine>>> {
        self.with_faults(Operation::Logs, move || self.store.logs(scope, id, query))
    }

    fn claim_deliveries(&self, claim: DeliveryClaim) -> BoxFuture<'_, StoreResult<Vec<ClaimedDelivery>>> {
        self.with_faults(Operation::ClaimDeliveries, || self.store.claim_deliveries(claim))
    }

    fn settle_delivery(&self, settlement: DeliverySettlement) -> BoxFuture<'_, StoreResult<bool>> {
        self.with_faults(Operation::SettleDelivery, || self.store.settle_delivery(settlement))
    }

    fn redeliver<'a>(
        &'a self,
        scope: &'a Scope,
        id: RequestId,
        generation: u32,
        destination: &'a Destination,
    ) -> BoxFuture<'a, StoreResult<Redeliver>> {
        self.with_faults(Operation::Redeliver, move || {
            self.store.redeliver(scope, id, generation, destination)
        })
    }

    fn prune(&self, retention: Retention, limit: usize) -> BoxFuture<'_, StoreResult<Pruned>> {
        self.with_faults(Operation::Prune, move || self.store.prune(retention, limit))
    }

    fn wait_for_work(&self) -> BoxFuture<'_, ()> {
        self.store.wait_for_work()
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        self.store.close()
    }
}
