//! [`PoolName`]: the name of the pool in which a task runs.

use std::{fmt, sync::Arc};

use crate::task::InvalidId;

/// The name of a pool: tasks of one pool share slots, limits and a pause.
///
/// # Examples
///
/// ```
/// use tower_respond_async::task::PoolName;
///
/// let pool = PoolName::new("transcode")?;
/// assert_eq!(pool.as_str(), "transcode");
/// assert_eq!(PoolName::new("default")?, PoolName::DEFAULT);
/// assert!(PoolName::new("no spaces").is_err());
/// # Ok::<_, tower_respond_async::task::InvalidId>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PoolName(Option<Arc<str>>);

impl PoolName {
    /// The pool of tasks that no other pool takes.
    pub const DEFAULT: Self = Self(None);

    /// The longest name, in bytes.
    pub const LONGEST: usize = 64;

    /// Takes `text` as a name: a letter, then up to 63 letters, digits, `_`, `-` or `.`.
    ///
    /// # Errors
    ///
    /// [`InvalidId`] says which rule was broken.
    pub fn new(text: &str) -> Result<Self, InvalidId> {
        let bytes = text.as_bytes();
        if !bytes.first().is_some_and(u8::is_ascii_alphabetic) {
            return Err(InvalidId("the name of a pool begins with a letter"));
        }
        if bytes.len() > Self::LONGEST {
            return Err(InvalidId("the name of a pool has at most 64 characters"));
        }
        let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.');
        if !bytes.iter().all(is_plain) {
            return Err(InvalidId(
                "the name of a pool holds only letters, digits, underscores, hyphens and dots",
            ));
        }
        Ok(Self::stored(text))
    }

    /// A name that was checked before it was stored.
    pub(crate) fn stored(text: &str) -> Self {
        Self((text != DEFAULT).then(|| text.into()))
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        self.0.as_deref().unwrap_or(DEFAULT)
    }

    /// Whether it is [`DEFAULT`](Self::DEFAULT).
    #[must_use]
    pub const fn is_default(&self) -> bool {
        self.0.is_none()
    }
}

const DEFAULT: &str = "default";

impl fmt::Display for PoolName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}
