//! One process of the simulation: both machines, driven as the engine drives them.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{HeaderMap, StatusCode};

use super::world::{ATTEMPT_TIMEOUT, LEASE, MARGIN, Reply, STOP_GRACE, World};
use crate::{
    engine::{
        attempt::{Attempt, Directive, How, Input},
        node::{Action, Answer, Hint, Node},
    },
    probe::AttemptOutcome,
    store::{
        Claim, Claimed, ClaimedDelivery, DeliveryClaim, DeliverySettlement, Retention, Settled, StoreError,
        StoreErrorKind, StoreResult, TaskStore,
    },
    task::{
        CapturedResponse, DeliveryTry, Destination, LeaseRef, RequestId, TaskRecord, WorkerId,
        delivery::DeliveryOutcome,
        lifecycle::{Outcome, Renewal, Rescue, Settlement},
    },
    time::Timestamp,
};

const DELIVERERS: usize = 2;
const DELIVERY_LEASE: Duration = Duration::from_secs(20);

pub(super) struct Process {
    pub(super) worker: WorkerId,
    pub(super) slots: usize,
    node: Node,
    attempts: Vec<Live>,
    delivering: Vec<(Instant, ClaimedDelivery)>,
    replies: Vec<(Instant, Late)>,
    renew_at: Instant,
    frozen_until: Option<Instant>,
    shutting_down: bool,
    backlog: bool,
}

/// An attempt, and what its handler is going to do.
struct Live {
    lease: LeaseRef,
    machine: Attempt,
    /// When the handler ends by itself, if ever. `None` once it is gone.
    handler: Option<Plan>,
    retries_left: u32,
}

#[derive(Clone, Copy)]
struct Plan {
    ends_at: Option<Instant>,
    ends_well: bool,
    obeys: bool,
}

/// An answer of the store that takes its time.
enum Late {
    Settled(LeaseRef, StoreResult<Settled>),
    Claimed(usize, Instant, StoreResult<Claimed>),
}

impl Process {
    pub(super) fn new(worker: WorkerId, slots: usize, now: Instant) -> Self {
        Self {
            node: Node::new(now, LEASE),
            worker,
            slots,
            attempts: Vec::new(),
            delivering: Vec::new(),
            replies: Vec::new(),
            renew_at: now + LEASE / 3,
            frozen_until: None,
            shutting_down: false,
            backlog: true,
        }
    }

    /// Stands where a process was taken out.
    pub(super) fn absent(now: Instant) -> Self {
        Self::new(WorkerId::new("absent", 0), 0, now)
    }

    pub(super) fn freeze(&mut self, until: Instant) {
        self.frozen_until = Some(until);
    }

    pub(super) fn shut_down(&mut self, now: Instant) {
        self.shutting_down = true;
        self.node.stop_claiming();
        for live in &mut self.attempts {
            live.machine.handle(Input::Cut, now);
        }
    }

    pub(super) fn is_shut_down(&self) -> bool {
        self.shutting_down && self.attempts.is_empty() && self.replies.is_empty()
    }

    pub(super) fn takes_new_tasks(&self, now: Instant) -> bool {
        !self.backlog && !self.shutting_down && self.free() > 0 && self.is_awake(now)
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
        let mut at = self
            .node
            .wake_at(now, self.free(), self.free_deliverers())
            .min(self.renew_at);
        for live in &mut self.attempts {
            let ends_at = live.handler.and_then(|plan| plan.ends_at);
            at = at
                .min(ends_at.unwrap_or(at))
                .min(live.machine.wake_at(now).unwrap_or(at));
        }
        let due = self.replies.iter().map(|(due, _)| *due);
        let told = self.delivering.iter().map(|(due, _)| *due);
        due.chain(told).fold(at, Instant::min)
    }

