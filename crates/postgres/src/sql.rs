//! Long statements, and parts that several statements share. `@.` stands for the schema, `@timeline` for the lower
//! bound of new tokens.

pub(crate) const INSERT: &str = include_str!("../sql/insert.sql");
pub(crate) const COMMIT: &str = include_str!("../sql/commit.sql");

/// The columns of `task t` that [`codec::row`](crate::codec::row) reads. The outbox is one text, with a line for each
/// row. The destination comes last in a line, and contains no line break.
macro_rules! row_columns {
    () => {
        "t.id, t.version, t.state, t.suspect, t.token, t.worker, t.created_at, t.run_at, t.expires_at, t.lease_until, \
         t.started_at, t.ended_at, t.rests_at, t.progress, t.record, \
         CASE WHEN t.owes THEN (SELECT string_agg(concat_ws(' ', o.generation, o.due_at, o.token, o.claimed::int, \
         o.destination), E'\\n' ORDER BY o.generation, o.destination) FROM @.outbox o WHERE o.id = t.id) END AS outbox"
    };
}
pub(crate) use row_columns;

/// A claim of the tasks that `claim.sql` chooses from `pools(pool, first)`.
macro_rules! claim {
    ($pools:expr) => {
        concat!(
            "WITH RECURSIVE clock AS MATERIALIZED (SELECT @.now_ms() AS now, @timeline AS floor), pools AS (",
            $pools,
            "), ",
            include_str!("../sql/claim.sql"),
            include_str!("../sql/take.sql"),
            "SELECT clock.now, (SELECT version FROM @.control) AS control, @.now_ms() - clock.now AS took, \
             (SELECT array_agg(pool) FROM pools) AS pools, (SELECT array_agg(first) FROM pools) AS firsts, \
             (SELECT least((SELECT run_at FROM next), (SELECT run_at FROM next_suspect))) AS next, t.* \
             FROM clock LEFT JOIN (SELECT ",
            row_columns!(),
            ", q.sum, q.head, q.body FROM taken t LEFT JOIN @.request q ON q.id = t.id) t ON true ORDER BY t.run_at, t.id"
        )
    };
}

/// All pools with queued tasks, and the time of the first task of each. Takes one index step for each pool, so it does
/// not read the tasks of a pool that is at its limit.
macro_rules! all_pools {
    () => {
        "(SELECT t.pool, t.run_at AS first FROM @.task t WHERE t.state IN (0, 2) AND NOT t.suspect \
         ORDER BY t.pool, t.run_at, t.id LIMIT 1) UNION ALL \
         SELECT n.pool, n.first FROM pools p CROSS JOIN LATERAL (SELECT t.pool, t.run_at AS first FROM @.task t \
         WHERE t.state IN (0, 2) AND NOT t.suspect AND t.pool > p.pool ORDER BY t.pool, t.run_at, t.id LIMIT 1) n"
    };
}

/// Claims from all pools.
pub(crate) const CLAIM: &str = claim!(all_pools!());

/// The fronts of all pools, and the time that finding them took.
pub(crate) const FRONTS: &str = concat!(
    "WITH RECURSIVE clock AS MATERIALIZED (SELECT @.now_ms() AS now), pools AS (",
    all_pools!(),
    "), fronts AS MATERIALIZED (SELECT array_agg(pool) AS pools, array_agg(first) AS firsts FROM pools) \
     SELECT clock.now, fronts.pools, fronts.firsts, @.now_ms() - clock.now AS took FROM clock CROSS JOIN fronts"
);

/// Claims from the pools $10, beginning at the times $11. See [`Front`](crate::front::Front).
pub(crate) const CLAIM_FROM: &str = claim!(
    "SELECT a.pool, coalesce((SELECT t.run_at FROM @.task t WHERE t.state IN (0, 2) AND NOT t.suspect AND t.pool = a.pool \
     AND t.run_at >= a.since ORDER BY t.run_at, t.id LIMIT 1), clock.now) AS first \
     FROM unnest($10::text[], $11::int8[]) AS a(pool, since) CROSS JOIN clock"
);

/// Claims those of the tasks with the ids $2 that still wait.
pub(crate) const TAKE: &str = concat!(
    "WITH clock AS MATERIALIZED (SELECT @.now_ms() AS now, @timeline AS floor), \
     chosen AS MATERIALIZED (SELECT t.id FROM @.task t WHERE t.id = ANY ($2::uuid[]) AND t.state + 0 IN (0, 2) \
     AND t.format <= $4 AND t.run_at + 0 <= (SELECT now FROM clock) AND t.expires_at + 0 > (SELECT now FROM clock) \
     AND $6::text[] IS NOT NULL AND $7::int8[] IS NOT NULL AND $8::int8 IS NOT NULL AND ($9 OR NOT t.suspect) \
     ORDER BY t.id FOR NO KEY UPDATE SKIP LOCKED), ",
    include_str!("../sql/take.sql"),
    "SELECT clock.now, (SELECT version FROM @.control) AS control, NULL::int8 AS took, NULL::text[] AS pools, \
     NULL::int8[] AS firsts, NULL::int8 AS next, t.* \
     FROM clock LEFT JOIN (SELECT ",
    row_columns!(),
    ", q.sum, q.head, q.body FROM taken t LEFT JOIN @.request q ON q.id = t.id) t ON true ORDER BY t.run_at, t.id"
);
