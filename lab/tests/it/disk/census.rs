//! A few tasks, one in each state, and everything stored about them.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri};
use lab::disk::FaultDisk;
use tower_respond_async::{
    RequestId, Scope, TaskName, TaskRecord, TaskState, TaskStore,
    store::{Claim, Held, Insert, Inserted, LogQuery, StoreError, StoreErrorKind, StoreResult},
    task::{
        CapturedRequest, CapturedResponse, Conditions, Destination, Filter, IdempotencyKey, LogLine, NewTask,
        RequestDigest, Subscription, Subscriptions, WorkerId, lifecycle::Outcome,
    },
    testing::ManualClock,
    time::Timestamp,
};
use tower_respond_async_redb::{QuickRepair, RedbStore, RedbStoreBuilder};

use crate::harness::TaskFile;

pub(crate) const LONG: Duration = Duration::from_secs(3600);

/// A store with a task in each state, and everything stored about them.
#[derive(Debug)]
pub(crate) struct Census {
    pub(crate) store: TaskFile,
    pub(crate) tasks: Vec<Known>,
}

/// Everything stored about a task.
#[derive(Clone, Debug)]
pub(crate) struct Known {
    pub(crate) record: Arc<TaskRecord>,
    pub(crate) request: Option<Arc<CapturedRequest>>,
    pub(crate) response: Option<Arc<CapturedResponse>>,
    pub(crate) logs: Vec<LogLine>,
}

/// How a store compares with what was stored.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Compared {
    /// Tasks that are unchanged, with all their data.
    pub(crate) whole: usize,
    /// Tasks with data that is reported as unreadable.
    pub(crate) damaged: usize,
    /// Tasks that are missing without any report.
    pub(crate) missing: usize,
    /// Tasks with data that is missing without any report.
    pub(crate) partly: usize,
    /// Values that are not what was stored.
    pub(crate) wrong: Vec<String>,
    /// Whether the store stopped.
    pub(crate) stopped: bool,
}

pub(crate) fn worker(number: u64) -> WorkerId {
    WorkerId::new("w", number)
}

pub(crate) fn a_task(number: u8) -> NewTask {
    let mut headers = HeaderMap::new();
    headers.insert("x-number", HeaderValue::from_bytes(&[0xff, number | 0x80]).unwrap());
    let uri = Uri::from_static("/census/of?tasks=all");
    let body = Bytes::from(vec![number; 150 + usize::from(number)]);
    let request = CapturedRequest::new(Method::POST, uri, headers, body);
    let mut task = NewTask::new(
        RequestId::from_parts(Timestamp::from_millis(1_700_000_000_000), [number.wrapping_mul(37); 10]),
        Arc::new(request),
    );
    task.max_attempts = 3;
    task
}

impl Census {
    /// Stores a task in each state on a disk.
    pub(crate) async fn take(disk: &FaultDisk, settings: impl FnOnce(RedbStoreBuilder) -> RedbStoreBuilder) -> Self {
        Self::of(&[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13], disk, settings).await
    }

    /// Stores these tasks only. The number of a task decides its state.
    pub(crate) async fn of(
        numbers: &[u8],
        disk: &FaultDisk,
        settings: impl FnOnce(RedbStoreBuilder) -> RedbStoreBuilder,
    ) -> Self {
        let store = TaskFile::from(disk.open(settings(builder())).unwrap());
        let mut ids = Vec::new();
        for number in numbers.iter().copied() {
            let mut task = a_task(number);
            if number % 2 == 0 {
                task.name = Some(TaskName::new(&format!("name-{number}")).unwrap());
                task.key = Some(IdempotencyKey::new(&format!("key-{number}")).unwrap());
                task.digest = Some(RequestDigest::from_bytes([number; 32]));
            }
            task.subscriptions = Subscriptions::from([Subscription {
                destination: Destination::LOCAL,
                on: Conditions::ALL,
            }]);
            task.delay = if number == 13 { LONG } else { Duration::ZERO };
            ids.push(task.id);
            // The first three and the last one wait, the last one for an hour.
            if number < 3 || number == 13 {
                new(store.insert(Insert::new(task)).await);
                continue;
            }
            let held = insert_held(&store, task).await;
            let lease = held.lease();
            let line = LogLine::new(Timestamp::ZERO, "INFO", "census", &format!("task {number}"));
            assert!(store.file.append_log(lease, vec![line]).await.unwrap());
            let error: Arc<str> = "it went wrong".into();
            let response = Arc::new(response(number));
            let outcome = match number {
                // These run; the next one is asked to stop.
                3 | 4 => continue,
                5 => {
                    let _ = store.stop(&Scope::All, lease.id).await.unwrap();
                    continue;
                }
                6 => Outcome::Failed { error, response: None },
                7 => Outcome::Failed {
                    error,
                    response: Some(response),
                },
                8 | 9 => Outcome::Retry { after: LONG, error },
                10 => Outcome::Stopped,
                _ => Outcome::Succeeded { response },
            };
            let _ = store.settle(&held, &outcome).await.unwrap();
        }
        if numbers.contains(&2) {
            let _ = store.stop(&Scope::All, a_task(2).id).await.unwrap();
        }
        let mut tasks = Vec::new();
        for id in ids {
            tasks.push(Known::of(&store, id).await.unwrap().expect("it was stored"));
        }
        Self { store, tasks }
    }
}

