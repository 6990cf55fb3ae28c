//! What becomes of tasks, decided: each step of a life as a row read, the [`lifecycle`](crate::task::lifecycle) asked, and
//! one change committed.
//!
//! **The** place where rows are turned into steps and back, for every store. A step is decided on the row as it was read;
//! if the store says that it is another one by now, it is decided anew on that one.

mod answers;
mod claims;
mod held;
mod outbox;

use std::{fmt, sync::Arc};

pub use self::{
    answers::{
        Claimed, ClaimedDelivery, ClaimedTask, Delete, DeliverySettlement, GiveUp, Insert, Inserted, LostClaim, Pruned,
        Rescued, Settled, TakenUp,
    },
    held::Held,
};
use super::{
    Candidates, Change, Committed, Due, Enlisted, Guard, Insertion, Part, Response, Retention, Row, StoreError,
    StoreErrorKind, StoreResult, TaskStore, Which, Why,
};
use crate::{
    task::{
        CapturedRequest, CapturedResponse, Cursor, DecodeError, Filter, NewTask, Page, PageOf, PoolName, RequestId,
        Scope, SortOrder, TaskName, TaskRecord, TaskRef, TaskState,
        lifecycle::{Edits, Outcome, Rerun, Rescue, Stop},
    },
    time::Timestamp,
};

/// How often a step is decided anew because another change came between. Two that meet differ in a moment; a store where
/// it takes more is not keeping its promises.
const TRIES: usize = 16;

/// The steps of tasks' lives, on any store. Cheap to clone.
///
/// The engine works through it, and so do tools and tests: a store by itself knows rows only.
///
/// # Errors
///
/// Every method answers with the store's errors. After [`Unavailable`](StoreErrorKind::Unavailable) a step may have been
/// taken or not.
///
/// # Cancel safety
///
/// A step whose future is dropped is taken or not, and never half. Reading changes nothing.
///
/// # Examples
///
/// ```
/// use std::sync::Arc;
/// use tower_respond_async::{store::{Ledger, MemoryStore}, task::{Filter, Scope}};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), tower_respond_async::store::StoreError> {
/// let ledger = Ledger::new(Arc::new(MemoryStore::new()));
/// assert!(ledger.list_all(&Scope::All, &Filter::default()).await?.is_empty());
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Ledger {
    store: Arc<dyn TaskStore>,
}

impl Ledger {
    /// The steps of the lives of the tasks in `store`.
    #[must_use]
    pub const fn new(store: Arc<dyn TaskStore>) -> Self {
        Self { store }
    }

    /// The same, of a store that nobody else needs, or that has other handles.
    #[must_use]
    pub fn of(store: impl TaskStore) -> Self {
        Self::new(Arc::new(store))
    }

    /// The store, for what is no step.
    #[must_use]
    pub fn store(&self) -> &dyn TaskStore {
        &*self.store
    }

    /// Takes a task in. The store is asked as this is called, and the future waits for its answer.
    pub fn insert(&self, insert: Insert) -> impl Future<Output = StoreResult<Inserted>> {
        let row = insert.into_row(self.store.now());
        let given = row.record.digest;
        let inserting = self.store.insert(row);
        async move { Ok(Inserted::of(inserting.await?, given)) }
    }

    /// Takes many tasks in: one answer for each, in order. After an error some of them may have been taken in.
    pub async fn insert_all(&self, inserts: Vec<Insert>) -> StoreResult<Vec<Inserted>> {
        let now = self.store.now();
        let rows: Vec<_> = inserts.into_iter().map(|insert| insert.into_row(now)).collect();
        let given: Vec<_> = rows.iter().map(|row| row.record.digest).collect();
        let insertions = self.store.insert_all(rows).await?;
        let answers = insertions.into_iter().zip(given);
        Ok(answers
            .map(|(insertion, given)| Inserted::of(insertion, given))
            .collect())
    }

