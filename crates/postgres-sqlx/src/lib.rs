//! Tasks of [`tower_respond_async`] in a transaction of [`sqlx`]: stored together with what else it changes, or not at all.
//!
//! See [`Sqlx`].

use sqlx::{AssertSqlSafe, PgConnection};
use tower_respond_async::{BoxError, error::BoxFuture};
use tower_respond_async_postgres::{Connection, Param};

/// A connection of sqlx, with the transaction that is open on it: for
/// [`PostgresStore::within`](tower_respond_async_postgres::PostgresStore::within).
///
/// # Examples
///
/// (Compiled and not run, since it needs a server: the example `orders` is run by a test.)
///
/// ```no_run
/// # use tower_respond_async::{Submission, Tasks};
/// # use tower_respond_async_postgres::PostgresStore;
/// use tower_respond_async_postgres_sqlx::Sqlx;
///
/// # async fn order(pool: &sqlx::PgPool, store: &PostgresStore, tasks: &Tasks, mail: Submission)
/// # -> Result<(), Box<dyn std::error::Error>> {
/// let mut transaction = pool.begin().await?;
/// sqlx::query("INSERT INTO orders (customer) VALUES ('anna')").execute(&mut *transaction).await?;
/// tasks.submit_in(&mut store.within(&mut Sqlx(&mut transaction)), mail).await?;
/// transaction.commit().await?;
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct Sqlx<'c>(pub &'c mut PgConnection);

impl Connection for Sqlx<'_> {
    fn fetch<'a>(&'a mut self, sql: &'a str, params: &'a [Param]) -> BoxFuture<'a, Result<Vec<u8>, BoxError>> {
        Box::pin(async move {
            // The store's own statement: no value is part of its text.
            let mut query = sqlx::query_scalar(AssertSqlSafe(sql.to_owned()));
            for param in params {
                query = match param {
                    Param::Bigint(value) => query.bind(value),
                    Param::Text(value) => query.bind(value),
                    Param::Bytea(value) => query.bind(value),
                    other => return Err(format!("the store is newer than this crate: {other:?}").into()),
                };
            }
            Ok(query.fetch_one(&mut *self.0).await?)
        })
    }
}

/// The code of the README is tested like any other.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
