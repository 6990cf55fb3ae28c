//! A checksum around every value.
//!
//! redb checks its pages when it repairs a file, not when it reads one: a byte that changes on the disk comes back as
//! data. So each value carries a CRC-32 of itself and of its key, which finds every damage of up to 32 bits in a row, and a
//! value that ended up under another key.

use crc32fast::Hasher;
use redb::Table;

/// What keys and values are to redb.
pub(crate) type Value = &'static [u8];

/// How many bytes the checksum takes, in front of the payload.
const SUM: usize = 4;

/// The value does not belong to its checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the stored checksum does not match")]
pub(crate) struct Damaged;

/// A value as it is stored, made before there is a table to put it into.
///
/// There is one writer and everybody waits for it, so what belongs to one operation alone is done by its caller: writing
/// out and summing up a request or a response was nearly a tenth of the writer's work.
#[derive(Debug)]
pub(crate) struct Sealed(Vec<u8>);

impl Sealed {
    /// The parts, one behind the other, to be stored under `key`.
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

    /// Stores it under `key`, which must be the one it was made for.
    pub(crate) fn put(&self, table: &mut Table<'_, Value, Value>, key: &[u8]) -> Result<(), redb::StorageError> {
        table.insert(key, &*self.0)?;
        Ok(())
    }
}

/// Stores the parts, one behind the other, under `key`.
pub(crate) fn put(table: &mut Table<'_, Value, Value>, key: &[u8], parts: &[&[u8]]) -> Result<(), redb::StorageError> {
    Sealed::new(key, parts).put(table, key)
}

/// The payload of a value, if it is what was stored.
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
