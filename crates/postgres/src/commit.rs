//! Changes of rows: a group of them in one statement.

use std::{collections::HashSet, sync::Arc};

use tokio_postgres::error::Error;
use tower_respond_async::{
    store::{Change, Committed, Guard, Next, Payload, Response, Row, StoreResult},
    task::Delivery,
    time::Timestamp,
};

use crate::{
    codec,
    connection::{Again, PAUSE, Pool, unavailable},
    group::Writes,
    read,
    session::Connection,
    sql,
    wire::Wire,
};

pub(crate) struct Commits {
    pub(crate) wire: Arc<Wire>,
    pub(crate) writer: i64,
}

impl Writes for Commits {
    type Item = Change;
    type Answer = Committed;

    fn weight(item: &Change) -> usize {
        let response = match &item.response {
            Response::Put(response) => response.len(),
            _ => 0,
        };
        response + item.request.as_ref().map_or(0, Payload::len) + 1024
    }

    async fn write(&self, pool: &Arc<Pool>, items: &[Change]) -> StoreResult<Vec<Committed>> {
        let mut answers: Vec<Option<Committed>> = items.iter().map(|_| None).collect();
        while answers.iter().any(Option::is_none) {
            // Two changes of one task go into two statements, since in one statement only one would be applied, and it
            // is undefined which.
            let mut seen = HashSet::new();
            let open = (0..items.len()).filter(|at| answers[*at].is_none());
            let mut round: Vec<usize> = open.filter(|at| seen.insert(items[*at].id)).collect();
            // Rows are locked in the order of the parameters, which is the same in every process.
            round.sort_unstable_by_key(|at| items[*at].id);
            let changes: Vec<&Change> = round.iter().map(|at| &items[*at]).collect();
            for (at, answer) in round.iter().zip(self.round(pool, &changes).await?) {
                answers[*at] = Some(answer);
            }
        }
        Ok(answers.into_iter().flatten().collect())
    }
}

impl Commits {
    async fn round(&self, pool: &Arc<Pool>, changes: &[&Change]) -> StoreResult<Vec<Committed>> {
        let mut again = Again::new();
        let (connection, done) = loop {
            let connection = pool.get().await?;
            match commit(&connection, changes, self.writer).await {
                Ok(done) => break (connection, done),
                Err(error) if again.after_race(&error) => {}
                Err(error) if again.after_loss(&error) => {
                    drop(connection);
                    tokio::time::sleep(PAUSE).await;
                }
                Err(error) => return Err(unavailable(error)),
            }
        };
        let mut answers = Vec::with_capacity(changes.len());
        for (nth, change) in (1..).zip(changes) {
            let mut committed = Committed::Done;
            if !done.contains(&nth) {
                let row = read::by_id(&connection, change.id).await?;
                if !(again.repeated && is_ours(change, row.as_ref())) {
                    committed = Committed::Stale(row.map(Box::new));
                }
            }
            if let Committed::Done = committed {
                self.wire.committed(change);
            }
            answers.push(committed);
        }
        connection.done();
        Ok(answers)
    }
}

/// Whether a change whose answer was lost took effect: the row is exactly as this change makes it. The version alone is
/// not enough, since another change may have made the same version.
fn is_ours(change: &Change, row: Option<&Row>) -> bool {
    match (&change.to, row) {
        (None, None) => true,
        (Some(next), Some(row)) => {
            let (Guard::Version(was) | Guard::Lapsed(was)) = change.guard;
            row.version == was + 1
                && row.columns.token == next.columns.token
                && row.record.encode() == next.record.encode()
        }
        _ => false,
    }
}

/// `at` in milliseconds; or, if `after` is given, the negative number that `commit.sql` takes as relative to its time.
fn timed(after: Option<std::time::Duration>, at: Timestamp) -> i64 {
    after.map_or_else(|| codec::millis(at), |after| -codec::duration(after) - 1)
}

fn maybe_timed(after: Option<std::time::Duration>, at: Option<Timestamp>) -> Option<i64> {
    match (after, at) {
        (None, at) => at.map(codec::millis),
        (after, _) => Some(timed(after, Timestamp::ZERO)),
    }
}

