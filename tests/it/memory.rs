//! What is the memory store's own: its bounds.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode, Uri};
use tower_respond_async::{
    store::{
        DeliveryClaim, DeliverySettlement, FullReason, Held, Insert, Inserted, Ledger, MemoryStore, MemoryStoreBuilder,
        TaskStore,
    },
    task::{
        CapturedRequest, CapturedResponse, Conditions, DeliveryTry, Destination, Filter, IdempotencyKey, NewTask,
        RequestId, Scope, Subscription, Subscriptions, TaskName, WorkerId, delivery::DeliveryOutcome,
        lifecycle::Outcome,
    },
    testing::ManualClock,
    time::Timestamp,
};

const LEASE: Duration = Duration::from_secs(30);

struct Bounded {
    store: MemoryStore,
    clock: ManualClock,
    count: std::cell::Cell<u64>,
}

impl Bounded {
    fn new(bounds: impl FnOnce(MemoryStoreBuilder) -> MemoryStoreBuilder) -> Self {
        let clock = ManualClock::new(Timestamp::from_millis(1_000));
        Self {
            store: bounds(MemoryStore::builder()).clock(clock.clone()).build(),
            clock,
            count: std::cell::Cell::new(0),
        }
    }

    fn ledger(&self) -> Ledger {
        Ledger::of(self.store.clone())
    }

    fn task(&self, body: usize) -> NewTask {
        self.count.set(self.count.get() + 1);
        let mut random = [0; 10];
        random[2..].copy_from_slice(&self.count.get().wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes());
        let id = RequestId::from_parts(Timestamp::from_millis(self.count.get()), random);
        let body = Bytes::from(vec![b'x'; body]);
        let input = CapturedRequest::new(Method::POST, Uri::from_static("/"), HeaderMap::new(), body);
        NewTask::new(id, Arc::new(input))
    }

    async fn insert(&self, task: NewTask) -> Inserted {
        let insert = Insert::new(task).born(WorkerId::new("w", 1), LEASE);
        self.ledger().insert(insert).await.unwrap()
    }

    async fn live(&self, task: NewTask) -> RequestId {
        self.held(task).await.lease().id
    }

    async fn held(&self, task: NewTask) -> Held {
        match self.insert(task).await {
            Inserted::New(_, Some(held)) => held,
            other => panic!("there is room: {other:?}"),
        }
    }

    /// Stores a task, ends it with a response of this size, and lets a millisecond pass.
    async fn ended(&self, task: NewTask, response: usize) -> RequestId {
        let held = self.held(task).await;
        let body = Bytes::from(vec![b'y'; response]);
        let output = Arc::new(CapturedResponse::new(StatusCode::OK, HeaderMap::new(), body));
        let _ = self
            .ledger()
            .settle(&held, &Outcome::Succeeded { output })
            .await
            .unwrap();
        self.clock.advance(Duration::from_millis(1));
        held.lease().id
    }

    async fn kept(&self) -> Vec<RequestId> {
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

/// S51
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

/// S51
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
    assert_eq!(bounded.store.queue_hint(None).queued, Some(0));

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

    let claim = DeliveryClaim {
        from: vec![(Destination::LOCAL, 1)],
        lease: LEASE,
    };
    let claimed = bounded.ledger().claim_deliveries(claim).await.unwrap().remove(0);
    assert_eq!(claimed.delivery.id, telling);
    let settlement = DeliverySettlement {
        claimed,
        outcome: DeliveryOutcome::Delivered,
        tried: DeliveryTry::new(Timestamp::ZERO),
    };
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
                    let input = CapturedRequest::new(Method::GET, Uri::from_static("/"), HeaderMap::new(), body);
                    let mut task = NewTask::new(id, Arc::new(input));
                    task.name = (number % 3 == 0).then(|| TaskName::new(&format!("job-{}", number % 50)).unwrap());
                    let insert = Insert::new(task).born(WorkerId::new("w", thread), LEASE);
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
    assert!(format!("{store:?}").contains("tasks: 500, bytes: 50500"), "{store:?}");
}
