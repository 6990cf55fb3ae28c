//! Taking a task in: the one path from a captured request to a committed task, and to its start if a slot is free.

use std::{
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use tokio::{
    task::JoinHandle,
    time::{Instant, sleep, timeout, timeout_at},
};

use crate::{
    engine::{
        Engine, Reserved,
        caught::{caught, caught_async, panicked},
        node::Hint,
        pools::Place,
        rates::Counted,
        run::Start,
        under_way::UnderWay,
    },
    error::BoxFuture,
    store::{FullReason, Insert, Inserted, QueueHint, StoreError, StoreErrorKind, StoreResult},
    task::{CapturedRequest, NewTask, PoolName, RequestId, Tenant},
};

/// How many inserts without an answer are looked for at once: looking is for the odd lost reply. After an outage of the
/// store there may be thousands, and a store that has just come back has better things to do; what is not looked for is
/// rescued when its lease runs out.
pub(crate) const SEARCHES: usize = 64;

/// Why a task was not taken in.
#[derive(Debug)]
pub(crate) enum Unaccepted {
    /// The engine is being shut down.
    ShuttingDown,
    /// The store did not say that it has the task. It may have.
    Store(StoreError),
}

/// A task on its way into the store: a value where the store was ready at once, so that whoever waits for it needs no
/// room for what was not waited for.
#[must_use]
#[expect(
    clippy::large_enum_variant,
    reason = "a box for what was not waited for is what this does without"
)]
pub(crate) enum Accepting {
    Answered(Result<Inserted, Unaccepted>),
    Committing(BoxFuture<'static, Result<Inserted, Unaccepted>>),
}

impl Accepting {
    /// What became of it. Dropped, the commit goes on.
    pub(crate) async fn answer(self) -> Result<Inserted, Unaccepted> {
        match self {
            Self::Answered(answer) => answer,
            Self::Committing(answer) => answer.await,
        }
    }
}

impl Engine {
    /// Stores a task, and starts it at once if a slot is free and no other task waits for it.
    ///
    /// Once the store was asked, the insert is never dropped: it goes on in a task of its own if the caller leaves or the
    /// time limit passes, and starts the task if it succeeds late. It is polled once in place before that, so that a
    /// store which is ready at once costs no task.
    ///
    /// `reserved` is what the body takes of the budget. It is given back with the store's answer, not with the caller's: a
    /// store that does not answer would otherwise hold any number of bodies whose senders have been sent away.
    pub(crate) fn accept(self: &Arc<Self>, task: NewTask, reserved: Option<Reserved>) -> Accepting {
        // Entered before the phase is looked at: a shutdown that does not see this, is seen by it.
        let engine = self.enter();
        if !self.phase.is_open() {
            return Accepting::Answered(Err(Unaccepted::ShuttingDown));
        }
        let (insert, newborn) = self.newborn(task, reserved);
        let mut inserting: Inserting = Box::pin(async move {
            let timing = engine.probes.time("insert");
            let answer = caught_async(|| engine.insert(insert)).await;
            let answer = timing.end(answer.unwrap_or_else(|panic| Err(panicked(&panic))));
            (engine, answer)
        });
        // Nobody is to be woken: the task that it goes on in polls it again.
        let polled = inserting.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        if let Poll::Ready((engine, answer)) = polled {
            return Accepting::Answered(self.committed(engine, answer, newborn).map_err(Unaccepted::Store));
        }
        let commit = self.runtime.spawn(self.clone().commit(inserting, newborn));
        let limit = self.settings.store_timeout;
        Accepting::Committing(Box::pin(async move {
            Self::answer_within(limit, "insert", commit)
                .await
                .map_err(Unaccepted::Store)
        }))
    }

    /// The answer of an insert that goes on by itself, if it comes within `limit`.
    pub(super) async fn answer_within<T>(
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
            Err(_) => Err(Self::too_slow(operation, limit)),
        }
    }

    /// What to ask of the store for a task, and what is kept of it until it answers.
    pub(super) fn newborn(&self, task: NewTask, reserved: Option<Reserved>) -> (Insert, Newborn) {
        // One that waits for its time waits for no slot.
        let is_due = task.delay.is_zero();
        let place = is_due.then(|| self.pools.place_for_new(&task.pool, task.tenant.as_ref()));
        let newborn = Newborn {
            id: task.id,
            born: place.flatten().map(|place| Born {
                place,
                input: task.input.clone(),
            }),
            _reserved: reserved,
            claimed_at: Instant::now(),
        };
        let limits = self.pools.limits(&task.pool);
        let mut insert = Insert::new(task).within(limits);
        if newborn.born.is_some() {
            insert = insert.born(self.worker.clone(), self.settings.lease);
        }
        (insert, newborn)
    }

    /// Sees an insert through, whatever becomes of its caller.
    async fn commit(self: Arc<Self>, mut inserting: Inserting, mut newborn: Newborn) -> StoreResult<Inserted> {
        if newborn.born.is_none() {
            let (engine, answer) = inserting.await;
            return self.committed(engine, answer, newborn);
        }
        let until = newborn.claimed_at + self.holds_for();
        if let Ok((engine, answer)) = timeout_at(until, &mut inserting).await {
            return self.committed(engine, answer, newborn);
        }
        // Too late to start under that claim: a store that never answers must not keep the slot for ever.
        newborn.born = None;
        let (engine, mut answer) = inserting.await;
        if let Ok(inserted) = &mut answer {
            self.came_late(inserted).await;
        }
        drop(engine);
        answer
    }

