//! The fault store fails on demand, and changes nothing else.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, Method, Uri};
use tower_respond_async::{
    error::BoxFuture,
    store::{Insertion, MemoryStore, NewRow, Operation, StoreErrorKind, TaskStore},
    task::{CapturedRequest, NewTask, RequestId, Scope, TaskRecord},
    testing::{
        FaultStore, Odds,
        conformance::{Harness, MemoryHarness},
    },
    time::Timestamp,
};

fn task(number: u8) -> NewRow {
    let request = Arc::new(CapturedRequest::new(
        Method::GET,
        Uri::from_static("/"),
        HeaderMap::new(),
        Bytes::new(),
    ));
    let payload = request.to_payload();
    let task = NewTask::new(RequestId::from_parts(Timestamp::ZERO, [number; 10]), request);
    NewRow::new(Arc::new(TaskRecord::accepted(&task, Timestamp::ZERO)), payload)
}

async fn stored(store: &dyn TaskStore) -> u64 {
    store.counts(&Scope::All).await.unwrap().queued()
}

#[tokio::test]
async fn the_nth_call_fails_and_does_nothing() {
    let store = Arc::new(FaultStore::new(MemoryStore::new()));
    store.faults().fail_nth(Operation::Insert, 2);
    let mut failed = Vec::new();
    for number in 0..3 {
        let answer = store.clone().insert(task(number)).await;
        failed.push(answer.err().map(|error| error.kind()));
    }
    assert_eq!(failed, [None, Some(StoreErrorKind::Unavailable), None]);
    assert_eq!(stored(&*store).await, 2);
    assert_eq!(store.faults().calls(Operation::Insert), 3);
    assert_eq!(store.faults().calls(Operation::Claim), 0);
}

#[tokio::test]
async fn a_lost_reply_is_of_something_that_was_done() {
    let store = Arc::new(FaultStore::new(MemoryStore::new()));
    store.faults().lose_replies(Operation::Insert, 1);
    let lost = store.clone().insert(task(1)).await.unwrap_err();
    assert_eq!(lost.kind(), StoreErrorKind::Unavailable);
    let again = store.clone().insert(task(1)).await.unwrap();
    assert!(matches!(again, Insertion::Known { .. }), "{again:?}");
}

#[tokio::test]
async fn a_delayed_call_is_done_when_it_is_released() {
    let store = Arc::new(FaultStore::new(MemoryStore::new()));
    let delayed = store.faults().delay_next(Operation::Insert);
    let inserting = tokio::spawn({
        let store = store.clone();
        async move { store.insert(task(1)).await }
    });
    delayed.arrived().await;
    assert_eq!(stored(&*store).await, 0);
    delayed.release();
    let inserted = tokio::time::timeout(Duration::from_secs(10), inserting).await;
    assert!(matches!(inserted, Ok(Ok(Ok(Insertion::New(_))))));
    assert_eq!(stored(&*store).await, 1);
}

#[tokio::test]
async fn a_store_that_is_down_fails_until_it_is_healed() {
    let store = Arc::new(FaultStore::new(MemoryStore::new()));
    store.faults().fail_everything();
    assert!(store.clone().insert(task(1)).await.is_err());
    assert!(store.counts(&Scope::All).await.is_err());
    store.faults().heal();
    assert_eq!(stored(&*store).await, 0);
}

#[tokio::test]
async fn a_held_call_is_overtaken_and_arrives_though_its_caller_has_given_up() {
    let store = Arc::new(FaultStore::new(MemoryStore::new()));
    let faults = store.faults();
    faults.hold_next(Operation::Insert, 2);
    drop(store.clone().insert(task(1)));
    assert_eq!(faults.held(), 1);
    assert_eq!(stored(&*store).await, 0, "the first call after it");
    let second = store.clone().insert(task(2)).await.unwrap();
    assert!(matches!(second, Insertion::New(_)), "{second:?}");
    assert_eq!((faults.held(), stored(&*store).await), (0, 2));
}

