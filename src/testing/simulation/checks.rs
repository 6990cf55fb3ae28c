//! The invariants, checked against what was done in the store.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    witness::{Charge, Found, Seen, Unsure},
    world::{CRASH_ALLOWANCE, GONE, MAX_ATTEMPTS, PATIENCE, World},
};
use crate::{
    store::Settled,
    task::{
        CapturedRequest, Delivery, DeliveryStatus, HistoryEvent, LeaseRef, RequestId, Scope, TaskRecord, TaskState,
        Tenant,
        delivery::DeliveryRef,
        lifecycle::{DEFERRALS, Edits, HISTORY_KEPT, Renewal, Stop},
    },
    time::Timestamp,
};

/// What is known of a task, from what was seen of it.
pub(super) struct Known {
    pub(super) tenant: Option<Tenant>,
    /// A client has its 202.
    pub(super) accepted: bool,
    input: Arc<CapturedRequest>,
    /// How many are told of each end.
    destinations: usize,
    /// The latest claim: generation, attempt, token.
    claimed: (u32, u32, u64),
    /// Claims of the present generation, less those that were handed back.
    charged: u32,
    generation: u32,
    /// The latest generation that was asked to stop.
    stopped: Option<u32>,
    /// How it ended, if it has, and since when nothing was left to be done about it.
    ended: Option<(TaskState, Timestamp)>,
    /// Its client removed it.
    deleted: bool,
    /// The webhook id under which each generation's end was told.
    told: BTreeMap<u32, String>,
}

impl World {
    /// Checks all that was done since this was asked last.
    pub(super) fn look_at_what_was_done(&mut self) {
        for seen in self.witness().seen() {
            self.look_at(seen);
        }
    }

    fn look_at(&mut self, seen: Seen) {
        match seen {
            // What was refused was not done.
            Seen::Unsure(unsure) => self.unsure.push(unsure),
            Seen::Inserted(record) => self.inserted(&record),
            Seen::Claimed(record, input) => self.claimed(&record, &input),
            Seen::Renewed(lease, before, renewal) => self.renewed(lease, &before, renewal),
            Seen::Settled {
                lease,
                charge,
                settled,
                before,
                after,
            } => self.settled(lease, charge, settled, &before, &after),
            Seen::Progressed(lease, before, held) => {
                let expected = holds(&before, lease);
                self.check(7, held == expected, format_args!("progress of {}: {held}", lease.id));
            }
            Seen::Rescued(tasks) => {
                for (id, rescue) in tasks {
                    self.touched.insert(id);
                    self.note(format_args!("{id} was rescued: {rescue:?}"));
                }
            }
            Seen::Stopped(stop, after) => self.stopped(stop, &after),
            Seen::RunAgain(id, generation, edits) => {
                self.touched.insert(id);
                if let Some(known) = self.known.get_mut(&id) {
                    known.input = Arc::new(edits.apply(&known.input));
                    known.generation = generation;
                    known.charged = 0;
                    known.ended = None;
                }
            }
            Seen::Deleted(id) => {
                if let Some(known) = self.known.get_mut(&id) {
                    known.deleted = true;
                }
            }
            Seen::DeliveryClaimed(id) => {
                self.touched.insert(id);
            }
            Seen::GivenUp(delivery, after) => self.given_up(&delivery, &after),
            Seen::DeliverySettled {
                claim,
                taken,
                before,
                after,
            } => self.delivery_settled(&claim, taken, &before, &after),
        }
    }

    fn inserted(&mut self, record: &TaskRecord) {
        let id = record.id;
        self.touched.insert(id);
        let Some(number) = self.offered.get(&id).copied() else {
            self.fail(9, format_args!("{id} was stored, and nobody ordered it"));
        };
        let order = &mut self.orders[number];
        let first = order.task.replace(id);
        let known = Known {
            tenant: order.tenant.clone(),
            accepted: false,
            input: order.input.clone(),
            destinations: 1 + usize::from(order.tells_gone),
            claimed: (1, 0, 0),
            charged: 0,
            generation: 1,
            stopped: None,
            ended: None,
            deleted: false,
            told: BTreeMap::new(),
        };
        self.known.insert(id, known);
        if let Some(first) = first {
            self.fail(
                13,
                format_args!("order {number} was stored twice, as {first} and as {id}"),
            );
        }
    }

