//! The store under test, with the steps that most tests take.

use std::{
    ops::Deref,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode, Uri};
use tokio::{runtime::Handle, task::JoinHandle};

use super::{
    Harness,
    steps::{Found, FoundTask, Steps},
};
use crate::{
    store::{Claim, ClaimedDelivery, DeliveryClaim, Insert, Inserted, KnownBy, Settled},
    task::{
        CapturedRequest, CapturedResponse, Conditions, Destination, IdempotencyKey, LeaseRef, NewTask, RequestDigest,
        RequestId, Scope, Subscription, Subscriptions, TaskName, TaskRecord, TaskState, Tenant, WorkerId,
        lifecycle::Outcome,
    },
    time::Timestamp,
};

/// A newly opened store and its harness. All helpers panic if an operation fails.
pub(crate) struct Subject<'a> {
    pub(crate) harness: &'a dyn Harness,
    pub(crate) store: Steps,
}

/// A lease or age that does not run out during a test.
pub(crate) const LONG: Duration = Duration::from_secs(60 * 60);

impl Deref for Subject<'_> {
    type Target = Steps;

    fn deref(&self) -> &Self::Target {
        &self.store
    }
}

impl<'a> Subject<'a> {
    pub(crate) async fn open(harness: &'a dyn Harness) -> Self {
        Self {
            harness,
            store: Steps::new(harness.open().await),
        }
    }

    /// This many units of time.
    pub(crate) fn units(&self, count: u32) -> Duration {
        self.harness.unit() * count
    }

    pub(crate) async fn pass(&self, units: u32) {
        self.harness.pass(self.units(units)).await;
    }

    pub(crate) async fn insert_new(&self, task: NewTask) -> Arc<TaskRecord> {
        new(self.store.insert(Insert::new(task)).await.expect("insert"))
    }

    /// Stores a task already claimed by `worker`.
    pub(crate) async fn insert_born(&self, task: NewTask, worker: &WorkerId, lease: Duration) -> LeaseRef {
        let insert = Insert::new(task).claimed_by(worker.clone(), lease);
        new(self.store.insert(insert).await.expect("insert")).lease()
    }

    pub(crate) async fn claim_for(&self, worker: &WorkerId, max: usize, lease: Duration) -> Found {
        let worker = worker.clone();
        self.store.claim(Claim::new(worker, max, lease)).await.expect("claim")
    }

    pub(crate) async fn claim_ids(&self, worker: &WorkerId, max: usize) -> Vec<RequestId> {
        ids(&self.claim_for(worker, max, LONG).await.tasks)
    }

    /// Claims the only task that can be claimed.
    pub(crate) async fn claim_one(&self, worker: &WorkerId, lease: Duration) -> LeaseRef {
        let claimed = self.claim_for(worker, 1, lease).await.tasks;
        claimed.first().expect("there is a task to claim").record.lease()
    }

    pub(crate) async fn end(&self, lease: LeaseRef, outcome: Outcome) -> Settled {
        self.store.settle(lease, outcome).await.expect("settle")
    }

    pub(crate) async fn record(&self, id: RequestId) -> Arc<TaskRecord> {
        self.store.task(id).await.expect("the task is there")
    }

    pub(crate) async fn state(&self, id: RequestId) -> TaskState {
        self.record(id).await.state
    }

    /// Runs one rescue, and returns what it did to this task, if anything.
    pub(crate) async fn rescue_one(&self, id: RequestId) -> Option<crate::task::lifecycle::Rescue> {
        let rescued = self.store.rescue(1000).await.expect("rescue");
        let mut of = rescued.tasks.into_iter().filter(|(other, _)| *other == id);
        let found = of.next().map(|(_, what)| what);
        assert_eq!(of.next(), None, "a task is rescued once");
        found
    }

    pub(crate) async fn deliveries(&self, destination: &Destination, lease: Duration) -> Vec<ClaimedDelivery> {
        let claim = DeliveryClaim {
            from: vec![(destination.clone(), 1000)],
            lease,
        };
        self.store.claim_deliveries(claim).await.expect("claim deliveries")
    }
}

/// A worker with this name.
pub(crate) fn worker(name: &str) -> WorkerId {
    WorkerId::new(name, 1)
}

/// A new task. Ids count up within a test run, independent of the time.
pub(crate) fn a_task() -> NewTask {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let mut random = [0; 10];
    fastrand::fill(&mut random);
    let count = NEXT.fetch_add(1, Ordering::Relaxed);
    let id = RequestId::from_parts(Timestamp::from_millis(1_700_000_000_000 + count), random);
    NewTask::new(id, a_request("/tests/run", b"work"))
}

pub(crate) fn a_request(uri: &'static str, body: &[u8]) -> Arc<CapturedRequest> {
    let body = Bytes::copy_from_slice(body);
    Arc::new(CapturedRequest::new(
        Method::POST,
        Uri::from_static(uri),
        HeaderMap::new(),
        body,
    ))
}

