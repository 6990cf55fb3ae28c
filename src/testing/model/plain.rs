//! The plain list with which a store is compared.

use std::{sync::Arc, time::Duration};

use crate::{
    store::{Delete, FullReason, GiveUp, Insert, Inserted, KnownBy, Retention, Settled},
    task::{
        Caller, CapturedRequest, CapturedResponse, DeliveryTry, Destination, IdempotencyKey, LeaseRef, NewTask,
        RequestDigest, RequestId, Scope, TaskRecord, Tenant, WorkerId,
        delivery::{DeliveryOutcome, DeliveryRef},
        lifecycle::{Edits, Outcome, Rerun, Rescue},
    },
    time::Timestamp,
};

/// Every task, in the order of the inserts.
#[derive(Default)]
pub(super) struct Model {
    pub(super) now: Timestamp,
    pub(super) tasks: Vec<ModelTask>,
    pub(super) keys: Vec<ModelKey>,
}

#[derive(Clone)]
pub(super) struct ModelTask {
    pub(super) record: TaskRecord,
    pub(super) request: Arc<CapturedRequest>,
    pub(super) response: Option<Arc<CapturedResponse>>,
    pub(super) digest: Option<RequestDigest>,
}

pub(super) struct ModelKey {
    pub(super) tenant: Option<Tenant>,
    pub(super) caller: Option<Caller>,
    pub(super) key: IdempotencyKey,
    pub(super) id: RequestId,
    pub(super) digest: Option<RequestDigest>,
    pub(super) until: Timestamp,
}

impl ModelKey {
    /// Whether the key belongs to the tenant and caller of `task`.
    fn is_of(&self, task: &NewTask) -> bool {
        (&self.tenant, &self.caller) == (&task.tenant, &task.caller)
    }
}

impl ModelTask {
    pub(super) fn is_in(&self, scope: &Scope) -> bool {
        scope.contains(self.record.tenant.as_ref())
    }
}

impl Model {
    pub(super) fn get(&self, id: RequestId) -> Option<&ModelTask> {
        self.tasks.iter().find(|task| task.record.id == id)
    }

    pub(super) fn get_mut(&mut self, id: RequestId) -> Option<&mut ModelTask> {
        self.tasks.iter_mut().find(|task| task.record.id == id)
    }

    pub(super) fn within(&mut self, scope: &Scope, id: RequestId) -> Option<&mut ModelTask> {
        self.get_mut(id).filter(|task| task.is_in(scope))
    }

    pub(super) fn insert(&mut self, insert: &Insert) -> Inserted {
        let task = &insert.task;
        let known = |model: &Self, id, by, digest: Option<RequestDigest>| Inserted::Known {
            task: model.get(id).map(|task| Arc::new(task.record.clone())),
            id,
            by,
            same_request: digest == task.digest,
        };
        if let Some(same) = self.get(task.id) {
            return known(self, task.id, KnownBy::Id, same.digest);
        }
        let mut named = self.tasks.iter();
        let named = named.find(|t| task.name.is_some() && t.record.name == task.name && t.record.tenant == task.tenant);
        let mut keyed = self.keys.iter();
        let keyed = keyed.find(|key| Some(&key.key) == task.key.as_ref() && key.is_of(task));
        let keyed = keyed.filter(|key| self.now < key.until);
        match (named, keyed) {
            (Some(named), Some(keyed)) if named.record.id != keyed.id => return Inserted::Conflict,
            (Some(named), _) => return known(self, named.record.id, KnownBy::Name, named.digest),
            (None, Some(keyed)) => return known(self, keyed.id, KnownBy::Key, keyed.digest),
            (None, None) => {}
        }
        if insert.claim.is_none() {
            let waiting = || self.tasks.iter().filter(|task| task.record.state.is_queued());
            let own = waiting().filter(|other| other.record.tenant == task.tenant);
            if waiting().count() as u64 >= insert.limits.queued {
                return Inserted::Full(FullReason::Queue);
            }
            if task.tenant.is_some() && own.count() as u64 >= insert.limits.per_tenant {
                return Inserted::Full(FullReason::Tenant);
            }
        }
        let mut record = TaskRecord::accepted(task, self.now);
        if let Some(claim) = &insert.claim {
            record
                .claim(claim.worker.clone(), claim.lease, self.now)
                .expect("it is new");
        }
        self.tasks.push(ModelTask {
            record: record.clone(),
            request: task.request.clone(),
            response: None,
            digest: task.digest,
        });
        if let Some(key) = &task.key {
            self.keys.retain(|other| other.key != *key || !other.is_of(task));
            self.keys.push(ModelKey {
                tenant: task.tenant.clone(),
                caller: task.caller.clone(),
                key: key.clone(),
                id: task.id,
                digest: task.digest,
                until: self.now.saturating_add(task.key_window),
            });
        }
        Inserted::New(Arc::new(record), None)
    }

    pub(super) fn claim(
        &mut self,
        worker: &WorkerId,
        max: usize,
        lease: Duration,
    ) -> (Vec<TaskRecord>, Option<Duration>) {
        let mut claimed = Vec::new();
        while claimed.len() < max {
            let Some(id) = self
                .next_for(worker)
                .filter(|(run_at, _)| *run_at <= self.now)
                .map(|(_, id)| id)
            else {
                break;
            };
            let now = self.now;
            let task = self.get_mut(id).expect("found above");
            task.record.claim(worker.clone(), lease, now).expect("it waits");
            claimed.push(task.record.clone());
        }
        let next = self.next_for(worker).map(|(run_at, _)| run_at.since(self.now));
        (claimed, next)
    }

