//! A checksum around every value.
//!
//! redb checks its pages when it repairs a file, not when it reads one: a byte that changes on the disk comes back as
//! data. So each value carries a CRC-32 of itself and of its key, which finds every damage of up to 32 bits in a row, and a
//! value that ended up under another key.

use crc32fast::Hasher;
use redb::Table;

pub(super) type Bytes = &'static [u8];

/// How many bytes the checksum takes, in front of the payload.
const SUM: usize = 4;

/// The value does not belong to its checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the stored checksum does not match")]
pub(super) struct Damaged;

/// Stores the parts, one behind the other, under `key`.
pub(super) fn put(table: &mut Table<'_, Bytes, Bytes>, key: &[u8], parts: &[&[u8]]) -> Result<(), redb::StorageError> {
    let length = parts.iter().map(|part| part.len()).sum::<usize>();
    let mut place = table.insert_reserve(key, SUM + length)?;
    let (sum, mut rest) = place.as_mut().split_at_mut(SUM);
    let mut hasher = hasher(key);
    for part in parts {
        hasher.update(part);
        let (here, behind) = rest.split_at_mut(part.len());
        here.copy_from_slice(part);
        rest = behind;
    }
    sum.copy_from_slice(&hasher.finalize().to_le_bytes());
    Ok(())
}

/// The payload of a value, if it is what was stored.
pub(super) fn open<'a>(key: &[u8], value: &'a [u8]) -> Result<&'a [u8], Damaged> {
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