    pub(super) fn start(&mut self, record: &TaskRecord, claimed_at: Instant, random: &mut fastrand::Rng, faults: bool) {
        let now = claimed_at;
        let long = Duration::from_millis(random.u64(1..60_000));
        let hangs = faults && random.u32(0..12) == 0;
        self.attempts.push(Live {
            lease: record.lease(),
            machine: Attempt::new(now, ATTEMPT_TIMEOUT, STOP_GRACE, claimed_at + LEASE - MARGIN),
            handler: Some(Plan {
                ends_at: (!hangs).then(|| now + long),
                ends_well: random.u32(0..3) > 0,
                obeys: random.bool(),
            }),
            retries_left: record.max_attempts.saturating_sub(record.retries + 1),
        });
    }

    pub(super) fn step(&mut self, world: &mut World) {
        let now = world.now();
        if !self.is_awake(now) {
            return;
        }
        self.frozen_until = None;
        self.take_replies(world, now);
        // Attempts look at their deadlines before their handlers get another turn, as a polled attempt does.
        self.attend(world, now);
        self.let_handlers_end(world, now);
        self.attend(world, now);
        if now >= self.renew_at {
            self.renew_at = now + LEASE / 3;
            self.renew(world, now);
        }
        self.deliver(world, now);
        while let Some(action) = self
            .node
            .next(now, self.free(), self.free_deliverers(), world.random.f64())
        {
            self.carry_out(world, action, now);
        }
        self.attempts.retain(|live| live.machine.over().is_none());
    }

    fn is_awake(&self, now: Instant) -> bool {
        self.frozen_until.is_none_or(|until| now >= until)
    }

    fn free(&self) -> usize {
        let claiming = self.replies.iter().map(|(_, late)| match late {
            Late::Claimed(slots, ..) => *slots,
            Late::Settled(..) => 0,
        });
        self.slots.saturating_sub(self.attempts.len() + claiming.sum::<usize>())
    }

    fn free_deliverers(&self) -> usize {
        DELIVERERS - self.delivering.len()
    }

    fn let_handlers_end(&mut self, world: &mut World, now: Instant) {
        for live in &mut self.attempts {
            let Some(plan) = live.handler else { continue };
            let obeys = plan.obeys && live.machine.is_cancelled();
            if obeys || plan.ends_at.is_some_and(|at| at <= now) {
                live.handler = None;
                let (outcome, ended) = end_of(live.retries_left, plan.ends_well && !obeys, &mut world.random);
                live.machine.handle(Input::Finished(outcome, ended), now);
            }
        }
    }

    fn attend(&mut self, world: &mut World, now: Instant) {
        for live in &mut self.attempts {
            loop {
                match live.machine.directive(now) {
                    Directive::Run(_) => break,
                    Directive::TimedOut => {
                        live.handler = None;
                        let (outcome, _) = end_of(live.retries_left, false, &mut world.random);
                        let input = Input::Finished(outcome, AttemptOutcome::TimedOut);
                        live.machine.handle(input, now);
                    }
                    Directive::Settle(outcome) => {
                        live.handler = None;
                        let answer = settle(world, live.lease, outcome);
                        if world.faults && world.random.u32(0..8) == 0 {
                            let due = now + Duration::from_millis(world.random.u64(1..40_000));
                            self.replies.push((due, Late::Settled(live.lease, answer)));
                            break;
                        }
                        live.machine.handle(settled(answer, world), now);
                    }
                    Directive::Wait(_) => {
                        live.handler = None;
                        break;
                    }
                    Directive::Over(how) => {
                        live.handler = None;
                        match how {
                            How::Settled(Settled::Accepted { state, outbox }, _) => {
                                if state.is_queued() {
                                    self.node.hint(Hint::Work, now);
                                }
                                if outbox {
                                    self.node.hint(Hint::Outbox, now);
                                }
                            }
                            How::Settled(Settled::Fenced, _) => world.report.fenced += 1,
                            How::Lost => world.report.leases_lost += 1,
                        }
                        world.note(format_args!("{} is over on {}: {how:?}", live.lease.id, self.worker));
                        break;
                    }
                }
            }
        }
    }

