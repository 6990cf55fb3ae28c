//! Logs: one value for each batch of lines. Its key has the number of the last line.

use redb::{ReadableTable, Table};

use crate::{
    fault::Fault,
    frame::{self, Value},
    tables::Unreadable,
};
use tower_respond_async::{
    store::{Row, kit::LogMeter},
    task::{LogLine, RequestId},
    time::Timestamp,
};

/// The key of the chunk that ends with line `last`.
pub(crate) fn key(id: RequestId, last: u64) -> [u8; 24] {
    let mut key = [0; 24];
    key[..16].copy_from_slice(id.as_bytes());
    key[16..].copy_from_slice(&last.to_be_bytes());
    key
}

/// Appends the lines that the limits admit. Returns whether there are any.
pub(crate) fn append(
    logs: &mut Table<'_, Value, Value>,
    row: &Row,
    lines: Vec<LogLine>,
    now: Timestamp,
) -> Result<bool, Fault> {
    let (last, mut meter) = end(logs, row.id)?;
    let kept = meter.admit(row, lines, last, now);
    if let Some(line) = kept.last() {
        let key = key(row.id, line.seq);
        frame::put(logs, &key, &[&meter.encode(&kept)])?;
    }
    Ok(!kept.is_empty())
}

/// Removes the log of a task.
pub(crate) fn remove(logs: &mut Table<'_, Value, Value>, id: RequestId) -> Result<(), redb::Error> {
    let (first, last) = (key(id, 0), key(id, u64::MAX));
    logs.retain_in::<&[u8], _>(&first[..]..=&last[..], |_, _| false)?;
    Ok(())
}

/// The number of the last line of a task's log, 0 if there is none.
pub(crate) fn last(logs: &impl ReadableTable<Value, Value>, id: RequestId) -> Result<u64, Fault> {
    let (first, last) = (key(id, 0), key(id, u64::MAX));
    let Some(entry) = logs.range::<&[u8]>(&first[..]..=&last[..])?.next_back() else {
        return Ok(0);
    };
    let (key, _) = entry?;
    Ok(key.value().last_chunk().map_or(0, |last| u64::from_be_bytes(*last)))
}

/// The number of the last line of a task's log, and the meter of what its attempt has written.
fn end(logs: &impl ReadableTable<Value, Value>, id: RequestId) -> Result<(u64, LogMeter), Fault> {
    let (first, last) = (key(id, 0), key(id, u64::MAX));
    let Some(entry) = logs.range::<&[u8]>(&first[..]..=&last[..])?.next_back() else {
        return Ok((0, LogMeter::default()));
    };
    let (key, value) = entry?;
    let key = key.value();
    let last = key.last_chunk().map_or(0, |last| u64::from_be_bytes(*last));
    let payload = frame::open(key, value.value()).map_err(Unreadable::from);
    let meter = payload.and_then(|payload| Ok(LogMeter::decode(payload)?.0));
    Ok((last, meter.map_err(|error| error.of(id))?))
}

/// The lines of a chunk.
pub(crate) fn read(key: &[u8], value: &[u8]) -> Result<Vec<LogLine>, Unreadable> {
    let (_, lines) = LogMeter::decode(frame::open(key, value)?)?;
    Ok(LogMeter::decode_lines(lines)?)
}
