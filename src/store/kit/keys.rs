//! Clients' keys, and what is kept with each key. Both outlive the tasks.

use crate::{
    store::NewRow,
    task::{Caller, DecodeError, IdempotencyKey, RequestDigest, RequestId, Tenant},
    time::Timestamp,
};

/// A client's key and its owner. A store finds the key by all of it, and all of it together is unique.
///
/// # Examples
///
/// ```
/// use tower_respond_async::{store::kit::ClientKey, task::{IdempotencyKey, Tenant}};
///
/// let key = IdempotencyKey::new("order-7")?;
/// let of_acme = ClientKey { tenant: Some(Tenant::new("acme")), caller: None, key };
/// let of_none = ClientKey { tenant: None, ..of_acme.clone() };
/// assert_ne!(of_acme.encode(), of_none.encode(), "a key belongs to its owner");
/// # Ok::<_, tower_respond_async::task::InvalidId>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClientKey {
    /// The tenant of its task.
    pub tenant: Option<Tenant>,
    /// The caller who sent it. `None` is a caller of its own.
    pub caller: Option<Caller>,
    /// The key as it was sent.
    pub key: IdempotencyKey,
}

impl ClientKey {
    /// The key of a task to be stored, if it has one.
    #[must_use]
    pub fn of(task: &NewRow) -> Option<Self> {
        let (key, _) = task.key.as_ref()?;
        Some(Self {
            tenant: task.record.tenant.clone(),
            caller: task.record.caller.clone(),
            key: key.clone(),
        })
    }

    /// The key as bytes. Different keys give different bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(64);
        let owners = [
            self.tenant.as_ref().map(Tenant::as_str),
            self.caller.as_ref().map(Caller::as_str),
        ];
        for owner in owners {
            // With its length in front, `None` differs from an empty text, and no two different keys give the same
            // bytes.
            let length = owner.map_or(0, |owner| owner.len() as u32 + 1);
            bytes.extend_from_slice(&length.to_be_bytes());
            bytes.extend_from_slice(owner.unwrap_or("").as_bytes());
        }
        bytes.extend_from_slice(self.key.as_str().as_bytes());
        bytes
    }
}

/// What is kept with a key for its window, even after the task is gone.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
///
/// # use bytes::Bytes;
/// # use http::{HeaderMap, Method, Uri};
/// use tower_respond_async::{
///     store::kit::KnownKey,
///     task::IdempotencyKey,
///     time::Timestamp,
/// };
/// # use tower_respond_async::{store::NewRow, task::{CapturedRequest, NewTask, RequestId, TaskRecord}};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let request = CapturedRequest::new(Method::GET, Uri::from_static("/"), HeaderMap::new(), Bytes::new());
/// # let task = NewTask::new(RequestId::from_bytes([7; 16]), request.into());
/// let now = Timestamp::from_millis(1_000);
/// # let mut new = NewRow::new(TaskRecord::accepted(&task, now).into(), task.request.to_payload());
/// let window = Duration::from_secs(60);
/// new.key = Some((IdempotencyKey::new("order-7")?, window));
/// let known = KnownKey::of(&new, now).ok_or("it has no key")?;
/// assert_eq!(KnownKey::decode(&known.encode())?, known);
/// assert!(known.is_over(now.saturating_add(window)));
/// # Ok(()) }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KnownKey {
    /// The id of the task.
    pub id: RequestId,
    /// When its window ends.
    pub until: Timestamp,
    /// The digest that shows whether a later request under the key is the same.
    pub digest: Option<RequestDigest>,
}

impl KnownKey {
    /// What to keep with the key of a task that is stored at `now`, if it has a key.
    #[must_use]
    pub fn of(task: &NewRow, now: Timestamp) -> Option<Self> {
        let (_, window) = task.key.as_ref()?;
        Some(Self {
            id: task.record.id,
            until: now.saturating_add(*window),
            digest: task.record.digest,
        })
    }

    /// Whether its window has ended. Then the key has no effect any more, and may be pruned.
    #[must_use]
    pub fn is_over(&self, now: Timestamp) -> bool {
        self.until <= now
    }

    /// Writes everything except the key.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let until = self.until.as_millis().to_be_bytes();
        let (flag, digest) = match &self.digest {
            Some(digest) => ([1], &digest.as_bytes()[..]),
            None => ([0], &[][..]),
        };
        [self.id.as_bytes(), &until[..], &flag, digest].concat()
    }

    /// Reads what [`encode`](Self::encode) wrote.
    ///
    /// # Errors
    ///
    /// [`DecodeError::Malformed`] if `encode` did not write the bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let read = || {
            let (id, rest) = bytes.split_first_chunk()?;
            let (until, rest) = rest.split_first_chunk()?;
            let digest = match rest.split_first()? {
                (0, []) => None,
                (1, digest) => Some(RequestDigest::from_bytes(digest.try_into().ok()?)),
                _ => return None,
            };
            Some(Self {
                id: RequestId::from_bytes(*id),
                until: Timestamp::from_millis(u64::from_be_bytes(*until)),
                digest,
            })
        };
        read().ok_or(DecodeError::Malformed("what is remembered with a key"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(tenant: Option<&str>, caller: Option<&str>, key: &str) -> ClientKey {
        ClientKey {
            tenant: tenant.map(Tenant::new),
            caller: caller.map(|caller| Caller::new(caller).unwrap()),
            key: IdempotencyKey::new(key).unwrap(),
        }
    }

    #[test]
    fn keys_that_differ_are_written_differently() {
        let keys = [
            key(None, None, "ab"),
            key(Some(""), None, "ab"),
            key(Some("a"), None, "b"),
            key(None, Some("a"), "b"),
            key(None, Some("ab"), "b"),
            key(Some("a"), Some("b"), "b"),
        ];
        for (at, one) in keys.iter().enumerate() {
            let same = keys.iter().filter(|other| other.encode() == one.encode());
            assert_eq!(same.collect::<Vec<_>>(), [&keys[at]]);
        }
    }

    /// Files of users contain this form.
    #[test]
    fn the_written_form_does_not_change() {
        assert_eq!(key(Some("t"), None, "k").encode(), b"\0\0\0\x02t\0\0\0\0k");
        let mut known = KnownKey {
            id: RequestId::from_bytes([7; 16]),
            until: Timestamp::from_millis(300),
            digest: None,
        };
        let written = [&[7; 16][..], b"\0\0\0\0\0\0\x01\x2c", b"\0"].concat();
        assert_eq!(known.encode(), written);
        assert_eq!(KnownKey::decode(&written), Ok(known));
        known.digest = Some(RequestDigest::from_bytes([9; 32]));
        let written = [&written[..24], b"\x01", &[9; 32]].concat();
        assert_eq!(known.encode(), written);
        assert_eq!(KnownKey::decode(&written), Ok(known));
    }

    #[test]
    fn what_was_cut_or_goes_on_is_refused() {
        let known = KnownKey {
            id: RequestId::from_bytes([7; 16]),
            until: Timestamp::ZERO,
            digest: Some(RequestDigest::from_bytes([9; 32])),
        };
        let written = known.encode();
        for end in 0..written.len() {
            assert!(KnownKey::decode(&written[..end]).is_err(), "cut at {end}");
        }
        assert!(KnownKey::decode(&[&written[..], b"\0"].concat()).is_err());
    }
}
