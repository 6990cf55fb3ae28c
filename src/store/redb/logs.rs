//! Logs: one value per batch of lines, under the number of its last line.

use redb::{ReadableTable, Table};

use super::{
    fault::Fault,
    frame::{self, Damaged, Value},
    tables::Unreadable,
};
use crate::{
    store::{Row, kit::LogMeter},
    task::{LogLine, RequestId},
    time::Timestamp,
};

/// Where the chunk that ends with line `last` stands.
pub(super) fn key(id: RequestId, last: u64) -> [u8; 24] {
    let mut key = [0; 24];
    key[..16].copy_from_slice(id.as_bytes());
    key[16..].copy_from_slice(&last.to_be_bytes());
    key
}

/// Adds what is kept of `lines`, and says whether that is anything.
pub(super) fn append(
    logs: &mut Table<'_, Value, Value>,
    row: &Row,
    lines: Vec<LogLine>,
    now: Timestamp,
) -> Result<bool, Fault> {
    let (last, mut meter) = end(logs, row.id)?;
    let kept = meter.admit(row, lines, last, now);
    if let Some(line) = kept.last() {
        let key = key(row.id, line.seq);
        frame::put(logs, &key, &[&chunk(&meter, &kept)])?;
    }
    Ok(!kept.is_empty())
}

/// Takes out the log of a task.
pub(super) fn remove(logs: &mut Table<'_, Value, Value>, id: RequestId) -> Result<(), redb::Error> {
    let (first, last) = (key(id, 0), key(id, u64::MAX));
    logs.retain_in::<&[u8], _>(&first[..]..=&last[..], |_, _| false)?;
    Ok(())
}

/// The number of the last line of a task's log, and how much its attempt has written.
fn end(logs: &impl ReadableTable<Value, Value>, id: RequestId) -> Result<(u64, LogMeter), Fault> {
    let (first, last) = (key(id, 0), key(id, u64::MAX));
    let Some(entry) = logs.range::<&[u8]>(&first[..]..=&last[..])?.next_back() else {
        return Ok((0, LogMeter::default()));
    };
    let (key, value) = entry?;
    let key = key.value();
    let last = key.last_chunk().map_or(0, |last| u64::from_be_bytes(*last));
    let meter = frame::open(key, value.value()).and_then(|payload| Ok(read_meter(payload)?.0));
    Ok((last, meter.map_err(|damaged| Unreadable::from(damaged).of(id))?))
}

/// The payload of a chunk: the meter behind its lines, then each line behind its length.
fn chunk(meter: &LogMeter, lines: &[LogLine]) -> Vec<u8> {
    let mut chunk = Vec::with_capacity(64 + lines.iter().map(|line| line.weight() + 32).sum::<usize>());
    for number in [
        meter.attempt.0,
        meter.attempt.1,
        meter.lines as u32,
        meter.bytes as u32,
        meter.full.into(),
    ] {
        chunk.extend_from_slice(&number.to_be_bytes());
    }
    for line in lines {
        let line = line.encode();
        chunk.extend_from_slice(&(line.len() as u32).to_be_bytes());
        chunk.extend_from_slice(&line);
    }
    chunk
}

/// The lines of a chunk.
pub(super) fn read(key: &[u8], value: &[u8]) -> Result<Vec<LogLine>, Unreadable> {
    let (_, mut rest) = read_meter(frame::open(key, value)?)?;
    let mut lines = Vec::new();
    while !rest.is_empty() {
        let length = number(&mut rest)? as usize;
        let (line, behind) = rest.split_at_checked(length).ok_or(Damaged)?;
        lines.push(LogLine::decode(line)?);
        rest = behind;
    }
    Ok(lines)
}

fn read_meter(payload: &[u8]) -> Result<(LogMeter, &[u8]), Damaged> {
    let mut rest = payload;
    let meter = LogMeter {
        attempt: (number(&mut rest)?, number(&mut rest)?),
        lines: number(&mut rest)? as usize,
        bytes: number(&mut rest)? as usize,
        full: number(&mut rest)? != 0,
    };
    Ok((meter, rest))
}

fn number(bytes: &mut &[u8]) -> Result<u32, Damaged> {
    let (number, rest) = bytes.split_first_chunk().ok_or(Damaged)?;
    *bytes = rest;
    Ok(u32::from_be_bytes(*number))
}
