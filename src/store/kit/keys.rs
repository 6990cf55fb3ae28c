//! What clients know their tasks by that outlives the tasks: keys, and what is remembered with each.

use crate::{
    store::NewRow,
    task::{Caller, DecodeError, IdempotencyKey, RequestDigest, RequestId, Tenant},
    time::Timestamp,
};

/// A client's key and whose it is: what is unique, and what a store finds the key by.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClientKey {
    /// The tenant of its task.
    pub tenant: Option<Tenant>,
    /// The caller who sent it. No caller is one like any other.
    pub caller: Option<Caller>,
    /// The key as it was sent.
    pub key: IdempotencyKey,
}

impl ClientKey {
    /// The key of a task that is to be stored, if it has one.
    #[must_use]
    pub fn of(task: &NewRow) -> Option<Self> {
        let (key, _) = task.key.as_ref()?;
        Some(Self {
            tenant: task.record.tenant.clone(),
            caller: task.record.caller.clone(),
            key: key.clone(),
        })
    }

    /// As bytes, which are the same for the same key only.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(64);
        let owners = [
            self.tenant.as_ref().map(Tenant::as_str),
            self.caller.as_ref().map(Caller::as_str),
        ];
        for owner in owners {
            // None and an empty one are told apart, and no two lists of three run into the same bytes.
            let length = owner.map_or(0, |owner| owner.len() as u32 + 1);
            bytes.extend_from_slice(&length.to_be_bytes());
            bytes.extend_from_slice(owner.unwrap_or("").as_bytes());
        }
        bytes.extend_from_slice(self.key.as_str().as_bytes());
        bytes
    }
}

/// What is remembered with a key, for its window: also once its task is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KnownKey {
    /// Whose key it is.
    pub id: RequestId,
    /// When its window ends.
    pub until: Timestamp,
    /// Tells whether a later request under the key is the same.
    pub digest: Option<RequestDigest>,
}

impl KnownKey {
    /// What is to be remembered with the key of a task that is stored now, if it has one.
    #[must_use]
    pub fn of(task: &NewRow, now: Timestamp) -> Option<Self> {
        let (_, window) = task.key.as_ref()?;
        Some(Self {
            id: task.record.id,
            until: now.saturating_add(*window),
            digest: task.record.digest,
        })
    }

    /// Whether its window is over: then it is as if it were not there, and may be pruned.
    #[must_use]
    pub fn is_over(&self, now: Timestamp) -> bool {
        self.until <= now
    }

    /// Writes it, without the key that it is found by.
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
    /// [`DecodeError::Malformed`] if it is nothing of the kind.
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

    /// What is in the files of users.
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
