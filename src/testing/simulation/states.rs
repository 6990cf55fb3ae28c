//! The invariants that hold at any moment, and those that hold once all is calm.

use std::collections::BTreeMap;

use super::{
    known::Gone,
    world::{CRASH_ALLOWANCE, World},
};
use crate::task::{Delivery, History, HistoryEvent, RequestId, Scope, TaskRecord, Tenant};

impl World {
    pub(super) fn check_touched(&mut self) {
        self.look_at_what_was_done();
        for id in std::mem::take(&mut self.touched) {
            match self.witness().find(&Scope::All, id) {
                Some(record) => self.check_task(&record),
                None => self.check_gone(id),
            }
        }
    }

    /// Nothing is gone but what was removed, for a reason that was looked at then.
    fn check_gone(&self, id: RequestId) {
        let Some(known) = self.known.get(&id) else { return };
        self.check(1, known.gone.is_some(), format_args!("{id} was stored and is gone"));
    }

    fn check_task(&self, record: &TaskRecord) {
        let id = record.id;
        let Some(known) = self.known.get(&id) else { return };
        let (generation, tenant) = (known.generation, known.tenant.clone());
        let told = known.destinations;
        self.check(
            4,
            record.generation == generation,
            format_args!("{id} is in another generation"),
        );
        let ends = record.generation as usize - usize::from(!record.state.is_terminal());
        self.check(
            4,
            known.ends.len() == ends,
            format_args!("{id} did not end {ends} times"),
        );
        let as_noted = !record.state.is_terminal() || known.ends.get(&generation) == Some(&record.state);
        self.check(
            4,
            as_noted,
            format_args!("{id} is {}, and ended otherwise", record.state),
        );
        if record.history.len() < History::KEPT {
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
        let has_response = witness.has_response(id);
        self.check(
            1,
            has_response == record.response.is_some(),
            format_args!("{id} has a response: {has_response}"),
        );
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
        let mut records = self.known.keys().filter_map(|id| witness.find(&Scope::All, *id));
        records.all(|record| !record.deliveries.iter().any(Delivery::is_pending))
    }

    pub(super) fn check_end(&self) {
        for (id, known) in &self.known {
            if known.gone == Some(Gone::Deleted) {
                continue;
            }
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
