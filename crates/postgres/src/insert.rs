//! Inserts of tasks: a group of them in one statement.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use tokio_postgres::error::{Error, SqlState};
use tower_respond_async::{
    store::{
        FullReason, Insertion, KnownBy, Limits, NewRow, Row, StoreError, StoreErrorKind, StoreResult, kit::ClientKey,
    },
    task::{FenceToken, RequestDigest, RequestId},
    time::Timestamp,
};
use uuid::Uuid;

use crate::{
    codec,
    connection::{Again, Lent, PAUSE, Pool, unavailable},
    group::Writes,
    read,
    session::Connection,
    sql,
    wire::Wire,
};

pub(crate) struct Inserts {
    pub(crate) wire: Arc<Wire>,
    pub(crate) writer: i64,
    /// For how many milliseconds an insert waits for a name or key that another transaction holds. `None`: as long as
    /// the session's `lock_timeout`.
    pub(crate) waits: Option<u32>,
}

impl Inserts {
    /// Whether the insert may have to wait for other transactions with the same name or key.
    pub(crate) fn may_wait(task: &NewRow) -> bool {
        task.key.is_some() || task.record.name.is_some()
    }
}

impl Writes for Inserts {
    type Item = NewRow;
    type Answer = Insertion;

    fn weight(item: &NewRow) -> usize {
        item.request.len() + 1024
    }

    async fn write(&self, pool: &Arc<Pool>, items: &[NewRow]) -> StoreResult<Vec<Insertion>> {
        let mut answers: Vec<Option<Insertion>> = items.iter().map(|_| None).collect();
        let mut rounds = 0;
        while answers.iter().any(Option::is_none) {
            rounds += 1;
            if rounds > ROUNDS + items.len() {
                let context = "a task with the same name or key was stored and removed meanwhile";
                return Err(StoreError::new(StoreErrorKind::Unavailable, context));
            }
            let open = answers.iter().enumerate().filter(|(_, answer)| answer.is_none());
            let round = distinct(items, open.map(|(at, _)| at));
            let tasks: Vec<&NewRow> = round.iter().map(|at| &items[*at]).collect();
            let answered = self.round(pool, &tasks, rounds > 1).await?;
            for (at, answer) in round.into_iter().zip(answered) {
                answers[at] = answer;
            }
        }
        Ok(answers.into_iter().flatten().collect())
    }
}

/// The most tries for a task that is neither stored nor known.
const ROUNDS: usize = 5;

/// Selects tasks that share no id, name or key. The others wait for a later round.
fn distinct(items: &[NewRow], open: impl Iterator<Item = usize>) -> Vec<usize> {
    let (mut ids, mut names, mut keys) = (HashSet::new(), HashSet::new(), HashSet::new());
    let mut is_new = |at: &usize| {
        let record = &items[*at].record;
        let named = record.name.clone().map(|name| (name, record.tenant.clone()));
        let keyed = ClientKey::of(&items[*at]);
        let is_known = ids.contains(&record.id)
            || named.as_ref().is_some_and(|name| names.contains(name))
            || keyed.as_ref().is_some_and(|key| keys.contains(key));
        // Noted also for a task that waits: otherwise a third one with its name could be tried before it.
        ids.insert(record.id);
        names.extend(named);
        keys.extend(keyed);
        !is_known
    };
    open.filter(&mut is_new).collect()
}

/// The result of a statement for one task.
struct RowResult {
    full: i32,
    stored: bool,
    keyed: bool,
}

/// The values that all rows of one statement have in common.
#[derive(Clone, Copy, Default)]
struct Made {
    now: i64,
    floor: FenceToken,
}

/// The answer to one statement.
struct Attempt {
    made: Made,
    /// Whether a refusal by a limit is final, even if an earlier task of the group was known.
    is_last: bool,
    /// Whether the same statement was sent before without an answer.
    repeated: bool,
}

/// Whether a row is as this insert makes it, and was not changed since.
fn is_ours(task: &NewRow, row: &Row) -> bool {
    let made = task.row(FenceToken::NONE, Timestamp::ZERO);
    made.version == row.version
        && made.columns.worker == row.columns.worker
        && made.record.encode() == row.record.encode()
}

impl Inserts {
    /// Tries tasks that share no id, name or key. `None` for a task that must be tried again.
    async fn round(&self, pool: &Arc<Pool>, tasks: &[&NewRow], is_last: bool) -> StoreResult<Vec<Option<Insertion>>> {
        let mut again = Again::new();
        loop {
            let connection = pool.get().await?;
            match self.statement(&connection, tasks).await {
                Ok((results, made)) => {
                    pool.server.saw(made.now);
                    let repeated = again.repeated;
                    let attempt = Attempt {
                        made,
                        is_last,
                        repeated,
                    };
                    return self.answers(connection, tasks, results, attempt).await;
                }
                Err(error) if again.after_race(&error) => {}
                // The answer is lost. If the statement took effect, the repetition finds its own tasks stored: see
                // `is_ours`.
                Err(error) if again.after_loss(&error) => {
                    drop(connection);
                    tokio::time::sleep(PAUSE).await;
                }
                Err(error) if error.code() == Some(&SqlState::LOCK_NOT_AVAILABLE) => {
                    let context = "a transaction that is open has a task of the same name or key";
                    return Err(StoreError::new(StoreErrorKind::Unavailable, context).because(error));
                }
                Err(error) => return Err(unavailable(error)),
            }
        }
    }