/// A task with a name.
pub(crate) fn a_task_called(name: &str) -> NewTask {
    NewTask {
        name: Some(name_of(name)),
        digest: Some(digest(1)),
        ..a_task()
    }
}

/// A task with a key. `request` stands for its request: tasks with different values have different digests.
pub(crate) fn a_task_keyed(key: &str, request: u8) -> NewTask {
    NewTask {
        key: Some(IdempotencyKey::new(key).expect("a key")),
        digest: Some(digest(request)),
        ..a_task()
    }
}

/// A task with a completion for `destination`, for every way to end.
pub(crate) fn a_task_telling(destination: &Destination) -> NewTask {
    NewTask {
        subscriptions: Subscriptions::from([Subscription {
            destination: destination.clone(),
            on: Conditions::ALL,
        }]),
        ..a_task()
    }
}

pub(crate) fn of_tenant(tenant: Option<&str>, task: NewTask) -> NewTask {
    NewTask {
        tenant: tenant.map(Tenant::new),
        ..task
    }
}

pub(crate) fn name_of(name: &str) -> TaskName {
    TaskName::new(name).expect("a name")
}

pub(crate) const fn digest(of: u8) -> RequestDigest {
    RequestDigest::from_bytes([of; 32])
}

pub(crate) fn scope(tenant: &str) -> Scope {
    Scope::One(Some(Tenant::new(tenant)))
}

pub(crate) fn success() -> Outcome {
    let body = Bytes::from_static(b"done");
    Outcome::Succeeded {
        response: Arc::new(CapturedResponse::new(StatusCode::OK, HeaderMap::new(), body)),
    }
}

pub(crate) fn failure() -> Outcome {
    Outcome::Failed {
        error: "it broke".into(),
        response: None,
    }
}

pub(crate) fn retry(after: Duration) -> Outcome {
    Outcome::Retry {
        after,
        error: "it was busy".into(),
    }
}

pub(crate) fn new(inserted: Inserted) -> Arc<TaskRecord> {
    match inserted {
        Inserted::New(record, _) => record,
        other => panic!("the task is new, but the answer was {other:?}"),
    }
}

/// What an insert of a known task answered: the id, what it is known by, and whether the request is the same.
pub(crate) fn known(inserted: &Inserted) -> (RequestId, KnownBy, bool) {
    match inserted {
        Inserted::Known {
            id, by, same_request, ..
        } => (*id, *by, *same_request),
        other => panic!("the task is known, but the answer was {other:?}"),
    }
}

pub(crate) fn ids(tasks: &[FoundTask]) -> Vec<RequestId> {
    tasks.iter().map(|task| task.record.id).collect()
}

pub(crate) const fn is_accepted(settled: Settled) -> bool {
    matches!(settled, Settled::Accepted { .. })
}

/// Runs `first` and `second` at the same time, each on a thread of its own.
pub(crate) async fn at_once<A, B>(
    first: impl Future<Output = A> + Send + 'static,
    second: impl Future<Output = B> + Send + 'static,
) -> (A, B)
where
    A: Send + 'static,
    B: Send + 'static,
{
    let line = StartingLine::of(2);
    let (first, second) = (line.start(first), line.start(second));
    (finish(first).await, finish(second).await)
}

/// Runs `count` futures at the same time, each on a thread of its own.
pub(crate) async fn all_at_once<T, F>(count: usize, mut side: impl FnMut(usize) -> F) -> Vec<T>
where
    T: Send + 'static,
    F: Future<Output = T> + Send + 'static,
{
    let line = StartingLine::of(count);
    let sides: Vec<_> = (0..count).map(|number| line.start(side(number))).collect();
    let mut answers = Vec::with_capacity(count);
    for side in sides {
        answers.push(finish(side).await);
    }
    answers
}

/// A barrier that all threads leave within nanoseconds. A barrier that puts threads to sleep wakes them one after the
/// other, microseconds apart, which is too late for the shortest races.
#[derive(Clone)]
struct StartingLine {
    missing: Arc<AtomicUsize>,
}

impl StartingLine {
    fn of(count: usize) -> Self {
        Self {
            missing: Arc::new(AtomicUsize::new(count)),
        }
    }

    fn start<T: Send + 'static>(&self, side: impl Future<Output = T> + Send + 'static) -> JoinHandle<T> {
        let missing = self.missing.clone();
        let runtime = Handle::current();
        tokio::task::spawn_blocking(move || {
            missing.fetch_sub(1, Ordering::AcqRel);
            let mut spins = 0_u32;
            while missing.load(Ordering::Acquire) > 0 {
                spins += 1;
                // With fewer cores than sides, a waiting thread must yield now and then.
                if spins.is_multiple_of(10_000) {
                    std::thread::yield_now();
                } else {
                    std::hint::spin_loop();
                }
            }
            runtime.block_on(side)
        })
    }
}

async fn finish<T>(side: JoinHandle<T>) -> T {
    match side.await {
        Ok(answer) => answer,
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        Err(error) => panic!("a side of a race was dropped: {error}"),
    }
}
