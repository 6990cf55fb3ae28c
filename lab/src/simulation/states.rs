//! Checks the invariants that hold at any moment, and those that hold at the end.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::{
    ends::TOLD,
    known::Gone,
    witness::{Unsure, Witness},
    world::{CRASH_ALLOWANCE, World},
};
use tower_respond_async::{
    store::Row,
    task::{Delivery, Destination, History, HistoryEvent, RequestId, Scope, TaskRecord, Tenant},
    time::Clock,
};

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

    /// A task is gone only if it was removed. The reason was checked at the removal.
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

    /// Checks everything in the store after it was opened again.
    pub(super) fn look_at_all(&mut self, before: &Witness) {
        let sent = self.unsure.iter().filter_map(|what| match what {
            Unsure::Insert(id) => Some(*id),
            _ => None,
        });
        let ids: BTreeSet<_> = self.known.keys().copied().chain(sent).collect();
        let witness = self.witness();
        let found = ids.iter().filter_map(|id| Some((*id, witness.after(*id)?)));
        let found: BTreeMap<_, _> = found.collect();
        // The store's clock does not start before the times that it has written.
        let latest = found.values().flat_map(|row| {
            let noted = row.record.history.last().map(|event| event.at);
            let columns = &row.columns;
            [noted, Some(columns.created_at), columns.started_at, columns.ended_at]
        });
        let latest = latest.flatten().max();
        self.ahead = latest.map_or(Duration::ZERO, |at| at.since(self.clock.now()));
        self.latest = self.latest.max(self.store_time());
        self.reconcile(before, &found);
        let is_held = |row: &&Row| row.columns.is_held() || row.outbox.iter().any(|row| row.claimed);
        self.orphans = found.values().filter(is_held).map(|row| row.id).collect();
        self.touched.extend(ids);
    }

    /// Whether everything has ended.
    pub(super) fn all_is_over(&self) -> bool {
        let live =
            |record: &TaskRecord| !record.state.is_terminal() || record.deliveries.iter().any(Delivery::is_pending);
        let (witness, all) = (self.witness(), Scope::All);
        let mut there = self.known.iter().filter(|(_, known)| known.gone.is_none());
        self.all_is_answered() && !there.any(|(id, _)| witness.find(&all, *id).is_some_and(|record| live(&record)))
    }

    pub(super) fn check_end(&self) {
        for (id, known) in &self.known {
            let id = *id;
            if known.gone == Some(Gone::Deleted) {
                continue;
            }
            let untold = (1..=known.generation).find(|generation| {
                let taken = |to| known.told.get(&(*generation, to)).is_some_and(|told| told.taken);
                !(taken(Destination::LOCAL) && taken(Destination::new(TOLD)))
            });
            match self.witness().find(&Scope::All, id) {
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
                None => self.check_gone(id),
            }
            if let Some(generation) = untold {
                self.fail(
                    6,
                    format_args!("the end of {id} in generation {generation} was never told"),
                );
            }
        }
    }
}
