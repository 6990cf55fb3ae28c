//! The state that everything in a life shares: what is known, what happened, and whether it was right.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fmt::Arguments,
    hash::{DefaultHasher, Hasher},
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::Duration,
};

use tower_respond_async::{
    store::Retention,
    task::RequestId,
    testing::ManualClock,
    time::{Clock, Timestamp},
};

use super::{
    Report,
    clients::Order,
    gate::Parked,
    known::Known,
    standing::{Handler, Standing, Work},
    waiting::Waits,
    witness::{Unsure, Witness},
};

pub(super) const LEASE: Duration = Duration::from_secs(30);
/// How long a claim is good for its holder: the lease less a margin.
pub(super) const HOLDS: Duration = Duration::from_secs(28);
pub(super) const STORE_TIMEOUT: Duration = Duration::from_secs(10);
pub(super) const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(45);
pub(super) const STOP_GRACE: Duration = Duration::from_secs(5);
pub(super) const MAX_ATTEMPTS: u32 = 3;
pub(super) const CRASH_ALLOWANCE: u32 = 3;
/// How long a completion may be due before it is given up. Shorter than the retention of some tasks.
pub(super) const PATIENCE: Duration = Duration::from_secs(120);
/// How many bytes of bodies a process buffers at most.
pub(super) const BUDGET: usize = 1_000;
/// Longer than a life.
pub(super) const FOR_EVER: Duration = Duration::from_secs(50 * 24 * 60 * 60);

/// How many of the last events a failure shows.
const SHOWN: usize = 60;
/// What the wall clock shows at the beginning: some days, so that it can be set back by some.
const EPOCH: Timestamp = Timestamp::from_millis(1_000_000_000);
const DAY: i64 = 24 * 60 * 60 * 1_000;

/// A shared handle of the world. Everything runs on one thread, one at a time, and nothing holds the lock while others
/// run.
#[derive(Clone)]
pub(super) struct Shared(Arc<Mutex<World>>);

pub(super) struct World {
    pub(super) random: fastrand::Rng,
    pub(super) known: BTreeMap<RequestId, Known>,
    pub(super) orders: Vec<Order>,
    pub(super) touched: BTreeSet<RequestId>,
    /// Calls that failed because the disk died, and may have been done.
    pub(super) unsure: Vec<Unsure>,
    /// Tasks held by a process that is known to be dead, or with a completion that it had claimed, until they are
    /// changed.
    pub(super) orphans: BTreeSet<RequestId>,
    pub(super) report: Report,
    pub(super) faults_on: bool,
    pub(super) retention: Retention,
    /// Until then a lease may end in the store before its holder expects it to.
    pub(super) leapt_until: Duration,
    /// Processes, by number.
    pub(super) processes: BTreeMap<u32, Standing>,
    /// Running handlers.
    pub(super) handlers: BTreeMap<Work, Handler>,
    /// Whether changes wait to be committed together.
    pub(super) is_gathering: bool,
    /// Callers that wait for tasks to end.
    pub(super) waiting: Vec<Waits>,
    /// Calls that have not reached the store.
    pub(super) parked: Vec<Parked>,
    /// The world's time for the process that runs now. It may be a little ahead of the others.
    pub(super) now: Duration,
    /// The latest time that the store has shown.
    pub(super) latest: Timestamp,
    pub(super) witness: Arc<Witness>,
    /// How far the store is ahead of the clock that it was opened with: it does not go back before the times that it
    /// has written.
    pub(super) ahead: Duration,
    pub(super) clock: ManualClock,
    /// By how much the wall clock was set, in milliseconds.
    wall: i64,
    hash: DefaultHasher,
    trace: VecDeque<String>,
    failure: OnceLock<String>,
}

impl Shared {
    pub(super) fn new(world: World) -> Self {
        Self(Arc::new(Mutex::new(world)))
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, World> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Locks the world, at the process's time. Call it on that process's runtime.
    pub(super) fn enter(&self, process: u32) -> MutexGuard<'_, World> {
        let mut world = self.lock();
        if let Some(standing) = world.processes.get(&process) {
            world.now = standing.local();
        }
        world
    }
}

