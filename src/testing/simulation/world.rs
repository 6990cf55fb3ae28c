//! The world of one run: the clocks, the store and its faults, and the processes.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fmt::Arguments,
    hash::{DefaultHasher, Hasher},
    sync::Arc,
    time::Duration,
};

use tokio::time::Instant;

use super::{
    Report,
    clients::Order,
    ground::Ground,
    known::Known,
    process::Process,
    witness::{Unsure, Witness, see_through},
};
use crate::{
    engine::Budget,
    store::{Ledger, Retention, Row, TaskStore},
    task::{RequestId, Scope, TaskState, WorkerId},
    testing::{FaultStore, Faults, ManualClock, Odds, fault::Fate},
    time::{Clock, Timestamp},
};

pub(super) const LEASE: Duration = Duration::from_secs(30);
/// How long a claim is good for where it is held: the lease less a margin.
pub(super) const HOLDS: Duration = Duration::from_secs(28);
pub(super) const STORE_TIMEOUT: Duration = Duration::from_secs(10);
pub(super) const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(45);
pub(super) const STOP_GRACE: Duration = Duration::from_secs(5);
pub(super) const MAX_ATTEMPTS: u32 = 3;
pub(super) const CRASH_ALLOWANCE: u32 = 3;
/// A destination that no process has.
pub(super) const GONE: &str = "gone";
/// How long a completion may be due before it is given up: shorter than some tasks are kept.
pub(super) const PATIENCE: Duration = Duration::from_secs(120);
pub(super) const BUDGET: usize = 1_000;

/// How long clients and faults are at work.
const TROUBLED: Duration = Duration::from_secs(300);
/// How long everything may take to come to its end after that: every retry, every lapsed lease. Less than the age of
/// most tasks, so that one which is forgotten is found out before it expires.
const CALM: Duration = Duration::from_secs(3_600);
/// More moments than any run needs: beyond, it is going in circles.
const STEPS: u64 = 200_000;
/// How often, in steps, it is looked whether all has ended.
const LOOK_EVERY: u64 = 10;
/// In one of how many moments the store begins to gather.
const GATHER_ONE_IN: u32 = 8;
/// How many of the last events a failure shows.
const SHOWN: usize = 60;
/// What the wall clock shows when it begins: some days, so that it can be set back by some.
const EPOCH: Timestamp = Timestamp::from_millis(1_000_000_000);
const DAY: i64 = 24 * 60 * 60 * 1_000;

const ODDS: Odds = {
    let mut odds = Odds::NONE;
    odds.fail = 0.04;
    odds.lose_reply = 0.04;
    odds.hold = 0.04;
    odds.hold_reply = 0.04;
    // With two or three calls a second: up to a lease and more.
    odds.longest = 200;
    odds
};

pub(super) struct World {
    pub(super) random: fastrand::Rng,
    pub(super) known: BTreeMap<RequestId, Known>,
    pub(super) orders: Vec<Order>,
    /// Which order each request id was made up for.
    pub(super) offered: BTreeMap<RequestId, usize>,
    /// Tasks that take their process down.
    pub(super) deadly: BTreeSet<RequestId>,
    pub(super) touched: BTreeSet<RequestId>,
    /// What was asked of a disk that died, and may have been done.
    pub(super) unsure: Vec<Unsure>,
    /// Tasks that a process held, or a completion of them, which is known to be dead, until they are changed.
    pub(super) orphans: BTreeSet<RequestId>,
    pub(super) report: Report,
    pub(super) faults_on: bool,
    /// Changes are not made at once but wait, to be committed together.
    pub(super) is_gathering: bool,
    pub(super) retention: Retention,
    pub(super) budget: Budget,
    /// Until then a lease may end in the store before its holder expects it to.
    pub(super) leapt_until: Instant,
    processes: Vec<Process>,
    /// Stands where a process was taken out.
    nobody: WorkerId,
    next_client: Instant,
    ground: Box<dyn Ground>,
    witness: Arc<Witness>,
    ledger: Ledger,
    faults: Faults,
    clock: ManualClock,
    /// How far the store is ahead of the clock that it was opened with: it does not go back behind what it has written.
    ahead: Duration,
    /// The latest time that the store has shown.
    pub(super) latest: Timestamp,
    began: Instant,
    elapsed: Duration,
    /// How far the wall clock was set, in milliseconds.
    wall: i64,
    hash: DefaultHasher,
    trace: VecDeque<String>,
}

