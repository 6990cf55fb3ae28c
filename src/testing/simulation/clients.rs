//! The clients: they order tasks, under a key or without, send again what was not answered, stop tasks, run them again.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use bytes::Bytes;
use http::{HeaderMap, Method, Uri};

use super::{
    process::Process,
    world::{BUDGET, CRASH_ALLOWANCE, GONE, LEASE, MAX_ATTEMPTS, STORE_TIMEOUT, World},
};
use crate::{
    engine::node::Hint,
    store::{Insert, Inserted, StoreErrorKind},
    task::{
        CapturedRequest, Conditions, Destination, IdempotencyKey, NewTask, RequestId, Scope, Subscription,
        Subscriptions, Tenant,
        delivery::Redeliver,
        lifecycle::{Edits, Rerun, Stop},
    },
};

/// How often an order is sent at most.
const TRIES: u32 = 4;

/// What a client wants done: once, however often it is sent.
#[derive(Debug)]
pub(super) struct Order {
    key: Option<IdempotencyKey>,
    pub(super) input: Arc<CapturedRequest>,
    pub(super) tenant: Option<Tenant>,
    delay: Duration,
    max_age: Duration,
    deadly: bool,
    /// Its end is to be told to somebody as well whom no process knows.
    pub(super) tells_gone: bool,
    /// The task that it became.
    pub(super) task: Option<RequestId>,
    tries: u32,
    again_at: Option<Instant>,
}

impl World {
    /// One of the clients does something.
    pub(super) fn client(&mut self) {
        match self.random.u32(0..40) {
            0..=22 => self.order(),
            23..=30 => self.stop(),
            31..=35 => self.rerun(),
            36 | 37 => self.redeliver(),
            _ => self.delete(),
        }
    }

    /// Orders without an answer are sent again.
    pub(super) fn send_again(&mut self) {
        let now = self.now();
        for order in 0..self.orders.len() {
            if self.orders[order].again_at.is_some_and(|at| at <= now) {
                self.send(&[order]);
            }
        }
    }

    pub(super) fn all_is_answered(&self) -> bool {
        self.orders.iter().all(|order| order.again_at.is_none())
    }

    /// One order, or several at once.
    fn order(&mut self) {
        let count = match self.random.u32(0..8) {
            0 => self.random.usize(2..=4),
            _ => 1,
        };
        let numbers: Vec<_> = (0..count).filter_map(|_| self.new_order()).collect();
        if !numbers.is_empty() {
            self.send(&numbers);
        }
    }

    /// Something that a client wants done, unless it is too much at once.
    fn new_order(&mut self) -> Option<usize> {
        let body = vec![self.random.u8(..); self.random.usize(0..400)];
        // Its body arrives in two halves, beside the bodies of others.
        let mut reserved = self.budget.reserve();
        let other = self.budget.reserve().grow_to(self.random.usize(0..BUDGET));
        let fits = reserved.grow_to(body.len() / 2) && reserved.grow_to(body.len());
        let within = self.budget.used() <= BUDGET && (fits || other);
        self.check(11, within, format_args!("the budget"));
        if !fits {
            return None;
        }
        let mut headers = HeaderMap::new();
        headers.insert("x-number", self.random.u64(..).into());
        let uri = Uri::from_static("/simulated?a=b");
        let number = self.orders.len();
        let random = &mut self.random;
        let key = format!("key-{number}");
        self.orders.push(Order {
            key: random.bool().then(|| IdempotencyKey::new(&key).ok()).flatten(),
            input: Arc::new(CapturedRequest::new(Method::POST, uri, headers, Bytes::from(body))),
            tenant: random.bool().then(|| Tenant::new(["one", "two"][random.usize(0..2)])),
            delay: match random.u32(0..5) {
                0 => Duration::from_millis(random.u64(1..30_000)),
                _ => Duration::ZERO,
            },
            max_age: match random.u32(0..4) {
                0 => Duration::from_secs(random.u64(30..400)),
                // Longer than the run, so that nothing that is forgotten is cleared away.
                _ => Duration::from_secs(50 * 24 * 60 * 60),
            },
            deadly: random.u32(0..30) == 0,
            tells_gone: random.u32(0..6) == 0,
            task: None,
            tries: 0,
            again_at: None,
        });
        Some(number)
    }

