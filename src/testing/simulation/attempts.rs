//! The attempts of a process, and what their handlers are going to do.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use bytes::Bytes;
use http::{HeaderMap, StatusCode};

use super::{
    process::Process,
    world::{ATTEMPT_TIMEOUT, HOLDS, LEASE, STOP_GRACE, STORE_TIMEOUT, World},
};
use crate::{
    engine::{
        attempts::attempt::{Attempt, Directive, How, Input},
        node::Hint,
    },
    probe::AttemptOutcome,
    store::{Held, Renewal, Settled},
    task::{
        CapturedResponse, LeaseRef, Progress, TaskRecord,
        lifecycle::{DEFERRALS, Outcome},
    },
};

/// An attempt, and what its handler is going to do.
pub(super) struct Live {
    pub(super) lease: LeaseRef,
    pub(super) held: Arc<Held>,
    pub(super) machine: Attempt,
    /// Until when the answers of the store allow a settlement, whatever the machine makes of them ...
    pub(super) may_settle_until: Instant,
    /// ... and until when a handler: no longer once the claim is known to be lost.
    pub(super) may_work_until: Instant,
    /// When the handler ends by itself, if ever. `None` once it is gone.
    pub(super) handler: Option<Plan>,
    pub(super) retries_left: u32,
    pub(super) deferrals_left: u32,
    pub(super) reported: bool,
}

#[derive(Clone, Copy)]
pub(super) struct Plan {
    pub(super) ends_at: Option<Instant>,
    pub(super) ends: Ends,
    pub(super) obeys: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Ends {
    Well,
    Badly,
    /// And takes its process along.
    Deadly,
}

impl Process {
    pub(super) fn let_handlers_end(&mut self, world: &mut World, now: Instant) -> bool {
        for live in &mut self.attempts {
            let Some(plan) = live.handler else { continue };
            let obeys = plan.obeys && live.machine.is_cancelled();
            if !obeys && plan.ends_at.is_none_or(|at| at > now) {
                continue;
            }
            if plan.ends == Ends::Deadly && !obeys {
                world.killed(live.lease.id, &self.worker);
                return false;
            }
            live.handler = None;
            let ends_well = plan.ends == Ends::Well && !obeys;
            let (outcome, ended) = end_of(live, ends_well, &mut world.random);
            live.machine.handle(Input::Finished(outcome, ended), now);
        }
        true
    }

    pub(super) fn attend(&mut self, world: &mut World, now: Instant) {
        let mut at = 0;
        while let Some(live) = self.attempts.get_mut(at) {
            match live.machine.directive(now) {
                Directive::Run(_) => at += 1,
                Directive::TimedOut => {
                    live.handler = None;
                    let (outcome, _) = end_of(live, false, &mut world.random);
                    let input = Input::Finished(outcome, AttemptOutcome::TimedOut);
                    live.machine.handle(input, now);
                }
                Directive::Settle(outcome) => {
                    live.handler = None;
                    let (lease, holds) = (live.lease, now < live.may_settle_until);
                    world.check(
                        7,
                        holds,
                        format_args!("the end of {} was reported past its deadline", lease.id),
                    );
                    if world.faults_on && world.random.u32(0..30) == 0 {
                        // Between the look at the deadline and the call: the zombie that only the token keeps out.
                        let long = Duration::from_millis(world.random.u64(100..120_000));
                        world.note(format_args!(
                            "{} freezes for {long:?}, about to settle {}",
                            self.worker, lease.id
                        ));
                        world.report.freezes += 1;
                        self.unsent.push((live.held.clone(), outcome));
                        self.freeze(now + long);
                    } else {
                        let held = live.held.clone();
                        self.settle(world, held, outcome);
                    }
                    at += 1;
                }
                Directive::Wait(_) => {
                    live.handler = None;
                    at += 1;
                }
                Directive::Over(how) => {
                    live.handler = None;
                    let lease = live.lease;
                    at += 1;
                    if !std::mem::replace(&mut live.reported, true) {
                        self.report_end(world, lease, how, now);
                    }
                }
            }
        }
    }

    fn report_end(&mut self, world: &mut World, lease: LeaseRef, how: How, now: Instant) {
        match how {
            How::Settled(Settled::Accepted { state, outbox }, _) => {
                if state.is_queued() {
                    self.hint_work(now);
                }
                if outbox {
                    self.node.hint(Hint::Outbox, now);
                }
            }
            How::Settled(Settled::Fenced, _) => world.report.fenced += 1,
            How::Lost => world.report.leases_lost += 1,
        }
        world.note(format_args!("{} is over on {}: {how:?}", lease.id, self.worker));
    }

    pub(super) fn settle(&mut self, world: &mut World, held: Arc<Held>, outcome: Outcome) {
        let (ledger, lease) = (world.ledger(), held.lease());
        world.asked_to_settle(lease, &outcome);
        let call = async move { ledger.settle(&held, &outcome).await };
        self.ask(world, Some(STORE_TIMEOUT), call, move |process, world, answer| {
            let now = world.now();
            world.told_settled(lease, &answer);
            let input = match answer {
                Ok(settled) => Input::Settled(settled),
                Err(_) => Input::NotSettled(Duration::from_millis(world.random.u64(10..3_000))),
            };
            if let Some(live) = process.attempts.iter_mut().find(|live| live.lease == lease) {
                live.machine.handle(input, now);
            }
        });
    }

