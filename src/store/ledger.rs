//! The steps of tasks' lives. A step reads a row, applies the [`lifecycle`](crate::task::lifecycle), and commits one
//! change.
//!
//! This is the only place where rows become steps and steps become changes, for every store. A step is decided on the
//! row as it was read. If the store answers that the row has changed since, the step is decided again on the new row.

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
    Candidates, Change, Committed, Due, DueReason, Enlisted, Guard, Insertion, NewRow, Part, Reply, Response,
    Retention, Row, StoreError, StoreErrorKind, StoreResult, TaskStore, Which,
};
use crate::{
    task::{
        CapturedRequest, CapturedResponse, Cursor, DecodeError, Filter, NewTask, Page, PageOf, PoolName, RequestId,
        Scope, SortOrder, TaskName, TaskRecord, TaskRef, TaskState,
        lifecycle::{Edits, Outcome, Rerun, Rescue, Stop},
    },
    time::Timestamp,
};

/// How often a step is tried before it fails. Two steps that collide need a second try; a store where a step needs more
/// than this breaks its promises.
const TRIES: usize = 16;

/// The steps of tasks' lives, on any store. Cheap to clone.
///
/// The engine works through a ledger. Tools and tests can use one too: a store by itself has only rows.
///
/// # Errors
///
/// Every method answers with the store's errors. After [`Unavailable`](StoreErrorKind::Unavailable) a step may have
/// been taken or not. A step also answers `Unavailable`, and is not taken, if other changes of the task come first 16
/// times.
///
/// # Cancel safety
///
/// If the future of a step is dropped, the step is taken or not, but never half of it. Reading changes nothing.
///
/// # Example: list the tasks of a store
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
///
/// # Example: run a task without an engine
///
/// ```
/// use std::{sync::Arc, time::Duration};
///
/// # use bytes::Bytes;
/// use http::{HeaderMap, StatusCode};
/// # use http::{Method, Uri};
/// use tower_respond_async::{
///     store::{Claim, Delete, Insert, Inserted, Ledger, MemoryStore, Settled},
///     task::{CapturedResponse, NewTask, RequestId, Scope, TaskState, WorkerId, lifecycle::Outcome},
/// };
/// # use tower_respond_async::task::CapturedRequest;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), tower_respond_async::store::StoreError> {
/// let ledger = Ledger::of(MemoryStore::new());
/// # let request = CapturedRequest::new(Method::GET, Uri::from_static("/"), HeaderMap::new(), Bytes::new());
/// let id = RequestId::from_bytes([7; 16]);
/// let inserted = ledger.insert(Insert::new(NewTask::new(id, Arc::new(request)))).await?;
/// assert!(matches!(inserted, Inserted::New(..)));
///
/// let claim = Claim::new(WorkerId::new("tool", 1), 10, Duration::from_secs(30));
/// for claimed in ledger.claim(claim).await?.tasks {
///     let body = claimed.request.body.clone();
///     let response = Arc::new(CapturedResponse::new(StatusCode::OK, HeaderMap::new(), body));
///     let settled = ledger.settle(&claimed.held, &Outcome::Succeeded { response }).await?;
///     assert!(matches!(settled, Settled::Accepted { state: TaskState::Succeeded, .. }));
/// }
/// assert!(ledger.response(&Scope::All, id).await?.is_some());
/// assert_eq!(ledger.delete(&Scope::All, id).await?, Delete::Deleted);
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Ledger {
    store: Arc<dyn TaskStore>,
}

impl Ledger {
    /// The steps of the tasks in `store`.
    #[must_use]
    pub const fn new(store: Arc<dyn TaskStore>) -> Self {
        Self { store }
    }

    /// The steps of the tasks in `store`, for a store that is used nowhere else, or that has other handles.
    #[must_use]
    pub fn of(store: impl TaskStore) -> Self {
        Self::new(Arc::new(store))
    }

    /// The store, for operations that are not steps.
    #[must_use]
    pub const fn store(&self) -> &Arc<dyn TaskStore> {
        &self.store
    }

