//! What only the memory store has: its bounds.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode, Uri};
use tower_respond_async::{
    store::{
        Delete, DeliveryClaim, DeliverySettlement, FullReason, Held, Insert, Inserted, Ledger, MemoryStore,
        MemoryStoreBuilder, TaskStore,
    },
    task::{
        CapturedRequest, CapturedResponse, Conditions, DeliveryTry, Destination, Filter, IdempotencyKey, LogLine,
        NewTask, Progress, RequestId, Scope, Subscription, Subscriptions, TaskName, Tenant, WorkerId,
        delivery::DeliveryOutcome,
        lifecycle::{Edits, Outcome, Rerun},
    },
    testing::ManualClock,
    time::Timestamp,
};

pub(crate) const LEASE: Duration = Duration::from_secs(30);
pub(crate) const WINDOW: Duration = Duration::from_secs(24 * 60 * 60);

pub(crate) struct Bounded {
    pub(crate) store: MemoryStore,
    pub(crate) clock: ManualClock,
    count: std::cell::Cell<u64>,
}

impl Bounded {
    pub(crate) fn new(bounds: impl FnOnce(MemoryStoreBuilder) -> MemoryStoreBuilder) -> Self {
        let clock = ManualClock::new(Timestamp::from_millis(1_000));
        Self {
            store: bounds(MemoryStore::builder()).clock(clock.clone()).build(),
            clock,
            count: std::cell::Cell::new(0),
        }
    }

    pub(crate) fn ledger(&self) -> Ledger {
        Ledger::of(self.store.clone())
    }

    pub(crate) fn task(&self, body: usize) -> NewTask {
        self.count.set(self.count.get() + 1);
        let mut random = [0; 10];
        random[2..].copy_from_slice(&self.count.get().wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes());
        let id = RequestId::from_parts(Timestamp::from_millis(self.count.get()), random);
        let body = Bytes::from(vec![b'x'; body]);
        let request = CapturedRequest::new(Method::POST, Uri::from_static("/"), HeaderMap::new(), body);
        NewTask::new(id, Arc::new(request))
    }

    pub(crate) async fn insert(&self, task: NewTask) -> Inserted {
        let insert = Insert::new(task).claimed_by(WorkerId::new("w", 1), LEASE);
        self.ledger().insert(insert).await.unwrap()
    }

    pub(crate) async fn live(&self, task: NewTask) -> RequestId {
        self.held(task).await.lease().id
    }

    async fn held(&self, task: NewTask) -> Held {
        match self.insert(task).await {
            Inserted::New(_, Some(held)) => held,
            other => panic!("there is room: {other:?}"),
        }
    }

    /// Stores a task, ends it with a response of this size, and lets a millisecond pass.
    pub(crate) async fn ended(&self, task: NewTask, response: usize) -> RequestId {
        let held = self.held(task).await;
        let body = Bytes::from(vec![b'y'; response]);
        let response = Arc::new(CapturedResponse::new(StatusCode::OK, HeaderMap::new(), body));
        let _ = self
            .ledger()
            .settle(&held, &Outcome::Succeeded { response })
            .await
            .unwrap();
        self.clock.advance(Duration::from_millis(1));
        held.lease().id
    }

    pub(crate) fn keyed(&self, tenant: Option<&str>, key: &str) -> NewTask {
        let mut task = self.task(0);
        task.tenant = tenant.map(Tenant::new);
        task.key = Some(IdempotencyKey::new(key).unwrap());
        task.key_window = WINDOW;
        task
    }

    /// How many bytes the store reports.
    pub(crate) fn bytes(&self) -> usize {
        let shown = format!("{:?}", self.store);
        let (_, behind) = shown.split_once("bytes: ").unwrap();
        behind.split(',').next().unwrap().parse().unwrap()
    }

    pub(crate) async fn delete_all(&self) {
        for id in self.kept().await {
            assert_eq!(
                self.ledger().delete(&Scope::All, id).await.unwrap(),
                Delete::Deleted,
                "{id} has ended"
            );
        }
    }

