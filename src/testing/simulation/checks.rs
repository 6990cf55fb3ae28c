//! The invariants that are checked against the store, from outside the processes.

use std::{collections::BTreeMap, sync::Arc};

use super::world::{CRASH_ALLOWANCE, MAX_ATTEMPTS, World, now_or_never};
use crate::{
    store::TaskStore,
    task::{DeliveryStatus, RequestId, Scope, TaskRecord, TaskRef, Tenant},
};

impl World {
    pub(super) fn find(&self, id: RequestId) -> Option<Arc<TaskRecord>> {
        let found = now_or_never(self.store.find(&Scope::All, &TaskRef::Id(id)));
        found.unwrap_or_else(|error| self.fail(1, format_args!("{error}")))
    }

    /// A task was handed to a holder.
    pub(super) fn claimed(&mut self, record: &TaskRecord) {
        self.report.attempts += 1;
        self.touched.insert(record.id);
        let Some(known) = self.known.get(&record.id) else {
            self.fail(9, format_args!("a task that nobody submitted was claimed"));
        };
        let (generation, attempt, token) = known.claimed;
        let grown = record.token.get() > token
            && (record.generation > generation || record.generation == generation && record.attempt >= attempt);
        self.check(5, grown, format_args!("{} went back in its attempts", record.id));
        let bounded = record.attempt <= MAX_ATTEMPTS + CRASH_ALLOWANCE;
        self.check(
            5,
            bounded,
            format_args!("{} is in attempt {}", record.id, record.attempt),
        );
        let stopped = known.stopped.is_some_and(|stopped| stopped >= record.generation);
        self.check(8, !stopped, format_args!("{} ran after it was stopped", record.id));
        let input = now_or_never(self.store.input(&Scope::All, record.id)).ok().flatten();
        let same = input.as_ref() == Some(&known.input);
        self.check(9, same, format_args!("{} has another request now", record.id));
        if let Some(known) = self.known.get_mut(&record.id) {
            known.claimed = (record.generation, record.attempt, record.token.get());
        }
    }

    /// The end of a task was told.
    pub(super) fn told(&mut self, id: RequestId, generation: u32, webhook_id: String) {
        let Some(known) = self.known.get_mut(&id) else {
            self.fail(6, format_args!("the end of a task was told that nobody submitted"));
        };
        let first = known
            .told
            .entry(generation)
            .or_insert_with(|| webhook_id.clone())
            .clone();
        self.check(6, first == webhook_id, format_args!("{id} was told under two ids"));
    }

    pub(super) fn check_touched(&mut self) {
        for id in std::mem::take(&mut self.touched) {
            let accepted = self.known.get(&id).is_some_and(|known| known.accepted);
            match self.find(id) {
                Some(record) => self.check_task(&record),
                None => self.check(1, !accepted, format_args!("{id} was accepted and is gone")),
            }
        }
    }

    fn check_task(&self, record: &TaskRecord) {
        let id = record.id;
        let ends = record.history.iter().filter(|event| event.state.is_terminal()).count();
        let expected = record.generation as usize - usize::from(!record.state.is_terminal());
        self.check(
            4,
            ends == expected,
            format_args!("{id} ended {ends} times, not {expected}"),
        );
        self.check(
            4,
            record.deliveries.len() == ends,
            format_args!("{id} has no outbox entry for an end"),
        );
        let stranger = Scope::One(Some(Tenant::new("stranger")));
        let seen = now_or_never(self.store.find(&stranger, &TaskRef::Id(id)));
        self.check(
            12,
            matches!(seen, Ok(None)),
            format_args!("{id} was seen by a stranger"),
        );
        let own = Scope::One(self.known.get(&id).and_then(|known| known.tenant.clone()));
        let seen = now_or_never(self.store.find(&own, &TaskRef::Id(id)));
        self.check(
            12,
            matches!(seen, Ok(Some(_))),
            format_args!("{id} is hidden from its owner"),
        );
    }

    pub(super) fn check_leases(&self) {
        let now = self.now();
        let mut held = BTreeMap::new();
        for process in &self.processes {
            let running = process.handlers();
            self.check(
                10,
                running <= process.slots,
                format_args!("{running} handlers on {}", process.slots),
            );
            for lease in process.at_work(now) {
                let holders = held.entry(lease.id).or_insert(0);
                *holders += 1;
                self.check(3, *holders == 1, format_args!("two handlers work on {}", lease.id));
            }
        }
    }

    pub(super) fn all_is_told(&self) -> bool {
        let ids = self.known.keys();
        ids.filter_map(|id| self.find(*id)).all(|record| {
            let open = |status| status == DeliveryStatus::Pending;
            record.deliveries.iter().all(|delivery| !open(delivery.status))
        })
    }

    pub(super) fn check_end(&self) {
        for (id, known) in &self.known {
            let Some(record) = self.find(*id) else {
                self.check(1, !known.accepted, format_args!("{id} was accepted and is gone"));
                continue;
            };
            let state = record.state;
            self.check(
                2,
                state.is_terminal(),
                format_args!("{id} is {state} although all is calm"),
            );
            for generation in 1..=record.generation {
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
