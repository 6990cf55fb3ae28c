//! Decides which ends of attempts are failures, which failures are retried, and when.

use std::time::{Duration, SystemTime};

use http::{Extensions, HeaderMap, StatusCode};

#[cfg(doc)]
use crate::task::lifecycle::DEFERRALS;
use crate::{engine::attempts::grpc::GrpcFailure, error::BoxError, task::retry_after};

/// Decides whether an attempt failed, and whether its task is retried. [`Backoff`] is the default.
///
/// Set a policy with [`RespondAsyncBuilder::retry`](crate::RespondAsyncBuilder::retry).
///
/// A policy must not block. If it panics, [`Backoff::new`] decides.
///
/// # Examples
///
/// This policy also retries after 404, which a service behind the handler may answer. [`Backoff`] decides the rest:
///
/// ```
/// use std::time::Duration;
///
/// use tower_respond_async::{AttemptEnd, Backoff, RetryPolicy, Verdict};
///
/// struct Patient(Backoff);
///
/// impl RetryPolicy for Patient {
///     fn max_retries(&self) -> u32 {
///         RetryPolicy::max_retries(&self.0)
///     }
///
///     fn judge(&self, end: &AttemptEnd<'_>) -> Verdict {
///         match end {
///             AttemptEnd::Answered { status, .. } if status.as_u16() == 404 => Verdict::Retry { after: None },
///             other => self.0.judge(other),
///         }
///     }
///
///     fn delay(&self, retry: u32, jitter: f64) -> Duration {
///         RetryPolicy::delay(&self.0, retry, jitter)
///     }
/// }
/// # assert_eq!(Patient(Backoff::new()).judge(&AttemptEnd::Panicked), Verdict::Retry { after: None });
/// ```
pub trait RetryPolicy: Send + Sync + 'static {
    /// How often a failed task is retried. The number is stored with each task when it is accepted.
    fn max_retries(&self) -> u32;

    /// Judges the end of an attempt.
    ///
    /// It is called once for every attempt, except for attempts after which the task is
    /// [handed on](crate::RespondAsyncBuilder::version_patience). It is called again, with [`AttemptEnd::Panicked`], if
    /// a value of the response or the error panics when it is dropped.
    fn judge(&self, end: &AttemptEnd<'_>) -> Verdict;

    /// How long to wait before a retry if the verdict does not say. `retry` is its number, counted from 1.
    ///
    /// `jitter` is a random number in `0.0..1.0`. Use no other randomness, so that simulations are repeatable.
    fn delay(&self, retry: u32, jitter: f64) -> Duration;
}

/// How an attempt ended. [`RetryPolicy`] has an example.
#[derive(Debug)]
#[non_exhaustive]
pub enum AttemptEnd<'a> {
    /// The service answered.
    #[non_exhaustive]
    Answered {
        /// The status.
        status: StatusCode,
        /// The headers.
        headers: &'a HeaderMap,
        /// The extensions of the response. A handler can put values for the layer here, such as [`DoNotRetry`].
        extensions: &'a Extensions,
        /// The trailers after the body. They are not stored with the response.
        trailers: Option<&'a HeaderMap>,
        /// Whether the body was cut, at the result limit or when the attempt timed out.
        truncated: bool,
        /// Whether the attempt timed out before the body ended. Then the task is not retried: every verdict other than
        /// `Success` is a failure. With `Success`, the task ends with the part that has arrived.
        timed_out: bool,
    },
    /// The service answered, but its body broke off.
    BrokenBody(&'a BoxError),
    /// The service failed without an answer.
    Error(&'a BoxError),
    /// The service panicked.
    Panicked,
    /// The attempt timed out before a response head had arrived.
    TimedOut,
}

/// The verdict of a [`RetryPolicy`] on the end of an attempt. [`RetryPolicy`] has an example.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Verdict {
    /// The task has succeeded.
    Success,
    /// The attempt has failed. The task is retried if retries are left, and otherwise fails.
    Retry {
        /// How long to wait. `None`: as long as [`RetryPolicy::delay`] says.
        after: Option<Duration>,
    },
    /// The handler answered "not now": the task runs again later, and the attempt is not charged.
    ///
    /// A task is deferred at most [`DEFERRALS`] times in each generation. After that, and for tasks without retries,
    /// this is a `Retry` after the same wait.
    Defer {
        /// How long to wait.
        after: Duration,
    },
    /// The task has failed, and is not retried.
    Failure,
}