    pub(crate) async fn kept(&self) -> Vec<RequestId> {
        let all = self.ledger().list_all(&Scope::All, &Filter::default()).await.unwrap();
        all.iter().map(|record| record.id).collect()
    }
}

fn telling(task: NewTask) -> NewTask {
    let mut task = task;
    task.subscriptions = Subscriptions::from([Subscription {
        destination: Destination::LOCAL,
        on: Conditions::ALL,
    }]);
    task
}

#[tokio::test]
async fn a_full_store_drops_what_ended_first_whatever_was_stored_first() {
    let bounded = Bounded::new(|store| store.max_tasks(40));
    let live = bounded.live(bounded.task(0)).await;
    let mut ended = Vec::new();
    for _ in 0..39 {
        ended.push(bounded.ended(bounded.task(0), 0).await);
    }
    for dropped in 1..=39 {
        let newest = bounded.ended(bounded.task(0), 0).await;
        let mut expected = vec![live];
        expected.extend(&ended[dropped..]);
        let kept = bounded.kept().await;
        assert_eq!(kept.len(), 40);
        assert!(expected.iter().all(|id| kept.contains(id)) && kept.contains(&newest));
    }
}

#[tokio::test]
async fn a_store_full_of_live_tasks_refuses_and_keeps_no_trace() {
    let bounded = Bounded::new(|store| store.max_tasks(3));
    let held = bounded.held(bounded.task(0)).await;
    for _ in 0..2 {
        bounded.live(bounded.task(0)).await;
    }
    let mut task = bounded.task(0);
    task.name = Some(TaskName::new("job").unwrap());
    task.key = Some(IdempotencyKey::new("k").unwrap());
    let refused = bounded.insert(task.clone()).await;
    assert!(matches!(refused, Inserted::Full(FullReason::Storage)), "{refused:?}");
    let waiting = bounded.ledger().insert(Insert::new(task.clone())).await.unwrap();
    assert!(matches!(waiting, Inserted::Full(FullReason::Storage)), "{waiting:?}");
    assert_eq!(bounded.kept().await.len(), 3);
    assert_eq!(bounded.store.queue_hint(None, None).queued, Some(0));

    let _ = bounded.ledger().settle(&held, &Outcome::Stopped).await.unwrap();
    assert!(
        matches!(bounded.insert(task).await, Inserted::New(..)),
        "neither name nor key is taken"
    );
}

#[tokio::test]
async fn a_task_with_a_completion_to_deliver_is_not_dropped() {
    let bounded = Bounded::new(|store| store.max_tasks(2));
    let telling = bounded.ended(telling(bounded.task(0)), 0).await;
    let dropped = bounded.ended(bounded.task(0), 0).await;
    let live = bounded.live(bounded.task(0)).await;
    assert!(!bounded.kept().await.contains(&dropped));
    let refused = bounded.insert(bounded.task(0)).await;
    assert!(matches!(refused, Inserted::Full(FullReason::Storage)), "{refused:?}");

    let claim = DeliveryClaim::new(vec![(Destination::LOCAL, 1)], LEASE);
    let claimed = bounded.ledger().claim_deliveries(claim).await.unwrap().remove(0);
    assert_eq!(claimed.delivery.id, telling);
    let settlement = DeliverySettlement::new(claimed, DeliveryOutcome::Delivered, DeliveryTry::new(Timestamp::ZERO));
    assert!(bounded.ledger().settle_delivery(settlement).await.unwrap());
    let newest = bounded.live(bounded.task(0)).await;
    assert_eq!(bounded.kept().await, [live, newest]);
}

#[tokio::test]
async fn bytes_are_bounded_with_the_responses_counted() {
    let bounded = Bounded::new(|store| store.max_bytes(10_000));
    let first = bounded.ended(bounded.task(2_000), 2_000).await;
    let second = bounded.ended(bounded.task(2_000), 2_000).await;
    let third = bounded.live(bounded.task(1_500)).await;
    assert_eq!(bounded.kept().await, [first, second, third]);
    let fourth = bounded.live(bounded.task(4_000)).await;
    assert_eq!(bounded.kept().await, [second, third, fourth]);
    let fifth = bounded.live(bounded.task(4_000)).await;
    assert_eq!(bounded.kept().await, [third, fourth, fifth]);
    let refused = bounded.insert(bounded.task(4_000)).await;
    assert!(matches!(refused, Inserted::Full(FullReason::Storage)), "{refused:?}");
}

