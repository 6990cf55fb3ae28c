//! Inserting a task: the row to store, its limits, and the result.

use std::{sync::Arc, time::Duration};

use crate::{
    store::{Columns, Payload, Row},
    task::{FenceToken, IdempotencyKey, RequestDigest, RequestId, TaskRecord, WorkerId},
    time::Timestamp,
};

/// A task to store.
///
/// # Examples
///
/// ```
/// use std::{sync::Arc, time::Duration};
///
/// # use bytes::Bytes;
/// # use http::{HeaderMap, Method, Uri};
/// use tower_respond_async::{
///     store::{Insertion, KnownBy, MemoryStore, NewRow, Part, TaskStore},
///     task::{NewTask, RequestId, Scope, TaskRecord},
/// };
/// # use tower_respond_async::task::CapturedRequest;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), tower_respond_async::store::StoreError> {
/// let store = Arc::new(MemoryStore::new());
/// # let request = CapturedRequest::new(Method::GET, Uri::from_static("/"), HeaderMap::new(), Bytes::new());
/// let task = NewTask::new(RequestId::from_bytes([7; 16]), Arc::new(request));
/// let record = Arc::new(TaskRecord::accepted(&task, store.now()));
/// let mut new = NewRow::new(record, task.request.to_payload());
/// new.delay = Duration::from_secs(60);
/// assert!(matches!(store.clone().insert(new.clone()).await?, Insertion::New(row) if row.version == 1));
///
/// // An insert is repeated if its answer was lost.
/// assert!(matches!(store.clone().insert(new).await?, Insertion::Known { by: KnownBy::Id, .. }));
/// assert!(store.payload(&Scope::All, task.id, Part::Request).await?.is_some());
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct NewRow {
    /// Its record, from [`TaskRecord::accepted`]. For a task that is stored claimed, the record may contain the claim or
    /// not.
    pub record: Arc<TaskRecord>,
    /// The request.
    pub request: Payload,
    /// How long it must wait before it may run.
    pub delay: Duration,
    /// The client's key, unique per tenant and caller of the record, and how long it is kept from now on, even after
    /// the task is gone. The store keeps it with the record's digest.
    pub key: Option<(IdempotencyKey, Duration)>,
    /// How many tasks may wait. A task that is stored claimed does not wait and is not counted.
    pub limits: Limits,
    /// Set to store the task already claimed.
    pub claim: Option<InitialClaim>,
}

impl NewRow {
    /// A task that may run at once, and that is stored however full the queue is.
    #[must_use]
    pub const fn new(record: Arc<TaskRecord>, request: Payload) -> Self {
        Self {
            record,
            request,
            delay: Duration::ZERO,
            key: None,
            limits: Limits::UNLIMITED,
            claim: None,
        }
    }

    /// The row of the task, stored at `now`. `floor` is as for [`Row::claim`].
    #[must_use]
    pub fn row(&self, floor: FenceToken, now: Timestamp) -> Row {
        let mut columns = Columns::of(&self.record);
        columns.created_at = now;
        columns.run_at = now.saturating_add(self.delay);
        columns.expires_at = columns.run_at.saturating_add(self.record.max_age);
        let mut row = Row {
            id: self.record.id,
            version: Row::FIRST_VERSION,
            columns,
            outbox: Vec::new(),
            record: self.record.clone(),
        };
        if let Some(claim) = &self.claim {
            match row.columns.is_held() {
                // The record contains the claim already, so it need not be restored.
                true => {
                    row.columns.started_at = Some(now);
                    row.columns.lease_until = Some(now.saturating_add(claim.lease));
                    row.columns.token = row.columns.token.max(floor.next());
                }
                false => row.claim(claim.worker.clone(), claim.lease, floor, now),
            }
        }
        row
    }
}

/// The claim with which a task is stored.
///
/// See the example of [`Insert`](crate::store::Insert), which makes one.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct InitialClaim {
    /// The worker that holds the task.
    pub worker: WorkerId,
    /// How long the claim holds.
    pub lease: Duration,
}

impl InitialClaim {
    /// A claim by `worker`, for `lease`.
    #[must_use]
    pub const fn new(worker: WorkerId, lease: Duration) -> Self {
        Self { worker, lease }
    }
}

/// How many tasks may wait.
///
/// See the example of [`Insert`](crate::store::Insert).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// In all, of any tenant.
    pub queued: u64,
    /// Of the task's own tenant, if it has one.
    pub per_tenant: u64,
    /// Of the task's own pool. Keeps a pool that is paused or slow from filling the queue.
    pub per_pool: u64,
}

impl Limits {
    /// No limit.
    pub const UNLIMITED: Self = Self {
        queued: u64::MAX,
        per_tenant: u64::MAX,
        per_pool: u64::MAX,
    };
}

/// The result of an insert.
///
/// See the example of [`NewRow`].
#[derive(Clone, Debug)]
#[must_use]
pub enum Insertion {
    /// The task was stored as this row.
    New(Row),
    /// Nothing was stored: a task has this id, name or key already. The name is checked before the key.
    Known {
        /// That task. `None` if it is gone and only its key is kept.
        row: Option<Row>,
        /// The request id of that task.
        id: RequestId,
        /// What it is known by.
        by: KnownBy,
        /// The digest that is kept with the key, if the task is known by its key.
        digest: Option<RequestDigest>,
    },
    /// Nothing was stored: the name and the key belong to two different tasks.
    Conflict,
    /// Nothing was stored: there is no room.
    Full(FullReason),
}

/// What a known task was found by.
///
/// See the example of [`NewRow`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum KnownBy {
    /// Its request id: the same insert was done before, and its answer was lost.
    Id,
    /// Its name.
    Name,
    /// Its key.
    Key,
}

/// The limit that was reached.
///
/// See the example of [`Insert`](crate::store::Insert).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FullReason {
    /// [`Limits::queued`].
    Queue,
    /// [`Limits::per_tenant`].
    Tenant,
    /// [`Limits::per_pool`].
    Pool,
    /// The store's own bound.
    Storage,
}
