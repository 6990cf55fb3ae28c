//! Completions to be delivered.

use tower_respond_async::{
    store::{ClaimedOutbox, DeliveryClaim, StoreResult},
    task::Destination,
};
use uuid::Uuid;

use crate::{codec, connection::unavailable, read, session::Connection};

/// Locks only rows of the outbox. Statements that also lock rows of tasks lock these first, so there is no deadlock.
const CLAIM: &str = "WITH clock AS MATERIALIZED (SELECT @.now_ms() AS now, @timeline AS floor), \
    due AS MATERIALIZED (SELECT d.* FROM unnest($1::text[], $2::int8[]) AS a(destination, most) CROSS JOIN LATERAL \
    (SELECT o.id, o.generation, o.destination, o.due_at FROM @.outbox o WHERE o.destination = a.destination \
    AND o.due_at <= (SELECT now FROM clock) ORDER BY o.due_at, o.id LIMIT a.most FOR NO KEY UPDATE SKIP LOCKED) d), \
    taken AS (UPDATE @.outbox o SET token = greatest(o.token, clock.floor) + 1, claimed = true, due_at = clock.now + $3::int8 \
    FROM due d, clock WHERE o.id = d.id AND o.generation = d.generation AND o.destination = d.destination \
    RETURNING o.id, o.generation, o.destination, d.due_at) \
    SELECT id, generation, destination FROM taken ORDER BY destination, due_at, id";

/// Claims completions in a transaction. It reads the rows while it holds the locks of the claim, so that they cannot
/// contain the token of another claim.
pub(crate) async fn claim(connection: &Connection, claim: &DeliveryClaim) -> StoreResult<Vec<ClaimedOutbox>> {
    let destinations: Vec<String> = claim.from.iter().map(|(of, _)| codec::text(of.as_str())).collect();
    let most: Vec<i64> = claim.from.iter().map(|(_, most)| codec::count(*most)).collect();
    connection.begin();
    let lease = codec::duration(claim.lease);
    let taken = connection
        .query(CLAIM, &[&destinations, &most, &lease])
        .await
        .map_err(unavailable)?;
    let ids: Vec<Uuid> = taken.iter().map(|found| found.get(0)).collect();
    let rows = match ids.is_empty() {
        true => Vec::new(),
        false => read::by_ids(connection, &ids).await?,
    };
    connection.commit().await.map_err(unavailable)?;
    let mut claimed = Vec::with_capacity(taken.len());
    for (destination, _) in &claim.from {
        let name = codec::text(destination.as_str());
        for found in taken.iter().filter(|found| found.get::<_, &str>(2) == name) {
            let generation = u32::try_from(found.get::<_, i64>(1)).unwrap_or(u32::MAX);
            let id = codec::id(found.get(0));
            let row = rows.iter().find(|row| row.id == id).cloned();
            claimed.extend(row.map(|row| ClaimedOutbox::new(row, generation, Destination::clone(destination))));
        }
    }
    Ok(claimed)
}