    /// Takes over what may have been done amid a power cut, and was.
    pub(super) fn reconcile(&mut self, found: &[Arc<TaskRecord>]) {
        let unsure = std::mem::take(&mut self.unsure);
        let is_there = |id: &RequestId| found.iter().any(|record| record.id == *id);
        for what in &unsure {
            match what {
                Unsure::Insert(id) if is_there(id) && !self.known.contains_key(id) => {
                    if let Some(record) = found.iter().find(|record| record.id == *id) {
                        self.inserted(record);
                    }
                }
                Unsure::Delete(id) if !is_there(id) => {
                    if let Some(known) = self.known.get_mut(id) {
                        known.deleted = true;
                    }
                }
                _ => {}
            }
        }
        for record in found {
            let id = record.id;
            let Some(known) = self.known.get_mut(&id) else { continue };
            let rerun = unsure.iter().find_map(|what| match what {
                Unsure::RunAgain(of, edits) if *of == id && record.generation > known.generation => Some(edits),
                _ => None,
            });
            if let Some(edits) = rerun {
                known.input = Arc::new(Edits::clone(edits).apply(&known.input));
                known.generation = record.generation;
                known.charged = 0;
            }
            let moved = unsure.iter().any(|what| match what {
                Unsure::Insert(of) | Unsure::Settle(of) => *of == id,
                Unsure::Claim => record.token.get() > known.claimed.2,
                Unsure::RunAgain(..) | Unsure::Delete(_) => false,
            });
            if moved {
                known.claimed = (record.generation, record.attempt, record.token.get());
                known.charged = record.attempt;
            }
        }
    }

    /// A task was handed to a holder.
    fn claimed(&mut self, record: &TaskRecord, input: &CapturedRequest) {
        let id = record.id;
        self.report.attempts += 1;
        self.touched.insert(id);
        let Some(known) = self.known.get_mut(&id) else {
            self.fail(9, format_args!("{id} was claimed, and nobody ordered it"));
        };
        known.charged += 1;
        let before = known.claimed;
        known.claimed = (record.generation, record.attempt, record.token.get());
        let (generation, attempt, token) = before;
        let grown = record.token.get() > token
            && (record.generation > generation || record.generation == generation && record.attempt >= attempt);
        let (charged, stopped) = (known.charged, known.stopped);
        let same = known.input.as_ref() == input;
        self.check(5, grown, format_args!("{id} went back in its attempts"));
        self.check(
            5,
            record.attempt == charged,
            format_args!("{id} is in attempt {}, not {charged}", record.attempt),
        );
        let bounded = record.attempt <= MAX_ATTEMPTS + CRASH_ALLOWANCE;
        self.check(5, bounded, format_args!("{id} is in attempt {}", record.attempt));
        let stopped = stopped.is_some_and(|stopped| stopped >= record.generation);
        self.check(8, !stopped, format_args!("{id} ran after it was stopped"));
        self.check(9, same, format_args!("{id} has another request now"));
    }

    fn renewed(&self, lease: LeaseRef, before: &Found, renewal: Renewal) {
        let now = self.store_time();
        let until = before.as_ref().and_then(|record| record.lease_until);
        let holds = holds(before, lease) && until.is_some_and(|until| now < until);
        let renewed = renewal != Renewal::Lost;
        let id = lease.id;
        self.check(3, !renewed || holds, format_args!("a lapsed claim of {id} was renewed"));
    }

