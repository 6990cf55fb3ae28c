//! The inputs and outputs of store operations.

mod claim;
mod deliveries;
mod due;
mod insert;

pub use self::{
    claim::{Claim, ClaimedRow, Claims, PoolClaim},
    deliveries::{ClaimedOutbox, DeliveryClaim},
    due::{Candidate, Candidates, Due, DueReason, Retention},
    insert::{FullReason, InitialClaim, Insertion, KnownBy, Limits, NewRow},
};
use crate::task::{RequestId, TaskName, TaskRef, WorkerId};
pub use crate::task::{envelope::Payload, lifecycle::Renewal};

/// What a store can do and promises. A store refuses a request for an ability that it lacks with
/// [`StoreErrorKind::Unsupported`](crate::store::StoreErrorKind::Unsupported); it never ignores the request.
///
/// # Examples
///
/// ```
/// use tower_respond_async::store::{Abilities, Durability, Sharing};
///
/// let file = Abilities::new(Durability::Host, Sharing::Exclusive, true);
/// assert!(file.durability > Durability::Process, "a task survives the end of the process");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Abilities {
    /// What an accepted task survives.
    pub durability: Durability,
    /// How many processes may use it at once.
    pub sharing: Sharing,
    /// Whether [`news`](crate::store::TaskStore::news) reports what other processes do. If not, the engine looks every
    /// second, and streams of all tasks say now and then that something was missed.
    pub notifies: bool,
}

impl Abilities {
    /// Abilities with these values.
    #[must_use]
    pub const fn new(durability: Durability, sharing: Sharing, notifies: bool) -> Self {
        Self {
            durability,
            sharing,
            notifies,
        }
    }
}

/// What an accepted task survives.
///
/// See the example of [`Abilities`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Durability {
    /// A panic in a handler, not the end of the process.
    Process,
    /// The end of the process; a crash of the store's server or a power cut may lose the last moments.
    Restart,
    /// The end of the process and a power cut, not the loss of the disk.
    Host,
    /// The loss of a machine.
    Cluster,
}

/// How many processes may use a store at once.
///
/// See the example of [`Abilities`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Sharing {
    /// One. A second process is refused when it opens the store.
    Exclusive,
    /// Any number.
    Shared,
}

/// How full the queue is, as far as that is available without waiting.
///
/// # Examples
///
/// ```
/// use tower_respond_async::{MemoryStore, TaskStore, task::PoolName};
///
/// let hint = MemoryStore::new().queue_hint(None, Some(&PoolName::DEFAULT));
/// assert_eq!((hint.queued, hint.pool_queued), (Some(0), Some(0)));
/// assert_eq!(hint.tenant_queued, None, "no tenant was given");
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct QueueHint {
    /// The number of tasks that wait.
    pub queued: Option<u64>,
    /// The number of tasks of the given tenant that wait.
    pub tenant_queued: Option<u64>,
    /// The number of tasks of the given pool that wait.
    pub pool_queued: Option<u64>,
    /// The store has failed for good: it accepts nothing until it is opened again.
    pub failed: bool,
    /// Pending completions may use more than their share of the store's room, so that there may be rows for
    /// [`Due::Crowded`]. Always `false` for a store without a bound.
    pub crowded: bool,
}

/// Which rows to read.
///
/// See the example of [`Change`](crate::store::Change).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Which {
    /// The row with this id.
    Id(RequestId),
    /// The rows with this name. A scope of several tenants may have several.
    Name(TaskName),
    /// The rows that this worker holds.
    HeldBy(WorkerId),
}

impl From<&TaskRef> for Which {
    fn from(task: &TaskRef) -> Self {
        match task {
            TaskRef::Id(id) => Self::Id(*id),
            TaskRef::Name(name) => Self::Name(name.clone()),
        }
    }
}

/// One of the payloads of a task.
///
/// See the example of [`NewRow`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Part {
    /// The request.
    Request,
    /// The response.
    Response,
}

/// Which lines of a log to read.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
///
/// # use bytes::Bytes;
/// # use http::{HeaderMap, Method, Uri};
/// use tower_respond_async::{
///     store::{Insert, Inserted, Ledger, LogQuery, MemoryStore, TaskStore},
///     task::{LogLine, Scope, WorkerId},
/// };
/// # use tower_respond_async::task::{CapturedRequest, NewTask, RequestId};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), tower_respond_async::store::StoreError> {
/// let store = MemoryStore::new();
/// # let request = CapturedRequest::new(Method::GET, Uri::from_static("/"), HeaderMap::new(), Bytes::new());
/// # let task = NewTask::new(RequestId::from_bytes([7; 16]), request.into());
/// let claim = Insert::new(task).claimed_by(WorkerId::new("w", 1), Duration::from_secs(30));
/// let Inserted::New(record, Some(held)) = Ledger::of(store.clone()).insert(claim).await? else {
///     unreachable!("the store is empty")
/// };
/// let line = |message| LogLine::new(store.now(), "INFO", "app", message);
/// assert!(store.append_log(held.lease(), vec![line("one"), line("two")]).await?);
///
/// let query = LogQuery::default().attempt(1).after(1).limit(100);
/// let lines = store.logs(&Scope::All, record.id, query).await?;
/// assert_eq!(lines.len(), 1);
/// assert_eq!(&*lines[0].message, "two");
/// # Ok(()) }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LogQuery {
    /// Only lines of this attempt.
    pub attempt: Option<u32>,
    /// Only lines with a greater number.
    pub after: u64,
    /// The maximum number of lines.
    pub limit: usize,
}

impl LogQuery {
    /// Only lines of this attempt.
    #[must_use]
    pub const fn attempt(mut self, attempt: u32) -> Self {
        self.attempt = Some(attempt);
        self
    }

    /// Only lines with a greater number.
    #[must_use]
    pub const fn after(mut self, line: u64) -> Self {
        self.after = line;
        self
    }

    /// At most this many lines.
    #[must_use]
    pub const fn limit(mut self, lines: usize) -> Self {
        self.limit = lines;
        self
    }

    /// How many bytes of log are kept per attempt: enough to read, not to collect data in.
    pub const BYTES_KEPT: usize = 1024 * 1024;
    /// How many lines of log are kept per attempt.
    pub const LINES_KEPT: usize = 10_000;
}

impl Default for LogQuery {
    fn default() -> Self {
        Self {
            attempt: None,
            after: 0,
            limit: 1000,
        }
    }
}
