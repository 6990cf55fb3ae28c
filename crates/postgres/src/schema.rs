//! Creates and updates the tables.

use std::time::Duration;

use tower_respond_async::store::{StoreError, StoreErrorKind, StoreResult};

use crate::{
    builder::Migrate,
    connection::unavailable,
    session::{Connection, LIMIT},
};

/// Each step brings the schema to the next version. A step that only adds things, so that older builds can still use
/// the schema, leaves `oldest_reader` as it was.
const STEPS: &[(&str, i32)] = &[(include_str!("../sql/1.sql"), 1)];

/// The version that this build uses and creates.
const VERSION: i32 = STEPS.len() as i32;

/// Checks the schema, and creates or updates it if `migrate` says so. Several processes may call this at once.
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
    // The lock is released with the transaction. Waiting for it may take longer than the limits of other statements.
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
        // A role that may not create schemas can use an existing schema that it owns.
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

/// The version of the schema, and the oldest version of a build that can use it.
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
            let context = format!(
                "the schema {schema} has version {version}, which this build cannot use: it uses version {VERSION}"
            );
            Err(StoreError::new(StoreErrorKind::Incompatible, context))
        }
        _ => Ok(()),
    }
}