#[tokio::test]
async fn a_request_larger_than_the_store_drops_nothing() {
    let bounded = Bounded::new(|store| store.max_bytes(1_000));
    let ended = bounded.ended(bounded.task(100), 0).await;
    let refused = bounded.insert(bounded.task(2_000)).await;
    assert!(matches!(refused, Inserted::Full(FullReason::Storage)), "{refused:?}");
    assert_eq!(bounded.kept().await, [ended]);
}

#[tokio::test]
async fn a_known_task_is_known_however_full_the_store_is() {
    let bounded = Bounded::new(|store| store.max_tasks(1));
    let task = bounded.task(0);
    bounded.live(task.clone()).await;
    assert!(matches!(bounded.insert(task).await, Inserted::Known { .. }));
}

#[tokio::test]
async fn debug_shows_no_payload() {
    let bounded = Bounded::new(|store| store);
    bounded.live(bounded.task(100)).await;
    let shown = format!("{:?}", bounded.store);
    assert!(shown.contains("tasks: 1") && !shown.contains("xxx"), "{shown}");
}

#[test]
fn many_threads_keep_the_bound_and_lose_count_of_nothing() {
    let store = MemoryStore::builder().max_tasks(500).build();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    std::thread::scope(|scope| {
        for thread in 0..4_u64 {
            let (ledger, handle) = (Ledger::of(store.clone()), runtime.handle().clone());
            scope.spawn(move || {
                let mut random = fastrand::Rng::with_seed(thread);
                for number in 0..3_000_u64 {
                    let mut bytes = [0; 10];
                    random.fill(&mut bytes);
                    let id = RequestId::from_parts(Timestamp::from_millis(number), bytes);
                    let body = Bytes::from(vec![0; 100]);
                    let request = CapturedRequest::new(Method::GET, Uri::from_static("/"), HeaderMap::new(), body);
                    let mut task = NewTask::new(id, Arc::new(request));
                    task.name = (number % 3 == 0).then(|| TaskName::new(&format!("job-{}", number % 50)).unwrap());
                    let insert = Insert::new(task).claimed_by(WorkerId::new("w", thread), LEASE);
                    let Inserted::New(_, Some(held)) = handle.block_on(ledger.insert(insert)).unwrap() else {
                        continue;
                    };
                    let _ = handle.block_on(ledger.settle(&held, &Outcome::Stopped)).unwrap();
                }
            });
        }
    });
    let counts = runtime.block_on(store.counts(&Scope::All)).unwrap();
    let listed = runtime
        .block_on(Ledger::of(store.clone()).list_all(&Scope::All, &Filter::default()))
        .unwrap();
    let counted: u64 = counts.iter().map(|(_, count)| count).sum();
    assert_eq!((counted, listed.len()), (500, 500));
    for record in listed {
        let deleted = runtime.block_on(Ledger::of(store.clone()).delete(&Scope::All, record.id));
        assert_eq!(deleted.unwrap(), Delete::Deleted);
    }
    runtime.block_on(store.prune_keys(10_000)).unwrap();
    assert!(format!("{store:?}").contains("tasks: 0, bytes: 0"), "{store:?}");
}

/// Fifty tasks of 900 KB each, at once, in a store of 1 MB used to hold 36 MB: writing a result checked nothing.
#[tokio::test]
async fn results_of_tasks_that_end_together_are_never_more_than_one_too_many() {
    const RESULT: usize = 900_000;
    let bounded = Bounded::new(|store| store.max_bytes(1_000_000));
    let mut held = Vec::new();
    for _ in 0..50 {
        held.push(bounded.held(bounded.task(10)).await);
    }
    for held in &held {
        let body = Bytes::from(vec![b'y'; RESULT]);
        let response = Arc::new(CapturedResponse::new(StatusCode::OK, HeaderMap::new(), body));
        let outcome = Outcome::Succeeded { response };
        let _ = bounded.ledger().settle(held, &outcome).await.unwrap();
        let response = bounded.ledger().response(&Scope::All, held.lease().id).await.unwrap();
        assert_eq!(response.unwrap().body.len(), RESULT, "whoever waits for it reads it");
        assert!(bounded.bytes() < 1_000_000 + RESULT, "{}", bounded.bytes());
    }
    assert_eq!(bounded.kept().await.len(), 1);
    bounded.delete_all().await;
    assert_eq!(bounded.bytes(), 0);
}

