//! Drives the node machine: asks it what to do, does it, tells it how it went.

use std::{
    future::poll_fn,
    sync::{Arc, atomic::Ordering},
    task::Poll,
    time::{Duration, Instant},
};

use tokio::{sync::mpsc, time::sleep_until};

use crate::{
    engine::{
        Engine,
        node::{Action, Answer, Hint, Node},
        run::Start,
    },
    error::BoxFuture,
    probe::Event,
    store::{Claim, StoreResult},
    task::{Condition, Scope, lifecycle::Rescue},
};

/// How many tasks one rescue or prune looks at: bounded work per call, and asked again at once if there may be more.
const BATCH: usize = 1000;

/// Answers on their way back: at most one for each kind of action is under way.
const ANSWERS: usize = 8;

/// After a hint of the store, it is not listened to for so long: one that always hints must not keep the driver spinning.
const QUIET: Duration = Duration::from_millis(5);

/// Runs until the engine is told to end.
pub(crate) async fn drive(engine: Arc<Engine>) {
    let mut node = Node::new(Instant::now(), engine.settings.lease);
    let mut quiet_until = Instant::now();
    let (answers, mut answered) = mpsc::channel(ANSWERS);
    loop {
        if engine.phase.is_draining() {
            node.stop_claiming();
        }
        if engine.phase.is_cut() {
            node.stop_delivering();
        }
        if engine.phase.is_flushed() {
            return;
        }
        let hints = engine.hints.swap(0, Ordering::SeqCst);
        let now = Instant::now();
        for hint in [Hint::Work, Hint::Outbox] {
            if hints & 1 << hint as u8 != 0 {
                node.hint(hint, now);
            }
        }
        while let Some(action) = node.next(
            now,
            engine.slots.free(),
            engine.deliverers.free(),
            fastrand::f64(),
        ) {
            let mut call = engine.clone().carry_out(action);
            // In place first: a store that is ready at once costs no task.
            match poll_fn(|cx| Poll::Ready(call.as_mut().poll(cx))).await {
                Poll::Ready(answer) => {
                    node.done(action, answer, Instant::now(), fastrand::f64());
                }
                Poll::Pending => {
                    let answers = answers.clone();
                    let busy = engine.busy.enter();
                    engine.runtime.spawn(async move {
                        let answer = call.await;
                        drop(busy);
                        // The driver may be gone: then nobody wants to know.
                        let _ = answers.send((action, answer)).await;
                    });
                }
            }
        }
        if node.waits_for_slot(now, engine.slots.free()) {
            // A task may be due that no slot is free for: whoever frees one is to say so.
            engine.slots.send_to_wait();
            if engine.slots.free() > 0 {
                continue;
            }
        }
        let mut wake_at = node.wake_at(now, engine.slots.free(), engine.deliverers.free());
        let quiet = now < quiet_until;
        if quiet {
            wake_at = wake_at.min(quiet_until);
        }
        tokio::select! {
            Some((action, answer)) = answered.recv() => {
                node.done(action, answer, Instant::now(), fastrand::f64());
            }
            () = engine.wake.notified() => {}
            () = engine.store.wait_for_work(), if !quiet => {
                node.hint(Hint::Work, Instant::now());
                quiet_until = Instant::now() + QUIET;
            }
            () = sleep_until(wake_at.into()) => {}
        }
    }
}

impl Engine {
    fn carry_out(self: Arc<Self>, action: Action) -> BoxFuture<'static, Answer> {
        Box::pin(async move {
            let (doing, answer) = match action {
                Action::Claim(max) => ("claiming tasks", self.claim(max).await),
                Action::Rescue => ("rescuing tasks", self.rescue().await),
                Action::Prune => ("pruning tasks", self.prune().await),
                Action::Deliver(max) => ("claiming completions", self.deliver(max).await),
                Action::Report => {
                    self.report().await;
                    return Answer::Idle(None);
                }
            };
            answer.unwrap_or_else(|error| {
                self.trouble(doing, &error, Duration::ZERO);
                Answer::Failed
            })
        })
    }

    async fn claim(self: &Arc<Self>, max: usize) -> StoreResult<Answer> {
        // Slots are taken first and the surplus is given back: a claim without a slot would be a task nobody runs.
        let mut slots: Vec<_> = std::iter::from_fn(|| self.slots.take()).take(max).collect();
        if slots.is_empty() {
            return Ok(Answer::Idle(None));
        }
        let asked = slots.len();
        let sent_to_wait = self.slots.sent_to_wait();
        let claimed_at = Instant::now();
        let claim = Claim {
            worker: self.worker.clone(),
            max: asked,
            lease: self.settings.lease,
        };
        let claimed = self.call("claim", self.store.claim(claim)).await?;
        let more = claimed.next_due.is_some_and(|due| due.is_zero());
        let drained = claimed.tasks.len() < asked && !more;
        for (task, slot) in claimed.tasks.into_iter().zip(slots.drain(..)) {
            let lease = task.record.lease();
            let start = Start {
                lease,
                input: task.input,
                slot,
                claimed_at,
            };
            self.start(&task.record, start);
        }
        if drained {
            self.slots.none_waits(sent_to_wait);
            return Ok(Answer::Idle(claimed.next_due));
        }
        Ok(Answer::More)
    }

    async fn rescue(&self) -> StoreResult<Answer> {
        let rescued = self.call("rescue", self.store.rescue(BATCH)).await?;
        let more = rescued.tasks.len() >= BATCH;
        for (id, rescue) in rescued.tasks {
            match rescue {
                Rescue::Requeued => {
                    self.slots.send_to_wait();
                    self.hint(Hint::Work);
                }
                Rescue::Poisoned | Rescue::Expired => self.count_end(Condition::Failure),
                Rescue::Stopped | Rescue::NotDue => {}
            }
            self.probes.emit(|| Event::Rescued { id, rescue });
            self.watchers.changed(id);
        }
        if rescued.outbox {
            self.hint(Hint::Outbox);
        }
        Ok(if more {
            Answer::More
        } else {
            Answer::Idle(None)
        })
    }

    async fn prune(&self) -> StoreResult<Answer> {
        let pruned = self
            .call("prune", self.store.prune(self.settings.retention, BATCH))
            .await?;
        if pruned.tasks + pruned.keys > 0 {
            self.probes.emit(|| Event::Pruned(pruned));
        }
        let more = pruned.tasks.max(pruned.keys) >= BATCH;
        Ok(if more {
            Answer::More
        } else {
            Answer::Idle(None)
        })
    }

    async fn report(&self) {
        if self.probes.is_empty() {
            return;
        }
        let counts = self
            .call("counts", self.store.counts(&Scope::All))
            .await
            .ok();
        self.probes.emit(|| Event::Levels {
            counts: counts.as_ref(),
            slots_used: self.slots.used(),
            slots_total: self.slots.total(),
            slots_stuck: self.slots.stuck(),
            buffered_bytes: self.budget.used(),
        });
    }
}
