//! The steps of tasks on the store under test, addressed by the token of a claim.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use crate::{
    error::BoxFuture,
    store::{
        Abilities, Claim, ClaimedDelivery, Delete, DeliveryClaim, DeliverySettlement, GiveUp, Held, Insert, Inserted,
        Ledger, LogQuery, News, Pruned, QueueHint, Renewal, Reply, Rescued, Retention, Settled, StoreResult, TaskStore,
    },
    task::{
        CapturedRequest, CapturedResponse, Counts, Cursor, Delivery, Destination, Filter, LeaseRef, LogLine, Page,
        PageOf, PoolName, Progress, RequestId, Scope, TaskRecord, TaskRef, Tenant,
        delivery::Redeliver,
        lifecycle::{Edits, Outcome, Rerun, Stop},
    },
    time::Timestamp,
};

/// A [`Ledger`] that also keeps the claims, so that a test can name a claim by its token. Clones are handles of one
/// store.
#[derive(Clone, Debug)]
pub(crate) struct Steps {
    ledger: Ledger,
    held: Arc<Mutex<HashMap<LeaseRef, Arc<Held>>>>,
}

/// The result of a claim.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) tasks: Vec<FoundTask>,
    pub(crate) next_due: Option<Duration>,
    pub(crate) passed_over: bool,
    pub(crate) control: u64,
}

/// A claimed task.
#[derive(Debug)]
pub(crate) struct FoundTask {
    pub(crate) record: Arc<TaskRecord>,
    pub(crate) request: Arc<CapturedRequest>,
}

impl Steps {
    pub(crate) fn new(store: Arc<dyn TaskStore>) -> Self {
        Self {
            ledger: Ledger::new(store),
            held: Arc::default(),
        }
    }

    /// Another handle of the same store, or the store that was opened again. It has the same claims.
    pub(crate) fn over(&self, store: Arc<dyn TaskStore>) -> Self {
        Self {
            ledger: Ledger::new(store),
            held: self.held.clone(),
        }
    }

    pub(crate) fn port(&self) -> &dyn TaskStore {
        &**self.handle()
    }

    pub(crate) const fn handle(&self) -> &Arc<dyn TaskStore> {
        self.ledger.store()
    }

    pub(crate) async fn insert(&self, insert: Insert) -> StoreResult<Inserted> {
        Ok(match self.ledger.insert(insert).await? {
            Inserted::New(record, Some(held)) => {
                self.keep(held);
                Inserted::New(record, None)
            }
            other => other,
        })
    }

    pub(crate) async fn insert_all(&self, inserts: Vec<Insert>) -> StoreResult<Vec<Inserted>> {
        self.ledger.insert_all(inserts).await
    }

    pub(crate) async fn claim(&self, claim: Claim) -> StoreResult<Found> {
        let claimed = self.ledger.claim(claim).await?;
        let tasks = claimed.tasks.into_iter().map(|task| {
            self.keep(task.held);
            FoundTask {
                record: task.record,
                request: task.request,
            }
        });
        Ok(Found {
            tasks: tasks.collect(),
            next_due: claimed.next_due,
            passed_over: claimed.passed_over,
            control: claimed.control,
        })
    }

    /// Settles with the row as it was claimed, without reading it again.
    pub(crate) async fn settle(&self, lease: LeaseRef, outcome: Outcome) -> StoreResult<Settled> {
        let held = self.held().get(&lease).cloned();
        match held {
            Some(held) => self.ledger.settle(&held, &outcome).await,
            None => Ok(Settled::Fenced),
        }
    }

    /// Several claims of the same task with the same token, as if several holders had it.
    pub(crate) async fn claims_of(&self, record: &TaskRecord, count: usize) -> Vec<Held> {
        let worker = record.worker.as_ref().expect("it is held");
        let mut all = Vec::new();
        for _ in 0..count {
            let found = self.ledger.look_for(worker, record.id).await.expect("rows");
            all.extend(found.flatten().map(|(_, held)| held));
        }
        all
    }

    pub(crate) async fn settle_as(&self, held: &Held, outcome: &Outcome) -> StoreResult<Settled> {
        self.ledger.settle(held, outcome).await
    }

    pub(crate) async fn rescue_sparing(&self, spared: Vec<PoolName>, limit: usize) -> StoreResult<Rescued> {
        self.ledger.rescue_sparing(spared, limit).await
    }

    pub(crate) async fn resume(
        &self,
        pool: &PoolName,
        paused_at: Timestamp,
        page: Page,
    ) -> StoreResult<Option<Cursor>> {
        self.ledger.resume(pool, paused_at, page).await
    }

