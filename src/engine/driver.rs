//! Drives the node machine: asks it what to do, does it, tells it how it went.

use std::{
    future::poll_fn,
    sync::{Arc, atomic::Ordering},
    task::Poll,
    time::Duration,
};

use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until, timeout, timeout_at},
};

use crate::{
    engine::{
        Engine,
        caught::{caught_async, panicked},
        node::{Action, Answer, Hint, Node},
        run::Start,
        under_way::UnderWay,
    },
    error::BoxFuture,
    probe::Event,
    store::{Claimed, Held, StoreError, StoreErrorKind, StoreResult},
    task::{
        CapturedRequest, Condition, Scope, TaskRecord,
        lifecycle::{Outcome, Rescue},
    },
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
        // Entered before the phase is looked at: a shutdown that is not seen here waits for what is begun here.
        let acting = engine.enter();
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
        node.watch(engine.attend_to_others(now), now);
        if engine.pools.slots.take_freed() {
            node.hint(Hint::Work, now);
        }
        for hint in [Hint::Work, Hint::Outbox, Hint::Changes, Hint::Control] {
            if hints & 1 << hint as u8 != 0 {
                node.hint(hint, now);
            }
        }
        while let Some(action) = node.next(
            now,
            engine.pools.slots.free(),
            engine.destinations.free(),
            fastrand::f64(),
        ) {
            let mut call = engine.clone().carry_out(action);
            // In place first: a store that is ready at once costs no task.
            match poll_fn(|cx| Poll::Ready(call.as_mut().poll(cx))).await {
                Poll::Ready(answer) => engine.note(&mut node, action, answer),
                Poll::Pending => {
                    let answers = answers.clone();
                    let busy = engine.enter();
                    engine.runtime.spawn(async move {
                        let answer = call.await;
                        drop(busy);
                        // The driver may be gone: then nobody wants to know.
                        let _ = answers.send((action, answer)).await;
                    });
                }
            }
        }
        drop(acting);
        if node.waits_for_slot(now, engine.pools.slots.free()) {
            // A task may be due that no slot is free for: whoever frees one is to say so.
            engine.pools.slots.send_some_to_wait();
            if engine.pools.slots.free() > 0 {
                continue;
            }
        }
        let mut wake_at = node.wake_at(now, engine.pools.slots.free(), engine.destinations.free());
        let quiet = now < quiet_until;
        if quiet {
            wake_at = wake_at.min(quiet_until);
        }
        tokio::select! {
            biased;
            Some((action, answer)) = answered.recv() => engine.note(&mut node, action, answer),
            // Before the wakes, of which there may always be one. A store that panics here gives a reason to look as well.
            news = async { caught_async(|| engine.ledger.store().news()).await }, if !quiet => {
                let now = Instant::now();
                match news {
                    Ok(news) => engine.hear(news, &mut node, now),
                    Err(_) => node.hint(Hint::Work, now),
                }
                quiet_until = now + QUIET;
            }
            () = engine.wake.notified() => {}
            () = sleep_until(wake_at) => {}
        }
    }
}

