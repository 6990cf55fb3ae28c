//! The ways to ask for async. A dialect reads the head of a request into [`Options`].

mod fc;
mod prefer;

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};

pub(crate) use self::prefer::{PREFER, PREFERENCE_APPLIED, Preferences};
use crate::{
    task::{IdempotencyKey, TaskName},
    wire::Problem,
};

/// A way to ask for async. Set it by [`RespondAsyncBuilder::dialects`](crate::RespondAsyncBuilder::dialects).
///
/// Several can be active. They are tried in the given order, and the first that finds itself addressed decides. One
/// header wins in any order: a request with `X-Fc-Invocation-Type: Sync` is answered at once, whatever its `Prefer`
/// says.
///
/// # Examples
///
/// ```
/// use tower_respond_async::{Dialect, MemoryStore, RespondAsyncLayer};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// // The header of the cloud is ignored; only `Prefer: respond-async` counts.
/// let layer = RespondAsyncLayer::builder(MemoryStore::new()).dialects([Dialect::Prefer]).build()?;
/// # drop(layer);
/// # Ok(()) }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Dialect {
    /// Alibaba Cloud Function Compute: `X-Fc-Invocation-Type: Async`.
    ///
    /// `X-Fc-Async-Task-Id` names the task, `X-Fc-Async-Delay` delays it by up to an hour.
    Fc,
    /// RFC 7240: `Prefer: respond-async`, and `wait=N` to hold the answer for up to N seconds. If the builder has
    /// [`callbacks`](crate::RespondAsyncBuilder::callbacks), also `callback; url="..."`. It cannot name a task; use
    /// `Idempotency-Key` to send a request twice and run it once.
    Prefer,
}

impl Dialect {
    /// Its name in the settings.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Fc => "fc",
            Self::Prefer => "prefer",
        }
    }
}

/// What a dialect reads from a request.
pub(crate) enum Ask {
    /// The dialect is not addressed.
    No,
    /// Do not run it later, whatever other dialects find.
    Sync,
    /// Run it later.
    Async(Options),
    /// The dialect is addressed, but the request is invalid.
    Refuse(Box<Problem>),
}

/// What a request can ask for beside async.
#[derive(Debug, Default)]
pub(crate) struct Options {
    /// The client's name for the task.
    pub(crate) name: Option<TaskName>,
    /// A key of the dialect itself, used without an `Idempotency-Key`.
    pub(crate) key: Option<IdempotencyKey>,
    /// How long to wait before it runs.
    pub(crate) delay: Duration,
}

impl Dialect {
    /// Whether the request may be addressed to this dialect. One look-up: all that a synchronous request pays.
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

    /// A header without the parts that ask for async, so that a replay does not ask again. `None` if nothing else is in
    /// it.
    pub(crate) fn replayed(name: &HeaderName, value: HeaderValue) -> Option<HeaderValue> {
        match name {
            name if fc::is_own(name) => None,
            name if *name == PREFER => prefer::rest(&value),
            _ => Some(value),
        }
    }
}

/// The text of a header that must have one meaning: if it is repeated, all values must be the same.
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

/// A callback URL that a client names.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct CallbackAsked {
    pub(crate) url: String,
    /// Whether it is named as a preference, which the answer acknowledges.
    pub(crate) preferred: bool,
}

/// The callback URL of a request, in any dialect: as a preference beside `respond-async`, or in `X-Callback-Url`.
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

/// The client's idempotency key, quoted or bare, in any dialect.
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
