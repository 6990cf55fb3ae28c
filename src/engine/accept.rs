//! Taking a task in: the one path from a captured request to a committed task, and to its start if a slot is free.

use std::{
    future::poll_fn,
    sync::Arc,
    task::Poll,
    time::{Duration, Instant},
};

use tokio::time::timeout;

use crate::{
    engine::{Engine, Reserved, busy::BusyGuard, node::Hint, rates::Counted, run::Start, slots::Slot},
    store::{FullReason, Insert, Inserted, StoreError, StoreErrorKind},
    task::{CapturedRequest, NewTask, RequestId, Scope, TaskRef, TaskState, Tenant},
};

/// Why a task was not taken in.
#[derive(Debug)]
pub(crate) enum Unaccepted {
    /// The engine is being shut down.
    ShuttingDown,
    /// The store did not say that it has the task. It may have.
    Store(StoreError),
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
    pub(crate) async fn accept(
        self: &Arc<Self>,
        task: NewTask,
        at: Instant,
        reserved: Option<Reserved>,
    ) -> Result<Inserted, Unaccepted> {
        // Entered before the phase is looked at: a shutdown that does not see this, is seen by it.
        let busy = self.busy.enter();
        if !self.phase.is_open() {
            return Err(Unaccepted::ShuttingDown);
        }
        let mut insert = Insert::new(task).within(self.settings.limits);
        let slot = self.slot_for(&insert.task);
        if slot.is_some() {
            insert = insert.born(self.worker.clone(), self.settings.lease);
        }
        let mut commit = Box::pin(commit(self.clone(), insert, slot, at, busy, reserved));
        let polled = poll_fn(|cx| Poll::Ready(commit.as_mut().poll(cx))).await;
        if let Poll::Ready(answer) = polled {
            return answer.map_err(Unaccepted::Store);
        }
        let unknown = |context: &'static str| StoreError::new(StoreErrorKind::Unavailable, context);
        match timeout(self.settings.store_timeout, self.runtime.spawn(commit)).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Err(unknown("the insert was cut off by the end of the runtime")),
            Err(_) => Err(unknown("the insert took longer than the store timeout")),
        }
        .map_err(Unaccepted::Store)
    }

    /// Whether new tasks are taken in.
    pub(crate) fn is_open(&self) -> bool {
        self.phase.is_open()
    }

    /// Whether there is no room for another task, as far as is known before its body is read. The insert decides.
    pub(crate) fn full(&self, tenant: Option<&Tenant>, delay: Duration) -> Option<FullReason> {
        // A task that starts at once waits nowhere.
        if delay.is_zero() && !self.slots.wanted() && self.slots.free() > 0 {
            return None;
        }
        let limits = self.settings.limits;
        let hint = self.store.queue_hint(tenant);
        if tenant.is_some() && hint.tenant_queued.is_some_and(|queued| queued >= limits.per_tenant) {
            return Some(FullReason::Tenant);
        }
        hint.queued
            .is_some_and(|queued| queued >= limits.queued)
            .then_some(FullReason::Queue)
    }

    fn slot_for(&self, task: &NewTask) -> Option<Slot> {
        if !task.delay.is_zero() {
            return None;
        }
        let born = match self.slots.wanted() {
            false => self.slots.take(),
            true => None,
        };
        if born.is_none() {
            self.slots.send_to_wait();
        }
        born
    }
}

async fn commit(
    engine: Arc<Engine>,
    insert: Insert,
    slot: Option<Slot>,
    at: Instant,
    busy: BusyGuard,
    reserved: Option<Reserved>,
) -> Result<Inserted, StoreError> {
    let input = insert.task.input.clone();
    let id = insert.task.id;
    let answer = engine.timed("insert", engine.store.insert(insert)).await;
    drop(reserved);
    match (&answer, slot) {
        (Ok(Inserted::New(record)), Some(slot)) => {
            engine.rates.count(Counted::Accepted, engine.clock.uptime());
            let lease = record.lease();
            engine.start(
                record,
                Start {
                    lease,
                    input,
                    slot,
                    claimed_at: at,
                },
            );
        }
        (Ok(Inserted::New(_)), None) => {
            engine.rates.count(Counted::Accepted, engine.clock.uptime());
            engine.hint(Hint::Work);
        }
        (Err(error), Some(slot)) if error.kind() == StoreErrorKind::Unavailable => {
            let runtime = engine.runtime.clone();
            runtime.spawn(find_lost(engine, id, input, slot, at, busy));
        }
        _ => {}
    }
    answer
}

/// Looks whether an insert whose answer was lost took place after all: born claimed, the task waits for this process and
/// no other to start it, and would be idle until its lease runs out.
async fn find_lost(
    engine: Arc<Engine>,
    id: RequestId,
    input: Arc<CapturedRequest>,
    slot: Slot,
    at: Instant,
    _busy: BusyGuard,
) {
    let give_up_at = at + engine.settings.lease - engine.settings.lease_margin();
    let mut pause = Duration::from_millis(50);
    while Instant::now() + pause < give_up_at && engine.phase.is_open() {
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_secs(2));
        let found = engine
            .call("find", engine.store.find(&Scope::All, &TaskRef::Id(id)))
            .await;
        match found {
            Ok(Some(record)) => {
                let ours = record.state == TaskState::Running && record.worker.as_ref() == Some(&engine.worker);
                if ours {
                    let lease = record.lease();
                    engine.start(
                        &record,
                        Start {
                            lease,
                            input,
                            slot,
                            claimed_at: at,
                        },
                    );
                }
                return;
            }
            // Not there now; an insert that is still on its way cannot be told from one that never arrives.
            Ok(None) | Err(_) => {}
        }
    }
}
