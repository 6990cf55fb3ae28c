//! Drives one attempt: polls the handler, catches its panics, and carries out the directives of the machine.

use std::{
    future::poll_fn,
    mem::{replace, take},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    task::unconstrained,
    time::{Instant, sleep_until, timeout},
};

use crate::{
    engine::{
        attempts::{
            Attempts,
            answer_buffer::Taken,
            attempt::{Attempt, Conclusion, Directive, Input},
            entry::{Replay, Replayed},
            log::LogTimer,
            running::Live,
        },
        caught::{Panic, caught, let_go},
        node::Hint,
        phase::EndStep,
        pools::Permit,
        under_way::UnderWay,
    },
    probe::{AttemptInfo, AttemptOutcome, AttemptScope, Event},
    store::{Held, Settled},
    task::{CapturedRequest, TaskRecord, lifecycle::Outcome},
};

/// How often progress is stored at most. It is only for display.
const SAVE_PROGRESS_EVERY: Duration = Duration::from_secs(1);

/// What an attempt needs to start: its claim, its request and its slot.
pub(crate) struct Start {
    pub(crate) held: Held,
    pub(crate) request: Arc<CapturedRequest>,
    pub(crate) permit: Permit,
    /// When the claim was sent. The lease is counted from here.
    pub(crate) claimed_at: Instant,
    pub(crate) attempts: UnderWay<Attempts>,
}

impl Attempts {
    /// Starts an attempt in a spawned task.
    pub(crate) fn start(&self, record: &TaskRecord, start: Start) {
        let now = Instant::now();
        let held_until = start.claimed_at + self.core.holds_for();
        let settings = &self.core.settings;
        let machine = Attempt::new(now, settings.attempt_timeout, settings.stop_grace, held_until);
        let request = start.request;
        let elsewhere = record.version_to_wait_for(settings.version.as_deref(), settings.version_patience);
        let live = Arc::new(Live::new(record, start.held, &request, now, machine, elsewhere));
        // Added before the attempt is spawned, so that its lease is renewed from the start, even on a busy runtime.
        self.running.enter(live.clone());
        let scopes = self.core.probes.scopes(|| {
            AttemptInfo::new(
                record.id,
                record.function(),
                record.attempt,
                live.lease.token,
                &request,
                &live.log,
            )
        });
        // The phase is read after the attempt is added: a shutdown that has not seen the attempt is seen here.
        let replay = match self.entry().filter(|_| !self.core.phase.has_reached(EndStep::Cut)) {
            Some(entry) => {
                self.core.probes.emit(|| Event::Started {
                    id: record.id,
                    attempt: record.attempt,
                    waited: record.started_at.map_or(Duration::ZERO, |at| at.since(record.run_at)),
                });
                let live = live.clone();
                Replay::Waiting { entry, request, live }
            }
            None => {
                // The grace period is over: the task is handed back without a start.
                live.feed(Input::Finished(Outcome::Released, AttemptOutcome::Released), now);
                Replay::Over
            }
        };
        self.core.watchers.changed(record.id);
        let guard = AttemptGuard {
            handler: Handler { replay, scopes },
            live,
            permit: Some(start.permit),
            attempts: start.attempts,
        };
        self.core.runtime.spawn(run(guard));
    }

    /// Polls the handler again, until it has ended (`None`) or the machine returns a directive other than `Run`.
    async fn attend(self: &Arc<Self>, live: &Arc<Live>, handler: &mut Handler) -> Option<Directive> {
        let mut save_at = live.started;
        let mut log = LogTimer::default();
        let mut now = live.started;
        // The caller has just polled the handler. It waits for the wake-up of that poll.
        let mut polled = true;
        loop {
            let directive = live.machine().directive(now);
            let Directive::Run(until) = directive else {
                return Some(directive);
            };
            let wake = match live.has_unsaved() {
                true => until.min(save_at),
                false => until,
            };
            let wake = log.due_at().map_or(wake, |at| wake.min(at));
            tokio::select! {
                biased;
                end = poll_fn(|cx| match take(&mut polled) {
                    true => Poll::Pending,
                    false => Pin::new(&mut *handler).poll(cx),
                }) => {
                    self.finished(live, end);
                    return None;
                }
                // Without tokio's cooperative budget: a handler that never waits uses that up, and must still time out.
                () = unconstrained(live.changed().notified()) => {}
                () = unconstrained(live.logged()) => {}
                () = unconstrained(sleep_until(wake)) => {}
            }
            now = Instant::now();
            if log.is_due(live, now) {
                self.save_log(live);
            }
            if now >= save_at && live.has_unsaved() {
                save_at = now + SAVE_PROGRESS_EVERY;
                self.save_progress(live);
            }
        }
    }

