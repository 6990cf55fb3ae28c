//! Names and numbers of tasks, attempts and their owners.

use std::{borrow::Cow, fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{
    task::{TooLong, record::cut},
    time::Timestamp,
};

/// The primary key of a task: a UUID version 7, so that ids sort by creation time.
///
/// The layer gives one to every async request. It is a name, not a credential: knowing it does not permit reading the
/// task.
///
/// # Examples
///
/// ```
/// use tower_respond_async::{RequestId, time::Timestamp};
///
/// let earlier = RequestId::from_parts(Timestamp::from_millis(1_000), [0xff; 10]);
/// let later = RequestId::from_parts(Timestamp::from_millis(1_001), [0; 10]);
/// assert!(earlier < later);
///
/// let text = earlier.to_string();
/// assert_eq!(text.parse::<RequestId>()?, earlier);
/// assert!(text.replace('-', "").parse::<RequestId>().is_err());
/// # Ok::<_, tower_respond_async::task::InvalidId>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RequestId(Uuid);

impl RequestId {
    /// An id made at `now` from ten random bytes (RFC 9562 §5.7).
    #[must_use]
    pub fn from_parts(now: Timestamp, random: [u8; 10]) -> Self {
        Self(uuid::Builder::from_unix_timestamp_millis(now.as_millis(), &random).into_uuid())
    }

    /// The id with these sixteen bytes, as [`as_bytes`](Self::as_bytes) gave them.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(Uuid::from_bytes(bytes))
    }

    /// A buffer for [`encode`](Self::encode).
    pub(crate) const BUFFER: [u8; 36] = [0; 36];

    /// The id as text, without allocating.
    pub(crate) fn encode<'a>(&self, buffer: &'a mut [u8; 36]) -> &'a str {
        self.0.hyphenated().encode_lower(buffer)
    }

    /// The sixteen bytes of the id, for a store to keep.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 16] {
        self.0.as_bytes()
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut buffer = Self::BUFFER;
        f.pad(self.encode(&mut buffer))
    }
}

impl FromStr for RequestId {
    type Err = InvalidId;

    /// Reads the 36-character form only, so that one id has one spelling.
    fn from_str(text: &str) -> Result<Self, InvalidId> {
        if text.len() != 36 {
            return Err(InvalidId("a request id has 36 characters"));
        }
        Uuid::try_parse(text)
            .map(Self)
            .map_err(|_| InvalidId("a request id is a UUID"))
    }
}

/// A task's name, chosen by the client: unique per tenant as long as the task is kept.
///
/// # Examples
///
/// ```
/// use tower_respond_async::TaskName;
///
/// let name = TaskName::new("invoice-17")?;
/// assert_eq!(name.as_str(), "invoice-17");
/// assert!(TaskName::new("17-invoice").is_err(), "a name begins with a letter or an underscore");
/// # Ok::<_, tower_respond_async::task::InvalidId>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TaskName(Arc<str>);

