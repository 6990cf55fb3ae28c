//! Converts between rows of tables and rows of tasks.

use std::sync::Arc;

use bytes::Bytes;
use tokio_postgres::Row as Found;
use tower_respond_async::{
    store::{Columns, OutboxRow, Payload, Row, StoreResult},
    task::{DecodeError, Destination, FenceToken, Progress, RequestId, TaskRecord, TaskState, WorkerId},
    time::Timestamp,
};
use uuid::Uuid;

/// The latest time that is stored. It leaves room for additions without overflow.
const LAST: i64 = 1 << 60;

pub(crate) fn number(number: u64) -> i64 {
    i64::try_from(number).map_or(LAST, |number| number.min(LAST))
}

pub(crate) fn millis(time: Timestamp) -> i64 {
    number(time.as_millis())
}

pub(crate) fn duration(duration: std::time::Duration) -> i64 {
    millis(Timestamp::ZERO.saturating_add(duration))
}

pub(crate) fn count(count: usize) -> i64 {
    number(count as u64)
}

pub(crate) const fn time(millis: i64) -> Timestamp {
    Timestamp::from_millis(if millis < 0 { 0 } else { millis.cast_unsigned() })
}

pub(crate) const fn uuid(id: RequestId) -> Uuid {
    Uuid::from_bytes(*id.as_bytes())
}

pub(crate) const fn id(uuid: Uuid) -> RequestId {
    RequestId::from_bytes(uuid.into_bytes())
}

pub(crate) const fn token(token: i64) -> FenceToken {
    FenceToken::new(token.cast_unsigned())
}

/// Escapes a text: the server accepts no zeros, and lists of lines must not contain line breaks.
pub(crate) fn text(text: &str) -> String {
    match text.contains(['\0', '\n', '\u{1}']) {
        false => text.to_owned(),
        true => text
            .replace('\u{1}', "\u{1}1")
            .replace('\0', "\u{1}0")
            .replace('\n', "\u{1}n"),
    }
}

/// Undoes [`text`].
pub(crate) fn untext(kept: &str) -> String {
    match kept.contains('\u{1}') {
        false => kept.to_owned(),
        true => kept
            .replace("\u{1}n", "\n")
            .replace("\u{1}0", "\0")
            .replace("\u{1}1", "\u{1}"),
    }
}

/// A worker as text: its name, a hyphen, and the number of its start in 16 digits.
pub(crate) fn worker(worker: &WorkerId) -> String {
    text(&worker.to_string())
}

fn unworker(kept: &str) -> Option<WorkerId> {
    let shown = untext(kept);
    let (name, boot) = shown.rsplit_once('-')?;
    Some(WorkerId::new(name, u64::from_str_radix(boot, 16).ok()?))
}

pub(crate) fn state(state: i16) -> Result<TaskState, DecodeError> {
    let known = usize::try_from(state).ok().and_then(|state| TaskState::ALL.get(state));
    known.copied().ok_or(DecodeError::Malformed("an unknown state"))
}

pub(crate) fn progress(progress: &Progress) -> Vec<u8> {
    [&progress.fraction.to_bits().to_be_bytes(), progress.message.as_bytes()].concat()
}

pub(crate) fn unprogress(kept: &[u8]) -> Option<Progress> {
    let (fraction, message) = kept.split_first_chunk()?;
    let fraction = f32::from_bits(u32::from_be_bytes(*fraction));
    Some(Progress::new(fraction, std::str::from_utf8(message).ok()?))
}

