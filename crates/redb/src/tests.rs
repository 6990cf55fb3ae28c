//! The behaviour that the trait leaves to a store with exclusive use of its file: orphans, leases in memory, and what a
//! claim writes.

use std::{path::PathBuf, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode, Uri};
use redb::{Database, ReadableDatabase, ReadableTable};

use crate::{
    RedbStore,
    tables::{TASKS, read_row},
};
use tower_respond_async::{
    error::BoxError,
    store::{
        Change, Claim, ClaimedDelivery, ClaimedTask, Committed, DeliveryClaim, DeliverySettlement, Due, DueReason,
        Held, Insert, Inserted, Ledger, Retention, Row, Which,
    },
    task::{
        CapturedRequest, CapturedResponse, Conditions, DeliveryTry, Destination, LeaseRef, NewTask, Progress,
        RequestId, Scope, Subscription, Subscriptions, TaskRef, TaskState, WorkerId,
        delivery::DeliveryOutcome,
        lifecycle::{Edits, Outcome, Renewal, Rescue, Stop},
    },
    time::Timestamp,
};

const LONG: Duration = Duration::from_secs(3600);

/// A file that is removed when this is dropped.
struct File(PathBuf);

/// A key and its value.
type Entry = (Vec<u8>, Vec<u8>);

impl File {
    fn new() -> Self {
        let name = format!("respond-async-{}-{}.redb", std::process::id(), fastrand::u64(..));
        Self(std::env::temp_dir().join(name))
    }

    /// Opens the file as the next process does.
    async fn open(&self) -> Ledger {
        Ledger::new(Arc::new(RedbStore::open(&self.0).await.unwrap()))
    }

