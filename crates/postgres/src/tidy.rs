//! Cleaning that every process does regularly.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use tower_respond_async::{store::StoreResult, time::Timestamp};

use crate::{
    connection::{is_race, unavailable},
    session::Connection,
};

/// Removes at most `limit` keys whose window has ended. Skips locked keys: an insert may be taking them over.
pub(crate) async fn prune_keys(connection: &Connection, limit: i64) -> StoreResult<u64> {
    let prune = "DELETE FROM @.key WHERE key = ANY (ARRAY(SELECT key FROM @.key \
        WHERE until <= (SELECT @.now_ms() OFFSET 0) ORDER BY until LIMIT $1::int8 FOR UPDATE SKIP LOCKED))";
    connection.execute(prune, &[&limit]).await.map_err(unavailable)
}

/// When a handle next adds up the tally.
pub(crate) struct Fold(AtomicU64);

impl Fold {
    const EVERY: Duration = Duration::from_secs(600);

    /// For a newly opened handle. Random, so that handles do not all start at the same time.
    pub(crate) fn new(now: Timestamp) -> Self {
        let first = now.saturating_add(Self::EVERY.mul_f64(fastrand::f64()));
        Self(AtomicU64::new(first.as_millis()))
    }

    /// Whether it is due. Only one caller gets `true`; this schedules the next time.
    pub(crate) fn is_due(&self, now: Timestamp) -> bool {
        let (due, next) = (self.0.load(Ordering::Relaxed), now.saturating_add(Self::EVERY));
        now.as_millis() >= due
            && self
                .0
                .compare_exchange(due, next.as_millis(), Ordering::Relaxed, Ordering::Relaxed)
                .is_ok()
    }
}

/// Runs in one process at a time. Skips rows that are locked: those of a process that counts at this moment, and of
/// open transactions that stored a task.
const FOLD: &str = "WITH turn AS MATERIALIZED \
    (SELECT pg_try_advisory_xact_lock(hashtextextended('respond-async tally ' || $1, 0)) AS ours), \
    old AS MATERIALIZED (SELECT y.writer, y.tenant, y.pool, y.state FROM @.tally y WHERE y.writer <> 0 \
    AND (SELECT ours FROM turn) ORDER BY y.writer, y.tenant, y.pool, y.state LIMIT 10000 FOR UPDATE OF y SKIP LOCKED), \
    gone AS (DELETE FROM @.tally y USING old WHERE y.writer = old.writer AND y.tenant = old.tenant AND y.pool = old.pool \
    AND y.state = old.state RETURNING y.tenant, y.pool, y.state, y.n) \
    INSERT INTO @.tally AS y (writer, tenant, pool, state, n) \
    SELECT 0, tenant, pool, state, sum(n) FROM gone GROUP BY 2, 3, 4 HAVING sum(n) <> 0 ORDER BY 2, 3, 4 \
    ON CONFLICT (writer, tenant, pool, state) DO UPDATE SET n = y.n + EXCLUDED.n";

/// Adds up the rows of all writers. Otherwise the rows of ended processes, some for each tenant, would stay for ever.
pub(crate) async fn fold(connection: &Connection, schema: &str) -> StoreResult<()> {
    let nothing_left = "DELETE FROM @.tally WHERE writer = 0 AND n = 0";
    let folded = async {
        connection.execute(FOLD, &[&schema]).await?;
        connection.execute(nothing_left, &[]).await
    };
    match folded.await {
        // A lost race is no error: the next run adds up the same rows.
        Err(error) if !is_race(&error) => Err(unavailable(error)),
        _ => Ok(()),
    }
}
