//! The invariants, checked against what was done in the store.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    witness::{Found, Seen, Unsure},
    world::{CRASH_ALLOWANCE, GONE, MAX_ATTEMPTS, PATIENCE, World},
};
use crate::{
    store::{Change, Guard, Payload, Renewal, Row, Settled},
    task::{
        CapturedRequest, Delivery, DeliveryStatus, HistoryEvent, LeaseRef, RequestId, Scope, TaskRecord, TaskState,
        Tenant,
        lifecycle::{DEFERRALS, Edits, HISTORY_KEPT},
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
    /// Its client asked for it to be removed ...
    pub(super) is_unwanted: bool,
    /// ... and it was.
    deleted: bool,
    /// What its client asked for to be run again with.
    pub(super) edits: Vec<Edits>,
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
            Seen::Inserted(row, request) => {
                self.inserted(&row.record);
                if row.columns.is_held() {
                    self.claimed(row, request);
                }
            }
            Seen::Claimed(row, request) => {
                let waited = row.record.state.is_queued();
                self.check(7, waited, format_args!("the claim of {} wrote its record", row.id));
                self.claimed(row, request);
            }
            Seen::Renewed {
                lease,
                renewal,
                before,
                after,
            } => self.renewed(lease, renewal, before.as_ref(), after.as_ref()),
            Seen::Progressed(lease, before, held) => {
                let expected = holds(before.as_ref(), lease);
                self.check(7, held == expected, format_args!("progress of {}: {held}", lease.id));
            }
            Seen::Committed(change, done, before, after) => self.committed(&change, done, before, after),
            Seen::DeliveryClaimed(row, found) => {
                self.touched.insert(row.id);
                let kept = found.is_some_and(|found| found.version == row.version && found.record == row.record);
                self.check(7, kept, format_args!("a claim of a completion changed {}", row.id));
            }
        }
    }

    /// A change was made or refused: by what it depends on, and it leads where it may.
    fn committed(&mut self, change: &Change, done: bool, before: Found, after: Found) {
        let (id, now) = (change.id, self.store_time());
        self.touched.insert(id);
        let Some(row) = before else {
            self.check(
                7,
                !done && after.is_none(),
                format_args!("{id} is gone and was changed"),
            );
            return;
        };
        let holds = change.holds(&row, now);
        self.check(
            7,
            done == holds,
            format_args!("a change of {id} was made: {done}, and holds: {holds}"),
        );
        if !done {
            self.check(
                7,
                after.as_ref() == Some(&row),
                format_args!("a refused change changed {id}"),
            );
            return;
        }
        let old = row.clone().into_record();
        let Some(next) = after else {
            let rests = old.rests_since().is_some();
            let mut rightly = rests;
            if let Some(known) = self.known.get_mut(&id) {
                known.deleted = known.is_unwanted;
                rightly |= known.deleted;
            }
            rightly &= change.to.is_none() && old.state.is_terminal();
            self.check(1, rightly, format_args!("{id} was removed and is {}", old.state));
            return;
        };
        self.check(
            7,
            next.version == row.version + 1,
            format_args!("the version of {id} is {}", next.version),
        );
        self.told_by(&row, &next);
        let new = next.clone().into_record();
        self.led_to(change, &row, &old, &new);
        self.deliveries_changed(&old, &new);
    }

    /// What the outbox has is what is pending, no more and no less.
    fn told_by(&self, before: &Row, after: &Row) {
        let pending = after.record.deliveries.iter().filter(|it| it.is_pending());
        let mut pending: Vec<_> = pending.map(|it| (it.generation, it.destination.clone())).collect();
        let rows = after.outbox.iter();
        let mut rows: Vec<_> = rows.map(|it| (it.generation, it.destination.clone())).collect();
        pending.sort_by(|a, b| (a.0, a.1.as_str()).cmp(&(b.0, b.1.as_str())));
        rows.sort_by(|a, b| (a.0, a.1.as_str()).cmp(&(b.0, b.1.as_str())));
        self.check(
            6,
            pending == rows,
            format_args!("the outbox of {} has {rows:?}, not {pending:?}", after.id),
        );
        for row in &after.outbox {
            let was = before.outbox_row(row.generation, &row.destination);
            let grows = was.is_none_or(|was| was.token <= row.token);
            self.check(
                7,
                grows,
                format_args!("a token of the outbox of {} went back", after.id),
            );
        }
    }

    /// Where a change of a task led.
    fn led_to(&mut self, change: &Change, row: &Row, old: &TaskRecord, new: &TaskRecord) {
        let id = old.id;
        let again = old.state.is_terminal() && !new.state.is_terminal();
        let generation = old.generation + u32::from(again);
        self.check(
            4,
            new.generation == generation,
            format_args!("{id} is in generation {}", new.generation),
        );
        let ends_once = !old.state.is_terminal() || again || new.state == old.state;
        self.check(
            4,
            ends_once,
            format_args!("{id} was {} and is {}", old.state, new.state),
        );
        let obeys = old.state != TaskState::Stopping || matches!(new.state, TaskState::Stopping | TaskState::Stopped);
        self.check(8, obeys, format_args!("{id} was to stop and is {}", new.state));
        if again {
            return self.run_again(change, new);
        }
        let asked = new.state == TaskState::Stopping && old.state == TaskState::Running;
        let stopped = old.state.is_queued() && new.state == TaskState::Stopped;
        if asked || stopped {
            self.note(format_args!("{id} is to stop"));
            if let Some(known) = self.known.get_mut(&id) {
                known.stopped = Some(new.generation);
            }
        }
        if old.state.is_held() && new.state.is_held() {
            let kept = new.lease_until == old.lease_until && new.progress == old.progress && new.token == old.token;
            self.check(3, kept, format_args!("the claim of {id} was changed under its holder"));
        }
        if old.state.is_held() && !new.state.is_held() {
            self.left(change, row, old, new);
        }
    }

    /// A task left its holder: by the holder's own word, or because that one is gone.
    fn left(&mut self, change: &Change, row: &Row, old: &TaskRecord, new: &TaskRecord) {
        let id = old.id;
        let is_rescue = new.history.last().is_some_and(|event| {
            let detail = event.detail.as_deref().unwrap_or_default();
            detail.starts_with("rescued") || detail.starts_with("poison") || detail.contains("its worker was gone")
        });
        if is_rescue {
            let lapsed = row.columns.has_lapsed(self.store_time()) && matches!(change.guard, Guard::Lapsed(_));
            let is_here = self.has_worker(row.columns.worker.as_ref());
            let rightly = lapsed || !is_here && self.is_alone();
            self.check(
                3,
                rightly,
                format_args!("{id} was taken from a holder whose lease held"),
            );
            self.note(format_args!("{id} was rescued: {}", new.state));
            return;
        }
        let deferred = new.deferrals - old.deferrals;
        self.check(
            5,
            deferred <= 1 && new.deferrals <= DEFERRALS,
            format_args!("{id} was deferred {deferred} times"),
        );
        if new.state.is_queued() && new.attempt < old.attempt {
            let uncharged =
                old.attempt - new.attempt == 1 && old.crashes - new.crashes == 1 && old.retries == new.retries;
            self.check(5, uncharged, format_args!("{id} was handed back and charged"));
            if let Some(known) = self.known.get_mut(&id) {
                known.charged -= 1;
                // The number is given again.
                known.claimed.1 -= 1;
            }
        }
    }

    fn run_again(&mut self, change: &Change, new: &TaskRecord) {
        let id = new.id;
        let Some(known) = self.known.get_mut(&id) else { return };
        known.generation = new.generation;
        known.charged = 0;
        known.ended = None;
        let Some(payload) = change.request.clone() else { return };
        let edited = CapturedRequest::from_payload(payload).ok();
        let mut asked = known.edits.iter().map(|edits| edits.clone().apply(&known.input));
        let is_asked_for = edited
            .as_ref()
            .is_some_and(|edited| asked.any(|asked| asked == *edited));
        if let Some(edited) = edited {
            known.input = Arc::new(edited);
        }
        self.check(
            9,
            is_asked_for,
            format_args!("{id} is run again with a request that nobody asked for"),
        );
    }

    /// What became of completions.
    fn deliveries_changed(&mut self, old: &TaskRecord, new: &TaskRecord) {
        for delivery in new.deliveries.iter().filter(|it| it.status == DeliveryStatus::Failed) {
            let was = old.delivery(delivery.generation, &delivery.destination);
            let given_up = delivery.tries.last().and_then(|tried| tried.text.as_deref());
            let given_up = given_up.is_some_and(|text| text.starts_with("given up"));
            if was.is_some_and(Delivery::is_pending) && given_up {
                self.given_up(delivery, new);
            }
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
            is_unwanted: false,
            deleted: false,
            edits: Vec::new(),
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
            if let Unsure::Insert(id) = what
                && is_there(id)
                && !self.known.contains_key(id)
                && let Some(record) = found.iter().find(|record| record.id == *id)
            {
                self.inserted(record);
            }
        }
        for what in &unsure {
            if let Unsure::Commit(change) = what
                && change.to.is_none()
                && !is_there(&change.id)
                && let Some(known) = self.known.get_mut(&change.id)
            {
                known.deleted |= known.is_unwanted;
            }
        }
        for record in found {
            let id = record.id;
            let Some(known) = self.known.get_mut(&id) else { continue };
            let changes = || {
                unsure.iter().filter_map(|what| match what {
                    Unsure::Commit(change) if change.id == id => Some(change),
                    _ => None,
                })
            };
            if record.generation > known.generation {
                let request = changes().find_map(|change| change.request.clone());
                let edited = request.and_then(|payload| CapturedRequest::from_payload(payload).ok());
                known.input = edited.map_or_else(|| known.input.clone(), Arc::new);
                known.generation = record.generation;
                known.charged = 0;
            }
            let moved = unsure.iter().any(|what| match what {
                Unsure::Insert(of) => *of == id,
                Unsure::Commit(change) => change.id == id,
                Unsure::Claim => record.token.get() > known.claimed.2,
            });
            if moved {
                known.claimed = (record.generation, record.attempt, record.token.get());
                known.charged = record.attempt;
            }
        }
    }

    /// A task was handed to a holder.
    fn claimed(&mut self, row: Row, request: Payload) {
        let record = row.into_record();
        let id = record.id;
        let Ok(input) = CapturedRequest::from_payload(request) else {
            self.fail(9, format_args!("the request of {id} cannot be read"));
        };
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
        let same = *known.input == input;
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

    /// A holder's word was taken: its claim is over.
    pub(super) fn was_settled(&self, lease: LeaseRef, settled: Settled) {
        let accepted = matches!(settled, Settled::Accepted { .. });
        let held = self.witness().find(&Scope::All, lease.id);
        let held = held.is_some_and(|record| record.state.is_held() && record.token == lease.token);
        self.check(
            7,
            !(accepted && held),
            format_args!("{} is held after its end was accepted", lease.id),
        );
    }

    fn renewed(&self, lease: LeaseRef, renewal: Renewal, before: Option<&Row>, after: Option<&Row>) {
        let now = self.store_time();
        let until = before.and_then(|row| row.columns.lease_until);
        let held = holds(before, lease) && until.is_some_and(|until| now < until);
        let renewed = renewal != Renewal::Lost;
        let id = lease.id;
        self.check(3, !renewed || held, format_args!("a lapsed claim of {id} was renewed"));
        let version = |row: Option<&Row>| row.map(|row| row.version);
        let same = version(before) == version(after);
        self.check(7, same, format_args!("a renewal raised the version of {id}"));
    }

    fn given_up(&mut self, delivery: &Delivery, after: &TaskRecord) {
        let id = delivery.id;
        self.report.given_up += 1;
        let rightly = delivery.destination.as_str() == GONE
            && delivery.status == DeliveryStatus::Failed
            && delivery.ended_at.saturating_add(PATIENCE) <= self.latest;
        self.check(
            6,
            rightly,
            format_args!("telling {} of {id} was given up", delivery.destination),
        );
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

fn holds(row: Option<&Row>, lease: LeaseRef) -> bool {
    row.is_some_and(|row| row.is_held_by(lease.token))
}
