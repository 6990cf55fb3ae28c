//! Our contestants.

use std::{path::Path, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode, Uri};
use tokio::runtime::Runtime;
use tower_respond_async::{
    store::{Held, Insert, Inserted, Ledger},
    task::{CapturedRequest, CapturedResponse, NewTask, WorkerId, lifecycle::Outcome},
};
use tower_respond_async_redb::{QuickRepair, RedbStore};

use crate::{
    at_once::{Figures, Work, at_once},
    file::{Fresh, id},
};

pub(crate) const LEASE: Duration = Duration::from_secs(3600);

pub(crate) fn turn(runtime: &Runtime, when: QuickRepair, work: Work, submitters: usize, each: usize) -> Figures {
    let file = Fresh::new();
    let store = open(runtime, &file.0, when);
    let figures = work_on(runtime, &store, work, submitters, each);
    runtime.block_on(store.store().close());
    figures
}

pub(crate) fn open(runtime: &Runtime, path: &Path, when: QuickRepair) -> Ledger {
    let store = RedbStore::builder().quick_repair(when).open(path);
    Ledger::of(runtime.block_on(store).expect("the file can be opened"))
}

pub(crate) fn work_on(runtime: &Runtime, store: &Ledger, work: Work, submitters: usize, each: usize) -> Figures {
    let (request, response) = (request(1024), response(1024));
    let worker = WorkerId::new("bench", 1);
    let store = store.clone();
    at_once(runtime, submitters, each, move || {
        let (store, task) = (store.clone(), NewTask::new(id(), request.clone()));
        let (worker, response) = (worker.clone(), response.clone());
        async move {
            match work {
                Work::Accept => {
                    accept(&store, task).await;
                }
                Work::Life => {
                    let held = insert_held(&store, task, worker).await;
                    let _ = store.settle(&held, &success(response)).await.expect("settle");
                }
            }
        }
    })
}

/// Stores a task that waits.
pub(crate) async fn accept(store: &Ledger, task: NewTask) {
    let inserted = store.insert(Insert::new(task)).await.expect("insert");
    assert!(matches!(inserted, Inserted::New(..)), "{inserted:?}");
}

/// Stores a task that runs.
async fn insert_held(store: &Ledger, task: NewTask, worker: WorkerId) -> Held {
    let insert = Insert::new(task).claimed_by(worker, LEASE);
    match store.insert(insert).await.expect("insert") {
        Inserted::New(_, Some(held)) => held,
        other => panic!("it is new: {other:?}"),
    }
}

pub(crate) const fn success(response: Arc<CapturedResponse>) -> Outcome {
    Outcome::Succeeded { response }
}

pub(crate) fn request(body: usize) -> Arc<CapturedRequest> {
    let body = Bytes::from(vec![b'x'; body]);
    let uri = Uri::from_static("/work");
    Arc::new(CapturedRequest::new(Method::POST, uri, HeaderMap::new(), body))
}

pub(crate) fn response(body: usize) -> Arc<CapturedResponse> {
    let body = Bytes::from(vec![b'y'; body]);
    Arc::new(CapturedResponse::new(StatusCode::OK, HeaderMap::new(), body))
}