impl World {
    pub(super) fn new(seed: u64, mut ground: Box<dyn Ground>) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let clock = ManualClock::new(EPOCH);
        let opened = ground.open(&clock).expect("nothing has gone wrong yet");
        let witness = Arc::new(Witness::new(opened));
        let store = FaultStore::over(witness.clone());
        let began = Instant::now();
        let kept = match random.u32(0..3) {
            0 => Duration::from_secs(random.u64(60..400)),
            _ => Duration::MAX,
        };
        let processes = match ground.is_shared() {
            true => random.usize(1..=3),
            false => 1,
        };
        let mut world = Self {
            known: BTreeMap::new(),
            orders: Vec::new(),
            offered: BTreeMap::new(),
            deadly: BTreeSet::new(),
            touched: BTreeSet::new(),
            unsure: Vec::new(),
            orphans: BTreeSet::new(),
            report: Report {
                seed,
                ..Report::default()
            },
            faults_on: true,
            is_gathering: false,
            retention: Retention {
                succeeded: kept,
                others: kept,
            },
            budget: Budget::new(BUDGET),
            leapt_until: began,
            processes: Vec::new(),
            nobody: WorkerId::new("nobody", 0),
            next_client: began,
            faults: store.faults(),
            ground,
            witness,
            ledger: Ledger::of(store),
            clock,
            ahead: Duration::ZERO,
            latest: EPOCH,
            began,
            elapsed: Duration::ZERO,
            wall: 0,
            hash: DefaultHasher::new(),
            trace: VecDeque::new(),
            random: random.fork(),
        };
        world.faults.at_random(random.u64(..), ODDS);
        for _ in 0..processes {
            let process = world.new_process(random.usize(1..=3));
            world.processes.push(process);
        }
        world
    }

    pub(super) fn run(mut self) -> Report {
        let calm_at = self.began + TROUBLED;
        let end_at = calm_at + CALM;
        while self.now() < end_at {
            self.report.steps += 1;
            if self.report.steps > STEPS {
                self.fail(2, format_args!("more than {STEPS} steps"));
            }
            if self.faults_on && self.now() >= calm_at {
                self.calm_down();
            }
            if self.faults_on && self.now() >= self.next_client {
                self.client();
                let pause = Duration::from_millis(self.random.u64(1..12_000));
                self.next_client = self.now() + pause;
            }
            self.send_again();
            self.each_process();
            self.commit_or_gather();
            if self.ground.is_dead() {
                self.report.power_cuts += 1;
                self.crash_of_the_machine();
            }
            self.check_touched();
            self.check_handlers();
            if !self.faults_on && self.report.steps.is_multiple_of(LOOK_EVERY) && self.all_is_over() {
                break;
            }
            self.move_on(calm_at);
        }
        self.check_end();
        self.report.trace = self.hash.finish();
        self.report
    }

    fn calm_down(&mut self) {
        self.faults_on = false;
        self.faults.heal();
        self.note(format_args!("the faults stop"));
    }

    /// A store that is busy with a commit gathers what is asked of it meanwhile, and commits that together: all of it
    /// is done, or none, and all who asked are told the same.
    fn commit_or_gather(&mut self) {
        if !self.is_gathering {
            self.is_gathering = self.faults_on && self.random.u32(0..GATHER_ONE_IN) == 0;
            return;
        }
        if self.faults_on && self.random.bool() {
            return;
        }
        self.is_gathering = false;
        let fate = match self.random.u32(0..6) {
            0 if self.faults_on => Fate::FailChanges,
            1 if self.faults_on => Fate::LoseChanges,
            _ => Fate::OfItsOwn,
        };
        self.faults.share(fate);
        let mut calls = 0;
        for process in &mut self.processes {
            calls += process.make_gathered();
        }
        self.faults.share(Fate::OfItsOwn);
        self.look_at_what_was_done();
        if calls > 1 {
            self.report.commits_of_many += 1;
            self.report.failed_together += u64::from(fate != Fate::OfItsOwn);
            self.note(format_args!("{calls} calls are committed together: {fate:?}"));
        }
        let now = self.now();
        for index in 0..self.processes.len() {
            if self.processes[index].is_awake(now) {
                self.with_process(index, |process, world| process.take_answers(world, now));
            }
        }
    }

    /// To the next moment at which anything is due, or a little beyond: nobody wakes up on the dot.
    fn move_on(&mut self, calm_at: Instant) {
        let now = self.now();
        let mut next = now + Duration::from_secs(5);
        if self.faults_on {
            next = next.min(self.next_client).min(calm_at);
        }
        for process in &mut self.processes {
            next = next.min(process.wake_at(now));
        }
        let late = Duration::from_millis(self.random.u64(0..20));
        let mut step = next.saturating_duration_since(now).max(Duration::from_millis(1)) + late;
        if self.faults_on {
            match self.random.u32(0..1_500) {
                0 => {
                    self.report.pauses += 1;
                    step += Duration::from_millis(self.random.u64(1_000..100_000));
                    self.note(format_args!("everything stands still for {step:?}"));
                }
                1 => self.set_the_clock(),
                _ => {}
            }
        }
        self.pass(step);
    }

    /// Time passes, on every clock; the store's is the wall clock, which stands still after it was set back.
    fn pass(&mut self, time: Duration) {
        let before = self.clock.now();
        self.elapsed += time;
        self.clock.set(self.wall_clock());
        self.latest = self.latest.max(self.store_time());
        let passed = self.clock.now().since(before);
        if passed > time + Duration::from_millis(1) {
            self.leapt_until = self.now() + LEASE;
        }
    }

    fn wall_clock(&self) -> Timestamp {
        let wall = EPOCH.as_millis() as i64 + self.elapsed.as_millis() as i64 + self.wall;
        Timestamp::from_millis(wall.max(0).unsigned_abs())
    }

    /// Somebody sets the wall clock.
    fn set_the_clock(&mut self) {
        self.report.clock_jumps += 1;
        let by = self.random.i64(-90_000..60_000);
        self.wall += by;
        self.note(format_args!("the wall clock is set by {by} ms"));
    }

    fn each_process(&mut self) {
        for index in 0..self.processes.len() {
            if self.faults_on && self.trouble(index) {
                continue;
            }
            let survives = self.with_process(index, Process::step);
            if !survives {
                self.crash(index);
            } else if self.processes[index].is_shut_down() {
                let worker = self.worker(index);
                self.note(format_args!("{worker} has shut down"));
                self.restart(index);
            }
        }
    }

    /// Takes a process out, so that it and the world can be changed side by side.
    pub(super) fn with_process<T>(&mut self, index: usize, act: impl FnOnce(&mut Process, &mut Self) -> T) -> T {
        let absent = Process::new(self.nobody.clone(), 0, 0, self.now());
        let mut process = std::mem::replace(&mut self.processes[index], absent);
        let answer = act(&mut process, self);
        self.processes[index] = process;
        answer
    }

    /// A process that takes requests, if there is one.
    pub(super) fn any_process(&mut self) -> Option<usize> {
        let index = self.random.usize(0..self.processes.len());
        self.processes[index].is_serving(self.now()).then_some(index)
    }

    /// Perhaps something happens to a process as a whole. Answers whether it is gone.
    fn trouble(&mut self, index: usize) -> bool {
        let (now, worker) = (self.now(), self.worker(index));
        match self.random.u32(0..1_200) {
            0 => {
                self.crash(index);
                return true;
            }
            1 | 2 => {
                self.report.freezes += 1;
                let long = Duration::from_millis(self.random.u64(100..80_000));
                self.note(format_args!("{worker} freezes for {long:?}"));
                self.processes[index].freeze(now + long);
            }
            3 | 4 => {
                self.report.shutdowns += 1;
                let grace = Duration::from_millis(self.random.u64(0..40_000));
                self.note(format_args!("{worker} is shut down within {grace:?}"));
                self.processes[index].shut_down(now + grace);
            }
            5..=10 => self.ground.trouble(&mut self.random),
            _ => {}
        }
        false
    }

    fn crash(&mut self, index: usize) {
        if !self.ground.is_shared() {
            return self.crash_of_the_machine();
        }
        self.report.crashes += 1;
        let worker = self.worker(index);
        self.note(format_args!("{worker} crashes"));
        self.restart(index);
    }

    fn crash_of_the_machine(&mut self) {
        self.report.crashes += 1;
        self.note(format_args!("the machine goes down"));
        self.look_at_what_was_done();
        self.ground.crash(&mut self.random);
        self.open_again();
    }

    /// A process comes back, and with it its store if that is its own.
    fn restart(&mut self, index: usize) {
        if self.ground.is_shared() {
            self.processes[index] = self.new_process(self.processes[index].slots);
            return;
        }
        see_through(self.witness.close());
        self.open_again();
    }

    fn open_again(&mut self) {
        // Gone first of all, since it holds the old store.
        let slots = self.processes[0].slots;
        self.processes = vec![Process::new(self.nobody.clone(), slots, 0, self.now())];
        if self.faults_on && self.random.u32(0..3) == 0 {
            // Without a battery of its own, or set by hand: the clock may show anything.
            self.report.clock_jumps += 1;
            self.wall = self.random.i64(-10 * DAY..DAY);
        }
        let long = Duration::from_millis(self.random.u64(100..20_000));
        self.elapsed += long;
        self.clock = ManualClock::new(self.wall_clock());
        self.note(format_args!(
            "it is opened again after {long:?}, at {}",
            self.clock.now()
        ));
        let store = match self.ground.open(&self.clock) {
            Ok(store) => store,
            Err(_) if self.ground.is_dead() => {
                self.report.power_cuts += 1;
                return self.crash_of_the_machine();
            }
            Err(error) => self.fail(1, format_args!("it cannot be opened: {error}")),
        };
        let before = std::mem::replace(&mut self.witness, Arc::new(Witness::new(store)));
        let store = FaultStore::over(self.witness.clone());
        self.faults = store.faults();
        self.ledger = Ledger::of(store);
        if self.faults_on {
            self.faults.at_random(self.random.u64(..), ODDS);
        }
        self.look_at_all(&before);
        self.processes = vec![self.new_process(slots)];
    }

    fn new_process(&mut self, slots: usize) -> Process {
        let worker = WorkerId::new("simulated", self.random.u64(..));
        let skew = self.random.i64(-100_000..100_000);
        Process::new(worker, slots, skew, self.now())
    }

    /// Looks at everything that the store has after it was opened again.
    fn look_at_all(&mut self, before: &Witness) {
        let offered: Vec<_> = self.offered.keys().copied().collect();
        let witness = self.witness();
        let found = offered.iter().filter_map(|id| Some((*id, witness.look(*id)?)));
        let found: BTreeMap<_, _> = found.collect();
        // What is written has happened, so the store's clock is not behind it.
        let latest = found.values().flat_map(|row| {
            let noted = row.record.history.last().map(|event| event.at);
            let columns = &row.columns;
            [noted, Some(columns.created_at), columns.started_at, columns.ended_at]
        });
        let latest = latest.flatten().max();
        self.ahead = latest.map_or(Duration::ZERO, |at| at.since(self.clock.now()));
        self.latest = self.latest.max(self.store_time());
        self.reconcile(before, &found);
        let is_held = |row: &&Row| row.columns.is_held() || row.outbox.iter().any(|row| row.claimed);
        self.orphans = found.values().filter(is_held).map(|row| row.id).collect();
        self.touched.extend(offered);
    }

    /// The store as processes know it.
    pub(super) fn ledger(&self) -> Ledger {
        self.ledger.clone()
    }

    /// The store as it is.
    pub(super) fn witness(&self) -> Arc<Witness> {
        self.witness.clone()
    }

    fn worker(&self, index: usize) -> WorkerId {
        self.processes[index].worker.clone()
    }

    pub(super) fn processes(&self) -> &[Process] {
        &self.processes
    }

    pub(super) fn now(&self) -> Instant {
        self.began + self.elapsed
    }

    /// The time in the store.
    pub(super) fn store_time(&self) -> Timestamp {
        self.clock.now().saturating_add(self.ahead)
    }

    /// The time as a process shows it.
    pub(super) fn shown_time(&self, skew: i64) -> Timestamp {
        let shown = self.wall_clock().as_millis() as i64 + skew;
        Timestamp::from_millis(shown.max(0).unsigned_abs())
    }

    /// A handler took its process down.
    pub(super) fn killed(&mut self, id: RequestId, worker: &WorkerId) {
        self.note(format_args!("{id} takes {worker} down"));
        self.report.kills += 1;
    }

    pub(super) fn note(&mut self, what: Arguments<'_>) {
        let line = format!("{:>9.3} {what}", self.elapsed.as_secs_f64());
        self.hash.write(line.as_bytes());
        if self.trace.len() == SHOWN {
            self.trace.pop_front();
        }
        self.trace.push_back(line);
    }

    pub(super) fn check(&self, invariant: u32, holds: bool, what: Arguments<'_>) {
        if !holds {
            self.fail(invariant, what);
        }
    }

    pub(super) fn fail(&self, invariant: u32, what: Arguments<'_>) -> ! {
        let trace: Vec<_> = self.trace.iter().map(String::as_str).collect();
        panic!(
            "invariant {invariant} does not hold with seed {}: {what}\nthe last that happened:\n{}",
            self.report.seed,
            trace.join("\n")
        );
    }

    fn all_is_over(&self) -> bool {
        let counts = see_through(self.witness.counts(&Scope::All));
        let live = |counts: crate::task::Counts| -> u64 {
            let live = TaskState::ALL.into_iter().filter(|state| !state.is_terminal());
            live.map(|state| counts.of(state)).sum()
        };
        counts.is_ok_and(|counts| live(counts) == 0) && self.all_is_told() && self.all_is_answered()
    }
}