    /// Judges the end of the handler, and gives it to the machine.
    fn finished(&self, live: &Live, end: Result<Replayed, Panic>) {
        if let Some((outcome, ended)) = self.judge(live, end) {
            live.machine().handle(Input::Finished(outcome, ended), Instant::now());
        }
    }

    /// Carries out the directives after the end of the handler. `given` is the first, if the machine has already
    /// returned it.
    #[expect(clippy::manual_async_fn, reason = "an async fn keeps its arguments twice")]
    pub(crate) fn conclude(&self, live: &Live, mut given: Option<Directive>) -> impl Future<Output = ()> {
        async move {
            // Read now, because dropping the handler may have taken longer than the claim holds.
            let mut now = Instant::now();
            // A `Settle` that was returned earlier may be too late: the claim is checked again below.
            let mut is_old = given.is_some();
            loop {
                let directive = given.take().unwrap_or_else(|| live.machine().directive(now));
                match directive {
                    Directive::Settle(ref outcome) => {
                        if live.log.get().is_some() {
                            Box::pin(self.save_last_log(live)).await;
                            is_old = true;
                        }
                        if take(&mut is_old) {
                            now = Instant::now();
                            if !live.machine().holds(now) {
                                given = Some(live.feed_and_ask(Input::NotSettled(Duration::ZERO), now));
                                continue;
                            }
                        }
                        let answer = self
                            .core
                            .call("settle", || self.core.ledger.settle(&live.held, outcome))
                            .await;
                        let input = match answer {
                            Ok(settled) => Input::Settled(settled),
                            Err(error) => {
                                now = Instant::now();
                                let pause = self.settle_pause(live.machine().settle_tries());
                                self.core.trouble("settling a task", &error, pause);
                                Input::NotSettled(pause)
                            }
                        };
                        // Also wakes the other waiter for this end: the watchdog or the attempt's own task.
                        given = Some(live.feed_and_ask(input, now));
                    }
                    Directive::TimedOut => {
                        if !self.time_out(live, now) {
                            now = live.change_before(now + Duration::from_secs(1)).await;
                        }
                    }
                    Directive::Wait(until) | Directive::Run(until) => now = live.change_before(until).await,
                    Directive::Over(conclusion) => {
                        if live.is_first_to_report() {
                            self.report_end(live, conclusion, now);
                        }
                        return;
                    }
                }
            }
        }
    }

    /// Judges an attempt that has timed out. Answers `false` if another caller does: both the watchdog and the attempt's
    /// own task may get here.
    fn time_out(&self, live: &Live, now: Instant) -> bool {
        let Taken::First(partial) = live.answer.take() else {
            return false;
        };
        let (outcome, ended) = self.judge_time_out(live, partial);
        live.feed(Input::Finished(outcome, ended), now);
        true
    }

    fn settle_pause(&self, tries: u32) -> Duration {
        let doubled = Duration::from_millis(50).saturating_mul(1 << tries.min(10));
        doubled.min(Duration::from_secs(5)).mul_f64(0.5 + fastrand::f64() / 2.0)
    }

    /// Reports the end of the attempt to probes and waiters.
    fn report_end(&self, live: &Live, conclusion: Conclusion, now: Instant) {
        let id = live.lease.id;
        match conclusion {
            Conclusion::Settled(Settled::Accepted { state, outbox }, outcome) => {
                if let Some(condition) = state.condition() {
                    self.core.count_end(condition, now);
                }
                // The task is queued again, so the driver has to read its due time.
                if state.is_queued() {
                    self.core.hint(Hint::Work);
                }
                if outbox {
                    self.core.hint(Hint::Outbox);
                }
                self.core.probes.emit(|| Event::Ended {
                    id,
                    attempt: live.attempt,
                    outcome,
                    state,
                    took: live.started.elapsed(),
                });
            }
            Conclusion::Settled(Settled::Fenced, _) => self.core.probes.emit(|| Event::Fenced { id }),
            Conclusion::Lost => self.core.probes.emit(|| Event::LeaseLost {
                id,
                attempt: live.attempt,
            }),
        }
        self.running.note_end(matches!(
            conclusion,
            Conclusion::Settled(Settled::Accepted { state, .. }, AttemptOutcome::Released) if state.is_queued()
        ));
        self.core.watchers.changed(id);
    }

