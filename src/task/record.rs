//! The record of a task, and the lists in it.

use std::{ops::Deref, sync::Arc, time::Duration};

use http::{Method, Uri};

use crate::{
    task::{
        Caller, Content, Cursor, Delivery, DeliveryStatus, FenceToken, History, HistoryEvent, Labels, LeaseRef,
        NewTask, PoolName, RequestDigest, RequestId, RequestTarget, Subscriptions, TaskName, TaskState, Tenant,
        WorkerId, record_codec::Unknown, shorten::shorten,
    },
    time::Timestamp,
};

/// The part of a record that is set when the task is accepted. Copies of the record share it.
///
/// It changes only if the task is run again with an edited request: target and content may differ then. All that
/// clients and applications put into it takes at most about 6 KiB: each part has a bound of its own.
///
/// See the example of [`TaskRecord`], which derefs to it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Accepted {
    /// The primary key.
    pub id: RequestId,
    /// The client's name for the task.
    pub name: Option<TaskName>,
    /// The pool in which it runs.
    pub pool: PoolName,
    /// The owner of the task.
    pub tenant: Option<Tenant>,
    /// The user who sent the request, where the application names one.
    pub caller: Option<Caller>,
    /// The name to list it under, unless that is the first segment of the path: see [`function`](Self::function).
    pub function: Option<Arc<str>>,
    /// The method of the request; the first [`METHOD_BYTES`](Self::METHOD_BYTES) of a very long one.
    pub method: Method,
    /// The target of the request, or the beginning of a long one.
    pub target: RequestTarget,
    /// The size and type of the request's body.
    pub request: Content,
    /// The digest that identifies the request: another request under the same name or key is compared with it.
    pub digest: Option<RequestDigest>,
    /// Words to find the task by.
    pub labels: Labels,
    /// The largest number of attempts; crashes do not count.
    pub max_attempts: u32,
    /// The number of crashes that ends the task.
    pub crash_allowance: u32,
    /// How long it may wait before it expires.
    pub max_age: Duration,
    /// The destinations that receive a completion when the task ends.
    pub subscriptions: Subscriptions,
    /// The URL of [`Destination::CALLBACK`](crate::task::Destination::CALLBACK), where the request named one.
    pub callback: Option<Arc<str>>,
    /// The version of the application that accepted it, if the application has one; the first
    /// [`VERSION_BYTES`](Self::VERSION_BYTES) of a long one.
    pub version: Option<Arc<str>>,
}

/// A task as a store keeps it, without the request, the response and the log.
///
/// It derefs to its [`Life`], which changes, and that to [`Accepted`], which copies share. The fields can be read; only
/// the methods of [`lifecycle`](crate::task::lifecycle) change them. Readers get the record behind an `Arc`.
///
/// # Examples
///
/// The life of a task that succeeds at its first attempt:
///
/// ```
/// use std::time::Duration;
///
/// use http::{HeaderMap, Method, StatusCode, Uri};
/// use tower_respond_async::{
///     RequestId, TaskRecord, TaskState,
///     task::{CapturedRequest, CapturedResponse, NewTask, WorkerId, lifecycle::Outcome},
///     time::Timestamp,
/// };
///
/// let (uri, now) = (Uri::from_static("/mail"), Timestamp::from_millis(1_000));
/// let request = CapturedRequest::new(Method::POST, uri, HeaderMap::new(), "hello".into());
/// let task = NewTask::new(RequestId::from_bytes([7; 16]), request.into());
///
/// let mut record = TaskRecord::accepted(&task, now);
/// let lease = record.claim(WorkerId::new("web-1", 1), Duration::from_secs(30), now)?;
/// assert_eq!((record.function(), record.state, record.attempt), ("mail", TaskState::Running, 1));
///
/// let response = CapturedResponse::new(StatusCode::OK, HeaderMap::new(), "sent".into());
/// record.settle(lease.token, &Outcome::Succeeded { response: response.into() }, now)?;
/// assert_eq!((record.state, record.status_code), (TaskState::Succeeded, Some(200)));
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct TaskRecord {
    pub(crate) life: Life,
}