impl World {
    pub(super) fn new(seed: u64, mut random: fastrand::Rng, clock: ManualClock, witness: Arc<Witness>) -> Self {
        let kept = match random.u32(0..3) {
            0 => Duration::from_secs(random.u64(60..400)),
            _ => FOR_EVER,
        };
        Self {
            random,
            known: BTreeMap::new(),
            orders: Vec::new(),
            touched: BTreeSet::new(),
            unsure: Vec::new(),
            orphans: BTreeSet::new(),
            report: Report {
                seed,
                ..Report::default()
            },
            faults_on: true,
            retention: Retention::new(kept, kept),
            leapt_until: Duration::ZERO,
            processes: BTreeMap::new(),
            handlers: BTreeMap::new(),
            is_gathering: false,
            waiting: Vec::new(),
            parked: Vec::new(),
            now: Duration::ZERO,
            latest: EPOCH,
            witness,
            ahead: Duration::ZERO,
            clock,
            wall: 0,
            hash: DefaultHasher::new(),
            trace: VecDeque::new(),
            failure: OnceLock::new(),
        }
    }

    /// The clock of the store at the beginning.
    pub(super) fn first_clock() -> ManualClock {
        ManualClock::new(EPOCH)
    }

    /// Moves every clock to `elapsed`. The store's clock follows the wall clock, and stands still after that was set
    /// back.
    pub(super) fn move_to(&mut self, elapsed: Duration) {
        let (before, passed) = (self.clock.now(), elapsed.saturating_sub(self.now));
        self.now = elapsed;
        self.clock.set(self.wall_clock());
        self.latest = self.latest.max(self.store_time());
        if self.clock.now().since(before) > passed + Duration::from_secs(1) {
            self.leapt_until = elapsed + LEASE;
        }
    }

    /// Sets the wall clock.
    pub(super) fn set_the_clock(&mut self) {
        self.report.clock_jumps += 1;
        let by = self.random.i64(-90_000..60_000);
        self.wall += by;
        self.note(format_args!("the wall clock is set by {by} ms"));
    }

    /// The clock of a machine that starts again. It may show any time: it has no battery, or was set by hand.
    pub(super) fn clock_of_a_new_start(&mut self) -> ManualClock {
        if self.faults_on && self.random.u32(0..3) == 0 {
            self.report.clock_jumps += 1;
            self.wall = self.random.i64(-10 * DAY..DAY);
        }
        self.clock = ManualClock::new(self.wall_clock());
        self.clock.clone()
    }

    fn wall_clock(&self) -> Timestamp {
        let wall = EPOCH.as_millis() as i64 + self.now.as_millis() as i64 + self.wall;
        Timestamp::from_millis(wall.max(0).unsigned_abs())
    }

    /// The time in the store.
    pub(super) fn store_time(&self) -> Timestamp {
        self.clock.now().saturating_add(self.ahead)
    }

    /// A clock that is off by up to 100 s: no two processes show the same time.
    pub(super) fn skewed_clock(&mut self) -> ManualClock {
        let shown = self.wall_clock().as_millis() as i64 + self.random.i64(-100_000..100_000);
        ManualClock::new(Timestamp::from_millis(shown.max(0).unsigned_abs()))
    }

    /// The store below the faults.
    pub(super) fn witness(&self) -> Arc<Witness> {
        self.witness.clone()
    }

    /// Records an event, for the message of a failure and for the hash.
    pub(super) fn note(&mut self, what: Arguments<'_>) {
        let line = format!("{:>9.3} {what}", self.now.as_secs_f64());
        self.hash.write(line.as_bytes());
        if self.trace.len() == SHOWN {
            self.trace.pop_front();
        }
        self.trace.push_back(line);
    }

    /// Records a call, for the hash alone.
    pub(super) fn note_call(&mut self, process: u32, call: u8) {
        self.hash.write_u32(process);
        self.hash.write_u8(call);
        self.hash.write_u128(self.now.as_nanos());
    }

    pub(super) fn trace(&self) -> u64 {
        self.hash.finish()
    }

    pub(super) fn check(&self, invariant: u32, holds: bool, what: Arguments<'_>) {
        if !holds {
            self.fail(invariant, what);
        }
    }

    /// Records that an invariant does not hold. The driver of the life panics; a panic here might be caught by the
    /// engine.
    pub(super) fn fail(&self, invariant: u32, what: Arguments<'_>) {
        self.failure.get_or_init(|| {
            let trace: Vec<_> = self.trace.iter().map(String::as_str).collect();
            format!(
                "invariant {invariant} does not hold with seed {} at {:.3}: {what}\nthe last that happened:\n{}",
                self.report.seed,
                self.now.as_secs_f64(),
                trace.join("\n")
            )
        });
    }

    /// The invariant that does not hold, if any.
    pub(super) fn failure(&self) -> Option<&str> {
        self.failure.get().map(String::as_str)
    }
}