    async fn statement(&self, connection: &Connection, tasks: &[&NewRow]) -> Result<(Vec<RowResult>, Made), Error> {
        let several = tasks.iter().any(|task| Self::may_wait(task));
        match self.waits {
            _ if !several => {}
            Some(waits) => connection.begin_that_waits(waits),
            None => connection.begin(),
        }
        let (results, made) = insert(connection, tasks, self.writer).await?;
        if several {
            let lost = results
                .iter()
                .zip(tasks)
                .filter(|(result, _)| result.keyed && !result.stored);
            let lost: Vec<Uuid> = lost.map(|(_, task)| codec::uuid(task.record.id)).collect();
            if !lost.is_empty() {
                let keys = tasks.iter().filter_map(|task| Some(ClientKey::of(task)?.encode()));
                let keys: Vec<Vec<u8>> = keys.collect();
                let back = "DELETE FROM @.key WHERE key = ANY ($1::bytea[]) AND id = ANY ($2::uuid[])";
                connection.execute(back, &[&keys, &lost]).await?;
            }
            connection.commit().await?;
        }
        Ok((results, made))
    }

    async fn answers(
        &self,
        connection: Lent,
        tasks: &[&NewRow],
        results: Vec<RowResult>,
        Attempt {
            made,
            is_last,
            repeated,
        }: Attempt,
    ) -> StoreResult<Vec<Option<Insertion>>> {
        let mut answers = Vec::with_capacity(tasks.len());
        let mut has_known = false;
        for (task, result) in tasks.iter().zip(results) {
            if result.stored {
                let row = stored(task, made);
                self.wire.stored(&row);
                answers.push(Some(Insertion::New(row)));
                continue;
            }
            let known = match known(&connection, task).await? {
                Some(Insertion::Known {
                    row: Some(row),
                    by: KnownBy::Id,
                    ..
                }) if repeated && is_ours(task, &row) => Some(Insertion::New(row)),
                known => known,
            };
            // The limits were checked as if every earlier task of the group had been stored. If one was known instead,
            // a refusal is not final: the task is tried again.
            let is_full = known.is_none() && result.full != 0 && (is_last || !has_known);
            has_known |= known.is_some();
            let reason = match result.full {
                1 => FullReason::Queue,
                2 => FullReason::Pool,
                _ => FullReason::Tenant,
            };
            answers.push(known.or(is_full.then_some(Insertion::Full(reason))));
        }
        connection.done();
        Ok(answers)
    }
}

async fn insert(connection: &Connection, tasks: &[&NewRow], writer: i64) -> Result<(Vec<RowResult>, Made), Error> {
    // The statement adds the present time to these times, and raises these tokens above the lower bound.
    let rows: Vec<Row> = tasks
        .iter()
        .map(|task| task.row(FenceToken::NONE, Timestamp::ZERO))
        .collect();
    macro_rules! column {
        (|$task:ident, $row:ident| $value:expr) => {
            tasks
                .iter()
                .zip(&rows)
                .map(|($task, $row)| $value)
                .collect::<Vec<_>>()
        };
    }
    let room = Room::of(tasks);
    let limited = tasks
        .iter()
        .any(|task| task.limits != Limits::UNLIMITED && task.claim.is_none());
    let encoded = column!(|_task, row| row.record.encode());
    let keys = column!(|task, _row| ClientKey::of(task).map(|key| key.encode()));
    let digests = column!(|task, _row| task.record.digest);
    let found = connection
        .query(
            sql::INSERT,
            &[
                &column!(|_task, row| codec::uuid(row.id)),
                &column!(|_task, row| row.columns.state as i16),
                &column!(|_task, row| row.columns.token.get().cast_signed()),
                &column!(|_task, row| row.columns.worker.as_ref().map(codec::worker)),
                &column!(|_task, row| codec::millis(row.columns.run_at)),
                &column!(|_task, row| codec::millis(row.columns.expires_at)),
                &column!(|_task, row| row.columns.lease_until.map(codec::millis)),
                &column!(|_task, row| i16::from(row.record.format())),
                &column!(|_task, row| i64::from(row.record.generation)),
                &column!(|_task, row| row.record.tenant.as_ref().map(|tenant| codec::text(tenant.as_str()))),
                &column!(|_task, row| codec::text(row.record.pool.as_str())),
                &column!(|_task, row| row.record.name.as_ref().map(|name| codec::text(name.as_str()))),
                &column!(|_task, row| codec::text(row.record.function())),
                &encoded,
                &column!(|task, _row| codec::sum(&task.request)),
                &column!(|task, _row| task.request.head()),
                &column!(|task, _row| task.request.body()),
                &room.queued,
                &room.per_tenant,
                &room.per_pool,
                &keys,
                &column!(|task, _row| task.key.as_ref().map(|(_, window)| codec::duration(*window))),
                &digests
                    .iter()
                    .map(|digest| digest.as_ref().map(|digest| &digest.as_bytes()[..]))
                    .collect::<Vec<_>>(),
                &column!(|_task, row| codec::number(row.version)),
                &limited,
                &writer,
            ],
        )
        .await?;
    let made = found.first().map(|found| Made {
        now: found.get(3),
        floor: codec::token(found.get(4)),
    });
    let results = found.iter().map(|found| RowResult {
        full: found.get(0),
        stored: found.get(1),
        keyed: found.get(2),
    });
    Ok((results.collect(), made.unwrap_or_default()))
}

