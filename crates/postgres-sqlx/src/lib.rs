//! Stores tasks of [`tower_respond_async`] in a transaction of [`sqlx`], together with its other changes or not at all.
//!
//! See [`Sqlx`].

use sqlx::{AssertSqlSafe, PgConnection};
use tower_respond_async::{BoxError, error::BoxFuture};
use tower_respond_async_postgres::{Connection, Param};

/// A connection of sqlx with an open transaction, for
/// [`PostgresStore::within`](tower_respond_async_postgres::PostgresStore::within).
///
/// # Examples
///
/// (Not run, since it needs a server: a test runs the example `orders`.)
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
            // The statement is the store's own: it contains no values.
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

/// Runs the README's examples as tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
