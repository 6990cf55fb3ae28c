//! Finds candidates that are due by the server's clock. Does not change them.

use tower_respond_async::{
    store::{Candidate, Candidates, Due, DueReason, StoreResult},
    task::TaskRecord,
};

use crate::{
    codec,
    connection::unavailable,
    front::{Front, LONGEST},
    session::{Connection, Param},
    sql::row_columns,
};

/// The lists of candidates, by number.
const LAPSED: i32 = 0;
const OVER_AGE: i32 = 1;
const SUCCEEDED: i32 = 2;
const OTHERS: i32 = 3;
const OVERDUE: i32 = 4;

/// The fronts of the lists whose indexes collect dead entries at the front.
pub(crate) struct Fronts {
    rescue: Front<i32>,
    prune: Front<i32>,
}

impl Fronts {
    pub(crate) fn new() -> Self {
        Self {
            rescue: Front::new(),
            prune: Front::new(),
        }
    }

    fn of(&self, what: &Due) -> Option<&Front<i32>> {
        match what {
            Due::Rescue { .. } => Some(&self.rescue),
            Due::Prune(_) => Some(&self.prune),
            _ => None,
        }
    }

    /// A search for candidates took too long and was cancelled.
    pub(crate) fn missed(&self, what: &Due, now: i64) {
        if let Some(front) = self.of(what) {
            let lists = lists(what).into_iter();
            front.missed(LONGEST, lists.map(|(list, before)| (list, now - before)));
        }
    }
}

/// The lists of candidates that have a front, with the time in milliseconds for which a task is in the list's index
/// before it is due.
fn lists(what: &Due) -> Vec<(i32, i64)> {
    match what {
        Due::Rescue { .. } => vec![(LAPSED, 0)],
        Due::Prune(retention) => {
            let kept = [(SUCCEEDED, retention.succeeded), (OTHERS, retention.others)];
            kept.map(|(list, kept)| (list, codec::duration(kept))).to_vec()
        }
        _ => Vec::new(),
    }
}

/// The candidates as `c(id, at, list)`, with their rows. Each list is read from the front of its index.
macro_rules! candidates {
    ($candidates:expr) => {
        concat!(
            "WITH RECURSIVE clock AS MATERIALIZED (SELECT @.now_ms() AS now), ",
            $candidates,
            ", first AS MATERIALIZED (SELECT * FROM c ORDER BY at, id LIMIT $1::int8), \
             firsts AS MATERIALIZED (SELECT list, min(at) AS at FROM c GROUP BY list) \
             SELECT clock.now, @.now_ms() - clock.now AS took, (SELECT array_agg(list) FROM firsts) AS lists, \
             (SELECT array_agg(at) FROM firsts) AS firsts, f.list, ",
            row_columns!(),
            " FROM clock LEFT JOIN (first f JOIN @.task t ON t.id = f.id AND t.format <= $2::int2) ON true \
             ORDER BY f.at, f.id"
        )
    };
}

const RESCUE: &str = candidates!(
    "c AS ((SELECT t.id, t.lease_until AS at, 0 AS list FROM @.task t WHERE t.state IN (1, 3) \
     AND t.lease_until >= $4::int8 AND t.lease_until <= (SELECT now FROM clock) AND t.format <= $2 ORDER BY t.lease_until, t.id LIMIT $1) UNION ALL \
     (SELECT t.id, t.expires_at, 1 FROM @.task t WHERE t.state IN (0, 2) AND t.expires_at <= (SELECT now FROM clock) \
     AND t.format <= $2 AND t.pool <> ALL ($3::text[]) ORDER BY t.expires_at, t.id LIMIT $1))"
);

const PRUNE: &str = candidates!(
    "c AS ((SELECT t.id, t.rests_at + $3::int8 AS at, 2 AS list FROM @.task t WHERE t.state = 4 AND t.rests_at IS NOT NULL \
     AND t.rests_at >= $5::int8 AND t.rests_at <= (SELECT now FROM clock) - $3 AND t.format <= $2 ORDER BY t.rests_at, t.id LIMIT $1) UNION ALL \
     (SELECT t.id, t.rests_at + $4::int8, 3 FROM @.task t WHERE t.state > 4 AND t.rests_at IS NOT NULL \
     AND t.rests_at >= $6::int8 AND t.rests_at <= (SELECT now FROM clock) - $4 AND t.format <= $2 ORDER BY t.rests_at, t.id LIMIT $1))"
);

