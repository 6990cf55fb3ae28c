//! A clock that shows an earlier time than before when a file is opened again.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, Method, Uri};
use tempfile::tempdir;
use tower_respond_async::{
    RequestId, TaskState,
    store::{Claim, ClaimedTask, Insert, Inserted, Ledger},
    task::{CapturedRequest, NewTask, WorkerId, lifecycle::Outcome},
    testing::ManualClock,
    time::{Clock, Timestamp},
};
use tower_respond_async_redb::RedbStore;

const DAY: u64 = 24 * 60 * 60 * 1_000;

fn task(number: u8) -> NewTask {
    let request = CapturedRequest::new(Method::GET, Uri::from_static("/"), HeaderMap::new(), Bytes::new());
    let mut task = NewTask::new(RequestId::from_parts(Timestamp::ZERO, [number; 10]), Arc::new(request));
    task.max_attempts = 2;
    task
}

async fn claim(store: &Ledger) -> Vec<ClaimedTask> {
    let claim = Claim::new(WorkerId::new("w", 1), 10, Duration::from_secs(30));
    store.claim(claim).await.unwrap().tasks
}

/// The simulation found this: a machine started with its clock nine days behind, and tasks that were accepted before
/// waited until the tenth day. The store must not start before the times that it has written.
#[tokio::test]
async fn nothing_waits_for_a_clock_that_was_set_back() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("tasks.redb");
    let (queued, retried, ran) = (task(1), task(2), task(3));
    let clock = ManualClock::new(Timestamp::from_millis(100 * DAY));
    let open = async |clock: &ManualClock| {
        let store = RedbStore::builder().clock(clock.clone()).open(&path).await;
        Ledger::of(store.unwrap())
    };

    let store = open(&clock).await;
    let mut held = Vec::new();
    for task in [&retried, &ran] {
        let insert = Insert::new(task.clone()).claimed_by(WorkerId::new("w", 1), Duration::from_secs(30));
        match store.insert(insert).await.unwrap() {
            Inserted::New(_, claim) => held.extend(claim),
            other => panic!("it is new: {other:?}"),
        }
    }
    let again = Outcome::Retry {
        after: Duration::from_secs(60),
        error: "busy".into(),
    };
    let _ = store.settle(&held[0], &again).await.unwrap();
    let _ = store.insert(Insert::new(queued.clone())).await.unwrap();
    drop(store);

    let early = ManualClock::new(Timestamp::from_millis(DAY));
    let store = open(&early).await;
    let _ = store.rescue(10).await.unwrap();
    let claimed: Vec<_> = claim(&store).await.iter().map(|task| task.record.id).collect();
    assert_eq!(claimed, [queued.id, ran.id]);
    early.advance(Duration::from_secs(60));
    let due: Vec<_> = claim(&store).await.iter().map(|task| task.record.id).collect();
    assert_eq!(due, [retried.id], "a retry waits as long as it was told to");
    let record = store.task(retried.id).await.unwrap();
    let times: Vec<_> = record.history.iter().map(|event| event.at).collect();
    assert!(times.is_sorted(), "{times:?}");
    assert_eq!(record.state, TaskState::Running);
    drop(store);

    // After the clock is corrected, the store follows it again.
    let right = ManualClock::new(Timestamp::from_millis(101 * DAY));
    let store = open(&right).await;
    let _ = store.insert(Insert::new(task(4))).await.unwrap();
    assert_eq!(store.task(task(4).id).await.unwrap().created_at, right.now());
}
