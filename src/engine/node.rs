//! What a process does besides running attempts, as a pure machine: claim, rescue, prune, deliver, look, report, read
//! the named values.
//!
//! Each duty has a small timetable: not before a time, one call at a time, sooner after a hint, later after a failure.
//! The caller asks for [`Action`]s until there is none, and then when to come back. Coming back early does no harm.

use std::time::Duration;

use tokio::time::Instant;

/// A hint of the store has no effect for this time after the last one: a store that always hints must not keep the
/// driver spinning.
pub(crate) const QUIET: Duration = Duration::from_millis(5);

/// How often each duty runs without a hint. Polling makes up for lost notifications, so it never stops; a second is the
/// longest delay that a lost one causes.
const CLAIM_EVERY: Duration = Duration::from_secs(1);
/// Or half of a lease, if that is shorter. A look costs one indexed query.
const RESCUE_EVERY: Duration = Duration::from_secs(5);
const PRUNE_EVERY: Duration = Duration::from_secs(10);
const DELIVER_EVERY: Duration = Duration::from_secs(5);
const REPORT_EVERY: Duration = Duration::from_secs(5);
/// Each claim reports a newer version as well.
const CONTROL_EVERY: Duration = Duration::from_secs(60);
/// The longest time until a waiter gets a change of another process that no notification reported.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The pause after a failed call doubles from here ...
const PAUSE_BASE: Duration = Duration::from_millis(100);
/// ... to here, so that the end of an outage is noticed within seconds.
const PAUSE_CAP: Duration = Duration::from_secs(10);

/// How many tasks one call claims at most: enough to fill any sensible number of slots in a few calls, few enough that
/// several processes share a backlog evenly.
const CLAIM_BATCH: usize = 100;

/// The duties of one process.
pub(crate) struct Node {
    claim: Duty,
    rescue: Duty,
    prune: Duty,
    deliver: Duty,
    look: Duty,
    report: Duty,
    control: Duty,
    claiming: bool,
    delivering: bool,
    watching: bool,
}

/// One duty's timetable.
struct Duty {
    every: Duration,
    due_at: Instant,
    in_flight: bool,
    /// A hint came during a call, which may have missed its cause.
    again: bool,
    failures: u32,
}

/// Something to do now. Each is answered with [`Node::done`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Claim up to so many tasks.
    Claim(usize),
    /// Find tasks whose lease or age ran out.
    Rescue,
    /// Give up completions that no process delivers, and remove old tasks.
    Prune,
    /// Claim up to so many completions.
    Deliver(usize),
    /// Read the tasks that have waiters.
    Look,
    /// Report the state to the probes.
    Report,
    /// Read the store's named values.
    Control,
}

/// How an action went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// There may be more to do at once.
    More,
    /// There is nothing to do before this time.
    Idle(Option<Duration>),
    /// It failed.
    Failed,
}

/// A reason to look before it is time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hint {
    /// A task may be runnable.
    Work,
    /// A completion may be due.
    Outbox,
    /// A task with waiters may have changed.
    Changes,
    /// A named value may have changed.
    Control,
}

impl Node {
    /// A process that starts now. Everything is due at once: the tasks that a dead predecessor left come first.
    pub(crate) fn new(now: Instant, lease: Duration) -> Self {
        Self {
            claim: Duty::new(CLAIM_EVERY, now),
            rescue: Duty::new(RESCUE_EVERY.min(lease / 2), now),
            prune: Duty::new(PRUNE_EVERY, now),
            deliver: Duty::new(DELIVER_EVERY, now),
            look: Duty::new(LOOK_EVERY, now),
            report: Duty::new(REPORT_EVERY, now),
            control: Duty::new(CONTROL_EVERY, now),
            claiming: true,
            delivering: true,
            watching: false,
        }
    }

