//! A life: time passes, processes run, clients send requests, and faults happen until they stop.

use std::{sync::Arc, time::Duration};

use tower_respond_async::testing::{Fate, FaultStore, Faults, Odds};

use super::{
    Report,
    clients::{self, Wish},
    gate::{Faulty, Parked},
    ground::Ground,
    process::{Build, Process},
    witness::Witness,
    world::{FOR_EVER, Shared, World},
};

/// How long clients and faults are active.
const TROUBLED: Duration = Duration::from_secs(300);
/// How long everything may take to end after that: every retry, every lapsed lease. Less than the maximum age of most
/// tasks, so that a lost task is noticed before it expires.
const CALM: Duration = Duration::from_secs(3_600);
/// How long a process runs at most before the next one has its turn. Less than the margin of a lease.
const SLICE_MILLIS: u64 = 700;
/// The same after the faults have stopped.
const CALM_SLICE: Duration = Duration::from_secs(1);
/// After how many slices the simulation checks whether everything has ended.
const LOOK_EVERY: u64 = 10;
/// The store begins to gather in one of so many slices.
const GATHER_ONE_IN: u32 = 10;

const ODDS: Odds = {
    let mut odds = Odds::NONE;
    odds.fail = 0.04;
    odds.lose_reply = 0.04;
    odds.hold = 0.03;
    odds.hold_reply = 0.03;
    // At some calls a second, this is up to a lease and more.
    odds.longest = 200;
    odds
};

pub(super) struct Life {
    shared: Shared,
    processes: Vec<Process>,
    ground: Box<dyn Ground>,
    store: Arc<Faulty>,
    faults: Faults,
    /// The maximum age of tasks.
    max_age: Duration,
    elapsed: Duration,
    next_client: Duration,
    started: u32,
}

impl Life {
    pub(super) fn new(seed: u64, mut ground: Box<dyn Ground>) -> Self {
        // The engine draws its random numbers from this thread.
        fastrand::seed(seed);
        let mut random = fastrand::Rng::with_seed(seed);
        let clock = World::first_clock();
        let opened = ground.open(&clock).expect("nothing has gone wrong yet");
        let witness = Arc::new(Witness::new(opened, ground.helper()));
        let max_age = match random.u32(0..4) {
            0 => Duration::from_secs(random.u64(60..400)),
            // Longer than the life, so that a lost task does not expire unnoticed.
            _ => FOR_EVER,
        };
        let processes = match ground.is_shared() {
            true => random.usize(1..=3),
            false => 1,
        };
        let store = Arc::new(FaultStore::over(witness.clone()));
        let faults = store.faults();
        faults.at_random(random.u64(..), ODDS);
        let mut life = Self {
            shared: Shared::new(World::new(seed, random, clock, witness)),
            processes: Vec::new(),
            ground,
            store,
            faults,
            max_age,
            elapsed: Duration::ZERO,
            next_client: Duration::ZERO,
            started: 0,
        };
        for _ in 0..processes {
            let process = life.start();
            life.processes.push(process);
        }
        life
    }

    pub(super) fn run(mut self) -> Report {
        while self.elapsed < TROUBLED + CALM {
            let steps = self.with_world(|world| {
                world.report.steps += 1;
                world.report.steps
            });
            if self.elapsed >= TROUBLED {
                self.calm_down();
            }
            self.clients();
            self.each_process();
            self.commit_or_gather();
            if self.ground.is_dead() {
                self.with_world(|world| world.report.power_cuts += 1);
                self.crash_of_the_machine();
            }
            let is_over = self.with_world(|world| {
                world.check_touched();
                world.check_handlers();
                world.check_waiting();
                !world.faults_on && steps.is_multiple_of(LOOK_EVERY) && world.all_is_over()
            });
            if is_over {
                break;
            }
        }
        let mut world = self.shared.lock();
        world.check_end();
        fail_of(&world);
        world.report.trace = world.trace();
        let report = world.report;
        drop(world);
        self.processes.drain(..).for_each(Process::end);
        report
    }

    /// Moves every clock to this time.
    fn move_to(&self, elapsed: Duration) {
        self.with_world(|world| world.move_to(elapsed));
        self.ground.tick();
    }

    /// Runs `act` on the world, and panics if an invariant does not hold.
    fn with_world<T>(&self, act: impl FnOnce(&mut World) -> T) -> T {
        let mut world = self.shared.lock();
        let answer = act(&mut world);
        fail_of(&world);
        answer
    }

    fn calm_down(&self) {
        self.with_world(|world| {
            if world.faults_on {
                world.faults_on = false;
                self.faults.heal();
                world.note(format_args!("the faults stop"));
            }
        });
    }

