//! Claiming tasks.

use std::time::Duration;

use crate::{
    store::{Payload, Row, StoreResult},
    task::{PoolName, Tenant, WorkerId},
};

/// A worker's request for tasks.
///
/// # Examples
///
/// Two tasks of the pool `video` wait. A claim takes at most one of them, and at most four tasks of all other pools:
///
/// ```
/// use std::time::Duration;
///
/// # use bytes::Bytes;
/// # use http::{HeaderMap, Method, Uri};
/// use tower_respond_async::{
///     store::{Claim, MemoryStore, PoolClaim, TaskStore},
///     task::{PoolName, WorkerId},
/// };
/// # use tower_respond_async::{store::{Insert, Ledger}, task::{CapturedRequest, NewTask, RequestId}};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let store = MemoryStore::new();
/// # let request = CapturedRequest::new(Method::GET, Uri::from_static("/"), HeaderMap::new(), Bytes::new());
/// # for number in 1..=2 {
/// #     let mut task = NewTask::new(RequestId::from_bytes([number; 16]), request.clone().into());
/// #     task.pool = PoolName::new("video")?;
/// #     let _ = Ledger::of(store.clone()).insert(Insert::new(task)).await?;
/// # }
/// let mut claim = Claim::new(WorkerId::new("w", 1), 10, Duration::from_secs(30));
/// claim.pools = vec![PoolClaim::new(PoolName::new("video")?, 1)];
/// claim.others = 4;
/// let claims = store.claim(claim).await?;
/// assert_eq!(claims.tasks.len(), 1);
/// assert_eq!(claims.tasks[0].row.record.pool.as_str(), "video");
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Claim {
    /// The worker.
    pub worker: WorkerId,
    /// The maximum number of tasks.
    pub max: usize,
    /// How long the claims hold.
    pub lease: Duration,
    /// The maximum for each of these pools.
    pub pools: Vec<PoolClaim>,
    /// The maximum for all other pools together, so that tasks of a pool that no process names any more still run.
    pub others: usize,
}

impl Claim {
    /// Up to `max` tasks of any pool.
    #[must_use]
    pub const fn new(worker: WorkerId, max: usize, lease: Duration) -> Self {
        Self {
            worker,
            max,
            lease,
            pools: Vec::new(),
            others: usize::MAX,
        }
    }
}

/// A worker's request for tasks of one pool.
///
/// See the example of [`Claim`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PoolClaim {
    /// The pool.
    pub pool: PoolName,
    /// The maximum number of tasks.
    pub max: usize,
    /// How many tasks a tenant may hold, including those in [`held`](Self::held). The claim passes over the tasks of a
    /// tenant that has reached this number, and looks ahead by up to 1,000 tasks.
    pub per_tenant: Option<usize>,
    /// How many tasks each tenant holds already through this worker. Tenants without any are left out.
    pub held: Vec<(Tenant, usize)>,
}

impl PoolClaim {
    /// Up to `max` tasks of a pool, of any tenant.
    #[must_use]
    pub const fn new(pool: PoolName, max: usize) -> Self {
        Self {
            pool,
            max,
            per_tenant: None,
            held: Vec::new(),
        }
    }
}

/// The result of a claim.
///
/// See the example of [`Claim`].
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct Claims {
    /// The tasks, oldest `run_at` first.
    pub tasks: Vec<ClaimedRow>,
    /// How long until the next waiting task is due, if one is known; zero if more could have been claimed. Ignores
    /// suspects that wait for another suspect of this worker, and tasks that this claim may not take.
    pub next_due: Option<Duration>,
    /// Whether a runnable task was passed over because its tenant has reached its limit.
    pub passed_over: bool,
    /// The version of the [named values](crate::store::Controls::version). If it is a new one, the worker reads the
    /// values.
    pub control: u64,
}

/// A claimed task.
///
/// See the example of [`Claim`].
#[derive(Debug)]
#[non_exhaustive]
pub struct ClaimedRow {
    /// The row, after the claim.
    pub row: Row,
    /// Its request, or why the request cannot be read.
    pub request: StoreResult<Payload>,
}

impl ClaimedRow {
    /// A row, and its request or why that cannot be read.
    #[must_use]
    pub const fn new(row: Row, request: StoreResult<Payload>) -> Self {
        Self { row, request }
    }
}