    /// The next action, if one is due. `slots` and `deliverers` are the numbers of free ones, `jitter` is in
    /// `0.0..1.0`.
    pub(crate) fn next(&mut self, now: Instant, slots: usize, deliverers: usize, jitter: f64) -> Option<Action> {
        // First: the paused pools must be known before anything is claimed.
        if self.control.begin(now, jitter) {
            return Some(Action::Control);
        }
        if self.claiming && slots > 0 && self.claim.begin(now, jitter) {
            return Some(Action::Claim(slots.min(CLAIM_BATCH)));
        }
        if self.delivering && deliverers > 0 && self.deliver.begin(now, jitter) {
            return Some(Action::Deliver(deliverers));
        }
        if self.watching && self.look.begin(now, jitter) {
            return Some(Action::Look);
        }
        let others = [
            (&mut self.rescue, Action::Rescue),
            (&mut self.prune, Action::Prune),
            (&mut self.report, Action::Report),
        ];
        others
            .into_iter()
            .find_map(|(duty, action)| duty.begin(now, jitter).then_some(action))
    }

    /// Whether a claim is due but no slot is free.
    pub(crate) fn waits_for_slot(&self, now: Instant, slots: usize) -> bool {
        slots == 0 && self.claiming && !self.claim.in_flight && self.claim.due_at <= now
    }

    /// When [`next`](Self::next) has an action at the latest, without hints and answers.
    pub(crate) fn wake_at(&self, now: Instant, slots: usize, deliverers: usize) -> Instant {
        let mut at = now + REPORT_EVERY;
        let mut consider = |duty: &Duty, able: bool| {
            if able && !duty.in_flight {
                at = at.min(duty.due_at);
            }
        };
        // A claim that is due waits for a slot; one that is not yet due waits for its time.
        consider(&self.claim, self.claiming && (slots > 0 || self.claim.due_at > now));
        consider(&self.deliver, self.delivering && deliverers > 0);
        consider(&self.look, self.watching);
        consider(&self.rescue, true);
        consider(&self.prune, true);
        consider(&self.report, true);
        consider(&self.control, true);
        at
    }

    /// Records the result of an action. Returns the pause before the machine repeats a failed one.
    pub(crate) fn done(&mut self, action: Action, answer: Answer, now: Instant, jitter: f64) -> Duration {
        let duty = match action {
            Action::Claim(_) => &mut self.claim,
            Action::Rescue => &mut self.rescue,
            Action::Prune => &mut self.prune,
            Action::Deliver(_) => &mut self.deliver,
            Action::Look => &mut self.look,
            Action::Report => &mut self.report,
            Action::Control => &mut self.control,
        };
        duty.end(answer, now, jitter)
    }

    /// Takes a hint.
    pub(crate) fn hint(&mut self, hint: Hint, now: Instant) {
        match hint {
            Hint::Work => self.claim.hint(now),
            Hint::Outbox => self.deliver.hint(now),
            Hint::Changes => self.look.hint(now),
            Hint::Control => self.control.hint(now),
        }
    }

    /// Whether tasks that another process may change have waiters. The first look is later: a new waiter has just read
    /// its task.
    pub(crate) fn watch(&mut self, watching: bool, now: Instant) {
        if watching && !self.watching {
            self.look.due_at = now + LOOK_EVERY;
        }
        self.watching = watching;
    }

    /// Claims no more tasks: the first step of a shutdown.
    pub(crate) fn stop_claiming(&mut self) {
        self.claiming = false;
    }

    /// Claims no more completions: the second step.
    pub(crate) fn stop_delivering(&mut self) {
        self.delivering = false;
    }
}

impl Duty {
    fn new(every: Duration, now: Instant) -> Self {
        Self {
            every,
            due_at: now,
            in_flight: false,
            again: false,
            failures: 0,
        }
    }

    fn begin(&mut self, now: Instant, jitter: f64) -> bool {
        if self.in_flight || now < self.due_at {
            return false;
        }
        self.in_flight = true;
        self.again = false;
        self.due_at = now + spread(self.every, jitter);
        true
    }

    fn end(&mut self, answer: Answer, now: Instant, jitter: f64) -> Duration {
        self.in_flight = false;
        let pause = match answer {
            Answer::More => Duration::ZERO,
            Answer::Idle(next) => spread(self.every, jitter).min(next.unwrap_or(Duration::MAX)),
            Answer::Failed => {
                let doubled = PAUSE_BASE.saturating_mul(1 << self.failures.min(10));
                spread(doubled.min(PAUSE_CAP), jitter)
            }
        };
        if answer == Answer::Failed {
            // A hint must not shorten the pause after a failure of the store.
            self.failures += 1;
            self.due_at = now + pause;
        } else {
            self.failures = 0;
            self.due_at = if self.again { now } else { now + pause };
        }
        pause
    }