/// Applies the changes whose guards hold, and returns their numbers.
async fn commit(connection: &Connection, changes: &[&Change], writer: i64) -> Result<HashSet<i64>, Error> {
    macro_rules! column {
        (|$change:ident| $value:expr) => {
            changes.iter().map(|$change| $value).collect::<Vec<_>>()
        };
        (next, $default:expr, |$next:ident| $value:expr) => {
            changes
                .iter()
                .map(|change| change.to.as_ref().map_or($default, |$next: &Next| $value))
                .collect::<Vec<_>>()
        };
    }
    let version = |guard| match guard {
        Guard::Version(version) | Guard::Lapsed(version) => codec::number(version),
    };
    let records = column!(next, None, |next| Some(next.record.encode()));
    let responses = column!(|change| match &change.response {
        Response::Put(response) => Some(codec::response(response)),
        _ => None,
    });
    let outbox = || {
        let numbered = (1_i64..).zip(changes);
        numbered.flat_map(|(nth, change)| {
            let outbox = change.to.as_ref().map_or(&[][..], |next| &next.outbox);
            outbox.iter().map(move |out| (nth, change.id, out))
        })
    };
    let owes = column!(next, false, |next| next
        .record
        .deliveries
        .iter()
        .any(Delivery::is_pending));
    let found = connection
        .query(
            sql::COMMIT,
            &[
                &column!(|change| codec::uuid(change.id)),
                &column!(|change| version(change.guard)),
                &column!(|change| matches!(change.guard, Guard::Lapsed(_))),
                &column!(|change| change.to.is_none()),
                &column!(next, 0, |next| next.columns.state as i16),
                &column!(next, false, |next| next.columns.suspect),
                &column!(next, None, |next| next.columns.worker.as_ref().map(codec::worker)),
                &column!(next, 0, |next| next.columns.token.get().cast_signed()),
                &column!(next, 0, |next| timed(next.timers.run_at, next.columns.run_at)),
                &column!(next, 0, |next| timed(next.timers.expires_at, next.columns.expires_at)),
                &column!(next, None, |next| next.columns.lease_until.map(codec::millis)),
                &column!(next, None, |next| next.columns.started_at.map(codec::millis)),
                &column!(next, None, |next| maybe_timed(
                    next.timers.ended_at,
                    next.columns.ended_at
                )),
                &column!(next, None, |next| maybe_timed(
                    next.timers.rests_at,
                    next.columns.rests_at
                )),
                &column!(next, 0, |next| i16::from(next.record.format())),
                &column!(next, 0, |next| i64::from(next.record.generation)),
                &owes,
                &records,
                &column!(|change| !matches!(change.response, Response::Keep)),
                &responses,
                &column!(|change| change.request.as_ref().map(codec::sum)),
                &column!(|change| change.request.as_ref().map(Payload::head)),
                &column!(|change| change.request.as_ref().map(Payload::body)),
                &outbox().map(|(nth, ..)| nth).collect::<Vec<_>>(),
                &outbox()
                    .map(|(.., change)| i64::from(change.generation))
                    .collect::<Vec<_>>(),
                &outbox()
                    .map(|(.., change)| codec::text(change.destination.as_str()))
                    .collect::<Vec<_>>(),
                &outbox()
                    .map(|(.., change)| change.was.map(|was| was.get().cast_signed()))
                    .collect::<Vec<_>>(),
                &outbox()
                    .map(|(.., change)| change.to.as_ref().map(|(due, _)| codec::duration(*due)))
                    .collect::<Vec<_>>(),
                &outbox()
                    .map(|(.., change)| change.to.as_ref().map(|(_, token)| token.get().cast_signed()))
                    .collect::<Vec<_>>(),
                &writer,
                &outbox().map(|(_, id, _)| codec::uuid(id)).collect::<Vec<_>>(),
            ],
        )
        .await?;
    Ok(found.iter().map(|found| found.get(0)).collect())
}
