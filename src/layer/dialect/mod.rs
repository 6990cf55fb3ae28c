//! Ways of asking for async. A dialect reads the head of a request; all that it can find there is [`Options`].

mod fc;
mod prefer;

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};

pub(crate) use self::prefer::{PREFER, PREFERENCE_APPLIED, Preferences};
use crate::{
    task::{IdempotencyKey, TaskName},
    wire::Problem,
};

/// A way of asking for async.
///
/// Several may be on at once. They are asked in the order they were given in; the first that finds itself addressed
/// decides. `X-Fc-Invocation-Type: Sync` is such an address: the request is answered at once, whatever its `Prefer` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Dialect {
    /// Alibaba Cloud Function Compute: `X-Fc-Invocation-Type: Async`.
    ///
    /// `X-Fc-Async-Task-Id` names the task, `X-Fc-Async-Delay` delays it by up to an hour.
    Fc,
    /// RFC 7240: `Prefer: respond-async`, and `wait=N` to hold the answer for up to N seconds. Where the builder has
    /// [`callbacks`](crate::RespondAsyncBuilder::callbacks), `callback; url="..."` too. It has no way to name a task; for being sent twice
    /// and run once there is `Idempotency-Key`.
    Prefer,
}

impl Dialect {
    /// The name, as settings show it.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Fc => "fc",
            Self::Prefer => "prefer",
        }
    }
}

/// What a dialect makes of a request.
pub(crate) enum Ask {
    /// It is not addressed.
    No,
    /// Do not run it later, whatever another dialect finds.
    Sync,
    /// Run it later.
    Async(Options),
    /// It is addressed, and cannot be obeyed.
    Refuse(Box<Problem>),
}

/// What a request can ask for beside being run later.
#[derive(Debug, Default)]
pub(crate) struct Options {
    /// The client's name for the task.
    pub(crate) name: Option<TaskName>,
    /// A key from the dialect itself, used where there is no `Idempotency-Key`.
    pub(crate) key: Option<IdempotencyKey>,
    /// How long to wait before it runs.
    pub(crate) delay: Duration,
}

impl Dialect {
    /// Whether the request might be addressed to this dialect: one look-up, all that a synchronous request pays.
    pub(crate) fn is_hinted_at(self, headers: &HeaderMap) -> bool {
        match self {
            Self::Fc => headers.contains_key(&fc::TYPE),
            Self::Prefer => headers.contains_key(&PREFER),
        }
    }

    pub(crate) fn read(self, headers: &HeaderMap) -> Ask {
        match self {
            Self::Fc => fc::read(headers),
            Self::Prefer => prefer::read(headers),
        }
    }

    /// A header without what asks for async, so that a replay does not ask again; nothing if nothing else is in it.
    pub(crate) fn replayed(name: &HeaderName, value: HeaderValue) -> Option<HeaderValue> {
        match name {
            name if fc::is_own(name) => None,
            name if *name == PREFER => prefer::rest(&value),
            _ => Some(value),
        }
    }
}

/// The text of a header value that is to have one meaning: of several lines, all must say the same.
fn single<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a str>, Problem> {
    let mut values = headers.get_all(name).iter();
    let Some(first) = values.next() else { return Ok(None) };
    if values.any(|other| other != first) {
        return Err(Problem::invalid_argument(format!(
            "The header {name} is there more than once, with different values; send it once."
        )));
    }
    text(first, name).map(Some)
}

fn text<'a>(value: &'a HeaderValue, name: &HeaderName) -> Result<&'a str, Problem> {
    value
        .to_str()
        .map(str::trim)
        .map_err(|_| Problem::invalid_argument(format!("The header {name} holds characters other than visible ASCII.")))
}

static CALLBACK_URL: HeaderName = HeaderName::from_static("x-callback-url");

/// A URL at which the client wants to be told how its task ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct CallbackAsked {
    pub(crate) url: String,
    /// Whether it was asked for as a preference, which is acknowledged.
    pub(crate) preferred: bool,
}

/// The URL that a request names for its callback, whatever the dialect: as a preference beside `respond-async`, or in
/// `X-Callback-Url`.
pub(crate) fn callback(headers: &HeaderMap) -> Result<Option<CallbackAsked>, Problem> {
    let header = single(headers, &CALLBACK_URL)?;
    let preference = prefer::callback(headers)?;
    match (preference, header) {
        (Some(preference), Some(header)) if preference != header => Err(Problem::invalid_argument(
            "The preference callback and the header X-Callback-Url name different URLs; send one.",
        )),
        (Some(url), _) => Ok(Some(CallbackAsked { url, preferred: true })),
        (None, header) => Ok(header.map(|url| CallbackAsked {
            url: url.to_owned(),
            preferred: false,
        })),
    }
}

static IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// The client's idempotency key, quoted or bare, whatever the dialect.
pub(crate) fn idempotency_key(headers: &HeaderMap) -> Result<Option<IdempotencyKey>, Problem> {
    let Some(value) = single(headers, &IDEMPOTENCY_KEY)? else {
        return Ok(None);
    };
    let bare = match value.strip_prefix('"') {
        Some(quoted) => quoted.strip_suffix('"').ok_or_else(|| {
            Problem::invalid_argument(
                "The header Idempotency-Key begins with a quotation mark and does not end with one.",
            )
        })?,
        None => value,
    };
    IdempotencyKey::new(bare)
        .map(Some)
        .map_err(|error| Problem::invalid_argument(format!("The header Idempotency-Key is not valid: {error}.")))
}