/// Makes a failure final. Insert it into the extensions of a response if a retry cannot help.
///
/// # Examples
///
/// ```
/// use http::{Response, StatusCode};
/// use tower_respond_async::DoNotRetry;
///
/// let mut response = Response::new("the file is damaged");
/// *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
/// response.extensions_mut().insert(DoNotRetry);
/// assert!(response.extensions().get::<DoNotRetry>().is_some());
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DoNotRetry;

/// The default retry policy.
///
/// A status of 2xx or 3xx is success. 5xx, 408, 425, 429, an error, a panic, a broken body and a timeout without a
/// response are retried. Any other status is a final failure.
///
/// **gRPC** answers with 200 and puts the result into `grpc-status`, in the head or in a trailer. Any code but 0 is a
/// failure: 14 (UNAVAILABLE), 4 (DEADLINE_EXCEEDED), 8 (RESOURCE_EXHAUSTED) and 10 (ABORTED) are retried; the others
/// are final. An invalid code counts as 2 (UNKNOWN). The body of gRPC-Web is not read.
///
/// **Deferral:** 429 or 503 with a `Retry-After` means that the handler cannot do the work now. The task waits as long
/// as the header says, up to [`RETRY_AFTER_CAP`](Self::RETRY_AFTER_CAP), and the attempt is not charged. A task is
/// deferred at most ten times in each generation ([`DEFERRALS`]); after that, such an answer is a failure that is
/// retried. A task without retries is not deferred, so it runs once.
///
/// **The wait** before a retry is random, between zero and a bound that doubles with each retry ("full jitter"), so
/// that tasks that failed together are not retried together. A `Retry-After` of the response is used instead, up
/// to the same cap.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
///
/// use tower_respond_async::{Backoff, MemoryStore, RespondAsyncLayer};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// // At most 5 retries, after up to 10 s, 20 s, 40 s, 60 s and 60 s.
/// let retry = Backoff::new().max_retries(5).base(Duration::from_secs(10)).cap(Duration::from_secs(60));
/// let layer = RespondAsyncLayer::builder(MemoryStore::new()).retry(retry).build()?;
/// # drop(layer);
/// # Ok(()) }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    max_retries: u32,
    base: Duration,
    cap: Duration,
}

impl Backoff {
    /// The longest wait that a `Retry-After` can set: one hour. A longer one counts as this.
    pub const RETRY_AFTER_CAP: Duration = Duration::from_secs(60 * 60);

    /// A policy of 3 retries, after up to 1 s, 2 s and 4 s.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            max_retries: 3,
            base: Duration::from_secs(1),
            cap: Duration::from_secs(5 * 60),
        }
    }

    /// Sets how often a failed task is retried. 0 means never, and no deferrals either. Default: 3.
    #[must_use]
    pub const fn max_retries(mut self, retries: u32) -> Self {
        self.max_retries = retries;
        self
    }

    /// Sets the bound of the wait before the first retry. Default: 1 s.
    #[must_use]
    pub const fn base(mut self, base: Duration) -> Self {
        self.base = base;
        self
    }

    /// Sets the greatest bound of a wait. Default: 5 min.
    #[must_use]
    pub const fn cap(mut self, cap: Duration) -> Self {
        self.cap = cap;
        self
    }
}

impl Default for Backoff {
    fn default() -> Self {
        Self::new()
    }
}

impl RetryPolicy for Backoff {
    fn max_retries(&self) -> u32 {
        self.max_retries
    }

