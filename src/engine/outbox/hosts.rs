//! Which callback hosts answer.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use crate::{engine::outbox::destinations::FAILURES_ALLOWED, hook::TryOutcome};

/// The hosts that were tried.
#[derive(Debug, Default)]
pub(crate) struct Hosts(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    /// Whether each host answers. Shared with the readers.
    answers: Arc<HashMap<Box<str>, bool>>,
    /// The number of failed tries since the last answer, for hosts with too few to count as silent.
    failures: HashMap<Box<str>, u32>,
}

/// How many hosts are kept. Beyond that, all are dropped, and the next tries add them again.
const KEPT: usize = 10_000;

impl Hosts {
    /// Records the result of a try.
    pub(crate) fn note(&self, host: &str, outcome: TryOutcome) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Known { answers, failures } = &mut *known;
        let does = match outcome {
            TryOutcome::Delivered | TryOutcome::GivenUp => {
                failures.remove(host);
                true
            }
            TryOutcome::Failed { .. } => {
                if answers.get(host) == Some(&false) {
                    return;
                }
                if failures.len() >= KEPT {
                    failures.clear();
                }
                let so_far = failures.entry(host.into()).or_default();
                *so_far += 1;
                if *so_far < FAILURES_ALLOWED {
                    return;
                }
                failures.remove(host);
                false
            }
            TryOutcome::Blocked | TryOutcome::Postponed(_) => return,
        };
        if answers.get(host) != Some(&does) {
            let answers = Arc::make_mut(answers);
            if answers.len() >= KEPT {
                answers.clear();
            }
            answers.insert(host.into(), does);
        }
    }

    /// Whether each host that was tried answers.
    pub(crate) fn answers(&self) -> Arc<HashMap<Box<str>, bool>> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.answers.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FAILED: TryOutcome = TryOutcome::Failed { retry_after: None };

    #[test]
    fn a_host_answers_until_several_tries_in_a_row_have_failed() {
        let hosts = Hosts::default();
        let of = |host: &str| hosts.answers().get(host).copied();
        for _ in 1..FAILURES_ALLOWED {
            hosts.note("a", FAILED);
        }
        assert_eq!(of("a"), None, "so many may fail by chance");
        hosts.note("a", TryOutcome::Delivered);
        for _ in 1..FAILURES_ALLOWED {
            hosts.note("a", FAILED);
        }
        assert_eq!(of("a"), Some(true));
        hosts.note("a", FAILED);
        hosts.note("a", FAILED);
        assert_eq!((of("a"), of("b")), (Some(false), None));
        hosts.note("a", TryOutcome::GivenUp);
        assert_eq!(of("a"), Some(true));
    }

    #[test]
    fn strangers_do_not_make_it_grow_without_end() {
        let hosts = Hosts::default();
        for number in 0..2 * KEPT {
            hosts.note(&number.to_string(), TryOutcome::Delivered);
            hosts.note(&format!("f{number}"), FAILED);
        }
        let known = hosts.0.lock().unwrap();
        assert!(known.answers.len() <= KEPT && known.failures.len() <= KEPT);
    }
}