    fn hint(&mut self, now: Instant) {
        self.again = true;
        if !self.in_flight && self.failures == 0 {
            self.due_at = self.due_at.min(now);
        }
    }
}

/// The duration give or take a tenth, so that processes which started together do not poll together.
fn spread(duration: Duration, jitter: f64) -> Duration {
    duration.mul_f64(0.9 + 0.2 * jitter.clamp(0.0, 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEASE: Duration = Duration::from_secs(30);

    fn drain(node: &mut Node, now: Instant, slots: usize) -> Vec<Action> {
        std::iter::from_fn(|| node.next(now, slots, 4, 0.5)).collect()
    }

    fn idle(node: &mut Node, actions: &[Action], now: Instant) {
        for action in actions {
            node.done(*action, Answer::Idle(None), now, 0.5);
        }
    }

    #[test]
    fn everything_is_due_at_the_start_and_once_only() {
        let now = Instant::now();
        let mut node = Node::new(now, LEASE);
        let actions = drain(&mut node, now, 8);
        let expected = [
            Action::Control,
            Action::Claim(8),
            Action::Deliver(4),
            Action::Rescue,
            Action::Prune,
            Action::Report,
        ];
        assert_eq!(actions, expected);
        assert_eq!(
            drain(&mut node, now + LEASE, 8),
            [],
            "a call under way is not made again"
        );
        idle(&mut node, &actions, now);
        assert_eq!(node.wake_at(now, 8, 4), now + CLAIM_EVERY);
        let due = now + CLAIM_EVERY;
        assert!(!node.waits_for_slot(now, 0) && node.waits_for_slot(due, 0));
        let others = now + DELIVER_EVERY.min(RESCUE_EVERY);
        assert_eq!(node.wake_at(due, 0, 4), others, "without a slot nothing is claimed");
    }

    #[test]
    fn a_hint_that_comes_during_a_claim_is_not_lost() {
        let now = Instant::now();
        let mut node = Node::new(now, LEASE);
        let actions = drain(&mut node, now, 8);
        node.hint(Hint::Work, now);
        idle(&mut node, &actions, now);
        assert_eq!(drain(&mut node, now, 3), [Action::Claim(3)]);
    }

    #[test]
    fn a_store_in_trouble_is_left_alone_for_longer_and_longer() {
        let mut now = Instant::now();
        let mut node = Node::new(now, LEASE);
        let actions = drain(&mut node, now, 8);
        idle(&mut node, &actions[1..], now);
        let mut last = Duration::ZERO;
        for _ in 0..20 {
            let pause = node.done(Action::Claim(8), Answer::Failed, now, 0.5);
            assert!(pause >= last && pause <= PAUSE_CAP.mul_f64(1.1));
            node.hint(Hint::Work, now);
            assert!(
                !drain(&mut node, now, 8).contains(&Action::Claim(8)),
                "a hint does not break the pause"
            );
            now += pause;
            let due = drain(&mut node, now, 8);
            assert!(due.contains(&Action::Claim(8)));
            idle(&mut node, &due[1..], now);
            last = pause;
        }
    }

    #[test]
    fn a_known_due_time_is_kept() {
        let now = Instant::now();
        let mut node = Node::new(now, LEASE);
        let actions = drain(&mut node, now, 8);
        idle(&mut node, &actions, now);
        node.hint(Hint::Work, now);
        let claim = node.next(now, 8, 4, 0.5).unwrap();
        node.done(claim, Answer::Idle(Some(Duration::from_millis(30))), now, 0.5);
        assert_eq!(node.wake_at(now, 8, 4), now + Duration::from_millis(30));
    }

    #[test]
    fn a_shutdown_claims_nothing_more() {
        let now = Instant::now();
        let mut node = Node::new(now, LEASE);
        node.stop_claiming();
        node.stop_delivering();
        assert_eq!(
            drain(&mut node, now, 8),
            [Action::Control, Action::Rescue, Action::Prune, Action::Report]
        );
    }
}
