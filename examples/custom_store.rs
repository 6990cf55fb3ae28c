//! Shows a store of one's own, whole: everything in one map behind one lock.
//!
//! ```text
//! cargo run --example custom_store
//!
//! curl -i -X POST http://127.0.0.1:3000/shout -d 'hello' -H 'Prefer: respond-async'
//! curl -s http://127.0.0.1:3000/tasks
//! ```
//!
//! It keeps every promise of the contract: `tests/it/custom_store.rs` runs the conformance suite on it, as yours should.
//! Two habits make that easy. Every operation is one closure under the lock, so it happens whole or not at all. And no
//! line here sets a state: records are changed by the methods of `task::lifecycle`, which move state, counters, history
//! and completions together. What it does not have is speed: each operation looks at every task.
//!
//! Everybody may use its task API, so keep it on loopback; `LISTEN=127.0.0.1:0` takes a free port.

use std::{
    collections::BTreeMap,
    env,
    future::ready,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use axum::{Router, routing::post};
use tokio::{net::TcpListener, sync::Notify};
use tower::{Layer, make::Shared};
use tower_respond_async::{
    BoxError, ConfigError, RespondAsync, RespondAsyncLayer, TaskApi, allow_everyone,
    error::BoxFuture,
    store::{
        Abilities, Claim, Claimed, ClaimedDelivery, ClaimedTask, Delete, DeliveryClaim, DeliverySettlement, Durability,
        FullReason, GiveUp, Insert, Inserted, KnownBy, Limits, LogQuery, Pruned, QueueHint, Rescued, Retention,
        Settled, Sharing, StoreError, StoreErrorKind, StoreResult, TaskStore,
    },
    task::{
        Caller, CapturedRequest, CapturedResponse, Counts, Cursor, Delivery, DeliveryStatus, Destination, Filter,
        IdempotencyKey, LeaseRef, LogLine, NewTask, Page, PageOf, Progress, RequestDigest, RequestId, Scope, SortOrder,
        TaskRecord, TaskRef, Tenant,
        delivery::Redeliver,
        lifecycle::{Edits, Renewal, Rerun, Rescue, Settlement, Stop},
    },
    time::{Clock, SystemClock, Timestamp},
};

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let app = app(MapStore::new(SystemClock::new()))?;
    let listen = env::var("LISTEN").unwrap_or_else(|_| "127.0.0.1:3000".into());
    let listener = TcpListener::bind(listen).await?;
    println!("listening on http://{}", listener.local_addr()?);
    axum::serve(listener, Shared::new(app)).await?;
    Ok(())
}

pub(crate) fn app(store: MapStore) -> Result<RespondAsync<Router>, ConfigError> {
    let layer = RespondAsyncLayer::new(store)?;
    let app = Router::new()
        .route("/shout", post(async |text: String| text.to_uppercase()))
        .nest_service("/tasks", TaskApi::new(&layer.tasks(), allow_everyone()));
    Ok(layer.layer(app))
}

#[derive(Debug)]
pub(crate) struct MapStore {
    kept: Mutex<Kept>,
    work: Notify,
    clock: Box<dyn Clock>,
}

#[derive(Debug, Default)]
struct Kept {
    tasks: BTreeMap<RequestId, Task>,
    keys: BTreeMap<(Option<Tenant>, Option<Caller>, IdempotencyKey), Key>,
    closed: bool,
}

#[derive(Debug)]
struct Task {
    record: Arc<TaskRecord>,
    input: Arc<CapturedRequest>,
    output: Option<Arc<CapturedResponse>>,
    digest: Option<RequestDigest>,
    /// Each line with the generation it was written in.
    log: Vec<(u32, LogLine)>,
    /// The generation and attempt whose log came to its bound.
    log_ended: (u32, u32),
}

/// Remembered for its own time, whether its task is there or not.
#[derive(Debug)]
struct Key {
    id: RequestId,
    digest: Option<RequestDigest>,
    until: Timestamp,
}

impl MapStore {
    pub(crate) fn new(clock: impl Clock) -> Self {
        Self {
            kept: Mutex::default(),
            work: Notify::new(),
            clock: Box::new(clock),
        }
    }

