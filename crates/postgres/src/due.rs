//! What is due by the server's clock: candidates, which nothing is done to.

use tower_respond_async::{
    store::{Candidate, Candidates, Due, StoreResult, Why},
    task::TaskRecord,
};

use crate::{codec, connection::unavailable, session::Connection, sql::row_columns};

/// The candidates as `c(id, at, why)`, and their rows. Each list is read from the front of its index.
macro_rules! candidates {
    ($candidates:expr) => {
        concat!(
            "WITH RECURSIVE clock AS MATERIALIZED (SELECT @.now_ms() AS now), ",
            $candidates,
            ", first AS MATERIALIZED (SELECT * FROM c ORDER BY at, id LIMIT $1::int8) \
             SELECT clock.now, f.why, ",
            row_columns!(),
            " FROM clock LEFT JOIN (first f JOIN @.task t ON t.id = f.id AND t.format <= $2::int2) ON true \
             ORDER BY f.at, f.id"
        )
    };
}

const RESCUE: &str = candidates!(
    "c AS ((SELECT t.id, t.lease_until AS at, 0 AS why FROM @.task t WHERE t.state IN (1, 3) \
     AND t.lease_until <= (SELECT now FROM clock) AND t.format <= $2 ORDER BY t.lease_until, t.id LIMIT $1) UNION ALL \
     (SELECT t.id, t.expires_at, 1 FROM @.task t WHERE t.state IN (0, 2) AND t.expires_at <= (SELECT now FROM clock) \
     AND t.format <= $2 AND t.pool <> ALL ($3::text[]) ORDER BY t.expires_at, t.id LIMIT $1))"
);

const PRUNE: &str = candidates!(
    "c AS ((SELECT t.id, t.rests_at + $3::int8 AS at, 2 AS why FROM @.task t WHERE t.state = 4 AND t.rests_at IS NOT NULL \
     AND t.rests_at <= (SELECT now FROM clock) - $3 AND t.format <= $2 ORDER BY t.rests_at, t.id LIMIT $1) UNION ALL \
     (SELECT t.id, t.rests_at + $4::int8, 2 FROM @.task t WHERE t.state > 4 AND t.rests_at IS NOT NULL \
     AND t.rests_at <= (SELECT now FROM clock) - $4 AND t.format <= $2 ORDER BY t.rests_at, t.id LIMIT $1))"
);

/// A step by the index for each destination that there is, so that spared ones are not looked at.
const GIVE_UP: &str = candidates!(
    "places AS ((SELECT destination FROM @.outbox ORDER BY destination LIMIT 1) UNION ALL \
     SELECT (SELECT o.destination FROM @.outbox o WHERE o.destination > p.destination ORDER BY o.destination LIMIT 1) \
     FROM places p WHERE p.destination IS NOT NULL), \
     late AS (SELECT l.* FROM places p CROSS JOIN LATERAL (SELECT o.id, o.due_at FROM @.outbox o \
     WHERE o.destination = p.destination AND o.due_at <= (SELECT now FROM clock) - $4::int8 \
     ORDER BY o.due_at, o.id LIMIT $1) l WHERE p.destination <> ALL ($3::text[])), \
     c AS (SELECT id, min(due_at) AS at, 3 AS why FROM late GROUP BY id)"
);

pub(crate) async fn due(connection: &Connection, what: &Due, max: usize) -> StoreResult<(Candidates, i64)> {
    let (max, format) = (codec::count(max), i16::from(TaskRecord::FORMAT));
    let found = match what {
        Due::Rescue { spared } => {
            let spared: Vec<String> = spared.iter().map(|pool| codec::text(pool.as_str())).collect();
            connection.query(RESCUE, &[&max, &format, &spared]).await
        }
        Due::Prune(retention) => {
            let kept = [retention.succeeded, retention.others].map(codec::duration);
            connection.query(PRUNE, &[&max, &format, &kept[0], &kept[1]]).await
        }
        Due::GiveUp { spared, overdue } => {
            let spared: Vec<String> = spared.iter().map(|of| codec::text(of.as_str())).collect();
            connection
                .query(GIVE_UP, &[&max, &format, &spared, &codec::duration(*overdue)])
                .await
        }
        // There is no bound that it would have more than its share of.
        _ => connection.query("SELECT @.now_ms(), NULL::int4, NULL::uuid", &[]).await,
    };
    let found = found.map_err(unavailable)?;
    let now: i64 = found[0].get(0);
    let mut rows = Vec::new();
    for found in &found {
        let why = match found.get::<_, Option<i32>>(1) {
            Some(0) => Why::Lapsed,
            Some(1) => Why::OverAge,
            Some(2) => Why::Retired,
            Some(_) => Why::Overdue,
            None => continue,
        };
        // One that cannot be read stops nobody: a claim sets it aside.
        rows.extend(codec::row(found, 2).ok().map(|row| Candidate::new(row, why)));
    }
    Ok((Candidates::new(codec::time(now), rows), now))
}
