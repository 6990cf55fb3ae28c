//! [`Dialect`]: the ways to ask for async. A dialect reads the head of a request into [`Options`].

mod fc;
mod prefer;

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};

pub(crate) use self::prefer::{PREFER, PREFERENCE_APPLIED, Preferences};
use crate::{
    task::{IdempotencyKey, TaskName},
    wire::Problem,
};

/// A way for clients to ask for async.
///
/// Set the active dialects with [`RespondAsyncBuilder::dialects`](crate::RespondAsyncBuilder::dialects). They are tried
/// in the given order, and the first dialect whose headers the request uses decides. There is one exception: while
/// `Fc` is active, a request with `X-Fc-Invocation-Type: Sync` is answered synchronously in any order, even with
/// `Prefer: respond-async`.
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
    /// `X-Fc-Async-Task-Id` names the task, and `X-Fc-Async-Delay` delays it by 1 to 3,599 seconds.
    Fc,
    /// RFC 7240: `Prefer: respond-async`.
    ///
    /// With `wait=N`, the answer may wait up to N seconds for the end of the task. If the builder has
    /// [`callbacks`](crate::RespondAsyncBuilder::callbacks), `callback; url="..."` names a callback URL. This dialect
    /// cannot name a task; use `Idempotency-Key` to send a request twice and run it once.
    Prefer,
}

impl Dialect {
    /// The name, as the task API shows it in the settings.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Fc => "fc",
            Self::Prefer => "prefer",
        }
    }
}

/// What a dialect reads from a request.
pub(crate) enum Ask {
    /// The request does not use the dialect.
    No,
    /// The request must not run later, whatever other dialects read.
    Sync,
    /// The request asks to run later.
    Async(Options),
    /// The request uses the dialect, but is invalid.
    Refuse(Box<Problem>),
}

/// What a request can ask for in addition to async.
#[derive(Debug, Default)]
pub(crate) struct Options {
    /// The client's name for the task.
    pub(crate) name: Option<TaskName>,
    /// A key that the dialect reads. It is used if there is no `Idempotency-Key`.
    pub(crate) key: Option<IdempotencyKey>,
    /// The time until the task may run.
    pub(crate) delay: Duration,
}

impl Dialect {
    /// Whether the request may use this dialect. This look-up is the only cost for a synchronous request.
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

    /// A header without the parts that ask for async, so that a replay does not ask again. `None` if nothing is left.
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

/// A callback URL that a request names.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct RequestedCallback {
    pub(crate) url: String,
    /// Whether the URL is in a `Prefer` header: the answer then confirms it in `Preference-Applied`.
    pub(crate) preferred: bool,
}

/// The callback URL of a request, in any dialect: in `Prefer` with `respond-async`, or in `X-Callback-Url`.
pub(crate) fn callback(headers: &HeaderMap) -> Result<Option<RequestedCallback>, Problem> {
    let header = single(headers, &CALLBACK_URL)?;
    let preference = prefer::callback(headers)?;
    match (preference, header) {
        (Some(preference), Some(header)) if preference != header => Err(Problem::invalid_argument(
            "The preference callback and the header X-Callback-Url name different URLs; send one.",
        )),
        (Some(url), _) => Ok(Some(RequestedCallback { url, preferred: true })),
        (None, header) => Ok(header.map(|url| RequestedCallback {
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