impl TaskName {
    /// Names that have another meaning below the task API's base path.
    pub const RESERVED: [&'static str; 4] = ["stats", "settings", "events", "bulk"];

    /// The longest name, in bytes: room for three UUIDs.
    pub const LONGEST: usize = 128;

    /// Takes `text` as a name: a letter or underscore, then up to 127 letters, digits, `_` or `-`.
    ///
    /// # Errors
    ///
    /// [`InvalidId`] says which rule was broken; [`RESERVED`](Self::RESERVED) names are refused too.
    pub fn new(text: &str) -> Result<Self, InvalidId> {
        let bytes = text.as_bytes();
        match bytes {
            [] => return Err(InvalidId("a task id has at least one character")),
            [first, ..] if !(first.is_ascii_alphabetic() || *first == b'_') => {
                return Err(InvalidId("a task id begins with a letter or an underscore"));
            }
            _ if bytes.len() > Self::LONGEST => {
                return Err(InvalidId("a task id has at most 128 characters"));
            }
            _ => {}
        }
        if !bytes
            .iter()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'))
        {
            return Err(InvalidId(
                "a task id holds only letters, digits, underscores and hyphens",
            ));
        }
        if Self::RESERVED.contains(&text) {
            return Err(InvalidId("this task id is reserved"));
        }
        Ok(Self(text.into()))
    }

    /// A name from a stored task. It stays readable even if it was reserved since.
    pub(crate) fn stored(text: &str) -> Self {
        Self(text.into())
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TaskName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// How a task is named in a path: by its request id, or by the name its client gave it.
///
/// The two never collide: a name does not begin with a digit, and a request id does until the year 2527.
///
/// # Examples
///
/// ```
/// use tower_respond_async::{MemoryStore, RespondAsyncLayer, task::TaskRef};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let layer = RespondAsyncLayer::new(MemoryStore::new())?;
/// let tasks = layer.tasks();
/// let task: TaskRef = "invoice-17".parse()?; // from a path, say
/// assert!(matches!(task, TaskRef::Name(_)));
/// assert_eq!(tasks.find(task).await?, None);
/// # Ok(()) }
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum TaskRef {
    /// By request id.
    Id(RequestId),
    /// By the client's name.
    Name(TaskName),
}

impl FromStr for TaskRef {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        match text.parse() {
            Ok(id) => Ok(Self::Id(id)),
            Err(_) => TaskName::new(text).map(Self::Name),
        }
    }
}

impl From<RequestId> for TaskRef {
    fn from(id: RequestId) -> Self {
        Self::Id(id)
    }
}

impl From<&Self> for TaskRef {
    fn from(task: &Self) -> Self {
        task.clone()
    }
}

impl From<TaskName> for TaskRef {
    fn from(name: TaskName) -> Self {
        Self::Name(name)
    }
}

impl fmt::Display for TaskRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Id(id) => id.fmt(f),
            Self::Name(name) => name.fmt(f),
        }
    }
}

/// The client's mark on a request, so that the same request runs once: `Idempotency-Key`, or its equal in other
/// dialects.
///
/// # Examples
///
/// ```
/// use http::Request;
/// use tower_respond_async::{MemoryStore, RespondAsyncLayer, Submission, Submitted, task::IdempotencyKey};
/// # use tower::Layer;
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let layer = RespondAsyncLayer::new(MemoryStore::new())?;
/// # let _app = layer.layer(axum::Router::<()>::new());
/// let tasks = layer.tasks();
/// let mut order = Submission::new(Request::post("/orders").body("17 apples".into())?);
/// order.key = Some(IdempotencyKey::new("order-17")?);
/// assert!(matches!(tasks.submit(order.clone()).await?, Submitted::New(_)));
/// assert!(matches!(tasks.submit(order).await?, Submitted::Known { same_request: true, .. }));
/// # Ok(()) }
/// ```
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IdempotencyKey(Arc<str>);

impl IdempotencyKey {
    /// The longest key, in bytes: as long as other implementations of the header accept.
    pub const LONGEST: usize = 255;

    /// Takes `text` as a key: 1 to 255 visible ASCII characters or spaces.
    ///
    /// # Errors
    ///
    /// [`InvalidId`] when it is empty, longer, or has other characters.
    pub fn new(text: &str) -> Result<Self, InvalidId> {
        if text.is_empty() {
            return Err(InvalidId("an idempotency key has at least one character"));
        }
        if text.len() > Self::LONGEST {
            return Err(InvalidId("an idempotency key has at most 255 characters"));
        }
        if !text.bytes().all(|b| (0x20..0x7f).contains(&b)) {
            return Err(InvalidId("an idempotency key holds visible ASCII characters only"));
        }
        Ok(Self(text.into()))
    }

    /// The key as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The user who sent a request, by an id that the application chooses. Idempotency keys are unique per tenant and
/// caller.
///
/// A caller is compared and never shown.
///
/// See the example of [`RespondAsyncBuilder::caller`](crate::RespondAsyncBuilder::caller).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Caller(Arc<str>);

impl Caller {
    /// The longest caller, in bytes: an e-mail address has at most 254.
    pub const LONGEST: usize = 255;

