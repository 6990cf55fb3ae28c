//! Targets: destinations with a name, a pool and a schedule of their own.

use std::{
    fmt,
    sync::{Arc, LazyLock},
    time::Duration,
};

use bytes::Bytes;

use crate::{
    error::{BoxError, BoxFuture, ConfigError},
    hook::{Completion, CompletionHook},
    task::{Destination, RequestId},
};

/// Delivers completions to one destination: over HTTP, to a path of the application, into a queue.
///
/// A completion is stored under the target's [`name`](Self::name). Only processes with a target of that name claim it.
/// The result of [`deliver`](Self::deliver) never changes the task.
///
/// # Cancel safety
///
/// The future of a try is dropped when it takes longer than [`limit`](Self::limit), and when the grace of a shutdown is
/// over. The delivery is then tried again, with the same [`webhook_id`](Completion::webhook_id).
///
/// # Examples
///
/// A target that puts the webhook id of each completion into a queue, here a channel:
///
/// ```
/// use bytes::Bytes;
/// use tokio::sync::mpsc;
/// use tower::Layer;
/// use tower_respond_async::{
///     Completion, MemoryStore, RespondAsyncLayer, Submission,
///     error::BoxFuture,
///     hook::{Application, Target, Tried, TryOutcome},
///     task::Destination,
/// };
///
/// struct Queue {
///     name: Destination,
///     sender: mpsc::Sender<String>,
/// }
///
/// impl Target for Queue {
///     fn name(&self) -> &Destination {
///         &self.name
///     }
///
///     fn deliver<'a>(&'a self, completion: Completion, _: &'a dyn Application) -> BoxFuture<'a, Tried> {
///         Box::pin(async move {
///             match self.sender.send(completion.webhook_id).await {
///                 Ok(()) => Tried::new(TryOutcome::Delivered),
///                 Err(error) => Tried::failed(error),
///             }
///         })
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let (sender, mut queue) = mpsc::channel(100);
/// let target = Queue { name: Destination::new("queue"), sender };
/// let layer = RespondAsyncLayer::builder(MemoryStore::new()).on_completion(target).build()?;
/// # let _app = layer.layer(axum::Router::<()>::new());
/// layer.tasks().submit(Submission::new(http::Request::get("/report").body(Bytes::new())?)).await?;
/// let id = queue.recv().await.ok_or("the target is gone")?;
/// assert!(id.ends_with("_1_queue"), "of the first generation, for this destination");
/// # Ok(()) }
/// ```
pub trait Target: Send + Sync + 'static {
    /// The name of the destination: 1 to 64 letters, digits, `_` and `-`. Keep it as long as deliveries under it are
    /// stored.
    fn name(&self) -> &Destination;

    /// Makes one try.
    fn deliver<'a>(&'a self, completion: Completion, application: &'a dyn Application) -> BoxFuture<'a, Tried>;

    /// When a failed try is followed by another. Default: [`Schedule::default`], ten tries in three days.
    fn schedule(&self) -> &Schedule {
        static USUAL: LazyLock<Schedule> = LazyLock::new(Schedule::default);
        &USUAL
    }

    /// How many tries this process makes at once. Default: 4. The builder refuses 0.
    fn concurrency(&self) -> usize {
        4
    }

    /// How long one try may take. Default: 20 s.
    fn limit(&self) -> Duration {
        Duration::from_secs(20)
    }

    /// Whether each delivery becomes a new task of this application. No completion of such a task goes to a target that
    /// returns `true` here: each end would lead to the next.
    fn reenters(&self) -> bool {
        false
    }
}