#[tokio::test]
async fn a_result_larger_than_the_store_is_kept_until_the_next() {
    let bounded = Bounded::new(|store| store.max_bytes(10_000));
    bounded.ended(bounded.task(100), 100).await;
    let large = bounded.ended(bounded.task(100), 50_000).await;
    assert_eq!(bounded.kept().await, [large]);
    let next = bounded.ended(bounded.task(100), 100).await;
    assert_eq!(bounded.kept().await, [next]);
    assert!(bounded.bytes() < 1_000);
}

#[tokio::test]
async fn a_log_and_an_edited_request_make_room_for_themselves() {
    let bounded = Bounded::new(|store| store.max_bytes(10_000));
    let again = bounded.ended(bounded.task(100), 0).await;
    let others = [
        bounded.ended(bounded.task(100), 3_000).await,
        bounded.ended(bounded.task(100), 3_000).await,
    ];
    let live = bounded.held(bounded.task(100)).await;
    let edits = Edits::default().body(vec![b'z'; 6_000]);
    let rerun = bounded.ledger().rerun(&Scope::All, again, edits).await.unwrap();
    assert!(matches!(rerun, Rerun::Enqueued { .. }), "{rerun:?}");
    assert_eq!(bounded.kept().await, [again, others[1], live.lease().id]);

    let line = LogLine::new(Timestamp::ZERO, "INFO", "here", &"l".repeat(3_000));
    assert!(bounded.store.append_log(live.lease(), vec![line]).await.unwrap());
    assert_eq!(bounded.kept().await, [again, live.lease().id]);
    assert!(bounded.bytes() < 10_000);
}

#[tokio::test]
async fn all_that_is_of_any_length_is_weighed_and_nothing_is_left_when_it_is_gone() {
    let bounded = Bounded::new(|store| store);
    let plain = bounded.live(bounded.task(0)).await;
    let least = bounded.bytes();
    let mut task = bounded.keyed(Some("acme"), &"k".repeat(100));
    task.name = Some(TaskName::new(&"n".repeat(100)).unwrap());
    task.function = Some("f".repeat(100).into());
    task.callback = Some("c".repeat(100).into());
    task.labels = [("l".repeat(50), "l".repeat(50))].into_iter().collect();
    let mut request = CapturedRequest::clone(&task.request);
    request.carried = vec![("c".repeat(50), Bytes::from(vec![b'c'; 50]))];
    task.request = Arc::new(request);
    let held = bounded.held(task).await;
    let mut before = bounded.bytes();
    assert!(before >= 2 * least + 600, "{before} {least}");

    let progress = Progress::new(0.5, &"p".repeat(100));
    assert!(bounded.store.set_progress(held.lease(), progress).await.unwrap());
    assert!(bounded.bytes() >= before + 100);
    before = bounded.bytes();
    let error = "e".repeat(100);
    let failed = Outcome::Failed {
        error: error.as_str().into(),
        response: None,
    };
    let _ = bounded.ledger().settle(&held, &failed).await.unwrap();
    assert!(
        bounded.bytes() >= before + 100,
        "its error, and what history says of it"
    );

    let _ = bounded.ledger().stop(&Scope::All, plain).await.unwrap();
    bounded.clock.advance(LEASE);
    bounded.ledger().rescue(10).await.unwrap();
    bounded.delete_all().await;
    assert!(bounded.bytes() > 350, "its key");
    bounded.clock.advance(WINDOW);
    assert_eq!(bounded.store.prune_keys(10).await.unwrap(), 1);
    assert_eq!(bounded.bytes(), 0);
}