    fn tasks(&self) -> Result<Vec<Entry>, BoxError> {
        let database = Database::open(&self.0)?;
        let tasks = database.begin_read()?.open_table(TASKS)?;
        let entries = tasks.iter()?.map(|entry| {
            let (key, value) = entry?;
            Ok((key.value().to_vec(), value.value().to_vec()))
        });
        entries.collect()
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn worker() -> WorkerId {
    WorkerId::new("w", 1)
}

fn task(number: u8) -> NewTask {
    let body = Bytes::from(vec![number; 100]);
    let request = CapturedRequest::new(Method::POST, Uri::from_static("/work"), HeaderMap::new(), body);
    let id = RequestId::from_parts(Timestamp::from_millis(1), [number; 10]);
    let mut task = NewTask::new(id, Arc::new(request));
    task.subscriptions = Subscriptions::from([Subscription {
        destination: Destination::LOCAL,
        on: Conditions::ALL,
    }]);
    task
}

async fn waiting(ledger: &Ledger, number: u8) -> RequestId {
    let inserted = ledger.insert(Insert::new(task(number))).await.unwrap();
    assert!(matches!(inserted, Inserted::New(_, None)), "{inserted:?}");
    task(number).id
}

async fn running(ledger: &Ledger, number: u8) -> Held {
    let insert = Insert::new(task(number)).claimed_by(worker(), LONG);
    match ledger.insert(insert).await.unwrap() {
        Inserted::New(_, Some(held)) => held,
        other => panic!("it is new: {other:?}"),
    }
}

async fn claim(ledger: &Ledger) -> Vec<ClaimedTask> {
    let claim = Claim::new(worker(), 10, LONG);
    ledger.claim(claim).await.unwrap().tasks
}

async fn claim_deliveries(ledger: &Ledger) -> Vec<ClaimedDelivery> {
    let claim = DeliveryClaim::new(vec![(Destination::LOCAL, 10)], LONG);
    ledger.claim_deliveries(claim).await.unwrap()
}

fn success() -> Outcome {
    let response = CapturedResponse::new(StatusCode::OK, HeaderMap::new(), Bytes::from_static(b"done"));
    Outcome::Succeeded {
        response: Arc::new(response),
    }
}

async fn row(ledger: &Ledger, id: RequestId) -> Row {
    let rows = ledger.store().rows(&Scope::All, &Which::Id(id)).await.unwrap();
    rows.into_iter().next().unwrap()
}

async fn state(ledger: &Ledger, id: RequestId) -> TaskState {
    ledger.task(id).await.unwrap().state
}

async fn renew(ledger: &Ledger, lease: LeaseRef) -> Renewal {
    let renewed = ledger.store().renew(vec![lease], LONG).await.unwrap();
    renewed.into_iter().next().unwrap()
}

#[tokio::test]
async fn a_task_is_run_delivered_and_pruned_across_openings() {
    let file = File::new();
    let ledger = file.open().await;
    let id = waiting(&ledger, 1).await;
    drop(ledger);

    let ledger = file.open().await;
    let claimed = claim(&ledger).await;
    assert_eq!(claimed[0].request, task(1).request);
    let _ = ledger.settle(&claimed[0].held, &success()).await.unwrap();
    drop(ledger);

    let ledger = file.open().await;
    let response = ledger.response(&Scope::All, id).await.unwrap().unwrap();
    assert_eq!(response.body, "done");
    let at_once = Retention::new(Duration::ZERO, Duration::ZERO);
    assert_eq!(
        ledger.prune(at_once, 10).await.unwrap().tasks,
        0,
        "a completion is to be delivered"
    );
    let claimed = claim_deliveries(&ledger).await.remove(0);
    let settlement = DeliverySettlement::new(claimed, DeliveryOutcome::Delivered, DeliveryTry::new(Timestamp::ZERO));
    assert!(ledger.settle_delivery(settlement).await.unwrap());
    assert_eq!(ledger.prune(at_once, 10).await.unwrap().tasks, 1);
    drop(ledger);
    assert_eq!(file.tasks().unwrap(), []);
}

/// The rescue decides about the task, once; opening the file does not.
#[tokio::test]
async fn a_task_of_a_dead_process_is_an_orphan_until_it_is_rescued() {
    let file = File::new();
    let ledger = file.open().await;
    let lease = running(&ledger, 1).await.lease();
    drop(ledger);
    let left = file.tasks().unwrap();
    drop(file.open().await);
    assert_eq!(file.tasks().unwrap(), left, "opening it decides nothing");

    let ledger = file.open().await;
    assert_eq!(state(&ledger, lease.id).await, TaskState::Running);
    assert!(claim(&ledger).await.is_empty());
    assert_eq!(renew(&ledger, lease).await, Renewal::Lost);
    let held = Which::HeldBy(worker());
    let held = ledger.store().rows(&Scope::All, &held).await.unwrap();
    assert_eq!(held.iter().map(|row| row.id).collect::<Vec<_>>(), [lease.id]);
    for _ in 0..2 {
        let due = ledger
            .store()
            .due(Due::Rescue { spared: Vec::new() }, 10)
            .await
            .unwrap()
            .rows;
        assert_eq!(
            (due.len(), due[0].reason),
            (1, DueReason::Orphaned),
            "until something is done about it"
        );
    }

    let rescued = ledger.rescue(10).await.unwrap();
    assert_eq!(rescued.tasks, [(lease.id, Rescue::Requeued)]);
    assert!(ledger.rescue(10).await.unwrap().tasks.is_empty());
    let claimed = claim(&ledger).await;
    assert_eq!((claimed.len(), claimed[0].record.crashed_times()), (1, 1));
    assert_eq!(
        renew(&ledger, claimed[0].held.lease()).await,
        Renewal::Renewed { stop: false }
    );
}

#[tokio::test]
async fn an_orphan_that_is_to_be_stopped_is_stopped_by_the_next_rescue() {
    let file = File::new();
    let ledger = file.open().await;
    let id = running(&ledger, 1).await.lease().id;
    drop(ledger);
    let ledger = file.open().await;
    assert_eq!(ledger.stop(&Scope::All, id).await.unwrap(), Stop::Stopping);
    assert_eq!(ledger.rescue(10).await.unwrap().tasks, [(id, Rescue::Stopped)]);
}

/// An earlier process claimed the completion, and the task was run again since. If the task were claimed now, the
/// rescue of the completion would take it from its new holder.
#[tokio::test]
async fn a_task_whose_completion_is_an_orphan_is_not_handed_out_before_it_is_rescued() {
    let file = File::new();
    let ledger = file.open().await;
    let held = running(&ledger, 1).await;
    let id = held.lease().id;
    let _ = ledger.settle(&held, &success()).await.unwrap();
    assert_eq!(claim_deliveries(&ledger).await.len(), 1);
    let _ = ledger.rerun(&Scope::All, id, Edits::default()).await.unwrap();
    drop(ledger);

    let ledger = file.open().await;
    assert!(claim(&ledger).await.is_empty());
    assert!(claim_deliveries(&ledger).await.is_empty());
    assert!(
        ledger.rescue(10).await.unwrap().tasks.is_empty(),
        "nobody held the task"
    );
    assert_eq!(claim(&ledger).await.len(), 1);
    let again = claim_deliveries(&ledger).await;
    assert_eq!(again[0].delivery.tried, 1, "its lease had an hour to go");
    assert_eq!(state(&ledger, id).await, TaskState::Running);
}

#[tokio::test]
async fn a_claim_leaves_the_bytes_of_the_record_as_they_are() {
    let file = File::new();
    let ledger = file.open().await;
    let id = waiting(&ledger, 1).await;
    let held = running(&ledger, 2).await;
    let _ = ledger.settle(&held, &success()).await.unwrap();
    drop(ledger);
    let before = file.tasks().unwrap();
    let ledger = file.open().await;
    assert_eq!(
        (claim(&ledger).await.len(), claim_deliveries(&ledger).await.len()),
        (1, 1)
    );
    assert_eq!(state(&ledger, id).await, TaskState::Running);
    drop(ledger);
    let after = file.tasks().unwrap();
    assert_ne!(before, after);
    for ((key, before), (_, after)) in before.iter().zip(&after) {
        let (before, after) = (read_row(key, before).unwrap(), read_row(key, after).unwrap());
        assert_ne!(before.0, after.0);
        assert_eq!(before.1, after.1, "byte for byte");
    }
}

/// The answer to a stale change includes the lease and the progress, which only memory has.
#[tokio::test]
async fn a_stale_change_is_answered_with_what_only_memory_knows() {
    let file = File::new();
    let ledger = file.open().await;
    let lease = running(&ledger, 1).await.lease();
    let before = row(&ledger, lease.id).await;
    let _ = ledger.stop(&Scope::All, lease.id).await.unwrap();
    assert!(
        ledger
            .store()
            .set_progress(lease, Progress::new(0.5, "half"))
            .await
            .unwrap()
    );
    let renewed = ledger.store().renew(vec![lease], 2 * LONG).await.unwrap();
    assert_eq!(renewed, [Renewal::Renewed { stop: true }]);

    let change = Change::between(&before, before.record.clone(), ledger.store().now());
    let newer = match ledger.store().commit(change).await.unwrap() {
        Committed::Stale(Some(newer)) => *newer,
        other => panic!("it was stopped since: {other:?}"),
    };
    assert_eq!(
        (newer.version, newer.columns.state),
        (before.version + 1, TaskState::Stopping)
    );
    assert!(newer.columns.lease_until > before.columns.lease_until);
    assert_eq!(newer.columns.progress, Some(Progress::new(0.5, "half")));
}

/// Progress alone writes nothing.
#[tokio::test]
async fn progress_is_written_with_the_next_commit() {
    let file = File::new();
    let ledger = file.open().await;
    let held = running(&ledger, 1).await;
    let lease = held.lease();
    assert!(
        ledger
            .store()
            .set_progress(lease, Progress::new(0.5, "half"))
            .await
            .unwrap()
    );
    let _ = ledger.settle(&held, &success()).await.unwrap();
    drop(ledger);
    let ledger = file.open().await;
    let record = ledger.find(&Scope::All, &TaskRef::Id(lease.id)).await.unwrap().unwrap();
    assert_eq!(record.progress, Some(Progress::new(0.5, "half")));
}
