//! Sees what is really done in the store, in order, whatever its callers are told of it.

use std::{
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, Wake, Waker},
    thread::{self, Thread},
    time::Duration,
};

use crate::{
    error::BoxFuture,
    forward_store,
    store::{
        Change, Claim, ClaimedOutbox, Claims, Committed, DeliveryClaim, Insertion, NewRow, Operation, Payload, Renewal,
        Row, StoreResult, TaskStore, Which,
    },
    task::{LeaseRef, Progress, RequestId, Scope, TaskRecord},
};

/// The store below the faults. Each call is seen through on the spot, on this thread, so that it makes no difference how
/// fast a thread of the store is; what it did is written down.
#[derive(Debug)]
pub(super) struct Witness {
    store: Arc<dyn TaskStore>,
    seen: Mutex<Vec<Seen>>,
}

/// A row, if there is one.
pub(super) type Found = Option<Row>;

/// Something that was done in the store.
#[derive(Debug)]
pub(super) enum Seen {
    /// It failed, and may have been done.
    Unsure(Unsure),
    /// A task was stored, perhaps born claimed.
    Inserted(Row, Payload),
    /// A task was handed to a holder, with its request.
    Claimed(Row, Payload),
    /// A claim was renewed, or not.
    Renewed {
        lease: LeaseRef,
        renewal: Renewal,
        before: Found,
        after: Found,
    },
    /// A holder said how far it is.
    Progressed(LeaseRef, Found, bool),
    /// A change was made or refused.
    Committed(Box<Change>, bool, Found, Found),
    /// A completion was claimed: the row as the claim answered it, and as it is found.
    DeliveryClaimed(Row, Found),
}

/// What was asked of a store that failed over it.
#[derive(Debug)]
pub(super) enum Unsure {
    Insert(RequestId),
    Claim,
    Commit(Box<Change>),
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
    pub(super) fn find(&self, scope: &Scope, id: RequestId) -> Option<Arc<TaskRecord>> {
        self.row_in(scope, id).map(Row::into_record)
    }

    fn row_in(&self, scope: &Scope, id: RequestId) -> Found {
        // What cannot be read is missing, and told so by whoever looks for it.
        see_through(self.store.rows(scope, &Which::Id(id))).ok()?.pop()
    }

    fn row(&self, id: RequestId) -> Found {
        self.row_in(&Scope::All, id)
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

    fn insert_now(&self, task: NewRow) -> StoreResult<Insertion> {
        let (id, request) = (task.record.id, task.request.clone());
        let insertion = see_through(self.store.insert(task));
        let insertion = self.unless_unsure(insertion, || Unsure::Insert(id))?;
        if let Insertion::New(row) = &insertion {
            self.saw(Seen::Inserted(row.clone(), request));
        }
        Ok(insertion)
    }

    fn claim_now(&self, claim: Claim) -> StoreResult<Claims> {
        let claims = see_through(self.store.claim(claim));
        let claims = self.unless_unsure(claims, || Unsure::Claim)?;
        for task in &claims.tasks {
            if let Ok(request) = &task.request {
                self.saw(Seen::Claimed(task.row.clone(), request.clone()));
            }
        }
        Ok(claims)
    }

    fn commit_now(&self, change: Change) -> StoreResult<Committed> {
        let (before, copy) = (self.row(change.id), Box::new(change.clone()));
        let committed = see_through(self.store.commit(change));
        let committed = self.unless_unsure(committed, || Unsure::Commit(copy.clone()))?;
        let is_done = matches!(committed, Committed::Done);
        let after = self.row(copy.id);
        self.saw(Seen::Committed(copy, is_done, before, after));
        Ok(committed)
    }

    fn commit_all_now(&self, changes: Vec<Change>) -> StoreResult<Vec<Committed>> {
        // One by one, so that each is seen: they concern different tasks.
        changes.into_iter().map(|change| self.commit_now(change)).collect()
    }

    fn renew_now(&self, leases: Vec<LeaseRef>, lease: Duration) -> StoreResult<Vec<Renewal>> {
        let before: Vec<_> = leases.iter().map(|lease| (*lease, self.row(lease.id))).collect();
        let renewals = see_through(self.store.renew(leases, lease))?;
        for ((lease, before), renewal) in before.into_iter().zip(&renewals) {
            self.saw(Seen::Renewed {
                lease,
                renewal: *renewal,
                before,
                after: self.row(lease.id),
            });
        }
        Ok(renewals)
    }

    fn set_progress_now(&self, lease: LeaseRef, progress: Progress) -> StoreResult<bool> {
        let before = self.row(lease.id);
        let held = see_through(self.store.set_progress(lease, progress))?;
        self.saw(Seen::Progressed(lease, before, held));
        Ok(held)
    }

    fn claim_deliveries_now(&self, claim: DeliveryClaim) -> StoreResult<Vec<ClaimedOutbox>> {
        let claimed = see_through(self.store.claim_deliveries(claim))?;
        for found in &claimed {
            self.saw(Seen::DeliveryClaimed(found.row.clone(), self.row(found.row.id)));
        }
        Ok(claimed)
    }

    fn store(&self) -> &dyn TaskStore {
        &*self.store
    }

    fn forward<T: Send + 'static>(
        &self,
        _: Operation,
        call: impl FnOnce(Arc<dyn TaskStore>) -> BoxFuture<'static, StoreResult<T>> + Send + 'static,
    ) -> BoxFuture<'static, StoreResult<T>> {
        let store = self.store.clone();
        Box::pin(async move { see_through(call(store)) })
    }
}

impl TaskStore for Witness {
    fn insert(&self, task: NewRow) -> BoxFuture<'_, StoreResult<Insertion>> {
        Box::pin(async { self.insert_now(task) })
    }

    fn insert_all(&self, tasks: Vec<NewRow>) -> BoxFuture<'_, StoreResult<Vec<Insertion>>> {
        Box::pin(async { tasks.into_iter().map(|task| self.insert_now(task)).collect() })
    }

    fn claim(&self, claim: Claim) -> BoxFuture<'_, StoreResult<Claims>> {
        Box::pin(async { self.claim_now(claim) })
    }

    fn commit(&self, change: Change) -> BoxFuture<'_, StoreResult<Committed>> {
        Box::pin(async { self.commit_now(change) })
    }

    fn commit_all(&self, changes: Vec<Change>) -> BoxFuture<'_, StoreResult<Vec<Committed>>> {
        Box::pin(async { self.commit_all_now(changes) })
    }

    fn renew(&self, leases: Vec<LeaseRef>, lease: Duration) -> BoxFuture<'_, StoreResult<Vec<Renewal>>> {
        Box::pin(async move { self.renew_now(leases, lease) })
    }

    fn set_progress(&self, lease: LeaseRef, progress: Progress) -> BoxFuture<'_, StoreResult<bool>> {
        Box::pin(async move { self.set_progress_now(lease, progress) })
    }

    fn claim_deliveries(&self, claim: DeliveryClaim) -> BoxFuture<'_, StoreResult<Vec<ClaimedOutbox>>> {
        Box::pin(async { self.claim_deliveries_now(claim) })
    }

    forward_store!(
        abilities now queue_hint rows due list counts payload append_log logs prune_keys wait_for_work close
    );
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