impl Engine {
    fn carry_out(self: Arc<Self>, action: Action) -> BoxFuture<'static, StoreResult<Answer>> {
        Box::pin(async move {
            let doing = caught_async(|| async {
                match action {
                    Action::Claim(max) => self.claim(max).await,
                    Action::Rescue => self.rescue().await,
                    Action::Prune => self.prune().await,
                    Action::Deliver(max) => self.deliver(max).await,
                    Action::Look => self.look().await,
                    Action::Control => self.read_controls().await,
                    Action::Report => {
                        self.report().await;
                        Ok(Answer::Idle(None))
                    }
                }
            });
            // The driver must learn of it in any case, or it would wait for this answer for ever.
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
                self.trouble(action.doing(), &error, pause);
            }
        }
    }

    async fn claim(self: &Arc<Self>, max: usize) -> StoreResult<Answer> {
        // Places are taken first and the surplus is given back: a claim without one would be a task nobody runs.
        let Some(mut places) = self.pools.claiming(max) else {
            return Ok(Answer::Idle(None));
        };
        let claimed_at = Instant::now();
        let claim = places.claim(self.worker.clone(), self.settings.lease);
        let engine = self.clone();
        let mut claiming = Box::pin(async move {
            let timing = engine.probes.time("claim");
            let claimed = caught_async(|| engine.ledger.claim(claim)).await;
            timing.end(claimed.unwrap_or_else(|panic| Err(panicked(&panic))))
        });
        let Ok(claimed) = timeout(self.settings.store_timeout, &mut claiming).await else {
            let late = Self::claim_late(self.enter(), claiming, claimed_at);
            self.runtime.spawn(late);
            return Err(Self::too_slow("claim", self.settings.store_timeout));
        };
        let claimed = claimed?;
        for id in claimed.unreadable {
            self.watchers.changed(id);
            self.hint(Hint::Outbox);
        }
        if self.pools.known_version() != Some(claimed.control) {
            // A pool may have been paused in the meantime. If that cannot be read now, its tasks are begun, and it is read before
            // the next claim.
            self.hint(Hint::Control);
            let _ = self.read_controls().await;
        }
        let (taken, more) = (claimed.tasks.len(), claimed.next_due.is_some_and(|due| due.is_zero()));
        let mut unasked = 0;
        for task in claimed.tasks {
            let place = places.place(&task.record);
            unasked += usize::from(place.is_none());
            let Some(place) = place.filter(|_| !self.pools.is_paused(&task.record.pool)) else {
                self.hand_back(&task.held).await;
                continue;
            };
            let start = Start {
                held: task.held,
                input: task.input,
                place,
                claimed_at,
                engine: self.enter(),
            };
            self.start(&task.record, start);
        }
        if unasked > 0 {
            // Asked again at once, it would give them again.
            let context = format!("a claim brought {unasked} tasks that were not asked for, which were handed back");
            return Err(StoreError::new(StoreErrorKind::Unavailable, context));
        }
        if taken >= places.all() {
            return Ok(Answer::More);
        }
        // Of a store that says that there is more and gives nothing this is not known, but asked again at once, it might say so
        // for ever.
        if taken == 0 || !more {
            places.found_all(claimed.passed_over);
        }
        Ok(match (taken, more) {
            (0, true) => Answer::Idle(Some(QUIET)),
            (_, true) => Answer::More,
            (_, false) => Answer::Idle(claimed.next_due),
        })
    }

    /// Reads the store's named values, and does as they say.
    pub(super) async fn read_controls(&self) -> StoreResult<Answer> {
        let controls = self.call("control", || self.ledger.store().control(None)).await?;
        self.pools.apply(&controls);
        Ok(Answer::Idle(None))
    }

    /// Sees a claim through that took longer than a store call may: if it takes place after all, the tasks wait for this
    /// process and no other to run them, and would be charged with a crash when their lease runs out.
    async fn claim_late(engine: UnderWay, claiming: BoxFuture<'static, StoreResult<Claimed>>, claimed_at: Instant) {
        let until = claimed_at + engine.holds_for();
        if let Ok(Ok(claimed)) = timeout_at(until, claiming).await {
            for task in claimed.tasks {
                let (held, input) = (task.held, task.input);
                engine.start_or_hand_back(&task.record, held, input, claimed_at).await;
            }
        }
    }

    /// Starts a task that is claimed already, or hands it back, uncharged, if no slot is free.
    pub(crate) async fn start_or_hand_back(
        self: &Arc<Self>,
        record: &TaskRecord,
        held: Held,
        input: Arc<CapturedRequest>,
        claimed_at: Instant,
    ) {
        if let Some(place) = self.pools.place_for(record) {
            let start = Start {
                held,
                input,
                place,
                claimed_at,
                engine: self.enter(),
            };
            self.start(record, start);
            return;
        }
        self.hand_back(&held).await;
    }

    /// Gives up a claim under which nothing was begun: the task waits again, uncharged.
    pub(crate) async fn hand_back(&self, held: &Held) {
        self.pools.slots.send_some_to_wait();
        // If this fails, the lease runs out.
        if let Err(error) = self
            .call("settle", || self.ledger.settle(held, &Outcome::Released))
            .await
        {
            self.trouble("handing back a task", &error, self.settings.lease);
        }
        self.hint(Hint::Work);
        self.watchers.changed(held.lease().id);
    }

    async fn rescue(&self) -> StoreResult<Answer> {
        let rescued = self
            .call("rescue", || self.ledger.rescue_sparing(self.pools.paused(), BATCH))
            .await?;
        let more = rescued.tasks.len() >= BATCH;
        for (id, rescue) in rescued.tasks {
            match rescue {
                Rescue::Requeued => {
                    self.pools.slots.send_some_to_wait();
                    self.hint(Hint::Work);
                }
                Rescue::Poisoned | Rescue::Expired => self.count_end(Condition::Failure, Instant::now()),
                Rescue::Stopped | Rescue::NotDue => {}
            }
            self.probes.emit(|| Event::Rescued { id, rescue });
            self.watchers.changed(id);
        }
        if rescued.outbox {
            self.hint(Hint::Outbox);
        }
        Ok(if more { Answer::More } else { Answer::Idle(None) })
    }

    async fn prune(&self) -> StoreResult<Answer> {
        self.give_up_crowded(BATCH).await?;
        let given_up = self.give_up_deliveries(BATCH).await?;
        let pruned = self
            .call("prune", || self.ledger.prune(self.settings.retention, BATCH))
            .await?;
        if pruned.tasks + pruned.keys > 0 {
            self.probes.emit(|| Event::Pruned(pruned));
        }
        let more = pruned.tasks.max(pruned.keys) >= BATCH;
        Ok(if more { Answer::More } else { given_up })
    }

    async fn report(&self) {
        self.beat().await;
        if self.probes.is_empty() {
            return;
        }
        let counts = self
            .call("counts", || self.ledger.store().counts(&Scope::All))
            .await
            .ok();
        if let Some(counts) = &counts {
            // Only the driver reports, one call at a time.
            let told = self.set_aside.swap(counts.set_aside, Ordering::Relaxed);
            if counts.set_aside > told {
                let values = counts.set_aside - told;
                self.probes.emit(|| Event::SetAside { values });
            }
            let told = self.forgotten_keys.swap(counts.forgotten_keys, Ordering::Relaxed);
            if counts.forgotten_keys > told {
                let keys = counts.forgotten_keys - told;
                self.probes.emit(|| Event::KeysForgotten { keys });
            }
        }
        self.probes.emit(|| Event::Levels {
            counts: counts.as_ref(),
            slots_used: self.pools.slots.used(),
            slots_total: self.pools.slots.total(),
            slots_stuck: self.pools.slots.stuck(),
            buffered_bytes: self.budget.used(),
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
            Self::Look => "looking at tasks that somebody waits for",
            Self::Report => "reporting",
            Self::Control => "reading which pools are paused",
        }
    }
}