    /// Every operation is this: under the lock, at one time, unless the store is closed. Done when it is called: dropping
    /// the future loses the answer and nothing else.
    fn atomically<'a, T: Send + 'a>(
        &self,
        operation: impl FnOnce(&mut Kept, Timestamp) -> StoreResult<T>,
    ) -> BoxFuture<'a, StoreResult<T>> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        Box::pin(ready(match kept.closed {
            true => Err(StoreError::closed()),
            false => operation(&mut kept, self.clock.now()),
        }))
    }

    /// The same for an operation after which there may be something to run.
    fn making_work<'a, T: Send + 'a>(
        &self,
        operation: impl FnOnce(&mut Kept, Timestamp) -> StoreResult<T>,
    ) -> BoxFuture<'a, StoreResult<T>> {
        let answer = self.atomically(operation);
        self.work.notify_one();
        answer
    }
}

impl TaskStore for MapStore {
    fn abilities(&self) -> Abilities {
        Abilities::new(Durability::Process, Sharing::Exclusive, true)
    }

    fn queue_hint(&self, tenant: Option<&Tenant>) -> QueueHint {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        QueueHint {
            queued: Some(kept.queued(&Scope::All)),
            tenant_queued: tenant.map(|tenant| kept.queued(&Scope::One(Some(tenant.clone())))),
            failed: false,
        }
    }