    fn take_replies(&mut self, world: &mut World, now: Instant) {
        let (due, later) = std::mem::take(&mut self.replies)
            .into_iter()
            .partition(|(due, _)| *due <= now);
        self.replies = later;
        let due: Vec<(Instant, Late)> = due;
        for (_, late) in due {
            match late {
                Late::Settled(lease, answer) => {
                    if let Some(live) = self.attempts.iter_mut().find(|live| live.lease == lease) {
                        live.machine.handle(settled(answer, world), now);
                    }
                }
                Late::Claimed(asked, claimed_at, answer) => self.take_claimed(world, asked, claimed_at, answer, now),
            }
        }
    }

    fn renew(&mut self, world: &mut World, now: Instant) {
        let held = |live: &&mut Live| live.machine.over().is_none();
        let leases: Vec<_> = self.attempts.iter_mut().filter(held).map(|live| live.lease).collect();
        if leases.is_empty() {
            return;
        }
        let Reply::Answer(Ok(renewals)) = world.call(|store| store.renew(leases, LEASE)) else {
            return;
        };
        for (live, renewal) in self.attempts.iter_mut().filter(held).zip(renewals) {
            match renewal {
                Renewal::Renewed { stop } => {
                    live.machine.handle(Input::Renewed(now + LEASE - MARGIN), now);
                    if stop {
                        live.machine.handle(Input::StopAsked, now);
                    }
                }
                Renewal::Lost => live.machine.handle(Input::LeaseLost, now),
            }
        }
    }

    fn carry_out(&mut self, world: &mut World, action: Action, now: Instant) {
        let answer = match action {
            Action::Claim(max) => {
                let claim = Claim {
                    worker: self.worker.clone(),
                    max,
                    lease: LEASE,
                };
                let claimed = answer(world.call(|store| store.claim(claim)));
                if let Ok(claimed) = &claimed {
                    claimed.tasks.iter().for_each(|task| world.claimed(&task.record));
                }
                if world.faults && world.random.u32(0..10) == 0 {
                    let due = now + Duration::from_millis(world.random.u64(1..35_000));
                    self.replies.push((due, Late::Claimed(max, now, claimed)));
                    return;
                }
                return self.take_claimed(world, max, now, claimed, now);
            }
            Action::Rescue => self.rescue(world),
            Action::Prune => {
                // Kept to the end, where it is looked at.
                let retention = Retention {
                    succeeded: Duration::MAX,
                    others: Duration::MAX,
                };
                answer(world.call(|store| store.prune(retention, 100))).map(|_| Answer::Idle(None))
            }
            Action::Deliver(max) => self.claim_deliveries(world, max, now),
            Action::Report => Ok(Answer::Idle(None)),
        };
        let answer = answer.unwrap_or(Answer::Failed);
        self.node.done(action, answer, now, world.random.f64());
    }

    fn take_claimed(
        &mut self,
        world: &mut World,
        asked: usize,
        claimed_at: Instant,
        claimed: StoreResult<Claimed>,
        now: Instant,
    ) {
        let answer = match claimed {
            Ok(claimed) => {
                let more = claimed.tasks.len() == asked || claimed.next_due.is_some_and(|due| due.is_zero());
                for task in claimed.tasks {
                    world.note(format_args!("{} runs on {}", task.record.id, self.worker));
                    self.start(&task.record, claimed_at, &mut world.random, world.faults);
                    if self.shutting_down
                        && let Some(live) = self.attempts.last_mut()
                    {
                        live.machine.handle(Input::Cut, now);
                    }
                }
                self.backlog = more;
                if more {
                    Answer::More
                } else {
                    Answer::Idle(claimed.next_due)
                }
            }
            Err(_) => Answer::Failed,
        };
        self.node.done(Action::Claim(asked), answer, now, world.random.f64());
    }

    fn rescue(&mut self, world: &mut World) -> StoreResult<Answer> {
        let rescued = answer(world.call(|store| store.rescue(100)))?;
        let now = world.now();
        for (id, rescue) in rescued.tasks {
            world.touched.insert(id);
            world.note(format_args!("{id} was rescued: {rescue:?}"));
            if rescue == Rescue::Requeued {
                self.hint_work(now);
            }
        }
        if rescued.outbox {
            self.node.hint(Hint::Outbox, now);
        }
        Ok(Answer::Idle(None))
    }