    fn clients(&mut self) {
        for order in self.with_world(|world| world.to_send_again()) {
            self.send(vec![order]);
        }
        if self.elapsed < self.next_client || self.elapsed >= TROUBLED {
            return;
        }
        let (wish, pause) = self.with_world(|world| (world.wish(), world.random.u64(1..10_000)));
        self.next_client = self.elapsed + Duration::from_millis(pause);
        match wish {
            Wish::Order => {
                let orders = self.with_world(World::new_orders);
                self.send(orders);
            }
            wish => {
                if let Some(process) = self.any_process() {
                    clients::ask(&self.shared, process, &wish);
                }
            }
        }
    }

    fn send(&self, orders: Vec<usize>) {
        match self.any_process() {
            Some(process) => clients::send(&self.shared, process, orders),
            None => self.with_world(|world| world.nobody_answers(&orders)),
        }
    }

    /// A random process, or `None` if it takes no requests.
    fn any_process(&self) -> Option<&Process> {
        self.with_world(|world| {
            let process = &self.processes[world.random.usize(0..self.processes.len())];
            let standing = world.processes.get(&process.number)?;
            standing.is_serving().then_some(process)
        })
    }

    /// Runs every process to the end of a slice, one after another.
    fn each_process(&mut self) {
        let troubled = self.with_world(|world| world.faults_on);
        let mut slice = match troubled {
            true => Duration::from_millis(self.with_world(|world| world.random.u64(1..SLICE_MILLIS))),
            false => CALM_SLICE,
        };
        if troubled {
            match self.with_world(|world| world.random.u32(0..1_000)) {
                0 => {
                    let long = Duration::from_millis(self.with_world(|world| world.random.u64(1_000..100_000)));
                    self.pause(long);
                }
                1 => self.with_world(World::set_the_clock),
                _ => {}
            }
            slice = slice.min(TROUBLED.saturating_sub(self.elapsed).max(Duration::from_millis(1)));
        }
        let end = self.elapsed + slice;
        self.move_to(self.elapsed);
        for index in 0..self.processes.len() {
            if troubled && self.trouble(index) {
                continue;
            }
            self.go_on(index, end);
        }
        self.elapsed = end;
        self.move_to(end);
        for index in 0..self.processes.len() {
            let (gone, closed) = self.with_world(|world| {
                let standing = world.processes.get(&self.processes[index].number);
                standing.map_or((true, false), |it| (it.is_gone, it.is_closed))
            });
            if gone {
                self.crash(index);
            } else if closed {
                self.restart(index);
            }
        }
    }

    /// Runs a process to `end`, unless it is frozen or freezes.
    fn go_on(&self, index: usize, end: Duration) {
        let process = &self.processes[index];
        let frozen_until = self.with_world(|world| world.processes.get(&process.number)?.frozen_until);
        match frozen_until {
            Some(until) if until > self.elapsed => return,
            Some(_) => self.thaw(process),
            None => {}
        }
        process.drive(end);
        self.with_world(|world| {
            world.now = end;
            world.look_at_what_was_done();
            if world.is_awake(process.number) {
                world.check_process(process.number);
            }
        });
    }

    /// Thaws a process, and makes the calls that it froze in.
    fn thaw(&self, process: &Process) {
        let calls = self.with_world(|world| {
            if let Some(standing) = world.processes.get_mut(&process.number) {
                standing.thaw(self.elapsed);
            }
            world.take_frozen(process.number)
        });
        let entered = process.enter();
        calls.into_iter().for_each(Parked::make);
        drop(entered);
        self.with_world(World::look_at_what_was_done);
        process.catch_up(self.elapsed);
    }

    /// Everything stands still for `long`.
    fn pause(&mut self, long: Duration) {
        self.elapsed += long;
        self.with_world(|world| {
            world.report.pauses += 1;
            world.note(format_args!("everything stands still for {long:?}"));
        });
        self.move_to(self.elapsed);
        self.with_world(|world| {
            for standing in world.processes.values_mut() {
                if standing.is_awake() {
                    standing.thaw(self.elapsed);
                }
            }
        });
        for process in &self.processes {
            if self.with_world(|world| world.is_awake(process.number)) {
                process.catch_up(self.elapsed);
            }
        }
    }

    /// A process may crash, freeze or shut down, or its disk may fail. Answers whether the process is gone.
    fn trouble(&mut self, index: usize) -> bool {
        let number = self.processes[index].number;
        match self.with_world(|world| world.random.u32(0..1_200)) {
            0 => {
                self.crash(index);
                return true;
            }
            1 | 2 => self.with_world(|world| {
                let long = Duration::from_millis(world.random.u64(100..80_000));
                world.report.freezes += 1;
                world.note(format_args!("process {number} freezes for {long:?}"));
                let until = self.elapsed + long;
                if let Some(standing) = world.processes.get_mut(&number) {
                    standing.freeze(until);
                }
            }),
            3 | 4 => {
                let grace = self.with_world(|world| {
                    let grace = Duration::from_millis(world.random.u64(0..40_000));
                    let standing = world.processes.get_mut(&number)?;
                    if standing.is_closing {
                        return None;
                    }
                    world.report.shutdowns += 1;
                    world.note(format_args!("process {number} is shut down within {grace:?}"));
                    Some(grace)
                });
                if let Some(grace) = grace {
                    self.processes[index].shut_down(grace);
                }
            }
            5..=10 => self.ground.trouble(&mut self.shared.lock().random),
            _ => {}
        }
        false
    }