    fn judge(&self, end: &AttemptEnd<'_>) -> Verdict {
        let AttemptEnd::Answered {
            status,
            headers,
            extensions,
            trailers,
            ..
        } = end
        else {
            return Verdict::Retry { after: None };
        };
        let retried = matches!(
            *status,
            StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_EARLY | StatusCode::TOO_MANY_REQUESTS
        );
        let may_pass = if status.is_success() || status.is_redirection() {
            match GrpcFailure::of(headers, *trailers) {
                None => return Verdict::Success,
                Some(failure) => failure.may_pass(),
            }
        } else {
            status.is_server_error() || retried
        };
        if !may_pass || extensions.get::<DoNotRetry>().is_some() {
            return Verdict::Failure;
        }
        let after = retry_after(headers, SystemTime::now()).map(|after| after.min(Self::RETRY_AFTER_CAP));
        match (*status, after) {
            (StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE, Some(after)) => Verdict::Defer { after },
            _ => Verdict::Retry { after },
        }
    }

    fn delay(&self, retry: u32, jitter: f64) -> Duration {
        let doubled = self
            .base
            .saturating_mul(1u32.checked_shl(retry.saturating_sub(1)).unwrap_or(u32::MAX));
        doubled.min(self.cap).mul_f64(jitter.clamp(0.0, 1.0))
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use http::{HeaderValue, header::RETRY_AFTER};

    use super::*;

    fn judge(status: u16, header: Option<&'static str>, final_word: bool) -> Verdict {
        let mut headers = HeaderMap::new();
        if let Some(value) = header {
            headers.insert(RETRY_AFTER, HeaderValue::from_static(value));
        }
        let mut extensions = Extensions::new();
        if final_word {
            extensions.insert(DoNotRetry);
        }
        Backoff::new().judge(&AttemptEnd::Answered {
            status: StatusCode::from_u16(status).unwrap(),
            headers: &headers,
            extensions: &extensions,
            trailers: None,
            truncated: false,
            timed_out: false,
        })
    }

    #[test]
    fn every_status_has_its_verdict() {
        for status in 100..=999 {
            let expected = match status {
                200..=399 => Verdict::Success,
                408 | 425 | 429 | 500..=599 => Verdict::Retry { after: None },
                _ => Verdict::Failure,
            };
            assert_eq!(judge(status, None, false), expected, "{status}");
        }
    }

    #[test]
    fn the_handler_can_make_a_failure_final_and_ask_for_a_pause() {
        assert_eq!(judge(500, None, true), Verdict::Failure);
        assert_eq!(judge(503, Some("7"), true), Verdict::Failure);
        let after = Duration::from_secs;
        for status in [429, 503] {
            let deferred = |secs| Verdict::Defer { after: after(secs) };
            assert_eq!(judge(status, Some("7"), false), deferred(7));
            assert_eq!(judge(status, Some("99999999999999999999999"), false), deferred(3600));
            assert_eq!(judge(status, Some("soon"), false), Verdict::Retry { after: None });
        }
        let asked = Verdict::Retry { after: Some(after(7)) };
        assert_eq!(judge(500, Some("7"), false), asked);
    }

    #[test]
    fn a_date_in_the_past_means_now() {
        let mut headers = HeaderMap::new();
        headers.insert(RETRY_AFTER, HeaderValue::from_static("Thu, 01 Jan 1970 00:01:00 GMT"));
        let at = |secs| UNIX_EPOCH + Duration::from_secs(secs);
        assert_eq!(retry_after(&headers, at(20)), Some(Duration::from_secs(40)));
        assert_eq!(retry_after(&headers, at(90)), Some(Duration::ZERO));
    }

    #[test]
    fn the_wait_doubles_up_to_its_cap() {
        let backoff = Backoff::new();
        let most: Vec<_> = (1..=11).map(|retry| backoff.delay(retry, 1.0).as_secs()).collect();
        assert_eq!(most, [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]);
        assert_eq!(backoff.delay(u32::MAX, 1.0), Duration::from_secs(300));
        assert_eq!(backoff.delay(5, 0.0), Duration::ZERO);
    }
}
