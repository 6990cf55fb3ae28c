//! Accepts a task: stores it, and starts it if a slot is free. All tasks of the layer are stored here or in
//! `accept_all`.

use std::{sync::Arc, time::Duration};

use tokio::{
    task::JoinHandle,
    time::{Instant, timeout, timeout_at},
};

use crate::{
    engine::{
        Reserved,
        attempts::run::Start,
        caught::{caught, caught_async, panicked},
        core::too_slow,
        intake::Intake,
        node::Hint,
        pools::Permit,
        probes::Timing,
        rates::Counted,
        under_way::{Part, UnderWay},
    },
    error::BoxFuture,
    store::{Insert, Inserted, Reply, StoreError, StoreErrorKind, StoreResult},
    task::{CapturedRequest, NewTask, RequestId},
};

/// How many searches for tasks of unanswered inserts run at once. An outage of the store may lose thousands of answers,
/// and searching for all of them would burden a store that has just come back. A task that is not searched for is
/// rescued when its lease runs out.
pub(crate) const SEARCHES: usize = 64;

/// Why a task was not accepted.
#[derive(Debug)]
pub(crate) enum Unaccepted {
    /// The engine is shutting down.
    ShuttingDown,
    /// The store did not confirm the task. The task may have been stored.
    Store(StoreError),
}

/// The result of [`Intake::accept`]. If the store answers at once, it is a value, so that callers need no space for a
/// future.
#[must_use]
#[expect(clippy::large_enum_variant, reason = "a box would cost every insert an allocation")]
pub(crate) enum Accepting {
    Answered(Result<Inserted, Unaccepted>),
    Committing(BoxFuture<'static, Result<Inserted, Unaccepted>>),
}

impl Accepting {
    /// The result. If this future is dropped, the commit goes on.
    pub(crate) async fn answer(self) -> Result<Inserted, Unaccepted> {
        match self {
            Self::Answered(answer) => answer,
            Self::Committing(answer) => answer.await,
        }
    }
}

impl Intake {
    /// Stores a task, and starts it at once if a slot is free and no other task waits for it.
    ///
    /// Once the store was called, the insert is never dropped. If the store does not answer at the first poll, the
    /// insert goes on in a spawned task, even if the caller leaves or the store timeout passes. It still starts the
    /// task if it succeeds late.
    ///
    /// `reserved` is the share of the body in the budget. It is released when the store answers, not when the caller
    /// gets an answer. Otherwise a store that does not answer could hold any number of bodies of clients that were
    /// refused.
    #[expect(clippy::result_large_err, reason = "not an error: the reply to wait for")]
    pub(crate) fn accept(self: &Arc<Self>, task: NewTask, reserved: Option<Reserved>) -> Accepting {
        // Entered before the phase is read: a shutdown that has not seen this insert is seen here.
        let entered = self.enter();
        if !self.core.phase.is_open() {
            return Accepting::Answered(Err(Unaccepted::ShuttingDown));
        }
        let (insert, pending) = self.prepare_insert(task, reserved, Instant::now());
        let timing = self.core.probes.time("insert");
        let answer = match caught(|| self.insert(insert).at_once()) {
            Ok(Ok(answer)) => answer,
            Ok(Err(later)) => {
                let commit = self.core.runtime.spawn(Self::commit(entered, later, pending, timing));
                let limit = self.core.settings.store_timeout;
                return Accepting::Committing(Box::pin(async move {
                    let answer = Self::answer_within(limit, "insert", commit).await;
                    answer.map_err(Unaccepted::Store)
                }));
            }
            Err(panic) => Err(panicked(&panic)),
        };
        let mut answer = timing.end(&self.core.probes, answer);
        self.answered(&mut answer, pending);
        Accepting::Answered(answer.map_err(Unaccepted::Store))
    }

    /// Waits up to `limit` for the answer of an insert in a spawned task.
    pub(crate) async fn answer_within<T>(
        limit: Duration,
        operation: &'static str,
        commit: JoinHandle<StoreResult<T>>,
    ) -> StoreResult<T> {
        match timeout(limit, commit).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Err(StoreError::new(
                StoreErrorKind::Unavailable,
                "the insert was cut off by a panic, or by the end of the runtime",
            )),
            Err(_) => Err(too_slow(operation, limit)),
        }
    }

    /// The insert for a task, and the values that are kept until the store answers.
    pub(crate) fn prepare_insert(
        &self,
        task: NewTask,
        reserved: Option<Reserved>,
        now: Instant,
    ) -> (Insert, PendingInsert) {
        // A delayed task needs no slot yet.
        let is_due = task.delay.is_zero();
        let permit = is_due.then(|| self.attempts.pools.permit_for_new(&task.pool, task.tenant.as_ref()));
        let pending = PendingInsert {
            id: task.id,
            direct_start: permit.flatten().map(|permit| DirectStart {
                permit,
                request: task.request.clone(),
            }),
            _reserved: reserved,
            claimed_at: now,
        };
        let limits = self.attempts.pools.limits(&task.pool);
        let mut insert = Insert::new(task).within(limits);
        if pending.direct_start.is_some() {
            insert = insert.claimed_by(self.core.worker.clone(), self.core.settings.lease);
        }
        (insert, pending)
    }

