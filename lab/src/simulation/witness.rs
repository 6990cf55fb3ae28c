//! Records what is really done in the store, in order, whatever the callers receive.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::runtime::Handle;
use tower_respond_async::{
    error::BoxFuture,
    forward_store,
    store::{
        Candidate, Candidates, Change, Claim, ClaimedOutbox, Claims, Committed, DeliveryClaim, Due, DueReason,
        InitialClaim, Insertion, NewRow, Operation, Part, Payload, Renewal, Reply, Row, StoreResult, TaskStore, Which,
    },
    task::{CapturedRequest, Destination, LeaseRef, Progress, RequestId, Scope, TaskRecord},
};

use super::ground::see_through;

/// The store below the faults. Each call runs to its end at once, on this thread, so that the speed of the store's
/// threads makes no difference. What it did is recorded.
#[derive(Debug)]
pub(super) struct Witness {
    store: Arc<dyn TaskStore>,
    /// The runtime of the store's own tasks, if it has any.
    helper: Option<Handle>,
    notes: Mutex<Notes>,
}

#[derive(Debug, Default)]
struct Notes {
    seen: Vec<Seen>,
    /// Every row as it was last seen. Only operations may change it.
    rows: BTreeMap<RequestId, Row>,
    /// Whether the store has failed. From then on it may show a state that is neither old nor new.
    is_unsure: bool,
}

/// Something that was done in the store.
#[derive(Debug)]
pub(super) enum Seen {
    /// The store did, or answered, something that no operation explains.
    Odd(RequestId, &'static str),
    /// A call failed, and may have been done.
    Unsure(Unsure),
    /// A task was stored, perhaps claimed from the start.
    Inserted {
        sent: Arc<TaskRecord>,
        claim: Option<InitialClaim>,
        row: Row,
        request: FoundRequest,
    },
    /// A task was claimed.
    Claimed {
        by: InitialClaim,
        before: Found,
        row: Row,
        request: FoundRequest,
    },
    /// Renewals of a task's claims for this time, each made or refused. Old claims may be among them.
    Renewed {
        time: Duration,
        renewals: Vec<(LeaseRef, Renewal)>,
        turn: Turn,
    },
    /// A holder reported its progress.
    Progressed {
        lease: LeaseRef,
        progress: Progress,
        held: bool,
        turn: Turn,
    },
    /// A process searched for tasks to rescue.
    Looked {
        found: Vec<(RequestId, DueReason)>,
        /// Whether there may be more that are due.
        is_full: bool,
        /// Tasks that were due and not found.
        overlooked: Vec<RequestId>,
    },
    /// A change was made, or came too late.
    Committed(Box<Commit>),
    /// Completions of a task were claimed for this time.
    DeliveriesClaimed {
        lease: Duration,
        claimed: Vec<(u32, Destination)>,
        turn: Turn,
    },
}

/// A row, if there is one.
pub(super) type Found = Option<Row>;

/// The request of a row, if it can be read.
pub(super) type FoundRequest = Option<CapturedRequest>;

/// A row before and after something was done.
#[derive(Debug)]
pub(super) struct Turn {
    pub(super) before: Found,
    pub(super) after: Found,
}

/// A change and its result.
#[derive(Debug)]
pub(super) struct Commit {
    pub(super) change: Change,
    /// Whether it was the only change of its call.
    pub(super) alone: bool,
    pub(super) is_made: bool,
    pub(super) turn: Turn,
}

/// A call that failed in the store.
#[derive(Debug)]
pub(super) enum Unsure {
    Insert(RequestId),
    Claim,
    ClaimDeliveries,
    Commit { change: Box<Change>, alone: bool },
}

impl Witness {
    pub(super) fn new(store: Arc<dyn TaskStore>, helper: Option<Handle>) -> Self {
        Self {
            store,
            helper,
            notes: Mutex::default(),
        }
    }

    /// What was done since the last call.
    pub(super) fn seen(&self) -> Vec<Seen> {
        std::mem::take(&mut self.notes().seen)
    }

    /// The row as it is now, if it is in `scope`.
    pub(super) fn row(&self, scope: &Scope, id: RequestId) -> Found {
        // An unreadable row counts as missing. The checks that search for it report that.
        self.see_through(self.store.rows(scope, &Which::Id(id))).ok()?.pop()
    }

