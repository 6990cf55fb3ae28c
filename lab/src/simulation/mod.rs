//! Whole lives of several processes on one store, in pretend time, from a seed.
//!
//! The processes are the shipped layer and engine, each on a runtime of its own with a paused clock, which is moved on slice
//! by slice, one process after the other. They share one real store, behind a
//! [`FaultStore`](tower_respond_async::testing::FaultStore). Everything that may go wrong does:
//!
//! - calls fail, are done and their answer lost, arrive after later ones or after their caller has gone
//! - calls wait for each other and are committed together; all changes are made or none, and told so or told nothing
//! - processes crash, are taken down by a task, freeze, die or freeze as a call of theirs is made, are shut down
//! - clients leave, and hooks refuse to take note, or take too long
//! - everything stands still for a while; the wall clock is set forwards and back, and no two processes show the same time
//! - clients order several tasks at once, send again what was not answered, stop tasks, run them again edited, have their
//!   ends told again, delete them, wait for them, and ask for others' tasks
//!
//! After every slice the invariants are checked that hold at any moment; then the faults stop, and everything must come to
//! its end. The same seed gives the same run, to the last event: [`Report::trace`] tells.
//!
//! | invariant | checked |
//! |---|---|
//! | 1 a 202 means the task is readable | as it is sent, at every insert and removal, whenever the task is touched, when the store was opened again (every row is as it was committed last), and at the end |
//! | 2 nothing is non-terminal for ever once faults stop | at the end, within an hour, which most tasks do not expire in; whoever looks finds all that is due, and no change is refused for no reason; of every claim that a process was told of something comes; who waits for an end hears of it |
//! | 3 at most one valid lease | at every claim and renewal; no renewal by who was never told of the claim; no change touches the lease of who goes on holding the task, since a renewal raises no version and may have come between; after every slice: no two handlers on one task, none past its deadline |
//! | 4 one terminal transition per generation | at every change: an ended task is told of, run again or removed, and nothing else; whenever a task is touched |
//! | 5 attempt numbers only grow, and are bounded | at every claim, against claims and releases counted here: of a task that waits, is due, and is not too old; at every settlement; as an attempt begins |
//! | 6 every end is told, under one id | an outbox entry for every end and for nothing else, in the change that is the end; at every delivery; whenever one is given up; and at the end |
//! | 7 an old token changes nothing | at every change, renewal aside: see below; at every progress report; no settlement is sent past its deadline |
//! | 8 a stop that was acknowledged is followed by no attempt | at every claim and renewal; at every change: of a task that is to stop, to its end as stopped; as it is told |
//! | 9 the replayed request equals the original | at every insert and claim; edited, whenever it is run again |
//! | 10 never more handlers than slots | after every slice; as a process says how it is |
//! | 11 buffered bytes stay within the budget | at every insert, of the bodies whose insert was not answered; as a process says how it is |
//! | 12 one tenant never sees another's task | whenever a task is touched; its client asked for every stop, and a stranger's was refused |
//! | 13 one key or name is one task, however often it is sent | at every insert; at every answer |
//!
//! What is done in the store is seen below the faults, in the order in which it is done, whatever the callers are told: by
//! the row before and after. Nothing changes between. What a caller is told is checked as it is told.
//!
//! # What a change may do
//!
//! A store is given changes, which name the version that they were decided on and no token. So that an old token changes
//! nothing is asked of every change that is made:
//!
//! - it was decided on the row as it is, down to the tokens of the completions that it replaces, and raises its version by one
//! - it leaves the token of the latest claim alone, and if it takes the task from its holder, that one said how its attempt
//!   ended, or its lease had run out, which the change made a condition; or the holder is known to be dead
//! - it settles a completion for who has claimed it, or gives up one that nobody takes
//!
//! Of one that comes too late nothing is seen. Its maker is told `Fenced`, and never that it was taken; who had no answer to a
//! settlement that was made, and asks again when somebody has changed the task since, is told `Fenced` all the same.
//!
//! What shows a process's part is seen between it and the faults: when it asked for a claim or a renewal and was answered, and
//! so until when it may settle and its handlers may run; what became of each claim that it was told of; and what its probe
//! says.
//!
//! # What it does not show
//!
//! Leases are kept on the runtime that runs the tasks, and not on a thread of their own, and a handler never blocks: that is
//! tested on its own. Calls are done one at a time, so races inside of a store are the
//! [conformance suite](tower_respond_async::testing::conformance)'s. No clock goes back while a store is open. No pool is
//! paused.
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
    /// Crashes that a task brought about.
    pub kills: u64,
    /// Crashes that came amid a write to the disk.
    pub power_cuts: u64,
    /// Processes that were frozen for a while.
    pub freezes: u64,
    /// Processes that were shut down.
    pub shutdowns: u64,
    /// Times at which everything stood still for a while.
    pub pauses: u64,
    /// Times at which the wall clock was set.
    pub clock_jumps: u64,
    /// Store calls whose caller was told that they failed.
    pub failed_calls: u64,
    /// Store calls whose answer did not come at once: others overtook them.
    pub held_calls: u64,
    /// Times at which several store calls were committed together.
    pub commits_of_many: u64,
    /// Of these, how often all were told that it failed, whether they were done or not.
    pub failed_together: u64,
    /// Orders that were sent again, since no answer had come.
    pub sent_again: u64,
    /// Settlements that were refused because their claim no longer held.
    pub fenced: u64,
    /// Attempts that gave up because they no longer knew that they held their claim.
    pub leases_lost: u64,
    /// Claims whose answer was lost and that their process found.
    pub taken_up: u64,
    /// Completions that were delivered.
    pub delivered: u64,
    /// Completions that were given up, since no process knew whom to tell.
    pub given_up: u64,
    /// Completions that were told once more on request.
    pub redelivered: u64,
    /// Changes that came too late: somebody else had changed the task since it was looked at.
    pub stale_changes: u64,
    /// Tasks whose end was heard of by who waited for it.
    pub watched: u64,
    /// Moments that were looked at.
    pub steps: u64,
    /// A hash of everything that happened, in order.
    pub trace: u64,
}

/// Runs the life that `seed` stands for, on a `MemoryStore` that one to three processes share.
///
/// # Panics
///
/// When an invariant does not hold. The message names the invariant, the seed, and the last things that happened.
#[must_use]
pub fn run(seed: u64) -> Report {
    Life::new(seed, Box::new(InMemory::default())).run()
}

/// Runs the life that `seed` stands for on a `RedbStore`, on a disk in memory.
///
/// It has one process, which is killed or loses its power, perhaps amid a commit: of what was not synced, each write is
/// there afterwards or is not. Then it opens the file again, by a clock that may show any time.
///
/// The store's writer is a thread of its own; each call is waited for before anything else happens, so that it makes no
/// difference how fast that thread is. So a commit to the disk holds one operation here, also where several are
/// committed together: that a power cut takes all of them or none is for other tests to show.
///
/// # Panics
///
/// As [`run`].
#[must_use]
pub fn run_on_redb(seed: u64) -> Report {
    Life::new(seed, Box::new(OnDisk::default())).run()
}

/// Runs the life that `seed` stands for on a `PostgresStore`, which one to three processes share, on the private server of the
/// tests. The server's clock is moved by hand.
///
/// # Panics
///
/// As [`run`], and if PostgreSQL is not installed.
#[must_use]
pub fn run_on_postgres(seed: u64) -> Report {
    Life::new(seed, Box::new(InPostgres::default())).run()
}
