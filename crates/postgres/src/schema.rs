//! The tables, and how they are brought up to date.

use std::time::Duration;

use tower_respond_async::store::{StoreError, StoreErrorKind, StoreResult};

use crate::{
    builder::Migrate,
    connection::unavailable,
    session::{Connection, LIMIT},
};

/// Each brings the schema from its place in the list to the next. A step that an older build can live with, which adds and
/// takes nothing away, leaves `oldest_reader` as it is.
const STEPS: &[(&str, i32)] = &[(include_str!("../sql/1.sql"), 1)];

/// The version that this build reads and makes.
const VERSION: i32 = STEPS.len() as i32;

/// Checks the schema, and makes it or brings it up to date where that is asked for. Several processes may come at once.
pub(crate) async fn prepare(connection: &Connection, schema: &str, migrate: Migrate) -> StoreResult<()> {
    let found = version(connection, schema).await?;
    check(found, schema)?;
    if found.is_some_and(|(version, _)| version >= VERSION) {
        return Ok(());
    }
    match migrate {
        Migrate::Check => {
            let is = found.map_or_else(
                || "there is none".to_owned(),
                |(version, _)| format!("it has version {version}"),
            );
            let context = format!("the schema {schema} must have version {VERSION}, and {is}");
            Err(StoreError::new(StoreErrorKind::Incompatible, context))
        }
        Migrate::Auto => migrate_under_lock(connection, schema).await,
    }
}

async fn migrate_under_lock(connection: &Connection, schema: &str) -> StoreResult<()> {
    connection.allow(Duration::from_secs(130));
    connection.begin();
    // Freed with the transaction. Who waits for it may wait longer than a statement otherwise does.
    connection
        .batch("SET LOCAL lock_timeout = 60000; SET LOCAL statement_timeout = 120000")
        .await
        .map_err(unavailable)?;
    connection
        .query(
            "SELECT pg_advisory_xact_lock(hashtextextended('respond-async ' || $1, 0))",
            &[&schema],
        )
        .await
        .map_err(unavailable)?;
    let found = version(connection, schema).await?;
    check(found, schema)?;
    let from = found.map_or(0, |(version, _)| version);
    if from == 0 {
        // A role that may not create schemas can use one that is there and its own.
        let there = "SELECT FROM pg_namespace WHERE nspname = $1";
        if connection
            .query(there, &[&schema])
            .await
            .map_err(unavailable)?
            .is_empty()
        {
            let name = connection_prefix(schema);
            connection
                .batch(&format!("CREATE SCHEMA {name}"))
                .await
                .map_err(unavailable)?;
        }
        let meta = "CREATE TABLE @.meta (one boolean PRIMARY KEY DEFAULT true CHECK (one), version integer NOT NULL, \
            oldest_reader integer NOT NULL); INSERT INTO @.meta (version, oldest_reader) VALUES (0, 0)";
        connection.batch(meta).await.map_err(unavailable)?;
    }
    for (number, (step, oldest_reader)) in (1..).zip(STEPS) {
        if number > from {
            connection.batch(step).await.map_err(unavailable)?;
            let noted = format!("UPDATE @.meta SET version = {number}, oldest_reader = {oldest_reader}");
            connection.batch(&noted).await.map_err(unavailable)?;
        }
    }
    connection.commit().await.map_err(unavailable)?;
    connection.allow(LIMIT);
    Ok(())
}

fn connection_prefix(schema: &str) -> String {
    format!("\"{}\"", schema.replace('"', "\"\""))
}

/// The version that is there, and the oldest build that can read it, by the version it makes.
async fn version(connection: &Connection, schema: &str) -> StoreResult<Option<(i32, i32)>> {
    let there = "SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
        WHERE n.nspname = $1 AND c.relname = 'meta'";
    if connection
        .query(there, &[&schema])
        .await
        .map_err(unavailable)?
        .is_empty()
    {
        return Ok(None);
    }
    let found = connection
        .query("SELECT version, oldest_reader FROM @.meta", &[])
        .await
        .map_err(unavailable)?;
    Ok(found.first().map(|found| (found.get(0), found.get(1))))
}

fn check(found: Option<(i32, i32)>, schema: &str) -> StoreResult<()> {
    match found {
        Some((version, oldest_reader)) if oldest_reader > VERSION => {
            let context =
                format!("the schema {schema} has version {version}, which this build cannot use: it makes {VERSION}");
            Err(StoreError::new(StoreErrorKind::Incompatible, context))
        }
        _ => Ok(()),
    }
}
