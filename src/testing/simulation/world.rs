//! The world of one run: the clock, the store and its faults, the clients, and what was promised to them.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fmt::Arguments,
    hash::{DefaultHasher, Hasher},
    sync::Arc,
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{HeaderMap, Method, Uri};

use super::{Report, process::Process};
use crate::{
    engine::Budget,
    error::BoxFuture,
    store::{Insert, Inserted, MemoryStore, StoreResult, TaskStore},
    task::{
        CapturedRequest, Conditions, Destination, NewTask, RequestId, Scope, Subscription, TaskState, Tenant, WorkerId,
        lifecycle::{Edits, Rerun, Stop},
    },
    testing::ManualClock,
    time::{Clock, Timestamp},
};

pub(super) const LEASE: Duration = Duration::from_secs(30);
pub(super) const MARGIN: Duration = Duration::from_secs(2);
pub(super) const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(45);
pub(super) const STOP_GRACE: Duration = Duration::from_secs(5);
pub(super) const MAX_ATTEMPTS: u32 = 3;
pub(super) const CRASH_ALLOWANCE: u32 = 3;
const MAX_AGE: Duration = Duration::from_secs(400);
const BUDGET: usize = 10_000;

/// How long clients and faults are at work.
const TROUBLED: Duration = Duration::from_secs(300);
/// How long everything may take to come to its end after that: every retry, every lapsed lease, every age.
const CALM: Duration = Duration::from_secs(3_600);
/// More moments than any run needs: beyond, it is going in circles.
const STEPS: u64 = 200_000;
/// How many of the last events a failure shows.
const SHOWN: usize = 60;

pub(super) struct World {
    pub(super) random: fastrand::Rng,
    pub(super) store: MemoryStore,
    pub(super) known: BTreeMap<RequestId, Known>,
    pub(super) touched: BTreeSet<RequestId>,
    pub(super) report: Report,
    pub(super) faults: bool,
    pub(super) processes: Vec<Process>,
    clock: ManualClock,
    began: Instant,
    budget: Budget,
    next_client: Instant,
    hash: DefaultHasher,
    trace: VecDeque<String>,
}

/// What is known of a task that a client was told of, or might find.
pub(super) struct Known {
    pub(super) input: Arc<CapturedRequest>,
    pub(super) tenant: Option<Tenant>,
    /// The client has its 202.
    pub(super) accepted: bool,
    /// The last claim: generation, attempt, token.
    pub(super) claimed: (u32, u32, u64),
    /// The latest generation whose stop was acknowledged.
    pub(super) stopped: Option<u32>,
    /// The webhook id under which each generation's end was told.
    pub(super) told: BTreeMap<u32, String>,
}

/// A store call on its way.
pub(super) enum Reply<T> {
    /// The answer.
    Answer(T),
    /// Nothing came back: it happened, or it did not.
    Lost,
}

