//! A row that is claimed, renewed and changed step by step matches the task as the lifecycle makes it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode, Uri};
use proptest::prelude::*;

use crate::{
    forward_store,
    store::{
        Change, Committed, Guard, InitialClaim, Insert, Inserted, Ledger, MemoryStore, NewRow, Operation, OutboxRow,
        Reply, Row, Settled, StoreErrorKind, TaskStore, Which,
    },
    task::{
        CapturedRequest, CapturedResponse, Conditions, Destination, FenceToken, NewTask, Progress, RequestId, Scope,
        Subscription, Subscriptions, TaskRecord, WorkerId,
        lifecycle::{Outcome, Rescue},
    },
    time::Timestamp,
};

const LEASE: Duration = Duration::from_secs(30);

#[derive(Clone, Copy, Debug)]
enum Step {
    Claim,
    Renew,
    Progress,
    Settle(u8),
    Stop,
    Rescue,
    Deliver,
    Rerun,
    Wait(u16),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => Just(Step::Claim),
        2 => Just(Step::Renew),
        1 => Just(Step::Progress),
        4 => (0..7_u8).prop_map(Step::Settle),
        1 => Just(Step::Stop),
        2 => Just(Step::Rescue),
        2 => Just(Step::Deliver),
        2 => Just(Step::Rerun),
        3 => (1..40_000_u16).prop_map(Step::Wait),
    ];
    prop::collection::vec(step, 1..60)
}

fn request() -> Arc<CapturedRequest> {
    let uri = Uri::from_static("/tests/run");
    let body = Bytes::from_static(b"work");
    Arc::new(CapturedRequest::new(Method::POST, uri, HeaderMap::new(), body))
}

fn outcome(number: u8) -> Outcome {
    let (after, error) = (Duration::from_secs(1), Arc::from("it was busy"));
    match number {
        0 => Outcome::Retry { after, error },
        1 => Outcome::Deferred { after, error },
        2 => Outcome::Released,
        3 => Outcome::Stopped,
        4 => Outcome::Failed { error, response: None },
        5 => Outcome::HandedOn { error },
        _ => Outcome::Succeeded {
            response: Arc::new(CapturedResponse::new(StatusCode::OK, HeaderMap::new(), Bytes::new())),
        },
    }
}

/// The row in a store, and the task as it would be if every step wrote the whole record.
struct Both {
    row: Row,
    whole: TaskRecord,
    now: Timestamp,
}

impl Both {
    fn new() -> Self {
        let now = Timestamp::from_millis(1_700_000_000_000);
        let hook = Subscription {
            destination: Destination::new("hook"),
            on: Conditions::ALL,
        };
        let task = NewTask {
            subscriptions: Subscriptions::from([hook]),
            max_attempts: 3,
            ..NewTask::new(RequestId::from_bytes([7; 16]), request())
        };
        let whole = TaskRecord::accepted(&task, now);
        let row = NewRow::new(Arc::new(whole.clone()), request().to_payload()).row(FenceToken::NONE, now);
        Self { row, whole, now }
    }

    /// Changes both: the whole task by the lifecycle, and the row by the change between the two records.
    fn change<T: PartialEq + std::fmt::Debug>(&mut self, act: impl Fn(&mut TaskRecord) -> T) -> T {
        let done = act(&mut self.whole);
        let mut seen = self.row.clone();
        assert_eq!(act(Arc::make_mut(seen.restore())), done);
        let change = Change::between(&seen, seen.record.clone(), self.now);
        assert!(change.holds(&self.row, self.now));
        let next = change.to.expect("it is not a removal");
        self.row = next.after(&self.row, self.now);
        done
    }