    pub(crate) async fn rescue(&self, limit: usize) -> StoreResult<Rescued> {
        self.ledger.rescue(limit).await
    }

    pub(crate) async fn stop(&self, scope: &Scope, id: RequestId) -> StoreResult<Stop> {
        self.ledger.stop(scope, id).await
    }

    pub(crate) async fn rerun(&self, scope: &Scope, id: RequestId, edits: Edits) -> StoreResult<Rerun> {
        self.ledger.rerun(scope, id, edits).await
    }

    pub(crate) async fn delete(&self, scope: &Scope, id: RequestId) -> StoreResult<Delete> {
        self.ledger.delete(scope, id).await
    }

    pub(crate) async fn find(&self, scope: &Scope, task: &TaskRef) -> StoreResult<Option<Arc<TaskRecord>>> {
        self.ledger.find(scope, task).await
    }

    pub(crate) async fn task(&self, id: RequestId) -> StoreResult<Arc<TaskRecord>> {
        self.ledger.task(id).await
    }

    pub(crate) async fn list(
        &self,
        scope: &Scope,
        filter: &Filter,
        page: Page,
    ) -> StoreResult<PageOf<Arc<TaskRecord>>> {
        self.ledger.list(scope, filter, page).await
    }

    pub(crate) async fn list_all(&self, scope: &Scope, filter: &Filter) -> StoreResult<Vec<Arc<TaskRecord>>> {
        self.ledger.list_all(scope, filter).await
    }

    pub(crate) async fn request(&self, scope: &Scope, id: RequestId) -> StoreResult<Option<Arc<CapturedRequest>>> {
        self.ledger.request(scope, id).await
    }

    pub(crate) async fn response(&self, scope: &Scope, id: RequestId) -> StoreResult<Option<Arc<CapturedResponse>>> {
        self.ledger.response(scope, id).await
    }

    pub(crate) async fn claim_deliveries(&self, claim: DeliveryClaim) -> StoreResult<Vec<ClaimedDelivery>> {
        self.ledger.claim_deliveries(claim).await
    }

    pub(crate) async fn settle_delivery(&self, settlement: DeliverySettlement) -> StoreResult<bool> {
        self.ledger.settle_delivery(settlement).await
    }

    pub(crate) async fn redeliver(
        &self,
        scope: &Scope,
        id: RequestId,
        generation: u32,
        destination: &Destination,
    ) -> StoreResult<Redeliver> {
        self.ledger.redeliver(scope, id, generation, destination).await
    }

    pub(crate) async fn give_up_deliveries(&self, give_up: GiveUp) -> StoreResult<Vec<Delivery>> {
        self.ledger.give_up_deliveries(give_up).await
    }

    pub(crate) async fn prune(&self, retention: Retention, limit: usize) -> StoreResult<Pruned> {
        self.ledger.prune(retention, limit).await
    }

    pub(crate) fn abilities(&self) -> Abilities {
        self.port().abilities()
    }

    pub(crate) fn queue_hint(&self, tenant: Option<&Tenant>, pool: Option<&PoolName>) -> QueueHint {
        self.port().queue_hint(tenant, pool)
    }

    pub(crate) fn renew(&self, leases: Vec<LeaseRef>, lease: Duration) -> Reply<'_, Vec<Renewal>> {
        self.port().renew(leases, lease)
    }

    pub(crate) fn counts<'a>(&'a self, scope: &'a Scope) -> Reply<'a, Counts> {
        self.port().counts(scope)
    }

    pub(crate) fn set_progress(&self, lease: LeaseRef, progress: Progress) -> Reply<'_, bool> {
        self.port().set_progress(lease, progress)
    }

    pub(crate) fn append_log(&self, lease: LeaseRef, lines: Vec<LogLine>) -> Reply<'_, bool> {
        self.port().append_log(lease, lines)
    }

    pub(crate) fn logs<'a>(&'a self, scope: &'a Scope, id: RequestId, query: LogQuery) -> Reply<'a, Vec<LogLine>> {
        self.port().logs(scope, id, query)
    }

    pub(crate) fn news(&self) -> BoxFuture<'_, News> {
        self.port().news()
    }

    pub(crate) fn close(&self) -> BoxFuture<'_, ()> {
        self.port().close()
    }

    fn keep(&self, held: Held) {
        self.held().insert(held.lease(), Arc::new(held));
    }

    fn held(&self) -> MutexGuard<'_, HashMap<LeaseRef, Arc<Held>>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