    fn insert(&self, Insert { task, limits, born, .. }: Insert) -> BoxFuture<'_, StoreResult<Inserted>> {
        self.making_work(|kept, now| {
            if let Some(known) = kept.known(&task, now) {
                return Ok(known);
            }
            let mut record = TaskRecord::accepted(&task, now);
            match born {
                // What is born claimed does not wait, so the limits of what waits are not for it.
                Some(born) => {
                    let claimed = record.claim(born.worker.clone(), born.lease, now);
                    claimed.expect("a new task waits, and what waits can be claimed");
                }
                None => {
                    if let Some(full) = kept.full(task.tenant.as_ref(), limits) {
                        return Ok(Inserted::Full(full));
                    }
                }
            }
            if let Some(key) = task.key {
                let until = now.saturating_add(task.key_window);
                let known = Key {
                    id: task.id,
                    digest: task.digest,
                    until,
                };
                kept.keys.insert((task.tenant, task.caller, key), known);
            }
            let record = Arc::new(record);
            let stored = Task {
                record: record.clone(),
                input: task.input,
                output: None,
                digest: task.digest,
                log: Vec::new(),
                log_ended: (0, 0),
            };
            kept.tasks.insert(task.id, stored);
            Ok(Inserted::New(record))
        })
    }

    fn claim(&self, claim: Claim) -> BoxFuture<'_, StoreResult<Claimed>> {
        self.atomically(|kept, now| {
            // A worker has one suspect at a time, so that the next crash names the culprit.
            let is_its_suspect = |record: &TaskRecord| {
                record.state.is_held() && record.is_suspect() && record.worker.as_ref() == Some(&claim.worker)
            };
            let mut has_suspect = kept.tasks.values().any(|task| is_its_suspect(&task.record));
            let waiting = kept.tasks.values_mut();
            let mut waiting: Vec<_> = waiting
                .filter(|task| task.record.state.is_queued() && now < task.record.expires_at)
                .collect();
            waiting.sort_by_key(|task| (task.record.run_at, task.record.id));

            let mut claimed = Claimed::default();
            for task in waiting {
                let suspect = task.record.is_suspect();
                if suspect && has_suspect {
                    continue;
                }
                if task.record.run_at > now || claimed.tasks.len() == claim.max {
                    claimed.next_due = Some(task.record.run_at.since(now));
                    break;
                }
                if task.change().claim(claim.worker.clone(), claim.lease, now).is_ok() {
                    has_suspect |= suspect;
                    claimed.tasks.push(ClaimedTask {
                        record: task.record.clone(),
                        input: task.input.clone(),
                    });
                }
            }
            Ok(claimed)
        })
    }

    fn renew(&self, leases: Vec<LeaseRef>, lease: Duration) -> BoxFuture<'_, StoreResult<Vec<Renewal>>> {
        self.atomically(|kept, now| {
            let renewals = leases.into_iter().map(|held| match kept.tasks.get_mut(&held.id) {
                Some(task) => task.change().renew(held.token, lease, now),
                None => Renewal::Lost,
            });
            Ok(renewals.collect())
        })
    }

    fn settle(&self, settlement: Settlement) -> BoxFuture<'_, StoreResult<Settled>> {
        self.making_work(|kept, now| {
            let LeaseRef { id, token } = settlement.lease;
            let Some(task) = kept.tasks.get_mut(&id) else {
                return Ok(Settled::Fenced);
            };
            let completions = task.record.deliveries.len();
            let Ok(state) = task.change().settle(token, &settlement.outcome, now) else {
                return Ok(Settled::Fenced);
            };
            if let Some(output) = settlement.outcome.output_for(state) {
                task.output = Some(output);
            }
            let outbox = task.record.deliveries.len() > completions;
            Ok(Settled::Accepted { state, outbox })
        })
    }

    fn rescue(&self, limit: usize) -> BoxFuture<'_, StoreResult<Rescued>> {
        self.making_work(|kept, now| {
            let mut rescued = Rescued::default();
            for (id, task) in &mut kept.tasks {
                if rescued.tasks.len() == limit {
                    break;
                }
                let completions = task.record.deliveries.len();
                match task.change().rescue(now) {
                    Rescue::NotDue => {}
                    rescue => rescued.tasks.push((*id, rescue)),
                }
                rescued.outbox |= task.record.deliveries.len() > completions;
            }
            Ok(rescued)
        })
    }

    fn stop<'a>(&'a self, scope: &'a Scope, id: RequestId) -> BoxFuture<'a, StoreResult<Stop>> {
        self.atomically(|kept, now| Ok(kept.in_scope(scope, id)?.change().stop(now)))
    }

    fn rerun<'a>(&'a self, scope: &'a Scope, id: RequestId, edits: Edits) -> BoxFuture<'a, StoreResult<Rerun>> {
        self.making_work(|kept, now| {
            let task = kept.in_scope(scope, id)?;
            let input = match edits.is_empty() {
                true => task.input.clone(),
                false => Arc::new(edits.apply(&task.input)),
            };
            let rerun = task.change().rerun(&input, now);
            if let Rerun::Enqueued { .. } = rerun {
                task.input = input;
                task.output = None;
            }
            Ok(rerun)
        })
    }

    fn delete<'a>(&'a self, scope: &'a Scope, id: RequestId) -> BoxFuture<'a, StoreResult<Delete>> {
        self.atomically(|kept, _| {
            let state = kept.in_scope(scope, id)?.record.state;
            if !state.is_terminal() {
                return Ok(Delete::NotEnded(state));
            }
            kept.tasks.remove(&id);
            Ok(Delete::Deleted)
        })
    }

    fn find<'a>(&'a self, scope: &'a Scope, task: &'a TaskRef) -> BoxFuture<'a, StoreResult<Option<Arc<TaskRecord>>>> {
        self.atomically(|kept, _| {
            let name = match task {
                TaskRef::Id(id) => return Ok(kept.in_scope(scope, *id).ok().map(|task| task.record.clone())),
                TaskRef::Name(name) => name,
            };
            let mut named = kept.seen(scope).filter(|task| task.record.name.as_ref() == Some(name));
            match (named.next(), named.next()) {
                (Some(_), Some(_)) => {
                    let context = format!("several tenants have a task called {name}");
                    Err(StoreError::new(StoreErrorKind::Conflict, context))
                }
                (one, _) => Ok(one.map(|task| task.record.clone())),
            }
        })
    }

    fn list<'a>(
        &'a self,
        scope: &'a Scope,
        filter: &'a Filter,
        page: Page,
    ) -> BoxFuture<'a, StoreResult<PageOf<Arc<TaskRecord>>>> {
        self.atomically(|kept, _| {
            let mut ahead: Vec<_> = kept.seen(scope).map(|task| (task.cursor(), task)).collect();
            ahead.sort_by_key(|(cursor, _)| *cursor);
            if page.order == SortOrder::Descending {
                ahead.reverse();
            }
            let is_behind = |cursor: &Cursor| match page.order {
                SortOrder::Ascending => page.after.is_none_or(|after| *cursor > after),
                SortOrder::Descending => page.after.is_none_or(|after| *cursor < after),
            };
            let ahead = ahead.into_iter().filter(|(cursor, _)| is_behind(cursor));
            let mut found = PageOf {
                items: Vec::new(),
                next: None,
            };
            for (seen, (cursor, task)) in ahead.enumerate() {
                if found.items.len() == page.limit || seen == Page::SCAN_LIMIT {
                    return Ok(found);
                }
                found.next = Some(cursor);
                if filter.matches(&task.record, &task.input.body) {
                    found.items.push(task.record.clone());
                }
            }
            found.next = None;
            Ok(found)
        })
    }

    fn count<'a>(&'a self, scope: &'a Scope, filter: &'a Filter, cap: u64) -> BoxFuture<'a, StoreResult<u64>> {
        self.atomically(|kept, _| {
            let matching = kept
                .seen(scope)
                .filter(|task| filter.matches(&task.record, &task.input.body));
            Ok((matching.count() as u64).min(cap))
        })
    }

    fn counts<'a>(&'a self, scope: &'a Scope) -> BoxFuture<'a, StoreResult<Counts>> {
        self.atomically(|kept, now| {
            let mut counts = Counts::default();
            for TaskRecord { state, run_at, .. } in kept.seen(scope).map(|task| &*task.record) {
                counts.set(*state, counts.of(*state) + 1);
                if state.is_queued() && *run_at <= now {
                    counts.oldest_queued = counts.oldest_queued.max(Some(now.since(*run_at)));
                }
            }
            if *scope == Scope::All {
                let deliveries = kept.seen(scope).flat_map(|task| &task.record.deliveries);
                let pending = deliveries.filter(|delivery| delivery.status == DeliveryStatus::Pending);
                counts.pending_deliveries = Some(pending.count() as u64);
            }
            Ok(counts)
        })
    }

    fn input<'a>(
        &'a self,
        scope: &'a Scope,
        id: RequestId,
    ) -> BoxFuture<'a, StoreResult<Option<Arc<CapturedRequest>>>> {
        self.atomically(|kept, _| Ok(kept.in_scope(scope, id).ok().map(|task| task.input.clone())))
    }

    fn output<'a>(
        &'a self,
        scope: &'a Scope,
        id: RequestId,
    ) -> BoxFuture<'a, StoreResult<Option<Arc<CapturedResponse>>>> {
        self.atomically(|kept, _| Ok(kept.in_scope(scope, id).ok().and_then(|task| task.output.clone())))
    }

    fn set_progress(&self, lease: LeaseRef, progress: Progress) -> BoxFuture<'_, StoreResult<bool>> {
        self.atomically(|kept, _| {
            let held = kept.held(lease);
            Ok(held.map(|task| task.change().progress = Some(progress)).is_some())
        })
    }

    fn append_log(&self, lease: LeaseRef, lines: Vec<LogLine>) -> BoxFuture<'_, StoreResult<bool>> {
        self.atomically(|kept, now| {
            let held = kept.held(lease);
            Ok(held.map(|task| task.append_log(lines, now)).is_some())
        })
    }

    fn logs<'a>(
        &'a self,
        scope: &'a Scope,
        id: RequestId,
        query: LogQuery,
    ) -> BoxFuture<'a, StoreResult<Vec<LogLine>>> {
        self.atomically(|kept, _| {
            let lines = kept.in_scope(scope, id)?.log.iter().map(|(_, line)| line);
            let wanted = lines
                .filter(|line| line.seq > query.after && query.attempt.is_none_or(|attempt| attempt == line.attempt));
            Ok(wanted.take(query.limit).cloned().collect())
        })
    }

    fn claim_deliveries(&self, claim: DeliveryClaim) -> BoxFuture<'_, StoreResult<Vec<ClaimedDelivery>>> {
        self.atomically(|kept, now| {
            let is_due = |delivery: &Delivery| {
                delivery.status == DeliveryStatus::Pending
                    && delivery.due_at <= now
                    && claim.destinations.contains(&delivery.destination)
            };
            let mut due = Vec::new();
            for task in kept.tasks.values() {
                let deliveries = task.record.deliveries.iter().enumerate();
                let deliveries = deliveries.filter(|(_, delivery)| is_due(delivery));
                due.extend(deliveries.map(|(place, delivery)| (delivery.due_at, delivery.id, place)));
            }
            due.sort_unstable();

            let mut claimed = Vec::new();
            for (_, id, place) in due.into_iter().take(claim.max) {
                let task = kept.in_scope(&Scope::All, id)?;
                let delivery = &mut task.change().deliveries[place];
                if let Some(taken) = delivery.claim(claim.lease, now) {
                    claimed.push(ClaimedDelivery {
                        claim: taken,
                        delivery: delivery.clone(),
                        record: task.record.clone(),
                    });
                }
            }
            Ok(claimed)
        })
    }

    fn settle_delivery(&self, settlement: DeliverySettlement) -> BoxFuture<'_, StoreResult<bool>> {
        self.atomically(|kept, now| {
            let DeliverySettlement { claim, outcome, tried } = settlement;
            let Some(task) = kept.tasks.get_mut(&claim.id) else {
                return Ok(false);
            };
            let delivery = task.change().delivery_mut(claim.generation, &claim.destination);
            Ok(delivery.is_some_and(|delivery| delivery.settle(claim.token, &outcome, tried, now).is_ok()))
        })
    }

    fn redeliver<'a>(
        &'a self,
        scope: &'a Scope,
        id: RequestId,
        generation: u32,
        destination: &'a Destination,
    ) -> BoxFuture<'a, StoreResult<Redeliver>> {
        self.atomically(|kept, now| {
            let task = kept.in_scope(scope, id)?.change();
            let Some(delivery) = task.delivery_mut(generation, destination) else {
                return Ok(Redeliver::Unknown);
            };
            delivery.redeliver(now);
            Ok(Redeliver::Due)
        })
    }

    fn give_up_deliveries(&self, give_up: GiveUp) -> BoxFuture<'_, StoreResult<Vec<Delivery>>> {
        self.atomically(|kept, now| {
            let mut given_up = Vec::new();
            for task in kept.tasks.values_mut() {
                // Not copied for nothing: most have no delivery.
                if task.record.deliveries.is_empty() {
                    continue;
                }
                for delivery in &mut task.change().deliveries {
                    let spared = give_up.spared.contains(&delivery.destination);
                    if !spared && given_up.len() < give_up.max && delivery.give_up(give_up.overdue, now) {
                        given_up.push(delivery.clone());
                    }
                }
            }
            Ok(given_up)
        })
    }

    fn prune(&self, retention: Retention, limit: usize) -> BoxFuture<'_, StoreResult<Pruned>> {
        self.atomically(|kept, now| {
            let past = kept.tasks.values().filter(|task| task.is_past(retention, now));
            let past: Vec<_> = past.map(|task| task.record.id).take(limit).collect();
            for id in &past {
                kept.tasks.remove(id);
            }
            let mut keys = 0;
            kept.keys.retain(|_, key| {
                let stays = now < key.until || keys == limit;
                keys += usize::from(!stays);
                stays
            });
            Ok(Pruned {
                tasks: past.len(),
                keys,
            })
        })
    }

    fn wait_for_work(&self) -> BoxFuture<'_, ()> {
        Box::pin(self.work.notified())
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).closed = true;
        Box::pin(ready(()))
    }
}