/// The part of a record that changes in the life of the task.
///
/// See the example of [`TaskRecord`], which derefs to it.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Life {
    /// The part that does not change.
    pub accepted: Arc<Accepted>,

    /// The state.
    pub state: TaskState,
    /// The number of the generation: 1, and one more each time the task is run again.
    pub generation: u32,
    /// The number of the latest attempt in this generation; 0 before the first.
    pub attempt: u32,
    /// How many attempts failed and were retried in this generation.
    pub retries: u32,
    /// How many runs ended with "not now" in this generation; they are charged as no attempt.
    pub deferrals: u32,
    /// How many claims are not settled in this generation: one for every crash, and one while the task is held.
    pub crashes: u32,

    /// The token of the latest claim.
    pub token: FenceToken,
    /// The worker that made the latest claim.
    pub worker: Option<WorkerId>,
    /// When the lease of that claim runs out, while the task is held.
    pub lease_until: Option<Timestamp>,

    /// When it was accepted.
    pub created_at: Timestamp,
    /// When it was first [handed on](crate::task::lifecycle::Outcome::HandedOn) in this generation.
    pub handed_on_at: Option<Timestamp>,
    /// When it may run, or could have run.
    pub run_at: Timestamp,
    /// When it expires unless it runs before.
    pub expires_at: Timestamp,
    /// When the latest attempt began.
    pub started_at: Option<Timestamp>,
    /// When it ended.
    pub ended_at: Option<Timestamp>,

    /// The status of the stored response, if there is one.
    pub status_code: Option<u16>,
    /// The size and type of that response's body.
    pub response: Option<Content>,
    /// The latest error.
    pub error: Option<Arc<str>>,
    /// The progress that the handler reported.
    pub progress: Option<Progress>,
    /// The events so far, oldest first; of a very long history, the first and the latest.
    pub history: History,
    /// One delivery for each destination of this generation, once it has ended; and those of earlier generations that
    /// were pending when the task was run again.
    pub deliveries: Vec<Delivery>,

    /// Fields that a newer build wrote. This build only carries them.
    pub(crate) unknown: Unknown,
}

impl Deref for TaskRecord {
    type Target = Life;

    fn deref(&self) -> &Life {
        &self.life
    }
}

impl Deref for Life {
    type Target = Accepted;

    fn deref(&self) -> &Accepted {
        &self.accepted
    }
}

impl Accepted {
    /// The longest function that is kept, in bytes: as long as a task name. The rest is cut off.
    pub const FUNCTION_BYTES: usize = TaskName::LONGEST;

    /// The longest method that is kept, in bytes; the longest registered one, `UPDATEREDIRECTREF`, has 17. The rest is
    /// cut off: the beginning of a method is a valid method too. The request has the whole method.
    pub const METHOD_BYTES: usize = 32;

    /// The longest callback URL that is kept, in bytes. URLs of this length work everywhere. A request with a longer
    /// one is refused, since a cut URL leads elsewhere. The URL is in the record and not in the request beside it, so
    /// that delivering and listing read the record alone.
    pub const CALLBACK_BYTES: usize = 2048;

    /// The longest version that is kept, in bytes: a word in a table. The rest is cut off.
    pub const VERSION_BYTES: usize = 64;

    /// The fixed part of the record of `task`. A long method, target, function or version is cut.
    #[must_use]
    pub fn of(task: &NewTask) -> Self {
        let cut_to = |text: &Option<Arc<str>>, bytes| {
            text.clone().map(|text| match text.len() > bytes {
                true => cut(&text, bytes).into(),
                false => text,
            })
        };
        Self {
            id: task.id,
            name: task.name.clone(),
            pool: task.pool.clone(),
            tenant: task.tenant.clone(),
            caller: task.caller.clone(),
            function: cut_to(&task.function, Self::FUNCTION_BYTES),
            method: bounded(&task.request.method),
            target: RequestTarget::of(&task.request.uri),
            request: task.request.content(),
            digest: task.digest,
            labels: task.labels.clone(),
            max_attempts: task.max_attempts,
            crash_allowance: task.crash_allowance,
            max_age: task.max_age,
            subscriptions: task.subscriptions.clone(),
            callback: task.callback.clone(),
            version: cut_to(&task.version, Self::VERSION_BYTES),
        }
    }

