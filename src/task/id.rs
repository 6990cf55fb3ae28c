//! Names and numbers that tasks, attempts and their owners go by.

use std::{borrow::Cow, fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{
    task::{TooLong, record::cut},
    time::Timestamp,
};

/// The primary key of a task: a UUID version 7, so that ids sort by the time they were made.
///
/// It is given by the layer to every async request, and is a name, not a credential: whoever knows it still needs the
/// permission to look.
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

    /// Room for [`encode`](Self::encode).
    pub(crate) const BUFFER: [u8; 36] = [0; 36];

    /// The id as text, without a string for it.
    pub(crate) fn encode<'a>(&self, buffer: &'a mut [u8; 36]) -> &'a str {
        self.0.hyphenated().encode_lower(buffer)
    }

    /// The sixteen bytes of the id: how a store keeps it.
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
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TaskName(Arc<str>);

impl TaskName {
    /// Names that stand for something else under the task API's base path.
    pub const RESERVED: [&'static str; 4] = ["stats", "settings", "events", "bulk"];

    /// The longest, in bytes: a UUID thrice over.
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

    /// A name that was taken when its task was stored: what is reserved since does not make it unreadable.
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

/// The client's key for "this is the same request": `Idempotency-Key` and what other dialects use for it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IdempotencyKey(Arc<str>);

impl IdempotencyKey {
    /// The longest, in bytes: what other implementations of the header take.
    pub const LONGEST: usize = 255;

    /// Takes `text` as a key: 1 to 255 visible ASCII characters or spaces inside.
    ///
    /// # Errors
    ///
    /// [`InvalidId`] when it is empty, longer, or holds other characters.
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

/// Who asks, where an application knows: a user's id, or an account's. Idempotency keys are unique per tenant and caller.
///
/// It is compared and never shown.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Caller(Arc<str>);

impl Caller {
    /// The longest, in bytes: an e-mail address has at most 254.
    pub const LONGEST: usize = 255;

    /// Takes `id` as a caller: 1 to 255 bytes without control characters. It must stay the same from one request to the
    /// next: a user's id, and neither a token nor a session.
    ///
    /// # Errors
    ///
    /// [`InvalidId`] when it is empty, which would make one caller of all who have none, when it is longer, or when it
    /// holds a control character.
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

    /// A caller that was taken when its task was stored.
    pub(crate) fn stored(id: &str) -> Self {
        Self(id.into())
    }

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Whose task it is, where an application serves several owners that must not see each other's.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tenant(Arc<str>);

impl Tenant {
    /// The longest whose tasks are taken in, in bytes: an e-mail address has at most 254. Longer ones are refused where tasks
    /// come in, by the layer with 400 and by [`Tasks::submit`](crate::Tasks::submit): cut, one tenant would be another.
    pub const LONGEST: usize = 255;

    /// A tenant by this name. The application chooses what names it uses, up to [`LONGEST`](Self::LONGEST).
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

/// A number that grows with every claim of a task: the proof of who holds it now.
///
/// A store accepts a write about a running task only with the token of its latest claim. A handler can hand the token to
/// systems of its own and refuse older ones there, which is how a side effect is kept from a zombie.
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

/// One claim of one task: what a holder shows to renew, settle or write about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LeaseRef {
    /// The task.
    pub id: RequestId,
    /// The token of the claim.
    pub token: FenceToken,
}

/// A process that runs tasks: a name people recognise, and a random boot id that no other start shares.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct WorkerId {
    /// The name and the boot id, as they are shown: in every document of a task that was claimed.
    shown: Arc<str>,
    boot: u64,
}

impl WorkerId {
    /// The longest name that is kept, in bytes: a host's name has at most 63 between its dots. The rest is cut off; the
    /// number of the start still tells the workers apart.
    pub const NAME_BYTES: usize = 64;

    /// The worker called `name` in this start of the process, or by the first [`NAME_BYTES`](Self::NAME_BYTES) of it.
    pub fn new(name: impl Into<Arc<str>>, boot: u64) -> Self {
        Self {
            shown: format!("{}-{boot:016x}", cut(&name.into(), Self::NAME_BYTES)).into(),
            boot,
        }
    }

    /// The name people recognise.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.shown[..self.shown.len() - BOOT_LENGTH]
    }

    /// The worker as it is shown: its name and the number of this start.
    pub(crate) fn as_str(&self) -> &str {
        &self.shown
    }

    /// The same, shared.
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

/// Where a completion is delivered, by name: all in-process hooks together are [`LOCAL`](Self::LOCAL).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Destination(Cow<'static, str>);

impl Destination {
    /// The hooks of the process that delivers.
    pub const LOCAL: Self = Self(Cow::Borrowed("local"));

    /// The address that the request named.
    pub const CALLBACK: Self = Self(Cow::Borrowed("callback"));

    /// The longest name of one that tasks are stored with, in bytes. The builder refuses longer ones.
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

/// The SHA-256 of what tells one request from another: whether two under one name or key are the same. What goes into it
/// is said at [`CapturedRequest::digest`](crate::task::CapturedRequest::digest).
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

/// Why a text is no id of the kind asked for.
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