#[tokio::test]
async fn a_held_call_answers_its_caller_when_it_has_had_its_turn() {
    let store = Arc::new(FaultStore::new(MemoryStore::new()));
    store.faults().hold_next(Operation::Insert, 1);
    let (shared, held) = (store.clone(), store.clone().insert(task(1)));
    let (first, second) = tokio::join!(held, async move { shared.insert(task(1)).await });
    assert!(matches!(second, Ok(Insertion::New(_))), "it has overtaken: {second:?}");
    assert!(matches!(first, Ok(Insertion::Known { .. })), "{first:?}");
}

#[tokio::test]
async fn a_held_reply_is_of_something_that_is_done_already() {
    let store = Arc::new(FaultStore::new(MemoryStore::new()));
    store.faults().hold_next_reply(Operation::Insert, 2);
    let inserting = tokio::spawn({
        let store = store.clone();
        async move { store.insert(task(1)).await }
    });
    while store.faults().calls(Operation::Insert) == 0 {
        tokio::task::yield_now().await;
    }
    assert_eq!(stored(&*store).await, 1);
    assert!(!inserting.is_finished());
    assert_eq!(stored(&*store).await, 1);
    let inserted = tokio::time::timeout(Duration::from_secs(10), inserting).await;
    assert!(matches!(inserted, Ok(Ok(Ok(Insertion::New(_))))));
}

#[tokio::test]
async fn what_is_held_when_the_store_is_healed_arrives_with_the_next_call() {
    let store = Arc::new(FaultStore::new(MemoryStore::new()));
    store.faults().hold_next(Operation::Insert, 1_000);
    drop(store.clone().insert(task(1)));
    store.faults().heal();
    let _ = stored(&*store).await;
    assert_eq!((store.faults().held(), stored(&*store).await), (0, 1));
}

#[tokio::test]
async fn the_same_seed_brings_the_same_faults() {
    let mut odds = Odds::NONE;
    (odds.fail, odds.lose_reply, odds.hold, odds.longest) = (0.25, 0.25, 0.25, 3);
    let mut lives = Vec::new();
    for seed in [1, 1, 2] {
        let store = Arc::new(FaultStore::new(MemoryStore::new()));
        store.faults().at_random(seed, odds);
        let mut life = Vec::new();
        for number in 0..40 {
            let inserting = store.clone().insert(task(number));
            let answer = tokio::time::timeout(Duration::ZERO, inserting).await;
            life.push(answer.map(|answer| answer.is_ok()).ok());
        }
        store.faults().heal();
        let _ = stored(&*store).await;
        lives.push((life, stored(&*store).await));
    }
    assert_eq!(lives[0], lives[1]);
    assert_ne!(lives[0], lives[2]);
    let (life, stored) = &lives[0];
    for outcome in [Some(true), Some(false), None] {
        assert!(life.contains(&outcome), "{life:?}");
    }
    assert!((1..40).contains(stored), "some failed: {stored}");
}

/// The memory store behind a wrapper without faults: it must still keep every promise.
#[derive(Debug)]
struct Wrapped(MemoryHarness);

impl Harness for Wrapped {
    fn open(&self) -> BoxFuture<'_, Arc<dyn TaskStore>> {
        Box::pin(async { Arc::new(FaultStore::over(self.0.open().await)) as Arc<dyn TaskStore> })
    }

    fn pass(&self, time: Duration) -> BoxFuture<'_, ()> {
        self.0.pass(time)
    }

    fn set_back(&self, by: Duration) -> BoxFuture<'_, bool> {
        self.0.set_back(by)
    }

    fn unit(&self) -> Duration {
        self.0.unit()
    }

    fn rounds(&self) -> usize {
        50
    }

    fn reopen(&self) -> BoxFuture<'_, Option<Arc<dyn TaskStore>>> {
        self.0.reopen()
    }

    fn second(&self) -> BoxFuture<'_, Option<Arc<dyn TaskStore>>> {
        self.0.second()
    }

    fn corrupt(&self, id: RequestId) -> BoxFuture<'_, bool> {
        self.0.corrupt(id)
    }

    fn make_newer(&self, id: RequestId) -> BoxFuture<'_, bool> {
        self.0.make_newer(id)
    }
}

tower_respond_async::conformance!(wrapped, Wrapped(MemoryHarness::new()));