    fn settled(&mut self, lease: LeaseRef, charge: Charge, settled: Settled, before: &Found, after: &Found) {
        let id = lease.id;
        self.touched.insert(id);
        let Settled::Accepted { state, .. } = settled else {
            self.check(7, before == after, format_args!("a refused settlement changed {id}"));
            return;
        };
        self.check(
            7,
            holds(before, lease),
            format_args!("an old token was accepted for {id}"),
        );
        let (Some(before), Some(after)) = (before, after) else {
            self.fail(1, format_args!("{id} was settled and is gone"));
        };
        self.check(
            4,
            after.state == state,
            format_args!("{id} is {}, not {state}", after.state),
        );
        let stops = before.state != TaskState::Stopping || state == TaskState::Stopped;
        self.check(8, stops, format_args!("{id} was to stop and is {state}"));
        let deferrals = u32::from(charge == Charge::Deferred && state.is_queued());
        self.check(
            5,
            after.deferrals == before.deferrals + deferrals && after.deferrals <= DEFERRALS,
            format_args!("{id} was deferred {} times", after.deferrals),
        );
        if charge != Charge::Full && state.is_queued() {
            let uncharged = before.attempt - after.attempt == 1
                && before.crashes - after.crashes == 1
                && before.retries == after.retries;
            self.check(5, uncharged, format_args!("{id} was {charge:?} and charged"));
            if let Some(known) = self.known.get_mut(&id) {
                known.charged -= 1;
                // The number is given again.
                known.claimed.1 -= 1;
            }
        }
    }

    fn stopped(&mut self, stop: Stop, after: &Found) {
        let Some(record) = after else { return };
        self.touched.insert(record.id);
        if matches!(stop, Stop::Stopping | Stop::Stopped)
            && let Some(known) = self.known.get_mut(&record.id)
        {
            known.stopped = Some(record.generation);
        }
    }

    fn delivery_settled(&mut self, claim: &DeliveryRef, taken: bool, before: &Found, after: &Found) {
        let id = claim.id;
        self.touched.insert(id);
        let mut deliveries = before.iter().flat_map(|record| &record.deliveries);
        let of = deliveries.find(|it| (it.generation, &it.destination) == (claim.generation, &claim.destination));
        let holds = of.is_some_and(|it| it.token == claim.token && it.status == DeliveryStatus::Pending);
        self.check(
            7,
            taken == holds,
            format_args!("a delivery of {id} whose claim was no more: {taken}"),
        );
        self.check(
            7,
            taken || before == after,
            format_args!("a refused delivery changed {id}"),
        );
    }

    fn given_up(&mut self, delivery: &Delivery, after: &Found) {
        let id = delivery.id;
        self.touched.insert(id);
        self.report.given_up += 1;
        let rightly = delivery.destination.as_str() == GONE
            && delivery.status == DeliveryStatus::Failed
            && delivery.ended_at.saturating_add(PATIENCE) <= self.latest;
        self.check(
            6,
            rightly,
            format_args!("telling {} of {id} was given up", delivery.destination),
        );
        let Some(after) = after else {
            self.fail(1, format_args!("{id} is gone with what was given up of it"));
        };
        if let Some(known) = self.known.get_mut(&id)
            && let Some(since) = after.rests_since()
        {
            known.ended = Some((after.state, since));
        }
    }

    /// The end of a task was told.
    pub(super) fn told(&mut self, id: RequestId, generation: u32, webhook_id: String) {
        let Some(known) = self.known.get_mut(&id) else {
            self.fail(6, format_args!("the end of a task was told that nobody ordered"));
        };
        let first = known
            .told
            .entry(generation)
            .or_insert_with(|| webhook_id.clone())
            .clone();
        self.check(6, first == webhook_id, format_args!("{id} was told under two ids"));
    }

    pub(super) fn check_touched(&mut self) {
        self.look_at_what_was_done();
        for id in std::mem::take(&mut self.touched) {
            match self.witness().find(&Scope::All, id) {
                Some(record) => self.check_task(&record),
                None => self.check_gone(id),
            }
        }
    }

    /// Nothing is gone but what its client removed, or what was kept for as long as it was to be.
    fn check_gone(&self, id: RequestId) {
        let Some(known) = self.known.get(&id) else { return };
        let past = |(state, at): (TaskState, Timestamp)| at.saturating_add(self.retention.of(state)) <= self.latest;
        let rightly = known.deleted || known.ended.is_some_and(past);
        let ended = known.ended;
        self.check(
            1,
            rightly,
            format_args!("{id} was stored and is gone at {}, ended: {ended:?}", self.latest),
        );
    }

