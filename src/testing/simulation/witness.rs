//! Sees what is really done in the store, in order, whatever its callers are told of it.

use std::{
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, Wake, Waker},
    thread::{self, Thread},
    time::Duration,
};

use crate::{
    error::BoxFuture,
    store::{
        Abilities, Claim, Claimed, ClaimedDelivery, Delete, DeliveryClaim, DeliverySettlement, GiveUp, Insert,
        Inserted, LogQuery, Pruned, QueueHint, Rescued, Retention, Settled, StoreResult, TaskStore,
    },
    task::{
        CapturedRequest, CapturedResponse, Counts, Delivery, Destination, Filter, LeaseRef, LogLine, Page, PageOf,
        Progress, RequestId, Scope, TaskRecord, TaskRef, Tenant,
        delivery::{DeliveryRef, Redeliver},
        lifecycle::{Edits, Outcome, Renewal, Rerun, Rescue, Settlement, Stop},
    },
};

/// The store below the faults. Each call is seen through on the spot, on this thread, so that it makes no difference how
/// fast a thread of the store is; what it did is written down.
#[derive(Debug)]
pub(super) struct Witness {
    store: Arc<dyn TaskStore>,
    seen: Mutex<Vec<Seen>>,
}

/// A record, if there is one.
pub(super) type Found = Option<Arc<TaskRecord>>;

/// What an attempt that ended is to cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Charge {
    /// It counts.
    Full,
    /// Nothing: it was handed back.
    Released,
    /// Nothing but a deferral.
    Deferred,
}

/// Something that was done in the store.
#[derive(Debug)]
pub(super) enum Seen {
    /// It failed, and may have been done.
    Unsure(Unsure),
    /// A task was stored, perhaps born claimed.
    Inserted(Arc<TaskRecord>),
    /// A task was handed to a holder.
    Claimed(Arc<TaskRecord>, Arc<CapturedRequest>),
    /// A claim was renewed, or not.
    Renewed(LeaseRef, Found, Renewal),
    /// The end of an attempt was reported.
    Settled {
        lease: LeaseRef,
        charge: Charge,
        settled: Settled,
        before: Found,
        after: Found,
    },
    /// A holder said how far it is.
    Progressed(LeaseRef, Found, bool),
    /// Tasks were rescued.
    Rescued(Vec<(RequestId, Rescue)>),
    /// A task was asked to stop; this is the record after it.
    Stopped(Stop, Found),
    /// A task was run again, with these changes.
    RunAgain(RequestId, u32, Edits),
    /// A task was removed by its client.
    Deleted(RequestId),
    /// A completion was claimed.
    DeliveryClaimed(RequestId),
    /// A completion was given up; this is the record after it.
    GivenUp(Delivery, Found),
    /// The try of a delivery was reported.
    DeliverySettled {
        claim: DeliveryRef,
        taken: bool,
        before: Found,
        after: Found,
    },
}

/// What was asked of a store that failed over it.
#[derive(Debug)]
pub(super) enum Unsure {
    Insert(RequestId),
    Claim,
    Settle(RequestId),
    RunAgain(RequestId, Box<Edits>),
    Delete(RequestId),
}

impl Witness {
    pub(super) fn new(store: Arc<dyn TaskStore>) -> Self {
        Self {
            store,
            seen: Mutex::default(),
        }
    }