    /// The task as it is now.
    pub(super) fn find(&self, scope: &Scope, id: RequestId) -> Option<Arc<TaskRecord>> {
        self.row(scope, id).map(Row::into_record)
    }

    /// The stored request of a task.
    pub(super) fn request(&self, id: RequestId) -> FoundRequest {
        let payload = self.see_through(self.store.payload(&Scope::All, id, Part::Request));
        read(payload.ok()??)
    }

    pub(super) fn has_response(&self, id: RequestId) -> bool {
        let payload = self.see_through(self.store.payload(&Scope::All, id, Part::Response));
        payload.is_ok_and(|payload| payload.is_some())
    }

    /// The row as it was last seen.
    pub(super) fn last_seen(&self, id: RequestId) -> Found {
        self.notes().rows.get(&id).cloned()
    }

    /// The row as it is now. It must be as it was last seen.
    fn before(&self, id: RequestId) -> Found {
        let last = self.last_seen(id);
        // Where nothing can be read any more, nothing will be done either.
        let Ok(mut rows) = self.see_through(self.store.rows(&Scope::All, &Which::Id(id))) else {
            return last;
        };
        let now = rows.pop();
        if last != now {
            self.saw(Seen::Odd(id, "was changed, and nobody asked for it"));
        }
        now
    }

    /// The row after an operation, or as it is found for the first time.
    pub(super) fn after(&self, id: RequestId) -> Found {
        let row = self.row(&Scope::All, id);
        let rows = &mut self.notes().rows;
        match &row {
            Some(row) => _ = rows.insert(id, row.clone()),
            None => _ = rows.remove(&id),
        }
        row
    }

    /// The answer must be the stored row.
    fn check_answer(&self, id: RequestId, answered: Option<&Row>, there: &Found) {
        if answered != there.as_ref() {
            self.saw(Seen::Odd(id, "was answered as another one than it is"));
        }
    }

    fn saw(&self, what: Seen) {
        let mut notes = self.notes();
        if !notes.is_unsure {
            notes.seen.push(what);
        }
    }

    fn saw_unsure(&self, what: Unsure) {
        let mut notes = self.notes();
        notes.is_unsure = true;
        notes.seen.push(Seen::Unsure(what));
    }

    fn notes(&self) -> MutexGuard<'_, Notes> {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn unless_unsure<T>(&self, answer: StoreResult<T>, what: impl FnOnce() -> Unsure) -> StoreResult<T> {
        if answer.is_err() {
            self.saw_unsure(what());
        }
        answer
    }

    fn insert_now(&self, task: NewRow) -> StoreResult<Insertion> {
        let mut insertions = self.insert_with(vec![task], |mut tasks| {
            let task = tasks.pop().expect("one was given");
            self.see_through(self.store.clone().insert(task))
                .map(|insertion| vec![insertion])
        })?;
        Ok(insertions.pop().expect("one for each"))
    }

    fn insert_all_now(&self, tasks: Vec<NewRow>) -> StoreResult<Vec<Insertion>> {
        self.insert_with(tasks, |tasks| self.see_through(self.store.clone().insert_all(tasks)))
    }

    fn insert_with(
        &self,
        tasks: Vec<NewRow>,
        insert: impl FnOnce(Vec<NewRow>) -> StoreResult<Vec<Insertion>>,
    ) -> StoreResult<Vec<Insertion>> {
        let sent: Vec<_> = tasks
            .iter()
            .map(|task| (task.record.clone(), task.claim.clone()))
            .collect();
        let insertions = insert(tasks).inspect_err(|_| {
            let ids = sent.iter().map(|(record, _)| record.id);
            ids.for_each(|id| self.saw_unsure(Unsure::Insert(id)));
        })?;
        for ((sent, claim), insertion) in sent.into_iter().zip(&insertions) {
            match insertion {
                Insertion::New(row) => {
                    let after = self.after(row.id);
                    self.check_answer(row.id, Some(row), &after);
                    self.saw(Seen::Inserted {
                        sent,
                        claim,
                        row: row.clone(),
                        request: self.request(row.id),
                    });
                }
                Insertion::Known { id, row, .. } => self.check_answer(*id, row.as_ref(), &self.before(*id)),
                Insertion::Conflict | Insertion::Full(_) => {}
            }
        }
        Ok(insertions)
    }

