//! The store's turn.

use std::{path::Path, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode, Uri};
use tokio::runtime::Runtime;
use tower_respond_async::{
    TaskStore,
    store::{Insert, Inserted, QuickRepair, RedbStore},
    task::{
        CapturedRequest, CapturedResponse, LeaseRef, NewTask, WorkerId,
        lifecycle::{Outcome, Settlement},
    },
};

use crate::{
    at_once::{Figures, Work, at_once},
    file::{Fresh, id},
};

pub(crate) const LEASE: Duration = Duration::from_secs(3600);

pub(crate) fn turn(runtime: &Runtime, when: QuickRepair, work: Work, submitters: usize, each: usize) -> Figures {
    let file = Fresh::new();
    let store = open(runtime, &file.0, when);
    let figures = work_on(runtime, &store, work, submitters, each);
    runtime.block_on(store.close());
    figures
}

pub(crate) fn open(runtime: &Runtime, path: &Path, when: QuickRepair) -> Arc<RedbStore> {
    let store = RedbStore::builder().quick_repair(when).open(path);
    Arc::new(runtime.block_on(store).expect("the file can be opened"))
}

pub(crate) fn work_on(
    runtime: &Runtime,
    store: &Arc<impl TaskStore>,
    work: Work,
    submitters: usize,
    each: usize,
) -> Figures {
    let (input, output) = (request(1024), response(1024));
    let worker = WorkerId::new("bench", 1);
    let store = store.clone();
    at_once(runtime, submitters, each, move || {
        let (store, task) = (store.clone(), NewTask::new(id(), input.clone()));
        let (worker, output) = (worker.clone(), output.clone());
        async move {
            match work {
                Work::Accept => {
                    accept(&*store, task).await;
                }
                Work::Life => {
                    let lease = born(&*store, task, worker).await;
                    let _ = store.settle(success(lease, output)).await.expect("settle");
                }
            }
        }
    })
}

/// Stores a task that waits.
pub(crate) async fn accept(store: &impl TaskStore, task: NewTask) {
    let inserted = store.insert(Insert::new(task)).await.expect("insert");
    assert!(matches!(inserted, Inserted::New(_)), "{inserted:?}");
}

/// Stores a task that runs.
async fn born(store: &impl TaskStore, task: NewTask, worker: WorkerId) -> LeaseRef {
    let insert = Insert::new(task).born(worker, LEASE);
    match store.insert(insert).await.expect("insert") {
        Inserted::New(record) => record.lease(),
        other => panic!("it is new: {other:?}"),
    }
}

pub(crate) fn success(lease: LeaseRef, output: Arc<CapturedResponse>) -> Settlement {
    Settlement::new(lease, Outcome::Succeeded { output })
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