impl Kept {
    fn seen(&self, scope: &Scope) -> impl Iterator<Item = &Task> {
        self.tasks
            .values()
            .filter(|task| scope.contains(task.record.tenant.as_ref()))
    }

    /// What is outside of the scope is not there.
    fn in_scope(&mut self, scope: &Scope, id: RequestId) -> StoreResult<&mut Task> {
        let task = self.tasks.get_mut(&id);
        task.filter(|task| scope.contains(task.record.tenant.as_ref()))
            .ok_or_else(StoreError::not_found)
    }

    /// The task, if this claim is the one that holds it.
    fn held(&mut self, lease: LeaseRef) -> Option<&mut Task> {
        let task = self.tasks.get_mut(&lease.id);
        task.filter(|task| task.record.is_held_by(lease.token))
    }

    fn queued(&self, scope: &Scope) -> u64 {
        self.seen(scope).filter(|task| task.record.state.is_queued()).count() as u64
    }

    fn full(&self, tenant: Option<&Tenant>, limits: Limits) -> Option<FullReason> {
        if self.queued(&Scope::All) >= limits.queued {
            return Some(FullReason::Queue);
        }
        let own = Scope::One(Some(tenant?.clone()));
        (self.queued(&own) >= limits.per_tenant).then_some(FullReason::Tenant)
    }

