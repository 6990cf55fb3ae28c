//! The life of a file, from its creation to its end, step by step.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode, Uri};
use lab::disk::FaultDisk;
use tower_respond_async::{
    RequestId, Scope, TaskRecord, TaskStore,
    store::{
        Claim, ClaimedDelivery, Delete, DeliveryClaim, DeliverySettlement, Held, Insert, Inserted, LogQuery, Retention,
        StoreError, StoreResult,
    },
    task::{
        CapturedRequest, CapturedResponse, Conditions, DeliveryTry, Destination, IdempotencyKey, LogLine, NewTask,
        RequestDigest, Subscription, Subscriptions,
        delivery::DeliveryOutcome,
        lifecycle::{Edits, Outcome, Rerun},
    },
    time::Timestamp,
};
use tower_respond_async_redb::RedbStoreBuilder;

use super::census::{LONG, builder, listed, worker};
use crate::harness::TaskFile;

/// How many steps a life has.
pub(crate) const STEPS: usize = 17;

/// Everything that a store shows of its tasks.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct World {
    tasks: Vec<Shown>,
    /// The task that a repeated request under the key would get.
    key: Option<RequestId>,
}

type Shown = (
    Arc<TaskRecord>,
    Option<Arc<CapturedRequest>>,
    Option<Arc<CapturedResponse>>,
    Vec<LogLine>,
);

/// How far a life came.
#[derive(Debug)]
pub(crate) struct Lived {
    /// How many steps were acknowledged.
    pub(crate) acknowledged: usize,
    pub(crate) store: Option<TaskFile>,
}

pub(crate) fn settings() -> RedbStoreBuilder {
    // A small cache, so that pages are read again now and then.
    builder().cache_bytes(48 * 1024)
}

/// Runs a life on `disk`. After a failure it continues with the next steps, as other callers would.
pub(crate) async fn live(disk: &FaultDisk, steps: usize) -> Lived {
    let Ok(store) = disk.open(settings()) else {
        return Lived {
            acknowledged: 0,
            store: None,
        };
    };
    let store = TaskFile::from(store);
    let (mut acknowledged, mut deliveries) = (0, Vec::new());
    for number in 0..steps {
        match step(&store, number, &mut deliveries).await {
            Ok(()) if acknowledged == number => acknowledged += 1,
            // An acknowledgement can be relied on, so no step may be acknowledged after the first that was not.
            Ok(()) => panic!("step {number} is acknowledged, and one before it was not"),
            Err(_) => {}
        }
    }
    Lived {
        acknowledged,
        store: Some(store),
    }
}

async fn step(store: &TaskFile, number: usize, deliveries: &mut Vec<ClaimedDelivery>) -> StoreResult<()> {
    let (all, id) = (Scope::All, |number| task(number).id);
    match number {
        0 => insert(store, Insert::new(task(1))).await,
        1 => insert(store, insert_held(2)).await,
        2 => {
            let line = LogLine::new(Timestamp::ZERO, "INFO", "life", "a line");
            let lease = held(store, id(2)).await?.lease();
            store.file.append_log(lease, vec![line]).await.map(drop)
        }
        3 => succeed(store, id(2)).await,
        4 => insert(store, Insert::new(task(3))).await,
        5 => store.stop(&all, id(3)).await.map(drop),
        6 => insert(store, insert_held(4)).await,
        7 => fail(store, id(4)).await,
        // A store that has failed may still answer that the task has not ended.
        8 => match store.rerun(&all, id(4), Edits::default()).await? {
            Rerun::Enqueued { .. } => Ok(()),
            _ => Err(StoreError::not_found()),
        },
        9 => match store.delete(&all, id(3)).await? {
            Delete::Deleted => Ok(()),
            _ => Err(StoreError::not_found()),
        },
        10 => insert(store, Insert::new(task(5))).await,
        11 => {
            let claim = Claim::new(worker(1), 2, LONG);
            store.claim(claim).await.map(drop)
        }
        12 => succeed(store, id(1)).await,
        13 => {
            let claim = DeliveryClaim::new(vec![(Destination::LOCAL, 10)], LONG);
            *deliveries = store.claim_deliveries(claim).await?;
            Ok(())
        }
        14 => {
            let settlement = DeliverySettlement::new(
                deliveries.pop().ok_or(StoreError::not_found())?,
                DeliveryOutcome::Delivered,
                DeliveryTry::new(Timestamp::ZERO),
            );
            store.settle_delivery(settlement).await.map(drop)
        }
        15 => {
            let retention = Retention::new(Duration::ZERO, LONG);
            store.prune(retention, 100).await.map(drop)
        }
        16 => insert(store, Insert::new(task(6))).await,
        other => panic!("there is no step {other}"),
    }
}

fn task(number: u8) -> NewTask {
    // The fifth request does not fit into the space of a new file.
    let length = if number == 5 { 150_000 } else { 300 };
    let body = Bytes::from(vec![number; length]);
    let request = CapturedRequest::new(Method::POST, Uri::from_static("/life"), HeaderMap::new(), body);
    let id = RequestId::from_parts(Timestamp::from_millis(1_150_000_000_000), [number; 10]);
    let mut task = NewTask::new(id, Arc::new(request));
    task.key = (number == 3).then(|| IdempotencyKey::new("key").unwrap());
    task.digest = Some(RequestDigest::from_bytes([number; 32]));
    if number == 2 {
        task.subscriptions = Subscriptions::from([Subscription {
            destination: Destination::LOCAL,
            on: Conditions::ALL,
        }]);
    }
    task
}

fn insert_held(number: u8) -> Insert {
    Insert::new(task(number)).claimed_by(worker(1), LONG)
}

async fn insert(store: &TaskFile, insert: Insert) -> StoreResult<()> {
    store.insert(insert).await.map(drop)
}

/// The claim under which a task runs.
async fn held(store: &TaskFile, id: RequestId) -> StoreResult<Held> {
    let found = store.look_for(&worker(1), id).await?.flatten();
    found.map(|(_, held)| held).ok_or(StoreError::not_found())
}

async fn succeed(store: &TaskFile, id: RequestId) -> StoreResult<()> {
    let body = Bytes::from_static(b"done");
    let response = Arc::new(CapturedResponse::new(StatusCode::OK, HeaderMap::new(), body));
    let outcome = Outcome::Succeeded { response };
    store.settle(&held(store, id).await?, &outcome).await.map(drop)
}

async fn fail(store: &TaskFile, id: RequestId) -> StoreResult<()> {
    let outcome = Outcome::Failed {
        error: "it failed".into(),
        response: None,
    };
    store.settle(&held(store, id).await?, &outcome).await.map(drop)
}

impl World {
    /// Opens a file and reads everything.
    pub(crate) async fn of(file: Vec<u8>) -> StoreResult<Self> {
        let store = TaskFile::from(FaultDisk::holding(file).open(settings())?);
        let mut world = Self::default();
        for record in listed(&store).await? {
            let id = record.id;
            let request = store.request(&Scope::All, id).await?;
            let response = store.response(&Scope::All, id).await?;
            let logs = store.file.logs(&Scope::All, id, LogQuery::default()).await?;
            world.tasks.push((record, request, response, logs));
        }
        let mut again = task(3);
        again.id = task(8).id;
        if let Inserted::Known { id, .. } = store.insert(Insert::new(again)).await? {
            world.key = Some(id);
        }
        Ok(world)
    }
}
