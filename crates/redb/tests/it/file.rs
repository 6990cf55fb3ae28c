//! The parts that only the embedded store has: the file, its lock, and damage of the file.

use std::{
    convert::Infallible,
    fs,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode, Uri};
use redb::Database;
use tempfile::tempdir;
use tower::{Layer, service_fn};
use tower_respond_async::{
    RequestBody, RequestId, RespondAsyncLayer, Scope, TaskName, TaskState, TaskStore,
    probe::{Event, Probe},
    store::{Claim, DeliveryClaim, Held, Insert, Inserted, KnownBy, LogQuery, Retention, Row, StoreErrorKind},
    task::{
        CapturedRequest, CapturedResponse, Conditions, Destination, Filter, IdempotencyKey, LogLine, NewTask,
        RequestDigest, Subscription, Subscriptions, TaskRef, WorkerId, lifecycle::Outcome,
    },
    testing::ManualClock,
    time::Timestamp,
};
use tower_respond_async_redb::{QuickRepair, RedbStore};

use crate::harness::{TaskFile, change, entries, remove, resum, spoil, table};

const LONG: Duration = Duration::from_secs(3600);

fn worker() -> WorkerId {
    WorkerId::new("w", 1)
}

fn a_task(number: u8) -> NewTask {
    let request = CapturedRequest::new(
        Method::POST,
        Uri::from_static("/work"),
        HeaderMap::new(),
        Bytes::from(vec![number; 100]),
    );
    NewTask::new(
        RequestId::from_parts(Timestamp::from_millis(1), [number; 10]),
        Arc::new(request),
    )
}

async fn open(path: &Path) -> TaskFile {
    TaskFile::at(path).await
}

async fn insert(store: &TaskFile, task: NewTask) -> RequestId {
    match store.insert(Insert::new(task)).await.unwrap() {
        Inserted::New(record, None) => record.id,
        other => panic!("it is new: {other:?}"),
    }
}

async fn insert_born(store: &TaskFile, task: NewTask) -> Held {
    let insert = Insert::new(task).claimed_by(worker(), LONG);
    match store.insert(insert).await.unwrap() {
        Inserted::New(_, Some(held)) => held,
        other => panic!("it is new: {other:?}"),
    }
}

async fn claim(store: &TaskFile) -> Vec<RequestId> {
    let claim = Claim::new(worker(), 100, LONG);
    let claimed = store.claim(claim).await.unwrap();
    claimed.tasks.iter().map(|task| task.record.id).collect()
}

async fn succeed(store: &TaskFile, held: &Held) {
    let response = CapturedResponse::new(StatusCode::OK, HeaderMap::new(), Bytes::from_static(b"done"));
    let outcome = Outcome::Succeeded {
        response: Arc::new(response),
    };
    let _ = store.settle(held, &outcome).await.unwrap();
}

/// The message tells an operator who started the program twice what is wrong.
#[tokio::test]
async fn a_file_in_use_is_refused_with_its_name_and_the_reason() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("tasks.redb");
    let first = open(&path).await;
    let refused = RedbStore::open(&path).await.unwrap_err();
    assert_eq!(refused.kind(), StoreErrorKind::Unavailable);
    let text = refused.to_string();
    assert!(text.contains("tasks.redb") && text.contains("in use"), "{text}");
    insert(&first, a_task(1)).await;
}

#[tokio::test]
async fn a_directory_that_is_not_there_is_named() {
    let folder = tempdir().unwrap();
    let refused = RedbStore::open(folder.path().join("no/such/tasks.redb"))
        .await
        .unwrap_err();
    assert_eq!(refused.kind(), StoreErrorKind::Unavailable);
    assert!(refused.to_string().contains("no/such/tasks.redb"), "{refused}");
}

/// Of many concurrent openings one creates the file. No opening gets a file that is no longer in the directory.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_many_that_create_a_file_at_once_one_has_it() {
    for _ in 0..20 {
        let folder = tempdir().unwrap();
        let path = folder.path().join("tasks.redb");
        let opening: Vec<_> = (0..8).map(|_| tokio::spawn(RedbStore::open(path.clone()))).collect();
        let mut opened = Vec::new();
        for opening in opening {
            match opening.await.unwrap() {
                Ok(store) => opened.push(TaskFile::from(store)),
                Err(refused) => assert!(refused.to_string().contains("in use"), "{refused:?}"),
            }
        }
        assert_eq!(opened.len(), 1);
        let id = insert(&opened[0], a_task(1)).await;
        opened.remove(0).file.close().await;
        assert_eq!(claim(&open(&path).await).await, [id]);
        assert_eq!(
            fs::read_dir(path.parent().unwrap()).unwrap().count(),
            1,
            "nothing else is left"
        );
    }
}

