//! Random operations on a store, compared with a plain list after every step.
//!
//! The [promises](crate::testing::conformance) test what is known to be required; this finds what no promise mentions.
//! The model is a vector of records, and every operation searches all of it. It uses the same
//! [`lifecycle`](crate::task::lifecycle) as the stores, and none of their indexes.

mod plain;

use std::{ops::Range, sync::Arc, time::Duration};

use fastrand::Rng;

use self::plain::Model;
use crate::{
    store::{
        ClaimedDelivery, DeliverySettlement, GiveUp, Insert, Inserted, Limits, Retention, Sharing, StoreErrorKind,
    },
    task::{
        Caller, CapturedRequest, CapturedResponse, Conditions, Counts, DeliveryTry, Destination, Filter,
        IdempotencyKey, LeaseRef, NewTask, RequestDigest, RequestId, Scope, Subscription, TaskName, TaskRecord,
        TaskRef, Tenant, WorkerId,
        delivery::{DeliveryOutcome, DeliveryRef},
        lifecycle::{Edits, Outcome, Renewal, Rescue},
    },
    testing::conformance::{Harness, Subject},
    time::Timestamp,
};

/// How many operations a case has: enough for a task to fail, crash, end, run again and be pruned.
pub const STEPS: usize = 40;

/// Runs one random case for each seed, each on a newly opened store.
///
/// Delays and leases are odd multiples of [`Harness::unit`], and time passes by even ones. So nothing is ever due at
/// the exact moment of a step: a store with a real clock may be off by nearly a unit.
///
/// # Examples
///
/// ```
/// use tower_respond_async::testing::{
///     conformance::{self, MemoryHarness},
///     model,
/// };
///
/// conformance::run(&MemoryHarness::new(), async |harness| {
///     model::agrees_with_the_model(harness, 0..10).await;
/// });
/// ```
///
/// # Panics
///
/// If the store and the model differ. The message names the seed and the step; run `seed..seed + 1` to repeat the case.
///
/// # Cancel safety
///
/// If the future is dropped, the store of the current case stays as it is.
pub async fn agrees_with_the_model(harness: &dyn Harness, seeds: Range<u64>) {
    walk(harness, seeds, false).await;
}

/// Does the same as [`agrees_with_the_model`], and now and then ends the process and
/// [opens the store again](Harness::reopen). Everything that was acknowledged must be there. A rescue in an exclusive
/// store must then find all tasks that were held.
///
/// See the example of [`agrees_with_the_model`].
///
/// # Panics
///
/// If the store and the model differ, or if nothing survives the end of the process.
///
/// # Cancel safety
///
/// If the future is dropped, the store of the current case stays as it is.
pub async fn agrees_with_the_model_across_reopening(harness: &dyn Harness, seeds: Range<u64>) {
    walk(harness, seeds, true).await;
}

async fn walk(harness: &dyn Harness, seeds: Range<u64>, reopens: bool) {
    for seed in seeds {
        let mut case = Case {
            subject: Subject::open(harness).await,
            model: Model::default(),
            random: Rng::with_seed(seed),
            seen: Vec::new(),
            deliveries: Vec::new(),
        };
        for step in 0..STEPS {
            let at = format!("seed {seed}, step {step}");
            let _context = OnPanic(&at);
            // Each step has its own millisecond, so that tasks that become due in different steps have an order.
            case.pass(Duration::from_millis(1)).await;
            case.step().await;
            case.compare().await;
            if reopens && case.random.u8(0..8) == 0 {
                case.reopen().await;
                case.compare().await;
            }
        }
    }
}

/// Prints the seed and the step when an assertion fails.
struct OnPanic<'a>(&'a str);

impl Drop for OnPanic<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the store and the model differ at {}", self.0);
        }
    }
}

struct Case<'a> {
    subject: Subject<'a>,
    model: Model,
    random: Rng,
    /// Every claim so far, with the store's token and the model's.
    seen: Vec<(LeaseRef, LeaseRef)>,
    /// Every claim of a delivery so far, with the store's and the model's.
    deliveries: Vec<(ClaimedDelivery, DeliveryRef)>,
}