    /// Stores the last progress before the claim ends. It helps to explain a failure, and a task that has succeeded
    /// should not look half done.
    async fn save_last_progress(&self, live: &Live) {
        if let Some(progress) = live.take_unsaved() {
            let saved = self.core.call("set_progress", || {
                self.core.ledger.store().set_progress(live.lease, progress)
            });
            let _ = timeout(LAST_PROGRESS_LIMIT, saved).await;
        }
    }

    fn save_progress(self: &Arc<Self>, live: &Arc<Live>) {
        let Some(progress) = live.take_unsaved() else {
            return;
        };
        let (core, lease) = (self.core.clone(), live.lease);
        self.core.runtime.spawn(async move {
            // A failure is ignored: the next progress replaces this one.
            let _ = core
                .call("set_progress", || core.ledger.store().set_progress(lease, progress))
                .await;
            core.watchers.wake(lease.id);
        });
    }
}

/// How long the last progress may delay the settlement.
const LAST_PROGRESS_LIMIT: Duration = Duration::from_secs(1);

/// The attempt's own task: runs the handler, then carries out the directives of the machine.
///
/// Every attempt has a future of this size, and many handlers and stores are ready at once. So the parts that wait are
/// boxed, and allocated only when they are needed.
#[expect(clippy::manual_async_fn, reason = "an async fn keeps its arguments twice")]
fn run(mut guard: AttemptGuard) -> impl Future<Output = ()> {
    async move {
        let AttemptGuard {
            handler,
            live,
            attempts,
            ..
        } = &mut guard;
        let mut given = Some(live.machine().directive(live.started));
        if let Some(Directive::Run(_)) = given {
            let is_over = poll_fn(|cx| {
                let polled = Pin::new(&mut *handler).poll(cx);
                Poll::Ready(polled.map(|end| attempts.finished(live, end)).is_ready())
            });
            given = match is_over.await {
                true => None,
                false => Box::pin(attempts.attend(live, handler)).await,
            };
        }
        handler.drop_now();
        if live.has_unsaved() && live.machine().conclusion().is_none() {
            Box::pin(attempts.save_last_progress(live)).await;
        }
        attempts.conclude(live, given).await;
    }
}

/// Cleans up when the attempt's own task ends, or is dropped with its runtime.
struct AttemptGuard {
    /// Dropped first: the slot stays taken until then.
    handler: Handler,
    live: Arc<Live>,
    permit: Option<Permit>,
    /// Dropped last, since a shutdown waits for it.
    attempts: UnderWay<Attempts>,
}

impl Drop for AttemptGuard {
    fn drop(&mut self) {
        self.handler.drop_now();
        let conclusion = self.live.machine().conclusion();
        if !matches!(conclusion, Some(Conclusion::Settled(..))) {
            self.attempts.give_up(self.live.lease);
        }
        self.attempts.running.leave(self.live.lease);
        // Drops the answer here, inside the guard. It is no longer needed, and the application may keep `live` alive by
        // its context.
        let _ = let_go(self.live.answer.take());
        self.live.unstick();
        self.permit.take();
    }
}

/// A replay in progress. Its panics are caught, and each poll runs inside the scopes of the probes.
struct Handler {
    replay: Replay,
    scopes: Vec<Box<dyn AttemptScope>>,
}

impl Handler {
    /// Drops the replay and the scopes of the probes now. The attempt goes on if a destructor panics.
    fn drop_now(&mut self) {
        let _ = let_go(replace(&mut self.replay, Replay::Over));
        // Dropped one by one: two panics at the same time would end the process.
        while let Some(scope) = self.scopes.pop() {
            let _ = let_go(scope);
        }
    }
}

impl Future for Handler {
    type Output = Result<Replayed, Panic>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Self { replay, scopes } = &mut *self;
        let mut polled = Poll::Pending;
        match caught(|| in_scopes(scopes, &mut || polled = replay.poll(cx))) {
            Ok(()) => polled.map(Ok),
            Err(panic) => {
                // A scope may have panicked after the handler answered.
                let _ = let_go(polled);
                // A future that panicked must not be polled again.
                self.drop_now();
                Poll::Ready(Err(panic))
            }
        }
    }
}

fn in_scopes(scopes: &mut [Box<dyn AttemptScope>], poll: &mut dyn FnMut()) {
    match scopes.split_first_mut() {
        Some((first, rest)) => first.in_scope(&mut || in_scopes(rest, poll)),
        None => poll(),
    }
}