#[cfg(unix)]
#[tokio::test]
async fn a_link_to_a_file_that_is_not_there_yet_stays_a_link() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("link.redb");
    std::os::unix::fs::symlink("tasks.redb", &path).unwrap();
    let _store = open(&path).await;
    assert!(path.is_symlink() && folder.path().join("tasks.redb").is_file());
}

/// Requests contain credentials.
#[cfg(unix)]
#[tokio::test]
async fn a_new_file_is_its_owners_alone() {
    use std::os::unix::fs::PermissionsExt;

    let folder = tempdir().unwrap();
    let path = folder.path().join("tasks.redb");
    let _store = open(&path).await;
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
}

#[tokio::test]
async fn a_closed_file_and_a_dropped_one_can_be_opened_again_at_once() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("tasks.redb");
    let store = open(&path).await;
    let first = insert(&store, a_task(1)).await;
    store.file.close().await;
    let again = open(&path).await;
    let second = insert(&again, a_task(2)).await;
    assert_eq!(
        store.task(first).await.unwrap_err().kind(),
        StoreErrorKind::Unavailable,
        "the old handle stays closed"
    );
    drop(again);
    let third = open(&path).await;
    assert_eq!(claim(&third).await, [first, second]);
}

/// The holder is gone, although its lease has not run out.
#[tokio::test]
async fn what_was_running_waits_again_as_soon_as_it_is_rescued() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("tasks.redb");
    let mut id = None;
    for crashes in 0..3 {
        let store = open(&path).await;
        match id {
            None => id = Some(insert_born(&store, a_task(1)).await.lease().id),
            Some(id) => {
                let _ = store.rescue(10).await.unwrap();
                let record = store.task(id).await.unwrap();
                assert_eq!((record.state, record.crashes), (TaskState::Enqueued, crashes));
                assert!(record.is_suspect());
                assert_eq!(claim(&store).await, [id]);
            }
        }
    }
    let store = open(&path).await;
    let _ = store.rescue(10).await.unwrap();
    let record = store.task(id.unwrap()).await.unwrap();
    assert_eq!((record.state, record.crashes), (TaskState::Failed, 3), "poison");

    let stopping = insert_born(&store, a_task(2)).await.lease();
    let _ = store.stop(&Scope::All, stopping.id).await.unwrap();
    drop(store);
    let store = open(&path).await;
    let _ = store.rescue(10).await.unwrap();
    assert_eq!(store.task(stopping.id).await.unwrap().state, TaskState::Stopped);
}

#[tokio::test]
async fn a_delivery_under_way_is_repeated_as_soon_as_it_is_rescued() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("tasks.redb");
    let asking = || DeliveryClaim::new(vec![(Destination::LOCAL, 10)], LONG);
    let store = open(&path).await;
    let mut task = a_task(1);
    task.subscriptions = Subscriptions::from([Subscription {
        destination: Destination::LOCAL,
        on: Conditions::ALL,
    }]);
    succeed(&store, &insert_born(&store, task).await).await;
    let first = store.claim_deliveries(asking()).await.unwrap();
    drop(store);

    let store = open(&path).await;
    assert_eq!(store.claim_deliveries(asking()).await.unwrap().len(), 0);
    let _ = store.rescue(10).await.unwrap();
    let second = store.claim_deliveries(asking()).await.unwrap();
    assert_eq!((first.len(), second.len()), (1, 1), "its lease has an hour to go");
    assert_eq!(second[0].delivery.webhook_id(), first[0].delivery.webhook_id());
    let tries = &second[0].delivery.tries;
    assert_eq!((second[0].delivery.tried, tries.len()), (1, 1));
    assert!(tries[0].text.as_ref().unwrap().contains("process ended"), "{tries:?}");
}

