//! Whole lives of several processes on one store, in pretend time, from a seed.
//!
//! The engine's decisions are two pure machines; this drives both, as the engine's driver does, with a pretend clock, a
//! store that loses and delays calls and replies, and processes that crash, freeze and shut down. After every step it
//! checks the invariants that hold at any moment; then the faults stop, and it checks that everything comes to its end.
//! The same seed gives the same run, to the last event: [`Report::trace`] tells.
//!
//! | invariant | checked |
//! |---|---|
//! | 1 a 202 means the task is readable | whenever it is touched, and at the end |
//! | 2 nothing is non-terminal for ever once faults stop | at the end, within a bounded time |
//! | 3 at most one valid lease | after every step: no two handlers at work on one task |
//! | 4 one terminal transition per generation | whenever a task is touched |
//! | 5 attempt numbers only grow, and are bounded | at every claim |
//! | 6 every end is told, under one id | at every delivery, and at the end |
//! | 7 an old token changes nothing | at every fenced settlement |
//! | 8 a stop that was acknowledged is followed by no attempt | at every claim |
//! | 9 the replayed request equals the original | at every claim |
//! | 10 never more handlers than slots | after every step |
//! | 11 buffered bytes stay within the budget | at every body |
//! | 12 one tenant never sees another's task | whenever a task is touched |
//!
//! # Examples
//!
//! ```
//! use tower_respond_async::testing::simulation;
//!
//! let report = simulation::run(1);
//! assert!(report.tasks > 0);
//! assert_eq!(simulation::run(1), report);
//! ```

mod checks;
mod process;
mod world;

use self::world::World;

/// What a run went through. Two runs from one seed are equal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Report {
    /// The seed.
    pub seed: u64,
    /// Tasks that were accepted.
    pub tasks: u64,
    /// Attempts that were started.
    pub attempts: u64,
    /// Processes that crashed.
    pub crashes: u64,
    /// Processes that were frozen for a while.
    pub freezes: u64,
    /// Processes that were shut down.
    pub shutdowns: u64,
    /// Store calls that did not happen, or whose reply was lost.
    pub lost_calls: u64,
    /// Settlements that were refused because their claim no longer held.
    pub fenced: u64,
    /// Attempts that gave up because they no longer knew that they held their claim.
    pub leases_lost: u64,
    /// Completions that were delivered.
    pub delivered: u64,
    /// Moments that were looked at.
    pub steps: u64,
    /// A hash of everything that happened, in order.
    pub trace: u64,
}

/// Runs the life that `seed` stands for.
///
/// # Panics
///
/// When an invariant does not hold. The message names the invariant, the seed, and the last things that happened.
#[must_use]
pub fn run(seed: u64) -> Report {
    World::new(seed).run()
}