    /// What to answer for a task that is known already, by its id, its name or its key.
    fn known(&self, new: &NewTask, now: Timestamp) -> Option<Inserted> {
        let known = |id: RequestId, by: KnownBy, digest: Option<RequestDigest>| Inserted::Known {
            task: self.tasks.get(&id).map(|task| task.record.clone()),
            id,
            by,
            same_request: digest.is_some() && digest == new.digest,
        };
        if let Some(task) = self.tasks.get(&new.id) {
            return Some(known(new.id, KnownBy::Id, task.digest));
        }
        let own = Scope::One(new.tenant.clone());
        let named = self
            .seen(&own)
            .find(|task| new.name.is_some() && task.record.name == new.name);
        let key = new.key.clone().and_then(|key| {
            let of = (new.tenant.clone(), new.caller.clone(), key);
            self.keys.get(&of)
        });
        match (named, key.filter(|key| now < key.until)) {
            (None, None) => None,
            (Some(task), Some(key)) if task.record.id != key.id => Some(Inserted::Conflict),
            (Some(task), _) => Some(known(task.record.id, KnownBy::Name, task.digest)),
            (None, Some(key)) => Some(known(key.id, KnownBy::Key, key.digest)),
        }
    }
}

impl Task {
    /// The record, to be changed by the methods of `lifecycle`. Copied if a reader still has it: what was handed out
    /// stays as it was.
    fn change(&mut self) -> &mut TaskRecord {
        Arc::make_mut(&mut self.record)
    }