    /// Takes note of an insert that took so long that its task cannot be started under the claim it was born with.
    pub(super) async fn came_late(&self, inserted: &mut Inserted) {
        if let Inserted::New(_, held) = inserted {
            self.rates.count(Counted::Accepted, self.clock.uptime(Instant::now()));
            if let Some(held) = held.take() {
                self.hand_back(&held).await;
            }
        }
    }

    /// Takes note of what became of an insert: starts the task if it was born claimed.
    pub(super) fn committed(
        &self,
        engine: UnderWay,
        mut answer: StoreResult<Inserted>,
        newborn: Newborn,
    ) -> StoreResult<Inserted> {
        match (&mut answer, newborn.born) {
            (Ok(Inserted::New(record, held)), born) => {
                let accepted = self.clock.uptime(newborn.claimed_at);
                self.rates.count(Counted::Accepted, accepted);
                match held.take().zip(born) {
                    Some((held, Born { place, input })) => self.start(
                        record,
                        Start {
                            held,
                            input,
                            place,
                            claimed_at: newborn.claimed_at,
                            engine,
                        },
                    ),
                    None => self.hint(Hint::Work),
                }
            }
            (Err(error), Some(Born { place, input })) if error.kind() == StoreErrorKind::Unavailable => {
                // The insert has most likely not taken place.
                drop(place);
                self.look_for_lost(engine, newborn.id, input, newborn.claimed_at);
            }
            _ => {}
        }
        answer
    }

    pub(super) fn look_for_lost(
        &self,
        engine: UnderWay,
        id: RequestId,
        input: Arc<CapturedRequest>,
        claimed_at: Instant,
    ) {
        if let Some(place) = self.searches.take(0) {
            self.runtime.spawn(async move {
                Self::find_lost(engine, id, input, claimed_at).await;
                drop(place);
            });
        }
    }

    /// Looks whether an insert whose answer was lost took place after all: born claimed, the task waits for this process
    /// and no other to start it, would be idle until its lease runs out, and be charged with a crash.
    async fn find_lost(engine: UnderWay, id: RequestId, input: Arc<CapturedRequest>, claimed_at: Instant) {
        let give_up_at = claimed_at + engine.holds_for();
        let mut pause = Duration::from_millis(50);
        while Instant::now() + pause < give_up_at {
            tokio::select! {
                biased;
                () = sleep(pause) => {}
                () = engine.phase.closed() => {}
            }
            // Once more after the end has begun, so that what is found is handed back.
            let last = !engine.phase.is_open();
            pause = (pause * 2).min(Duration::from_secs(2));
            let found = engine.call("find", || engine.ledger.look_for(&engine.worker, id)).await;
            // Not there now, it may be on its way: that cannot be told from one that never arrives.
            if let Ok(Some(claim)) = found {
                if let Some((record, held)) = claim
                    && engine.running.of(id).is_empty()
                {
                    engine.start_or_hand_back(&record, held, input, claimed_at).await;
                }
                return;
            }
            if last {
                return;
            }
        }
    }

    /// Whether new tasks are taken in.
    pub(crate) fn is_open(&self) -> bool {
        self.phase.is_open()
    }

    /// Whether there is no room for another task, as far as is known before its body is read. The insert decides.
    pub(crate) fn full(&self, tenant: Option<&Tenant>, pool: &PoolName, delay: Duration) -> Option<FullReason> {
        // A task that starts at once waits nowhere.
        if delay.is_zero() && self.pools.could_start(pool) {
            return None;
        }
        let limits = self.pools.limits(pool);
        let hint = self.queue_hint(tenant, Some(pool).filter(|_| limits.per_pool != u64::MAX));
        if hint.pool_queued.is_some_and(|queued| queued >= limits.per_pool) {
            return Some(FullReason::Pool);
        }
        if tenant.is_some() && hint.tenant_queued.is_some_and(|queued| queued >= limits.per_tenant) {
            return Some(FullReason::Tenant);
        }
        hint.queued
            .is_some_and(|queued| queued >= limits.queued)
            .then_some(FullReason::Queue)
    }

    /// What the store knows of its queue; nothing where it panics.
    pub(crate) fn queue_hint(&self, tenant: Option<&Tenant>, pool: Option<&PoolName>) -> QueueHint {
        caught(|| self.ledger.store().queue_hint(tenant, pool)).unwrap_or_default()
    }
}

/// A task on its way into the store.
pub(super) struct Newborn {
    pub(super) id: RequestId,
    /// What it runs with if it is born claimed.
    pub(super) born: Option<Born>,
    /// What its body takes of the budget, until the store has answered.
    _reserved: Option<Reserved>,
    /// Before the insert was asked for: what its lease is counted from here.
    pub(super) claimed_at: Instant,
}

/// What a task runs with that is born claimed.
pub(super) struct Born {
    place: Place,
    pub(super) input: Arc<CapturedRequest>,
}

/// An insert under way: what it is done for, and the answer.
type Inserting = BoxFuture<'static, (UnderWay, StoreResult<Inserted>)>;
