//! Whole lives of several processes on one store, in simulated time, from a seed.
//!
//! The processes are the shipped layer and engine. Each has its own runtime with a paused clock, which is moved slice
//! by slice, one process after another. They share one real store, behind a
//! [`FaultStore`](tower_respond_async::testing::FaultStore). Everything that may fail does:
//!
//! - Calls fail, lose their answer, arrive after later calls, or arrive after their caller has gone.
//! - Calls wait for each other and are committed together. All changes are made or none, and all callers get the same
//!   answer or none.
//! - Processes crash, are crashed by a task, freeze, die or freeze while making a call, and are shut down.
//! - Clients leave. Hooks refuse, or take too long.
//! - Everything stands still for a while. The wall clock is set forwards and back. No two processes show the same time.
//! - Clients order several tasks at once, send again what was not answered, stop tasks, run them again edited, have
//!   completions redelivered, delete tasks, wait for them, and ask for tasks of others.
//!
//! After every slice, the invariants that hold at any moment are checked. Then the faults stop, and everything must
//! end. The same seed gives the same run, to the last event: compare [`Report::trace`].
//!
//! # The invariants, and when they are checked
//!
//! 1. A 202 means that the task is readable: when the 202 is sent, at every insert and removal, whenever the task is
//!    touched, after the store was opened again (every row is as it was last committed), and at the end.
//! 2. Nothing is non-terminal for ever once faults stop: at the end, within an hour, in which most tasks do not expire.
//!    Every search finds everything that is due. No change is refused without a reason. Every claim that a process
//!    received is begun or handed back. Every waiter gets the end.
//! 3. There is at most one valid lease: at every claim and renewal. No process renews a claim that it did not receive.
//!    No change touches the lease of a holder that keeps the task, since a renewal raises no version and may have come
//!    in between. After every slice: no two handlers on one task, none past its deadline.
//! 4. There is one terminal transition per generation: at every change, and whenever a task is touched. An ended task
//!    can only have its completions delivered, run again, or be removed.
//! 5. Attempt numbers only grow, and are bounded: at every claim, against the claims and releases counted here (the
//!    task waits, is due, and is not too old), at every settlement, and when an attempt begins.
//! 6. Every end is delivered, under one id: the change that ends a task writes the outbox entries, and no other change
//!    does. Also at every delivery, whenever a delivery is given up, and at the end.
//! 7. An old token changes nothing: at every change except renewals (see below), and at every progress report. No
//!    settlement is sent past its deadline.
//! 8. No attempt follows an acknowledged stop: at every claim and renewal, and when a stop is acknowledged. The only
//!    change that ends a stopping task ends it as stopped.
//! 9. The replayed request equals the original: at every insert and claim, and, edited, whenever the task runs again.
//! 10. There are never more handlers than slots: after every slice, and when a process reports its state.
//! 11. Buffered bytes stay within the budget: at every insert, for the bodies whose insert was not answered, and when a
//!     process reports its state.
//! 12. A tenant never sees a task of another: whenever a task is touched. Every stop was asked for by the task's
//!     client; a stranger's was refused.
//! 13. One key or name is one task, however often it is sent: at every insert and every answer.
//!
//! The simulation sees below the faults what is done in the store, in order, whatever the callers receive: by the row
//! before and after. Nothing may change in between. What a caller receives is checked when it receives it.
//!
//! # What a change may do
//!
//! A store is given changes. They name the version that they were decided on, and no token. So every change is checked
//! to show that an old token changes nothing:
//!
//! - It was decided on the row as it is, down to the tokens of the completions that it replaces, and raises the version
//!   by one.
//! - It does not touch the token of the latest claim. If it takes the task from its holder, then the holder has
//!   reported the end of its attempt, or the lease had run out and the change made that a condition, or the holder is
//!   known to be dead.
//! - It settles a completion for the process that claimed it, or gives up a completion that no destination accepts.
//!
//! A change that comes too late leaves no trace. Its caller receives `Fenced`, and never that it was accepted. A caller
//! also receives `Fenced` if its settlement was made, its answer was lost, and the task was changed before it asked
//! again.
//!
//! What a process does is seen between the process and the faults: when it asked for a claim or renewal and was
//! answered, and so until when it may settle and its handlers may run; what became of each claim that it received; and
//! what its probe reports.
//!
//! # What it does not show
//!
//! Leases are renewed on the runtime that runs the tasks, and not on a separate thread, and a handler never blocks:
//! other tests cover that. Calls are made one at a time: the [conformance
//! suite](tower_respond_async::testing::conformance) covers races inside a store. No clock goes back while a store is
//! open. No pool is paused.
//!
//! # Examples
//!
//! ```
//! use lab::simulation;
//!
//! let report = simulation::run(1);
//! assert!(report.tasks > 0);
//! assert_eq!(simulation::run(1), report);
//! ```