    /// Takes `id` as a caller: 1 to 255 bytes without control characters.
    ///
    /// It must be the same in every request of the user: a user's id or an account's, not a token or a session.
    ///
    /// # Errors
    ///
    /// [`InvalidId`] when it is longer, has a control character, or is empty: an empty id would make one caller of all
    /// users without an id.
    pub fn new(id: &str) -> Result<Self, InvalidId> {
        if id.is_empty() {
            return Err(InvalidId("a caller has at least one character"));
        }
        if id.len() > Self::LONGEST {
            return Err(InvalidId("a caller has at most 255 bytes"));
        }
        if id.chars().any(char::is_control) {
            return Err(InvalidId("a caller holds no control characters"));
        }
        Ok(Self(id.into()))
    }

    /// A caller from a stored task.
    pub(crate) fn stored(id: &str) -> Self {
        Self(id.into())
    }

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The owner of a task. A tenant does not see tasks of another tenant.
///
/// See the example of [`Tasks::scoped`](crate::Tasks::scoped).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tenant(Arc<str>);

impl Tenant {
    /// The longest tenant that is accepted, in bytes: an e-mail address has at most 254. The layer refuses a longer one
    /// with 400, and so does [`Tasks::submit`](crate::Tasks::submit): cut short, it could equal another tenant.
    pub const LONGEST: usize = 255;

    /// A tenant by this name. The application chooses its names, up to [`LONGEST`](Self::LONGEST) bytes.
    pub fn new(name: impl Into<Arc<str>>) -> Self {
        Self(name.into())
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub(crate) fn check(&self) -> Result<(), TooLong> {
        TooLong::check("tenant", self.0.len(), Self::LONGEST)
    }
}

impl fmt::Display for Tenant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// A number that grows with every claim of a task, and identifies its latest holder.
///
/// A store accepts a write about a running task only with the token of the latest claim. A handler can pass the token
/// to other systems, and these can refuse older tokens: that keeps an outdated attempt from side effects there.
///
/// # Examples
///
/// A system that refuses writes of an outdated attempt keeps the token of the latest write:
///
/// ```
/// use tower_respond_async::task::FenceToken;
///
/// struct Account {
///     balance: i64,
///     token: FenceToken,
/// }
///
/// impl Account {
///     /// A handler calls this with its `TaskContext::fence_token`.
///     fn set(&mut self, balance: i64, token: FenceToken) -> bool {
///         let is_latest = token >= self.token;
///         if is_latest {
///             (self.balance, self.token) = (balance, token);
///         }
///         is_latest
///     }
/// }
///
/// let mut account = Account { balance: 0, token: FenceToken::NONE };
/// let old = account.token.next();
/// assert!(account.set(20, old.next()));
/// assert!(!account.set(10, old), "a later attempt wrote before");
/// assert_eq!(account.balance, 20);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct FenceToken(u64);

impl FenceToken {
    /// The token of a task that was never claimed.
    pub const NONE: Self = Self(0);

    /// The token with this number, as [`get`](Self::get) gave it.
    #[must_use]
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    /// The number.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The token of the next claim.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for FenceToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One claim of one task. Its holder renews, settles and writes with it.
///
/// See the example of [`TaskRecord`](crate::TaskRecord).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LeaseRef {
    /// The task.
    pub id: RequestId,
    /// The token of the claim.
    pub token: FenceToken,
}

/// A process that runs tasks: a name that people recognise, and a random number that no other start shares.
///
/// # Examples
///
/// ```
/// use tower_respond_async::task::WorkerId;
///
/// let worker = WorkerId::new("web-1", 255);
/// assert_eq!((worker.name(), worker.boot()), ("web-1", 255));
/// assert_eq!(worker.to_string(), "web-1-00000000000000ff");
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct WorkerId {
    /// The name and the number, as every document of a claimed task shows them.
    shown: Arc<str>,
    boot: u64,
}

impl WorkerId {
    /// The longest name that is kept, in bytes: one label of a host name has at most 63. The rest is cut off; the
    /// number of the start still tells the workers apart.
    pub const NAME_BYTES: usize = 64;

    /// The worker called `name` in this start of the process. The name is cut to [`NAME_BYTES`](Self::NAME_BYTES).
    pub fn new(name: impl Into<Arc<str>>, boot: u64) -> Self {
        Self {
            shown: format!("{}-{boot:016x}", cut(&name.into(), Self::NAME_BYTES)).into(),
            boot,
        }
    }