    /// Sends orders, each under a new id, in one call.
    fn send(&mut self, numbers: &[usize]) {
        let now = self.now();
        for number in numbers {
            let pause = Duration::from_millis(self.random.u64(10..10_000));
            let order = &mut self.orders[*number];
            order.tries += 1;
            self.report.sent_again += u64::from(order.tries > 1);
            // Without a key it is not safe to send it twice.
            let again = order.key.is_some() && order.tries < TRIES;
            order.again_at = again.then(|| now + STORE_TIMEOUT + pause);
        }
        let Some(index) = self.any_process() else { return };
        self.with_process(index, |process, world| {
            let sent: Vec<_> = numbers
                .iter()
                .map(|number| Sent::new(*number, process, world, now))
                .collect();
            let inserts: Vec<_> = sent.iter().map(|sent| sent.insert.clone()).collect();
            let ledger = world.ledger();
            let call = async move {
                match <[Insert; 1]>::try_from(inserts) {
                    Ok([insert]) => Ok(vec![ledger.insert(insert).await?]),
                    Err(inserts) => ledger.insert_all(inserts).await,
                }
            };
            // No limit: whatever becomes of the client, the insert is seen through.
            process.ask(world, None, call, move |process, world, answer| {
                let mut answers = answer.unwrap_or_default().into_iter();
                for Sent { number, insert } in sent {
                    let (id, born) = (insert.task.id, insert.born.is_some());
                    let inserted = answers.next();
                    world.answered(number, now, inserted.as_ref());
                    match inserted {
                        Some(Inserted::New(record, Some(held))) => process.born(world, &record, held, now),
                        Some(Inserted::New(_, None)) => process.hint_work(world.now()),
                        None if born => process.lost(id, now, world.now()),
                        _ => process.not_born(id),
                    }
                }
            });
        });
    }

    /// The store answered the insert of an order that was sent then, or did not.
    fn answered(&mut self, number: usize, sent_at: Instant, answer: Option<&Inserted>) {
        let now = self.now();
        if now >= sent_at + STORE_TIMEOUT {
            // Its client had 503 long ago.
            return;
        }
        let id = match answer {
            Some(Inserted::New(record, _)) => record.id,
            Some(Inserted::Known { id, same_request, .. }) => {
                let same = *same_request && self.orders[number].task == Some(*id);
                self.check(13, same, format_args!("the key of order {number} is known as {id}"));
                *id
            }
            Some(other) => self.fail(1, format_args!("the insert answered {other:?}")),
            None => {
                let pause = Duration::from_millis(self.random.u64(10..5_000));
                let order = &mut self.orders[number];
                order.again_at = order.again_at.map(|_| now + pause);
                return;
            }
        };
        self.orders[number].again_at = None;
        self.note(format_args!("order {number} has its 202 for {id}"));
        let Some(known) = self.known.get_mut(&id) else {
            self.fail(
                1,
                format_args!("order {number} has its 202 for {id}, which was never stored"),
            );
        };
        self.report.tasks += u64::from(!known.accepted);
        known.accepted = true;
    }

    fn stop(&mut self) {
        let Some((id, index)) = self.any_task() else { return };
        let stranger = self.random.u32(0..8) == 0;
        let known = self.known.get_mut(&id);
        let tenant = known.and_then(|known| {
            known.asked.stop |= !stranger;
            known.tenant.clone()
        });
        let scope = match stranger {
            true => Scope::One(Some(Tenant::new("stranger"))),
            false => Scope::One(tenant),
        };
        self.note(format_args!("stop {id}, as a stranger: {stranger}"));
        self.with_process(index, |process, world| {
            let ledger = world.ledger();
            let call = async move { ledger.stop(&scope, id).await };
            process.ask(world, Some(STORE_TIMEOUT), call, move |process, world, answer| {
                let refused = answer.as_ref().is_err_and(|error| {
                    let kind = error.kind();
                    kind == StoreErrorKind::NotFound || kind == StoreErrorKind::Unavailable
                });
                world.check(12, refused || !stranger, format_args!("a stranger stopped {id}"));
                let Ok(stop) = answer else { return };
                world.told_stopped(id, stop);
                if stop == Stop::Stopping {
                    process.stop_asked(id, world.now());
                }
            });
        });
    }

