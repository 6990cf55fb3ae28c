//! Reads rows.

use std::time::Duration;

use tokio_postgres::Row as Found;
use tower_respond_async::{
    store::{Glance, Part, Payload, Row, StoreError, StoreErrorKind, StoreResult, Which},
    task::{Counts, DecodeError, Presence, RequestId, Scope, Seen, TaskState},
};
use uuid::Uuid;

use crate::{codec, connection::unavailable, session::Connection, sql::row_columns};

const BY_ID: &str = concat!("SELECT ", row_columns!(), " FROM @.task t WHERE t.id = $1");

/// The row of this task, if there is one.
pub(crate) async fn by_id(connection: &Connection, id: RequestId) -> StoreResult<Option<Row>> {
    let found = connection
        .query(BY_ID, &[&codec::uuid(id)])
        .await
        .map_err(unavailable)?;
    found.first().map(|found| decoded(id, found)).transpose()
}

/// Like [`by_id`], but `None` also for a row that this build cannot read.
pub(crate) async fn readable(connection: &Connection, id: RequestId) -> StoreResult<Option<Row>> {
    match by_id(connection, id).await {
        Err(error) if matches!(error.kind(), StoreErrorKind::Corrupt | StoreErrorKind::Incompatible) => Ok(None),
        read => read,
    }
}

fn decoded(id: RequestId, found: &Found) -> StoreResult<Row> {
    codec::row(found, 0).map_err(|error: DecodeError| {
        StoreError::new(error.into(), format!("the stored data of task {id} cannot be read")).because(error)
    })
}

/// The rows of these tasks that can be read, in the order of the ids.
pub(crate) async fn by_ids(connection: &Connection, ids: &[Uuid]) -> StoreResult<Vec<Row>> {
    let all = concat!(
        "SELECT ",
        row_columns!(),
        " FROM @.task t WHERE t.id = ANY ($1::uuid[])"
    );
    let found = connection.query(all, &[&ids]).await.map_err(unavailable)?;
    let mut rows: Vec<Row> = found.iter().filter_map(|found| codec::row(found, 0).ok()).collect();
    let place = |row: &Row| ids.iter().position(|id| *id == codec::uuid(row.id));
    rows.sort_by_cached_key(place);
    Ok(rows)
}

/// The rows in `scope` that `which` selects.
pub(crate) async fn rows(connection: &Connection, scope: &Scope, which: &Which) -> StoreResult<Vec<Row>> {
    let by_name = concat!("SELECT ", row_columns!(), " FROM @.task t WHERE t.name = $1");
    let by_worker = concat!(
        "SELECT ",
        row_columns!(),
        " FROM @.task t WHERE t.worker = $1 AND t.state IN (1, 3)"
    );
    let (found, is_one) = match which {
        Which::Id(id) => (connection.query(BY_ID, &[&codec::uuid(*id)]).await, true),
        Which::Name(name) => (connection.query(by_name, &[&codec::text(name.as_str())]).await, false),
        Which::HeldBy(worker) => (connection.query(by_worker, &[&codec::worker(worker)]).await, false),
    };
    let mut rows = Vec::new();
    for found in found.map_err(unavailable)? {
        match decoded(codec::id(found.get(0)), &found) {
            Ok(row) => rows.push(row),
            Err(error) if is_one => return Err(error),
            Err(_) => {}
        }
    }
    rows.retain(|row| row.is_in(scope));
    Ok(rows)
}

/// The condition on `t` for a scope, and the value of its parameter `number`.
pub(crate) fn scope(scope: &Scope, number: usize) -> (String, Option<String>) {
    match scope {
        Scope::All => (format!("${number}::text IS NULL"), None),
        Scope::One(None) => (format!("t.tenant IS NULL AND ${number}::text IS NULL"), None),
        Scope::One(Some(tenant)) => (
            format!("t.tenant = ${number}::text"),
            Some(codec::text(tenant.as_str())),
        ),
    }
}

/// The request or the response of a task in `scope`.
pub(crate) async fn payload(
    connection: &Connection,
    within: &Scope,
    id: RequestId,
    part: Part,
) -> StoreResult<Option<Payload>> {
    let (condition, tenant) = scope(within, 2);
    let of = match part {
        Part::Request => format!(
            "SELECT q.sum, q.head, q.body FROM @.task t JOIN @.request q ON q.id = t.id WHERE t.id = $1 AND {condition}"
        ),
        Part::Response => {
            format!("SELECT t.response FROM @.task t WHERE t.id = $1 AND {condition} AND t.response IS NOT NULL")
        }
    };
    let found = connection
        .query(&of, &[&codec::uuid(id), &tenant])
        .await
        .map_err(unavailable)?;
    let payload = found.first().map(|found| match part {
        Part::Request => codec::request(found, 0),
        Part::Response => codec::unresponse(found.get(0)),
    });
    payload.transpose()
}

const OLDEST: &str = "SELECT @.now_ms(), @.oldest_run_at()";