mod changes;
mod checks;
mod clients;
mod database;
mod disk;
mod ends;
mod gate;
mod ground;
mod handler;
mod known;
mod life;
mod process;
mod standing;
mod states;
mod tap;
mod told;
mod waiting;
mod witness;
mod world;

use self::{database::InPostgres, disk::OnDisk, ground::InMemory, life::Life};

/// Counts of what happened in a run. Two runs from one seed are equal.
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
    /// Crashes that a task caused.
    pub kills: u64,
    /// Crashes during a write to the disk.
    pub power_cuts: u64,
    /// Processes that were frozen for a while.
    pub freezes: u64,
    /// Processes that were shut down.
    pub shutdowns: u64,
    /// How often everything stood still for a while.
    pub pauses: u64,
    /// How often the wall clock was set.
    pub clock_jumps: u64,
    /// Store calls that answered with an error.
    pub failed_calls: u64,
    /// Store calls whose answer did not come at once: others overtook them.
    pub held_calls: u64,
    /// How often several store calls were committed together.
    pub commits_of_many: u64,
    /// How often such a commit answered all calls with an error, whether it was made or not.
    pub failed_together: u64,
    /// Orders that were sent again because no answer had come.
    pub sent_again: u64,
    /// Settlements that were refused because their claim no longer held.
    pub fenced: u64,
    /// Attempts that gave up because their process could not be sure of its claim any more.
    pub leases_lost: u64,
    /// Claims whose answer was lost and that their process found.
    pub taken_up: u64,
    /// Completions that were delivered.
    pub delivered: u64,
    /// Completions that were given up, because no process had the destination or it did not answer.
    pub given_up: u64,
    /// Completions that were redelivered on request.
    pub redelivered: u64,
    /// Changes that came too late: the task had been changed since it was read.
    pub stale_changes: u64,
    /// Tasks whose waiters received the end.
    pub watched: u64,
    /// Slices.
    pub steps: u64,
    /// A hash of everything that happened, in order.
    pub trace: u64,
}

/// Runs the life of `seed` on a `MemoryStore` that one to three processes share.
///
/// # Panics
///
/// When an invariant does not hold. The message names the invariant, the seed, and the last events.
#[must_use]
pub fn run(seed: u64) -> Report {
    Life::new(seed, Box::new(InMemory::default())).run()
}

/// Runs the life of `seed` on a `RedbStore`, on a disk in memory.
///
/// It has one process, which is killed or loses its power, perhaps during a commit. Each unsynced write is then there
/// or not. The next process opens the file again, with a clock that may show any time.
///
/// The store's writer is a separate thread. The simulation waits for each call before it goes on, so the speed of that
/// thread makes no difference. So a commit to the disk holds one operation here, even where several are committed
/// together. Other tests show that a power cut takes all of them or none.
///
/// # Panics
///
/// As [`run`].
#[must_use]
pub fn run_on_redb(seed: u64) -> Report {
    Life::new(seed, Box::new(OnDisk::default())).run()
}

/// Runs the life of `seed` on a `PostgresStore` that one to three processes share, on the private server of the tests.
/// The simulation moves the server's clock.
///
/// # Panics
///
/// As [`run`], and if PostgreSQL is not installed.
#[must_use]
pub fn run_on_postgres(seed: u64) -> Report {
    Life::new(seed, Box::new(InPostgres::default())).run()
}
