//! The states of a task, and the one table of where each step leads.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The state of a task.
///
/// ```text
/// Enqueued ──> Running ──> Succeeded | Failed
///    ^            ├──> Retrying ──> Running ...
///    └────────────┤   (released or rescued)
///                 └──> Stopping ──> Stopped
/// ```
///
/// A task that waits can also end as `Stopped`, as `Expired` (it waited longer than its age allows) or as `Invalid`
/// (its stored data cannot be read). The enum is exhaustive: a new state would change every promise of this crate.
///
/// # Examples
///
/// ```
/// use tower_respond_async::{TaskState, task::{Condition, Step}};
///
/// assert_eq!(TaskState::Enqueued.after(Step::Claim), Ok(TaskState::Running));
/// assert!(TaskState::Succeeded.after(Step::Claim).is_err());
/// assert!(TaskState::Expired.is_terminal());
/// assert_eq!(TaskState::Expired.condition(), Some(Condition::Failure));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum TaskState {
    /// Accepted, and waiting for a slot or for its time.
    Enqueued,
    /// A worker holds it, and its handler runs.
    Running,
    /// An attempt failed, or its handler answered "not now"; the next attempt waits for its time.
    Retrying,
    /// A stop was requested while a worker holds it.
    Stopping,
    /// Ended with a response that counts as success.
    Succeeded,
    /// Ended without success: the handler failed for good, no retries are left, or its process died too often.
    Failed,
    /// Ended because a stop was requested.
    Stopped,
    /// Waited longer than its age allows.
    Expired,
    /// Could not be run: its stored data cannot be read.
    Invalid,
}

impl TaskState {
    /// Every state, in the order of a task's life.
    pub const ALL: [Self; 9] = [
        Self::Enqueued,
        Self::Running,
        Self::Retrying,
        Self::Stopping,
        Self::Succeeded,
        Self::Failed,
        Self::Stopped,
        Self::Expired,
        Self::Invalid,
    ];

    /// The name on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Enqueued => "Enqueued",
            Self::Running => "Running",
            Self::Retrying => "Retrying",
            Self::Stopping => "Stopping",
            Self::Succeeded => "Succeeded",
            Self::Failed => "Failed",
            Self::Stopped => "Stopped",
            Self::Expired => "Expired",
            Self::Invalid => "Invalid",
        }
    }

    /// Whether it has ended. Only [`Step::Rerun`] leads out of such a state.
    #[must_use]
    pub const fn is_terminal(self) -> bool {
        self.condition().is_some()
    }

    /// Whether it waits to be claimed.
    #[must_use]
    pub const fn is_queued(self) -> bool {
        matches!(self, Self::Enqueued | Self::Retrying)
    }

    /// Whether a worker holds the task.
    #[must_use]
    pub const fn is_held(self) -> bool {
        matches!(self, Self::Running | Self::Stopping)
    }

    /// The kind of end that this is, if it is one. Hooks subscribe to these.
    #[must_use]
    pub const fn condition(self) -> Option<Condition> {
        match self {
            Self::Succeeded => Some(Condition::Success),
            Self::Failed | Self::Expired | Self::Invalid => Some(Condition::Failure),
            Self::Stopped => Some(Condition::Stop),
            Self::Enqueued | Self::Running | Self::Retrying | Self::Stopping => None,
        }
    }

    /// The state that `step` leads to from here: **the** transition table. Nothing else in the crate decides a state.
    ///
    /// # Errors
    ///
    /// [`Refused`] when the step is not possible from this state.
    pub const fn after(self, step: Step) -> Result<Self, Refused> {
        Ok(match (self, step) {
            (Self::Enqueued | Self::Retrying, Step::Claim) => Self::Running,
            (Self::Enqueued | Self::Retrying, Step::Stop) => Self::Stopped,
            (Self::Enqueued | Self::Retrying, Step::Expire) => Self::Expired,
            (Self::Enqueued | Self::Retrying, Step::Invalidate) => Self::Invalid,

            (Self::Running, Step::Succeed) => Self::Succeeded,
            (Self::Running, Step::Fail | Step::Poison) => Self::Failed,
            (Self::Running, Step::Retry | Step::Defer) => Self::Retrying,
            (Self::Running, Step::Release | Step::Rescue) => Self::Enqueued,
            (Self::Running, Step::Stop) => Self::Stopping,

            // A stop was requested, so the task ends as stopped, however the attempt ended.
            (Self::Running | Self::Stopping, Step::Stopped) => Self::Stopped,
            (
                Self::Stopping,
                Step::Succeed | Step::Fail | Step::Retry | Step::Defer | Step::Release | Step::Rescue | Step::Poison,
            ) => Self::Stopped,
            (Self::Stopping, Step::Stop) => Self::Stopping,

            (Self::Succeeded | Self::Failed | Self::Stopped | Self::Expired | Self::Invalid, Step::Rerun) => {
                Self::Enqueued
            }

            (state, step) => return Err(Refused { state, step }),
        })
    }
}

