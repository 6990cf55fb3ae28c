//! Drives the [`Node`] machine: gets its actions, carries them out, and gives it the answers.

pub(crate) mod lookout;

use std::{
    future::poll_fn,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::Poll,
};

use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until},
};

use crate::{
    engine::{
        attempts::Attempts,
        caught::{caught_async, panicked},
        core::Core,
        duties::lookout::Lookout,
        intake::{Intake, Reentry},
        node::{Action, Answer, Hint, Node, QUIET},
        outbox::Outbox,
        phase::EndStep,
        under_way::Part,
    },
    error::BoxFuture,
    hook::Application,
    probe::Event,
    store::StoreResult,
    task::{Condition, Scope, lifecycle::Rescue},
};

/// How many tasks one rescue or prune covers, to limit the work of a call. Repeated at once if there may be more.
const BATCH: usize = 1000;

/// The room for answers that come back to the driver. At most one action of each kind is under way.
const ANSWERS: usize = 8;

/// What a process does besides accepting tasks and running them.
pub(crate) struct Duties {
    core: Arc<Core>,
    attempts: Arc<Attempts>,
    outbox: Arc<Outbox>,
    intake: Arc<Intake>,
    /// Accepts completions that are posted to the application.
    pub(crate) application: Arc<dyn Application>,
    pub(crate) lookout: Lookout,
    /// How many values the store has set aside, as last reported to the probes.
    set_aside: AtomicU64,
    /// How many keys the store has dropped for lack of room, as last reported to the probes.
    forgotten_keys: AtomicU64,
}

impl Duties {
    pub(crate) fn new(intake: Arc<Intake>) -> Self {
        let core = intake.core.clone();
        Self {
            lookout: Lookout::new(core.ledger.store().abilities()),
            attempts: intake.attempts.clone(),
            outbox: intake.outbox.clone(),
            application: Arc::new(Reentry(intake.clone())),
            set_aside: AtomicU64::new(0),
            forgotten_keys: AtomicU64::new(0),
            core,
            intake,
        }
    }
}

impl Part for Duties {
    fn core(&self) -> &Core {
        &self.core
    }
}

/// Runs the duties until the shutdown has stored everything.
pub(crate) async fn drive(duties: Arc<Duties>) {
    let mut node = Node::new(Instant::now(), duties.core.settings.lease);
    let mut quiet_until = Instant::now();
    let (answers, mut answered) = mpsc::channel(ANSWERS);
    loop {
        // Entered before the phase is read: a shutdown that comes after the read waits for the actions begun here.
        let acting = duties.enter();
        if duties.core.phase.has_reached(EndStep::Draining) {
            node.stop_claiming();
        }
        if duties.core.phase.has_reached(EndStep::Cut) {
            node.stop_delivering();
        }
        if duties.core.phase.has_reached(EndStep::Flushed) {
            return;
        }
        let hints = duties.core.signals.take_hints();
        let now = Instant::now();
        node.watch(duties.update_attention(now), now);
        if duties.attempts.pools.slots.take_freed() {
            node.hint(Hint::Work, now);
        }
        for hint in hints {
            node.hint(hint, now);
        }
        while let Some(action) = node.next(
            now,
            duties.attempts.pools.slots.free(),
            duties.outbox.destinations.free(),
            fastrand::f64(),
        ) {
            let mut call = duties.clone().carry_out(action);
            // Polled here first: a store that answers at once needs no spawned task.
            match poll_fn(|cx| Poll::Ready(call.as_mut().poll(cx))).await {
                Poll::Ready(answer) => duties.note(&mut node, action, answer),
                Poll::Pending => {
                    let answers = answers.clone();
                    let busy = duties.enter();
                    duties.core.runtime.spawn(async move {
                        let answer = call.await;
                        drop(busy);
                        // An error means that the driver has ended, and then it needs no answer.
                        let _ = answers.send((action, answer)).await;
                    });
                }
            }
        }
        drop(acting);
        if node.waits_for_slot(now, duties.attempts.pools.slots.free()) {
            // A task may be due without a free slot. From now on, freeing a slot wakes the driver.
            duties.attempts.pools.slots.send_some_to_wait();
            if duties.attempts.pools.slots.free() > 0 {
                continue;
            }
        }
        let mut wake_at = node.wake_at(
            now,
            duties.attempts.pools.slots.free(),
            duties.outbox.destinations.free(),
        );
        let quiet = now < quiet_until;
        if quiet {
            wake_at = wake_at.min(quiet_until);
        }
        tokio::select! {
            biased;
            Some((action, answer)) = answered.recv() => duties.note(&mut node, action, answer),
            // Polled before the wake-ups: these may never cease. If the store panics here, claim as if it had reported
            // work.
            news = async { caught_async(|| duties.core.ledger.store().news()).await }, if !quiet => {
                let now = Instant::now();
                match news {
                    Ok(news) => duties.apply_news(news, &mut node, now),
                    Err(_) => node.hint(Hint::Work, now),
                }
                quiet_until = now + QUIET;
            }
            () = duties.core.signals.wake.notified() => {}
            () = sleep_until(wake_at) => {}
        }
    }
}

