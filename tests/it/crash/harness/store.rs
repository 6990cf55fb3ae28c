//! The embedded store, with points at which the process dies or freezes around what it does.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{sync::Notify, time::timeout};
use tower_respond_async::{
    RequestId, Scope, TaskRecord, TaskStore, Tenant,
    error::BoxFuture,
    store::{
        Abilities, Claim, Claimed, ClaimedDelivery, Delete, DeliveryClaim, DeliverySettlement, GiveUp, Insert,
        Inserted, LogQuery, Pruned, QueueHint, RedbStore, Rescued, Retention, Settled, StoreResult,
    },
    task::{
        CapturedRequest, CapturedResponse, Counts, Delivery, Destination, Filter, LeaseRef, LogLine, Page, PageOf,
        Progress, TaskRef,
        delivery::Redeliver,
        lifecycle::{Edits, Outcome, Renewal, Rerun, Settlement, Stop},
    },
};

use super::{
    journal::{Journal, Line},
    point::{Point, Points},
};

/// How long a settlement that slept over its lease waits for somebody else to be given the task. Shorter than the time
/// after which the engine takes the call for lost.
const SUCCESSOR_LIMIT: Duration = Duration::from_secs(8);

/// Passes everything on to a [`RedbStore`], keeps the journal of what that answered, and comes by the points.
#[derive(Debug)]
pub(crate) struct MinedStore {
    store: RedbStore,
    points: Arc<Points>,
    journal: Journal,
    holders: Holders,
}

impl MinedStore {
    pub(crate) fn new(store: RedbStore, points: Arc<Points>, journal: Journal) -> Self {
        Self {
            store,
            points,
            journal,
            holders: Holders::default(),
        }
    }

    fn claimed(&self, record: &TaskRecord) {
        self.journal.write(&Line::Claimed {
            id: record.id,
            generation: record.generation,
            token: record.token.get(),
        });
        self.holders.note(record.lease());
    }
}

/// Who was given which task last.
#[derive(Debug, Default)]
struct Holders {
    tokens: Mutex<HashMap<RequestId, u64>>,
    changed: Notify,
}

impl Holders {
    fn note(&self, lease: LeaseRef) {
        let mut tokens = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
        tokens.insert(lease.id, lease.token.get());
        drop(tokens);
        self.changed.notify_waiters();
    }

    /// Resolves when the task was given to somebody after this claim.
    async fn after(&self, lease: LeaseRef) {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let holder = self
                .tokens
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .get(&lease.id)
                .copied();
            if holder.is_some_and(|token| token > lease.token.get()) {
                return;
            }
            changed.await;
        }
    }
}