    /// The function: the name given at accept, or the first segment of the path. It has at most
    /// [`FUNCTION_BYTES`](Self::FUNCTION_BYTES).
    #[must_use]
    pub fn function(&self) -> &str {
        match &self.function {
            Some(name) => name,
            None => {
                let path = self.target.path().trim_start_matches('/');
                cut(&path[..path.find('/').unwrap_or(path.len())], Self::FUNCTION_BYTES)
            }
        }
    }

    /// The host of the callback URL, in lower case, if the request named one. Callbacks to one host fail together.
    #[must_use]
    pub fn callback_host(&self) -> Option<String> {
        let url = self.callback.as_deref()?;
        let uri = Uri::try_from(url).ok();
        let host = uri.as_ref().and_then(Uri::host).unwrap_or(url);
        Some(host.to_ascii_lowercase())
    }

    /// The task id: the client's name, or else the request id.
    #[must_use]
    pub fn task_id(&self) -> String {
        match &self.name {
            Some(name) => name.as_str().to_owned(),
            None => self.id.to_string(),
        }
    }

    /// Whether the task id begins with `prefix`.
    #[must_use]
    pub fn task_id_starts_with(&self, prefix: &str) -> bool {
        match &self.name {
            Some(name) => name.as_str().starts_with(prefix),
            None => self.id.to_string().starts_with(prefix),
        }
    }
}

impl TaskRecord {
    /// Whether its process died while it ran, in this generation. A worker claims such tasks one at a time.
    #[must_use]
    pub const fn is_suspect(&self) -> bool {
        self.crashed_times() > 0
    }

    /// How often its process died while it ran, in this generation.
    #[must_use]
    pub const fn crashed_times(&self) -> u32 {
        // `crashes` includes the present claim of a held task.
        self.life.crashes.saturating_sub(self.life.state.is_held() as u32)
    }

    /// The place of the task in a listing.
    #[must_use]
    pub fn cursor(&self) -> Cursor {
        Cursor {
            created_at: self.created_at,
            id: self.id,
        }
    }

    /// The detail of an event of its history. For the latest [`Running`](TaskState::Running), it is the record's
    /// worker.
    #[must_use]
    pub fn detail_of<'a>(&'a self, event: &'a HistoryEvent) -> Option<&'a str> {
        let latest_run = || self.history.iter().rfind(|event| event.state == TaskState::Running);
        match &event.detail {
            Some(detail) => Some(detail),
            None if latest_run()?.id == event.id => self.worker.as_ref().map(WorkerId::as_str),
            None => None,
        }
    }

    /// The latest claim of the task.
    #[must_use]
    pub fn lease(&self) -> LeaseRef {
        LeaseRef {
            id: self.id,
            token: self.token,
        }
    }

    /// The status of the completion for all destinations of this generation together: the greatest of their statuses.
    #[must_use]
    pub fn destination_status(&self) -> DeliveryStatus {
        let of_now = self
            .deliveries
            .iter()
            .filter(|delivery| delivery.generation == self.generation);
        of_now.map(|delivery| delivery.status).max().unwrap_or_default()
    }
}

/// The progress of a task, as its handler reports it.
///
/// # Examples
///
/// A handler reports progress with [`TaskContext::progress`](crate::TaskContext::progress). It is kept like this:
///
/// ```
/// use tower_respond_async::task::Progress;
///
/// let progress = Progress::new(1.5, "almost done");
/// assert_eq!((progress.fraction, &*progress.message), (1.0, "almost done"));
/// ```
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Progress {
    /// The fraction that is done, between 0 and 1.
    pub fraction: f32,
    /// What the handler is doing.
    pub message: Arc<str>,
}

impl Progress {
    /// The longest message that is kept, in bytes: one line. Progress is written about once a second; longer texts
    /// belong in the log.
    pub const MESSAGE_BYTES: usize = 256;

    /// Progress with `fraction` clamped to 0 to 1, and `message` cut to [`MESSAGE_BYTES`](Self::MESSAGE_BYTES).
    #[must_use]
    pub fn new(fraction: f32, message: &str) -> Self {
        Self {
            fraction: if fraction.is_nan() {
                0.0
            } else {
                fraction.clamp(0.0, 1.0)
            },
            message: shorten(message, Self::MESSAGE_BYTES).into(),
        }
    }
}

