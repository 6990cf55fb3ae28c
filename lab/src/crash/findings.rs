//! The checks, their counts, and the violations found.

use std::fmt;

use tower_respond_async::RequestId;

use super::journal::{Line, Told};

/// What is checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Check {
    /// A task that was accepted, or that ran, is there.
    Lost,
    /// Every task ends.
    Unfinished,
    /// One request makes one task, which ends once in each generation.
    Twice,
    /// Only the latest claim of a generation ends it.
    Fenced,
    /// Some order of the calls explains the answers of the store.
    Order,
    /// The hook is called for every end and for nothing else: all calls for one end have one id, and each end has its
    /// own.
    Hook,
    /// A webhook arrives for every end and for nothing else, and every message verifies.
    Webhook,
    /// There are no more attempts than allowed, and poison only after crashes.
    Attempts,
    /// A task whose stop was acknowledged does not run again, and ends as stopped.
    Stop,
    /// An acknowledged re-run takes place.
    Rerun,
    /// Answers are as expected.
    Answer,
    /// A process that is asked to end does so.
    Shutdown,
}

/// A check that failed.
#[derive(Clone, Debug)]
pub struct Violation {
    pub check: Check,
    pub what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.check, self.what)
    }
}

/// The counts and the violations.
#[derive(Clone, Debug, Default)]
pub struct Findings {
    /// Tasks that were checked.
    pub tasks: u64,
    /// Ends of generations that were checked.
    pub ends: u64,
    /// Tasks that had ended and were pruned before they were checked.
    pub pruned: u64,
    /// Requests that left no trace: sent, not answered, not stored.
    pub never_stored: u64,
    /// Requests sent that got no answer.
    pub unanswered: u64,
    /// Tasks that were given up because their process died too often.
    pub poisoned: u64,
    /// Calls of handlers beyond the first.
    pub run_again: u64,
    /// Calls of hooks beyond the first for one end.
    pub told_again: u64,
    /// Webhooks that arrived and were verified.
    pub verified: u64,
    /// Settlements that the store refused because their claim was gone.
    pub refused: u64,
    /// Stops that were acknowledged.
    pub stopped: u64,
    /// Ends whose hook or webhook call is still missing.
    pub untold: Vec<Untold>,
    pub violations: Vec<Violation>,
}

/// An end whose hook or webhook call is missing so far. It becomes a violation unless the call comes later.
#[derive(Clone, Debug)]
pub struct Untold {
    pub(crate) nonce: String,
    pub(crate) id: RequestId,
    pub(crate) generation: u32,
    /// Whether the hook was called.
    pub(crate) told: bool,
    /// Whether the webhook arrived.
    pub(crate) received: bool,
    /// The expected state, if known.
    pub(crate) state: Option<String>,
}

impl Findings {
    pub fn add(&mut self, other: Self) {
        self.tasks += other.tasks;
        self.ends += other.ends;
        self.pruned += other.pruned;
        self.never_stored += other.never_stored;
        self.unanswered += other.unanswered;
        self.poisoned += other.poisoned;
        self.run_again += other.run_again;
        self.told_again += other.told_again;
        self.verified += other.verified;
        self.refused += other.refused;
        self.stopped += other.stopped;
        self.untold.extend(other.untold);
        self.violations.extend(other.violations);
    }

    /// Counts webhooks, and removes untold ends whose calls have come since.
    pub fn hear(&mut self, lines: &[Line]) {
        for line in lines {
            match line {
                Line::Told(told) => self.hear_told(told),
                Line::Received { id, generation } => {
                    self.verified += 1;
                    if let Some(untold) = self.untold_of(*id, *generation) {
                        untold.received = true;
                    }
                }
                Line::Unverified { what } => self.violated(Check::Webhook, what),
                _ => {}
            }
        }
        self.untold.retain(|untold| !(untold.told && untold.received));
    }

    fn hear_told(&mut self, told: &Told) {
        let Some(untold) = self.untold_of(told.id, told.generation) else {
            return;
        };
        untold.told = true;
        if untold.state.as_ref().is_some_and(|state| *state != told.state) {
            let Untold { nonce, id, state, .. } = untold;
            let what = format!("{nonce} ({id}): it is {state:?}, and {} was told", told.state);
            self.violated(Check::Twice, what);
        }
    }

    fn untold_of(&mut self, id: RequestId, generation: u32) -> Option<&mut Untold> {
        let mut all = self.untold.iter_mut();
        all.find(|untold| (untold.id, untold.generation) == (id, generation))
    }

    /// Turns all untold ends into violations: no more calls will come.
    pub fn give_up_on_the_untold(&mut self) {
        for untold in std::mem::take(&mut self.untold) {
            let of = format!(
                "{} ({}): the end of generation {}",
                untold.nonce, untold.id, untold.generation
            );
            if !untold.told {
                self.violated(Check::Hook, format!("{of} was not told"));
            }
            if !untold.received {
                self.violated(Check::Webhook, format!("{of} was not received"));
            }
        }
    }

    /// How many violations of one check were found.
    pub fn count(&self, check: Check) -> usize {
        self.violations
            .iter()
            .filter(|violation| violation.check == check)
            .count()
    }

    pub(crate) fn violated(&mut self, check: Check, what: impl Into<String>) {
        let what = what.into();
        self.violations.push(Violation { check, what });
    }
}

/// A table for people.
impl fmt::Display for Findings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "tasks checked                {:>8}", self.tasks)?;
        writeln!(f, "ends checked                 {:>8}", self.ends)?;
        writeln!(f, "lost                         {:>8}", self.count(Check::Lost))?;
        writeln!(f, "not ended                    {:>8}", self.count(Check::Unfinished))?;
        writeln!(f, "stored or ended twice        {:>8}", self.count(Check::Twice))?;
        writeln!(f, "fenced writes accepted       {:>8}", self.count(Check::Fenced))?;
        writeln!(f, "answers without an order     {:>8}", self.count(Check::Order))?;
        writeln!(f, "missing hooks                {:>8}", self.count(Check::Hook))?;
        writeln!(f, "missing or false webhooks    {:>8}", self.count(Check::Webhook))?;
        writeln!(f, "violations in all            {:>8}", self.violations.len())?;
        writeln!(f, "on the way:")?;
        writeln!(f, "  sendings without answer    {:>8}", self.unanswered)?;
        writeln!(f, "  requests never stored      {:>8}", self.never_stored)?;
        writeln!(f, "  handlers run again         {:>8}", self.run_again)?;
        writeln!(f, "  hooks called again         {:>8}", self.told_again)?;
        writeln!(f, "  webhooks verified          {:>8}", self.verified)?;
        writeln!(f, "  fenced writes refused      {:>8}", self.refused)?;
        writeln!(f, "  stops acknowledged         {:>8}", self.stopped)?;
        writeln!(f, "  given up as poison         {:>8}", self.poisoned)?;
        write!(f, "  ended and pruned           {:>8}", self.pruned)
    }
}