    fn rerun(&mut self) {
        let Some((id, index)) = self.any_task() else { return };
        let mut edits = Edits::default();
        if self.random.bool() {
            edits.body = Some(Bytes::from(vec![self.random.u8(..); 20]));
        }
        self.note(format_args!("run {id} again, edited: {}", !edits.is_empty()));
        if let Some(known) = self.known.get_mut(&id) {
            known.asked.rerun.push(edits.clone());
        }
        self.with_process(index, |process, world| {
            let ledger = world.ledger();
            let call = async move { ledger.rerun(&Scope::All, id, edits).await };
            process.ask(world, Some(STORE_TIMEOUT), call, move |process, world, answer| {
                let Ok(rerun) = answer else { return };
                world.told_rerun(id, rerun);
                if let Rerun::Enqueued { .. } = rerun {
                    process.hint_work(world.now());
                }
            });
        });
    }

    fn delete(&mut self) {
        let Some((id, index)) = self.any_task() else { return };
        self.note(format_args!("delete {id}"));
        if let Some(known) = self.known.get_mut(&id) {
            known.asked.delete = true;
        }
        self.with_process(index, |process, world| {
            let ledger = world.ledger();
            let call = async move { ledger.delete(&Scope::All, id).await };
            process.ask(world, Some(STORE_TIMEOUT), call, move |_, world, answer| {
                if let Ok(delete) = answer {
                    world.told_deleted(id, delete);
                }
            });
        });
    }

    /// The end of a task is to be told once more.
    fn redeliver(&mut self) {
        let Some((id, index)) = self.any_task() else { return };
        let latest = self.known.get_mut(&id).map_or(1, |known| {
            known.asked.redeliver = true;
            known.generation
        });
        let generation = self.random.u32(1..=latest);
        self.note(format_args!("tell the end of {id} in generation {generation} again"));
        self.with_process(index, |process, world| {
            let ledger = world.ledger();
            let call = async move { ledger.redeliver(&Scope::All, id, generation, &Destination::LOCAL).await };
            process.ask(world, Some(STORE_TIMEOUT), call, move |process, world, answer| {
                if let Ok(Redeliver::Due) = answer {
                    process.node.hint(Hint::Outbox, world.now());
                }
            });
        });
    }

    /// Some task, and a process to ask about it.
    fn any_task(&mut self) -> Option<(RequestId, usize)> {
        let index = self.any_process()?;
        let count = self.known.len();
        let id = (count > 0).then(|| self.known.keys().nth(self.random.usize(0..count)).copied())?;
        Some((id?, index))
    }
}

/// An order on its way.
struct Sent {
    number: usize,
    insert: Insert,
}

impl Sent {
    fn new(number: usize, process: &mut Process, world: &mut World, now: Instant) -> Self {
        let mut random = [0; 10];
        random.iter_mut().for_each(|byte| *byte = world.random.u8(..));
        let id = RequestId::from_parts(world.shown_time(process.skew), random);
        let order = &world.orders[number];
        let mut task = NewTask::new(id, order.input.clone());
        task.key.clone_from(&order.key);
        task.digest = order.key.is_some().then(|| order.input.digest());
        task.max_attempts = MAX_ATTEMPTS;
        task.crash_allowance = CRASH_ALLOWANCE;
        task.max_age = order.max_age;
        task.delay = order.delay;
        task.tenant.clone_from(&order.tenant);
        task.key_window = Duration::from_secs(50 * 24 * 60 * 60);
        let told = |destination| Subscription {
            destination,
            on: Conditions::ALL,
        };
        task.subscriptions = match order.tells_gone {
            true => Subscriptions::from([told(Destination::LOCAL), told(Destination::new(GONE))]),
            false => Subscriptions::from([told(Destination::LOCAL)]),
        };
        world.offered.insert(id, number);
        if order.deadly {
            world.deadly.insert(id);
        }
        let born = order.delay.is_zero() && process.slot_for(id, now);
        let mut insert = Insert::new(task);
        if born {
            insert = insert.born(process.worker.clone(), LEASE);
        }
        world.note(format_args!("order {number} is sent as {id}, born claimed: {born}"));
        Self { number, insert }
    }
}