/// One index step for each destination, so that spared destinations are not read.
const GIVE_UP: &str = candidates!(
    "places AS ((SELECT destination FROM @.outbox ORDER BY destination LIMIT 1) UNION ALL \
     SELECT (SELECT o.destination FROM @.outbox o WHERE o.destination > p.destination ORDER BY o.destination LIMIT 1) \
     FROM places p WHERE p.destination IS NOT NULL), \
     late AS (SELECT l.* FROM places p CROSS JOIN LATERAL (SELECT o.id, o.due_at FROM @.outbox o \
     WHERE o.destination = p.destination AND o.due_at <= (SELECT now FROM clock) - $4::int8 \
     ORDER BY o.due_at, o.id LIMIT $1) l WHERE p.destination <> ALL ($3::text[])), \
     c AS (SELECT id, min(due_at) AS at, 4 AS list FROM late GROUP BY id)"
);

pub(crate) async fn due(
    connection: &Connection,
    what: &Due,
    max: usize,
    fronts: &Fronts,
) -> StoreResult<(Candidates, i64)> {
    let (max, format) = (codec::count(max), i16::from(TaskRecord::FORMAT));
    let (front, lists) = (fronts.of(what), lists(what));
    let bounded = front.and_then(Front::since);
    let since: Vec<i64> = lists
        .iter()
        .map(|(list, _)| {
            bounded
                .as_ref()
                .and_then(|from| from.since.get(list))
                .copied()
                .unwrap_or(0)
        })
        .collect();
    let found = match what {
        Due::Rescue { spared } => {
            let spared: Vec<String> = spared.iter().map(|pool| codec::text(pool.as_str())).collect();
            connection.query(RESCUE, &[&max, &format, &spared, &since[0]]).await
        }
        Due::Prune(_) => {
            let params: [&dyn Param; 6] = [&max, &format, &lists[0].1, &lists[1].1, &since[0], &since[1]];
            connection.query(PRUNE, &params).await
        }
        Due::GiveUp { spared, overdue } => {
            let spared: Vec<String> = spared.iter().map(|of| codec::text(of.as_str())).collect();
            connection
                .query(GIVE_UP, &[&max, &format, &spared, &codec::duration(*overdue)])
                .await
        }
        // This store is not bounded, so no completion has more than its share of the room.
        _ => {
            let found = connection.query("SELECT @.now_ms()", &[]).await.map_err(unavailable)?;
            let now = found[0].get(0);
            return Ok((Candidates::new(codec::time(now), Vec::new()), now));
        }
    };
    let found = found.map_err(unavailable)?;
    let now: i64 = found[0].get("now");
    if let Some(front) = front {
        let seen = found[0].get::<_, Option<Vec<i32>>>("lists").unwrap_or_default();
        let firsts = found[0].get::<_, Option<Vec<i64>>>("firsts").unwrap_or_default();
        let first = |list| {
            seen.iter()
                .zip(&firsts)
                .find(|(of, _)| **of == list)
                .map_or(now, |(_, at)| *at)
        };
        let firsts = lists.iter().map(|(list, before)| (*list, first(*list) - before));
        match bounded {
            Some(_) => front.saw(now, firsts),
            None => front.saw_whole(found[0].get("took"), now, firsts),
        }
    }
    let mut rows = Vec::new();
    for found in &found {
        let reason = match found.get::<_, Option<i32>>("list") {
            Some(LAPSED) => DueReason::Lapsed,
            Some(OVER_AGE) => DueReason::OverAge,
            Some(SUCCEEDED | OTHERS) => DueReason::Retired,
            Some(OVERDUE) => DueReason::Overdue,
            _ => continue,
        };
        // A row that cannot be read is skipped: a claim sets it aside.
        rows.extend(codec::row(found, FIRST).ok().map(|row| Candidate::new(row, reason)));
    }
    Ok((Candidates::new(codec::time(now), rows), now))
}

/// The first column of a row, after the columns that all rows share, and `list`.
const FIRST: usize = 5;
