//! Which results are failures, which failures are tried again, and when.

use std::time::{Duration, SystemTime};

use http::{Extensions, HeaderMap, StatusCode};

#[cfg(doc)]
use crate::task::lifecycle::DEFERRALS;
use crate::{engine::attempts::grpc::GrpcFailure, error::BoxError, task::retry_after};

/// Decides what the end of an attempt means. [`Backoff`] is the default.
///
/// It must not block. Where it panics, [`Backoff::new`] decides instead.
pub trait RetryPolicy: Send + Sync + 'static {
    /// How many times a failed task is tried again. Stored with each task when it is accepted.
    fn max_retries(&self) -> u32;

    /// What an attempt's end means. Asked once for every attempt but those after which the task is [handed
    /// on](crate::RespondAsyncBuilder::version_patience); once more, with [`AttemptEnd::Panicked`], where a value that
    /// the handler left behind panics as it is let go of.
    fn judge(&self, end: &AttemptEnd<'_>) -> Verdict;

    /// How long to wait before the `retry`th retry, counted from 1, where the response did not say. `jitter` is a random
    /// number in `0.0..1.0`: take randomness from it alone, so that a simulation can be repeated.
    fn delay(&self, retry: u32, jitter: f64) -> Duration;
}

/// How an attempt ended, as the engine saw it.
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
        /// The extensions, where a handler leaves what is meant for the layer: see [`DoNotRetry`].
        extensions: &'a Extensions,
        /// What came behind the body, once it had ended. Trailers are for judging: they are not kept with the response.
        trailers: Option<&'a HeaderMap>,
        /// Whether the body was cut, at the result limit or by the end of the attempt's time.
        truncated: bool,
        /// Whether the attempt's time was over before the body was. The task is not tried again then, whatever the
        /// verdict: a retry is a failure. Taken for a success, it ends with what was sent so far.
        timed_out: bool,
    },
    /// The service answered, but its body broke off.
    BrokenBody(&'a BoxError),
    /// The service failed without an answer.
    Error(&'a BoxError),
    /// The service panicked.
    Panicked,
    /// The attempt took longer than the attempt timeout, and there was no head of an answer.
    TimedOut,
}

/// What the end of an attempt means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Verdict {
    /// The task has succeeded.
    Success,
    /// The task has failed, unless it has retries left.
    Retry {
        /// How long to wait, where the response says.
        after: Option<Duration>,
    },
    /// The handler says "not now": the task waits, and this attempt is not counted. As often as [`DEFERRALS`] in each
    /// generation of a task; from then on, and for a task without retries, it is a `Retry` after the same wait.
    Defer {
        /// How long to wait.
        after: Duration,
    },
    /// The task has failed.
    Failure,
}

/// Put into a response's extensions, this makes its failure final: the handler knows that trying again cannot help.
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

/// The default policy: 2xx and 3xx are success; 5xx, 408, 425, 429, an error, a panic, a broken body and a timeout are
/// tried again; any other status is final.
///
/// **gRPC** answers 200 and says in `grpc-status`, in the head or in a trailer, how the call went. Other than 0 that is a
/// failure: 14 (UNAVAILABLE), 4 (DEADLINE_EXCEEDED), 8 (RESOURCE_EXHAUSTED) and 10 (ABORTED) are tried again, any other is
/// final, and one that makes no sense counts as 2 (UNKNOWN). What gRPC-Web puts into the body is not looked at.
///
/// **"Not now":** 429 and 503 with a `Retry-After`, the answers of a handler that cannot do the work at the moment and
/// knows when it can, use up no attempt: the task waits for as long as was asked. That is so ten times in each generation of a
/// task ([`DEFERRALS`]); from then on they are failures like others. A task without retries is not deferred
/// either: it runs once.
///
/// The wait is random between zero and a bound that doubles with each retry ("full jitter"), so that tasks which failed
/// together do not come back together. A `Retry-After` on the response is obeyed instead, up to
/// [`RETRY_AFTER_CAP`](Self::RETRY_AFTER_CAP).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    max_retries: u32,
    base: Duration,
    cap: Duration,
}

impl Backoff {
    /// The longest that a response can ask to wait. A header is no reason to keep a task for a year.
    pub const RETRY_AFTER_CAP: Duration = Duration::from_secs(60 * 60);

    /// 3 retries, within 1 s, 2 s, 4 s.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            max_retries: 3,
            base: Duration::from_secs(1),
            cap: Duration::from_secs(5 * 60),
        }
    }

    /// How many times a failed task is tried again; 0 is never, whatever a response asks for.
    #[must_use]
    pub const fn max_retries(mut self, retries: u32) -> Self {
        self.max_retries = retries;
        self
    }

    /// The bound of the first wait.
    #[must_use]
    pub const fn base(mut self, base: Duration) -> Self {
        self.base = base;
        self
    }

    /// What the bound does not grow beyond.
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
