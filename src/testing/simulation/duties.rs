//! What a process does besides running attempts: it carries out what the node machine says, and tells it how it went.

use std::time::Duration;

use tokio::time::Instant;

use super::{
    process::Process,
    world::{HOLDS, LEASE, PATIENCE, STORE_TIMEOUT, World},
};
use crate::{
    engine::node::{Action, Answer, Hint},
    store::{Claim, Claimed, ClaimedDelivery, DeliveryClaim, DeliverySettlement, GiveUp, StoreResult},
    task::{DeliveryTry, Destination, delivery::DeliveryOutcome, lifecycle::Rescue},
    time::Timestamp,
};

const DELIVERY_LEASE: Duration = Duration::from_secs(20);
/// After a claim that gave nothing although there is more.
const QUIET: Duration = Duration::from_millis(5);

/// A claim that is waited for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Claiming {
    pub(super) asked: usize,
    pub(super) claimed_at: Instant,
}

impl Process {
    pub(super) fn carry_out(&mut self, world: &mut World, action: Action, now: Instant) {
        let ledger = world.ledger();
        match action {
            Action::Claim(max) => self.claim(world, max, now),
            Action::Rescue => {
                let call = async move { ledger.rescue(100).await };
                self.ask(world, Some(STORE_TIMEOUT), call, move |process, world, answer| {
                    let now = world.now();
                    let answer = answer.map(|rescued| {
                        world.told_rescued(&rescued);
                        if rescued.tasks.iter().any(|(_, rescue)| *rescue == Rescue::Requeued) {
                            process.hint_work(now);
                        }
                        if rescued.outbox {
                            process.node.hint(Hint::Outbox, now);
                        }
                        Answer::Idle(None)
                    });
                    process.done(world, action, answer);
                });
            }
            Action::Prune => {
                let retention = world.retention;
                let give_up = GiveUp {
                    spared: vec![Destination::LOCAL],
                    overdue: PATIENCE,
                    max: 100,
                };
                let call = async move {
                    let given_up = ledger.give_up_deliveries(give_up).await?;
                    ledger.prune(retention, 100).await?;
                    Ok(given_up)
                };
                self.ask(world, Some(STORE_TIMEOUT), call, move |process, world, answer| {
                    let answer = answer.map(|given_up| {
                        world.told_given_up(&given_up);
                        Answer::Idle(None)
                    });
                    process.done(world, action, answer);
                });
            }
            Action::Deliver(max) => {
                let claim = DeliveryClaim {
                    from: vec![(Destination::LOCAL, max)],
                    lease: DELIVERY_LEASE,
                };
                let call = async move { ledger.claim_deliveries(claim).await };
                self.ask(world, Some(STORE_TIMEOUT), call, move |process, world, answer| {
                    let now = world.now();
                    let answer = answer.map(|claimed| {
                        let more = claimed.len() == max;
                        for delivery in claimed {
                            let due = now + Duration::from_millis(world.random.u64(1..25_000));
                            process.delivering.push((due, delivery));
                        }
                        if more { Answer::More } else { Answer::Idle(None) }
                    });
                    process.done(world, action, answer);
                });
            }
            // Nobody waits for a task here, and no pool is paused.
            Action::Look | Action::Report | Action::Control => self.done(world, action, Ok(Answer::Idle(None))),
        }
    }

    fn done(&mut self, world: &mut World, action: Action, answer: StoreResult<Answer>) {
        let answer = answer.unwrap_or(Answer::Failed);
        self.node.done(action, answer, world.now(), world.random.f64());
    }

    fn claim(&mut self, world: &mut World, asked: usize, claimed_at: Instant) {
        let claim = Claim::new(self.worker.clone(), asked, LEASE);
        let claiming = Claiming { asked, claimed_at };
        self.claiming = Some(claiming);
        let ledger = world.ledger();
        let call = async move { ledger.claim(claim).await };
        // No limit: one that answers late has claimed tasks for this process and no other.
        self.ask(world, None, call, move |process, world, answer| {
            match process.claiming == Some(claiming) {
                true => {
                    process.claiming = None;
                    process.take_claimed(world, claiming, answer);
                }
                false => process.take_late(world, claimed_at, answer),
            }
        });
    }

    fn take_claimed(&mut self, world: &mut World, claiming: Claiming, answer: StoreResult<Claimed>) {
        let answer = answer.map(|claimed| {
            let (taken, more) = (claimed.tasks.len(), claimed.next_due.is_some_and(|due| due.is_zero()));
            for task in claimed.tasks {
                self.start(world, &task.record, task.held, claiming.claimed_at);
            }
            self.backlog = more || taken == claiming.asked;
            if taken == 0 && more {
                return Answer::Idle(Some(QUIET));
            }
            if self.backlog {
                return Answer::More;
            }
            Answer::Idle(claimed.next_due)
        });
        self.done(world, Action::Claim(claiming.asked), answer);
    }

    fn take_late(&mut self, world: &mut World, claimed_at: Instant, answer: StoreResult<Claimed>) {
        if world.now() >= claimed_at + HOLDS {
            return;
        }
        for task in answer.map(|claimed| claimed.tasks).unwrap_or_default() {
            self.start_or_hand_back(world, &task.record, task.held, claimed_at);
        }
    }

    pub(super) fn deliver(&mut self, world: &mut World, now: Instant) {
        let (due, later) = std::mem::take(&mut self.delivering)
            .into_iter()
            .partition(|(due, _)| *due <= now);
        self.delivering = later;
        let due: Vec<(Instant, ClaimedDelivery)> = due;
        for (_, claimed) in due {
            let (id, delivery) = (claimed.delivery.id, &claimed.delivery);
            let of = (delivery.generation, delivery.destination.clone(), delivery.token.get());
            world.told_end(id, delivery.generation, delivery.webhook_id());
            world.asked_to_deliver(id, of.clone());
            let outcome = match world.faults_on && world.random.bool() {
                true => DeliveryOutcome::Retry(Duration::from_millis(world.random.u64(1..9_000))),
                false => DeliveryOutcome::Delivered,
            };
            if outcome == DeliveryOutcome::Delivered {
                world.report.delivered += 1;
            }
            let settlement = DeliverySettlement {
                claimed,
                outcome,
                tried: DeliveryTry::new(Timestamp::ZERO),
            };
            let ledger = world.ledger();
            let call = async move { ledger.settle_delivery(settlement).await };
            // Lost, it is delivered once more when its lease has run out.
            self.ask(world, Some(STORE_TIMEOUT), call, move |_, world, answer| {
                world.told_delivered(id, &of, answer);
            });
            world.note(format_args!("{id} was told"));
        }
    }
}
