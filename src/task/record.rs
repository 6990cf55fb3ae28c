//! What a store keeps of a task, and the lists that hang on it.

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

/// What is settled about a task when it is accepted, and stays so. A record shares it with its copies.
///
/// Only a request that is run again edited gets another: its target and its body may have changed. What clients and
/// applications have given it takes at most about 6 KiB: each part has a bound of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Accepted {
    /// The primary key.
    pub id: RequestId,
    /// The client's name for it.
    pub name: Option<TaskName>,
    /// Whose slots it runs on.
    pub pool: PoolName,
    /// Whose it is.
    pub tenant: Option<Tenant>,
    /// Who asked for it, where the application knows.
    pub caller: Option<Caller>,
    /// What it is listed under, where that is not the first segment of the path: see [`function`](Self::function).
    pub function: Option<Arc<str>>,
    /// The method of the request; of a very long one, the first [`METHOD_BYTES`](Self::METHOD_BYTES).
    pub method: Method,
    /// The target of the request; of a long one, the beginning.
    pub target: RequestTarget,
    /// How long the request's body is, and of what type.
    pub request: Content,
    /// What tells whether another request under the same name or key is the same.
    pub digest: Option<RequestDigest>,
    /// Words to find it by.
    pub labels: Labels,
    /// How many runs it has at most, crashes not counted.
    pub max_attempts: u32,
    /// How many crashes end it.
    pub crash_allowance: u32,
    /// How long it may wait.
    pub max_age: Duration,
    /// Who is told how it ends.
    pub subscriptions: Subscriptions,
    /// The URL of [`Destination::CALLBACK`](crate::task::Destination::CALLBACK), where the request named one.
    pub callback: Option<Arc<str>>,
    /// The version of the application that accepted it, where that has one; of a long one, the first
    /// [`VERSION_BYTES`](Self::VERSION_BYTES).
    pub version: Option<Arc<str>>,
}

/// A task as a store keeps it: everything but the request, the response and the log.
///
/// It derefs to what changes in the task's [`Life`], and that to what was [`Accepted`], which copies share. So everybody may
/// read it, and it is changed by the methods of [`lifecycle`](crate::task::lifecycle) only. Readers get it behind an `Arc`.
#[derive(Clone, Debug, PartialEq)]
pub struct TaskRecord {
    pub(crate) life: Life,
}

/// What changes in the life of a task.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Life {
    /// What does not change.
    pub accepted: Arc<Accepted>,

    /// Where it stands.
    pub state: TaskState,
    /// Which run-through this is: 1, and one more for every explicit retry.
    pub generation: u32,
    /// The number of the latest attempt in this generation; 0 before the first.
    pub attempt: u32,
    /// How many attempts failed and were retried in this generation.
    pub retries: u32,
    /// How many attempts said "not now" in this generation, and were charged as none.
    pub deferrals: u32,
    /// How many claims were not settled in this generation: one while it runs, and one for every crash.
    pub crashes: u32,

    /// The token of the latest claim.
    pub token: FenceToken,
    /// Who made the latest claim.
    pub worker: Option<WorkerId>,
    /// Until when that claim holds, while it is held.
    pub lease_until: Option<Timestamp>,

    /// When it was accepted.
    pub created_at: Timestamp,
    /// When it was [handed on](crate::task::lifecycle::Outcome::HandedOn) first in this generation.
    pub handed_on_at: Option<Timestamp>,
    /// When it may run, or might have.
    pub run_at: Timestamp,
    /// When it expires unless it is run before.
    pub expires_at: Timestamp,
    /// When the latest attempt began.
    pub started_at: Option<Timestamp>,
    /// When it ended.
    pub ended_at: Option<Timestamp>,

    /// The status of the response that is kept, if one is.
    pub status_code: Option<u16>,
    /// How long that response's body is, and of what type.
    pub response: Option<Content>,
    /// What went wrong last.
    pub error: Option<Arc<str>>,
    /// How far the handler says it is.
    pub progress: Option<Progress>,
    /// What happened to it, oldest first; of a very long history, the first event and the latest.
    pub history: History,
    /// Who was told how it ended, one entry per destination: of this generation, and of earlier ones what was still to be
    /// told when the task was run again.
    pub deliveries: Vec<Delivery>,

    /// What a newer build has written beside all this, and this one only carries.
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
    /// The longest name of a function that is kept, in bytes: as for a task's own name. The rest is cut off.
    pub const FUNCTION_BYTES: usize = TaskName::LONGEST;

    /// The longest method that is kept, in bytes: the longest that is registered has 16. The beginning of a method is one,
    /// too; the whole stands in the request.
    pub const METHOD_BYTES: usize = 32;

    /// The longest callback URL that is kept, in bytes. URLs of this length work everywhere; a longer one is refused when its
    /// request comes in, since half of one leads elsewhere. It stands in the record, and not in the request beside it, so
    /// that whoever delivers, and whoever lists, needs to read nothing else.
    pub const CALLBACK_BYTES: usize = 2048;

    /// The longest version that is kept, in bytes: it is a word in a table. The rest is cut off.
    pub const VERSION_BYTES: usize = 64;

    /// What is settled about `task`. Of a long method, target, function or version, it is the beginning.
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

    /// What the task is listed under: the name given at accept, or the first segment of the path; at most
    /// [`FUNCTION_BYTES`](Self::FUNCTION_BYTES) of it.
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

    /// The host of the URL that the request named, where it named one: which completions come or do not come to one place.
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

    /// Whether the task id begins so.
    #[must_use]
    pub fn task_id_starts_with(&self, prefix: &str) -> bool {
        match &self.name {
            Some(name) => name.as_str().starts_with(prefix),
            None => self.id.to_string().starts_with(prefix),
        }
    }
}