/// Format 4 is of a newer build, format 2 of a build before the first release.
#[tokio::test]
async fn a_file_of_another_format_is_refused_and_left_as_it_is() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("tasks.redb");
    let store = open(&path).await;
    insert(&store, a_task(1)).await;
    store.file.close().await;
    for format in [2_u32, 4] {
        change(&path, "meta", b"format", |value| {
            value[4..].copy_from_slice(&format.to_be_bytes());
            resum(b"format", value);
        })
        .unwrap();
        let before = fs::read(&path).unwrap();

        let refused = RedbStore::open(&path).await.unwrap_err();
        assert_eq!(refused.kind(), StoreErrorKind::Incompatible);
        let text = refused.to_string();
        assert!(
            text.contains(&format!("has format {format}, and this build reads format 3 only")),
            "{text}"
        );
        assert!(fs::read(&path).unwrap() == before, "not a byte was changed");
    }
}

/// Found by changing every byte of a small file. One bit in redb's root page says whether a table has a root. Without
/// it the table of tasks was empty: the file was opened without an error, and all its tasks were gone.
#[tokio::test]
async fn a_file_that_lost_all_its_tasks_is_refused_and_left_as_it_is() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("tasks.redb");
    let store = open(&path).await;
    insert(&store, a_task(1)).await;
    store.file.close().await;
    let (id, _) = entries(&path, "tasks").unwrap().remove(0);
    remove(&path, "tasks", &id).unwrap();
    let before = fs::read(&path).unwrap();

    let refused = RedbStore::open(&path).await.unwrap_err();
    assert_eq!(refused.kind(), StoreErrorKind::Corrupt);
    assert!(refused.to_string().contains("no task that they belong to"), "{refused}");
    assert!(fs::read(&path).unwrap() == before, "not a byte was changed");
}

#[tokio::test]
async fn a_file_of_another_program_is_refused_and_left_as_it_is() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("other.redb");
    let database = Database::create(&path).unwrap();
    let transaction = database.begin_write().unwrap();
    transaction.open_table(table("theirs")).unwrap();
    transaction.commit().unwrap();
    drop(database);
    let before = fs::read(&path).unwrap();
    let refused = RedbStore::open(&path).await.unwrap_err();
    assert_eq!(refused.kind(), StoreErrorKind::Incompatible);
    assert!(fs::read(&path).unwrap() == before, "not a byte was changed");

    let path = folder.path().join("notes.txt");
    fs::write(&path, "not a database".repeat(1000)).unwrap();
    let refused = RedbStore::open(&path).await.unwrap_err();
    assert_eq!(refused.kind(), StoreErrorKind::Corrupt, "{refused}");
    assert_eq!(fs::read(&path).unwrap(), "not a database".repeat(1000).as_bytes());
}

/// The record of one task and the request of another are damaged. Only these two tasks are lost.
#[tokio::test]
async fn damaged_values_are_set_aside_and_the_queue_goes_on() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("tasks.redb");
    let store = open(&path).await;
    let mut ids = Vec::new();
    for number in 1..=4 {
        ids.push(insert(&store, a_task(number)).await);
    }
    store.file.close().await;
    spoil(&path, "tasks", ids[0].as_bytes()).unwrap();
    spoil(&path, "requests", ids[1].as_bytes()).unwrap();

    for _ in 0..2 {
        let store = open(&path).await;
        let lost = store.find(&Scope::All, &ids[0].into()).await.unwrap_err();
        assert_eq!(lost.kind(), StoreErrorKind::Corrupt);
        let listed = store.list_all(&Scope::All, &Filter::default()).await.unwrap();
        assert_eq!(listed.len(), 3);
        if listed[0].state == TaskState::Enqueued {
            assert_eq!(claim(&store).await, ids[2..]);
        }
        let invalid = store.task(ids[1]).await.unwrap();
        assert_eq!(invalid.state, TaskState::Invalid);
        assert!(invalid.error.as_ref().unwrap().contains("checksum"), "{invalid:?}");
        let unreadable = store.request(&Scope::All, ids[1]).await.unwrap_err();
        assert_eq!(unreadable.kind(), StoreErrorKind::Corrupt);
        assert_eq!(store.file.set_aside().await.unwrap(), 2);
    }
    let kept = entries(&path, "set_aside").unwrap();
    let origins: Vec<_> = kept.iter().map(|(key, _)| (key[0], &key[1..])).collect();
    assert_eq!(origins, [(b'r', &ids[1].as_bytes()[..]), (b't', ids[0].as_bytes())]);
    assert!(kept.iter().all(|(_, value)| value.len() > 50), "the bytes are kept");
}

