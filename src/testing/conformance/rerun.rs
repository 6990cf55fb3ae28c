//! Running ended tasks again.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Uri};

use super::{
    Harness, Subject,
    subject::{LONG, a_task, a_task_called, at_once, failure, success, worker},
};
use crate::{
    store::{Delete, LogQuery, StoreErrorKind},
    task::{
        LogLine, NewTask, Scope, TaskState,
        lifecycle::{Edits, Rerun},
    },
    time::Timestamp,
};

/// Id and name stay, counters begin anew, history and log continue, and the response is removed.
pub async fn a_rerun_starts_a_new_generation(harness: &dyn Harness) {
    let store = Subject::open(harness).await;
    let task = a_task_called("job");
    let lease = store.insert_born(task.clone(), &worker("w"), LONG).await;
    let early = store
        .rerun(&Scope::All, task.id, Edits::default())
        .await
        .expect("rerun");
    assert_eq!(early, Rerun::NotEnded(TaskState::Running));
    let line = LogLine::new(Timestamp::ZERO, "INFO", "test", "first");
    assert!(store.append_log(lease, vec![line.clone()]).await.expect("log"));
    let _ = store.end(lease, success()).await;

    let rerun = store
        .rerun(&Scope::All, task.id, Edits::default())
        .await
        .expect("rerun");
    assert_eq!(rerun, Rerun::Enqueued { generation: 2 });
    let record = store.record(task.id).await;
    assert_eq!((record.state, record.generation), (TaskState::Enqueued, 2));
    assert_eq!((record.attempt, record.retries, record.crashes), (0, 0, 0));
    assert_eq!(
        (record.ended_at, record.status_code, &record.name),
        (None, None, &task.name)
    );
    assert_eq!(record.history.len(), 4);
    assert_eq!(store.response(&Scope::All, task.id).await.expect("output"), None);

    let claimed = store.claim_for(&worker("w"), 1, LONG).await.tasks;
    assert_eq!(claimed[0].request, task.request);
    let lease = claimed[0].record.lease();
    assert!(store.append_log(lease, vec![line]).await.expect("log"));
    let lines = store
        .logs(&Scope::All, task.id, LogQuery::default())
        .await
        .expect("logs");
    assert_eq!(lines.iter().map(|line| line.seq).collect::<Vec<_>>(), [1, 2]);
    let unknown = store.rerun(&Scope::All, a_task().id, Edits::default()).await;
    assert_eq!(
        unknown.expect_err("there is no such task").kind(),
        StoreErrorKind::NotFound
    );
}

/// The edited parts are what runs. The other parts are as the client sent them.
pub async fn edits_replace_what_they_name(harness: &dyn Harness) {
    let store = Subject::open(harness).await;
    let task = a_task();
    let lease = store.insert_born(task.clone(), &worker("w"), LONG).await;
    let _ = store.end(lease, failure()).await;
    let headers = HeaderMap::from_iter([(http::header::ACCEPT, HeaderValue::from_static("a/b"))]);
    let edits = Edits {
        uri: Some(Uri::from_static("/other")),
        headers: Some(headers),
        body: Some(Bytes::from_static(b"more work")),
    };
    let edited = Arc::new(edits.clone().apply(&task.request));
    let rerun = store.rerun(&Scope::All, task.id, edits).await.expect("rerun");
    assert_eq!(rerun, Rerun::Enqueued { generation: 2 });
    assert_eq!(
        store.request(&Scope::All, task.id).await.expect("input"),
        Some(edited.clone())
    );
    assert_eq!(store.record(task.id).await.target, edited.uri);
    let claimed = store.claim_for(&worker("w"), 1, LONG).await.tasks;
    assert_eq!(claimed[0].request, edited);
}

/// A new generation may wait as long as the first one.
pub async fn a_rerun_is_as_young_as_a_new_task(harness: &dyn Harness) {
    let store = Subject::open(harness).await;
    let task = NewTask {
        max_age: store.units(3),
        ..a_task()
    };
    let lease = store.insert_born(task.clone(), &worker("w"), LONG).await;
    let _ = store.end(lease, failure()).await;
    store.pass(4).await;
    let _ = store
        .rerun(&Scope::All, task.id, Edits::default())
        .await
        .expect("rerun");
    store.pass(2).await;
    assert_eq!(store.rescue_one(task.id).await, None);
    assert_eq!(store.claim_ids(&worker("w"), 10).await, [task.id]);
}

/// Either the task is removed or it waits again, never both.
pub async fn rerun_against_delete_has_one_winner(harness: &dyn Harness) {
    let store = Subject::open(harness).await;
    for _ in 0..harness.rounds() {
        let lease = store.insert_born(a_task(), &worker("w"), LONG).await;
        let _ = store.end(lease, success()).await;
        let (first, second) = (store.store.clone(), store.store.clone());
        let (rerun, deleted) = at_once(
            async move { first.rerun(&Scope::All, lease.id, Edits::default()).await },
            async move { second.delete(&Scope::All, lease.id).await },
        )
        .await;
        let claimed = store.claim_ids(&worker("w"), 10).await;
        match (rerun, deleted) {
            (Ok(Rerun::Enqueued { .. }), Ok(Delete::NotEnded(_))) => assert_eq!(claimed, [lease.id]),
            (Err(error), Ok(Delete::Deleted)) => {
                assert_eq!((error.kind(), claimed), (StoreErrorKind::NotFound, vec![]));
            }
            other => panic!("two winners or none: {other:?}"),
        }
    }
}
