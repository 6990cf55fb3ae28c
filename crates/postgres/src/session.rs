//! Statements on a session that stays, or on whichever session a pooler has for the next transaction.

use std::{borrow::Cow, collections::HashMap, fmt::Write, pin::pin, sync::Mutex, time::Duration};

use tokio_postgres::{
    Client, Row as Found, Statement,
    error::Error,
    types::{ToSql, Type},
};
use uuid::Uuid;

use crate::connection::{Driver, lock};

/// What statements run under. Times are milliseconds.
///
/// Each is planned for any values, and once by a session that keeps it. The plan is kept while the tables grow: where there were
/// few rows, it may not go through all of them. Without statistics a bitmap of many rows that are then sorted looks as good as an
/// index that is sorted. And as nobody knows how many rows "LIMIT $1" is, they are joined with large tables as if they were many.
/// The test of plans fails without any of "enable_". Where another way is much dearer, what it costs looks high to "jit".
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

/// The settings as a session begins with them.
pub(crate) fn options() -> String {
    let mut options = String::from("-c respond_async.session=own");
    options += " -c default_transaction_isolation=read\\ committed";
    for (name, value) in SETTINGS {
        // Writing into a text does not fail.
        let _ = write!(options, " -c {name}={value}");
    }
    options
}

/// Whether the session has begun with them, which a pooler may have kept from the server. Fails on a standby, which has no place
/// to write.
pub(crate) const BEGAN_WITH_OPTIONS: &str =
    "SELECT current_setting('respond_async.session', true) IS NOT NULL, pg_current_wal_lsn()::text";

/// The settings as a transaction begins with them. The last statement fails on a standby, whose reads would be of the past. A
/// server that is set to be read only is read.
fn begin_with_settings() -> String {
    let mut begin = String::from("BEGIN ISOLATION LEVEL READ COMMITTED");
    for (name, value) in SETTINGS {
        let _ = write!(begin, "; SET LOCAL {name} = '{value}'");
    }
    begin += "; SELECT pg_current_wal_lsn()";
    begin
}

/// The number of promotions of standbys that led to this server, above 32 bits: a promotion that lost a claim gives its token
/// no second time. Statements that give tokens say `@timeline` for it.
const TIMELINE: &str = "('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::bigint << 32";

pub(crate) type Params<'a> = &'a [&'a dyn Param];

/// A value for a statement. It says of what type it is, so that a statement need not be prepared to find out.
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

/// A connection on which one thing is done at a time.
pub(crate) struct Connection {
    client: Client,
    driver: Driver,
    prefix: String,
    statements: Statements,
    transaction: Mutex<Transaction>,
    /// How long an answer may take.
    limit: Mutex<Duration>,
}

/// The server gives up by itself before, if it is there.
pub(crate) const LIMIT: Duration = Duration::from_secs(9);

/// What the session behind it knows.
enum Statements {
    /// It is the same one until it ends, and knows these.
    Kept(Mutex<HashMap<Box<str>, Statement>>),
    /// It may be another one with every transaction. Nothing is left with it, and every transaction begins with this.
    Unnamed { begin: String },
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Transaction {
    None,
    /// It begins with the next statement, in the same round trip, and waits for locks for so many milliseconds at most.
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

    /// What needs no answer and is not repeated: a schema.
    pub(crate) async fn batch(&self, sql: &str) -> Result<(), Error> {
        self.within(self.client.batch_execute(&self.text(sql))).await
    }

    /// What follows is one transaction, until it is committed or rolled back.
    pub(crate) fn begin(&self) {
        *lock(&self.transaction) = Transaction::Begins { waits: None };
    }

    /// The same, and it fails if a lock is not free within so many milliseconds.
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

    /// Runs a statement with what has to come before and behind it. All of it is sent at once: futures that are polled
    /// together are sent in their order, and the first time `join` polls them in the order they are written in.
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
        // A transaction that has failed is rolled back by it.
        let commit = self.in_time(self.client.batch_execute("COMMIT"));
        let (begun, answer, committed) = tokio::join!(begin, self.in_time(statement), commit);
        begun?;
        let answer = answer?;
        committed.map(|()| answer)
    }

    /// An answer, if it comes in time. A session that is silent for longer is given up: what was asked may have been done.
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

    /// What is asked from here on may take so long.
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
