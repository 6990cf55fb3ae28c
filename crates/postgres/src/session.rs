//! Runs statements, in a session of the connection's own, or in sessions that a pooler assigns to each transaction.

use std::{borrow::Cow, collections::HashMap, fmt::Write, pin::pin, sync::Mutex, time::Duration};

use tokio_postgres::{
    Client, Row as Found, Statement,
    error::Error,
    types::{ToSql, Type},
};
use uuid::Uuid;

use crate::connection::{Driver, lock};

/// The settings of all statements. Times are in milliseconds.
///
/// If a session keeps plans, the server plans each statement once, for any values. The plan stays while the tables
/// grow, so a plan made for few rows must not read all rows of a table. Without statistics, a bitmap scan of many rows
/// with a sort looks as cheap as an index in the right order. A plan is made without the value in "LIMIT $1", so it
/// would join many rows with large tables. The test of the plans fails if any one of the "enable_" settings is missing.
/// They also raise estimated costs, which would trigger "jit".
const SETTINGS: &[(&str, &str)] = &[
    ("plan_cache_mode", "force_generic_plan"),
    ("enable_seqscan", "off"),
    ("enable_bitmapscan", "off"),
    ("enable_hashjoin", "off"),
    ("enable_mergejoin", "off"),
    ("jit", "off"),
    ("statement_timeout", "8000"),
    ("lock_timeout", "4000"),
    ("idle_in_transaction_session_timeout", "5000"),
    ("search_path", ""),
];

/// The settings as startup options of a session.
pub(crate) fn options() -> String {
    let mut options = String::from("-c respond_async.session=own");
    options += " -c default_transaction_isolation=read\\ committed";
    for (name, value) in SETTINGS {
        // Writing to a `String` does not fail.
        let _ = write!(options, " -c {name}={value}");
    }
    options
}

/// Whether the session began with these settings, which a pooler may have withheld from the server. Fails on a standby,
/// which has no write position.
pub(crate) const BEGAN_WITH_OPTIONS: &str =
    "SELECT current_setting('respond_async.session', true) IS NOT NULL, pg_current_wal_lsn()::text";

/// The settings at the beginning of a transaction. The last statement fails on a standby, whose data may be out of
/// date. It succeeds on a server that is set to read only.
fn begin_with_settings() -> String {
    let mut begin = String::from("BEGIN ISOLATION LEVEL READ COMMITTED");
    for (name, value) in SETTINGS {
        let _ = write!(begin, "; SET LOCAL {name} = '{value}'");
    }
    begin += "; SELECT pg_current_wal_lsn()";
    begin
}

/// The server's timeline, shifted left by 32 bits: the lower bound of new tokens. The timeline grows when a standby is
/// promoted, so the token of a claim that the failover lost is never given again. Statements contain it as `@timeline`.
const TIMELINE: &str = "('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::bigint << 32";