impl Duties {
    fn carry_out(self: Arc<Self>, action: Action) -> BoxFuture<'static, StoreResult<Answer>> {
        Box::pin(async move {
            let doing = caught_async(|| async {
                match action {
                    Action::Claim(max) => self.attempts.claim(max).await,
                    Action::Rescue => self.rescue().await,
                    Action::Prune => self.prune().await,
                    Action::Deliver(max) => self.outbox.deliver(&self.application, max).await,
                    Action::Look => self.look().await,
                    Action::Control => self.attempts.read_controls().await,
                    Action::Report => {
                        self.report().await;
                        Ok(Answer::Idle(None))
                    }
                }
            });
            // A panic must become an answer too: the machine repeats no action before its answer.
            doing.await.unwrap_or_else(|panic| Err(panicked(&panic)))
        })
    }

    fn note(&self, node: &mut Node, action: Action, answer: StoreResult<Answer>) {
        let (now, jitter) = (Instant::now(), fastrand::f64());
        match answer {
            Ok(answer) => {
                node.done(action, answer, now, jitter);
            }
            Err(error) => {
                let pause = node.done(action, Answer::Failed, now, jitter);
                self.core.trouble(action.doing(), &error, pause);
            }
        }
    }

    async fn rescue(&self) -> StoreResult<Answer> {
        let rescued = self
            .core
            .step("rescue", || {
                self.core.ledger.rescue_sparing(self.attempts.pools.paused(), BATCH)
            })
            .await?;
        let more = rescued.tasks.len() >= BATCH;
        for (id, rescue) in rescued.tasks {
            match rescue {
                Rescue::Requeued => {
                    self.attempts.pools.slots.send_some_to_wait();
                    self.core.hint(Hint::Work);
                }
                Rescue::Poisoned | Rescue::Expired => self.core.count_end(Condition::Failure, Instant::now()),
                Rescue::Stopped | Rescue::NotDue => {}
            }
            self.core.probes.emit(|| Event::Rescued { id, rescue });
            self.core.watchers.changed(id);
        }
        if rescued.outbox {
            self.core.hint(Hint::Outbox);
        }
        Ok(if more { Answer::More } else { Answer::Idle(None) })
    }

    async fn prune(&self) -> StoreResult<Answer> {
        self.outbox.give_up_crowded(BATCH).await?;
        let given_up = self.outbox.give_up_deliveries(BATCH).await?;
        let pruned = self
            .core
            .step("prune", || self.core.ledger.prune(self.core.settings.retention, BATCH))
            .await?;
        if pruned.tasks + pruned.keys > 0 {
            self.core.probes.emit(|| Event::Pruned(pruned));
        }
        let more = pruned.tasks.max(pruned.keys) >= BATCH;
        Ok(if more { Answer::More } else { given_up })
    }

    async fn report(&self) {
        self.beat().await;
        if self.core.probes.is_empty() {
            return;
        }
        let counts = self
            .core
            .call("counts", || self.core.ledger.store().counts(&Scope::All))
            .await
            .ok();
        if let Some(counts) = &counts {
            // Reports do not overlap, so swapping is enough.
            let reported = self.set_aside.swap(counts.set_aside, Ordering::Relaxed);
            if counts.set_aside > reported {
                let values = counts.set_aside - reported;
                self.core.probes.emit(|| Event::SetAside { values });
            }
            let reported = self.forgotten_keys.swap(counts.forgotten_keys, Ordering::Relaxed);
            if counts.forgotten_keys > reported {
                let keys = counts.forgotten_keys - reported;
                self.core.probes.emit(|| Event::KeysForgotten { keys });
            }
        }
        self.core.probes.emit(|| Event::Levels {
            counts: counts.as_ref(),
            slots_used: self.attempts.pools.slots.used(),
            slots_total: self.attempts.pools.slots.total(),
            slots_stuck: self.attempts.pools.slots.stuck(),
            buffered_bytes: self.intake.budget.used(),
        });
    }
}

impl Action {
    const fn doing(self) -> &'static str {
        match self {
            Self::Claim(_) => "claiming tasks",
            Self::Rescue => "rescuing tasks",
            Self::Prune => "giving up completions and pruning tasks",
            Self::Deliver(_) => "claiming completions",
            Self::Look => "looking at tasks with waiters",
            Self::Report => "reporting",
            Self::Control => "reading which pools are paused",
        }
    }
}