/// How many stored tasks may wait before each task of a group. The earlier tasks of the group are subtracted in
/// advance, even if they are then not stored: a task that is refused may be tried once more.
#[derive(Default)]
struct Room {
    queued: Vec<i64>,
    per_tenant: Vec<i64>,
    per_pool: Vec<i64>,
}

impl Room {
    fn of(tasks: &[&NewRow]) -> Self {
        let (mut room, mut before) = (Self::default(), 0);
        let (mut of_tenant, mut of_pool) = (HashMap::new(), HashMap::new());
        for task in tasks {
            let waits = i64::from(task.claim.is_none());
            let behind = |limit: u64, before: &mut i64| {
                *before += waits;
                codec::number(limit) - *before
            };
            room.queued.push(behind(task.limits.queued, &mut before));
            let before = of_tenant.entry(task.record.tenant.as_ref()).or_default();
            room.per_tenant.push(behind(task.limits.per_tenant, before));
            let before = of_pool.entry(&task.record.pool).or_default();
            room.per_pool.push(behind(task.limits.per_pool, before));
        }
        room
    }
}

/// The row as the statement stored it.
fn stored(task: &NewRow, Made { now, floor }: Made) -> Row {
    let mut row = task.row(floor, Timestamp::ZERO);
    let columns = &mut row.columns;
    let at = |after: Timestamp| codec::time(now + codec::millis(after));
    columns.created_at = codec::time(now);
    (columns.run_at, columns.expires_at) = (at(columns.run_at), at(columns.expires_at));
    columns.lease_until = columns.lease_until.map(at);
    columns.started_at = columns.lease_until.map(|_| codec::time(now));
    row
}

/// The known task with the same id, name or key, if there is one.
async fn known(connection: &Connection, task: &NewRow) -> StoreResult<Option<Insertion>> {
    let record = &task.record;
    let known = |row: Option<Row>, id: RequestId, by, digest| Some(Insertion::Known { row, id, by, digest });
    let there = "SELECT FROM @.task WHERE id = $1";
    if !connection
        .query(there, &[&codec::uuid(record.id)])
        .await
        .map_err(unavailable)?
        .is_empty()
    {
        return Ok(known(
            read::readable(connection, record.id).await?,
            record.id,
            KnownBy::Id,
            None,
        ));
    }
    let mut named = None;
    if let Some(name) = &record.name {
        let tenant = record.tenant.as_ref().map(|tenant| codec::text(tenant.as_str()));
        let by_name = "SELECT id FROM @.task WHERE name = $1 AND coalesce(tenant, '') = coalesce($2::text, '') \
            AND (tenant IS NULL) = ($2::text IS NULL)";
        let found = connection
            .query(by_name, &[&codec::text(name.as_str()), &tenant])
            .await
            .map_err(unavailable)?;
        named = found.first().map(|found| codec::id(found.get(0)));
    }
    let mut keyed = None;
    if let Some(key) = ClientKey::of(task) {
        let by_key = "SELECT id, digest FROM @.key WHERE key = $1 AND until > @.now_ms()";
        let found = connection.query(by_key, &[&key.encode()]).await.map_err(unavailable)?;
        keyed = found.first().map(|found| {
            let digest: Option<&[u8]> = found.get(1);
            let digest = digest
                .and_then(|digest| digest.try_into().ok())
                .map(RequestDigest::from_bytes);
            (codec::id(found.get(0)), digest)
        });
    }
    Ok(match (named, keyed) {
        (Some(named), Some((keyed, _))) if named != keyed => Some(Insertion::Conflict),
        (Some(named), _) => known(read::readable(connection, named).await?, named, KnownBy::Name, None),
        (None, Some((keyed, digest))) => known(read::readable(connection, keyed).await?, keyed, KnownBy::Key, digest),
        (None, None) => None,
    })
}