    /// Takes a task in with a transaction of the application. It is not born claimed, and no limit is looked at.
    pub async fn insert_in(&self, into: &mut dyn Enlisted, task: NewTask) -> StoreResult<Inserted> {
        let row = Insert::new(task).into_row(self.store.now());
        let given = row.record.digest;
        let mut insertion = into.insert(row).await?;
        if let Insertion::Known {
            row: row @ None, id, ..
        } = &mut insertion
        {
            // Shown where it can be read: what is known does not depend on it.
            let found = self.store.rows(&Scope::All, &Which::Id(*id)).await;
            *row = found.ok().and_then(|mut found| found.pop());
        }
        Ok(Inserted::of(insertion, given))
    }

    /// Records how an attempt ended, as its holder says.
    ///
    /// Safe to repeat after an error, with the same outcome: if it was accepted and the answer was lost, it is `Accepted`
    /// again.
    pub async fn settle(&self, held: &Held, outcome: &Outcome) -> StoreResult<Settled> {
        for _ in 0..TRIES {
            let Some((change, settled)) = held.settle(outcome, self.store.now()) else {
                return Ok(Settled::Fenced);
            };
            match self.store.commit(change).await? {
                Committed::Done => {
                    held.let_go();
                    return Ok(settled);
                }
                Committed::Stale(row) if held.is_ours(row.as_deref()) => {
                    held.let_go();
                    return Ok(settled);
                }
                Committed::Stale(row) => held.look_again(row.map(|row| *row)),
            }
        }
        Err(too_many_tries())
    }

    /// Finds up to `limit` tasks whose lease or age ran out, or whose holder is known to be dead, and requeues or ends each.
    pub async fn rescue(&self, limit: usize) -> StoreResult<Rescued> {
        self.rescue_sparing(Vec::new(), limit).await
    }

    /// The same, where tasks of these pools do not expire: they are paused.
    pub async fn rescue_sparing(&self, spared: Vec<PoolName>, limit: usize) -> StoreResult<Rescued> {
        let Candidates { now, rows } = self.store.due(Due::Rescue { spared }, limit).await?;
        let mut rescued = Vec::with_capacity(rows.len());
        let mut changes = Vec::with_capacity(rows.len());
        for mut candidate in rows {
            let record = Arc::make_mut(candidate.row.restore());
            let rescue = match candidate.why {
                Why::Orphaned => record.orphaned(now),
                _ => record.rescue(now),
            };
            if rescue == Rescue::NotDue && candidate.why != Why::Orphaned {
                continue;
            }
            let mut change = Change::between(&candidate.row, candidate.row.record.clone(), now);
            if candidate.why == Why::Lapsed {
                change.guard = Guard::Lapsed(candidate.row.version);
            }
            rescued.push((candidate.row.id, rescue, change.brings_completion()));
            changes.push(change);
        }
        let mut answer = Rescued::default();
        for (committed, (id, rescue, completion)) in self.commit_all(changes).await?.into_iter().zip(rescued) {
            if let Committed::Done = committed {
                answer.outbox |= completion;
                answer.tasks.extend((rescue != Rescue::NotDue).then_some((id, rescue)));
            }
        }
        Ok(answer)
    }

    /// Gives the waiting tasks on a page of a pool back the time for which it was paused, until now. Answers where the next
    /// page begins. Done twice, they expire later than they need; none expires earlier.
    pub async fn resume(&self, pool: &PoolName, paused_at: Timestamp, page: Page) -> StoreResult<Option<Cursor>> {
        let filter = Filter {
            pool: Some(pool.clone()),
            states: Some(TaskState::ALL.into_iter().filter(|state| state.is_queued()).collect()),
            ..Filter::default()
        };
        let found = self.store.list(&Scope::All, &filter, page).await?;
        let change = |row: &mut Row| {
            let now = self.store.now();
            let has_changed = Arc::make_mut(row.restore()).resume(paused_at, now);
            has_changed.then(|| Change::between(row, row.record.clone(), now))
        };
        let changes = found.items.into_iter().filter_map(|mut row| change(&mut row));
        for committed in self.commit_all(changes.collect()).await? {
            let mut stale = committed;
            for _ in 0..TRIES {
                let Committed::Stale(Some(mut row)) = stale else { break };
                let Some(change) = change(&mut row) else { break };
                stale = self.store.commit(change).await?;
            }
        }
        Ok(found.next)
    }