    pub(super) fn renew(&mut self, world: &mut World, now: Instant) {
        let held = self.attempts.iter_mut().filter(|live| live.machine.over().is_none());
        let leases: Vec<_> = held.map(|live| live.lease).collect();
        self.renew_at = now + LEASE / 3;
        if leases.is_empty() {
            return;
        }
        self.renewing = true;
        let (ledger, asked) = (world.ledger(), leases.clone());
        let call = async move { ledger.store().renew(asked, LEASE).await };
        self.ask_alone(world, Some(LEASE / 3), call, move |process, world, answer| {
            let at = world.now();
            process.renewing = false;
            let Ok(renewals) = answer else {
                process.renew_at = at + LEASE / 12;
                return;
            };
            // Counted from when it was sent: the store's lease may be as old as that.
            let until = now + HOLDS;
            for (lease, renewal) in leases.into_iter().zip(renewals) {
                let Some(live) = process.attempts.iter_mut().find(|live| live.lease == lease) else {
                    continue;
                };
                match renewal {
                    Renewal::Renewed { stop } => {
                        live.may_settle_until = live.may_settle_until.max(until);
                        live.may_work_until = live.may_settle_until;
                        live.machine.handle(Input::Renewed(until), at);
                        if stop {
                            live.machine.handle(Input::StopAsked, at);
                        }
                    }
                    Renewal::Lost => {
                        live.may_work_until = live.may_work_until.min(at);
                        live.machine.handle(Input::LeaseLost, at);
                    }
                }
            }
        });
    }

    pub(super) fn start_or_hand_back(
        &mut self,
        world: &mut World,
        record: &TaskRecord,
        held: Held,
        claimed_at: Instant,
    ) {
        match self.free() > 0 {
            true => self.start(world, record, held, claimed_at),
            false => self.hand_back(world, held),
        }
    }

    pub(super) fn hand_back(&mut self, world: &mut World, held: Held) {
        let (ledger, lease) = (world.ledger(), held.lease());
        world.note(format_args!("{} is handed back by {}", lease.id, self.worker));
        world.asked_to_settle(lease, &Outcome::Released);
        let call = async move { ledger.settle(&held, &Outcome::Released).await };
        self.ask(world, Some(STORE_TIMEOUT), call, move |process, world, answer| {
            world.told_settled(lease, &answer);
            // If this failed, the lease runs out.
            process.hint_work(world.now());
        });
    }

    pub(super) fn start(&mut self, world: &mut World, record: &TaskRecord, held: Held, claimed_at: Instant) {
        let now = world.now();
        world.note(format_args!("{} runs on {}", record.id, self.worker));
        let lease = held.lease();
        world.check_start(record, lease);
        let random = &mut world.random;
        let long = Duration::from_millis(random.u64(1..60_000));
        let hangs = world.faults_on && random.u32(0..12) == 0;
        let ends = match random.u32(0..3) {
            _ if world.deadly.contains(&record.id) => Ends::Deadly,
            0 => Ends::Badly,
            _ => Ends::Well,
        };
        let mut machine = Attempt::new(now, ATTEMPT_TIMEOUT, STOP_GRACE, claimed_at + HOLDS);
        if self.shutting_down && self.cut_at.is_none() {
            // The grace is over: handed back without being begun.
            machine.handle(Input::Finished(Outcome::Released, AttemptOutcome::Released), now);
        }
        self.attempts.push(Live {
            lease,
            held: Arc::new(held),
            machine,
            may_settle_until: claimed_at + HOLDS,
            may_work_until: claimed_at + HOLDS,
            handler: Some(Plan {
                ends_at: (!hangs).then(|| now + long),
                ends,
                obeys: random.bool(),
            }),
            retries_left: record.max_attempts.saturating_sub(record.retries + 1),
            deferrals_left: DEFERRALS.saturating_sub(record.deferrals),
            reported: false,
        });
        if world.random.u32(0..4) == 0 {
            let ledger = world.ledger();
            let progress = Progress::new(world.random.f32(), "simulated");
            let call = async move { ledger.store().set_progress(lease, progress).await };
            self.ask_alone(world, Some(STORE_TIMEOUT), call, |_, _, _| {});
        }
    }
}

fn end_of(live: &Live, ends_well: bool, random: &mut fastrand::Rng) -> (Outcome, AttemptOutcome) {
    if ends_well {
        let response = CapturedResponse::new(StatusCode::OK, HeaderMap::new(), Bytes::new());
        let output = Arc::new(response);
        return (Outcome::Succeeded { output }, AttemptOutcome::Succeeded);
    }
    let error = Arc::from("simulated");
    let outcome = match live.retries_left {
        _ if live.deferrals_left > 0 && random.u32(0..4) == 0 => {
            let after = Duration::from_millis(random.u64(0..8_000));
            return (Outcome::Deferred { after, error }, AttemptOutcome::Deferred);
        }
        0 => Outcome::Failed { error, output: None },
        _ => Outcome::Retry {
            after: Duration::from_millis(random.u64(0..8_000)),
            error,
        },
    };
    (outcome, AttemptOutcome::Failed)
}
