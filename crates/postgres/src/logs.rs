//! The progress and the logs of tasks.

use tokio_postgres::error::SqlState;
use tower_respond_async::{
    store::{LogQuery, StoreError, StoreResult, kit::LogMeter},
    task::{LeaseRef, LogLine, Progress, RequestId, Scope},
};

use crate::{codec, connection::unavailable, read, session::Connection, sql::row_columns};

pub(crate) async fn set_progress(connection: &Connection, lease: LeaseRef, progress: &Progress) -> StoreResult<bool> {
    let set = "UPDATE @.task SET progress = $3 WHERE id = $1 AND token = $2 AND state + 0 IN (1, 3)";
    let (id, token) = (codec::uuid(lease.id), lease.token.get().cast_signed());
    let set = connection
        .execute(set, &[&id, &token, &codec::progress(progress)])
        .await;
    Ok(set.map_err(unavailable)? > 0)
}

/// Locks the row until the lines are added. Without the lock, a claim that is not committed yet would not be seen, and
/// lines of the earlier claim could follow those of the new one.
const HELD: &str = concat!(
    "SELECT @.now_ms(), ",
    row_columns!(),
    " FROM @.task t WHERE t.id = $1 AND t.token = $2 AND t.state + 0 IN (1, 3) FOR SHARE OF t"
);

/// Adds lines. Returns `false`, and adds none, if the claim no longer holds.
pub(crate) async fn append(connection: &Connection, lease: LeaseRef, lines: &[LogLine]) -> StoreResult<bool> {
    let (id, token) = (codec::uuid(lease.id), lease.token.get().cast_signed());
    for _ in 0..TRIES {
        connection.begin();
        let held = connection.query(HELD, &[&id, &token]).await.map_err(unavailable)?;
        let Some(held) = held.first() else {
            connection.commit().await.map_err(unavailable)?;
            return Ok(false);
        };
        let (now, row) = (codec::time(held.get(0)), codec::row(held, 1)?);
        let last = "SELECT last, piece FROM @.log WHERE id = $1 ORDER BY last DESC LIMIT 1";
        let found = connection.query(last, &[&id]).await.map_err(unavailable)?;
        let (mut meter, last) = match found.first() {
            Some(found) => (
                LogMeter::decode(found.get(1))?.0,
                found.get::<_, i64>(0).cast_unsigned(),
            ),
            None => (LogMeter::default(), 0),
        };
        let kept = meter.admit(&row, lines.to_vec(), last, now);
        if let Some(last) = kept.last() {
            let add = "INSERT INTO @.log (id, last, piece) VALUES ($1, $2, $3)";
            let added = connection
                .execute(add, &[&id, &codec::number(last.seq), &meter.encode(&kept)])
                .await;
            match added {
                // Another transaction added a line with the same number: the lock is shared.
                Err(error) if error.code() == Some(&SqlState::UNIQUE_VIOLATION) => {
                    connection.rollback().await.map_err(unavailable)?;
                    continue;
                }
                added => added.map_err(unavailable)?,
            };
        }
        connection.commit().await.map_err(unavailable)?;
        return Ok(true);
    }
    Err(StoreError::unavailable(
        "other transactions kept adding lines at the same time",
    ))
}

const TRIES: usize = 20;

/// The requested lines of a task in `scope`.
pub(crate) async fn logs(
    connection: &Connection,
    scope: &Scope,
    id: RequestId,
    query: LogQuery,
) -> StoreResult<Vec<LogLine>> {
    let (owner, tenant) = read::scope(scope, 2);
    let there = format!("SELECT FROM @.task t WHERE t.id = $1 AND {owner}");
    if connection
        .query(&there, &[&codec::uuid(id), &tenant])
        .await
        .map_err(unavailable)?
        .is_empty()
    {
        return Err(StoreError::not_found());
    }
    let (mut lines, mut after) = (Vec::new(), codec::number(query.after));
    loop {
        let next = "SELECT last, piece FROM @.log WHERE id = $1 AND last > $2 ORDER BY last LIMIT 100";
        let found = connection
            .query(next, &[&codec::uuid(id), &after])
            .await
            .map_err(unavailable)?;
        let Some(end) = found.last() else { return Ok(lines) };
        after = end.get(0);
        for found in &found {
            let (_, piece) = LogMeter::decode(found.get(1))?;
            let piece = LogMeter::decode_lines(piece)?;
            let asked_for = piece
                .into_iter()
                .filter(|line| line.seq > query.after && query.attempt.is_none_or(|attempt| line.attempt == attempt));
            lines.extend(asked_for);
            if lines.len() >= query.limit {
                lines.truncate(query.limit);
                return Ok(lines);
            }
        }
    }
}