    /// Asks for a task to stop.
    ///
    /// # Errors
    ///
    /// `NotFound` if it is not in `scope`.
    pub async fn stop(&self, scope: &Scope, id: RequestId) -> StoreResult<Stop> {
        let mut row = self.found(scope, id).await?;
        for _ in 0..TRIES {
            let now = self.store.now();
            let was = row.columns.state;
            let record = Arc::make_mut(row.restore());
            let stop = record.stop(now);
            if record.state == was {
                return Ok(stop);
            }
            match self.try_to(Change::between(&row, row.record.clone(), now)).await? {
                None => return Ok(stop),
                Some(newer) => row = newer,
            }
        }
        Err(too_many_tries())
    }

    /// Runs an ended task again, as a new generation.
    ///
    /// # Errors
    ///
    /// `NotFound` if it is not in `scope`, `Corrupt` or `Incompatible` if its request cannot be read.
    pub async fn rerun(&self, scope: &Scope, id: RequestId, edits: Edits) -> StoreResult<Rerun> {
        let mut row = self.found(scope, id).await?;
        for _ in 0..TRIES {
            if !row.columns.state.is_terminal() {
                return Ok(Rerun::NotEnded(row.columns.state));
            }
            let request = self.request(&Scope::All, id).await?.ok_or_else(StoreError::not_found)?;
            let request = match edits.is_empty() {
                true => request,
                false => Arc::new(edits.clone().apply(&request)),
            };
            let now = self.store.now();
            let rerun = Arc::make_mut(row.restore()).rerun(&request, now);
            let Rerun::Enqueued { .. } = rerun else {
                return Ok(rerun);
            };
            let mut change = Change::between(&row, row.record.clone(), now);
            change.response = Response::Drop;
            change.request = (!edits.is_empty()).then(|| request.to_payload());
            match self.try_to(change).await? {
                None => return Ok(rerun),
                Some(newer) => row = newer,
            }
        }
        Err(too_many_tries())
    }

    /// Removes an ended task with all that hangs on it, but for its key, which is remembered for its window.
    ///
    /// # Errors
    ///
    /// `NotFound` if it is not in `scope`.
    pub async fn delete(&self, scope: &Scope, id: RequestId) -> StoreResult<Delete> {
        let mut row = self.found(scope, id).await?;
        for _ in 0..TRIES {
            if !row.columns.state.is_terminal() {
                return Ok(Delete::NotEnded(row.columns.state));
            }
            match self.try_to(Change::removal(&row)).await? {
                None => return Ok(Delete::Deleted),
                Some(newer) => row = newer,
            }
        }
        Err(too_many_tries())
    }

    /// Removes up to `limit` ended tasks that are past retention, and up to `limit` keys that are past their window.
    pub async fn prune(&self, retention: Retention, limit: usize) -> StoreResult<Pruned> {
        let Candidates { now, rows } = self.store.due(Due::Prune(retention), limit).await?;
        let past = |row: &Row| {
            let kept = retention.of(row.columns.state);
            row.columns.rests_at.is_some_and(|at| at.saturating_add(kept) <= now)
        };
        let past = rows.iter().map(|candidate| &candidate.row).filter(|row| past(row));
        let removals = past.map(Change::removal).collect();
        let removed = self.commit_all(removals).await?;
        let removed = removed.iter().filter(|removal| matches!(removal, Committed::Done));
        Ok(Pruned {
            tasks: removed.count(),
            keys: self.store.prune_keys(limit).await?,
        })
    }

    /// The task of this id or name.
    ///
    /// # Errors
    ///
    /// `Conflict` if tasks of several tenants in `scope` have the name.
    pub async fn find(&self, scope: &Scope, task: &TaskRef) -> StoreResult<Option<Arc<TaskRecord>>> {
        let mut rows = self.store.rows(scope, &Which::from(task)).await?;
        match (rows.pop(), rows.is_empty(), task) {
            (Some(_), false, TaskRef::Name(name)) => Err(ambiguous(name)),
            (found, ..) => Ok(found.map(Row::into_record)),
        }
    }

    /// The task with this request id, whoever's it is.
    ///
    /// # Errors
    ///
    /// `NotFound` if there is none.
    pub async fn task(&self, id: RequestId) -> StoreResult<Arc<TaskRecord>> {
        self.found(&Scope::All, id).await.map(Row::into_record)
    }