    fn claim_deliveries(&mut self, world: &mut World, max: usize, now: Instant) -> StoreResult<Answer> {
        let claim = DeliveryClaim {
            destinations: vec![Destination::LOCAL],
            max,
            lease: DELIVERY_LEASE,
        };
        let claimed = answer(world.call(|store| store.claim_deliveries(claim)))?;
        let more = claimed.len() == max;
        for delivery in claimed {
            let due = now + Duration::from_millis(world.random.u64(1..25_000));
            self.delivering.push((due, delivery));
        }
        Ok(if more { Answer::More } else { Answer::Idle(None) })
    }

    fn deliver(&mut self, world: &mut World, now: Instant) {
        let (due, later) = std::mem::take(&mut self.delivering)
            .into_iter()
            .partition(|(due, _)| *due <= now);
        self.delivering = later;
        let due: Vec<(Instant, ClaimedDelivery)> = due;
        for (_, claimed) in due {
            let id = claimed.delivery.id;
            world.told(id, claimed.delivery.generation, claimed.delivery.webhook_id());
            let outcome = match world.faults && world.random.bool() {
                true => DeliveryOutcome::Retry(Duration::from_millis(world.random.u64(1..9_000))),
                false => DeliveryOutcome::Delivered,
            };
            if outcome == DeliveryOutcome::Delivered {
                world.report.delivered += 1;
            }
            let settlement = DeliverySettlement {
                claim: claimed.claim,
                outcome,
                tried: DeliveryTry::new(Timestamp::ZERO),
            };
            // Lost, it is delivered once more when its lease has run out.
            let _ = world.call(|store| store.settle_delivery(settlement));
            world.touched.insert(id);
            world.note(format_args!("{id} was told"));
        }
    }
}

/// Settles, and checks that a claim which no longer holds changes nothing.
fn settle(world: &mut World, lease: LeaseRef, outcome: Outcome) -> StoreResult<Settled> {
    let before = world.find(lease.id);
    let reply = world.call(|store| store.settle(Settlement::new(lease, outcome)));
    world.touched.insert(lease.id);
    let after = world.find(lease.id);
    let stale = before.as_ref().is_some_and(|record| !record.is_held_by(lease.token));
    world.check(
        7,
        !stale || before == after,
        format_args!("an old token changed {}", lease.id),
    );
    let answer = answer(reply);
    let accepted = matches!(answer, Ok(Settled::Accepted { .. }));
    world.check(
        7,
        !(stale && accepted),
        format_args!("an old token was accepted for {}", lease.id),
    );
    answer
}

fn settled(answer: StoreResult<Settled>, world: &mut World) -> Input {
    match answer {
        Ok(settled) => Input::Settled(settled),
        Err(_) => Input::NotSettled(Duration::from_millis(world.random.u64(10..3_000))),
    }
}

fn answer<T>(reply: Reply<StoreResult<T>>) -> StoreResult<T> {
    match reply {
        Reply::Answer(answer) => answer,
        Reply::Lost => Err(StoreError::new(StoreErrorKind::Unavailable, "the reply was lost")),
    }
}

fn end_of(retries_left: u32, ends_well: bool, random: &mut fastrand::Rng) -> (Outcome, AttemptOutcome) {
    if ends_well {
        let response = CapturedResponse::new(StatusCode::OK, HeaderMap::new(), Bytes::new());
        let output = Arc::new(response);
        return (Outcome::Succeeded { output }, AttemptOutcome::Succeeded);
    }
    let error = Arc::from("simulated");
    let outcome = match retries_left {
        0 => Outcome::Failed { error, output: None },
        _ => Outcome::Retry {
            after: Duration::from_millis(random.u64(0..8_000)),
            error,
        },
    };
    (outcome, AttemptOutcome::Failed)
}

impl fmt::Debug for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Process")
            .field("worker", &self.worker)
            .finish_non_exhaustive()
    }
}
