//! One attempt as a pure state machine: times and events go in, directives come out.
//!
//! The machine decides when an attempt is cut short (it times out, its task is stopped, the process shuts down, its
//! claim is lost) and which end is stored. It uses no tokio task, store or runtime. Inputs come from several threads
//! (the attempt's own task, the lease thread, a caller that stops it), one at a time. [`directive`](Attempt::directive)
//! returns what the present state needs; a needless call is harmless.

use std::time::Duration;

use tokio::time::Instant;

use crate::{probe::AttemptOutcome, store::Settled, task::lifecycle::Outcome};

/// An attempt from the start of its handler until its settlement is stored or its claim is lost.
pub(crate) struct Attempt {
    phase: Phase,
    times_out_at: Instant,
    held_until: Instant,
    stop_grace: Duration,
    lost_at: Option<Instant>,
}

enum Phase {
    /// The handler runs.
    Running,
    /// The handler was asked to stop, and is dropped at `until`.
    Ending { until: Instant, reason: CancelReason },
    /// The handler has ended, and this outcome is to be stored.
    Settling {
        outcome: Outcome,
        ended: AttemptOutcome,
        tries: u32,
        progress: Writing,
    },
    /// Nothing is left to do.
    Over(Conclusion),
}

#[derive(Clone, Copy)]
enum Writing {
    /// The outcome is to be stored at this time.
    Due(Instant),
    /// The outcome is being stored.
    InFlight,
}

/// Why the handler was asked to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum CancelReason {
    Stop,
    Shutdown,
}

/// An event of the attempt.
#[derive(Debug)]
pub(crate) enum Input {
    /// The handler has ended, and was judged like this.
    Finished(Outcome, AttemptOutcome),
    /// A caller asked for the task to stop.
    StopAsked,
    /// The grace period of the shutdown is over.
    Cut,
    /// The claim holds until this time, by the local clock.
    Renewed(Instant),
    /// The claim is lost.
    LeaseLost,
    /// The store answered the settlement.
    Settled(Settled),
    /// The store did not answer the settlement, so it may or may not be stored. Try again after this time.
    NotSettled(Duration),
}

/// What to do now.
#[derive(Debug)]
pub(crate) enum Directive {
    /// Keep polling the handler. Call again at this time at the latest.
    Run(Instant),
    /// The attempt has timed out: judge it, and give [`Input::Finished`] to the machine.
    TimedOut,
    /// Drop the handler if it still exists, and store this outcome. Only one caller gets this directive.
    Settle(Outcome),
    /// Drop the handler if it still exists. Call again at this time at the latest.
    Wait(Instant),
    /// Drop the handler if it still exists. Nothing else is left to do.
    Over(Conclusion),
}

/// How the attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Conclusion {
    /// The store answered this to its settlement.
    Settled(Settled, AttemptOutcome),
    /// The claim was lost, or its local deadline passed, before the end was stored.
    Lost,
}

impl Attempt {
    /// An attempt that starts now, may run for `timeout`, and holds its claim until `held_until`.
    pub(crate) fn new(now: Instant, timeout: Duration, stop_grace: Duration, held_until: Instant) -> Self {
        Self {
            phase: Phase::Running,
            times_out_at: now + timeout,
            held_until,
            stop_grace,
            lost_at: None,
        }
    }

    /// When the attempt times out.
    pub(crate) fn times_out_at(&self) -> Instant {
        self.times_out_at
    }

    /// Whether the handler was asked to stop.
    pub(crate) fn is_cancelled(&self) -> bool {
        matches!(self.phase, Phase::Ending { .. })
    }

    /// Whether the local deadline of the claim has not passed.
    pub(crate) fn holds(&self, now: Instant) -> bool {
        now < self.held_until
    }

    /// When the handler has to be dropped at the latest. `None` if the outcome is being stored or is stored.
    pub(crate) fn due_at(&self) -> Option<Instant> {
        match self.phase {
            Phase::Running => Some(self.times_out_at.min(self.held_until)),
            Phase::Ending { until, .. } => Some(until.min(self.times_out_at).min(self.held_until)),
            Phase::Over(Conclusion::Lost) => self.lost_at,
            Phase::Settling { .. } | Phase::Over(_) => None,
        }
    }

    /// How the attempt ended, if it has ended.
    pub(crate) fn conclusion(&self) -> Option<Conclusion> {
        match self.phase {
            Phase::Over(conclusion) => Some(conclusion),
            _ => None,
        }
    }