/// Each damaged value is found when it is read.
#[tokio::test]
async fn a_damaged_response_log_name_or_key_costs_nothing_else() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("tasks.redb");
    let store = open(&path).await;
    let named = |number| {
        let mut task = a_task(number);
        task.name = Some(TaskName::new("job").unwrap());
        task.key = Some(IdempotencyKey::new("k").unwrap());
        task.digest = Some(RequestDigest::from_bytes([1; 32]));
        task
    };
    let held = insert_born(&store, named(1)).await;
    let lease = held.lease();
    let line = LogLine::new(Timestamp::ZERO, "INFO", "test", "a line");
    assert!(store.file.append_log(lease, vec![line]).await.unwrap());
    succeed(&store, &held).await;
    store.file.close().await;
    for name in ["responses", "logs", "names", "keys"] {
        let key = entries(&path, name).unwrap().remove(0).0;
        spoil(&path, name, &key).unwrap();
    }

    let store = open(&path).await;
    assert_eq!(store.task(lease.id).await.unwrap().state, TaskState::Succeeded);
    let response = store.response(&Scope::All, lease.id).await.unwrap_err();
    assert_eq!(response.kind(), StoreErrorKind::Corrupt);
    let logs = store
        .file
        .logs(&Scope::All, lease.id, LogQuery::default())
        .await
        .unwrap_err();
    assert_eq!(logs.kind(), StoreErrorKind::Corrupt);
    let by_name = TaskRef::from(TaskName::new("job").unwrap());
    assert_eq!(store.find(&Scope::All, &by_name).await.unwrap(), None);
    insert(&store, named(2)).await;
    let known = store.insert(Insert::new(named(3))).await.unwrap();
    assert!(matches!(known, Inserted::Known { by: KnownBy::Name, .. }), "{known:?}");
    assert_eq!(store.file.set_aside().await.unwrap(), 2);
}

/// A probe gets an event for each damaged value once: for values found at opening, and for values found by a claim.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn probes_get_values_that_are_set_aside() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("tasks.redb");
    let store = open(&path).await;
    let (record, request) = (insert(&store, a_task(1)).await, insert(&store, a_task(2)).await);
    let well = insert(&store, a_task(3)).await;
    store.file.close().await;
    spoil(&path, "tasks", record.as_bytes()).unwrap();
    spoil(&path, "requests", request.as_bytes()).unwrap();

    let told = Told::default();
    let layer = RespondAsyncLayer::builder(RedbStore::open(&path).await.unwrap()).probe(told.clone());
    let layer = layer.build().unwrap();
    let tasks = layer.tasks();
    drop(layer.layer(service_fn(async |_: Request<RequestBody>| {
        Ok::<_, Infallible>(Response::new(String::new()))
    })));
    for id in [request, well] {
        let ended = tasks.wait(id, LONG).await.unwrap();
        assert!(ended.unwrap().state.is_terminal());
    }
    while told.0.load(Ordering::Relaxed) < 2 {
        tokio::task::yield_now().await;
    }
    tasks.shutdown(Duration::ZERO).await;
    assert_eq!(told.0.load(Ordering::Relaxed), 2);

    let later = open(&path).await;
    assert_eq!(
        later.file.counts(&Scope::All).await.unwrap().set_aside,
        0,
        "they were told of before"
    );
    assert_eq!(later.file.set_aside().await.unwrap(), 2);
}

/// Counts the values that the events report.
#[derive(Clone, Debug, Default)]
struct Told(Arc<AtomicU64>);

impl Probe for Told {
    fn on_event(&self, event: &Event<'_>) {
        if let Event::SetAside { values } = event {
            self.0.fetch_add(*values, Ordering::Relaxed);
        }
    }
}

/// With a damaged name, the table would be created again, empty, and its contents lost without an error.
#[tokio::test]
async fn a_file_without_one_of_its_tables_is_refused_and_left_as_it_is() {
    let folder = tempdir().unwrap();
    for missing in ["tasks", "requests", "keys", "set_aside"] {
        let path = folder.path().join(missing);
        let store = open(&path).await;
        insert(&store, a_task(1)).await;
        store.file.close().await;
        let database = Database::open(&path).unwrap();
        let transaction = database.begin_write().unwrap();
        transaction.rename_table(table(missing), table("other")).unwrap();
        transaction.commit().unwrap();
        drop(database);
        let before = fs::read(&path).unwrap();
        let refused = RedbStore::open(&path).await.unwrap_err();
        assert_eq!(refused.kind(), StoreErrorKind::Corrupt);
        assert!(
            refused.to_string().contains(&format!("its table {missing} is missing")),
            "{refused}"
        );
        assert!(fs::read(&path).unwrap() == before, "not a byte was changed");
    }
}

