//! The store that fails on demand does so, and else nothing.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, Method, Uri};
use tower_respond_async::{
    error::BoxFuture,
    store::{Insert, Inserted, MemoryStore, StoreErrorKind, TaskStore},
    task::{CapturedRequest, NewTask, RequestId, Scope},
    testing::{
        FaultStore, Operation,
        conformance::{Harness, MemoryHarness},
    },
    time::Timestamp,
};

fn task(number: u8) -> NewTask {
    let input = CapturedRequest::new(Method::GET, Uri::from_static("/"), HeaderMap::new(), Bytes::new());
    NewTask::new(RequestId::from_parts(Timestamp::ZERO, [number; 10]), Arc::new(input))
}

async fn stored(store: &dyn TaskStore) -> u64 {
    store.counts(&Scope::All).await.unwrap().queued()
}

#[tokio::test]
async fn the_nth_call_fails_and_does_nothing() {
    let store = FaultStore::new(MemoryStore::new());
    store.faults().fail_nth(Operation::Insert, 2);
    let mut failed = Vec::new();
    for number in 0..3 {
        let answer = store.insert(Insert::new(task(number))).await;
        failed.push(answer.err().map(|error| error.kind()));
    }
    assert_eq!(failed, [None, Some(StoreErrorKind::Unavailable), None]);
    assert_eq!(stored(&store).await, 2);
    assert_eq!(store.faults().calls(Operation::Insert), 3);
    assert_eq!(store.faults().calls(Operation::Claim), 0);
}

#[tokio::test]
async fn a_lost_reply_is_of_something_that_was_done() {
    let store = FaultStore::new(MemoryStore::new());
    store.faults().lose_replies(Operation::Insert, 1);
    let lost = store.insert(Insert::new(task(1))).await.unwrap_err();
    assert_eq!(lost.kind(), StoreErrorKind::Unavailable);
    let again = store.insert(Insert::new(task(1))).await.unwrap();
    assert!(matches!(again, Inserted::Known { .. }), "{again:?}");
}

#[tokio::test]
async fn a_delayed_call_is_done_when_it_is_released() {
    let store = Arc::new(FaultStore::new(MemoryStore::new()));
    let delayed = store.faults().delay_next(Operation::Insert);
    let inserting = tokio::spawn({
        let store = store.clone();
        async move { store.insert(Insert::new(task(1))).await }
    });
    delayed.arrived().await;
    assert_eq!(stored(&*store).await, 0);
    delayed.release();
    let inserted = tokio::time::timeout(Duration::from_secs(10), inserting).await;
    assert!(matches!(inserted, Ok(Ok(Ok(Inserted::New(_))))));
    assert_eq!(stored(&*store).await, 1);
}

#[tokio::test]
async fn a_store_that_is_down_fails_until_it_is_healed() {
    let store = FaultStore::new(MemoryStore::new());
    store.faults().fail_everything();
    assert!(store.insert(Insert::new(task(1))).await.is_err());
    assert!(store.counts(&Scope::All).await.is_err());
    store.faults().heal();
    assert_eq!(stored(&store).await, 0);
}

/// The memory store behind a wrapper without faults: it must keep every promise still.
#[derive(Debug)]
struct Wrapped(MemoryHarness);

impl Harness for Wrapped {
    fn open(&self) -> BoxFuture<'_, Arc<dyn TaskStore>> {
        Box::pin(async { Arc::new(FaultStore::over(self.0.open().await)) as Arc<dyn TaskStore> })
    }

    fn pass(&self, time: Duration) -> BoxFuture<'_, ()> {
        self.0.pass(time)
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
}

tower_respond_async::conformance!(wrapped, Wrapped(MemoryHarness::new()));