/// The number of tasks in each state, and the time of the store in milliseconds.
pub(crate) async fn counts(connection: &Connection, within: &Scope) -> StoreResult<(Counts, i64)> {
    let owner = match within {
        Scope::All => None,
        Scope::One(None) => Some(String::new()),
        Scope::One(Some(tenant)) => Some(format!("={}", codec::text(tenant.as_str()))),
    };
    let tally = "SELECT state, sum(n)::int8 FROM @.tally WHERE $1::text IS NULL OR tenant = $1 GROUP BY 1";
    let found = connection.query(tally, &[&owner]).await.map_err(unavailable)?;
    let mut counts = Counts::default();
    let mut pending = 0;
    for found in found {
        let count = found.get::<_, i64>(1).max(0).cast_unsigned();
        match codec::state(found.get(0)) {
            Ok(state) => counts.set(state, count),
            Err(_) => pending = count,
        }
    }
    counts.pending_deliveries = (*within == Scope::All).then_some(pending);
    let of_tenant = "SELECT @.now_ms(), (SELECT t.run_at FROM @.task t WHERE t.state IN (0, 2) AND t.tenant = $1 \
        ORDER BY t.run_at LIMIT 1)";
    // Ordered by both: with `tenant IS NULL`, the planner does not see that the index is sorted by time.
    let without_tenant = "SELECT @.now_ms(), (SELECT t.run_at FROM @.task t WHERE t.state IN (0, 2) AND t.tenant IS NULL \
        ORDER BY t.tenant, t.run_at LIMIT 1)";
    let oldest = match within {
        Scope::All => connection.query(OLDEST, &[]).await,
        Scope::One(None) => connection.query(without_tenant, &[]).await,
        Scope::One(Some(tenant)) => connection.query(of_tenant, &[&codec::text(tenant.as_str())]).await,
    };
    let oldest = oldest.map_err(unavailable)?;
    let (now, run_at): (i64, Option<i64>) = (oldest[0].get(0), oldest[0].get(1));
    let waited = run_at.filter(|run_at| *run_at <= now).map(|run_at| now - run_at);
    counts.oldest_queued = waited.map(|waited| Duration::from_millis(waited.cast_unsigned()));
    Ok((counts, now))
}

/// The version, progress and last log line of these tasks.
pub(crate) async fn glance(connection: &Connection, ids: &[RequestId]) -> StoreResult<Vec<Option<Glance>>> {
    let uuids: Vec<Uuid> = ids.iter().copied().map(codec::uuid).collect();
    let look = "SELECT t.id, t.version, t.progress, (SELECT max(l.last) FROM @.log l WHERE l.id = t.id) FROM @.task t \
        WHERE t.id = ANY ($1::uuid[])";
    let found = connection.query(look, &[&uuids]).await.map_err(unavailable)?;
    let glances: std::collections::HashMap<Uuid, Glance> = found
        .iter()
        .map(|found| {
            let progress: Option<&[u8]> = found.get(2);
            let progress = progress.and_then(codec::unprogress);
            let (version, last): (i64, Option<i64>) = (found.get(1), found.get(3));
            let last = last.unwrap_or_default().cast_unsigned();
            (
                found.get(0),
                Glance::of(version.cast_unsigned(), progress.as_ref(), last),
            )
        })
        .collect();
    Ok(uuids.iter().map(|id| glances.get(id).copied()).collect())
}

/// Records that this process is alive, and returns the processes that did so `within` this time.
pub(crate) async fn beat(connection: &Connection, me: &Presence, within: Duration) -> StoreResult<Vec<Seen>> {
    let say = "INSERT INTO @.process (worker, seen_at, presence) VALUES ($1, @.now_ms(), $2) \
        ON CONFLICT (worker) DO UPDATE SET seen_at = EXCLUDED.seen_at, presence = EXCLUDED.presence";
    connection
        .execute(say, &[&codec::worker(&me.worker), &me.encode()])
        .await
        .map_err(unavailable)?;
    // Any process removes entries that are a day old. Not sooner, since the clock may have gone back.
    let forget = "DELETE FROM @.process WHERE seen_at < (SELECT @.now_ms() - 86400000 OFFSET 0)";
    connection.execute(forget, &[]).await.map_err(unavailable)?;
    let look = "SELECT p.presence, greatest(clock.now - p.seen_at, 0) FROM @.process p, \
        (SELECT @.now_ms() AS now OFFSET 0) clock WHERE p.seen_at >= clock.now - $1";
    let found = connection
        .query(look, &[&codec::duration(within)])
        .await
        .map_err(unavailable)?;
    let seen = found.iter().filter_map(|found| {
        // An entry that cannot be read was written by a newer build.
        let presence = Presence::decode(found.get(0)).ok()?;
        let ago = found.get::<_, i64>(1).cast_unsigned();
        Some(Seen::new(presence, Duration::from_millis(ago)))
    });
    Ok(seen.collect())
}

/// [`counts`] reads a state that no task has, such as the -1 of the tally, as the count of completions.
const _: () = assert!(TaskState::ALL.len() == 9 && TaskState::ALL[8] as i16 == 8);