impl fmt::Display for TaskState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A step in the life of a task.
///
/// See the example of [`TaskState`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Step {
    /// A worker takes it.
    Claim,
    /// Its attempt succeeded.
    Succeed,
    /// Its attempt failed, and was the last.
    Fail,
    /// Its attempt failed, and another is due later.
    Retry,
    /// Another attempt is due later, and none is charged: the handler answered "not now", or the process lacks its
    /// route.
    Defer,
    /// Its worker hands it back; no attempt is charged.
    Release,
    /// Its lease ran out: the worker is presumed dead.
    Rescue,
    /// Its lease ran out too often: it is presumed to kill its workers.
    Poison,
    /// A stop is requested.
    Stop,
    /// Its worker has stopped it.
    Stopped,
    /// It waited too long.
    Expire,
    /// Its stored data cannot be read.
    Invalidate,
    /// It has ended, and is requested to run again.
    Rerun,
}

impl Step {
    /// Every step.
    pub const ALL: [Self; 13] = [
        Self::Claim,
        Self::Succeed,
        Self::Fail,
        Self::Retry,
        Self::Defer,
        Self::Release,
        Self::Rescue,
        Self::Poison,
        Self::Stop,
        Self::Stopped,
        Self::Expire,
        Self::Invalidate,
        Self::Rerun,
    ];
}

/// A step that is not possible from a state.
///
/// See the example of [`TaskState`]: a step that does not lead on returns one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a task that is {state} cannot take the step {step:?}")]
pub struct Refused {
    /// The state of the task.
    pub state: TaskState,
    /// The step that was tried.
    pub step: Step,
}

/// The kinds of end that a hook can subscribe to.
///
/// See the example of [`Conditions`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Condition {
    /// Succeeded.
    Success,
    /// Failed, Expired or Invalid.
    Failure,
    /// Stopped.
    Stop,
}

/// A set of [`Condition`]s.
///
/// # Examples
///
/// ```
/// use tower_respond_async::task::{Condition, Conditions};
///
/// let on = Conditions::NONE.with(Condition::Failure).with(Condition::Stop);
/// assert!(on.contains(Condition::Stop) && !on.contains(Condition::Success));
/// assert_eq!(Conditions::from_bits(on.bits()), on);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Conditions(u8);

impl Conditions {
    /// None of them.
    pub const NONE: Self = Self(0);
    /// Every kind of end.
    pub const ALL: Self = Self(0b111);

    /// This set with `condition` in it.
    #[must_use]
    pub const fn with(self, condition: Condition) -> Self {
        Self(self.0 | 1 << condition as u8)
    }

    /// The conditions of both sets.
    #[must_use]
    pub const fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether `condition` is in it.
    #[must_use]
    pub const fn contains(self, condition: Condition) -> bool {
        self.0 & 1 << condition as u8 != 0
    }

    /// Whether nothing is in it.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The set as bits, for a store to keep.
    #[must_use]
    pub const fn bits(self) -> u8 {
        self.0
    }

    /// The set with these bits; unknown ones are dropped.
    #[must_use]
    pub const fn from_bits(bits: u8) -> Self {
        Self(bits & Self::ALL.0)
    }
}

/// A set of [`TaskState`]s.
///
/// See the example of [`Filter`](crate::task::Filter).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct StateSet(u16);

impl StateSet {
    /// The empty set. A filter by it finds nothing.
    pub const NONE: Self = Self(0);

    /// This set with `state` in it.
    #[must_use]
    pub const fn with(self, state: TaskState) -> Self {
        Self(self.0 | 1 << state as u16)
    }

    /// Whether `state` is in it.
    #[must_use]
    pub const fn contains(self, state: TaskState) -> bool {
        self.0 & 1 << state as u16 != 0
    }
}

impl FromIterator<TaskState> for StateSet {
    fn from_iter<I: IntoIterator<Item = TaskState>>(states: I) -> Self {
        states.into_iter().fold(Self::NONE, Self::with)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_state_changes_only_by_rerun() {
        for state in TaskState::ALL.into_iter().filter(|state| state.is_terminal()) {
            for step in Step::ALL {
                let expected = match step {
                    Step::Rerun => Ok(TaskState::Enqueued),
                    _ => Err(Refused { state, step }),
                };
                assert_eq!(state.after(step), expected, "{state} {step:?}");
            }
        }
    }

    #[test]
    fn a_stopping_task_can_only_end_as_stopped() {
        for step in Step::ALL {
            if let Ok(next) = TaskState::Stopping.after(step) {
                assert!(
                    matches!(next, TaskState::Stopped | TaskState::Stopping),
                    "{step:?} {next}"
                );
            }
        }
    }

    #[test]
    fn only_a_claim_leads_to_running() {
        for state in TaskState::ALL {
            for step in Step::ALL {
                if state.after(step) == Ok(TaskState::Running) {
                    assert_eq!(step, Step::Claim);
                    assert!(state.is_queued());
                }
            }
        }
    }

    #[test]
    fn every_live_state_can_end() {
        for state in TaskState::ALL.into_iter().filter(|state| !state.is_terminal()) {
            let ends = Step::ALL
                .iter()
                .filter(|step| state.after(**step).is_ok_and(TaskState::is_terminal));
            assert!(ends.count() > 0, "{state}");
        }
    }
}
