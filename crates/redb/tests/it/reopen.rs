//! Opening the file of a killed process, and the tool that inspects a file.

use std::{path::Path, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, Method, Uri};
use tempfile::tempdir;
use tower_respond_async::{
    RequestId, Scope, TaskState, TaskStore,
    store::{Delete, Insert, Inserted},
    task::{CapturedRequest, NewTask, lifecycle::Stop},
    time::Timestamp,
};
use tower_respond_async_redb::{QuickRepair, RedbStore};

use crate::harness::TaskFile;

#[path = "../../examples/task_file.rs"]
#[expect(dead_code, unreachable_pub, reason = "its main is for people")]
mod task_file;

#[tokio::test]
async fn a_file_that_is_killed_at_rest_opens_without_being_read_to_its_end() {
    let folder = tempdir().unwrap();
    let file = folder.path().join("tasks.redb");
    let store = TaskFile::at(&file).await;
    let ids = insert(&store, 100).await;
    let left = folder.path().join("left.redb");
    while !opens_at_once(&file, &left) {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }

    let opened = TaskFile::at(&left).await;

    for id in ids {
        assert_eq!(opened.task(id).await.unwrap().state, TaskState::Enqueued);
    }
    assert_eq!(opened.file.counts(&Scope::All).await.unwrap().queued(), 100);
}

#[tokio::test]
async fn a_file_opens_at_once_after_every_commit_or_after_none_if_that_is_asked_for() {
    let folder = tempdir().unwrap();
    for (when, at_once) in [(QuickRepair::Always, true), (QuickRepair::Never, false)] {
        let file = folder.path().join(format!("{when:?}.redb"));
        let store = RedbStore::builder()
            .quick_repair(when)
            .open(&file)
            .await
            .unwrap()
            .into();
        for _ in 0..3 {
            insert(&store, 1).await;
            assert_eq!(
                opens_at_once(&file, &folder.path().join("left.redb")),
                at_once,
                "{when:?}"
            );
        }
    }
}

#[tokio::test]
async fn a_closed_file_can_be_looked_into_and_compacted_and_is_the_same_afterwards() {
    let folder = tempdir().unwrap();
    let file = folder.path().join("tasks.redb");
    let store = TaskFile::at(&file).await;
    let ids = insert(&store, 40).await;
    assert!(task_file::look(&file).unwrap_err().to_string().contains("already open"));
    for id in &ids[1..] {
        assert_eq!(store.stop(&Scope::All, *id).await.unwrap(), Stop::Stopped);
        assert_eq!(store.delete(&Scope::All, *id).await.unwrap(), Delete::Deleted);
    }
    store.file.close().await;

    let seen = task_file::look(&file).unwrap();
    let before = std::fs::metadata(&file).unwrap().len();
    task_file::compact(&file).unwrap();

    let entries = |name: &str| {
        let line = seen.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace().nth(1).unwrap().to_owned()
    };
    assert_eq!(
        [entries("tasks"), entries("requests"), entries("responses")],
        ["1", "1", "0"],
        "{seen}"
    );
    let after = std::fs::metadata(&file).unwrap().len();
    assert!(after < before, "{before} bytes, and then {after}");
    let store = TaskFile::at(&file).await;
    assert_eq!(store.task(ids[0]).await.unwrap().state, TaskState::Enqueued);
}

/// Whether a copy of `file`, which is what a kill at this moment leaves, opens without a repair.
fn opens_at_once(file: &Path, copy: &Path) -> bool {
    std::fs::copy(file, copy).unwrap();
    let mut builder = redb::Builder::new();
    // Another copy, since opening changes it.
    let tried = copy.with_extension("tried");
    std::fs::copy(copy, &tried).unwrap();
    builder
        .set_repair_callback(redb::RepairSession::abort)
        .open(tried)
        .is_ok()
}

async fn insert(store: &TaskFile, count: usize) -> Vec<RequestId> {
    let mut ids = Vec::new();
    for _ in 0..count {
        let mut random = [0; 10];
        fastrand::fill(&mut random);
        let id = RequestId::from_parts(Timestamp::from_millis(1_700_000_000_000), random);
        let body = Bytes::from(vec![b'x'; 20_000]);
        let request = CapturedRequest::new(Method::POST, Uri::from_static("/"), HeaderMap::new(), body);
        let task = NewTask::new(id, Arc::new(request));
        let inserted = store.insert(Insert::new(task)).await.unwrap();
        assert!(matches!(inserted, Inserted::New(..)), "{inserted:?}");
        ids.push(id);
    }
    ids
}