/// The method, cut if it is very long.
fn bounded(method: &Method) -> Method {
    match method.as_str().get(..Accepted::METHOD_BYTES) {
        Some(beginning) => Method::from_bytes(beginning.as_bytes()).expect("the beginning of a token is a token"),
        None => method.clone(),
    }
}

/// The first `bytes` of `text`, or a few less, so that no character is broken.
pub(crate) fn cut(text: &str, bytes: usize) -> &str {
    let mut end = bytes.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// One line of a task's log.
///
/// # Examples
///
/// ```
/// use tower_respond_async::{task::LogLine, time::Timestamp};
///
/// let mut line = LogLine::new(Timestamp::from_millis(1_000), "WARN", "shop::mail", "the server is slow");
/// line.fields.push(("seconds".into(), "3".into()));
/// assert_eq!(LogLine::decode(&line.encode())?, line);
/// # Ok::<_, tower_respond_async::task::DecodeError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LogLine {
    /// The number of the line in the task's log, from 1. The store sets it; it is 0 before.
    pub seq: u64,
    /// When it was logged.
    pub at: Timestamp,
    /// The number of the attempt. The store sets it.
    pub attempt: u32,
    /// The level, as `tracing` names it: `ERROR`, `WARN`, `INFO`, `DEBUG`, `TRACE`.
    pub level: Arc<str>,
    /// The part of the program that logged it.
    pub target: Arc<str>,
    /// The message.
    pub message: Arc<str>,
    /// The fields: names and values.
    pub fields: Vec<(Arc<str>, Arc<str>)>,
}

impl LogLine {
    /// A line without fields.
    #[must_use]
    pub fn new(at: Timestamp, level: &str, target: &str, message: &str) -> Self {
        Self {
            seq: 0,
            at,
            attempt: 0,
            level: level.into(),
            target: target.into(),
            message: message.into(),
            fields: Vec::new(),
        }
    }

    /// About how many bytes the line takes to keep.
    #[must_use]
    pub fn weight(&self) -> usize {
        let fields: usize = self.fields.iter().map(|(name, value)| name.len() + value.len()).sum();
        self.target.len() + self.message.len() + fields + 32
    }
}

/// How many tasks are in each state, and how long the oldest has waited.
///
/// # Examples
///
/// ```
/// use tower_respond_async::{MemoryStore, RespondAsyncLayer, TaskState};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let layer = RespondAsyncLayer::new(MemoryStore::new())?;
/// let counts = layer.tasks().stats().await?.counts;
/// for (state, count) in counts.iter() {
///     println!("{count} tasks are {state}");
/// }
/// assert_eq!((counts.queued(), counts.of(TaskState::Failed)), (0, 0));
/// # Ok(()) }
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counts {
    by_state: [u64; TaskState::ALL.len()],
    /// How long the task that has waited longest has been due.
    pub oldest_queued: Option<Duration>,
    /// How many damaged values the store has found and set aside since this process opened it, of all tenants.
    pub set_aside: u64,
    /// How many keys of ended tasks the store has removed before their window was over, for lack of room, since this
    /// process opened it, of all tenants.
    pub forgotten_keys: u64,
    /// How many completions are pending. `None` for a single tenant.
    pub pending_deliveries: Option<u64>,
}

impl Counts {
    /// How many tasks are in `state`.
    #[must_use]
    pub const fn of(&self, state: TaskState) -> u64 {
        self.by_state[state as usize]
    }

    /// Sets the number of tasks in `state`.
    pub const fn set(&mut self, state: TaskState, count: u64) {
        self.by_state[state as usize] = count;
    }

    /// Every state with its count.
    pub fn iter(&self) -> impl Iterator<Item = (TaskState, u64)> {
        TaskState::ALL.into_iter().map(|state| (state, self.of(state)))
    }

    /// How many tasks wait to be claimed.
    #[must_use]
    pub const fn queued(&self) -> u64 {
        self.of(TaskState::Enqueued) + self.of(TaskState::Retrying)
    }
}
