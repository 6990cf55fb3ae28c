//! Tasks in a transaction of the application.

use std::fmt;

use tokio_postgres::types::{ToSql, Type};
use tower_respond_async::{
    BoxError, Submission, SubmitError, Submitted, Tasks,
    error::BoxFuture,
    store::{Enlisted, Insertion, KnownBy, NewRow, Reply, StoreError, StoreErrorKind, StoreResult, kit::ClientKey},
    task::{FenceToken, RequestDigest, TaskName, TaskRecord, Tenant},
    time::Timestamp,
};
use uuid::Uuid;

use crate::{PostgresStore, codec};

/// Stores one task, and returns one row with one `bytea`.
const SUBMIT: &str = "SELECT @.submit($1::text::uuid, $2::int8, $3::int8, $4::int8, $5::text, $6::text, $7::text, $8::text, \
    $9::bytea, $10::int8, $11::int8, $12::int8, $13::bytea, $14::bytea, $15::bytea, $16::int8, $17::bytea, $18::text)";

impl PostgresStore {
    /// Stores tasks in the transaction that is open on this connection: pass the result to [`Tasks::submit_in`]. The
    /// connection must be to the database of this store. It may be any [`Connection`]: a
    /// [`tokio_postgres::Transaction`], or one of another driver.
    ///
    /// The connection's role needs the same rights as the store's: to use the schema, and to read and write its tables.
    ///
    /// - The store runs one statement for each task, and does not begin, commit, roll back or configure anything. If no
    ///   transaction is open, the statement commits the task at once.
    /// - The task can be claimed after the commit. The commit notifies the processes that listen; the others find the
    ///   task within a second.
    /// - If another open transaction has stored a task with the same name or key, the statement waits until that
    ///   transaction ends, for at most the connection's `lock_timeout`.
    /// - With an isolation level above `READ COMMITTED`, the statement fails with code 40001 (serialization failure) if
    ///   another transaction has committed the same name or key since yours began: roll back and try again.
    ///
    /// # Examples
    ///
    /// (Not run, since it needs a server: `tests/it/within.rs` runs the same.)
    ///
    /// ```no_run
    /// # use tower_respond_async::{Submission, Tasks};
    /// # use tower_respond_async_postgres::PostgresStore;
    /// # async fn order(tasks: Tasks, store: &PostgresStore, client: &mut tokio_postgres::Client)
    /// # -> Result<(), Box<dyn std::error::Error>> {
    /// let mut transaction = client.transaction().await?;
    /// transaction.execute("INSERT INTO orders (id) VALUES (7)", &[]).await?;
    /// let mail = http::Request::post("/orders/7/mail").body(bytes::Bytes::new())?;
    /// tasks.submit_in(&mut store.within(&mut transaction), Submission::new(mail)).await?;
    /// transaction.commit().await?;
    /// # Ok(()) }
    /// ```
    pub fn within<'c, C: Connection>(&self, connection: &'c mut C) -> Within<'c, C> {
        Within {
            connection,
            statement: self.submits(),
            channel: Some(self.channel()),
        }
    }

    /// A statement that stores a task, for drivers without a [`Connection`]. Run it in your transaction, and pass its
    /// answer to [`PreparedInsert::answered`].
    ///
    /// # Errors
    ///
    /// [`SubmitError::TooLong`] if a part of the submission does not fit into a record.
    ///
    /// # Examples
    ///
    /// (Not run, since it needs a server.)
    ///
    /// ```no_run
    /// # use tower_respond_async::{Submission, SubmitError, Submitted, Tasks};
    /// # use tower_respond_async_postgres::{Param, PostgresStore};
    /// # fn query_one(sql: &str, params: &[Param]) -> Vec<u8> { Vec::new() }
    /// # fn order(tasks: &Tasks, store: &PostgresStore, submission: Submission) -> Result<Submitted, SubmitError> {
    /// let insert = store.prepare(tasks, submission)?;
    /// // With whatever driver, in the transaction: the one value of the one row.
    /// let answer: Vec<u8> = query_one(insert.sql(), insert.params());
    /// insert.answered(&answer)
    /// # }
    /// ```
    pub fn prepare(&self, tasks: &Tasks, submission: Submission) -> Result<PreparedInsert, SubmitError> {
        let row = tasks.row_of(submission)?;
        Ok(PreparedInsert {
            sql: self.submits(),
            params: params(&row, Some(self.channel())),
            row,
        })
    }

    fn submits(&self) -> String {
        SUBMIT.replace("@.", self.prefix())
    }
}