    fn check_task(&mut self, record: &TaskRecord) {
        let id = record.id;
        let Some(known) = self.known.get_mut(&id) else { return };
        // What is still to be told may be told and the task removed before this is looked at again.
        let since = record.rests_since().or(record.ended_at);
        known.ended = since.map(|at| (record.state, at));
        let (generation, tenant) = (known.generation, known.tenant.clone());
        let told = known.destinations;
        self.check(
            4,
            record.generation == generation,
            format_args!("{id} is in another generation"),
        );
        let ends = record.generation as usize - usize::from(!record.state.is_terminal());
        if record.history.len() < HISTORY_KEPT {
            let is_end = |event: &&HistoryEvent| event.state.is_terminal();
            let noted = record.history.iter().filter(is_end).count();
            self.check(4, noted == ends, format_args!("{id} ended {noted} times, not {ends}"));
        }
        let of_now = |delivery: &&Delivery| delivery.generation == generation;
        let of_now = record.deliveries.iter().filter(of_now).count();
        let ended = usize::from(record.state.is_terminal());
        self.check(
            6,
            of_now == ended * told && record.deliveries.len() <= ends * told,
            format_args!("{id} ended {ends} times, {of_now} of its latest run are told"),
        );
        let bounded = record.crashes <= CRASH_ALLOWANCE;
        self.check(5, bounded, format_args!("{id} crashed {} times", record.crashes));
        let witness = self.witness();
        let stranger = Scope::One(Some(Tenant::new("stranger")));
        let seen = witness.find(&stranger, id).is_some();
        self.check(12, !seen, format_args!("{id} was seen by a stranger"));
        let seen = witness.find(&Scope::One(tenant), id).is_some();
        self.check(12, seen, format_args!("{id} is hidden from its owner"));
    }

    pub(super) fn check_handlers(&self) {
        let now = self.now();
        let mut at_work = BTreeMap::new();
        for process in self.processes() {
            let running = process.handlers();
            self.check(
                10,
                running <= process.slots,
                format_args!("{running} handlers on {}", process.slots),
            );
            if now < self.leapt_until {
                // The store's clock leapt: a lease ended that is good elsewhere. Tokens keep them apart.
                continue;
            }
            for lease in process.at_work(now) {
                let handlers = at_work.entry(lease.id).or_insert(0);
                *handlers += 1;
                self.check(3, *handlers == 1, format_args!("two handlers work on {}", lease.id));
            }
        }
    }

    pub(super) fn all_is_told(&self) -> bool {
        let witness = self.witness();
        let records = self.known.keys().filter_map(|id| witness.find(&Scope::All, *id));
        let pending = |record: &TaskRecord| {
            let mut deliveries = record.deliveries.iter();
            deliveries.any(|delivery| delivery.status == DeliveryStatus::Pending)
        };
        records.into_iter().all(|record| !pending(&record))
    }

    pub(super) fn check_end(&self) {
        for (id, known) in self.known.iter().filter(|(_, known)| !known.deleted) {
            let record = self.witness().find(&Scope::All, *id);
            match &record {
                Some(record) => {
                    self.check(
                        2,
                        record.state.is_terminal(),
                        format_args!("{id} is {} although all is calm", record.state),
                    );
                    self.check(
                        6,
                        record.rests_since().is_some(),
                        format_args!("{id} is still to be told of although all is calm"),
                    );
                }
                None => self.check_gone(*id),
            }
            for generation in 1..=known.generation {
                let told = known.told.contains_key(&generation);
                self.check(
                    6,
                    told,
                    format_args!("the end of {id} in generation {generation} was never told"),
                );
            }
        }
    }
}

fn holds(record: &Found, lease: LeaseRef) -> bool {
    record.as_ref().is_some_and(|record| record.is_held_by(lease.token))
}