impl Case<'_> {
    async fn step(&mut self) {
        match self.random.u32(0..100) {
            0..22 => self.insert().await,
            22..38 => self.claim().await,
            38..56 => self.settle().await,
            56..61 => self.renew().await,
            61..67 => self.stop().await,
            67..73 => self.rerun().await,
            73..76 => self.delete().await,
            76..82 => self.rescue().await,
            82..87 => self.claim_deliveries().await,
            87..91 => self.settle_delivery().await,
            91..93 => self.prune().await,
            93 => self.give_up_deliveries().await,
            _ => {
                let units = 2 * self.random.u32(1..5);
                self.pass(self.subject.units(units)).await;
            }
        }
    }

    async fn reopen(&mut self) {
        let reopened = self.subject.harness.reopen().await;
        let reopened = reopened.expect("something survives the end of the process");
        self.subject.store = self.subject.store.over(reopened);
        if self.subject.store.abilities().sharing == Sharing::Exclusive {
            let expected = self.model.rescue_after_crash();
            self.rescue_as(expected).await;
        }
    }

    async fn pass(&mut self, time: Duration) {
        self.subject.harness.pass(time).await;
        self.model.now = self.model.now.saturating_add(time);
    }

    async fn insert(&mut self) {
        let mut insert = Insert::new(self.task());
        if self.random.u8(0..3) == 0 {
            insert = insert.claimed_by(self.worker(), self.odd(5));
        } else if self.random.u8(0..3) == 0 {
            insert = insert.within(Limits {
                queued: self.random.u64(1..5),
                per_tenant: self.random.u64(1..3),
                per_pool: u64::MAX,
            });
        }
        let expected = self.model.insert(&insert);
        let found = self.subject.store.insert(insert).await.expect("insert");
        match (&found, &expected) {
            (Inserted::New(found, _), Inserted::New(expected, _)) => {
                assert_eq!(essence(found), essence(expected));
                if found.state.is_held() {
                    self.seen.push((found.lease(), expected.lease()));
                }
            }
            (
                Inserted::Known {
                    task,
                    id,
                    by,
                    same_request,
                },
                Inserted::Known {
                    task: model,
                    id: model_id,
                    by: model_by,
                    same_request: model_same,
                },
            ) => {
                assert_eq!((id, by, same_request), (model_id, model_by, model_same));
                assert_eq!(task.as_deref().map(essence), model.as_deref().map(essence));
            }
            (Inserted::Conflict, Inserted::Conflict) => {}
            (Inserted::Full(found), Inserted::Full(expected)) => assert_eq!(found, expected),
            other => panic!("{other:?}"),
        }
    }

    async fn claim(&mut self) {
        let (worker, max, lease) = (self.worker(), self.random.usize(1..4), self.odd(5));
        let (expected, next_due) = self.model.claim(&worker, max, lease);
        let found = self.subject.claim_for(&worker, max, lease).await;
        let claimed: Vec<_> = found.tasks.iter().map(|task| essence(&task.record)).collect();
        assert_eq!(claimed, expected.iter().map(essence).collect::<Vec<_>>());
        for (found, expected) in found.tasks.iter().zip(&expected) {
            assert_eq!(found.request, self.model.get(expected.id).expect("claimed").request);
            self.seen.push((found.record.lease(), expected.lease()));
        }
        let unit = self.subject.units(1);
        let close = match (found.next_due, next_due) {
            (Some(found), Some(expected)) => found.abs_diff(expected) < unit,
            (found, expected) => found == expected,
        };
        assert!(close, "next due {:?}, in the model {next_due:?}", found.next_due);
    }

    async fn settle(&mut self) {
        let Some((lease, model)) = self.random.choice(&self.seen).copied() else {
            return;
        };
        let outcome = self.outcome();
        let expected = self.model.settle(model, &outcome);
        assert_eq!(self.subject.end(lease, outcome).await, expected);
    }

    async fn renew(&mut self) {
        let Some((lease, model)) = self.random.choice(&self.seen).copied() else {
            return;
        };
        let time = self.odd(5);
        let now = self.model.now;
        let expected = self
            .model
            .get_mut(model.id)
            .map_or(Renewal::Lost, |task| task.record.renew(model.token, time, now));
        assert_eq!(
            self.subject.store.renew(vec![lease], time).await.expect("renew"),
            [expected]
        );
    }

    async fn stop(&mut self) {
        let (id, scope, now) = (self.id(), self.scope(), self.model.now);
        let expected = self.model.within(&scope, id).map(|task| task.record.stop(now));
        let found = self.subject.store.stop(&scope, id).await;
        assert_eq!(
            found.map_err(|error| error.kind()),
            expected.ok_or(StoreErrorKind::NotFound)
        );
    }

    async fn rerun(&mut self) {
        let (id, scope) = (self.id(), self.scope());
        let edits = Edits {
            body: self.random.bool().then(|| bytes::Bytes::from_static(b"edited")),
            ..Edits::default()
        };
        let expected = self.model.rerun(&scope, id, edits.clone());
        let found = self.subject.store.rerun(&scope, id, edits).await;
        assert_eq!(
            found.map_err(|error| error.kind()),
            expected.ok_or(StoreErrorKind::NotFound)
        );
    }

    async fn delete(&mut self) {
        let (id, scope) = (self.id(), self.scope());
        let expected = self.model.delete(&scope, id);
        let found = self.subject.store.delete(&scope, id).await;
        assert_eq!(
            found.map_err(|error| error.kind()),
            expected.ok_or(StoreErrorKind::NotFound)
        );
    }

    async fn rescue(&mut self) {
        let expected = self.model.rescue();
        self.rescue_as(expected).await;
    }

    async fn rescue_as(&self, mut expected: Vec<(RequestId, Rescue)>) {
        let mut found = self.subject.store.rescue(1000).await.expect("rescue").tasks;
        expected.sort_by_key(|(id, _)| *id);
        found.sort_by_key(|(id, _)| *id);
        assert_eq!(found, expected);
    }

    async fn claim_deliveries(&mut self) {
        let (destination, lease) = (self.destination(), self.odd(5));
        let mut expected = self.model.claim_deliveries(&destination, lease);
        let found = self.subject.deliveries(&destination, lease).await;
        let mut found = found;
        let key = |claim: &DeliveryRef| (claim.id, claim.generation);
        let found_key = |due: &ClaimedDelivery| (due.delivery.id, due.delivery.generation);
        expected.sort_by_key(key);
        found.sort_by_key(found_key);
        assert_eq!(
            found.iter().map(found_key).collect::<Vec<_>>(),
            expected.iter().map(key).collect::<Vec<_>>()
        );
        self.deliveries.extend(found.into_iter().zip(expected));
    }

    async fn settle_delivery(&mut self) {
        let Some((claimed, model)) = self.random.choice(&self.deliveries).cloned() else {
            return;
        };
        let outcome = match self.random.u8(0..4) {
            0 => DeliveryOutcome::Retry(self.odd(4)),
            1 => DeliveryOutcome::Failed,
            2 => DeliveryOutcome::Released,
            _ => DeliveryOutcome::Delivered,
        };
        let tried = DeliveryTry::new(Timestamp::ZERO);
        let expected = self.model.settle_delivery(&model, &outcome, tried.clone());
        let settlement = DeliverySettlement {
            claimed,
            outcome,
            tried,
        };
        let found = self
            .subject
            .store
            .settle_delivery(settlement)
            .await
            .expect("settle delivery");
        assert_eq!(found, expected);
    }

    async fn give_up_deliveries(&mut self) {
        let give_up = GiveUp {
            spared: vec![self.destination()],
            // Added to a time that is due after an odd multiple, the sum still never matches the moment of a step.
            overdue: self.odd(4) + self.subject.units(1) / 2,
            max: 1000,
        };
        let mut expected = self.model.give_up_deliveries(&give_up);
        let found = self.subject.store.give_up_deliveries(give_up).await;
        let found = found.expect("give up deliveries");
        let mut found: Vec<_> = found
            .iter()
            .map(|given_up| (given_up.id, given_up.generation))
            .collect();
        expected.sort_unstable();
        found.sort_unstable();
        assert_eq!(found, expected);
    }

    async fn prune(&mut self) {
        let retention = Retention {
            succeeded: self.odd(4),
            others: self.odd(6),
        };
        let expected = self.model.prune(retention);
        let found = self.subject.store.prune(retention, 1000).await.expect("prune");
        assert_eq!((found.tasks, found.keys), expected);
    }

    /// Compares everything that can be read, in each scope.
    async fn compare(&mut self) {
        for scope in [Scope::All, Scope::One(None), Scope::One(Some(Tenant::new("anna")))] {
            let mut expected: Vec<_> = self.model.tasks.iter().filter(|task| task.is_in(&scope)).collect();
            expected.sort_by_key(|task| (task.record.created_at, task.record.id));
            let listed = self
                .subject
                .store
                .list_all(&scope, &Filter::default())
                .await
                .expect("list");
            let found: Vec<_> = listed.iter().map(|record| record.id).collect();
            let mut sorted = found.clone();
            sorted.sort_unstable();
            let mut wanted: Vec<_> = expected.iter().map(|task| task.record.id).collect();
            wanted.sort_unstable();
            assert_eq!(sorted, wanted, "the tasks of {scope:?}");
            for record in &listed {
                let model = self.model.get(record.id).expect("compared above");
                assert_eq!(essence(record), essence(&model.record));
            }
            let counts = self.subject.store.counts(&scope).await.expect("counts");
            let mut expected_counts = Counts::default();
            for task in &expected {
                let state = task.record.state;
                expected_counts.set(state, expected_counts.of(state) + 1);
            }
            assert!(
                counts.iter().eq(expected_counts.iter()),
                "{counts:?}, in the model {expected_counts:?}"
            );
        }
        let Some(some) = self.random.choice(&self.model.tasks).cloned() else {
            return;
        };
        let id = some.record.id;
        assert_eq!(
            self.subject.store.response(&Scope::All, id).await.expect("output"),
            some.response
        );
        assert_eq!(
            self.subject.store.request(&Scope::All, id).await.expect("input"),
            Some(some.request.clone())
        );
        if let Some(name) = &some.record.name {
            let own = Scope::One(some.record.tenant.clone());
            let found = self
                .subject
                .store
                .find(&own, &TaskRef::Name(name.clone()))
                .await
                .expect("find");
            assert_eq!(found.map(|record| record.id), Some(id));
        }
    }

    fn task(&mut self) -> NewTask {
        let random = &mut self.random;
        let again = random.choice(&self.model.tasks).filter(|_| random.u8(0..12) == 0);
        let again = again.map(|task| task.record.id);
        let mut bytes = [0; 10];
        random.fill(&mut bytes);
        let fresh = RequestId::from_parts(Timestamp::from_millis(random.u64(0..1000)), bytes);
        let body = [b"one".as_slice(), b"two"][random.usize(0..2)];
        let request = CapturedRequest::new(
            http::Method::POST,
            http::Uri::from_static("/model"),
            http::HeaderMap::new(),
            bytes::Bytes::from_static(body),
        );
        let name = (random.u8(0..4) == 0).then(|| format!("job-{}", random.u8(0..3)));
        let key = (random.u8(0..4) == 0).then(|| format!("key-{}", random.u8(0..3)));
        let subscribed = self.random.bool().then(|| Subscription {
            destination: self.destination(),
            on: Conditions::ALL,
        });
        NewTask {
            name: name.map(|name| TaskName::new(&name).expect("a name")),
            key: key.map(|key| IdempotencyKey::new(&key).expect("a key")),
            digest: Some(RequestDigest::from_bytes([body[0]; 32])),
            key_window: self.odd(8),
            tenant: self.random.bool().then(|| Tenant::new("anna")),
            caller: self.random.bool().then(|| Caller::new("clerk").expect("a caller")),
            delay: if self.random.bool() {
                Duration::ZERO
            } else {
                self.odd(4)
            },
            max_age: self.odd(12),
            crash_allowance: 2,
            subscriptions: subscribed.into_iter().collect(),
            ..NewTask::new(again.unwrap_or(fresh), Arc::new(request))
        }
    }

    fn outcome(&mut self) -> Outcome {
        let response = CapturedResponse::new(http::StatusCode::OK, http::HeaderMap::new(), bytes::Bytes::new());
        match self.random.u8(0..9) {
            0..3 => Outcome::Succeeded {
                response: Arc::new(response),
            },
            3 => Outcome::Failed {
                error: "no".into(),
                response: Some(Arc::new(response)),
            },
            4..6 => Outcome::Retry {
                after: self.odd(3),
                error: "later".into(),
            },
            6 => Outcome::Deferred {
                after: self.odd(3),
                error: "not now".into(),
            },
            7 => Outcome::Stopped,
            _ => Outcome::Released,
        }
    }

    fn id(&mut self) -> RequestId {
        let known = self.random.choice(&self.model.tasks);
        known.map_or(RequestId::from_bytes([7; 16]), |task| task.record.id)
    }

    fn scope(&mut self) -> Scope {
        match self.random.u8(0..4) {
            0 => Scope::One(None),
            1 => Scope::One(Some(Tenant::new("anna"))),
            _ => Scope::All,
        }
    }

    fn worker(&mut self) -> WorkerId {
        WorkerId::new(["one", "two"][self.random.usize(0..2)], 1)
    }

    fn destination(&mut self) -> Destination {
        if self.random.bool() {
            Destination::LOCAL
        } else {
            Destination::new("there")
        }
    }

    /// One of the first `count` odd multiples of the unit.
    fn odd(&mut self, count: u32) -> Duration {
        self.subject.units(2 * self.random.u32(0..count) + 1)
    }
}

/// What must be the same in the store and the model. Times may differ, and so may the steps by which tokens grow.
fn essence(record: &TaskRecord) -> impl PartialEq + std::fmt::Debug + use<> {
    let history: Vec<_> = record
        .history
        .iter()
        .map(|event| (event.id, event.state, event.attempt))
        .collect();
    let deliveries: Vec<_> = record
        .deliveries
        .iter()
        .map(|d| (d.destination.clone(), d.generation, d.ended_as, d.status, d.tried))
        .collect();
    let counts = (
        record.generation,
        record.attempt,
        record.retries,
        record.deferrals,
        record.crashes,
    );
    let times = (record.lease_until.is_some(), record.ended_at.is_some());
    let result = (record.status_code, record.error.clone(), record.worker.clone());
    let names = (
        record.id,
        record.name.clone(),
        record.tenant.clone(),
        record.caller.clone(),
    );
    (names, record.state, counts, times, result, history, deliveries)
}