    /// The name that people recognise.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.shown[..self.shown.len() - BOOT_LENGTH]
    }

    /// The worker as it is shown: its name and the number of this start.
    pub(crate) fn as_str(&self) -> &str {
        &self.shown
    }

    /// As [`as_str`](Self::as_str), shared.
    pub(crate) fn shared(&self) -> Arc<str> {
        self.shown.clone()
    }

    /// The number of this start.
    #[must_use]
    pub const fn boot(&self) -> u64 {
        self.boot
    }
}

impl fmt::Display for WorkerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.shown)
    }
}

/// A hyphen and 16 digits.
const BOOT_LENGTH: usize = 17;

/// A named receiver of completions. All hooks of the process together are [`LOCAL`](Self::LOCAL).
///
/// See the example of [`Redeliver`](crate::task::delivery::Redeliver), and that of [`Target`](crate::hook::Target).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Destination(Cow<'static, str>);

impl Destination {
    /// The hooks of the process that delivers the completion.
    pub const LOCAL: Self = Self(Cow::Borrowed("local"));

    /// The URL that the request named.
    pub const CALLBACK: Self = Self(Cow::Borrowed("callback"));

    /// The longest name, in bytes. The builder refuses longer ones.
    pub const LONGEST: usize = 64;

    /// The destination called `name`.
    pub fn new(name: impl Into<Cow<'static, str>>) -> Self {
        Self(name.into())
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// The SHA-256 that identifies a request: two requests under one name or key are the same if their digests are equal.
/// [`CapturedRequest::digest`](crate::task::CapturedRequest::digest) lists what it covers.
///
/// See the example of [`CapturedRequest`](crate::task::CapturedRequest).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RequestDigest([u8; 32]);

impl RequestDigest {
    /// The digest with these bytes, as [`as_bytes`](Self::as_bytes) gave them.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

/// Why a text is not a valid id.
///
/// See the example of [`TaskName`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidId(pub(crate) &'static str);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_id_sorts_by_time_and_has_one_spelling() {
        let early = RequestId::from_parts(Timestamp::from_millis(1_000), [0xff; 10]);
        let late = RequestId::from_parts(Timestamp::from_millis(1_001), [0; 10]);
        assert!(early < late);
        assert_eq!(early.to_string().parse(), Ok(early));
        assert!(early.to_string().replace('-', "").parse::<RequestId>().is_err());
        assert!(format!("{{{early}}}").parse::<RequestId>().is_err());
    }

    #[test]
    fn names_follow_the_rule_and_nothing_else() {
        for good in ["a", "_", "Z-9_x", &"a".repeat(128)] {
            assert!(TaskName::new(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "9a",
            "-a",
            "a b",
            "a/b",
            "ä",
            "a\n",
            &"a".repeat(129),
            "stats",
            "events",
            "bulk",
        ] {
            assert!(TaskName::new(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_caller_is_a_short_text_that_is_not_empty() {
        for good in ["7", "alice@example.org", "änne b", &"a".repeat(255)] {
            assert_eq!(Caller::new(good).unwrap().as_str(), good);
        }
        for bad in ["", "a\0b", "a\n", &"a".repeat(256)] {
            assert!(Caller::new(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_worker_has_its_name_and_is_shown_with_its_start() {
        let worker = WorkerId::new("wörker-1", 255);
        assert_eq!((worker.name(), worker.boot()), ("wörker-1", 255));
        assert_eq!(worker.to_string(), "wörker-1-00000000000000ff");
        let long = WorkerId::new("ö".repeat(100), 1);
        assert_eq!((long.name(), long.boot()), (&*"ö".repeat(32), 1));
    }

    #[test]
    fn a_reference_is_an_id_or_a_name() {
        let id = RequestId::from_parts(Timestamp::from_millis(1), [7; 10]);
        assert_eq!(id.to_string().parse(), Ok(TaskRef::Id(id)));
        assert!(matches!("job-1".parse(), Ok(TaskRef::Name(_))));
        assert!("../etc".parse::<TaskRef>().is_err());
    }
}