/// The row that begins at column `from`, with the columns of [`row_columns`](crate::sql::row_columns).
pub(crate) fn row(found: &Found, from: usize) -> Result<Row, DecodeError> {
    let id = id(found.get(from));
    let record = TaskRecord::decode(found.get(from + 14))?;
    if record.id != id {
        return Err(DecodeError::Malformed("the record belongs to another task"));
    }
    let maybe = |at: usize| found.get::<_, Option<i64>>(from + at).map(time);
    let mut columns = Columns::of(&record);
    columns.state = state(found.get(from + 2))?;
    columns.suspect = found.get(from + 3);
    columns.token = token(found.get(from + 4));
    let holder: Option<&str> = found.get(from + 5);
    columns.worker = match (holder, &record.worker) {
        // Mostly the same worker as in the record: reuse it, which saves an allocation.
        (Some(kept), Some(same)) if worker(same) == kept => Some(same.clone()),
        (Some(kept), _) => Some(unworker(kept).ok_or(DecodeError::Malformed("an invalid worker"))?),
        (None, _) => None,
    };
    columns.created_at = time(found.get(from + 6));
    columns.run_at = time(found.get(from + 7));
    columns.expires_at = time(found.get(from + 8));
    columns.lease_until = maybe(9);
    columns.started_at = maybe(10);
    columns.ended_at = maybe(11);
    columns.rests_at = maybe(12);
    let said: Option<&[u8]> = found.get(from + 13);
    columns.progress = said.and_then(unprogress);
    let outbox: Option<&str> = found.get(from + 15);
    let outbox = outbox.into_iter().flat_map(|outbox| outbox.split('\n')).map(outbox_row);
    let outbox = outbox.collect::<Option<Vec<_>>>();
    let outbox = outbox.ok_or(DecodeError::Malformed("an invalid outbox"))?;
    let version = found.get::<_, i64>(from + 1).cast_unsigned();
    Ok(Row::new(id, version, columns, outbox, Arc::new(record)))
}

/// The number of columns in [`row_columns`](crate::sql::row_columns).
pub(crate) const ROW_COLUMNS: usize = 16;

fn outbox_row(line: &str) -> Option<OutboxRow> {
    let mut parts = line.splitn(5, ' ');
    let mut number = || parts.next()?.parse::<i64>().ok();
    let (generation, due_at, held, claimed) = (number()?, number()?, number()?, number()?);
    let mut row = OutboxRow::new(u32::try_from(generation).ok()?, Destination::new(untext(parts.next()?)));
    (row.due_at, row.token, row.claimed) = (time(due_at), token(held), claimed != 0);
    Some(row)
}

/// The checksum of a payload.
pub(crate) fn sum(payload: &Payload) -> i32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(payload.head());
    hasher.update(payload.body());
    hasher.finalize().cast_signed()
}

/// The payload whose checksum, head and body begin at column `from`.
pub(crate) fn request(found: &Found, from: usize) -> StoreResult<Payload> {
    let kept: Option<i32> = found.get(from);
    let Some(kept) = kept else {
        return Err(DecodeError::Malformed("it is missing").into());
    };
    let payload = Payload::new(bytes_at(found, from + 1), bytes_at(found, from + 2));
    match sum(&payload) == kept {
        true => Ok(payload),
        false => Err(DecodeError::Malformed("its checksum does not match").into()),
    }
}

fn bytes_at(found: &Found, at: usize) -> Bytes {
    Bytes::copy_from_slice(found.get(at))
}

/// A response as it is stored: its checksum, and the payload.
pub(crate) fn response(payload: &Payload) -> Vec<u8> {
    [&sum(payload).to_be_bytes(), &payload.encode()[..]].concat()
}

pub(crate) fn unresponse(kept: &[u8]) -> StoreResult<Payload> {
    let (kept, payload) = kept
        .split_first_chunk()
        .ok_or(DecodeError::Malformed("it ends too early"))?;
    let payload = Payload::decode(Bytes::copy_from_slice(payload))?;
    match sum(&payload).to_be_bytes() == *kept {
        true => Ok(payload),
        false => Err(DecodeError::Malformed("its checksum does not match").into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_kept_whatever_is_in_them() {
        for of in ["", "plain", "a\0b", "\u{1}", "\u{1}0", "two\nlines", "\u{1}n\n\0\u{1}1"] {
            let kept = text(of);
            assert!(!kept.contains(['\0', '\n']), "{kept:?}");
            assert_eq!(untext(&kept), of);
        }
    }

    #[test]
    fn a_worker_is_read_back() {
        for name in ["w", "web-1", "", "a\0b"] {
            let of = WorkerId::new(name, 7);
            assert_eq!(unworker(&worker(&of)), Some(of));
        }
    }
}