/// A connection with an open transaction of the application, in any driver.
///
/// It is implemented for [`tokio_postgres::Client`] and [`tokio_postgres::Transaction`];
/// `tower-respond-async-postgres-sqlx` implements it for sqlx. For another driver, implement it for a type of your own
/// that holds the connection, in about twenty lines:
/// [its source](https://docs.rs/crate/tower-respond-async-postgres-sqlx/latest/source/src/lib.rs) is an example.
pub trait Connection: Send {
    /// Runs a statement that returns one row with one `bytea`, and returns that value. `params` are the values of `$1`,
    /// `$2` and so on, each in its own type.
    ///
    /// # Errors
    ///
    /// The error of the driver.
    fn fetch<'a>(&'a mut self, sql: &'a str, params: &'a [Param]) -> BoxFuture<'a, Result<Vec<u8>, BoxError>>;
}

/// A value for a statement: an item of [`PreparedInsert::params`], or of the `params` of [`Connection::fetch`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Param {
    /// A `bigint`.
    Bigint(i64),
    /// A `text`.
    Text(Option<String>),
    /// A `bytea`.
    Bytea(Option<Vec<u8>>),
}

impl Param {
    fn typed(&self) -> (&(dyn ToSql + Sync), Type) {
        match self {
            Self::Bigint(value) => (value, Type::INT8),
            Self::Text(value) => (value, Type::TEXT),
            Self::Bytea(value) => (value, Type::BYTEA),
        }
    }
}

macro_rules! connection {
    ($($driver:ty),+) => {
        $(impl Connection for $driver {
            fn fetch<'a>(&'a mut self, sql: &'a str, params: &'a [Param]) -> BoxFuture<'a, Result<Vec<u8>, BoxError>> {
                Box::pin(async move {
                    let params: Vec<_> = params.iter().map(Param::typed).collect();
                    let found = self.query_typed(sql, &params).await?;
                    let [found] = &found[..] else {
                        return Err("the statement did not return exactly one row".into());
                    };
                    Ok(found.try_get(0)?)
                })
            }
        })+
    };
}

connection!(tokio_postgres::Client, tokio_postgres::Transaction<'_>);

/// A transaction of the application, in which tasks are stored. [`PostgresStore::within`] returns it.
#[must_use]
pub struct Within<'c, C> {
    connection: &'c mut C,
    statement: String,
    channel: Option<String>,
}

impl<C> Within<'_, C> {
    /// Sends no notification: other processes find the task within a second. A transaction that notifies takes a
    /// server-wide lock while it commits, which limits such transactions to some thousands a second.
    pub fn quiet(mut self) -> Self {
        self.channel = None;
        self
    }
}

impl<C: Connection> Enlisted for Within<'_, C> {
    fn insert(&mut self, task: NewRow) -> Reply<'_, Insertion> {
        Reply::later(async move {
            let params = params(&task, self.channel.clone());
            let answer = self.connection.fetch(&self.statement, &params).await;
            let failed = |error| {
                let context = "the task could not be stored in the transaction";
                StoreError::new(StoreErrorKind::Unavailable, context).because(error)
            };
            read(&task, &answer.map_err(failed)?)
        })
    }
}

impl<C> fmt::Debug for Within<'_, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Within").finish_non_exhaustive()
    }
}