/// The target for URLs that requests name, called [`Destination::CALLBACK`], and the policy which URLs they may name.
/// Give one to [`RespondAsyncBuilder::callbacks`](crate::RespondAsyncBuilder::callbacks).
///
/// # Examples
///
/// A policy that permits the URLs of one host. It also implements [`Target`], whose example shows how. With the feature
/// `webhook`, `hook::webhook::CallbackPolicy` is a policy with a list of hosts, and delivers too.
///
/// ```
/// use std::sync::Arc;
///
/// use tower_respond_async::{MemoryStore, RespondAsyncLayer, error::BoxFuture, hook::{CallbackRefused, Callbacks}};
///
/// # use tower_respond_async::{Completion, hook::{Application, Target, Tried}, task::Destination};
/// struct Partners {
///     // ...
/// }
///
/// # const CALLBACK: &Destination = &Destination::CALLBACK;
/// # impl Target for Partners {
/// #     fn name(&self) -> &Destination { CALLBACK }
/// #     fn deliver<'a>(&'a self, _: Completion, _: &'a dyn Application) -> BoxFuture<'a, Tried> {
/// #         Box::pin(async { Tried::failed("the example sends nothing") })
/// #     }
/// # }
/// impl Callbacks for Partners {
///     fn admit<'a>(&'a self, url: &'a str) -> BoxFuture<'a, Result<Arc<str>, CallbackRefused>> {
///         let known = url.starts_with("https://hooks.example.org/");
///         Box::pin(async move { known.then(|| url.into()).ok_or(CallbackRefused) })
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let policy = Partners {};
/// let layer = RespondAsyncLayer::builder(MemoryStore::new()).callbacks(policy).build()?;
/// # drop(layer);
/// # Ok(()) }
/// ```
pub trait Callbacks: Target {
    /// Returns the URL as it is stored and called, if it may be called.
    ///
    /// # Errors
    ///
    /// [`CallbackRefused`], without a reason: a reason would tell a stranger what is at an address.
    fn admit<'a>(&'a self, url: &'a str) -> BoxFuture<'a, Result<Arc<str>, CallbackRefused>>;
}

/// The policy does not permit this URL.
///
/// See the example of [`Callbacks`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the callback URL is refused")]
pub struct CallbackRefused;

/// The application itself, for targets that deliver to it.
///
/// # Examples
///
/// What a [`Target`] can do in [`deliver`](Target::deliver), if it [reenters](Target::reenters) the application.
/// [`AppPath`](crate::hook::AppPath) is such a target, ready-made.
///
/// ```
/// use http::Request;
/// use tower_respond_async::{Completion, hook::{Application, NotSubmitted, Tried, TryOutcome}};
///
/// async fn archive(completion: &Completion, application: &dyn Application) -> Result<Tried, http::Error> {
///     let request = Request::post("/archive").body(completion.task_id().into())?;
///     Ok(match application.submit(completion, request).await {
///         Ok(id) => Tried::new(TryOutcome::Delivered).saying(format!("posted as task {id}")),
///         Err(NotSubmitted::Later(error)) => Tried::failed(error),
///         Err(error) => Tried::new(TryOutcome::GivenUp).saying(error.to_string()),
///     })
/// }
/// ```
pub trait Application: Send + Sync {
    /// Stores the request as a new task, in the tenant of the task that ended, one level deeper. Calls with the same
    /// webhook id store one task.
    ///
    /// # Errors
    ///
    /// [`NotSubmitted::TooDeep`] if the chain of async requests is too long. [`NotSubmitted::Later`] if there is no
    /// room, if the store does not answer, if a shutdown has begun, or if this end was submitted with another request.
    fn submit<'a>(
        &'a self,
        completion: &'a Completion,
        request: http::Request<Bytes>,
    ) -> BoxFuture<'a, Result<RequestId, NotSubmitted>>;
}

