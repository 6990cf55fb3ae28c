//! The statements that are long or appear twice. `@.` stands for the schema, `@timeline` for the floor of tokens.

pub(crate) const INSERT: &str = include_str!("../sql/insert.sql");
pub(crate) const COMMIT: &str = include_str!("../sql/commit.sql");

/// What [`codec::row`](crate::codec::row) reads, of `task t`. The outbox is one text: a line for each row, its destination last,
/// which has no line break in it.
macro_rules! row_columns {
    () => {
        "t.id, t.version, t.state, t.suspect, t.token, t.worker, t.created_at, t.run_at, t.expires_at, t.lease_until, \
         t.started_at, t.ended_at, t.rests_at, t.progress, t.record, \
         CASE WHEN t.owes THEN (SELECT string_agg(concat_ws(' ', o.generation, o.due_at, o.token, o.claimed::int, \
         o.destination), E'\\n' ORDER BY o.generation, o.destination) FROM @.outbox o WHERE o.id = t.id) END AS outbox"
    };
}
pub(crate) use row_columns;

/// Takes what a claim chooses by itself: `claim.sql` says what.
pub(crate) const CLAIM: &str = concat!(
    include_str!("../sql/claim.sql"),
    include_str!("../sql/take.sql"),
    "SELECT clock.now, (SELECT version FROM @.control) AS control, \
     (SELECT least((SELECT run_at FROM next), (SELECT run_at FROM next_suspect))) AS next, t.* \
     FROM clock LEFT JOIN (SELECT ",
    row_columns!(),
    ", q.sum, q.head, q.body FROM taken t LEFT JOIN @.request q ON q.id = t.id) t ON true ORDER BY t.run_at, t.id"
);

/// Takes tasks of these ids ($2) that still wait.
pub(crate) const TAKE: &str = concat!(
    "WITH clock AS MATERIALIZED (SELECT @.now_ms() AS now, @timeline AS floor), \
     chosen AS MATERIALIZED (SELECT t.id FROM @.task t WHERE t.id = ANY ($2::uuid[]) AND t.state + 0 IN (0, 2) \
     AND t.format <= $4 AND t.run_at + 0 <= (SELECT now FROM clock) AND t.expires_at + 0 > (SELECT now FROM clock) \
     AND $6::text[] IS NOT NULL AND $7::int8[] IS NOT NULL AND $8::int8 IS NOT NULL AND ($9 OR NOT t.suspect) \
     ORDER BY t.id FOR NO KEY UPDATE SKIP LOCKED), ",
    include_str!("../sql/take.sql"),
    "SELECT clock.now, (SELECT version FROM @.control) AS control, NULL::int8 AS next, t.* \
     FROM clock LEFT JOIN (SELECT ",
    row_columns!(),
    ", q.sum, q.head, q.body FROM taken t LEFT JOIN @.request q ON q.id = t.id) t ON true ORDER BY t.run_at, t.id"
);
