//! The store of a process, with points around its calls at which the process dies or freezes.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tower_respond_async::{
    TaskState, TaskStore,
    error::BoxFuture,
    forward_store,
    store::{
        Candidates, Change, Claim, Claims, Committed, Due, Guard, Insertion, NewRow, Operation, Renewal, Reply, Row,
        StoreResult, Which, kit::ClientKey,
    },
    task::{FenceToken, LeaseRef, Scope},
    time::Timestamp,
};

use super::{
    journal::{Answered, Asked, At, Changed, Journal, Line, Wanted},
    point::{Point, Points},
    wait::comes_about,
};

/// How long a late settlement waits for another claim of its task. Shorter than the time limit of the engine for the
/// call.
const SUCCESSOR_LIMIT: Duration = Duration::from_secs(8);

/// Forwards every call to a store, writes calls and answers into the journal, and passes the points.
#[derive(Debug)]
pub struct MinedStore {
    store: Arc<dyn TaskStore>,
    points: Arc<Points>,
    journal: Journal,
    /// Claims in the journal, and whether a settlement of each was accepted.
    claims: Mutex<HashMap<LeaseRef, bool>>,
}

/// The kind of a change.
enum About {
    /// A claim ends in this state.
    Settling(LeaseRef, TaskState),
    /// The result of a delivery.
    Delivery,
    Other,
}

impl MinedStore {
    pub fn new(store: Arc<dyn TaskStore>, points: Arc<Points>, journal: Journal) -> Self {
        Self {
            store,
            points,
            journal,
            claims: Mutex::default(),
        }
    }

    /// Calls the store, and writes the call and the answer into the journal.
    async fn ask<'a, T>(
        &self,
        what: Asked,
        begin: impl FnOnce() -> Reply<'a, T>,
        read: impl FnOnce(&T) -> Answered,
    ) -> StoreResult<T> {
        let call = fastrand::u64(..);
        self.journal.write(&Line::Asked { call, what });
        // Called behind the line: a process that is frozen in between must not have done what it has not written.
        let answered = begin().await;
        let answer = answered.as_ref().map_or(Answered::Failed, read);
        self.journal.write(&Line::Answered { call, answer });
        answered
    }

    /// Writes a claim into the journal, once.
    fn claimed(&self, row: &Row) {
        if let Entry::Vacant(new) = self.claims().entry(row.lease()) {
            new.insert(false);
            self.journal.write(&Line::Claimed {
                id: row.id,
                generation: row.record.generation,
                token: row.columns.token.get(),
            });
        }
    }

    fn claims(&self) -> MutexGuard<'_, HashMap<LeaseRef, bool>> {
        self.claims.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn about(&self, change: &Change) -> About {
        let Some(next) = &change.to else { return About::Other };
        let lease = LeaseRef {
            id: change.id,
            token: next.columns.token,
        };
        // Checked first: a completion may be delivered before the call that ended the task has received its answer.
        if next.outbox.iter().any(|row| row.was.is_some()) {
            return About::Delivery;
        }
        // A single change that ends a claim was made by the claim's worker. Other changes that end a claim use
        // `commit_all`.
        let is_unsettled = self.claims().get(&lease) == Some(&false);
        match !next.columns.state.is_held() && is_unsettled {
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
            // The process was frozen for longer than its lease. The settlement is sure to be late only when another
            // claim has the task.
            let which = Which::Id(lease.id);
            let _ = comes_about(SUCCESSOR_LIMIT, || async {
                let rows = self.store.rows(&Scope::All, &which).await?;
                Ok(rows.iter().all(|row| row.columns.token > lease.token))
            })
            .await;
        }
        let committed = self.change(change).await?;
        self.points.pass(after);
        let is_done = matches!(committed, Committed::Done);
        if is_done {
            self.claims().insert(lease, true);
        }
        self.journal.write(&Line::Settled {
            id: lease.id,
            token: lease.token.get(),
            state: is_done.then(|| state.as_str().to_owned()),
        });
        Ok(committed)
    }

    async fn change(&self, change: Change) -> StoreResult<Committed> {
        let what = Asked::Change(vec![wanted(&change)]);
        self.ask(
            what,
            || self.store.commit(change),
            |committed| Answered::Changed(vec![changed(committed)]),
        )
        .await
    }

    fn store(&self) -> &dyn TaskStore {
        &*self.store
    }

    fn forward<T: Send + 'static>(
        &self,
        _: Operation,
        call: impl FnOnce(Arc<dyn TaskStore>) -> Reply<'static, T> + Send + 'static,
    ) -> Reply<'static, T> {
        call(self.store.clone())
    }
}

fn at(row: &Row) -> At {
    At {
        version: row.version,
        generation: row.record.generation,
        token: row.columns.token.get(),
        state: row.columns.state.as_str().to_owned(),
    }
}