    /// Completes an insert, in its spawned task.
    async fn commit(
        entered: UnderWay<Self>,
        inserting: Reply<'static, Inserted>,
        mut pending: PendingInsert,
        timing: Timing,
    ) -> StoreResult<Inserted> {
        let mut inserting = caught_async(|| inserting);
        let until = pending.claimed_at + entered.core.holds_for();
        let in_time = match pending.direct_start {
            Some(_) => timeout_at(until, &mut inserting).await.ok(),
            None => Some((&mut inserting).await),
        };
        let is_late = in_time.is_none();
        let answer = match in_time {
            Some(answer) => answer,
            None => {
                // Too late to start the task under this claim. A store that never answers must not keep the slot for
                // ever.
                pending.direct_start = None;
                inserting.await
            }
        };
        let answer = answer.unwrap_or_else(|panic| Err(panicked(&panic)));
        let mut answer = timing.end(&entered.core.probes, answer);
        match &mut answer {
            Ok(inserted) if is_late => entered.inserted_late(inserted).await,
            answer => entered.answered(answer, pending),
        }
        answer
    }

    /// Handles an insert that succeeded too late to start its task under its claim: hands the task back.
    pub(crate) async fn inserted_late(&self, inserted: &mut Inserted) {
        if let Inserted::New(_, held) = inserted {
            self.core
                .rates
                .count(Counted::Accepted, self.core.clock.uptime(Instant::now()));
            if let Some(held) = held.take() {
                self.attempts.hand_back(&held).await;
            }
        }
    }

    /// Handles the answer to an insert.
    fn answered(self: &Arc<Self>, answer: &mut StoreResult<Inserted>, pending: PendingInsert) {
        match answer {
            Ok(inserted) => {
                if self.inserted(inserted, pending) {
                    self.core.hint(Hint::Work);
                }
            }
            // It may be stored.
            Err(error) if error.kind() == StoreErrorKind::Unavailable => self.not_confirmed(pending),
            Err(_) => {}
        }
    }

    /// Starts the task if it was stored as claimed. Returns whether it waits in the queue instead.
    #[must_use]
    pub(crate) fn inserted(self: &Arc<Self>, inserted: &mut Inserted, pending: PendingInsert) -> bool {
        let Inserted::New(record, held) = inserted else {
            return false;
        };
        let accepted = self.core.clock.uptime(pending.claimed_at);
        self.core.rates.count(Counted::Accepted, accepted);
        let Some((held, DirectStart { permit, request })) = held.take().zip(pending.direct_start) else {
            return true;
        };
        self.attempts.start(
            record,
            Start {
                held,
                request,
                permit,
                claimed_at: pending.claimed_at,
                attempts: self.attempts.enter(),
            },
        );
        false
    }

    /// Frees the slot of a task that is probably not stored, and looks for the task.
    pub(crate) fn not_confirmed(self: &Arc<Self>, pending: PendingInsert) {
        if let Some(DirectStart { permit, request }) = pending.direct_start {
            drop(permit);
            self.look_for_lost(pending.id, request, pending.claimed_at);
        }
    }

    fn look_for_lost(self: &Arc<Self>, id: RequestId, request: Arc<CapturedRequest>, claimed_at: Instant) {
        if let Some(slot) = self.searches.take(0) {
            let entered = self.enter();
            self.core.runtime.spawn(async move {
                entered.find_lost(id, request, claimed_at).await;
                drop(slot);
            });
        }
    }

    /// Searches for a task whose insert was not answered, and starts it. If it was stored as claimed, only this process
    /// can start it: otherwise it would wait until its lease runs out, and be charged with a crash.
    async fn find_lost(&self, id: RequestId, request: Arc<CapturedRequest>, claimed_at: Instant) {
        let give_up_at = claimed_at + self.core.holds_for();
        let mut pause = Duration::from_millis(50);
        while Instant::now() + pause < give_up_at {
            self.core.pause(pause).await;
            // Searches once more after the shutdown has begun: a task that is found is started or handed back.
            let last = !self.core.phase.is_open();
            pause = (pause * 2).min(Duration::from_secs(2));
            let found = self
                .core
                .step("find", || self.core.ledger.look_for(&self.core.worker, id))
                .await;
            // A task that is not found may still be stored later, so the search goes on.
            if let Ok(Some(claim)) = found {
                if let Some((record, held)) = claim
                    && self.attempts.running.of(id).is_empty()
                {
                    self.attempts
                        .start_or_hand_back(&record, held, request, claimed_at)
                        .await;
                }
                return;
            }
            if last {
                return;
            }
        }
    }
}

/// An insert that the store has not answered yet.
pub(crate) struct PendingInsert {
    pub(crate) id: RequestId,
    /// What the task needs to start, if it is stored as claimed.
    pub(crate) direct_start: Option<DirectStart>,
    /// The share of the body in the budget, kept until the store has answered.
    _reserved: Option<Reserved>,
    /// When the insert was sent. The lease is counted from here.
    pub(crate) claimed_at: Instant,
}

/// What a task that is stored as claimed needs to start, without waiting in the queue.
pub(crate) struct DirectStart {
    permit: Permit,
    pub(crate) request: Arc<CapturedRequest>,
}