    /// What was done since this was asked last.
    pub(super) fn seen(&self) -> Vec<Seen> {
        std::mem::take(&mut *self.seen.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The record as it is now.
    pub(super) fn find(&self, scope: &Scope, id: RequestId) -> Found {
        // What cannot be read is missing, and told so by whoever looks for it.
        see_through(self.store.find(scope, &TaskRef::Id(id))).ok().flatten()
    }

    fn record(&self, id: RequestId) -> Found {
        self.find(&Scope::All, id)
    }

    fn saw(&self, what: Seen) {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).push(what);
    }

    fn unless_unsure<T>(&self, answer: StoreResult<T>, what: impl FnOnce() -> Unsure) -> StoreResult<T> {
        if answer.is_err() {
            self.saw(Seen::Unsure(what()));
        }
        answer
    }

    fn insert_now(&self, insert: Insert) -> StoreResult<Inserted> {
        let (id, input) = (insert.task.id, insert.task.input.clone());
        let inserted = see_through(self.store.insert(insert));
        let inserted = self.unless_unsure(inserted, || Unsure::Insert(id))?;
        if let Inserted::New(record) = &inserted {
            self.saw(Seen::Inserted(record.clone()));
            if record.state.is_held() {
                self.saw(Seen::Claimed(record.clone(), input));
            }
        }
        Ok(inserted)
    }

    fn claim_now(&self, claim: Claim) -> StoreResult<Claimed> {
        let claimed = see_through(self.store.claim(claim));
        let claimed = self.unless_unsure(claimed, || Unsure::Claim)?;
        for task in &claimed.tasks {
            self.saw(Seen::Claimed(task.record.clone(), task.input.clone()));
        }
        Ok(claimed)
    }

    fn renew_now(&self, leases: Vec<LeaseRef>, lease: Duration) -> StoreResult<Vec<Renewal>> {
        let before: Vec<_> = leases.iter().map(|lease| (*lease, self.record(lease.id))).collect();
        let renewals = see_through(self.store.renew(leases, lease))?;
        for ((lease, before), renewal) in before.into_iter().zip(&renewals) {
            self.saw(Seen::Renewed(lease, before, *renewal));
        }
        Ok(renewals)
    }

    fn settle_now(&self, settlement: Settlement) -> StoreResult<Settled> {
        let lease = settlement.lease;
        let charge = match settlement.outcome {
            Outcome::Released => Charge::Released,
            Outcome::Deferred { .. } => Charge::Deferred,
            _ => Charge::Full,
        };
        let before = self.record(lease.id);
        let settled = see_through(self.store.settle(settlement));
        let settled = self.unless_unsure(settled, || Unsure::Settle(lease.id))?;
        let after = self.record(lease.id);
        self.saw(Seen::Settled {
            lease,
            charge,
            settled,
            before,
            after,
        });
        Ok(settled)
    }

    fn set_progress_now(&self, lease: LeaseRef, progress: Progress) -> StoreResult<bool> {
        let before = self.record(lease.id);
        let held = see_through(self.store.set_progress(lease, progress))?;
        self.saw(Seen::Progressed(lease, before, held));
        Ok(held)
    }

    fn rescue_now(&self, limit: usize) -> StoreResult<Rescued> {
        let mut rescued = see_through(self.store.rescue(limit))?;
        // No store promises an order.
        rescued.tasks.sort_by_key(|(id, _)| *id);
        self.saw(Seen::Rescued(rescued.tasks.clone()));
        Ok(rescued)
    }

    fn stop_now(&self, scope: &Scope, id: RequestId) -> StoreResult<Stop> {
        let stop = see_through(self.store.stop(scope, id))?;
        self.saw(Seen::Stopped(stop, self.record(id)));
        Ok(stop)
    }

    fn rerun_now(&self, scope: &Scope, id: RequestId, edits: Edits) -> StoreResult<Rerun> {
        let rerun = see_through(self.store.rerun(scope, id, edits.clone()));
        let rerun = self.unless_unsure(rerun, || Unsure::RunAgain(id, Box::new(edits.clone())))?;
        if let Rerun::Enqueued { generation } = rerun {
            self.saw(Seen::RunAgain(id, generation, edits));
        }
        Ok(rerun)
    }

    fn delete_now(&self, scope: &Scope, id: RequestId) -> StoreResult<Delete> {
        let delete = see_through(self.store.delete(scope, id));
        let delete = self.unless_unsure(delete, || Unsure::Delete(id))?;
        if delete == Delete::Deleted {
            self.saw(Seen::Deleted(id));
        }
        Ok(delete)
    }

    fn claim_deliveries_now(&self, claim: DeliveryClaim) -> StoreResult<Vec<ClaimedDelivery>> {
        let claimed = see_through(self.store.claim_deliveries(claim))?;
        for delivery in &claimed {
            self.saw(Seen::DeliveryClaimed(delivery.delivery.id));
        }
        Ok(claimed)
    }

    fn give_up_deliveries_now(&self, give_up: GiveUp) -> StoreResult<Vec<Delivery>> {
        let given_up = see_through(self.store.give_up_deliveries(give_up))?;
        for delivery in &given_up {
            self.saw(Seen::GivenUp(delivery.clone(), self.record(delivery.id)));
        }
        Ok(given_up)
    }

    fn settle_delivery_now(&self, settlement: DeliverySettlement) -> StoreResult<bool> {
        let claim = settlement.claim.clone();
        let before = self.record(claim.id);
        let taken = see_through(self.store.settle_delivery(settlement))?;
        let after = self.record(claim.id);
        self.saw(Seen::DeliverySettled {
            claim,
            taken,
            before,
            after,
        });
        Ok(taken)
    }
}

#[deny(clippy::missing_trait_methods)]
impl TaskStore for Witness {
    fn abilities(&self) -> Abilities {
        self.store.abilities()
    }

    fn queue_hint(&self, tenant: Option<&Tenant>) -> QueueHint {
        self.store.queue_hint(tenant)
    }

    fn insert(&self, insert: Insert) -> BoxFuture<'_, StoreResult<Inserted>> {
        Box::pin(async { self.insert_now(insert) })
    }