impl TaskRecord {
    /// Whether its process died under it before: such tasks are claimed one at a time per worker.
    #[must_use]
    pub const fn is_suspect(&self) -> bool {
        self.crashed_times() > 0
    }

    /// How often its process died under it in this generation.
    #[must_use]
    pub const fn crashed_times(&self) -> u32 {
        // A held task has counted its present claim already.
        self.life.crashes.saturating_sub(self.life.state.is_held() as u32)
    }

    /// Its place in a listing.
    #[must_use]
    pub fn cursor(&self) -> Cursor {
        Cursor {
            created_at: self.created_at,
            id: self.id,
        }
    }

    /// What there is to say of an event in its history: of a [`Running`](TaskState::Running), which worker it was.
    #[must_use]
    pub fn detail_of<'a>(&'a self, event: &'a HistoryEvent) -> Option<&'a str> {
        let latest_run = || self.history.iter().rfind(|event| event.state == TaskState::Running);
        match &event.detail {
            Some(detail) => Some(detail),
            None if latest_run()?.id == event.id => self.worker.as_ref().map(WorkerId::as_str),
            None => None,
        }
    }

    /// The latest claim.
    #[must_use]
    pub fn lease(&self) -> LeaseRef {
        LeaseRef {
            id: self.id,
            token: self.token,
        }
    }

    /// Where its completion stands with all destinations of this generation together.
    #[must_use]
    pub fn destination_status(&self) -> DeliveryStatus {
        let of_now = self
            .deliveries
            .iter()
            .filter(|delivery| delivery.generation == self.generation);
        of_now.map(|delivery| delivery.status).max().unwrap_or_default()
    }
}

/// How far a task is, in the handler's own words.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Progress {
    /// Between 0 and 1.
    pub fraction: f32,
    /// What is being done.
    pub message: Arc<str>,
}

impl Progress {
    /// The longest message that is kept, in bytes: a line beside a bar. It is written once a second, and the log takes what is
    /// longer.
    pub const MESSAGE_BYTES: usize = 256;

    /// A fraction, put between 0 and 1, and a message, cut to [`MESSAGE_BYTES`](Self::MESSAGE_BYTES).
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

/// The method, or the beginning of a very long one.
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
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LogLine {
    /// Its number in the task's log, from 1. Given by the store; 0 before.
    pub seq: u64,
    /// When.
    pub at: Timestamp,
    /// In which attempt. Given by the store.
    pub attempt: u32,
    /// How serious, as `tracing` names it: `ERROR`, `WARN`, `INFO`, `DEBUG`, `TRACE`.
    pub level: Arc<str>,
    /// Which part of the program.
    pub target: Arc<str>,
    /// The message.
    pub message: Arc<str>,
    /// Named values beside it.
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

    /// About how many bytes it takes to keep.
    #[must_use]
    pub fn weight(&self) -> usize {
        let fields: usize = self.fields.iter().map(|(name, value)| name.len() + value.len()).sum();
        self.target.len() + self.message.len() + fields + 32
    }
}

/// How many tasks are in each state, and how long the first in the queue has been waiting.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counts {
    by_state: [u64; TaskState::ALL.len()],
    /// How long ago the task that has waited longest could have been run.
    pub oldest_queued: Option<Duration>,
    /// Of all tenants: how many stored values the store has found damaged, and set aside, since this process opened it.
    pub set_aside: u64,
    /// Of all tenants: how many keys of ended tasks the store has forgotten before their window was over, for want of room,
    /// since this process opened it.
    pub forgotten_keys: u64,
    /// How many completions are still to be delivered. Only known of all tenants together.
    pub pending_deliveries: Option<u64>,
}

impl Counts {
    /// How many tasks are in `state`.
    #[must_use]
    pub const fn of(&self, state: TaskState) -> u64 {
        self.by_state[state as usize]
    }

    /// Says how many tasks are in `state`.
    pub const fn set(&mut self, state: TaskState, count: u64) {
        self.by_state[state as usize] = count;
    }

    /// Every state with its count.
    pub fn iter(&self) -> impl Iterator<Item = (TaskState, u64)> {
        TaskState::ALL.into_iter().map(|state| (state, self.of(state)))
    }

    /// How many wait to be claimed.
    #[must_use]
    pub const fn queued(&self) -> u64 {
        self.of(TaskState::Enqueued) + self.of(TaskState::Retrying)
    }
}