    fn claim_now(&self, claim: Claim) -> StoreResult<Claims> {
        let by = InitialClaim::new(claim.worker.clone(), claim.lease);
        let claims = self.unless_unsure(self.see_through(self.store.claim(claim)), || Unsure::Claim)?;
        for task in &claims.tasks {
            let id = task.row.id;
            let before = self.last_seen(id);
            self.check_answer(id, Some(&task.row), &self.after(id));
            self.saw(Seen::Claimed {
                by: by.clone(),
                before,
                row: task.row.clone(),
                request: task.request.as_ref().ok().cloned().and_then(read),
            });
        }
        Ok(claims)
    }

    fn renew_now(&self, leases: Vec<LeaseRef>, time: Duration) -> StoreResult<Vec<Renewal>> {
        let mut by_task: BTreeMap<_, _> = leases
            .iter()
            .map(|lease| (lease.id, (self.before(lease.id), Vec::new())))
            .collect();
        let asked = leases.clone();
        let answers = self.see_through(self.store.renew(leases, time))?;
        for (lease, renewal) in asked.into_iter().zip(&answers) {
            by_task
                .entry(lease.id)
                .and_modify(|(_, renewals)| renewals.push((lease, *renewal)));
        }
        for (id, (before, renewals)) in by_task {
            let after = self.after(id);
            self.saw(Seen::Renewed {
                time,
                renewals,
                turn: Turn { before, after },
            });
        }
        Ok(answers)
    }

    fn set_progress_now(&self, lease: LeaseRef, progress: Progress) -> StoreResult<bool> {
        let before = self.before(lease.id);
        let held = self.see_through(self.store.set_progress(lease, progress.clone()))?;
        let after = self.after(lease.id);
        self.saw(Seen::Progressed {
            lease,
            progress,
            held,
            turn: Turn { before, after },
        });
        Ok(held)
    }

    fn due_now(&self, what: Due, max: usize) -> StoreResult<Candidates> {
        let is_rescue = matches!(what, Due::Rescue { .. });
        let mut candidates = self.see_through(self.store.due(what, max))?;
        // Stores promise an order only for tasks that are due for other reasons. Sort for a repeatable run.
        if is_rescue {
            candidates.rows.sort_by_key(|candidate| candidate.row.id);
        }
        for Candidate { row, .. } in &candidates.rows {
            self.check_answer(row.id, Some(row), &self.before(row.id));
        }
        if is_rescue {
            let found: BTreeMap<_, _> = candidates.rows.iter().map(|it| (it.row.id, it.reason)).collect();
            let now = candidates.now;
            let notes = self.notes();
            let due = notes.rows.values().filter(|row| {
                let columns = &row.columns;
                columns.has_lapsed(now) || columns.is_over_age(now)
            });
            let overlooked = due.map(|row| row.id).filter(|id| !found.contains_key(id)).collect();
            drop(notes);
            self.saw(Seen::Looked {
                is_full: found.len() >= max,
                found: found.into_iter().collect(),
                overlooked,
            });
        }
        Ok(candidates)
    }

    fn commit_now(&self, change: Change) -> StoreResult<Committed> {
        let mut committed = self.commit_with(vec![change], true, |mut changes| {
            let change = changes.pop().expect("one was given");
            self.see_through(self.store.commit(change))
                .map(|committed| vec![committed])
        })?;
        Ok(committed.pop().expect("one for each"))
    }

    fn commit_all_now(&self, changes: Vec<Change>) -> StoreResult<Vec<Committed>> {
        self.commit_with(changes, false, |changes| {
            self.see_through(self.store.commit_all(changes))
        })
    }

