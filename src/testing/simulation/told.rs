//! The invariants, checked against what is told of what was done: by then it can be seen in the store.

use super::{
    known::{Charge, Gone, Report, Try},
    world::World,
};
use crate::{
    store::{Delete, Rescued, Settled, StoreResult},
    task::{
        Delivery, LeaseRef, RequestId, Scope, TaskRecord,
        lifecycle::{Outcome, Rerun, Stop},
    },
};

impl World {
    /// A process begins an attempt, by what it was told of the task.
    pub(super) fn check_start(&self, record: &TaskRecord, lease: LeaseRef) {
        let id = lease.id;
        let Some(known) = self.known.get(&id) else { return };
        let (generation, attempt, token) = known.claimed;
        let told = (record.generation, record.attempt, record.token);
        let as_told =
            record.lease() == lease && (token != lease.token.get() || told == (generation, attempt, lease.token));
        self.check(5, as_told, format_args!("{id} was begun as {told:?}"));
    }

    /// A holder says how its attempt ended.
    pub(super) fn asked_to_settle(&mut self, lease: LeaseRef, outcome: &Outcome) {
        if let Some(known) = self.known.get_mut(&lease.id) {
            let report = Report {
                charge: Charge::of(outcome),
                unanswered: false,
            };
            known.asked.settle.entry(lease.token.get()).or_insert(report);
        }
    }

    /// A holder is told what became of that, or nothing.
    pub(super) fn told_settled(&mut self, lease: LeaseRef, told: &StoreResult<Settled>) {
        let (id, token) = (lease.id, lease.token.get());
        let Some(known) = self.known.get_mut(&id) else { return };
        let Ok(told) = told else {
            known
                .asked
                .settle
                .entry(token)
                .and_modify(|report| report.unanswered = true);
            return;
        };
        let unanswered = known.asked.settle.get(&token).is_some_and(|report| report.unanswered);
        let Some(known) = self.known.get(&id) else { return };
        let settled = known.settled.get(&token);
        match *told {
            Settled::Accepted { state, outbox } => {
                let as_told = settled.is_some_and(|it| it.state == state && it.outbox == outbox);
                self.check(7, as_told, format_args!("{id} is not {state} as its holder was told"));
            }
            Settled::Fenced => {
                // It was, nobody said so, and then somebody changed what it had become: nobody can tell any more.
                let is_hidden = |record: &_| {
                    let row = self.witness().row(&Scope::All, id);
                    unanswered && row.is_none_or(|row| row.record != *record)
                };
                let rightly = settled.is_none_or(|it| is_hidden(&it.record));
                self.check(7, rightly, format_args!("{id} was settled, and its holder fenced"));
            }
        }
    }

    pub(super) fn told_rescued(&mut self, rescued: &Rescued) {
        for (id, what) in &rescued.tasks {
            let Some(known) = self.known.get_mut(id) else { continue };
            known.rescued_told += 1;
            let rightly = known.rescued_told <= known.rescued;
            self.check(2, rightly, format_args!("{id} was not {what:?} as was told"));
        }
    }

    pub(super) fn told_stopped(&self, id: RequestId, stop: Stop) {
        let Some(known) = self.known.get(&id) else { return };
        let as_told = match stop {
            Stop::Stopping | Stop::Stopped => known.stopped.is_some(),
            Stop::AlreadyEnded(state) => known.ends.values().any(|end| *end == state),
        };
        self.check(8, as_told, format_args!("{id} is not {stop:?} as was told"));
    }

    pub(super) fn told_rerun(&self, id: RequestId, rerun: Rerun) {
        let Some(known) = self.known.get(&id) else { return };
        if let Rerun::Enqueued { generation } = rerun {
            let as_told = known.generation >= generation;
            self.check(4, as_told, format_args!("{id} does not run again as was told"));
        }
    }

    pub(super) fn told_deleted(&self, id: RequestId, delete: Delete) {
        let Some(known) = self.known.get(&id) else { return };
        let as_told = delete != Delete::Deleted || known.gone == Some(Gone::Deleted);
        self.check(1, as_told, format_args!("{id} was not removed as was told"));
    }

    /// Somebody says how a try of a delivery went.
    pub(super) fn asked_to_deliver(&mut self, id: RequestId, of: Try) {
        if let Some(known) = self.known.get_mut(&id) {
            known.asked.deliver.insert(of);
        }
    }

    /// It is told whether its word was taken, or nothing.
    pub(super) fn told_delivered(&self, id: RequestId, of: &Try, told: StoreResult<bool>) {
        let (Some(known), Ok(taken)) = (self.known.get(&id), told) else {
            return;
        };
        let as_told = known.delivered.contains(of) == taken;
        self.check(
            7,
            as_told,
            format_args!("a try to tell of {id}: {taken}, and it is not so"),
        );
    }

    pub(super) fn told_given_up(&mut self, deliveries: &[Delivery]) {
        for Delivery { id, .. } in deliveries {
            let Some(known) = self.known.get_mut(id) else { continue };
            known.given_up_told += 1;
            let rightly = known.given_up_told <= known.given_up;
            self.check(6, rightly, format_args!("nobody gave up telling of {id}, as was told"));
        }
    }

    /// The end of a task is told to a hook.
    pub(super) fn told_end(&mut self, id: RequestId, generation: u32, webhook_id: String) {
        let Some(known) = self.known.get_mut(&id) else {
            self.fail(6, format_args!("the end of a task was told that nobody ordered"));
        };
        let ended = known.ends.contains_key(&generation);
        let first = known
            .told
            .entry(generation)
            .or_insert_with(|| webhook_id.clone())
            .clone();
        self.check(6, ended, format_args!("an end of {id} was told that was none"));
        self.check(6, first == webhook_id, format_args!("{id} was told under two ids"));
    }
}