pub(crate) type Params<'a> = &'a [&'a dyn Param];

/// A value for a statement, with its type, so that the statement need not be prepared to determine it.
pub(crate) trait Param: Sync {
    fn of_type(&self) -> Type;
    fn value(&self) -> &(dyn ToSql + Sync);
}

macro_rules! params {
    ($($one:ident, $many:ident: $($value:ty),+;)+) => {
        $($(
            params!(@ $one, $value);
            params!(@ $one, Option<$value>);
            params!(@ $many, Vec<$value>);
            params!(@ $many, Vec<Option<$value>>);
            params!(@ $many, &[$value]);
        )+)+
    };
    (@ $type:ident, $value:ty) => {
        impl Param for $value {
            fn of_type(&self) -> Type {
                Type::$type
            }

            fn value(&self) -> &(dyn ToSql + Sync) {
                self
            }
        }
    };
}

params! {
    BOOL, BOOL_ARRAY: bool;
    INT2, INT2_ARRAY: i16;
    INT4, INT4_ARRAY: i32;
    INT8, INT8_ARRAY: i64;
    UUID, UUID_ARRAY: Uuid;
    TEXT, TEXT_ARRAY: String, &str;
    BYTEA, BYTEA_ARRAY: Vec<u8>, &[u8];
}

/// A connection that runs one operation at a time.
pub(crate) struct Connection {
    client: Client,
    driver: Driver,
    prefix: String,
    statements: Statements,
    transaction: Mutex<Transaction>,
    /// How long the server may take to answer.
    limit: Mutex<Duration>,
}

/// Longer than `statement_timeout`, so that a server that is alive ends the statement first.
pub(crate) const LIMIT: Duration = Duration::from_secs(9);

/// Where statements are prepared.
enum Statements {
    /// The session stays the same until it ends. These statements are prepared in it.
    Kept(Mutex<HashMap<Box<str>, Statement>>),
    /// The session may be another one in every transaction, so it keeps nothing, and every transaction begins with
    /// `begin`.
    Unnamed { begin: String },
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Transaction {
    None,
    /// It begins together with the next statement, in the same round trip. `waits` is its `lock_timeout`, in
    /// milliseconds.
    Begins {
        waits: Option<u32>,
    },
    Begun,
}

impl Connection {
    pub(crate) fn new(client: Client, driver: Driver, prefix: String, is_pooled: bool) -> Self {
        let statements = match is_pooled {
            true => Statements::Unnamed {
                begin: begin_with_settings(),
            },
            false => Statements::Kept(Mutex::default()),
        };
        Self {
            client,
            driver,
            prefix,
            statements,
            transaction: Mutex::new(Transaction::None),
            limit: Mutex::new(LIMIT),
        }
    }

    pub(crate) async fn query(&self, sql: &str, params: Params<'_>) -> Result<Vec<Found>, Error> {
        match &self.statements {
            Statements::Kept(known) => {
                let statement = self.prepared(known, sql, params).await?;
                let values: Vec<_> = params.iter().map(|param| param.value()).collect();
                self.within(self.client.query(&statement, &values)).await
            }
            Statements::Unnamed { .. } => {
                let (sql, values) = (self.text(sql), typed(params));
                self.within(self.client.query_typed(&sql, &values)).await
            }
        }
    }

    pub(crate) async fn execute(&self, sql: &str, params: Params<'_>) -> Result<u64, Error> {
        match &self.statements {
            Statements::Kept(known) => {
                let statement = self.prepared(known, sql, params).await?;
                let values: Vec<_> = params.iter().map(|param| param.value()).collect();
                self.within(self.client.execute(&statement, &values)).await
            }
            Statements::Unnamed { .. } => {
                let (sql, values) = (self.text(sql), typed(params));
                self.within(self.client.execute_typed(&sql, &values)).await
            }
        }
    }

    /// Runs statements without values, unprepared.
    pub(crate) async fn batch(&self, sql: &str) -> Result<(), Error> {
        self.within(self.client.batch_execute(&self.text(sql))).await
    }

    /// Begins a transaction, which includes all statements until `commit` or `rollback`.
    pub(crate) fn begin(&self) {
        *lock(&self.transaction) = Transaction::Begins { waits: None };
    }

    /// Begins a transaction that fails if it waits for a lock longer than this.
    pub(crate) fn begin_that_waits(&self, millis: u32) {
        *lock(&self.transaction) = Transaction::Begins { waits: Some(millis) };
    }

    pub(crate) async fn commit(&self) -> Result<(), Error> {
        self.end("COMMIT").await
    }

    pub(crate) async fn rollback(&self) -> Result<(), Error> {
        self.end("ROLLBACK").await
    }

    async fn end(&self, how: &str) -> Result<(), Error> {
        let transaction = std::mem::replace(&mut *lock(&self.transaction), Transaction::None);
        match transaction {
            Transaction::Begun => self.in_time(self.client.batch_execute(how)).await,
            Transaction::None | Transaction::Begins { .. } => Ok(()),
        }
    }

    pub(crate) fn is_lost(&self) -> bool {
        self.client.is_closed() || self.driver.is_finished()
    }

    /// Runs a statement with the statements that must come before and after it. All are sent at once: requests are sent
    /// in the order in which their futures are first polled, and `join` first polls them in the written order.
    async fn within<T>(&self, statement: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        let (begin, is_alone) = {
            let mut transaction = lock(&self.transaction);
            let begin = match &self.statements {
                Statements::Kept(_) => "BEGIN",
                Statements::Unnamed { begin } => begin,
            };
            match (*transaction, &self.statements) {
                (Transaction::Begins { waits }, _) => {
                    *transaction = Transaction::Begun;
                    let begin = match waits {
                        Some(waits) => format!("{begin}; SET LOCAL lock_timeout = {waits}").into(),
                        None => Cow::Borrowed(begin),
                    };
                    (Some(begin), false)
                }
                (Transaction::None, Statements::Unnamed { .. }) => (Some(begin.into()), true),
                (Transaction::None, Statements::Kept(_)) | (Transaction::Begun, _) => (None, false),
            }
        };
        let Some(begin) = begin else {
            return self.in_time(statement).await;
        };
        let begin = self.in_time(self.client.batch_execute(&begin));
        if !is_alone {
            let (begun, answer) = tokio::join!(begin, self.in_time(statement));
            return begun.and(answer);
        }
        // `COMMIT` rolls back a transaction that has failed.
        let commit = self.in_time(self.client.batch_execute("COMMIT"));
        let (begun, answer, committed) = tokio::join!(begin, self.in_time(statement), commit);
        begun?;
        let answer = answer?;
        committed.map(|()| answer)
    }

    /// Waits for an answer up to the limit, and ends the session after that. Then the statement may have taken effect.
    async fn in_time<T>(&self, asked: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        let mut asked = pin!(asked);
        let limit = *lock(&self.limit);
        match tokio::time::timeout(limit, asked.as_mut()).await {
            Ok(answer) => answer,
            Err(_) => {
                self.driver.end();
                asked.await
            }
        }
    }

    /// Sets how long each answer may take from now on.
    pub(crate) fn allow(&self, limit: Duration) {
        *lock(&self.limit) = limit;
    }

    fn text(&self, sql: &str) -> String {
        sql.replace("@timeline", TIMELINE).replace("@.", &self.prefix)
    }

    async fn prepared(
        &self,
        known: &Mutex<HashMap<Box<str>, Statement>>,
        sql: &str,
        params: Params<'_>,
    ) -> Result<Statement, Error> {
        if let Some(known) = lock(known).get(sql) {
            return Ok(known.clone());
        }
        let types: Vec<Type> = params.iter().map(|param| param.of_type()).collect();
        let statement = self.client.prepare_typed(&self.text(sql), &types).await?;
        lock(known).insert(sql.into(), statement.clone());
        Ok(statement)
    }
}

fn typed<'a>(params: Params<'a>) -> Vec<(&'a (dyn ToSql + Sync), Type)> {
    params.iter().map(|param| (param.value(), param.of_type())).collect()
}