fn wanted(change: &Change) -> Wanted {
    let (from, lapsed) = match change.guard {
        Guard::Version(version) => (version, false),
        Guard::Lapsed(version) => (version, true),
    };
    let mut outbox = change.to.iter().flat_map(|next| &next.outbox);
    Wanted {
        id: change.id,
        from,
        more: lapsed || outbox.any(|row| row.was.is_some()),
        to: change.to.as_ref().map(|next| At {
            version: from + 1,
            generation: next.record.generation,
            token: next.columns.token.get(),
            state: next.columns.state.as_str().to_owned(),
        }),
    }
}

fn changed(committed: &Committed) -> Changed {
    match committed {
        Committed::Done => Changed::Done,
        Committed::Stale(row) => Changed::Refused(row.as_ref().map(|row| at(row))),
    }
}

fn inserted(insertion: &Insertion) -> Answered {
    match insertion {
        Insertion::New(row) => Answered::Stored(at(row)),
        Insertion::Known { row, id, .. } => Answered::Known(*id, row.as_ref().map(at)),
        Insertion::Conflict | Insertion::Full(_) => Answered::Refused,
    }
}

impl TaskStore for MinedStore {
    fn insert(self: Arc<Self>, task: NewRow) -> Reply<'static, Insertion> {
        Reply::later(async move {
            self.points.pass(Point::BeforeInsert);
            let row = task.row(FenceToken::NONE, Timestamp::ZERO);
            let name = task.record.name.as_ref().map(|name| format!("name {name}"));
            let key = ClientKey::of(&task).map(|key| format!("key {}", key.encode().escape_ascii()));
            let what = Asked::Insert {
                id: row.id,
                at: at(&row),
                known_by: name.into_iter().chain(key).collect(),
            };
            let insertion = self.ask(what, || self.store.clone().insert(task), inserted).await?;
            self.points.pass(Point::AfterInsert);
            if let Insertion::New(row) = &insertion
                && row.columns.state.is_held()
            {
                self.claimed(row);
            }
            Ok(insertion)
        })
    }

    fn claim(&self, claim: Claim) -> Reply<'_, Claims> {
        Reply::later(async {
            self.points.pass(Point::BeforeClaim);
            let read = |claims: &Claims| {
                let tasks = claims.tasks.iter().map(|task| (task.row.id, at(&task.row)));
                Answered::Claimed(tasks.collect())
            };
            let claims = self.ask(Asked::Claim, || self.store.claim(claim), read).await?;
            for task in &claims.tasks {
                self.points.pass(Point::AfterClaim);
                self.claimed(&task.row);
            }
            Ok(claims)
        })
    }

    /// Finds claims whose answers were lost.
    fn rows<'a>(&'a self, scope: &'a Scope, which: &'a Which) -> Reply<'a, Vec<Row>> {
        Reply::later(async move {
            let rows = self.store.rows(scope, which).await?;
            for row in rows.iter().filter(|row| row.columns.is_held()) {
                self.claimed(row);
            }
            Ok(rows)
        })
    }

    fn commit(&self, change: Change) -> Reply<'_, Committed> {
        Reply::later(async {
            match self.about(&change) {
                About::Settling(lease, state) => self.commit_settlement(change, lease, state).await,
                About::Delivery => {
                    let committed = self.change(change).await?;
                    self.points.pass(Point::AfterDelivery);
                    Ok(committed)
                }
                About::Other => self.change(change).await,
            }
        })
    }

    fn due(&self, what: Due, max: usize) -> Reply<'_, Candidates> {
        if let Due::Prune(_) = what {
            self.points.pass(Point::BeforePrune);
        }
        self.store.due(what, max)
    }

    fn commit_all(&self, changes: Vec<Change>) -> Reply<'_, Vec<Committed>> {
        Reply::later(async {
            let prunes = changes.iter().any(|change| change.to.is_none());
            let what = Asked::Change(changes.iter().map(wanted).collect());
            let read = |committed: &Vec<Committed>| Answered::Changed(committed.iter().map(changed).collect());
            let committed = self.ask(what, || self.store.commit_all(changes), read).await?;
            if prunes {
                self.points.pass(Point::AfterPrune);
            }
            Ok(committed)
        })
    }

    fn renew(&self, leases: Vec<LeaseRef>, lease: Duration) -> Reply<'_, Vec<Renewal>> {
        Reply::later(async move {
            let what = leases.iter().map(|held| (held.id, held.token.get())).collect();
            let read = |renewals: &Vec<Renewal>| {
                let held = renewals
                    .iter()
                    .map(|renewal| matches!(renewal, Renewal::Renewed { .. }));
                Answered::Renewed(held.collect())
            };
            self.ask(Asked::Renew(what), || self.store.renew(leases, lease), read)
                .await
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
        abilities now queue_hint insert_all claim_deliveries list counts payload set_progress append_log logs prune_keys news
        attend glance beat control
    );
}
