//! Claims tasks for workers, and renews their leases.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use tokio_postgres::{
    Row as Found,
    error::{Error, SqlState},
};
use tower_respond_async::{
    store::{Claim, ClaimedRow, Claims, Renewal, StoreErrorKind, StoreResult, kit::Allowance},
    task::{DecodeError, LeaseRef, PoolName, TaskRecord, Tenant},
};
use uuid::Uuid;

use crate::{
    codec,
    connection::{Again, unavailable},
    front::{Front, Since},
    session::{Connection, LIMIT, Param},
    sql,
};

/// How many more tasks of each pool a claim with limits per tenant reads than it may claim.
const AHEAD: usize = 1000;

const FORMAT: i16 = TaskRecord::FORMAT as i16;

/// Claims tasks for a worker. Also returns the server's time.
pub(crate) async fn claim(
    connection: &Connection,
    claim: &Claim,
    writer: i64,
    front: &Front<String>,
    set_aside: &AtomicU64,
) -> StoreResult<(Claims, i64)> {
    let (found, mut claims) = match claim.pools.iter().any(|pool| pool.per_tenant.is_some()) {
        true => by_tenant(connection, claim, writer).await?,
        false => by_pool(connection, claim, writer, front).await?,
    };
    let now: i64 = found[0].get("now");
    claims.control = found[0].get::<_, i64>("control").cast_unsigned();
    if let Some(next) = found[0].get::<_, Option<i64>>("next") {
        let next = codec::time(next).since(codec::time(now));
        claims.next_due = Some(claims.next_due.map_or(next, |due| due.min(next)));
    }
    for found in found
        .iter()
        .filter(|found| found.get::<_, Option<Uuid>>(FIRST).is_some())
    {
        match codec::row(found, FIRST) {
            Ok(row) => {
                let request = codec::request(found, FIRST + codec::ROW_COLUMNS);
                if request
                    .as_ref()
                    .is_err_and(|error| error.kind() == StoreErrorKind::Corrupt)
                {
                    set_aside.fetch_add(1, Ordering::Relaxed);
                }
                claims.tasks.push(ClaimedRow::new(row, request));
            }
            // Written by a newer build: only such a build can read it.
            Err(DecodeError::Newer(_)) => {}
            Err(DecodeError::Malformed(_)) => {
                // If this fails, the task stays claimed by this worker, which does not run it. The other tasks are
                // claimed all the same.
                if put_aside(connection, found.get(FIRST), writer).await.is_ok() {
                    set_aside.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
    }
    Ok((claims, now))
}

/// The first column of a task, after the columns that all rows share.
const FIRST: usize = 6;

async fn by_pool(
    connection: &Connection,
    claim: &Claim,
    writer: i64,
    front: &Front<String>,
) -> StoreResult<(Vec<Found>, Claims)> {
    let (mut takes_suspect, mut again) = (true, Again::new());
    let bounded = front.since_beside();
    let pools = pools(claim);
    let most: Vec<i64> = claim.pools.iter().map(|of| codec::count(of.max)).collect();
    let (worker, max, lease) = (
        codec::worker(&claim.worker),
        codec::count(claim.max),
        codec::duration(claim.lease),
    );
    let others = codec::count(claim.others);
    let found = loop {
        let params: [&dyn Param; 9] = [
            &worker,
            &max,
            &lease,
            &FORMAT,
            &writer,
            &pools,
            &most,
            &others,
            &takes_suspect,
        ];
        let claimed = match &bounded {
            None => connection.query(sql::CLAIM, &params).await,
            Some(Since { since, .. }) => {
                let (parts, since): (Vec<String>, Vec<i64>) =
                    since.iter().map(|(pool, at)| (pool.clone(), *at)).unzip();
                let params: Vec<&dyn Param> = params.into_iter().chain([&parts as &dyn Param, &since]).collect();
                connection.query(sql::CLAIM_FROM, &params).await
            }
        };
        match claimed {
            Ok(found) => break found,
            // Another handle claimed a suspect task for the same worker at the same moment.
            Err(error) if is_second_suspect(&error) && takes_suspect => takes_suspect = false,
            Err(error) if again.after_race(&error) => {}
            Err(error) => return Err(unavailable(error)),
        }
    };
    let now: i64 = found[0].get("now");
    let firsts = firsts(&found[0]);
    let mut claims = Claims::default();
    match bounded {
        Some(bounded) => {
            front.saw(now, firsts);
            claims.next_due = Some(bounded.left.max(LOOKING));
        }
        // The front of a pool without a queued task is the present time.
        None => front.saw_whole(
            found[0].get("took"),
            now,
            pools.into_iter().map(|pool| (pool, now)).chain(firsts),
        ),
    }
    Ok((found, claims))
}

/// The least time until the next claim, if a claim began at the fronts and no task is due earlier.
const LOOKING: Duration = Duration::from_millis(250);

/// The first queued task of each pool.
fn firsts(found: &Found) -> impl Iterator<Item = (String, i64)> {
    let pools: Option<Vec<String>> = found.get("pools");
    let firsts: Option<Vec<i64>> = found.get("firsts");
    pools.unwrap_or_default().into_iter().zip(firsts.unwrap_or_default())
}

/// Looks at the whole queue for its fronts, for at most a minute. Claims start from the earlier fronts in the meantime.
pub(crate) async fn look_at_all(connection: &Connection, front: &Front<String>) -> StoreResult<()> {
    connection.allow(Duration::from_secs(61));
    connection.begin();
    connection
        .batch("SET LOCAL statement_timeout = 60000")
        .await
        .map_err(unavailable)?;
    let found = connection.query(sql::FRONTS, &[]).await.map_err(unavailable)?;
    connection.commit().await.map_err(unavailable)?;
    connection.allow(LIMIT);
    let now: i64 = found[0].get("now");
    // The front of a pool without a queued task is the present time.
    let known = front
        .since_beside()
        .into_iter()
        .flat_map(|known| known.since.into_keys());
    let known = known.map(|pool| (pool, now));
    front.saw_whole(found[0].get("took"), now, known.chain(firsts(&found[0])));
    Ok(())
}

/// The pools that a claim names.
pub(crate) fn pools(claim: &Claim) -> Vec<String> {
    claim.pools.iter().map(|of| codec::text(of.pool.as_str())).collect()
}

fn is_second_suspect(error: &Error) -> bool {
    error.code() == Some(&SqlState::UNIQUE_VIOLATION)
}

/// The waiting tasks of each pool, as far ahead as a claim reads, and the suspect ones. Not locked, since most are not
/// claimed.
const LOOK: &str = "WITH RECURSIVE clock AS MATERIALIZED (SELECT @.now_ms() AS now), \
    pools AS ((SELECT pool FROM @.task WHERE state IN (0, 2) AND NOT suspect ORDER BY pool LIMIT 1) UNION ALL \
    SELECT (SELECT t.pool FROM @.task t WHERE t.state IN (0, 2) AND NOT t.suspect AND t.pool > p.pool ORDER BY t.pool LIMIT 1) \
    FROM pools p WHERE p.pool IS NOT NULL), \
    seen AS ((SELECT c.* FROM pools p CROSS JOIN LATERAL (SELECT t.id, t.pool, t.tenant, t.run_at, t.suspect FROM @.task t \
    WHERE t.state IN (0, 2) AND NOT t.suspect AND t.pool = p.pool AND t.expires_at + 0 > (SELECT now FROM clock) \
    AND t.format <= $1 ORDER BY t.run_at, t.id LIMIT $2) c) UNION ALL \
    (SELECT t.id, t.pool, t.tenant, t.run_at, t.suspect FROM @.task t WHERE t.state IN (0, 2) AND t.suspect \
    AND t.expires_at + 0 > (SELECT now FROM clock) AND t.format <= $1 ORDER BY t.run_at, t.id LIMIT $2)) \
    SELECT clock.now, EXISTS (SELECT FROM @.task h WHERE h.worker = $3 AND h.state IN (1, 3) AND h.suspect) AS wary, \
    s.id, s.pool, s.tenant, s.run_at, s.suspect FROM clock LEFT JOIN seen s ON true ORDER BY s.run_at, s.id";

/// A claim with limits per tenant: chooses tasks here, and then claims those that still wait.
async fn by_tenant(connection: &Connection, claim: &Claim, writer: i64) -> StoreResult<(Vec<Found>, Claims)> {
    let worker = codec::worker(&claim.worker);
    let ahead = codec::count(claim.max.saturating_add(AHEAD).min(10 * AHEAD));
    let seen = connection
        .query(LOOK, &[&FORMAT, &ahead, &worker])
        .await
        .map_err(unavailable)?;
    let now: i64 = seen[0].get(0);
    let mut has_suspect: bool = seen[0].get(1);
    let (mut allowance, mut claims, mut chosen) = (Allowance::of(claim), Claims::default(), Vec::new());
    for found in seen.iter().filter(|found| found.get::<_, Option<Uuid>>(2).is_some()) {
        let Ok(pool) = PoolName::new(&codec::untext(found.get(3))) else {
            continue;
        };
        let tenant: Option<&str> = found.get(4);
        let tenant = tenant.map(|tenant| Tenant::new(codec::untext(tenant)));
        let (run_at, suspect): (i64, bool) = (found.get(5), found.get(6));
        if suspect && has_suspect || !allowance.has_for(&pool, tenant.as_ref(), run_at <= now) {
            continue;
        }
        if chosen.len() == claim.max || run_at > now {
            claims.next_due = Some(codec::time(run_at).since(codec::time(now)));
            break;
        }
        has_suspect |= suspect;
        allowance.take(&pool, tenant.as_ref());
        chosen.push(found.get::<_, Uuid>(2));
    }
    claims.passed_over = allowance.passed_over();
    let (mut takes_suspect, mut again) = (true, Again::new());
    loop {
        let nothing: [String; 0] = [];
        let taken = connection
            .query(
                sql::TAKE,
                &[
                    &worker,
                    &chosen,
                    &codec::duration(claim.lease),
                    &FORMAT,
                    &writer,
                    &&nothing[..],
                    &&[0_i64; 0][..],
                    &0_i64,
                    &takes_suspect,
                ],
            )
            .await;
        match taken {
            Ok(taken) => {
                let count = taken
                    .iter()
                    .filter(|found| found.get::<_, Option<Uuid>>(FIRST).is_some())
                    .count();
                // Another process claimed some of them. There may be more tasks: claim again at once.
                if count < chosen.len() {
                    claims.next_due = Some(Duration::ZERO);
                }
                return Ok((taken, claims));
            }
            Err(error) if is_second_suspect(&error) && takes_suspect => takes_suspect = false,
            Err(error) if again.after_race(&error) => {}
            Err(error) => return Err(unavailable(error)),
        }
    }
}

/// Removes a task whose record cannot be read, and keeps the record in the table `aside`.
async fn put_aside(connection: &Connection, id: Uuid, writer: i64) -> Result<u64, Error> {
    let aside = "WITH d AS (DELETE FROM @.task WHERE id = $1 RETURNING id, tenant, pool, state, record), \
        o AS (DELETE FROM @.outbox o USING d WHERE o.id = d.id RETURNING 1), \
        a AS (INSERT INTO @.aside (at, id, record) SELECT @.now_ms(), id, record FROM d), \
        moved AS (SELECT tenant, pool, state, -1 AS n FROM d UNION ALL SELECT NULL, '', -1::int2, -1 FROM o) \
        INSERT INTO @.tally AS y (writer, tenant, pool, state, n) \
        SELECT $2::int8, coalesce('=' || tenant, ''), pool, state, sum(n) FROM moved GROUP BY 2, 3, 4 ORDER BY 2, 3, 4 \
        ON CONFLICT (writer, tenant, pool, state) DO UPDATE SET n = y.n + EXCLUDED.n";
    connection.execute(aside, &[&id, &writer]).await
}

/// Extends leases. "+ 0" keeps the planner from reading all held tasks.
const RENEW: &str = "WITH s AS MATERIALIZED \
    (SELECT * FROM unnest($1::uuid[], $2::int8[]) AS s(id, token) ORDER BY id) \
    UPDATE @.task t SET lease_until = c.now + $3::int8 FROM s, (SELECT @.now_ms() AS now OFFSET 0) c \
    WHERE t.id = s.id AND t.token = s.token AND t.state + 0 IN (1, 3) AND t.lease_until + 0 > c.now \
    RETURNING t.id, t.token, t.state = 3, c.now";

pub(crate) async fn renew(connection: &Connection, leases: &[LeaseRef], lease: Duration) -> StoreResult<Vec<Renewal>> {
    let mut renewed = std::collections::HashMap::new();
    for leases in leases.chunks(500) {
        let ids: Vec<Uuid> = leases.iter().map(|held| codec::uuid(held.id)).collect();
        let tokens: Vec<i64> = leases.iter().map(|held| held.token.get().cast_signed()).collect();
        let mut again = Again::new();
        let found = loop {
            match connection.query(RENEW, &[&ids, &tokens, &codec::duration(lease)]).await {
                Ok(found) => break found,
                Err(error) if again.after_race(&error) => {}
                Err(error) => return Err(unavailable(error)),
            }
        };
        for found in found {
            let held = LeaseRef {
                id: codec::id(found.get(0)),
                token: codec::token(found.get(1)),
            };
            renewed.insert((held.id, held.token), found.get::<_, bool>(2));
        }
    }
    let answer = |held: &LeaseRef| match renewed.get(&(held.id, held.token)) {
        Some(stop) => Renewal::Renewed { stop: *stop },
        None => Renewal::Lost,
    };
    Ok(leases.iter().map(answer).collect())
}
