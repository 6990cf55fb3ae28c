//! Lists of tasks, page by page.

use std::{collections::HashMap, fmt::Write};

use tower_respond_async::{
    store::{Row, StoreResult},
    task::{Cursor, Filter, Page, PageOf, RequestId, Scope, SortOrder, TaskState},
};
use uuid::Uuid;

use crate::{codec, connection::unavailable, read, session::Connection};

/// How many rows are checked in Rust at a time, if the filter needs records or bodies.
const AT_ONCE: usize = 500;

/// One page of the rows that match. The server filters by columns, and this process by the rest. A page scans at most
/// [`Page::SCAN_LIMIT`] rows.
pub(crate) async fn list(
    connection: &Connection,
    scope: &Scope,
    filter: &Filter,
    page: &Page,
) -> StoreResult<PageOf<Row>> {
    let limit = page.limit.max(1);
    let by_record = filter.prefix.is_some() || !filter.labels.is_empty() || filter.text.is_some();
    let most = if by_record { AT_ONCE.max(limit) } else { limit };
    let (mut after, mut left, mut items) = (page.after, Page::SCAN_LIMIT, Vec::new());
    loop {
        let seen = look(connection, scope, filter, page.order, after, left, most).await?;
        let rows = read::by_ids(connection, &seen.hits).await?;
        let bodies = match &filter.text {
            Some(_) => bodies(connection, &seen.hits).await?,
            None => HashMap::new(),
        };
        for mut row in rows {
            let body = bodies.get(&row.id).map_or(&[][..], |body| body);
            if !filter.matches(row.restore(), body) {
                continue;
            }
            items.push(row);
            if items.len() == limit {
                return Ok(PageOf {
                    next: items.last().map(Row::cursor),
                    items,
                });
            }
        }
        left = left.saturating_sub(seen.scanned);
        after = seen.next;
        if after.is_none() || left == 0 {
            return Ok(PageOf { items, next: after });
        }
    }
}

struct Look {
    hits: Vec<Uuid>,
    /// How many rows were scanned.
    scanned: usize,
    /// Where to continue, if there may be more.
    next: Option<Cursor>,
}

async fn look(
    connection: &Connection,
    scope: &Scope,
    filter: &Filter,
    order: SortOrder,
    after: Option<Cursor>,
    left: usize,
    most: usize,
) -> StoreResult<Look> {
    let (owner, tenant) = read::scope(scope, 3);
    let (direction, behind) = match order {
        SortOrder::Ascending => ("ASC", ">"),
        SortOrder::Descending => ("DESC", "<"),
    };
    // The statement compares both columns as one row, so that the planner starts here in the index.
    let start = match (after, order) {
        (Some(after), _) => (codec::millis(after.created_at), codec::uuid(after.id)),
        (None, SortOrder::Ascending) => (i64::MIN, Uuid::nil()),
        (None, SortOrder::Descending) => (i64::MAX, Uuid::max()),
    };
    let mut hit = String::from("true");
    if filter.states.is_some() {
        hit.push_str(" AND state = ANY ($8::int2[])");
    } else {
        hit.push_str(" AND $8::int2[] IS NOT NULL");
    }
    for (column, value, number) in [
        ("pool", filter.pool.is_some(), 9),
        ("function", filter.function.is_some(), 10),
    ] {
        let _ = match value {
            true => write!(hit, " AND {column} = ${number}::text"),
            false => write!(hit, " AND ${number}::text IS NULL"),
        };
    }
    let sql = format!(
        "WITH seen AS MATERIALIZED (SELECT w.*, row_number() OVER () AS nth FROM (SELECT t.id, t.created_at, t.state, t.pool, \
         t.function FROM @.task t WHERE {owner} AND (t.created_at, t.id) {behind} ($1::int8, $2::uuid) \
         AND t.created_at >= $6::int8 AND t.created_at <= $7::int8 \
         ORDER BY t.created_at {direction}, t.id {direction} LIMIT $4::int8) w), \
         hit AS MATERIALIZED (SELECT id, created_at, nth FROM seen WHERE {hit} ORDER BY nth LIMIT $5::int8) \
         SELECT ARRAY(SELECT id FROM hit ORDER BY nth), (SELECT count(*) FROM hit), (SELECT count(*) FROM seen), \
         (SELECT max(nth) FROM hit), (SELECT created_at FROM hit ORDER BY nth DESC LIMIT 1), \
         (SELECT created_at FROM seen ORDER BY nth DESC LIMIT 1), (SELECT id FROM seen ORDER BY nth DESC LIMIT 1)"
    );
    // How many rows the server scans. Without a condition on columns, all of them are hits.
    let is_plain = filter.states.is_none() && filter.pool.is_none() && filter.function.is_none();
    let window = if is_plain { left.min(most) } else { left };
    let states: Vec<i16> = match filter.states {
        Some(states) => TaskState::ALL
            .into_iter()
            .filter(|state| states.contains(*state))
            .map(|of| of as i16)
            .collect(),
        None => Vec::new(),
    };
    let found = connection
        .query(
            &sql,
            &[
                &start.0,
                &start.1,
                &tenant,
                &codec::count(window),
                &codec::count(most),
                &filter.created_from.map_or(i64::MIN, codec::millis),
                &filter.created_to.map_or(i64::MAX, codec::millis),
                &states,
                &filter.pool.as_ref().map(|pool| codec::text(pool.as_str())),
                &filter.function.as_deref().map(codec::text),
            ],
        )
        .await
        .map_err(unavailable)?;
    let found = &found[0];
    let hits: Vec<Uuid> = found.get(0);
    let (count, scanned): (i64, i64) = (found.get(1), found.get(2));
    let cursor = |created_at: Option<i64>, id: Option<RequestId>| {
        Some(Cursor {
            created_at: codec::time(created_at?),
            id: id?,
        })
    };
    if count == codec::count(most) {
        // Continue after the last hit. The rows scanned after it are scanned again.
        let last = hits.last().copied().map(codec::id);
        let scanned = found.get::<_, Option<i64>>(3).unwrap_or(scanned);
        let next = cursor(found.get(4), last);
        return Ok(Look {
            hits,
            scanned: usize::try_from(scanned).unwrap_or(left),
            next,
        });
    }
    let next = match scanned == codec::count(window) {
        true => cursor(found.get(5), found.get::<_, Option<Uuid>>(6).map(codec::id)),
        false => None,
    };
    Ok(Look {
        hits,
        scanned: usize::try_from(scanned).unwrap_or(left),
        next,
    })
}

/// The beginnings of the request bodies, as far as a search reads.
async fn bodies(connection: &Connection, ids: &[Uuid]) -> StoreResult<HashMap<RequestId, Vec<u8>>> {
    let begin = "SELECT q.id, substring(q.body FOR $2::int4) FROM @.request q WHERE q.id = ANY ($1::uuid[])";
    let most = i32::try_from(Filter::TEXT_BYTES).unwrap_or(i32::MAX);
    let found = connection.query(begin, &[&ids, &most]).await.map_err(unavailable)?;
    Ok(found
        .iter()
        .map(|found| (codec::id(found.get(0)), found.get(1)))
        .collect())
}