    fn commit_with(
        &self,
        changes: Vec<Change>,
        alone: bool,
        commit: impl FnOnce(Vec<Change>) -> StoreResult<Vec<Committed>>,
    ) -> StoreResult<Vec<Committed>> {
        let before: Vec<_> = changes
            .iter()
            .map(|change| (change.clone(), self.before(change.id)))
            .collect();
        let answers = match commit(changes) {
            Ok(answers) => answers,
            Err(error) => {
                for (change, _) in before {
                    let change = Box::new(change);
                    self.saw_unsure(Unsure::Commit { change, alone });
                }
                return Err(error);
            }
        };
        for ((change, before), answer) in before.into_iter().zip(&answers) {
            let after = self.after(change.id);
            if let Committed::Stale(row) = answer {
                self.check_answer(change.id, row.as_deref(), &after);
            }
            self.saw(Seen::Committed(Box::new(Commit {
                change,
                alone,
                is_made: matches!(answer, Committed::Done),
                turn: Turn { before, after },
            })));
        }
        Ok(answers)
    }

    fn claim_deliveries_now(&self, claim: DeliveryClaim) -> StoreResult<Vec<ClaimedOutbox>> {
        let lease = claim.lease;
        let claimed = self.see_through(self.store.claim_deliveries(claim));
        let claimed = self.unless_unsure(claimed, || Unsure::ClaimDeliveries)?;
        let mut by_task = BTreeMap::<_, Vec<_>>::new();
        for found in &claimed {
            let of = by_task.entry(found.row.id).or_default();
            of.push((found.generation, found.destination.clone()));
        }
        for (id, claimed) in by_task {
            let before = self.last_seen(id);
            let after = self.after(id);
            self.saw(Seen::DeliveriesClaimed {
                lease,
                claimed,
                turn: Turn { before, after },
            });
        }
        Ok(claimed)
    }

    fn store(&self) -> &dyn TaskStore {
        &*self.store
    }

    pub(super) fn close_now(&self) {
        self.see_through(self.store.close());
    }

    fn see_through<T>(&self, call: impl Future<Output = T> + Unpin) -> T {
        see_through(self.helper.as_ref(), call)
    }

    /// Operations that change no row, or only hide it.
    fn forward<T: Send + 'static>(
        &self,
        _: Operation,
        call: impl FnOnce(Arc<dyn TaskStore>) -> Reply<'static, T> + Send + 'static,
    ) -> Reply<'static, T> {
        let (store, helper) = (self.store.clone(), self.helper.clone());
        Reply::later(async move { see_through(helper.as_ref(), call(store)) })
    }
}

impl TaskStore for Witness {
    forward_store!(
        abilities now queue_hint rows list counts payload append_log logs prune_keys news attend glance beat control
    );

    fn insert(self: Arc<Self>, task: NewRow) -> Reply<'static, Insertion> {
        Reply::later(async move { self.insert_now(task) })
    }

    fn insert_all(self: Arc<Self>, tasks: Vec<NewRow>) -> Reply<'static, Vec<Insertion>> {
        Reply::later(async move { self.insert_all_now(tasks) })
    }

    fn claim(&self, claim: Claim) -> Reply<'_, Claims> {
        Reply::later(async { self.claim_now(claim) })
    }

    fn due(&self, what: Due, max: usize) -> Reply<'_, Candidates> {
        Reply::later(async move { self.due_now(what, max) })
    }

    fn commit(&self, change: Change) -> Reply<'_, Committed> {
        Reply::later(async { self.commit_now(change) })
    }

    fn commit_all(&self, changes: Vec<Change>) -> Reply<'_, Vec<Committed>> {
        Reply::later(async { self.commit_all_now(changes) })
    }

    fn renew(&self, leases: Vec<LeaseRef>, lease: Duration) -> Reply<'_, Vec<Renewal>> {
        Reply::later(async move { self.renew_now(leases, lease) })
    }

    fn claim_deliveries(&self, claim: DeliveryClaim) -> Reply<'_, Vec<ClaimedOutbox>> {
        Reply::later(async { self.claim_deliveries_now(claim) })
    }

    fn set_progress(&self, lease: LeaseRef, progress: Progress) -> Reply<'_, bool> {
        Reply::later(async move { self.set_progress_now(lease, progress) })
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        Box::pin(async { self.close_now() })
    }
}

fn read(payload: Payload) -> FoundRequest {
    CapturedRequest::from_payload(payload).ok()
}