    fn cursor(&self) -> Cursor {
        Cursor {
            created_at: self.record.created_at,
            id: self.record.id,
        }
    }

    /// Whether nobody wants it any longer. One of whose end somebody is still to be told is wanted.
    fn is_past(&self, retention: Retention, now: Timestamp) -> bool {
        let keep = retention.of(self.record.state);
        let since = self.record.rests_since();
        since.is_some_and(|since| since.saturating_add(keep) <= now)
    }

    fn append_log(&mut self, lines: Vec<LogLine>, now: Timestamp) {
        let (generation, attempt) = (self.record.generation, self.record.attempt);
        let of_attempt = |(of, line): &&(u32, LogLine)| *of == generation && line.attempt == attempt;
        let written = self.log.iter().filter(of_attempt);
        let (mut count, mut bytes) =
            written.fold((0, 0), |(count, bytes), (_, line)| (count + 1, bytes + line.weight()));
        for mut line in lines {
            if self.log_ended == (generation, attempt) {
                return;
            }
            (count, bytes) = (count + 1, bytes + line.weight());
            if count > LogQuery::LINES_KEPT || bytes > LogQuery::BYTES_KEPT {
                self.log_ended = (generation, attempt);
                line = LogLine::new(now, "WARN", module_path!(), "the log is full; later lines were dropped");
            }
            (line.seq, line.attempt) = (self.log.len() as u64 + 1, attempt);
            self.log.push((generation, line));
        }
    }
}