/// Why a request was not stored as a new task.
///
/// See the example of [`Application`].
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NotSubmitted {
    /// It may be possible later: there is no room, or the store does not answer.
    #[error("the application could not take it")]
    Later(#[source] BoxError),
    /// The request would continue a chain of async requests that is too long.
    #[error("it would be the next of {0} async requests that led to each other, and no more are let through")]
    TooDeep(u8),
}

/// The result of one try.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
///
/// use tower_respond_async::hook::{Tried, TryOutcome};
///
/// let asked = Some(Duration::from_secs(30));
/// let busy = Tried::new(TryOutcome::Failed { retry_after: asked }).answered(503).saying("busy");
/// assert_eq!((busy.status_code, busy.text.as_deref()), (Some(503), Some("busy")));
/// let failed = Tried::failed("connection refused");
/// assert_eq!(failed.outcome, TryOutcome::Failed { retry_after: None });
/// ```
#[derive(Debug)]
#[non_exhaustive]
#[must_use]
pub struct Tried {
    /// How it ended.
    pub outcome: TryOutcome,
    /// The HTTP status of the answer, if there was one.
    pub status_code: Option<u16>,
    /// The error, or the beginning of the answer. Its first 64 bytes are stored; probes get all of it.
    pub text: Option<String>,
}

/// How a try ended.
///
/// See the example of [`Tried`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TryOutcome {
    /// The receiver took it.
    Delivered,
    /// The receiver did not take it. The next try follows on the schedule, but not before `retry_after`.
    Failed {
        /// How long the receiver asks to wait.
        retry_after: Option<Duration>,
    },
    /// The receiver did not take it, and another try is useless.
    GivenUp,
    /// The address is refused.
    Blocked,
    /// There was no complete try, and none is charged: the store could not return the data, or a shutdown cut the try off.
    /// The delivery is due after this time.
    Postponed(Duration),
}

impl Tried {
    /// A try with this outcome, without status and text.
    pub const fn new(outcome: TryOutcome) -> Self {
        Self {
            outcome,
            status_code: None,
            text: None,
        }
    }

    /// A failed try, to be repeated on the schedule.
    pub fn failed(error: impl fmt::Display) -> Self {
        Self::new(TryOutcome::Failed { retry_after: None }).saying(error.to_string())
    }

    /// Adds the HTTP status of the answer.
    pub const fn answered(mut self, status: u16) -> Self {
        self.status_code = Some(status);
        self
    }

    /// Adds a text.
    pub fn saying(mut self, text: impl Into<String>) -> Self {
        self.text = Some(text.into());
        self
    }
}

/// The schedule of tries: the first at once, and one after each of these pauses, give or take a tenth.
///
/// ```
/// use std::time::Duration;
///
/// use tower_respond_async::hook::Schedule;
///
/// let patient = Schedule::default();
/// assert_eq!(patient.pauses().first(), Some(&Duration::from_secs(5)));
/// let hasty = Schedule::new([1, 2, 4].map(Duration::from_secs));
/// assert_eq!(hasty.pauses().len(), 3);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schedule(Arc<[Duration]>);

impl Schedule {
    /// The longest `Retry-After` that is obeyed: as long as the longest pause of the default schedule.
    pub const RETRY_AFTER_CAP: Duration = Duration::from_secs(24 * 60 * 60);

    /// One try at once, and one after each of these pauses. A pause over a year is a year.
    #[must_use]
    pub fn new(pauses: impl IntoIterator<Item = Duration>) -> Self {
        // Longer ones would overflow as times.
        const LONGEST: Duration = Duration::from_secs(366 * 24 * 60 * 60);
        Self(pauses.into_iter().map(|pause| pause.min(LONGEST)).collect())
    }

    /// The pauses.
    #[must_use]
    pub fn pauses(&self) -> &[Duration] {
        &self.0
    }

    /// The pause after this many failed tries, or `None` if there is no other. `jitter` is in `0.0..1.0`.
    pub(crate) fn next(&self, tried: u32, retry_after: Option<Duration>, jitter: f64) -> Option<Duration> {
        let pause = self.0.get(tried as usize)?.mul_f64(0.9 + 0.2 * jitter);
        Some(pause.max(retry_after.unwrap_or_default().min(Self::RETRY_AFTER_CAP)))
    }
}

/// Ten tries in three days: at once, and after 5 s, 5 min, 30 min, 2 h, 5 h, 10 h, 14 h, 20 h and 24 h. The first
/// pauses are for short failures, the last for a receiver that is repaired after a weekend.
impl Default for Schedule {
    fn default() -> Self {
        const MINUTE: u64 = 60;
        const HOUR: u64 = 60 * MINUTE;
        let pauses = [
            5,
            5 * MINUTE,
            30 * MINUTE,
            2 * HOUR,
            5 * HOUR,
            10 * HOUR,
            14 * HOUR,
            20 * HOUR,
            24 * HOUR,
        ];
        Self::new(pauses.map(Duration::from_secs))
    }
}