    fn claim(&self, claim: Claim) -> BoxFuture<'_, StoreResult<Claimed>> {
        Box::pin(async { self.claim_now(claim) })
    }

    fn renew(&self, leases: Vec<LeaseRef>, lease: Duration) -> BoxFuture<'_, StoreResult<Vec<Renewal>>> {
        Box::pin(async move { self.renew_now(leases, lease) })
    }

    fn settle(&self, settlement: Settlement) -> BoxFuture<'_, StoreResult<Settled>> {
        Box::pin(async { self.settle_now(settlement) })
    }

    fn rescue(&self, limit: usize) -> BoxFuture<'_, StoreResult<Rescued>> {
        Box::pin(async move { self.rescue_now(limit) })
    }

    fn stop<'a>(&'a self, scope: &'a Scope, id: RequestId) -> BoxFuture<'a, StoreResult<Stop>> {
        Box::pin(async move { self.stop_now(scope, id) })
    }

    fn rerun<'a>(&'a self, scope: &'a Scope, id: RequestId, edits: Edits) -> BoxFuture<'a, StoreResult<Rerun>> {
        Box::pin(async move { self.rerun_now(scope, id, edits) })
    }

    fn delete<'a>(&'a self, scope: &'a Scope, id: RequestId) -> BoxFuture<'a, StoreResult<Delete>> {
        Box::pin(async move { self.delete_now(scope, id) })
    }

    fn find<'a>(&'a self, scope: &'a Scope, task: &'a TaskRef) -> BoxFuture<'a, StoreResult<Found>> {
        Box::pin(async move { see_through(self.store.find(scope, task)) })
    }

    fn list<'a>(
        &'a self,
        scope: &'a Scope,
        filter: &'a Filter,
        page: Page,
    ) -> BoxFuture<'a, StoreResult<PageOf<Arc<TaskRecord>>>> {
        Box::pin(async move { see_through(self.store.list(scope, filter, page)) })
    }

    fn count<'a>(&'a self, scope: &'a Scope, filter: &'a Filter, cap: u64) -> BoxFuture<'a, StoreResult<u64>> {
        Box::pin(async move { see_through(self.store.count(scope, filter, cap)) })
    }

    fn counts<'a>(&'a self, scope: &'a Scope) -> BoxFuture<'a, StoreResult<Counts>> {
        Box::pin(async move { see_through(self.store.counts(scope)) })
    }

    fn input<'a>(
        &'a self,
        scope: &'a Scope,
        id: RequestId,
    ) -> BoxFuture<'a, StoreResult<Option<Arc<CapturedRequest>>>> {
        Box::pin(async move { see_through(self.store.input(scope, id)) })
    }

    fn output<'a>(
        &'a self,
        scope: &'a Scope,
        id: RequestId,
    ) -> BoxFuture<'a, StoreResult<Option<Arc<CapturedResponse>>>> {
        Box::pin(async move { see_through(self.store.output(scope, id)) })
    }

    fn set_progress(&self, lease: LeaseRef, progress: Progress) -> BoxFuture<'_, StoreResult<bool>> {
        Box::pin(async move { self.set_progress_now(lease, progress) })
    }

    fn append_log(&self, lease: LeaseRef, lines: Vec<LogLine>) -> BoxFuture<'_, StoreResult<bool>> {
        Box::pin(async move { see_through(self.store.append_log(lease, lines)) })
    }

    fn logs<'a>(
        &'a self,
        scope: &'a Scope,
        id: RequestId,
        query: LogQuery,
    ) -> BoxFuture<'a, StoreResult<Vec<LogLine>>> {
        Box::pin(async move { see_through(self.store.logs(scope, id, query)) })
    }

    fn claim_deliveries(&self, claim: DeliveryClaim) -> BoxFuture<'_, StoreResult<Vec<ClaimedDelivery>>> {
        Box::pin(async { self.claim_deliveries_now(claim) })
    }

    fn settle_delivery(&self, settlement: DeliverySettlement) -> BoxFuture<'_, StoreResult<bool>> {
        Box::pin(async { self.settle_delivery_now(settlement) })
    }

    fn redeliver<'a>(
        &'a self,
        scope: &'a Scope,
        id: RequestId,
        generation: u32,
        destination: &'a Destination,
    ) -> BoxFuture<'a, StoreResult<Redeliver>> {
        Box::pin(async move { see_through(self.store.redeliver(scope, id, generation, destination)) })
    }

    fn give_up_deliveries(&self, give_up: GiveUp) -> BoxFuture<'_, StoreResult<Vec<Delivery>>> {
        Box::pin(async { self.give_up_deliveries_now(give_up) })
    }

    fn prune(&self, retention: Retention, limit: usize) -> BoxFuture<'_, StoreResult<Pruned>> {
        Box::pin(async move { see_through(self.store.prune(retention, limit)) })
    }

    fn wait_for_work(&self) -> BoxFuture<'_, ()> {
        self.store.wait_for_work()
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        Box::pin(async { see_through(self.store.close()) })
    }
}

/// Waits on this thread until the store has answered: time stands still meanwhile.
pub(super) fn see_through<T>(mut call: BoxFuture<'_, T>) -> T {
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    loop {
        if let Poll::Ready(answer) = call.as_mut().poll(&mut Context::from_waker(&waker)) {
            return answer;
        }
        thread::park();
    }
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}
