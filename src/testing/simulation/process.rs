//! One process of the simulation: both machines, driven as the engine drives them.

use std::{fmt, sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{
    attempts::Live,
    calls::Waiting,
    duties::Claiming,
    newborn::Search,
    world::{HOLDS, LEASE, STORE_TIMEOUT, World},
};
use crate::{
    engine::{
        attempts::attempt::Input,
        node::{Action, Answer, Hint, Node},
    },
    store::{ClaimedDelivery, Held, StoreResult},
    task::{LeaseRef, RequestId, WorkerId, lifecycle::Outcome},
};

const DELIVERERS: usize = 2;
/// How soon a process looks again for answers that it waits for.
const LOOK: Duration = Duration::from_secs(1);

pub(super) struct Process {
    pub(super) worker: WorkerId,
    pub(super) slots: usize,
    /// How far its wall clock is off, in milliseconds.
    pub(super) skew: i64,
    pub(super) node: Node,
    pub(super) attempts: Vec<Live>,
    pub(super) delivering: Vec<(Instant, ClaimedDelivery)>,
    calls: Vec<Waiting>,
    pub(super) claiming: Option<Claiming>,
    /// Tasks on their way into the store, each with a slot of its own until then.
    pub(super) newborn: Vec<(RequestId, Instant)>,
    pub(super) searches: Vec<Search>,
    /// Settlements that were about to be sent when the process froze.
    pub(super) unsent: Vec<(Arc<Held>, Outcome)>,
    pub(super) renewing: bool,
    pub(super) renew_at: Instant,
    frozen_until: Option<Instant>,
    pub(super) shutting_down: bool,
    pub(super) cut_at: Option<Instant>,
    pub(super) backlog: bool,
}

impl Process {
    pub(super) fn new(worker: WorkerId, slots: usize, skew: i64, now: Instant) -> Self {
        Self {
            node: Node::new(now, LEASE),
            worker,
            slots,
            skew,
            attempts: Vec::new(),
            delivering: Vec::new(),
            calls: Vec::new(),
            claiming: None,
            newborn: Vec::new(),
            searches: Vec::new(),
            unsent: Vec::new(),
            renewing: false,
            renew_at: now + LEASE / 3,
            frozen_until: None,
            shutting_down: false,
            cut_at: None,
            backlog: true,
        }
    }

    pub(super) fn freeze(&mut self, until: Instant) {
        self.frozen_until = Some(until);
    }

    /// No more is claimed; attempts have their grace.
    pub(super) fn shut_down(&mut self, grace_ends: Instant) {
        self.shutting_down = true;
        self.node.stop_claiming();
        self.cut_at.get_or_insert(grace_ends);
    }

    pub(super) fn is_shut_down(&self) -> bool {
        self.shutting_down
            && self.attempts.is_empty()
            && self.calls.is_empty()
            && self.delivering.is_empty()
            && self.unsent.is_empty()
    }

    pub(super) fn is_serving(&self, now: Instant) -> bool {
        !self.shutting_down && self.is_awake(now)
    }

    pub(super) fn is_awake(&self, now: Instant) -> bool {
        self.frozen_until.is_none_or(|until| until <= now)
    }

    /// Takes a slot for a task that is on its way into the store, if one is free and no other task waits for it.
    pub(super) fn slot_for(&mut self, id: RequestId, now: Instant) -> bool {
        let free = !self.backlog && self.free() > 0;
        if free {
            self.newborn.push((id, now + HOLDS));
        }
        free
    }

    pub(super) fn hint_work(&mut self, now: Instant) {
        self.backlog = true;
        self.node.hint(Hint::Work, now);
    }

    pub(super) fn stop_asked(&mut self, id: RequestId, now: Instant) {
        for live in self.attempts.iter_mut().filter(|live| live.lease.id == id) {
            live.machine.handle(Input::StopAsked, now);
        }
    }

    /// Handlers that are there.
    pub(super) fn handlers(&self) -> usize {
        self.attempts.iter().filter(|live| live.handler.is_some()).count()
    }

    /// Claims under which a handler is at work now. A frozen process does nothing, whatever it believes.
    pub(super) fn at_work(&self, now: Instant) -> impl Iterator<Item = LeaseRef> {
        let awake = self.is_awake(now);
        let held = move |live: &&Live| awake && live.handler.is_some();
        let held = self.attempts.iter().filter(held);
        held.map(|live| live.lease)
    }

    pub(super) fn wake_at(&mut self, now: Instant) -> Instant {
        if let Some(until) = self.frozen_until {
            return until;
        }
        let node = self.node.wake_at(now, self.free(), self.free_deliverers());
        let mut at = node.min(self.renew_at);
        for live in &mut self.attempts {
            let ends_at = live.handler.and_then(|plan| plan.ends_at);
            at = at
                .min(ends_at.unwrap_or(at))
                .min(live.machine.wake_at(now).unwrap_or(at));
        }
        if !self.calls.is_empty() {
            at = at.min(now + LOOK);
        }
        let searches = self.searches.iter().map(|search| search.next_at);
        let told = self.delivering.iter().map(|(due, _)| *due);
        searches.chain(told).chain(self.cut_at).fold(at, Instant::min)
    }

    /// Asks the store for a change, and does `then` with its answer, now or once it comes: while changes are gathered,
    /// not before they are committed together.
    pub(super) fn ask<T: 'static>(
        &mut self,
        world: &mut World,
        limit: Option<Duration>,
        call: impl Future<Output = StoreResult<T>> + Send + 'static,
        then: impl FnOnce(&mut Self, &mut World, StoreResult<T>) + 'static,
    ) {
        if world.is_gathering {
            let waiting = Waiting::new(call, limit.map(|limit| world.now() + limit), then);
            self.calls.push(waiting);
        } else {
            self.ask_alone(world, limit, call, then);
        }
    }

    /// Asks the store for what it commits nothing for.
    pub(super) fn ask_alone<T: 'static>(
        &mut self,
        world: &mut World,
        limit: Option<Duration>,
        call: impl Future<Output = StoreResult<T>> + Send + 'static,
        then: impl FnOnce(&mut Self, &mut World, StoreResult<T>) + 'static,
    ) {
        let now = world.now();
        let mut waiting = Waiting::new(call, limit.map(|limit| now + limit), then);
        waiting.make();
        let over = waiting.is_over(now);
        world.look_at_what_was_done();
        match over {
            true => waiting.finish(self, world),
            false => {
                world.report.held_calls += 1;
                self.calls.push(waiting);
            }
        }
    }

    /// Does all that is due. Answers whether the process survives it.
    #[must_use]
    pub(super) fn step(&mut self, world: &mut World) -> bool {
        let now = world.now();
        if !self.is_awake(now) {
            return true;
        }
        self.frozen_until = None;
        for (held, outcome) in std::mem::take(&mut self.unsent) {
            self.settle(world, held, outcome);
        }
        self.give_up_slots(now);
        self.take_answers(world, now);
        if self.cut_at.is_some_and(|at| at <= now) {
            self.cut_at = None;
            self.node.stop_delivering();
            for live in &mut self.attempts {
                live.machine.handle(Input::Cut, now);
            }
        }
        // Attempts look at their deadlines before their handlers get another turn, as a polled attempt does.
        self.attend(world, now);
        if !self.let_handlers_end(world, now) {
            return false;
        }
        self.attend(world, now);
        for live in self.attempts.iter().filter(|live| live.handler.is_some()) {
            let holds = now < live.may_work_until;
            world.check(
                3,
                holds,
                format_args!("{} is worked on past its deadline", live.lease.id),
            );
        }
        if now >= self.renew_at && !self.renewing {
            self.renew(world, now);
        }
        self.deliver(world, now);
        self.search(world, now);
        while let Some(action) = self
            .node
            .next(now, self.free(), self.free_deliverers(), world.random.f64())
        {
            self.carry_out(world, action, now);
        }
        self.attempts.retain(|live| live.machine.over().is_none());
        true
    }

    pub(super) fn free(&self) -> usize {
        let claiming = self.claiming.map_or(0, |claiming| claiming.asked);
        let taken = self.attempts.len() + claiming + self.newborn.len();
        self.slots.saturating_sub(taken)
    }

    fn free_deliverers(&self) -> usize {
        DELIVERERS - self.delivering.len().min(DELIVERERS)
    }

    /// Makes the calls that were gathered, and says how many those are. Their answers are taken later.
    pub(super) fn make_gathered(&mut self) -> u64 {
        self.calls.iter_mut().map(|call| u64::from(call.make())).sum()
    }

    pub(super) fn take_answers(&mut self, world: &mut World, now: Instant) {
        let mut waiting = std::mem::take(&mut self.calls);
        let mut at = 0;
        while at < waiting.len() {
            let over = waiting[at].is_over(now);
            world.look_at_what_was_done();
            match over {
                true => waiting.remove(at).finish(self, world),
                false => at += 1,
            }
        }
        // Answers lead to new calls.
        self.calls.splice(0..0, waiting);
    }

    /// Whoever waits for the store must not keep a slot for ever.
    fn give_up_slots(&mut self, now: Instant) {
        self.newborn.retain(|(_, until)| now < *until);
        if let Some(claiming) = self.claiming.filter(|it| it.claimed_at + STORE_TIMEOUT <= now) {
            self.claiming = None;
            self.node.done(Action::Claim(claiming.asked), Answer::Failed, now, 0.5);
        }
    }
}

impl fmt::Debug for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Process")
            .field("worker", &self.worker)
            .finish_non_exhaustive()
    }
}
