//! Accepts a task: the one path from a captured request to a committed task, and to its start if a slot is free.

use std::{
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use tokio::{
    task::JoinHandle,
    time::{Instant, timeout, timeout_at},
};

use crate::{
    engine::{
        Reserved,
        attempts::run::Start,
        caught::{caught_async, panicked},
        core::too_slow,
        intake::Intake,
        node::Hint,
        pools::Place,
        rates::Counted,
        under_way::{Part, UnderWay},
    },
    error::BoxFuture,
    store::{Insert, Inserted, StoreError, StoreErrorKind, StoreResult},
    task::{CapturedRequest, NewTask, RequestId},
};

/// How many lost inserts are searched for at once. The search is for single lost answers. An outage of the store may
/// lose thousands, and a store that has just come back has other work. The tasks that are not searched for are rescued
/// when their leases run out.
pub(crate) const SEARCHES: usize = 64;

/// Why a task was not accepted.
#[derive(Debug)]
pub(crate) enum Unaccepted {
    /// The engine is shutting down.
    ShuttingDown,
    /// The store did not confirm the task. It may have stored it.
    Store(StoreError),
}

/// A task that is being stored. A store that is ready at once gives a value, so that callers need no space for a
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
    /// Once the store was called, the insert is never dropped. If the caller leaves or the time limit passes, it goes
    /// on in a task of its own, and starts the task if it succeeds late. Before that it is polled once in place: a
    /// store that is ready at once costs no task.
    ///
    /// `reserved` is the body's part of the budget. It is given back with the store's answer, and not with the
    /// caller's: otherwise a store that does not answer could hold any number of bodies whose clients were already
    /// refused.
    pub(crate) fn accept(self: &Arc<Self>, task: NewTask, reserved: Option<Reserved>) -> Accepting {
        // Entered before the phase is read: a shutdown that does not see this is seen by it.
        let entered = self.enter();
        if !self.core.phase.is_open() {
            return Accepting::Answered(Err(Unaccepted::ShuttingDown));
        }
        let (insert, newborn) = self.newborn(task, reserved);
        let mut inserting: Inserting = Box::pin(async move {
            let timing = entered.core.probes.time("insert");
            let answer = caught_async(|| entered.insert(insert)).await;
            let answer = timing.end(answer.unwrap_or_else(|panic| Err(panicked(&panic))));
            (entered, answer)
        });
        // No waker is needed: the task in which it goes on polls it again.
        let polled = inserting.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        if let Poll::Ready((entered, answer)) = polled {
            return Accepting::Answered(entered.committed(answer, newborn).map_err(Unaccepted::Store));
        }
        let commit = self.core.runtime.spawn(self.clone().commit(inserting, newborn));
        let limit = self.core.settings.store_timeout;
        Accepting::Committing(Box::pin(async move {
            Self::answer_within(limit, "insert", commit)
                .await
                .map_err(Unaccepted::Store)
        }))
    }

    /// The answer of an insert that goes on by itself, if it comes within `limit`.
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

    /// The insert for a task, and what is kept until the store answers.
    pub(crate) fn newborn(&self, task: NewTask, reserved: Option<Reserved>) -> (Insert, Newborn) {
        // A delayed task needs no slot yet.
        let is_due = task.delay.is_zero();
        let place = is_due.then(|| self.attempts.pools.place_for_new(&task.pool, task.tenant.as_ref()));
        let newborn = Newborn {
            id: task.id,
            born: place.flatten().map(|place| Born {
                place,
                request: task.request.clone(),
            }),
            _reserved: reserved,
            claimed_at: Instant::now(),
        };
        let limits = self.attempts.pools.limits(&task.pool);
        let mut insert = Insert::new(task).within(limits);
        if newborn.born.is_some() {
            insert = insert.born(self.core.worker.clone(), self.core.settings.lease);
        }
        (insert, newborn)
    }

    /// Completes an insert, even if its caller leaves.
    async fn commit(self: Arc<Self>, mut inserting: Inserting, mut newborn: Newborn) -> StoreResult<Inserted> {
        if newborn.born.is_none() {
            let (entered, answer) = inserting.await;
            return entered.committed(answer, newborn);
        }
        let until = newborn.claimed_at + self.core.holds_for();
        if let Ok((entered, answer)) = timeout_at(until, &mut inserting).await {
            return entered.committed(answer, newborn);
        }
        // Too late to start the task under that claim: a store that never answers must not keep the slot for ever.
        newborn.born = None;
        let (entered, mut answer) = inserting.await;
        if let Ok(inserted) = &mut answer {
            entered.came_late(inserted).await;
        }
        answer
    }

    /// Handles an insert that took too long to start its task under the claim.
    pub(crate) async fn came_late(&self, inserted: &mut Inserted) {
        if let Inserted::New(_, held) = inserted {
            self.core
                .rates
                .count(Counted::Accepted, self.core.clock.uptime(Instant::now()));
            if let Some(held) = held.take() {
                self.attempts.hand_back(&held).await;
            }
        }
    }

    /// Handles the answer to an insert, and starts the task if it was born claimed.
    pub(crate) fn committed(
        self: &Arc<Self>,
        mut answer: StoreResult<Inserted>,
        newborn: Newborn,
    ) -> StoreResult<Inserted> {
        match (&mut answer, newborn.born) {
            (Ok(Inserted::New(record, held)), born) => {
                let accepted = self.core.clock.uptime(newborn.claimed_at);
                self.core.rates.count(Counted::Accepted, accepted);
                match held.take().zip(born) {
                    Some((held, Born { place, request })) => self.attempts.start(
                        record,
                        Start {
                            held,
                            request,
                            place,
                            claimed_at: newborn.claimed_at,
                            attempts: self.attempts.enter(),
                        },
                    ),
                    None => self.core.hint(Hint::Work),
                }
            }
            (Err(error), Some(Born { place, request })) if error.kind() == StoreErrorKind::Unavailable => {
                // The insert most likely failed.
                drop(place);
                self.look_for_lost(newborn.id, request, newborn.claimed_at);
            }
            _ => {}
        }
        answer
    }

    pub(crate) fn look_for_lost(self: &Arc<Self>, id: RequestId, request: Arc<CapturedRequest>, claimed_at: Instant) {
        if let Some(place) = self.searches.take(0) {
            let entered = self.enter();
            self.core.runtime.spawn(async move {
                entered.find_lost(id, request, claimed_at).await;
                drop(place);
            });
        }
    }

    /// Searches for a task whose insert was not answered. If it was stored as claimed, only this process can start it;
    /// it would wait until its lease runs out, and be charged with a crash.
    async fn find_lost(&self, id: RequestId, request: Arc<CapturedRequest>, claimed_at: Instant) {
        let give_up_at = claimed_at + self.core.holds_for();
        let mut pause = Duration::from_millis(50);
        while Instant::now() + pause < give_up_at {
            self.core.pause(pause).await;
            // Once more after the shutdown has begun, so that a task that is found is handed back.
            let last = !self.core.phase.is_open();
            pause = (pause * 2).min(Duration::from_secs(2));
            let found = self
                .core
                .call("find", || self.core.ledger.look_for(&self.core.worker, id))
                .await;
            // A task that is not there may still be on its way. That looks the same as one that never arrives.
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

/// A task that is being stored.
pub(crate) struct Newborn {
    pub(crate) id: RequestId,
    /// What it needs to start, if it is born claimed.
    pub(crate) born: Option<Born>,
    /// Its body's part of the budget, until the store has answered.
    _reserved: Option<Reserved>,
    /// Before the insert was sent. The lease is counted from here.
    pub(crate) claimed_at: Instant,
}

/// What a task that is born claimed needs to start.
pub(crate) struct Born {
    place: Place,
    pub(crate) request: Arc<CapturedRequest>,
}

/// An insert under way, and its answer.
type Inserting = BoxFuture<'static, (UnderWay<Intake>, StoreResult<Inserted>)>;