/// The record says that there is a response. A missing one is an error, not `None`.
#[tokio::test]
async fn a_response_that_is_gone_is_said_to_be_damaged() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("tasks.redb");
    let store = open(&path).await;
    let held = insert_born(&store, a_task(1)).await;
    let lease = held.lease();
    succeed(&store, &held).await;
    let waits = insert(&store, a_task(2)).await;
    store.file.close().await;
    remove(&path, "responses", lease.id.as_bytes()).unwrap();
    let store = open(&path).await;
    let gone = store.response(&Scope::All, lease.id).await.unwrap_err();
    assert_eq!(gone.kind(), StoreErrorKind::Corrupt);
    assert_eq!(store.response(&Scope::All, waits).await.unwrap(), None);
}

/// An older build neither runs nor loses a newer build's task.
#[tokio::test]
async fn a_record_of_a_newer_build_is_left_in_the_queue() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("tasks.redb");
    let store = open(&path).await;
    let (newer, other) = (insert(&store, a_task(1)).await, insert(&store, a_task(2)).await);
    store.file.close().await;
    // The version of the request follows the checksum and the length of the head.
    change(&path, "requests", newer.as_bytes(), |value| {
        value[8] = 99;
        resum(newer.as_bytes(), value);
    })
    .unwrap();
    let store = open(&path).await;
    assert_eq!(claim(&store).await, [other]);
    assert_eq!(claim(&store).await, []);
    let record = store.task(newer).await.unwrap();
    assert_eq!(
        (record.state, record.attempt, record.crashes),
        (TaskState::Enqueued, 0, 0)
    );
    store.file.close().await;

    // The versions of the row's head and of its record.
    let (_, row) = entries(&path, "tasks").unwrap().remove(0);
    let (_, record) = Row::decode(newer, &row[4..]).unwrap();
    for at in [row.len() - record.len(), 4] {
        change(&path, "tasks", newer.as_bytes(), |value| {
            value[at] = 99;
            resum(newer.as_bytes(), value);
        })
        .unwrap();
        let store = open(&path).await;
        let refused = store.find(&Scope::All, &newer.into()).await.unwrap_err();
        assert_eq!(refused.kind(), StoreErrorKind::Incompatible);
        assert_eq!(store.list_all(&Scope::All, &Filter::default()).await.unwrap().len(), 1);
        let _ = store.rescue(10).await.unwrap();
        assert_eq!(claim(&store).await.iter().find(|id| **id == newer), None);
        assert_eq!(store.file.set_aside().await.unwrap(), 0);
    }
    assert_eq!(entries(&path, "tasks").unwrap().len(), 2);
}

/// The indexes are rebuilt from a file with many tasks whose ids do not follow the order of creation.
#[tokio::test]
async fn a_reopened_file_lists_and_prunes_in_the_old_order() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("tasks.redb");
    let clock = ManualClock::new(Timestamp::from_millis(1_000));
    let settings = || {
        RedbStore::builder()
            .clock(clock.clone())
            .cache_bytes(1024 * 1024)
            .quick_repair(QuickRepair::Always)
    };
    let store = TaskFile::from(settings().open(&path).await.unwrap());
    let mut ids = Vec::new();
    for number in (0..200).rev() {
        clock.advance(Duration::from_millis(1));
        let held = insert_born(&store, a_task(number)).await;
        succeed(&store, &held).await;
        ids.push(held.lease().id);
    }
    drop(store);
    let store = TaskFile::from(settings().open(&path).await.unwrap());
    let listed = store.list_all(&Scope::All, &Filter::default()).await.unwrap();
    assert_eq!(listed.iter().map(|record| record.id).collect::<Vec<_>>(), ids);
    clock.advance(LONG - Duration::from_millis(100));
    let retention = Retention::new(LONG, LONG);
    assert_eq!(store.prune(retention, 30).await.unwrap().tasks, 30);
    assert_eq!(store.prune(retention, 1000).await.unwrap().tasks, 70);
    let listed = store.list_all(&Scope::All, &Filter::default()).await.unwrap();
    assert_eq!(listed.iter().map(|record| record.id).collect::<Vec<_>>(), ids[100..]);
}