    fn step(&mut self, step: Step) {
        let now = self.now;
        match step {
            Step::Wait(millis) => self.now = now.saturating_add(Duration::from_millis(millis.into())),
            Step::Claim => {
                let runnable = self.row.columns.is_runnable(now);
                assert_eq!(runnable, self.whole.is_runnable(now));
                if runnable {
                    let worker = WorkerId::new("w", 1);
                    self.row.claim(worker.clone(), LEASE, FenceToken::NONE, now);
                    self.whole.claim(worker, LEASE, now).unwrap();
                }
            }
            Step::Renew => {
                let token = self.whole.token;
                let renewed = self.row.columns.renew(token, LEASE, now);
                assert_eq!(renewed, self.whole.renew(token, LEASE, now));
            }
            Step::Progress => {
                if self.whole.state.is_held() {
                    let progress = Some(Progress::new(0.5, "half"));
                    self.row.columns.progress.clone_from(&progress);
                    self.whole.life.progress = progress;
                }
            }
            Step::Settle(number) => {
                let (token, outcome) = (self.whole.token, outcome(number));
                _ = self.change(|record| record.settle(token, &outcome, now).ok());
            }
            Step::Stop => _ = self.change(|record| record.stop(now)),
            Step::Rescue => self.rescue(),
            Step::Deliver => {
                let Some(at) = self
                    .whole
                    .deliveries
                    .iter()
                    .position(|it| it.is_pending() && it.due_at <= now)
                else {
                    return;
                };
                let (generation, to) = (self.whole.deliveries[at].generation, Destination::new("hook"));
                let mut rows = self.row.outbox.iter_mut();
                let row = rows.find(|row| row.generation == generation).expect("it is pending");
                let token = row.claim(LEASE, FenceToken::NONE, now).expect("it is due");
                let delivery = &mut self.whole.life.deliveries[at];
                (delivery.due_at, delivery.token, delivery.is_claimed) = (row.due_at, token, true);
                self.change(|record| {
                    record.delivery_mut(generation, &to).expect("a delivery").redeliver(now);
                });
            }
            Step::Rerun => {
                let request = request();
                _ = self.change(|record| record.rerun(&request, now));
            }
        }
    }

    /// A rescue that saw the lease run out is made only while the lease has run out: after a renewal the holder keeps
    /// the task.
    fn rescue(&mut self) {
        let now = self.now;
        let before = self.row.clone();
        let token = before.columns.token;
        let mut seen = before.clone();
        let rescued = Arc::make_mut(seen.restore()).rescue(now);
        if rescued != Rescue::NotDue && before.columns.is_held() {
            let mut late = Change::between(&seen, seen.record.clone(), now);
            late.guard = Guard::Lapsed(before.version);
            assert!(late.holds(&before, now));
            let earlier = before.columns.lease_until.unwrap().as_millis() - 1;
            let mut renewed = before.clone();
            _ = renewed.columns.renew(token, LEASE, Timestamp::from_millis(earlier));
            assert_eq!(late.holds(&renewed, now), renewed.columns.has_lapsed(now));
            assert_eq!(renewed.version, before.version);
        }
        _ = self.change(|record| record.rescue(now));
    }

    fn agree(&self) {
        let restored = self.row.clone().into_record();
        assert_eq!(*restored, self.whole);
        assert_eq!(restored.encode(), self.whole.encode());
        let pending = self.whole.deliveries.iter().filter(|delivery| delivery.is_pending());
        assert_eq!(pending.count(), self.row.outbox.len());
        let bytes = self.row.encode();
        let (stored, rest) = Row::decode(self.row.id, &bytes).unwrap();
        assert_eq!((&stored, rest), (&self.row, &*self.row.record.encode()));
    }
}

proptest! {
    #[test]
    fn a_row_that_is_claimed_and_changed_is_the_task_as_the_lifecycle_makes_it(steps in steps()) {
        let mut both = Both::new();
        for step in steps {
            both.step(step);
            both.agree();
        }
    }
}

