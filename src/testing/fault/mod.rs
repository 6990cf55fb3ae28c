//! A store that fails on demand.

mod faults;

use std::{future::poll_fn, sync::Arc, task::Poll, time::Duration};

use tokio::sync::oneshot;

pub(crate) use self::faults::Fate;
use self::faults::Fault;
pub use self::faults::{Delayed, Faults, Odds, Operation};
use crate::{
    error::BoxFuture,
    store::{
        Abilities, Claim, Claimed, ClaimedDelivery, Delete, DeliveryClaim, DeliverySettlement, GiveUp, Insert,
        Inserted, LogQuery, Pruned, QueueHint, Rescued, Retention, Settled, StoreError, StoreErrorKind, StoreResult,
        TaskStore,
    },
    task::{
        CapturedRequest, CapturedResponse, Counts, Delivery, Destination, Filter, LeaseRef, LogLine, Page, PageOf,
        Progress, RequestId, Scope, TaskRecord, TaskRef, Tenant,
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

    fn with_faults<T: Send + 'static>(
        &self,
        operation: Operation,
        call: impl FnOnce(Arc<S>) -> BoxFuture<'static, StoreResult<T>>,
    ) -> BoxFuture<'static, StoreResult<T>> {
        let (fault, due) = self.faults.next(operation);
        let call = call(self.store.clone());
        let answer: BoxFuture<'static, StoreResult<T>> = match fault {
            None => call,
            Some(Fault::Fail) => Box::pin(std::future::ready(Err(ordered(operation)))),
            Some(Fault::FailWith(make)) => Box::pin(std::future::ready(Err((make.0)()))),
            Some(Fault::LoseReply) => Box::pin(async move {
                let _ = call.await;
                Err(ordered(operation))
            }),
            Some(Fault::Delay(gate)) => Box::pin(async move {
                gate.pass().await;
                call.await
            }),
            Some(Fault::Hold(calls)) => {
                let (reply, answer) = oneshot::channel();
                let turn = async move {
                    // Its caller may have given up.
                    let _ = reply.send(call.await);
                };
                self.faults.hold(calls, Box::pin(turn));
                Box::pin(async move { answer.await.unwrap_or_else(|_| Err(ordered(operation))) })
            }
            Some(Fault::HoldReply(calls)) => {
                let (release, released) = oneshot::channel::<()>();
                self.faults.hold(calls, Box::pin(async move { drop(release) }));
                Box::pin(async move {
                    let answer = call.await;
                    // Dropped when it is its turn.
                    let _ = released.await;
                    answer
                })
            }
        };
        if due.is_empty() {
            return answer;
        }
        Box::pin(async move {
            let mut answer = answer;
            // In place first: it goes before those that waited for it. Held itself, it does not keep them waiting.
            let at_once = poll_fn(|cx| Poll::Ready(answer.as_mut().poll(cx))).await;
            for turn in due {
                turn.await;
            }
            match at_once {
                Poll::Ready(answer) => answer,
                Poll::Pending => answer.await,
            }
        })
    }
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
        self.with_faults(Operation::Insert, |store| {
            Box::pin(async move { store.insert(insert).await })
        })
    }

    fn claim(&self, claim: Claim) -> BoxFuture<'_, StoreResult<Claimed>> {
        self.with_faults(Operation::Claim, |store| {
            Box::pin(async move { store.claim(claim).await })
        })
    }

    fn renew(&self, leases: Vec<LeaseRef>, lease: Duration) -> BoxFuture<'_, StoreResult<Vec<Renewal>>> {
        self.with_faults(Operation::Renew, |store| {
            Box::pin(async move { store.renew(leases, lease).await })
        })
    }

    fn settle(&self, settlement: Settlement) -> BoxFuture<'_, StoreResult<Settled>> {
        self.with_faults(Operation::Settle, |store| {
            Box::pin(async move { store.settle(settlement).await })
        })
    }

    fn rescue(&self, limit: usize) -> BoxFuture<'_, StoreResult<Rescued>> {
        self.with_faults(Operation::Rescue, |store| {
            Box::pin(async move { store.rescue(limit).await })
        })
    }

    fn stop<'a>(&'a self, scope: &'a Scope, id: RequestId) -> BoxFuture<'a, StoreResult<Stop>> {
        let scope = scope.clone();
        self.with_faults(Operation::Stop, |store| {
            Box::pin(async move { store.stop(&scope, id).await })
        })
    }

    fn rerun<'a>(&'a self, scope: &'a Scope, id: RequestId, edits: Edits) -> BoxFuture<'a, StoreResult<Rerun>> {
        let scope = scope.clone();
        self.with_faults(Operation::Rerun, |store| {
            Box::pin(async move { store.rerun(&scope, id, edits).await })
        })
    }

    fn delete<'a>(&'a self, scope: &'a Scope, id: RequestId) -> BoxFuture<'a, StoreResult<Delete>> {
        let scope = scope.clone();
        self.with_faults(Operation::Delete, |store| {
            Box::pin(async move { store.delete(&scope, id).await })
        })
    }

    fn find<'a>(&'a self, scope: &'a Scope, task: &'a TaskRef) -> BoxFuture<'a, StoreResult<Option<Arc<TaskRecord>>>> {
        let (scope, task) = (scope.clone(), task.clone());
        self.with_faults(Operation::Find, |store| {
            Box::pin(async move { store.find(&scope, &task).await })
        })
    }

    fn list<'a>(
        &'a self,
        scope: &'a Scope,
        filter: &'a Filter,
        page: Page,
    ) -> BoxFuture<'a, StoreResult<PageOf<Arc<TaskRecord>>>> {
        let (scope, filter) = (scope.clone(), filter.clone());
        self.with_faults(Operation::List, |store| {
            Box::pin(async move { store.list(&scope, &filter, page).await })
        })
    }

    fn count<'a>(&'a self, scope: &'a Scope, filter: &'a Filter, cap: u64) -> BoxFuture<'a, StoreResult<u64>> {
        let (scope, filter) = (scope.clone(), filter.clone());
        self.with_faults(Operation::Count, |store| {
            Box::pin(async move { store.count(&scope, &filter, cap).await })
        })
    }

    fn counts<'a>(&'a self, scope: &'a Scope) -> BoxFuture<'a, StoreResult<Counts>> {
        let scope = scope.clone();
        self.with_faults(Operation::Counts, |store| {
            Box::pin(async move { store.counts(&scope).await })
        })
    }

    fn input<'a>(
        &'a self,
        scope: &'a Scope,
        id: RequestId,
    ) -> BoxFuture<'a, StoreResult<Option<Arc<CapturedRequest>>>> {
        let scope = scope.clone();
        self.with_faults(Operation::Input, |store| {
            Box::pin(async move { store.input(&scope, id).await })
        })
    }

    fn output<'a>(
        &'a self,
        scope: &'a Scope,
        id: RequestId,
    ) -> BoxFuture<'a, StoreResult<Option<Arc<CapturedResponse>>>> {
        let scope = scope.clone();
        self.with_faults(Operation::Output, |store| {
            Box::pin(async move { store.output(&scope, id).await })
        })
    }

    fn set_progress(&self, lease: LeaseRef, progress: Progress) -> BoxFuture<'_, StoreResult<bool>> {
        self.with_faults(Operation::SetProgress, |store| {
            Box::pin(async move { store.set_progress(lease, progress).await })
        })
    }

    fn append_log(&self, lease: LeaseRef, lines: Vec<LogLine>) -> BoxFuture<'_, StoreResult<bool>> {
        self.with_faults(Operation::AppendLog, |store| {
            Box::pin(async move { store.append_log(lease, lines).await })
        })
    }

    fn logs<'a>(
        &'a self,
        scope: &'a Scope,
        id: RequestId,
        query: LogQuery,
    ) -> BoxFuture<'a, StoreResult<Vec<LogLine>>> {
        let scope = scope.clone();
        self.with_faults(Operation::Logs, |store| {
            Box::pin(async move { store.logs(&scope, id, query).await })
        })
    }

    fn claim_deliveries(&self, claim: DeliveryClaim) -> BoxFuture<'_, StoreResult<Vec<ClaimedDelivery>>> {
        self.with_faults(Operation::ClaimDeliveries, |store| {
            Box::pin(async move { store.claim_deliveries(claim).await })
        })
    }

    fn settle_delivery(&self, settlement: DeliverySettlement) -> BoxFuture<'_, StoreResult<bool>> {
        self.with_faults(Operation::SettleDelivery, |store| {
            Box::pin(async move { store.settle_delivery(settlement).await })
        })
    }

    fn redeliver<'a>(
        &'a self,
        scope: &'a Scope,
        id: RequestId,
        generation: u32,
        destination: &'a Destination,
    ) -> BoxFuture<'a, StoreResult<Redeliver>> {
        let (scope, destination) = (scope.clone(), destination.clone());
        self.with_faults(Operation::Redeliver, move |store| {
            Box::pin(async move { store.redeliver(&scope, id, generation, &destination).await })
        })
    }

    fn give_up_deliveries(&self, give_up: GiveUp) -> BoxFuture<'_, StoreResult<Vec<Delivery>>> {
        self.with_faults(Operation::GiveUpDeliveries, |store| {
            Box::pin(async move { store.give_up_deliveries(give_up).await })
        })
    }

    fn prune(&self, retention: Retention, limit: usize) -> BoxFuture<'_, StoreResult<Pruned>> {
        self.with_faults(Operation::Prune, |store| {
            Box::pin(async move { store.prune(retention, limit).await })
        })
    }

    fn wait_for_work(&self) -> BoxFuture<'_, ()> {
        self.store.wait_for_work()
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        self.store.close()
    }
}