    /// A store that is busy with a commit gathers the calls that arrive meanwhile, and commits them together: all
    /// changes are made or none, and all callers get the same answer.
    fn commit_or_gather(&mut self) {
        let calls = self.with_world(|world| {
            if !world.is_gathering {
                world.is_gathering = world.faults_on && world.random.u32(0..GATHER_ONE_IN) == 0;
                return None;
            }
            if world.faults_on && world.random.bool() {
                return None;
            }
            world.is_gathering = false;
            let fate = match world.random.u32(0..6) {
                0 if world.faults_on => Fate::FailChanges,
                1 if world.faults_on => Fate::LoseChanges,
                _ => Fate::OfItsOwn,
            };
            Some((fate, world.take_gathered()))
        });
        let Some((fate, calls)) = calls else { return };
        let count = calls.len() as u64;
        self.faults.share(fate);
        let entered = self.processes[0].enter();
        calls.into_iter().for_each(Parked::make);
        drop(entered);
        self.faults.share(Fate::OfItsOwn);
        self.with_world(|world| {
            world.look_at_what_was_done();
            if count > 1 {
                world.report.commits_of_many += 1;
                world.report.failed_together += u64::from(fate != Fate::OfItsOwn);
                world.note(format_args!("{count} calls are committed together: {fate:?}"));
            }
        });
    }

    fn crash(&mut self, index: usize) {
        if !self.ground.is_shared() {
            return self.crash_of_the_machine();
        }
        let number = self.processes[index].number;
        self.with_world(|world| {
            world.report.crashes += 1;
            world.note(format_args!("process {number} crashes"));
        });
        self.restart(index);
    }

    /// Starts a process again, and opens its store again if no other process shares it.
    fn restart(&mut self, index: usize) {
        self.processes.remove(index).end();
        if self.ground.is_shared() {
            let process = self.start();
            self.processes.insert(index, process);
            return;
        }
        let witness = self.with_world(|world| world.witness());
        witness.close_now();
        self.open_again();
    }

    fn crash_of_the_machine(&mut self) {
        self.with_world(|world| {
            world.report.crashes += 1;
            world.note(format_args!("the machine goes down"));
            world.look_at_what_was_done();
        });
        self.processes.drain(..).for_each(Process::end);
        self.ground.crash(&mut self.shared.lock().random);
        self.open_again();
    }

    /// Opens the store again, as it was left.
    fn open_again(&mut self) {
        let long = Duration::from_millis(self.with_world(|world| world.random.u64(100..20_000)));
        self.elapsed += long;
        let clock = self.with_world(|world| {
            world.now = self.elapsed;
            let clock = world.clock_of_a_new_start();
            let shown = tower_respond_async::time::Clock::now(&clock);
            world.note(format_args!("it is opened again after {long:?}, at {shown}"));
            clock
        });
        let store = match self.ground.open(&clock) {
            Ok(store) => store,
            Err(_) if self.ground.is_dead() => {
                self.with_world(|world| world.report.power_cuts += 1);
                return self.crash_of_the_machine();
            }
            Err(error) => {
                return self.with_world(|world| world.fail(1, format_args!("it cannot be opened: {error}")));
            }
        };
        let witness = Arc::new(Witness::new(store, self.ground.helper()));
        self.store = Arc::new(FaultStore::over(witness.clone()));
        self.faults = self.store.faults();
        self.with_world(|world| {
            if world.faults_on {
                self.faults.at_random(world.random.u64(..), ODDS);
            }
            let before = std::mem::replace(&mut world.witness, witness);
            world.look_at_all(&before);
        });
        let process = self.start();
        self.processes.push(process);
    }

    /// Starts a process.
    fn start(&mut self) -> Process {
        self.started += 1;
        let number = self.started;
        let build = self.with_world(|world| {
            world.now = self.elapsed;
            Build {
                number,
                slots: world.random.usize(1..=3),
                max_age: self.max_age,
                is_told: world.random.u32(0..3) > 0 && self.ground.tells_news(),
                knows_gone: world.faults_on && world.random.u32(0..6) == 0,
            }
        });
        let handle = self.ground.handle();
        Process::start(&self.shared, self.store.clone(), handle, build)
    }
}

fn fail_of(world: &World) {
    if let Some(failure) = world.failure() {
        panic!("{failure}");
    }
}