impl Known {
    async fn of(store: &TaskFile, id: RequestId) -> StoreResult<Option<Self>> {
        let Some(record) = store.find(&Scope::All, &id.into()).await? else {
            return Ok(None);
        };
        Ok(Some(Self {
            record,
            request: store.request(&Scope::All, id).await?,
            response: store.response(&Scope::All, id).await?,
            logs: store.file.logs(&Scope::All, id, LogQuery::default()).await?,
        }))
    }

    pub(crate) async fn compare(&self, store: &TaskFile, compared: &mut Compared) {
        let id = self.record.id;
        let (mut damaged, mut partly) = (false, false);
        let mut judge = |what: &str, answer: Result<Option<bool>, StoreError>| match answer {
            Ok(Some(true)) => {}
            Ok(Some(false)) => compared.wrong.push(format!("{what} of {id}")),
            Ok(None) => partly = true,
            Err(error) => match error.kind() {
                StoreErrorKind::Corrupt | StoreErrorKind::Incompatible => damaged = true,
                StoreErrorKind::Unavailable => compared.stopped = true,
                other => panic!("{what} of {id}: {other:?}"),
            },
        };
        let found = store.find(&Scope::All, &id.into()).await;
        let there = found.as_ref().is_ok_and(Option::is_some) || found.is_err();
        judge(
            "record",
            found.map(|found| found.map(|found| self.is_same(&found)).or(Some(true))),
        );
        if there {
            let request = store.request(&Scope::All, id).await;
            judge(
                "request",
                request.map(|request| request.map(|request| Some(request) == self.request)),
            );
            let response = store.response(&Scope::All, id).await;
            let none = self.response.is_none().then_some(true);
            judge(
                "response",
                response.map(|response| response.map(|response| Some(response) == self.response).or(none)),
            );
            let logs = store.file.logs(&Scope::All, id, LogQuery::default()).await;
            judge(
                "log",
                logs.map(|logs| (!logs.is_empty() || self.logs.is_empty()).then(|| logs == self.logs)),
            );
        }
        match (there, damaged, partly) {
            (false, ..) => compared.missing += 1,
            (_, true, _) => compared.damaged += 1,
            (_, _, true) => compared.partly += 1,
            _ => compared.whole += 1,
        }
    }

    /// Whether a record is unchanged, apart from what a rescue or an unreadable request makes of it.
    fn is_same(&self, found: &TaskRecord) -> bool {
        let was = &self.record;
        let stays = found.name == was.name
            && found.target == was.target
            && found.max_attempts == was.max_attempts
            && found.created_at == was.created_at
            && found.generation == was.generation
            && found.subscriptions == was.subscriptions;
        let unchanged = found.state == was.state && found.history == was.history && found.deliveries == was.deliveries;
        let changed = match was.state {
            TaskState::Running => found.state == TaskState::Enqueued && found.crashes == 1,
            TaskState::Stopping => found.state == TaskState::Stopped,
            state => found.state == TaskState::Invalid && state.is_queued(),
        };
        stays && (unchanged || changed)
    }
}

pub(crate) fn builder() -> RedbStoreBuilder {
    RedbStore::builder()
        .clock(ManualClock::new(Timestamp::from_millis(1_700_000_000_000)))
        .cache_bytes(256 * 1024)
        // The test counts calls of the disk. A slow machine may look idle, and idle repairs make more calls.
        .quick_repair(QuickRepair::Never)
}

#[track_caller]
pub(crate) fn new(inserted: StoreResult<Inserted>) -> Arc<TaskRecord> {
    match inserted.unwrap() {
        Inserted::New(record, _) => record,
        other => panic!("it is new: {other:?}"),
    }
}

/// Stores a task that runs.
pub(crate) async fn insert_held(store: &TaskFile, task: NewTask) -> Held {
    let insert = Insert::new(task).claimed_by(worker(1), LONG);
    match store.insert(insert).await.unwrap() {
        Inserted::New(_, Some(held)) => held,
        other => panic!("it is new: {other:?}"),
    }
}

fn response(number: u8) -> CapturedResponse {
    let body = Bytes::from(vec![0xA0 + number; 120]);
    CapturedResponse::new(StatusCode::OK, HeaderMap::new(), body)
}

/// Claims everything that can be claimed now. Each suspect needs another worker.
pub(crate) async fn claim_all(store: &TaskFile) -> StoreResult<Vec<RequestId>> {
    let mut claimed = Vec::new();
    for number in 0..50 {
        let claim = Claim::new(worker(number), 100, LONG);
        let tasks = store.claim(claim).await?.tasks;
        if tasks.is_empty() {
            break;
        }
        claimed.extend(tasks.iter().map(|task| task.record.id));
    }
    Ok(claimed)
}

pub(crate) async fn listed(store: &TaskFile) -> StoreResult<Vec<Arc<TaskRecord>>> {
    store.list_all(&Scope::All, &Filter::default()).await
}