    /// Records an event.
    pub(crate) fn handle(&mut self, input: Input, now: Instant) {
        match input {
            Input::Renewed(until) => self.held_until = self.held_until.max(until),
            // The settlement under way may have ended the claim. Its answer decides.
            Input::LeaseLost
                if matches!(
                    self.phase,
                    Phase::Settling {
                        progress: Writing::InFlight,
                        ..
                    }
                ) => {}
            Input::LeaseLost => self.lose(now),
            Input::StopAsked => self.cancel(now, CancelReason::Stop),
            Input::Cut => self.cancel(now, CancelReason::Shutdown),
            Input::Finished(outcome, ended) => self.finish(outcome, ended, now),
            Input::Settled(settled) => {
                if let Phase::Settling { ended, .. } = self.phase {
                    self.phase = Phase::Over(Conclusion::Settled(settled, ended));
                }
            }
            Input::NotSettled(pause) => {
                if let Phase::Settling { progress, tries, .. } = &mut self.phase {
                    *tries += 1;
                    *progress = Writing::Due(now + pause);
                }
            }
        }
    }

    /// What to do now. After the local deadline of the claim, another worker may hold the task, so no settlement begins
    /// any more.
    pub(crate) fn directive(&mut self, now: Instant) -> Directive {
        let in_flight = matches!(
            self.phase,
            Phase::Settling {
                progress: Writing::InFlight,
                ..
            }
        );
        if now >= self.held_until && !in_flight {
            self.lose(now);
        }
        match self.phase {
            Phase::Running if now >= self.times_out_at => return Directive::TimedOut,
            Phase::Ending { until, reason } if now >= until.min(self.times_out_at) => {
                let (outcome, ended) = reason.outcome();
                self.settle(outcome, ended, now);
            }
            _ => {}
        }
        let due_at = self.due_at().unwrap_or(now);
        match &mut self.phase {
            Phase::Running | Phase::Ending { .. } => Directive::Run(due_at),
            Phase::Settling { progress, outcome, .. } => match *progress {
                Writing::Due(at) if now >= at => {
                    *progress = Writing::InFlight;
                    Directive::Settle(outcome.clone())
                }
                Writing::Due(at) => Directive::Wait(at.min(self.held_until)),
                // The caller that stores the outcome gives the answer to the machine. Other callers look again after a
                // second.
                Writing::InFlight => Directive::Wait(now + Duration::from_secs(1)),
            },
            Phase::Over(conclusion) => Directive::Over(*conclusion),
        }
    }

    /// How often the store did not answer the settlement.
    pub(crate) fn settle_tries(&self) -> u32 {
        match self.phase {
            Phase::Settling { tries, .. } => tries,
            _ => 0,
        }
    }

    fn cancel(&mut self, now: Instant, reason: CancelReason) {
        match &mut self.phase {
            Phase::Running => {
                self.phase = Phase::Ending {
                    until: now + self.stop_grace,
                    reason,
                };
            }
            // A stop overrides an earlier shutdown: the task must not run again.
            Phase::Ending { reason: present, .. } if reason == CancelReason::Stop => *present = CancelReason::Stop,
            _ => {}
        }
    }

    fn finish(&mut self, outcome: Outcome, ended: AttemptOutcome, now: Instant) {
        match self.phase {
            Phase::Running => self.settle(outcome, ended, now),
            Phase::Ending { .. } if matches!(outcome, Outcome::Succeeded { .. }) => self.settle(outcome, ended, now),
            // The handler ended because it was asked to stop, which is no failure.
            Phase::Ending { reason, .. } => {
                let (outcome, ended) = reason.outcome();
                self.settle(outcome, ended, now);
            }
            Phase::Settling { .. } | Phase::Over(_) => {}
        }
    }

    fn settle(&mut self, outcome: Outcome, ended: AttemptOutcome, now: Instant) {
        self.phase = Phase::Settling {
            outcome,
            ended,
            tries: 0,
            progress: Writing::Due(now),
        };
    }

    fn lose(&mut self, now: Instant) {
        if !matches!(self.phase, Phase::Over(_)) {
            self.phase = Phase::Over(Conclusion::Lost);
            self.lost_at = Some(now);
        }
    }
}

