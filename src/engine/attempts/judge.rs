//! Judges the end of an attempt: turns the verdict of the retry policy into an outcome.
//!
//! The error of a handler and the extensions of its response have types of the application. Formatting and dropping
//! them runs application code, so their panics are caught.

use std::{fmt::Write, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, StatusCode};

use crate::{
    engine::{
        attempts::{
            Attempts,
            answer_buffer::{PartialAnswer, Taken},
            entry::{Answer, BodyEnd, Replayed},
            grpc::GrpcFailure,
            retry::{AttemptEnd, Backoff, DoNotRetry, RetryPolicy, Verdict},
            running::Live,
        },
        caught::{Panic, caught, looked_at},
    },
    error::BoxError,
    probe::AttemptOutcome,
    task::{
        CapturedResponse,
        lifecycle::{ERROR_BYTES, Outcome},
    },
};

/// The judgement: the verdict (`None` if the task is handed on), the error of a failure, the response, and how the
/// attempt ended.
type Judged = (Option<Verdict>, String, Option<CapturedResponse>, AttemptOutcome);

impl Attempts {
    /// Judges an attempt that has timed out. `partial` is the part of the answer that has arrived, if any. It is judged
    /// by its head, and the task is not retried after it.
    pub(crate) fn judge_time_out(&self, live: &Live, partial: Option<PartialAnswer>) -> (Outcome, AttemptOutcome) {
        let judged = match partial {
            Some(partial) => self.judge_answer(live, partial.ended(BodyEnd::OutOfTime)),
            None => {
                let error = format!("the attempt took longer than {}", self.time_limit());
                Ok((
                    Some(self.verdict(&AttemptEnd::TimedOut)),
                    error,
                    None,
                    AttemptOutcome::TimedOut,
                ))
            }
        };
        self.settled_by(live, judged)
    }

    fn time_limit(&self) -> String {
        format!("{} s", self.core.settings.attempt_timeout.as_secs_f64())
    }

    /// Judges the end of a handler. If its error or response panics when it is formatted or dropped, the handler counts
    /// as panicked. `None` if the attempt timed out in the meantime, and the answer was judged then.
    pub(crate) fn judge(&self, live: &Live, end: Result<Replayed, Panic>) -> Option<(Outcome, AttemptOutcome)> {
        let judged = match end {
            Ok(Ok(end)) => match live.answer.take() {
                Taken::First(Some(partial)) => self.judge_answer(live, partial.ended(end)),
                Taken::First(None) | Taken::Already => return None,
            },
            Ok(Err(error)) => looked_at(error, |error| {
                let text = format!("the handler failed: {}", chain(error));
                (
                    Some(self.verdict(&AttemptEnd::Error(error))),
                    text,
                    None,
                    AttemptOutcome::Failed,
                )
            }),
            Err(panic) => Err(panic),
        };
        Some(self.settled_by(live, judged))
    }

    fn settled_by(&self, live: &Live, judged: Result<Judged, Panic>) -> (Outcome, AttemptOutcome) {
        let (verdict, text, response, ended) = judged.unwrap_or_else(|panic| {
            let text = format!("the handler panicked: {}", panic.0);
            (
                Some(self.verdict(&AttemptEnd::Panicked)),
                text,
                None,
                AttemptOutcome::Panicked,
            )
        });
        let outcome = match verdict {
            Some(verdict) => self.outcome(live, verdict, response, text),
            None => Outcome::HandedOn { error: text.into() },
        };
        let ended = match outcome {
            Outcome::Deferred { .. } => AttemptOutcome::Deferred,
            Outcome::HandedOn { .. } => AttemptOutcome::HandedOn,
            _ => ended,
        };
        (outcome, ended)
    }