/// However few earlier claims the store still has.
#[test]
fn a_token_is_greater_than_the_floor_of_its_claim() {
    let floor = FenceToken::new(7 << 32);
    let now = Timestamp::from_millis(1_000);
    let worker = WorkerId::new("w", 1);
    let inserted = |claimed: bool| {
        let task = NewTask::new(RequestId::from_bytes([7; 16]), request());
        let mut record = TaskRecord::accepted(&task, now);
        if claimed {
            record.claim(worker.clone(), LEASE, now).unwrap();
        }
        let mut new = NewRow::new(Arc::new(record), task.request.to_payload());
        new.claim = Some(InitialClaim {
            worker: worker.clone(),
            lease: LEASE,
        });
        new.row(floor, now)
    };
    for row in [inserted(false), inserted(true)] {
        assert_eq!(row.columns.token, floor.next());
        assert_eq!(row.into_record().token, floor.next());
    }
    let task = NewTask::new(RequestId::from_bytes([7; 16]), request());
    let record = Arc::new(TaskRecord::accepted(&task, now));
    let mut row = NewRow::new(record, task.request.to_payload()).row(floor, now);
    assert_eq!(row.columns.token, FenceToken::NONE, "nobody has it");
    row.claim(worker.clone(), LEASE, floor, now);
    assert_eq!(row.columns.token, floor.next());
    row.claim(worker, LEASE, floor, now);
    assert_eq!(row.columns.token, floor.next().next(), "it grows with every claim");
    let mut completion = OutboxRow {
        generation: 1,
        destination: Destination::LOCAL,
        due_at: now,
        token: FenceToken::NONE,
        claimed: false,
    };
    assert_eq!(completion.claim(LEASE, floor, now), Some(floor.next()));
}

/// A store in which another change comes before each of the first commits.
#[derive(Debug)]
struct Overtaken {
    store: Arc<MemoryStore>,
    first: usize,
    commits: AtomicUsize,
}

impl Overtaken {
    fn store(&self) -> &MemoryStore {
        &self.store
    }

    fn forward<T: Send + 'static>(
        &self,
        _: Operation,
        call: impl FnOnce(Arc<MemoryStore>) -> Reply<'static, T> + Send + 'static,
    ) -> Reply<'static, T> {
        call(self.store.clone())
    }
}

impl TaskStore for Overtaken {
    fn commit(&self, change: Change) -> Reply<'_, Committed> {
        if self.commits.fetch_add(1, Ordering::Relaxed) >= self.first {
            return self.store.commit(change);
        }
        Reply::later(async move {
            let row = self.store.rows(&Scope::All, &Which::Id(change.id)).await?.pop();
            Ok(Committed::Stale(row.map(Box::new)))
        })
    }

    forward_store!(
        abilities now queue_hint insert insert_all claim rows due commit_all renew claim_deliveries list counts payload
        set_progress append_log logs prune_keys news attend glance beat control close
    );
}

/// The last try is one of those whose answer counts: no change is sent behind it.
#[tokio::test]
async fn a_settlement_that_others_overtake_is_tried_sixteen_times() {
    for (first, settles) in [(15, true), (16, false)] {
        let (store, commits) = (Arc::new(MemoryStore::new()), AtomicUsize::new(0));
        let overtaken = Arc::new(Overtaken { store, first, commits });
        let ledger = Ledger::new(overtaken.clone());
        let task = NewTask::new(RequestId::from_bytes([7; 16]), request());
        let insert = Insert::new(task).claimed_by(WorkerId::new("w", 1), LEASE);
        let Ok(Inserted::New(_, Some(held))) = ledger.insert(insert).await else {
            panic!("it is new and held");
        };
        let settled = ledger.settle(&held, &outcome(9)).await;
        match settles {
            true => assert!(matches!(settled, Ok(Settled::Accepted { .. })), "{settled:?}"),
            false => assert_eq!(settled.unwrap_err().kind(), StoreErrorKind::Unavailable),
        }
        assert_eq!(overtaken.commits.load(Ordering::Relaxed), 16);
        let row = overtaken
            .store
            .rows(&Scope::All, &Which::Id(held.lease().id))
            .await
            .unwrap();
        assert_eq!(row[0].columns.state.is_terminal(), settles);
    }
}