    /// Inserts a task. Calls the store at once.
    ///
    /// # Errors
    ///
    /// Any error of the store.
    pub fn insert(&self, insert: Insert) -> Reply<'static, Inserted> {
        let row = insert.into_row(self.store.now());
        let given = row.record.digest;
        let inserting = self.store.clone().insert(row);
        inserting.map(move |insertion| Inserted::of(insertion, given))
    }

    /// Inserts many tasks, and answers for each, in order.
    ///
    /// # Errors
    ///
    /// Any error of the store. Some of the tasks may have been inserted then.
    pub fn insert_all(&self, inserts: Vec<Insert>) -> Reply<'static, Vec<Inserted>> {
        let now = self.store.now();
        self.insert_rows(inserts.into_iter().map(|insert| insert.into_row(now)).collect())
    }

    pub(crate) fn insert_rows(&self, rows: Vec<NewRow>) -> Reply<'static, Vec<Inserted>> {
        let given: Vec<_> = rows.iter().map(|row| row.record.digest).collect();
        let inserting = self.store.clone().insert_all(rows);
        inserting.map(|insertions| {
            let answers = insertions.into_iter().zip(given);
            answers
                .map(|(insertion, given)| Inserted::of(insertion, given))
                .collect()
        })
    }

    /// Inserts a task as part of a transaction of the application. The task is not stored claimed, and no limit applies.
    ///
    /// # Errors
    ///
    /// The errors of [`Enlisted::insert`].
    pub async fn insert_in(&self, into: &mut dyn Enlisted, task: NewTask) -> StoreResult<Inserted> {
        let row = Insert::new(task).into_row(self.store.now());
        let given = row.record.digest;
        let mut insertion = into.insert(row).await?;
        if let Insertion::Known {
            row: row @ None, id, ..
        } = &mut insertion
        {
            // If the row cannot be read, the answer goes without it.
            let found = self.store.rows(&Scope::All, &Which::Id(*id)).await;
            *row = found.ok().and_then(|mut found| found.pop());
        }
        Ok(Inserted::of(insertion, given))
    }

    /// Records how an attempt ended, for the holder of its claim.
    ///
    /// Safe to repeat after an error, with the same outcome: if the first call was accepted and its answer was lost,
    /// this answers `Accepted` again.
    ///
    /// # Errors
    ///
    /// Any error of the store.
    pub fn settle<'a>(&'a self, held: &'a Held, outcome: &'a Outcome) -> Reply<'a, Settled> {
        let Some((change, settled)) = held.settle(outcome, self.store.now()) else {
            return Reply::now(Ok(Settled::Fenced));
        };
        match self.store.commit(change).at_once() {
            Ok(Ok(Committed::Done)) => {
                held.let_go();
                Reply::now(Ok(settled))
            }
            answer => {
                let commit = answer.map_or_else(|later| later, Reply::now);
                Reply::later(self.settle_on(held, outcome, (commit, settled)))
            }
        }
    }

    /// Goes on with a settlement that was `sent`, until it has an answer.
    async fn settle_on(
        &self,
        held: &Held,
        outcome: &Outcome,
        sent: (Reply<'_, Committed>, Settled),
    ) -> StoreResult<Settled> {
        let mut sent = Some(sent);
        for _ in 0..TRIES {
            let (commit, settled) = match sent.take() {
                Some(sent) => sent,
                None => match held.settle(outcome, self.store.now()) {
                    Some((change, settled)) => (self.store.commit(change), settled),
                    None => return Ok(Settled::Fenced),
                },
            };
            match commit.await? {
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

    /// Finds up to `limit` tasks whose lease or age ran out, or whose holder is known to be dead, and requeues or ends
    /// each.
    ///
    /// # Errors
    ///
    /// Any error of the store. Some of the tasks may have been rescued then.
    ///
    /// # Examples
    ///
    /// The task `id` waits:
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// # use bytes::Bytes;
    /// # use http::{HeaderMap, Method, Uri};
    /// use tower_respond_async::{
    ///     store::{Claim, Ledger, MemoryStore},
    ///     task::{WorkerId, lifecycle::Rescue},
    /// };
    /// # use tower_respond_async::{store::Insert, task::{CapturedRequest, NewTask, RequestId}};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), tower_respond_async::store::StoreError> {
    /// let ledger = Ledger::of(MemoryStore::new());
    /// # let request = CapturedRequest::new(Method::GET, Uri::from_static("/"), HeaderMap::new(), Bytes::new());
    /// # let id = RequestId::from_bytes([7; 16]);
    /// # let _ = ledger.insert(Insert::new(NewTask::new(id, request.into()))).await?;
    /// // A lease of no time has run out at once.
    /// let claim = Claim::new(WorkerId::new("w", 1), 10, Duration::ZERO);
    /// assert_eq!(ledger.claim(claim).await?.tasks.len(), 1);
    /// let rescued = ledger.rescue(100).await?;
    /// assert_eq!(rescued.tasks, [(id, Rescue::Requeued)]);
    /// # Ok(()) }
    /// ```
    pub async fn rescue(&self, limit: usize) -> StoreResult<Rescued> {
        self.rescue_sparing(Vec::new(), limit).await
    }

    /// Does the same as [`rescue`](Self::rescue), except that tasks of the pools `spared` do not expire: these pools
    /// are paused.
    ///
    /// # Errors
    ///
    /// Any error of the store. Some of the tasks may have been rescued then.
    pub async fn rescue_sparing(&self, spared: Vec<PoolName>, limit: usize) -> StoreResult<Rescued> {
        let Candidates { now, rows } = self.store.due(Due::Rescue { spared }, limit).await?;
        let mut rescued = Vec::with_capacity(rows.len());
        let mut changes = Vec::with_capacity(rows.len());
        for mut candidate in rows {
            let record = Arc::make_mut(candidate.row.restore());
            let rescue = match candidate.reason {
                DueReason::Orphaned => record.orphaned(now),
                _ => record.rescue(now),
            };
            if rescue == Rescue::NotDue && candidate.reason != DueReason::Orphaned {
                continue;
            }
            let mut change = Change::between(&candidate.row, candidate.row.record.clone(), now);
            if candidate.reason == DueReason::Lapsed {
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

    /// Adds the time since `paused_at` to the expiry of the waiting tasks on one page of a pool. Answers with the start
    /// of the next page. A page that is done twice lets its tasks expire later than necessary, never earlier.
    ///
    /// # Errors
    ///
    /// Any error of the store. Some of the tasks on the page may have been changed then.
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

    /// Stops a task that waits, or asks the holder of a running task to stop it.
    ///
    /// # Errors
    ///
    /// `NotFound` if the task is not in `scope`.
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
    /// `NotFound` if the task is not in `scope`, `Corrupt` or `Incompatible` if its request cannot be read.
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

    /// Removes an ended task with everything that belongs to it, except its key, which is kept for its window.
    ///
    /// # Errors
    ///
    /// `NotFound` if the task is not in `scope`.
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
    ///
    /// # Errors
    ///
    /// Any error of the store. Some of the tasks and keys may have been removed then.
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

    /// The task with this id or name.
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

    /// The task with this request id, of any tenant.
    ///
    /// # Errors
    ///
    /// `NotFound` if there is none.
    pub async fn task(&self, id: RequestId) -> StoreResult<Arc<TaskRecord>> {
        self.found(&Scope::All, id).await.map(Row::into_record)
    }

    /// One page of the tasks that match. Paging to the end returns every task that matches throughout exactly once.
    ///
    /// # Errors
    ///
    /// Any error of the store.
    pub async fn list(&self, scope: &Scope, filter: &Filter, page: Page) -> StoreResult<PageOf<Arc<TaskRecord>>> {
        let found = self.store.list(scope, filter, page).await?;
        Ok(PageOf {
            items: found.items.into_iter().map(Row::into_record).collect(),
            next: found.next,
        })
    }

    /// Every task that matches, oldest first. Reads all pages.
    ///
    /// # Errors
    ///
    /// Any error of the store.
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

    /// The response of a task in `scope`. `None` if the task has not ended, or ended without one.
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

    /// Makes the change, or returns the current row if the change is stale.
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

/// How long a task waits before it is claimed again if a newer build wrote its request.
const LEFT_ALONE: std::time::Duration = std::time::Duration::from_secs(60);

fn decoded<T>(id: RequestId, payload: Result<T, DecodeError>) -> StoreResult<T> {
    payload.map_err(|error| {
        StoreError::new(error.into(), format!("the stored data of task {id} cannot be read")).because(error)
    })
}

/// The text of the cause of an error, or of the error if it has no cause.
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