    fn judge_answer(&self, live: &Live, answer: Answer) -> Result<Judged, Panic> {
        let Answer {
            response,
            extensions,
            trailers,
            end,
        } = answer;
        let status = response.status;
        let timed_out = matches!(end, BodyEnd::OutOfTime);
        let (verdict, text) = looked_at((extensions, end), |(extensions, end)| {
            if let BodyEnd::BrokenOff(error) = end {
                let text = format!("the response body broke off: {}", chain(error));
                return (Some(self.verdict(&AttemptEnd::BrokenBody(error))), text);
            }
            let grpc = || GrpcFailure::of(&response.headers, trailers.as_deref());
            let answered = |who: &str| match grpc() {
                Some(failure) => format!("{who} answered {status} with {failure}"),
                None => format!("{who} answered {status}"),
            };
            if let Some(version) = live.elsewhere.as_ref().filter(|_| !timed_out)
                && may_lack_its_route(status, grpc())
                && extensions.get::<DoNotRetry>().is_none()
            {
                let here = match &self.core.settings.version {
                    Some(here) => format!("version {here}"),
                    None => "a process without a version".into(),
                };
                let text = format!("{}; version {version} accepted the task", answered(&here));
                return (None, text);
            }
            let verdict = self.verdict(&AttemptEnd::Answered {
                status,
                headers: &response.headers,
                extensions,
                trailers: trailers.as_deref(),
                truncated: response.truncated,
                timed_out,
            });
            let text = match verdict {
                Verdict::Success => String::new(),
                _ => answered("the handler"),
            };
            (Some(verdict), text)
        })?;
        Ok(match verdict {
            Some(Verdict::Success) => (verdict, text, Some(response), AttemptOutcome::Succeeded),
            _ if timed_out => {
                let text = format!("{text}, and its body was not over after {}", self.time_limit());
                (Some(Verdict::Failure), text, Some(response), AttemptOutcome::TimedOut)
            }
            _ => (verdict, text, Some(response), AttemptOutcome::Failed),
        })
    }

    /// The verdict of the retry policy. If the policy panics, the default policy decides.
    fn verdict(&self, end: &AttemptEnd<'_>) -> Verdict {
        caught(|| self.core.settings.retry.judge(end)).unwrap_or_else(|_| Backoff::new().judge(end))
    }

    fn delay(&self, retry: u32) -> Duration {
        let jitter = fastrand::f64();
        caught(|| self.core.settings.retry.delay(retry, jitter)).unwrap_or_else(|_| Backoff::new().delay(retry, jitter))
    }

    fn outcome(&self, live: &Live, verdict: Verdict, response: Option<CapturedResponse>, mut error: String) -> Outcome {
        let missing = live.left_out;
        if missing > 0 && may_miss_something(response.as_ref().map(|response| response.status)) {
            let _ = write!(
                error,
                "; extensions of the original request that are missing on the replay: {missing}, see RespondAsyncBuilder::carry"
            );
        }
        self.outcome_of(live, verdict, response, error)
    }

    fn outcome_of(&self, live: &Live, verdict: Verdict, response: Option<CapturedResponse>, error: String) -> Outcome {
        match verdict {
            Verdict::Success => Outcome::Succeeded {
                response: response.map_or_else(no_content, Arc::new),
            },
            Verdict::Retry { after } if live.retries_left > 0 => {
                let retry = live.retries + 1;
                Outcome::Retry {
                    after: after.unwrap_or_else(|| self.delay(retry)),
                    error: error.into(),
                }
            }
            Verdict::Defer { after } if live.deferrals_left > 0 => Outcome::Deferred {
                after,
                error: error.into(),
            },
            Verdict::Defer { after } => {
                let as_others = Verdict::Retry { after: Some(after) };
                self.outcome_of(live, as_others, response, error)
            }
            Verdict::Retry { .. } | Verdict::Failure => Outcome::Failed {
                error: error.into(),
                response: response.map(Arc::new),
            },
        }
    }
}

/// Whether the answer may come from a router without a route for the request.
fn may_lack_its_route(status: StatusCode, grpc: Option<GrpcFailure<'_>>) -> bool {
    matches!(
        status,
        StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED | StatusCode::NOT_IMPLEMENTED
    ) || grpc.is_some_and(|failure| failure.is_unimplemented())
}

/// Whether the handler may have ended like this because a request extension is missing. Then axum answers 500,
/// authorization answers 401 or 403, and other code panics or fails.
fn may_miss_something(status: Option<StatusCode>) -> bool {
    matches!(
        status,
        None | Some(StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::INTERNAL_SERVER_ERROR)
    )
}

/// The text of an error and its causes. It ends after [`ERROR_BYTES`], since a chain of causes may be endless.
fn chain(error: &BoxError) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source.filter(|_| text.len() <= ERROR_BYTES) {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

fn no_content() -> Arc<CapturedResponse> {
    Arc::new(CapturedResponse::new(
        StatusCode::NO_CONTENT,
        HeaderMap::new(),
        Bytes::new(),
    ))
}