/// A statement that stores a task. [`PostgresStore::prepare`] returns it.
#[derive(Clone, Debug)]
#[must_use]
pub struct PreparedInsert {
    sql: String,
    params: Vec<Param>,
    row: NewRow,
}

impl PreparedInsert {
    /// The statement, with parameters `$1`, `$2` and so on.
    #[must_use]
    pub fn sql(&self) -> &str {
        &self.sql
    }

    /// The values of the parameters, in order.
    #[must_use]
    pub fn params(&self) -> &[Param] {
        &self.params
    }

    /// The result. `answer` is the value that the statement returned: one `bytea` in one row. For a known task, the
    /// result has only its id: [`Tasks::find`] reads the rest.
    ///
    /// # Errors
    ///
    /// - [`SubmitError::Conflict`] if the name and the key belong to two tasks.
    /// - [`SubmitError::Store`] if `answer` is not an answer of the statement, or if a task with the same name or key
    ///   was stored and removed meanwhile. Roll back the transaction.
    pub fn answered(&self, answer: &[u8]) -> Result<Submitted, SubmitError> {
        Submitted::answered(&self.row, read(&self.row, answer).map_err(SubmitError::Store)?)
    }
}

fn params(task: &NewRow, channel: Option<String>) -> Vec<Param> {
    // The statement adds the present time to these times.
    let row = task.row(FenceToken::NONE, Timestamp::ZERO);
    let text = |of: Option<&str>| Param::Text(of.map(codec::text));
    let (record, request) = (&row.record, &task.request);
    let key = ClientKey::of(task).map(|key| key.encode());
    let window = task.key.as_ref().map_or(0, |(_, window)| codec::duration(*window));
    vec![
        text(Some(&codec::uuid(row.id).to_string())),
        Param::Bigint(codec::number(row.version)),
        Param::Bigint(record.format().into()),
        Param::Bigint(record.generation.into()),
        text(record.tenant.as_ref().map(Tenant::as_str)),
        text(Some(record.pool.as_str())),
        text(record.name.as_ref().map(TaskName::as_str)),
        text(Some(record.function())),
        Param::Bytea(Some(record.encode())),
        Param::Bigint(codec::millis(row.columns.run_at)),
        Param::Bigint(codec::millis(row.columns.expires_at)),
        Param::Bigint(codec::sum(request).into()),
        Param::Bytea(Some(request.head().to_vec())),
        Param::Bytea(Some(request.body().to_vec())),
        Param::Bytea(key),
        Param::Bigint(window),
        Param::Bytea(record.digest.map(|digest| digest.as_bytes().to_vec())),
        Param::Text(channel),
    ]
}

/// Decodes the answer of the schema's function `submit`.
fn read(task: &NewRow, answer: &[u8]) -> StoreResult<Insertion> {
    let invalid = || StoreError::new(StoreErrorKind::Unavailable, "the answer of the database is invalid");
    let (kind, rest) = answer.split_first().ok_or_else(invalid)?;
    if *kind == b'C' {
        return Ok(Insertion::Conflict);
    }
    if *kind == b'R' {
        let context = "a task with the same name or key was stored and removed meanwhile";
        return Err(StoreError::new(StoreErrorKind::Unavailable, context));
    }
    if *kind == b'N' {
        let now = i64::from_be_bytes(rest.try_into().map_err(|_| invalid())?);
        return Ok(Insertion::New(task.row(FenceToken::NONE, codec::time(now))));
    }
    let (id, rest) = rest.split_first_chunk::<16>().ok_or_else(invalid)?;
    let (by, digest) = match kind {
        b'I' => (KnownBy::Id, None),
        b'A' => (
            KnownBy::Name,
            TaskRecord::decode(rest).ok().and_then(|record| record.digest),
        ),
        b'K' => (KnownBy::Key, rest.try_into().ok().map(RequestDigest::from_bytes)),
        _ => return Err(invalid()),
    };
    Ok(Insertion::Known {
        row: None,
        id: codec::id(Uuid::from_bytes(*id)),
        by,
        digest,
    })
}