    pub(super) fn next_for(&self, worker: &WorkerId) -> Option<(Timestamp, RequestId)> {
        let has_suspect = self.tasks.iter().any(|task| {
            task.record.state.is_held() && task.record.is_suspect() && task.record.worker.as_ref() == Some(worker)
        });
        let waiting = self.tasks.iter().map(|task| &task.record).filter(|record| {
            record.state.is_queued() && self.now < record.expires_at && !(has_suspect && record.is_suspect())
        });
        waiting.map(|record| (record.run_at, record.id)).min()
    }

    pub(super) fn settle(&mut self, lease: LeaseRef, outcome: &Outcome) -> Settled {
        let now = self.now;
        let Some(task) = self.get_mut(lease.id) else {
            return Settled::Fenced;
        };
        let before = task.record.deliveries.len();
        match task.record.settle(lease.token, outcome, now) {
            Ok(state) => {
                task.response = outcome.response().filter(|_| outcome.is_kept_as(state)).cloned();
                Settled::Accepted {
                    state,
                    outbox: task.record.deliveries.len() > before,
                }
            }
            Err(fenced) => fenced.into(),
        }
    }

    pub(super) fn rerun(&mut self, scope: &Scope, id: RequestId, edits: Edits) -> Option<Rerun> {
        let now = self.now;
        let task = self.within(scope, id)?;
        let edited = Arc::new(edits.apply(&task.request));
        let rerun = task.record.rerun(&edited, now);
        if matches!(rerun, Rerun::Enqueued { .. }) {
            (task.request, task.response) = (edited, None);
        }
        Some(rerun)
    }

    pub(super) fn delete(&mut self, scope: &Scope, id: RequestId) -> Option<Delete> {
        let state = self.within(scope, id)?.record.state;
        if !state.is_terminal() {
            return Some(Delete::NotEnded(state));
        }
        self.tasks.retain(|task| task.record.id != id);
        Some(Delete::Deleted)
    }

    pub(super) fn rescue(&mut self) -> Vec<(RequestId, Rescue)> {
        let now = self.now;
        let tasks = self.tasks.iter_mut().map(|task| &mut task.record);
        let rescued = tasks.map(|record| (record.id, record.rescue(now)));
        rescued.filter(|(_, rescue)| *rescue != Rescue::NotDue).collect()
    }

    /// What the first rescue does after the end of all processes that held a task or a delivery, in a store that
    /// detects that end.
    pub(super) fn rescue_after_crash(&mut self) -> Vec<(RequestId, Rescue)> {
        let now = self.now;
        let tasks = self.tasks.iter_mut().map(|task| &mut task.record);
        let rescued = tasks.map(|record| {
            let is_orphan = record.state.is_held() || record.deliveries.iter().any(|delivery| delivery.is_claimed);
            let rescue = match is_orphan {
                true => record.orphaned(now),
                false => record.rescue(now),
            };
            (record.id, rescue)
        });
        rescued.filter(|(_, rescue)| *rescue != Rescue::NotDue).collect()
    }

    pub(super) fn claim_deliveries(&mut self, destination: &Destination, lease: Duration) -> Vec<DeliveryRef> {
        let now = self.now;
        let all = self.tasks.iter_mut().flat_map(|task| &mut task.record.life.deliveries);
        let theirs = all.filter(|delivery| delivery.destination == *destination);
        theirs.filter_map(|delivery| delivery.claim(lease, now)).collect()
    }

    pub(super) fn settle_delivery(
        &mut self,
        claim: &DeliveryRef,
        outcome: &DeliveryOutcome,
        tried: DeliveryTry,
    ) -> bool {
        let now = self.now;
        let Some(task) = self.get_mut(claim.id) else {
            return false;
        };
        let mut deliveries = task.record.life.deliveries.iter_mut();
        let of = deliveries.find(|d| (d.generation, &d.destination) == (claim.generation, &claim.destination));
        of.is_some_and(|delivery| delivery.settle(claim.token, outcome, tried, now).is_ok())
    }

    pub(super) fn give_up_deliveries(&mut self, give_up: &GiveUp) -> Vec<(RequestId, u32)> {
        let now = self.now;
        let all = self.tasks.iter_mut().flat_map(|task| &mut task.record.life.deliveries);
        let others = all.filter(|delivery| !give_up.spared.contains(&delivery.destination));
        let given_up = others.filter_map(|delivery| {
            delivery
                .give_up(give_up.overdue, now)
                .then_some((delivery.id, delivery.generation))
        });
        given_up.collect()
    }

    pub(super) fn prune(&mut self, retention: Retention) -> (usize, usize) {
        let (tasks, keys, now) = (self.tasks.len(), self.keys.len(), self.now);
        self.tasks.retain(|task| {
            let past = |at: Timestamp| at.saturating_add(retention.of(task.record.state)) <= now;
            !task.record.rests_since().is_some_and(past)
        });
        self.keys.retain(|key| now < key.until);
        (tasks - self.tasks.len(), keys - self.keys.len())
    }
}
