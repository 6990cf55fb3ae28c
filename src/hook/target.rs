//! Destinations: where completions go under a name of their own, each with its own pool and schedule.

use std::{fmt, sync::Arc, time::Duration};

use bytes::Bytes;

use crate::{
    error::{BoxError, BoxFuture, ConfigError},
    hook::{Completion, CompletionHook},
    task::{Destination, RequestId},
};

/// Somewhere that completions are delivered to: over HTTP, to another path of the application, into a queue.
///
/// The order to deliver is stored under the target's [`name`](Self::name), and claimed only by processes that have a target
/// of that name. Whatever [`deliver`](Self::deliver) answers, the result of the task stays what it is.
///
/// # Cancel safety
///
/// The future of a try is dropped when it takes longer than [`limit`](Self::limit), and when the grace of a shutdown
/// is over; the delivery is then tried again, under the same [`webhook_id`](Completion::webhook_id).
pub trait Target: Send + Sync + 'static {
    /// Its name: letters, digits, `_` and `-`, up to 64. It must stay the same as long as deliveries to it are stored.
    fn name(&self) -> &Destination;

    /// Tries once.
    fn deliver<'a>(&'a self, completion: Completion, application: &'a dyn Application) -> BoxFuture<'a, Tried>;

    /// When a try that failed is followed by another.
    fn schedule(&self) -> &Schedule;

    /// How many tries are made at once, by this process.
    fn places(&self) -> usize;

    /// How long one try may take.
    fn limit(&self) -> Duration;

    /// Whether what it delivers comes back as a task of this application. Such a task is told to no target that answers
    /// `true` here, or each end would lead to the next.
    fn reenters(&self) -> bool {
        false
    }
}

/// Completions sent to URLs that clients name: the policy which ones may be, and the target under the name
/// [`Destination::CALLBACK`]. Given to [`RespondAsyncBuilder::callbacks`](crate::RespondAsyncBuilder::callbacks).
pub trait Callbacks: Target {
    /// The URL as it is stored and called, if it may be called.
    ///
    /// # Errors
    ///
    /// [`CallbackRefused`] says no more than that: why would tell a stranger what is where.
    fn admit<'a>(&'a self, url: &'a str) -> BoxFuture<'a, Result<Arc<str>, CallbackRefused>>;
}

/// The URL is not one that is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the callback URL is refused")]
pub struct CallbackRefused;

/// The application itself, as a target can reach it.
pub trait Application: Send + Sync {
    /// Stores a new task: the request, one level deeper than the task that ended, in its tenant, once for each webhook id.
    fn submit<'a>(
        &'a self,
        completion: &'a Completion,
        request: http::Request<Bytes>,
    ) -> BoxFuture<'a, Result<RequestId, NotSubmitted>>;
}

/// Why a task was not stored.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NotSubmitted {
    /// There is no room, or no answer: it may be possible later.
    #[error("the application could not take it")]
    Later(#[source] BoxError),
    /// It is one of too long a chain of async requests that lead to each other.
    #[error("it would be the next of {0} async requests that led to each other, and no more are let through")]
    TooDeep(u8),
}

/// What became of one try.
#[derive(Debug)]
#[non_exhaustive]
#[must_use]
pub struct Tried {
    /// How it ended.
    pub outcome: TryOutcome,
    /// The HTTP status of the answer, where there was one.
    pub status_code: Option<u16>,
    /// What went wrong, or the first of what was answered. Its first KiB is kept.
    pub text: Option<String>,
}

/// How a try ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TryOutcome {
    /// It was taken.
    Delivered,
    /// It was not. The schedule says when it is tried again, but not sooner than asked here.
    Failed {
        /// How long the other side asks to wait.
        retry_after: Option<Duration>,
    },
    /// It was not, and there is no use in trying again.
    GivenUp,
    /// Its address is refused.
    Blocked,
    /// It was not tried, and no try is charged: its turn comes later.
    Postponed(Duration),
}

impl Tried {
    /// A try that ended so, with nothing to say of it yet.
    pub const fn new(outcome: TryOutcome) -> Self {
        Self {
            outcome,
            status_code: None,
            text: None,
        }
    }

    /// A try that failed, to be made again on schedule.
    pub fn failed(error: impl fmt::Display) -> Self {
        Self::new(TryOutcome::Failed { retry_after: None }).saying(error.to_string())
    }

    /// With the HTTP status of the answer.
    pub const fn answered(mut self, status: u16) -> Self {
        self.status_code = Some(status);
        self
    }

    /// With a text to show.
    pub fn saying(mut self, text: impl Into<String>) -> Self {
        self.text = Some(text.into());
        self
    }
}

/// When tries follow each other: the first at once, then after each of these pauses, jittered by a tenth; then no more.
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
    /// The longest that a `Retry-After` is obeyed for: the longest pause of the default schedule.
    pub const RETRY_AFTER_CAP: Duration = Duration::from_secs(24 * 60 * 60);

    /// One try at once, and one after each of these pauses.
    #[must_use]
    pub fn new(pauses: impl IntoIterator<Item = Duration>) -> Self {
        Self(pauses.into_iter().collect())
    }

    /// The pauses.
    #[must_use]
    pub fn pauses(&self) -> &[Duration] {
        &self.0
    }

    /// How long to wait after so many failed tries, if there is to be another. `jitter` is in `0.0..1.0`.
    pub(crate) fn next(&self, tried: u32, retry_after: Option<Duration>, jitter: f64) -> Option<Duration> {
        let pause = self.0.get(tried as usize)?.mul_f64(0.9 + 0.2 * jitter);
        Some(pause.max(retry_after.unwrap_or_default().min(Self::RETRY_AFTER_CAP)))
    }
}

/// Fast at first for what was a hiccup, then for three days, which is how long it may take somebody to mend a receiver over
/// a weekend: after 5 s, 5 min, 30 min, 2 h, 5 h, 10 h, 14 h, 20 h and 24 h.
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

/// Who is to be told: what [`IntoHook`](crate::hook::IntoHook) makes of what the builder is given.
pub struct Hook(pub(crate) HookKind);

pub(crate) enum HookKind {
    /// All of these together are the destination [`Destination::LOCAL`].
    InProcess(Arc<dyn CompletionHook>),
    /// A destination of its own.
    Aimed(Arc<dyn Target>),
}

impl Hook {
    /// A hook of this process.
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

/// The name of a target, if it is one that can be stored and stand in a webhook id, which has no dots.
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
    fn who_asks_to_wait_longer_is_waited_for_up_to_a_day() {
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
