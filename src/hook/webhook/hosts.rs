//! Bounds the tries that are made at once to one host, where requests name the hosts.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use crate::hook::TryOutcome;

/// Tries at once to one host: one that does not answer leaves three quarters of the slots to others.
const AT_ONCE: usize = 4;

/// After this many failures in a row, a host gets one try at a time.
const FAILURES_ALLOWED: u32 = 3;

/// The shortest duration that a try is estimated at; also the estimate before any was measured.
const SHORTEST: Duration = Duration::from_millis(100);

/// The longest wait for a turn. After it, the delivery may be sent to wait again.
const LONGEST_WAIT: Duration = Duration::from_secs(10 * 60);

/// How many hosts are kept. With more, all hosts without a try under way are removed, and start anew.
const HOSTS_KEPT: usize = 10_000;

/// The hosts that tries are made to.
#[derive(Clone, Default)]
pub(super) struct Hosts(Arc<Mutex<HashMap<Box<str>, Host>>>);

struct Host {
    under_way: usize,
    failures: u32,
    /// A running mean of how long its tries took.
    took: Duration,
    /// The turn of the last delivery that waits.
    turn: Instant,
}

/// Whether a try may be made now.
pub(super) enum Turn {
    /// It may be made now.
    Now(UnderWay),
    /// Others come first: it may be made after about this time. Each waiting delivery gets a time of its own, so that
    /// they do not all come back at once, again and again.
    Later(Duration),
}

/// A try under way. Dropping it ends the try.
pub(super) struct UnderWay {
    hosts: Hosts,
    host: Box<str>,
    began: Instant,
    failed: Option<bool>,
}

impl Hosts {
    pub(super) fn enter(&self, host: &str) -> Turn {
        self.enter_at(host, Instant::now())
    }

    fn enter_at(&self, name: &str, now: Instant) -> Turn {
        let mut hosts = self.lock();
        if hosts.len() >= HOSTS_KEPT && !hosts.contains_key(name) {
            hosts.retain(|_, host| host.under_way > 0);
        }
        let host = hosts.entry(name.into()).or_insert_with(|| Host::new(now));
        let at_once = if host.failures < FAILURES_ALLOWED { AT_ONCE } else { 1 };
        if host.under_way < at_once {
            host.under_way += 1;
            return Turn::Now(UnderWay {
                hosts: self.clone(),
                host: name.into(),
                began: now,
                failed: None,
            });
        }
        host.turn = host.turn.max(now) + host.took.max(SHORTEST) / at_once as u32;
        Turn::Later((host.turn - now).min(LONGEST_WAIT))
    }

    fn leave(&self, name: &str, failed: Option<bool>, took: Duration, now: Instant) {
        let mut hosts = self.lock();
        let Some(host) = hosts.get_mut(name) else { return };
        host.under_way -= 1;
        host.took = (host.took * 3 + took) / 4;
        match failed {
            Some(true) => host.failures = host.failures.saturating_add(1),
            Some(false) => host.failures = 0,
            None => {}
        }
        if host.under_way == 0 && host.failures == 0 && host.turn <= now {
            hosts.remove(name);
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Box<str>, Host>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Host {
    const fn new(now: Instant) -> Self {
        Self {
            under_way: 0,
            failures: 0,
            took: SHORTEST,
            turn: now,
        }
    }
}

impl UnderWay {
    /// Records how the try ended.
    pub(super) fn over(mut self, outcome: TryOutcome) {
        self.failed = Some(matches!(outcome, TryOutcome::Failed { .. }));
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        let now = Instant::now();
        let took = now.saturating_duration_since(self.began);
        self.hosts.leave(&self.host, self.failed, took, now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FAILED: TryOutcome = TryOutcome::Failed { retry_after: None };

    fn now(turn: Turn) -> UnderWay {
        match turn {
            Turn::Now(under_way) => under_way,
            Turn::Later(wait) => panic!("it has to wait for {wait:?}"),
        }
    }

    fn later(turn: Turn) -> Duration {
        match turn {
            Turn::Now(_) => panic!("it need not wait"),
            Turn::Later(wait) => wait,
        }
    }

    #[test]
    fn a_few_at_once_and_the_others_in_turn() {
        let hosts = Hosts::default();
        let at = Instant::now();
        let under_way: Vec<_> = (0..AT_ONCE).map(|_| now(hosts.enter_at("a", at))).collect();
        let waits: Vec<_> = (0..3).map(|_| later(hosts.enter_at("a", at)).as_millis()).collect();
        assert_eq!(waits, [25, 50, 75], "each has a time of its own");
        drop(now(hosts.enter_at("b", at)));
        drop(under_way);
        let _again = now(hosts.enter_at("a", at));
    }

    #[test]
    fn a_host_that_fails_has_one_at_a_time_until_it_does_not() {
        let hosts = Hosts::default();
        let at = Instant::now();
        for _ in 0..FAILURES_ALLOWED {
            now(hosts.enter_at("a", at)).over(FAILED);
        }
        let one = now(hosts.enter_at("a", at));
        let _ = later(hosts.enter_at("a", at));
        one.over(TryOutcome::Delivered);
        let _all: Vec<_> = (0..AT_ONCE).map(|_| now(hosts.enter_at("a", at))).collect();
    }

    #[test]
    fn hosts_are_forgotten() {
        let hosts = Hosts::default();
        let at = Instant::now();
        drop(now(hosts.enter_at("a", at)));
        assert!(hosts.lock().is_empty());
        let _kept = now(hosts.enter_at("kept", at));
        for number in 0..2 * HOSTS_KEPT {
            now(hosts.enter_at(&number.to_string(), at)).over(FAILED);
        }
        assert!(hosts.lock().len() <= HOSTS_KEPT && hosts.lock().contains_key("kept"));
    }
}
