//! A checksum around every value.
//!
//! redb verifies its pages when it repairs a file, not when it reads one: a byte that changes on the disk is returned
//! as data. So each value carries a CRC-32 of its key and itself. It detects every damage of up to 32 adjacent bits,
//! and a value under a wrong key.

use crc32fast::Hasher;
use redb::Table;

/// The redb type of keys and values.
pub(crate) type Value = &'static [u8];

/// The length of the checksum, which precedes the payload.
const SUM: usize = 4;

/// The value does not match its checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the stored checksum does not match")]
pub(crate) struct Damaged;

/// A value with its checksum, made before the table is open.
///
/// The caller does this, since all operations share one writer: encoding and checksums of requests and responses took
/// nearly a tenth of the writer's time.
#[derive(Debug)]
pub(crate) struct Sealed(Vec<u8>);

impl Sealed {
    /// Makes the value of the concatenated parts, to be stored under `key`.
    pub(crate) fn new(key: &[u8], parts: &[&[u8]]) -> Self {
        let length = parts.iter().map(|part| part.len()).sum::<usize>();
        let mut value = Vec::with_capacity(SUM + length);
        value.extend_from_slice(&[0; SUM]);
        let mut hasher = hasher(key);
        for part in parts {
            hasher.update(part);
            value.extend_from_slice(part);
        }
        value[..SUM].copy_from_slice(&hasher.finalize().to_le_bytes());
        Self(value)
    }

    /// Stores the value under `key`, the key that it was made for.
    pub(crate) fn put(&self, table: &mut Table<'_, Value, Value>, key: &[u8]) -> Result<(), redb::StorageError> {
        table.insert(key, &*self.0)?;
        Ok(())
    }
}

/// Stores the concatenated parts under `key`.
pub(crate) fn put(table: &mut Table<'_, Value, Value>, key: &[u8], parts: &[&[u8]]) -> Result<(), redb::StorageError> {
    Sealed::new(key, parts).put(table, key)
}

/// The payload of a value, if it matches its checksum.
pub(crate) fn open<'a>(key: &[u8], value: &'a [u8]) -> Result<&'a [u8], Damaged> {
    let (sum, payload) = value.split_first_chunk::<SUM>().ok_or(Damaged)?;
    let mut hasher = hasher(key);
    hasher.update(payload);
    match hasher.finalize() == u32::from_le_bytes(*sum) {
        true => Ok(payload),
        false => Err(Damaged),
    }
}

fn hasher(key: &[u8]) -> Hasher {
    let mut hasher = Hasher::new();
    hasher.update(&(key.len() as u32).to_le_bytes());
    hasher.update(key);
    hasher
}