#[deny(clippy::missing_trait_methods)]
impl TaskStore for MinedStore {
    fn insert(&self, insert: Insert) -> BoxFuture<'_, StoreResult<Inserted>> {
        Box::pin(async {
            self.points.pass(Point::BeforeInsert);
            let inserted = self.store.insert(insert).await?;
            self.points.pass(Point::AfterInsert);
            if let Inserted::New(record) = &inserted
                && record.state.is_held()
            {
                self.claimed(record);
            }
            Ok(inserted)
        })
    }

    fn claim(&self, claim: Claim) -> BoxFuture<'_, StoreResult<Claimed>> {
        Box::pin(async {
            self.points.pass(Point::BeforeClaim);
            let claimed = self.store.claim(claim).await?;
            for task in &claimed.tasks {
                self.points.pass(Point::AfterClaim);
                self.claimed(&task.record);
            }
            Ok(claimed)
        })
    }

    fn settle(&self, settlement: Settlement) -> BoxFuture<'_, StoreResult<Settled>> {
        Box::pin(async {
            let lease = settlement.lease;
            let (before, after) = match settlement.outcome {
                Outcome::Released => (Point::BeforeRelease, Point::AfterRelease),
                _ => (Point::BeforeSettle, Point::AfterSettle),
            };
            if self.points.pass(before) {
                // It slept over its lease. Only now is it sure to come too late.
                let _ = timeout(SUCCESSOR_LIMIT, self.holders.after(lease)).await;
            }
            let settled = self.store.settle(settlement).await?;
            self.points.pass(after);
            let state = match settled {
                Settled::Accepted { state, .. } => Some(state.as_str().to_owned()),
                Settled::Fenced => None,
            };
            self.journal.write(&Line::Settled {
                id: lease.id,
                token: lease.token.get(),
                state,
            });
            Ok(settled)
        })
    }

    fn settle_delivery(&self, settlement: DeliverySettlement) -> BoxFuture<'_, StoreResult<bool>> {
        Box::pin(async {
            let settled = self.store.settle_delivery(settlement).await?;
            self.points.pass(Point::AfterDelivery);
            Ok(settled)
        })
    }

    fn redeliver<'a>(
        &'a self,
        scope: &'a Scope,
        id: RequestId,
        generation: u32,
        destination: &'a Destination,
    ) -> BoxFuture<'a, StoreResult<Redeliver>> {
        self.store.redeliver(scope, id, generation, destination)
    }

    fn prune(&self, retention: Retention, limit: usize) -> BoxFuture<'_, StoreResult<Pruned>> {
        Box::pin(async move {
            self.points.pass(Point::BeforePrune);
            let pruned = self.store.prune(retention, limit).await?;
            if pruned.tasks > 0 {
                self.points.pass(Point::AfterPrune);
            }
            Ok(pruned)
        })
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {
            self.points.pass(Point::BeforeClose);
            self.store.close().await;
            self.points.pass(Point::AfterClose);
        })
    }

    fn abilities(&self) -> Abilities {
        self.store.abilities()
    }

    fn queue_hint(&self, tenant: Option<&Tenant>) -> QueueHint {
        self.store.queue_hint(tenant)
    }

    fn renew(&self, leases: Vec<LeaseRef>, lease: Duration) -> BoxFuture<'_, StoreResult<Vec<Renewal>>> {
        self.store.renew(leases, lease)
    }

    fn rescue(&self, limit: usize) -> BoxFuture<'_, StoreResult<Rescued>> {
        self.store.rescue(limit)
    }

    fn stop<'a>(&'a self, scope: &'a Scope, id: RequestId) -> BoxFuture<'a, StoreResult<Stop>> {
        self.store.stop(scope, id)
    }

    fn rerun<'a>(&'a self, scope: &'a Scope, id: RequestId, edits: Edits) -> BoxFuture<'a, StoreResult<Rerun>> {
        self.store.rerun(scope, id, edits)
    }

    fn delete<'a>(&'a self, scope: &'a Scope, id: RequestId) -> BoxFuture<'a, StoreResult<Delete>> {
        self.store.delete(scope, id)
    }

    fn find<'a>(&'a self, scope: &'a Scope, task: &'a TaskRef) -> BoxFuture<'a, StoreResult<Option<Arc<TaskRecord>>>> {
        self.store.find(scope, task)
    }

    fn list<'a>(
        &'a self,
        scope: &'a Scope,
        filter: &'a Filter,
        page: Page,
    ) -> BoxFuture<'a, StoreResult<PageOf<Arc<TaskRecord>>>> {
        self.store.list(scope, filter, page)
    }

    fn count<'a>(&'a self, scope: &'a Scope, filter: &'a Filter, cap: u64) -> BoxFuture<'a, StoreResult<u64>> {
        self.store.count(scope, filter, cap)
    }

    fn counts<'a>(&'a self, scope: &'a Scope) -> BoxFuture<'a, StoreResult<Counts>> {
        self.store.counts(scope)
    }

    fn input<'a>(
        &'a self,
        scope: &'a Scope,
        id: RequestId,
    ) -> BoxFuture<'a, StoreResult<Option<Arc<CapturedRequest>>>> {
        self.store.input(scope, id)
    }

    fn output<'a>(
        &'a self,
        scope: &'a Scope,
        id: RequestId,
    ) -> BoxFuture<'a, StoreResult<Option<Arc<CapturedResponse>>>> {
        self.store.output(scope, id)
    }

    fn set_progress(&self, lease: LeaseRef, progress: Progress) -> BoxFuture<'_, StoreResult<bool>> {
        self.store.set_progress(lease, progress)
    }

    fn append_log(&self, lease: LeaseRef, lines: Vec<LogLine>) -> BoxFuture<'_, StoreResult<bool>> {
        self.store.append_log(lease, lines)
    }

    fn logs<'a>(
        &'a self,
        scope: &'a Scope,
        id: RequestId,
        query: LogQuery,
    ) -> BoxFuture<'a, StoreResult<Vec<LogLine>>> {
        self.store.logs(scope, id, query)
    }

    fn give_up_deliveries(&self, give_up: GiveUp) -> BoxFuture<'_, StoreResult<Vec<Delivery>>> {
        self.store.give_up_deliveries(give_up)
    }

    fn claim_deliveries(&self, claim: DeliveryClaim) -> BoxFuture<'_, StoreResult<Vec<ClaimedDelivery>>> {
        self.store.claim_deliveries(claim)
    }

    fn wait_for_work(&self) -> BoxFuture<'_, ()> {
        self.store.wait_for_work()
    }
}
