//! Alibaba Cloud Function Compute: the header `X-Fc-Invocation-Type: Async` on an HTTP trigger.

use std::time::Duration;

use http::{HeaderMap, HeaderName};

use crate::{
    layer::dialect::{Ask, Options, single},
    task::{TaskName, own::X_FC_ASYNC_TASK_ID},
    wire::Problem,
};

// Statics, since a look-up by text would parse the name first, for every request.
pub(super) static TYPE: HeaderName = HeaderName::from_static("x-fc-invocation-type");
static TASK_ID: HeaderName = X_FC_ASYNC_TASK_ID;
/// An older name of [`TASK_ID`].
static INVOCATION_ID: HeaderName = HeaderName::from_static("x-fc-stateful-async-invocation-id");
static DELAY: HeaderName = HeaderName::from_static("x-fc-async-delay");

/// The limit of delays, in seconds. A delay is shorter than this.
const DELAY_LIMIT: u64 = 3600;

pub(super) fn read(headers: &HeaderMap) -> Ask {
    asked(headers).unwrap_or_else(|problem| Ask::Refuse(Box::new(problem)))
}

/// Whether a header of this name belongs to the dialect.
pub(super) fn is_own(name: &HeaderName) -> bool {
    [&TYPE, &TASK_ID, &INVOCATION_ID, &DELAY].contains(&name)
}

fn asked(headers: &HeaderMap) -> Result<Ask, Problem> {
    let Some(kind) = single(headers, &TYPE)? else {
        return Ok(Ask::No);
    };
    if kind.eq_ignore_ascii_case("sync") {
        return Ok(Ask::Sync);
    }
    if !kind.eq_ignore_ascii_case("async") {
        let kind = Problem::quoted(kind);
        return Err(Problem::invalid_argument(format!(
            "The header X-Fc-Invocation-Type is {kind}; it can be Async or Sync."
        )));
    }
    // Usually there is no other header. One pass over the names is cheaper than look-ups, which hash long names.
    if headers.keys().filter(|name| is_own(name)).count() == 1 {
        return Ok(Ask::Async(Options::default()));
    }
    Ok(Ask::Async(Options {
        name: name(headers)?,
        delay: delay(headers)?,
        ..Options::default()
    }))
}

fn name(headers: &HeaderMap) -> Result<Option<TaskName>, Problem> {
    let (new, old) = (single(headers, &TASK_ID)?, single(headers, &INVOCATION_ID)?);
    if let (Some(new), Some(old)) = (new, old)
        && new != old
    {
        return Err(Problem::invalid_argument(
            "The headers X-Fc-Async-Task-Id and X-Fc-Stateful-Async-Invocation-Id name different tasks; send one.",
        ));
    }
    let Some(text) = new.or(old) else { return Ok(None) };
    TaskName::new(text).map(Some).map_err(|error| {
        let text = Problem::quoted(text);
        Problem::invalid_argument(format!("The task id {text} is not valid: {error}."))
    })
}

fn delay(headers: &HeaderMap) -> Result<Duration, Problem> {
    let Some(text) = single(headers, &DELAY)? else {
        return Ok(Duration::ZERO);
    };
    // `parse` accepts a sign.
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    let secs = text.parse().ok();
    let secs = secs.filter(|secs| digits && (1..DELAY_LIMIT).contains(secs));
    secs.map(Duration::from_secs).ok_or_else(|| {
        let text = Problem::quoted(text);
        Problem::invalid_argument(format!(
            "The header X-Fc-Async-Delay is {text}; it is a whole number of seconds from 1 to {}.",
            DELAY_LIMIT - 1
        ))
    })
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn headers(lines: &[(&HeaderName, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append((*name).clone(), HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        headers
    }

    #[test]
    fn only_async_asks() {
        for value in ["Async", "async", "ASYNC"] {
            assert!(matches!(read(&headers(&[(&TYPE, value)])), Ask::Async(_)), "{value}");
        }
        for value in ["Sync", "sync"] {
            assert!(matches!(read(&headers(&[(&TYPE, value)])), Ask::Sync), "{value}");
        }
        assert!(matches!(read(&HeaderMap::new()), Ask::No));
        for value in ["", "yes", "async, async", "Async;q=1", "\u{e4}"] {
            assert!(matches!(read(&headers(&[(&TYPE, value)])), Ask::Refuse(_)), "{value}");
        }
        assert!(matches!(
            read(&headers(&[(&TYPE, "async"), (&TYPE, "sync")])),
            Ask::Refuse(_)
        ));
    }

    #[test]
    fn options_are_checked() {
        let with = |lines: &[(&HeaderName, &str)]| {
            let mut headers = headers(lines);
            headers.insert(TYPE.clone(), HeaderValue::from_static("Async"));
            match read(&headers) {
                Ask::Async(options) => Ok(options),
                Ask::Refuse(problem) => Err(problem),
                Ask::No | Ask::Sync => unreachable!("it asks"),
            }
        };
        assert_eq!(with(&[(&TASK_ID, "job_1")]).unwrap().name.unwrap().as_str(), "job_1");
        assert_eq!(with(&[(&INVOCATION_ID, "job")]).unwrap().name.unwrap().as_str(), "job");
        assert!(with(&[(&TASK_ID, "a"), (&INVOCATION_ID, "b")]).is_err());
        assert_eq!(with(&[(&DELAY, "3599")]).unwrap().delay, Duration::from_secs(3599));
        for (name, value) in [
            (&TASK_ID, ""),
            (&TASK_ID, "1a"),
            (&TASK_ID, "stats"),
            (&DELAY, "0"),
            (&DELAY, "3600"),
            (&DELAY, "-1"),
            (&DELAY, "+5"),
            (&DELAY, "1.5"),
            (&DELAY, "soon"),
        ] {
            assert!(with(&[(name, value)]).is_err(), "{name}: {value}");
        }
    }
}
