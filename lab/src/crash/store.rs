//! The embedded store, with points at which the process dies or freezes around what it does.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{sync::Notify, time::timeout};
use tower_respond_async::{
    RequestId, TaskState, TaskStore,
    error::BoxFuture,
    forward_store,
    store::{Candidates, Change, Claim, Claims, Committed, Due, Insertion, NewRow, Operation, Row, StoreResult},
    task::LeaseRef,
};
use tower_respond_async_redb::RedbStore;

use super::{
    journal::{Journal, Line},
    point::{Point, Points},
};

/// How long a settlement that slept over its lease waits for somebody else to be given the task. Shorter than the time
/// after which the engine takes the call for lost.
const SUCCESSOR_LIMIT: Duration = Duration::from_secs(8);

/// Passes everything on to a [`RedbStore`], keeps the journal of what that answered, and comes by the points.
#[derive(Debug)]
pub struct MinedStore {
    store: Arc<RedbStore>,
    points: Arc<Points>,
    journal: Journal,
    holders: Holders,
}

impl MinedStore {
    pub fn new(store: RedbStore, points: Arc<Points>, journal: Journal) -> Self {
        Self {
            store: Arc::new(store),
            points,
            journal,
            holders: Holders::default(),
        }
    }

    fn claimed(&self, row: &Row) {
        self.journal.write(&Line::Claimed {
            id: row.id,
            generation: row.record.generation,
            token: row.columns.token.get(),
        });
        self.holders.note(row.lease());
    }
}

/// Who was given which task last.
#[derive(Debug, Default)]
struct Holders {
    tokens: Mutex<HashMap<RequestId, u64>>,
    /// Claims that nothing was accepted from.
    unsettled: Mutex<HashSet<LeaseRef>>,
    changed: Notify,
}

impl Holders {
    fn note(&self, lease: LeaseRef) {
        let mut tokens = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
        tokens.insert(lease.id, lease.token.get());
        drop(tokens);
        self.unsettled().insert(lease);
        self.changed.notify_waiters();
    }

    /// Whether what leads away from this claim is its own word: whatever else does is done by `commit_all`.
    fn settles(&self, lease: LeaseRef) -> bool {
        self.unsettled().contains(&lease)
    }

    fn settled(&self, lease: LeaseRef) {
        self.unsettled().remove(&lease);
    }

    fn unsettled(&self) -> MutexGuard<'_, HashSet<LeaseRef>> {
        self.unsettled.lock().unwrap_or_else(PoisonError::into_inner)
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

/// What a change is about.
enum About {
    /// A claim ends so.
    Settling(LeaseRef, TaskState),
    /// How a completion was delivered.
    Delivery,
    Other,
}

impl MinedStore {
    fn about(&self, change: &Change) -> About {
        let Some(next) = &change.to else { return About::Other };
        let lease = LeaseRef {
            id: change.id,
            token: next.columns.token,
        };
        // First: one may be delivered before whoever ended the task has heard that it has.
        if next.outbox.iter().any(|row| row.was.is_some()) {
            return About::Delivery;
        }
        match !next.columns.state.is_held() && self.holders.settles(lease) {
            true => About::Settling(lease, next.columns.state),
            false => About::Other,
        }
    }

    async fn commit_settlement(&self, change: Change, lease: LeaseRef, state: TaskState) -> StoreResult<Committed> {
        let (before, after) = match state.is_terminal() || state == TaskState::Retrying {
            true => (Point::BeforeSettle, Point::AfterSettle),
            false => (Point::BeforeRelease, Point::AfterRelease),
        };
        if self.points.pass(before) {
            // It slept over its lease. Only now is it sure to come too late.
            let _ = timeout(SUCCESSOR_LIMIT, self.holders.after(lease)).await;
        }
        let committed = self.store.commit(change).await?;
        self.points.pass(after);
        let is_done = matches!(committed, Committed::Done);
        if is_done {
            self.holders.settled(lease);
        }
        self.journal.write(&Line::Settled {
            id: lease.id,
            token: lease.token.get(),
            state: is_done.then(|| state.as_str().to_owned()),
        });
        Ok(committed)
    }

    fn store(&self) -> &RedbStore {
        &self.store
    }

    fn forward<T: Send + 'static>(
        &self,
        _: Operation,
        call: impl FnOnce(Arc<RedbStore>) -> BoxFuture<'static, StoreResult<T>> + Send + 'static,
    ) -> BoxFuture<'static, StoreResult<T>> {
        call(self.store.clone())
    }
}

impl TaskStore for MinedStore {
    fn insert(&self, task: NewRow) -> BoxFuture<'_, StoreResult<Insertion>> {
        Box::pin(async {
            self.points.pass(Point::BeforeInsert);
            let insertion = self.store.insert(task).await?;
            self.points.pass(Point::AfterInsert);
            if let Insertion::New(row) = &insertion
                && row.columns.state.is_held()
            {
                self.claimed(row);
            }
            Ok(insertion)
        })
    }

    fn claim(&self, claim: Claim) -> BoxFuture<'_, StoreResult<Claims>> {
        Box::pin(async {
            self.points.pass(Point::BeforeClaim);
            let claims = self.store.claim(claim).await?;
            for task in &claims.tasks {
                self.points.pass(Point::AfterClaim);
                self.claimed(&task.row);
            }
            Ok(claims)
        })
    }

    fn commit(&self, change: Change) -> BoxFuture<'_, StoreResult<Committed>> {
        Box::pin(async {
            match self.about(&change) {
                About::Settling(lease, state) => self.commit_settlement(change, lease, state).await,
                About::Delivery => {
                    let committed = self.store.commit(change).await?;
                    self.points.pass(Point::AfterDelivery);
                    Ok(committed)
                }
                About::Other => self.store.commit(change).await,
            }
        })
    }

    fn due(&self, what: Due, max: usize) -> BoxFuture<'_, StoreResult<Candidates>> {
        if let Due::Prune(_) = what {
            self.points.pass(Point::BeforePrune);
        }
        Box::pin(self.store.due(what, max))
    }

    fn commit_all(&self, changes: Vec<Change>) -> BoxFuture<'_, StoreResult<Vec<Committed>>> {
        Box::pin(async {
            let prunes = changes.iter().any(|change| change.to.is_none());
            let committed = self.store.commit_all(changes).await?;
            if prunes {
                self.points.pass(Point::AfterPrune);
            }
            Ok(committed)
        })
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {
            self.points.pass(Point::BeforeClose);
            self.store.close().await;
            self.points.pass(Point::AfterClose);
        })
    }

    forward_store!(
        abilities now queue_hint insert_all rows renew claim_deliveries list counts payload set_progress append_log logs
        prune_keys news attend glance beat control
    );
}