impl World {
    pub(super) fn new(seed: u64) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let clock = ManualClock::new(Timestamp::from_millis(1_000_000));
        let began = Instant::now();
        let mut world = Self {
            store: MemoryStore::builder().clock(clock.clone()).build(),
            known: BTreeMap::new(),
            touched: BTreeSet::new(),
            report: Report {
                seed,
                ..Report::default()
            },
            faults: true,
            processes: Vec::new(),
            budget: Budget::new(BUDGET),
            next_client: began,
            began,
            clock,
            hash: DefaultHasher::new(),
            trace: VecDeque::new(),
            random: random.fork(),
        };
        for _ in 0..random.usize(1..=3) {
            let process = world.new_process(random.usize(1..=3));
            world.processes.push(process);
        }
        world
    }

    pub(super) fn new_process(&mut self, slots: usize) -> Process {
        let worker = WorkerId::new("simulated", self.random.u64(..));
        Process::new(worker, slots, self.now())
    }

    pub(super) fn run(mut self) -> Report {
        let calm_at = self.began + TROUBLED;
        let end_at = calm_at + CALM;
        while self.now() < end_at {
            self.report.steps += 1;
            if self.report.steps > STEPS {
                self.fail(2, format_args!("more than {STEPS} steps"));
            }
            if self.faults && self.now() >= calm_at {
                self.faults = false;
                self.note(format_args!("the faults stop"));
            }
            if self.faults && self.now() >= self.next_client {
                self.client();
                let pause = Duration::from_millis(self.random.u64(1..12_000));
                self.next_client = self.now() + pause;
            }
            self.each_process();
            self.check_touched();
            self.check_leases();
            if !self.faults && self.all_is_over() {
                break;
            }
            self.move_on(calm_at);
        }
        self.check_end();
        self.report.trace = self.hash.finish();
        self.report
    }

    /// To the next moment at which anything is due, or a little beyond: nobody wakes up on the dot.
    fn move_on(&mut self, calm_at: Instant) {
        let now = self.now();
        let mut next = now + Duration::from_secs(5);
        if self.faults {
            next = next.min(self.next_client).min(calm_at);
        }
        for process in &mut self.processes {
            next = next.min(process.wake_at(now));
        }
        let late = Duration::from_millis(self.random.u64(0..20));
        let step = next.saturating_duration_since(now).max(Duration::from_millis(1)) + late;
        self.clock.advance(step);
    }

    fn each_process(&mut self) {
        for index in 0..self.processes.len() {
            // Taken out, so that it and the world can be changed side by side.
            let absent = Process::absent(self.now());
            let mut process = std::mem::replace(&mut self.processes[index], absent);
            if self.faults {
                process = self.trouble(process);
            }
            process.step(self);
            if process.is_shut_down() {
                self.note(format_args!("{} has shut down", process.worker));
                process = self.new_process(process.slots);
            }
            self.processes[index] = process;
        }
    }

    /// Perhaps something happens to a process as a whole.
    fn trouble(&mut self, mut process: Process) -> Process {
        match self.random.u32(0..400) {
            0 => {
                self.report.crashes += 1;
                self.note(format_args!("{} crashes", process.worker));
                self.new_process(process.slots)
            }
            1 => {
                self.report.freezes += 1;
                let long = Duration::from_millis(self.random.u64(100..80_000));
                self.note(format_args!("{} freezes for {long:?}", process.worker));
                process.freeze(self.now() + long);
                process
            }
            2 => {
                self.report.shutdowns += 1;
                self.note(format_args!("{} is shut down", process.worker));
                process.shut_down(self.now());
                process
            }
            _ => process,
        }
    }

    fn client(&mut self) {
        match self.random.u32(0..10) {
            0..=5 => self.submit(),
            6..=7 => self.stop(),
            _ => self.rerun(),
        }
    }

    fn submit(&mut self) {
        let index = self.random.usize(0..self.processes.len());
        let body = vec![self.random.u8(..); self.random.usize(0..4_000)];
        // Its body arrives in two halves, beside the bodies of others.
        let mut reserved = self.budget.reserve();
        let other = self.budget.reserve().grow_to(self.random.usize(0..BUDGET));
        let fits = reserved.grow_to(body.len() / 2) && reserved.grow_to(body.len());
        self.check(
            11,
            self.budget.used() <= BUDGET && (fits || other),
            format_args!("the budget"),
        );
        if !fits {
            return;
        }
        let mut headers = HeaderMap::new();
        headers.insert("x-number", self.random.u64(..).into());
        let uri = Uri::from_static("/simulated?a=b");
        let input = Arc::new(CapturedRequest::new(Method::POST, uri, headers, Bytes::from(body)));
        let mut random = [0; 10];
        random.iter_mut().for_each(|byte| *byte = self.random.u8(..));
        let id = RequestId::from_parts(self.clock.now(), random);
        let mut task = NewTask::new(id, input.clone());
        task.max_attempts = MAX_ATTEMPTS;
        task.crash_allowance = CRASH_ALLOWANCE;
        task.max_age = MAX_AGE;
        task.tenant = self
            .random
            .bool()
            .then(|| Tenant::new(["one", "two"][self.random.usize(0..2)]));
        task.subscriptions = Arc::from([Subscription {
            destination: Destination::LOCAL,
            on: Conditions::ALL,
        }]);
        if self.random.u32(0..5) == 0 {
            task.delay = Duration::from_millis(self.random.u64(1..30_000));
        }
        let known = Known {
            input,
            tenant: task.tenant.clone(),
            accepted: false,
            claimed: (1, 0, 0),
            stopped: None,
            told: BTreeMap::new(),
        };
        self.known.insert(id, known);

        let now = self.now();
        let process = &self.processes[index];
        let born = task.delay.is_zero() && process.takes_new_tasks(now);
        let mut insert = Insert::new(task);
        if born {
            insert = insert.born(process.worker.clone(), LEASE);
        }
        self.note(format_args!("submit {id}, born claimed: {born}"));
        let reply = self.call(|store| store.insert(insert));
        self.touched.insert(id);
        match reply {
            Reply::Answer(Ok(Inserted::New(record))) => {
                self.report.tasks += 1;
                if let Some(known) = self.known.get_mut(&id) {
                    known.accepted = true;
                }
                if born {
                    self.claimed(&record);
                    self.processes[index].start(&record, now, &mut self.random, self.faults);
                } else {
                    self.processes[index].hint_work(now);
                }
            }
            Reply::Answer(other) => self.fail(1, format_args!("the insert answered {other:?}")),
            Reply::Lost => {}
        }
    }

    fn stop(&mut self) {
        let Some(id) = self.any_task() else { return };
        let reply = self.call(|store| store.stop(&Scope::All, id));
        self.touched.insert(id);
        self.note(format_args!("stop {id}"));
        let generation = self.find(id).map(|record| record.generation);
        if let Reply::Answer(Ok(stop @ (Stop::Stopping | Stop::Stopped))) = reply {
            if let Some(known) = self.known.get_mut(&id) {
                known.stopped = generation;
            }
            if stop == Stop::Stopping {
                let now = self.now();
                let local = self.random.usize(0..self.processes.len());
                self.processes[local].stop_asked(id, now);
            }
        }
    }

    fn rerun(&mut self) {
        let Some(id) = self.any_task() else { return };
        let reply = self.call(|store| store.rerun(&Scope::All, id, Edits::default()));
        self.touched.insert(id);
        self.note(format_args!("run {id} again"));
        if let Reply::Answer(Ok(Rerun::Enqueued { .. })) = reply {
            let now = self.now();
            let index = self.random.usize(0..self.processes.len());
            self.processes[index].hint_work(now);
        }
    }

    fn any_task(&mut self) -> Option<RequestId> {
        let count = self.known.len();
        (count > 0).then(|| self.known.keys().nth(self.random.usize(0..count)).copied())?
    }

    /// Calls the store, which may not hear it, or not be heard.
    pub(super) fn call<T>(
        &mut self,
        call: impl FnOnce(&MemoryStore) -> BoxFuture<'_, StoreResult<T>>,
    ) -> Reply<StoreResult<T>> {
        let fate = match self.faults {
            true => self.random.u32(0..20),
            false => 20,
        };
        if fate == 0 {
            self.report.lost_calls += 1;
            return Reply::Lost;
        }
        let answer = now_or_never(call(&self.store));
        if fate == 1 {
            self.report.lost_calls += 1;
            return Reply::Lost;
        }
        Reply::Answer(answer)
    }

    pub(super) fn now(&self) -> Instant {
        self.began + self.clock.now().since(Timestamp::from_millis(1_000_000))
    }

    pub(super) fn note(&mut self, what: Arguments<'_>) {
        let line = format!("{:>9.3} {what}", self.now().duration_since(self.began).as_secs_f64());
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
        let live = |state: TaskState| !state.is_terminal();
        let waiting = TaskState::ALL
            .into_iter()
            .filter(|state| live(*state))
            .map(|state| now_or_never(self.store.counts(&Scope::All)).map_or(1, |counts| counts.of(state)));
        waiting.sum::<u64>() == 0 && self.all_is_told()
    }
}

/// The answer of a store that is ready at once, as the memory store is.
pub(super) fn now_or_never<T>(mut call: BoxFuture<'_, T>) -> T {
    match call.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(answer) => answer,
        Poll::Pending => unreachable!("the memory store answers at once"),
    }
}