impl CancelReason {
    const fn outcome(self) -> (Outcome, AttemptOutcome) {
        match self {
            Self::Stop => (Outcome::Stopped, AttemptOutcome::Stopped),
            Self::Shutdown => (Outcome::Released, AttemptOutcome::Released),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::TaskState;

    const TIMEOUT: Duration = Duration::from_secs(100);
    const GRACE: Duration = Duration::from_secs(5);
    const HELD: Duration = Duration::from_secs(28);

    struct Bench {
        machine: Attempt,
        start: Instant,
    }

    impl Bench {
        fn new() -> Self {
            let start = Instant::now();
            let machine = Attempt::new(start, TIMEOUT, GRACE, start + HELD);
            Self { machine, start }
        }

        fn at(&self, secs: u64) -> Instant {
            self.start + Duration::from_secs(secs)
        }

        fn feed(&mut self, secs: u64, input: Input) -> Directive {
            let now = self.at(secs);
            self.machine.handle(input, now);
            self.machine.directive(now)
        }

        fn ask(&mut self, secs: u64) -> Directive {
            self.machine.directive(self.at(secs))
        }
    }

    fn failed() -> Input {
        let error = "no".into();
        Input::Finished(Outcome::Failed { error, response: None }, AttemptOutcome::Failed)
    }

    fn accepted(state: TaskState) -> Settled {
        Settled::Accepted { state, outbox: false }
    }

    #[test]
    fn a_result_is_written_down_once() {
        let mut bench = Bench::new();
        assert!(matches!(bench.ask(0), Directive::Run(_)));
        assert!(matches!(
            bench.feed(1, failed()),
            Directive::Settle(Outcome::Failed { .. })
        ));
        assert!(
            matches!(bench.ask(1), Directive::Wait(_)),
            "a second caller does not get it"
        );
        let settled = accepted(TaskState::Failed);
        let over = bench.feed(2, Input::Settled(settled));
        assert!(matches!(over, Directive::Over(Conclusion::Settled(s, AttemptOutcome::Failed)) if s == settled));
    }

    #[test]
    fn nothing_is_written_past_the_local_deadline() {
        let mut bench = Bench::new();
        assert!(matches!(bench.feed(28, failed()), Directive::Over(Conclusion::Lost)));
        let mut bench = Bench::new();
        bench.machine.handle(Input::Renewed(bench.at(40)), bench.at(10));
        assert!(
            matches!(bench.feed(28, failed()), Directive::Settle(_)),
            "a renewal moves it"
        );
    }

    #[test]
    fn a_settlement_without_an_answer_is_repeated_while_the_claim_holds() {
        let mut bench = Bench::new();
        assert!(matches!(bench.feed(1, failed()), Directive::Settle(_)));
        let again = bench.feed(2, Input::NotSettled(Duration::from_secs(3)));
        assert!(matches!(again, Directive::Wait(at) if at == bench.at(5)));
        assert!(matches!(bench.ask(5), Directive::Settle(_)));
        assert_eq!(bench.machine.settle_tries(), 1);
        bench
            .machine
            .handle(Input::NotSettled(Duration::from_secs(60)), bench.at(6));
        assert!(matches!(bench.ask(28), Directive::Over(Conclusion::Lost)));
    }

    #[test]
    fn a_stop_gives_the_handler_its_grace_and_then_none() {
        let mut bench = Bench::new();
        let run = bench.feed(1, Input::StopAsked);
        assert!(matches!(run, Directive::Run(until) if until == bench.at(6)));
        assert!(bench.machine.is_cancelled());
        assert!(matches!(bench.ask(6), Directive::Settle(Outcome::Stopped)));

        let mut bench = Bench::new();
        bench.feed(1, Input::StopAsked);
        let early = bench.feed(2, failed());
        assert!(
            matches!(early, Directive::Settle(Outcome::Stopped)),
            "ending on request is no failure"
        );
    }

    #[test]
    fn a_shutdown_hands_back_but_a_stop_wins_over_it() {
        let mut bench = Bench::new();
        bench.feed(1, Input::Cut);
        assert!(matches!(bench.ask(6), Directive::Settle(Outcome::Released)));

        let mut bench = Bench::new();
        bench.feed(1, Input::Cut);
        bench.feed(2, Input::StopAsked);
        assert!(matches!(bench.ask(6), Directive::Settle(Outcome::Stopped)));
    }

    #[test]
    fn time_runs_out_for_the_handler_even_under_a_good_lease() {
        let mut bench = Bench::new();
        bench.machine.handle(Input::Renewed(bench.at(1000)), bench.at(1));
        assert!(matches!(bench.ask(99), Directive::Run(until) if until == bench.at(100)));
        assert!(matches!(bench.ask(100), Directive::TimedOut));
        assert!(matches!(bench.feed(100, failed()), Directive::Settle(_)));
    }

    #[test]
    fn a_lost_lease_ends_it_unless_its_own_settlement_is_on_the_way() {
        let mut bench = Bench::new();
        assert!(matches!(
            bench.feed(1, Input::LeaseLost),
            Directive::Over(Conclusion::Lost)
        ));

        let mut bench = Bench::new();
        bench.feed(1, failed());
        assert!(matches!(bench.feed(2, Input::LeaseLost), Directive::Wait(_)));
        let settled = bench.feed(3, Input::Settled(accepted(TaskState::Failed)));
        assert!(matches!(settled, Directive::Over(Conclusion::Settled(..))));
    }
}