/// A receiver of completions, as [`IntoHook`](crate::hook::IntoHook) makes it from an argument of the builder.
///
/// # Examples
///
/// A hook of your own that the builder takes as it is, without an `Arc<dyn CompletionHook>`:
///
/// ```
/// use std::sync::Arc;
///
/// use tower_respond_async::{
///     BoxError, Completion, CompletionHook, MemoryStore, RespondAsyncLayer, error::BoxFuture,
///     hook::{Hook, IntoHook},
/// };
///
/// struct Audit;
///
/// impl CompletionHook for Audit {
///     fn deliver(&self, completion: Completion) -> BoxFuture<'_, Result<(), BoxError>> {
///         println!("{} is {}", completion.task_id(), completion.state);
///         Box::pin(async { Ok(()) })
///     }
/// }
///
/// impl IntoHook<Audit> for Audit {
///     fn into_hook(self) -> Hook {
///         Hook::in_process(Arc::new(self))
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let layer = RespondAsyncLayer::builder(MemoryStore::new()).on_completion(Audit).build()?;
/// # drop(layer);
/// # Ok(()) }
/// ```
pub struct Hook(pub(crate) HookKind);

pub(crate) enum HookKind {
    /// One hook of the process. All of them together are the destination [`Destination::LOCAL`].
    InProcess(Arc<dyn CompletionHook>),
    /// A target, which is a destination of its own.
    Aimed(Arc<dyn Target>),
}

impl Hook {
    /// A hook of the process.
    #[must_use]
    pub fn in_process(hook: Arc<dyn CompletionHook>) -> Self {
        Self(HookKind::InProcess(hook))
    }

    /// A destination of its own.
    #[must_use]
    pub fn aimed(target: Arc<dyn Target>) -> Self {
        Self(HookKind::Aimed(target))
    }
}

impl fmt::Debug for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            HookKind::InProcess(_) => f.write_str("Hook(in process)"),
            HookKind::Aimed(target) => write!(f, "Hook({})", target.name()),
        }
    }
}

/// Checks the name of a target. It is a part of the webhook id, which has no dots.
pub(crate) fn checked_name(setting: &'static str, name: &str) -> Result<Destination, ConfigError> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
    let reserved = [Destination::LOCAL, Destination::CALLBACK];
    if name.is_empty() || name.len() > 64 || !name.bytes().all(plain) {
        let problem = format!("{name:?} is no name of a destination: it has 1 to 64 letters, digits, '_' and '-'");
        return Err(ConfigError::new(setting, problem));
    }
    if reserved.iter().any(|reserved| reserved.as_str() == name) {
        return Err(ConfigError::new(
            setting,
            format!("the destination {name:?} is the layer's own"),
        ));
    }
    Ok(Destination::new(name.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_schedule_ends_and_is_jittered_by_a_tenth() {
        let schedule = Schedule::new([10, 100].map(Duration::from_secs));
        let secs = |tried, jitter| {
            schedule
                .next(tried, None, jitter)
                .map(|pause| pause.as_secs_f64().round())
        };
        assert_eq!((secs(0, 0.0), secs(0, 1.0)), (Some(9.0), Some(11.0)));
        assert_eq!((secs(1, 0.5), secs(2, 0.5)), (Some(100.0), None));
        assert_eq!(Schedule::default().pauses().len(), 9, "ten tries in all");
    }

    #[test]
    fn retry_after_lengthens_a_pause_up_to_a_day() {
        let schedule = Schedule::new([Duration::from_secs(10)]);
        let next = |asked| {
            schedule
                .next(0, Some(Duration::from_secs(asked)), 0.5)
                .map(|pause| pause.as_secs())
        };
        assert_eq!((next(1), next(60), next(u64::MAX)), (Some(10), Some(60), Some(86_400)));
        assert_eq!(
            schedule.next(1, Some(Duration::ZERO), 0.5),
            None,
            "asking does not lengthen the schedule"
        );
    }

    #[test]
    fn names_are_plain_and_not_the_layer_s_own() {
        assert!(checked_name("name", "billing-2_a").is_ok());
        for bad in ["", "a.b", "a b", "local", "callback", "\u{e4}", &"a".repeat(65)] {
            assert!(checked_name("name", bad).is_err(), "{bad}");
        }
    }
}