    /// One page of the tasks that match. Every task that matches throughout is seen exactly once by paging on.
    pub async fn list(&self, scope: &Scope, filter: &Filter, page: Page) -> StoreResult<PageOf<Arc<TaskRecord>>> {
        let found = self.store.list(scope, filter, page).await?;
        Ok(PageOf {
            items: found.items.into_iter().map(Row::into_record).collect(),
            next: found.next,
        })
    }

    /// Every task that matches, oldest first, gathered page by page.
    pub async fn list_all(&self, scope: &Scope, filter: &Filter) -> StoreResult<Vec<Arc<TaskRecord>>> {
        let mut all = Vec::new();
        let mut page = Page {
            order: SortOrder::Ascending,
            after: None,
            limit: 1000,
        };
        loop {
            let found = self.list(scope, filter, page.clone()).await?;
            all.extend(found.items);
            match found.next {
                Some(next) => page.after = Some(next),
                None => return Ok(all),
            }
        }
    }

    /// The request of a task in `scope`.
    ///
    /// # Errors
    ///
    /// `Corrupt` or `Incompatible` if it cannot be read.
    pub async fn request(&self, scope: &Scope, id: RequestId) -> StoreResult<Option<Arc<CapturedRequest>>> {
        let payload = self.store.payload(scope, id, Part::Request).await?;
        let request = payload.map(|payload| decoded(id, CapturedRequest::from_payload(payload)));
        Ok(request.transpose()?.map(Arc::new))
    }

    /// The response of a task in `scope`, once it has ended with one.
    ///
    /// # Errors
    ///
    /// `Corrupt` or `Incompatible` if it cannot be read.
    pub async fn response(&self, scope: &Scope, id: RequestId) -> StoreResult<Option<Arc<CapturedResponse>>> {
        let payload = self.store.payload(scope, id, Part::Response).await?;
        let response = payload.map(|payload| decoded(id, CapturedResponse::from_payload(payload)));
        Ok(response.transpose()?.map(Arc::new))
    }

    async fn row(&self, scope: &Scope, id: RequestId) -> StoreResult<Option<Row>> {
        Ok(self.store.rows(scope, &Which::Id(id)).await?.pop())
    }

    async fn found(&self, scope: &Scope, id: RequestId) -> StoreResult<Row> {
        self.row(scope, id).await?.ok_or_else(StoreError::not_found)
    }

    /// Makes the change, or says what the row is by now.
    async fn try_to(&self, change: Change) -> StoreResult<Option<Row>> {
        match self.store.commit(change).await? {
            Committed::Done => Ok(None),
            Committed::Stale(Some(row)) => Ok(Some(*row)),
            Committed::Stale(None) => Err(StoreError::not_found()),
        }
    }

    async fn commit_all(&self, changes: Vec<Change>) -> StoreResult<Vec<Committed>> {
        match changes.is_empty() {
            true => Ok(Vec::new()),
            false => self.store.commit_all(changes).await,
        }
    }
}

impl fmt::Debug for Ledger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Ledger").field(&self.store).finish()
    }
}

/// How long a task waits whose request a newer build wrote, before it is looked at again.
const LEFT_ALONE: std::time::Duration = std::time::Duration::from_secs(60);

fn decoded<T>(id: RequestId, payload: Result<T, DecodeError>) -> StoreResult<T> {
    payload.map_err(|error| {
        StoreError::new(error.into(), format!("what is stored of task {id} cannot be read")).because(error)
    })
}

/// What is at the bottom of a failure.
fn source_of(error: &StoreError) -> String {
    match std::error::Error::source(error) {
        Some(source) => source.to_string(),
        None => error.to_string(),
    }
}

fn ambiguous(name: &TaskName) -> StoreError {
    let context = format!("several tenants have a task called {name}");
    StoreError::new(StoreErrorKind::Conflict, context)
}

fn too_many_tries() -> StoreError {
    let context = format!("the task was changed by others {TRIES} times while a change of it was tried");
    StoreError::new(StoreErrorKind::Unavailable, context)
}
