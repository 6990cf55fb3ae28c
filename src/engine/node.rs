//! Schedules what a process does besides running attempts, as a pure state machine: claim, rescue, prune, deliver,
//! look, report, read the named values.
//!
//! Each duty has a time at which it is due, and one call at a time. It runs sooner after a hint, and later after a
//! failure. The caller carries out each [`Action`] until there is none, then waits until [`Node::wake_at`]. Asking
//! earlier is harmless.

use std::time::Duration;

use tokio::time::Instant;

/// For this time after a hint of the store, the driver takes no other: a store that always has one must not keep the
/// driver spinning.
pub(crate) const QUIET: Duration = Duration::from_millis(5);

/// How often tasks are claimed without a hint. Polling never stops, so a lost notification delays a task by at most a
/// second.
const CLAIM_EVERY: Duration = Duration::from_secs(1);
/// How often leases are checked, or every half lease if that is shorter. A check costs one indexed query.
const RESCUE_EVERY: Duration = Duration::from_secs(5);
const PRUNE_EVERY: Duration = Duration::from_secs(10);
const DELIVER_EVERY: Duration = Duration::from_secs(5);
const REPORT_EVERY: Duration = Duration::from_secs(5);
/// Rare, because each claim reports a newer version of the named values as well.
const CONTROL_EVERY: Duration = Duration::from_secs(60);
/// The longest time until a waiter sees a change by another process that no notification reported.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The pause after the first failed call. It doubles with each further failure.
const PAUSE_BASE: Duration = Duration::from_millis(100);
/// The longest such pause, so that the end of an outage is noticed within seconds.
const PAUSE_CAP: Duration = Duration::from_secs(10);

/// How many tasks one call claims at most. A few calls fill any usual number of slots, and several processes share a
/// backlog evenly.
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

/// When one duty is due.
struct Duty {
    every: Duration,
    due_at: Instant,
    in_flight: bool,
    /// Whether a hint came during the call, which may have missed the cause of the hint.
    again: bool,
    failures: u32,
}

/// Something to do now. Report its result with [`Node::done`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Claim up to this many tasks.
    Claim(usize),
    /// Find tasks whose lease or age ran out.
    Rescue,
    /// Give up completions that no process delivers, and remove old tasks.
    Prune,
    /// Claim up to this many completions.
    Deliver(usize),
    /// Read the tasks that have waiters.
    Look,
    /// Report the state to the probes.
    Report,
    /// Read the store's named values.
    Control,
}

/// The result of an action.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// There may be more to do now.
    More,
    /// There is nothing to do now. If given, there is something to do after this time.
    Idle(Option<Duration>),
    /// It failed.
    Failed,
}

/// A reason to act before a duty is due.
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
    /// Creates the machine. Everything is due at once, so that tasks of an earlier process are found at once.
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

    /// The next action, if one is due. `slots` and `deliverers` are the numbers of free ones; `jitter` is in
    /// `0.0..1.0`.
    pub(crate) fn next(&mut self, now: Instant, slots: usize, deliverers: usize, jitter: f64) -> Option<Action> {
        // Comes first: the paused pools must be read before tasks are claimed.
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

    /// The time by which to call [`next`](Self::next) again if no hint and no answer comes.
    pub(crate) fn wake_at(&self, now: Instant, slots: usize, deliverers: usize) -> Instant {
        let mut at = now + REPORT_EVERY;
        let mut consider = |duty: &Duty, able: bool| {
            if able && !duty.in_flight {
                at = at.min(duty.due_at);
            }
        };
        // A claim that is due without a free slot has no time: freeing a slot wakes the driver.
        consider(&self.claim, self.claiming && (slots > 0 || self.claim.due_at > now));
        consider(&self.deliver, self.delivering && deliverers > 0);
        consider(&self.look, self.watching);
        consider(&self.rescue, true);
        consider(&self.prune, true);
        consider(&self.report, true);
        consider(&self.control, true);
        at
    }

    /// Records the result of an action. Returns the pause before a failed action is due again.
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

    /// Makes the duty of this hint due now, or after its call if one is under way.
    pub(crate) fn hint(&mut self, hint: Hint, now: Instant) {
        match hint {
            Hint::Work => self.claim.hint(now),
            Hint::Outbox => self.deliver.hint(now),
            Hint::Changes => self.look.hint(now),
            Hint::Control => self.control.hint(now),
        }
    }

    /// Sets whether tasks that another process may change have waiters. The first look comes later, because a new
    /// waiter has just read its task.
    pub(crate) fn watch(&mut self, watching: bool, now: Instant) {
        if watching && !self.watching {
            self.look.due_at = now + LOOK_EVERY;
        }
        self.watching = watching;
    }

    /// Claims no more tasks, in the first step of a shutdown.
    pub(crate) fn stop_claiming(&mut self) {
        self.claiming = false;
    }

    /// Claims no more completions, in the second step of a shutdown.
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

/// The duration, changed by up to a tenth, so that processes that started together do not poll together.
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
