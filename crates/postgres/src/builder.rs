//! The settings of a [`PostgresStore`].

use std::{borrow::Cow, fmt, sync::Arc};

use percent_encoding::percent_decode_str;
use tokio_postgres::Config;
use tower_respond_async::store::{StoreError, StoreErrorKind, StoreResult};
#[cfg(feature = "testing")]
use tower_respond_async::time::Clock;

use crate::PostgresStore;

/// The settings of a [`PostgresStore`]. [`connect`](Self::connect) opens it.
///
/// # Examples
///
/// (Not run, since it needs a server.)
///
/// ```no_run
/// use tower_respond_async_postgres::{Migrate, PostgresStore};
///
/// # async fn build() -> Result<(), Box<dyn std::error::Error>> {
/// let store = PostgresStore::builder()
///     .schema("orders")
///     .migrate(Migrate::Check) // another tool creates the tables
///     .connect("postgres://app:secret@db:5432/app?sslmode=require")
///     .await?;
/// # drop(store);
/// # Ok(()) }
/// ```
#[derive(Clone)]
#[must_use]
pub struct PostgresStoreBuilder {
    pub(crate) schema: Arc<str>,
    pub(crate) migrate: Migrate,
    pub(crate) pooled: bool,
    pub(crate) unsafe_durability: bool,
    pub(crate) trusted: Vec<Vec<u8>>,
    pub(crate) clock: Option<Arc<dyn tower_respond_async::time::Clock>>,
}

/// Whether the store creates and updates its tables. [`PostgresStoreBuilder`] has an example.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Migrate {
    /// The store creates and updates the tables when it connects. Several processes may do so at once.
    #[default]
    Auto,
    /// Another tool creates them. The store refuses tables that do not have the version that it needs.
    Check,
}

impl PostgresStoreBuilder {
    /// The default schema of the tables.
    pub const SCHEMA: &str = "respond_async";

    /// The schema of the tables. Applications that share a database need one each. The name has 1 to 63 bytes.
    /// Default: [`SCHEMA`](Self::SCHEMA).
    pub fn schema(mut self, name: impl Into<Arc<str>>) -> Self {
        self.schema = name.into();
        self
    }

    /// Whether the store creates and updates its tables. Default: [`Migrate::Auto`].
    pub const fn migrate(mut self, migrate: Migrate) -> Self {
        self.migrate = migrate;
        self
    }

    /// Connects through a pooler that assigns a session to each transaction: PgBouncer with `pool_mode = transaction`,
    /// or a similar one. Without this setting, the store refuses such a pooler.
    ///
    /// The store then keeps nothing in a session: no settings, no prepared statements, no locks. Its settings come with
    /// each transaction, in the same round trip. The differences:
    ///
    /// - Each statement is parsed and planned every time. With PostgreSQL 15 this cost the server about 2 ms for an
    ///   insert, 3 ms for a change, 4 ms for a claim (of one task or of hundreds) and 0.2 ms for a row.
    /// - No notifications are received or sent, since `LISTEN` needs a session of its own.
    ///   [`abilities`](tower_respond_async::TaskStore::abilities) report this. The store polls for the changes of other
    ///   processes. A task that another process stores starts up to a second later, and a client that waits here for a
    ///   task that runs elsewhere gets its answer up to a second later. A task that one process accepts and runs itself
    ///   is not delayed.
    ///
    /// If several processes share tasks, use this for all of them or for none: pooled processes send no notifications
    /// to the others.
    pub const fn pooled(mut self) -> Self {
        self.pooled = true;
        self
    }

    /// Trusts servers whose certificate was signed by this one, in DER, in addition to the system's certificates. For
    /// URLs with `sslmode=require`.
    pub fn trust(mut self, certificate: impl Into<Vec<u8>>) -> Self {
        self.trusted.push(certificate.into());
        self
    }

    /// Accepts a server with `fsync=off`, which may lose all data in a power cut. For tests.
    pub const fn unsafe_durability(mut self) -> Self {
        self.unsafe_durability = true;
        self
    }

    /// The clock behind [`now`](tower_respond_async::TaskStore::now), for tests that set the time. The server's clock
    /// is the function `now_ms` of the schema; the test must move both.
    #[cfg(feature = "testing")]
    #[doc(hidden)]
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.clock = Some(Arc::new(clock));
        self
    }

    /// Connects to the database at `url`: `postgres://USER:PASSWORD@HOST:PORT/DATABASE`. Separate several `HOST:PORT`
    /// with commas. Parameters follow a question mark, with `&` between them:
    ///
    /// - `schema=NAME`: the same as [`schema`](Self::schema), for deployments that configure only the URL.
    /// - `sslmode=require`: encrypts the connections and checks the server's certificate. Without it they are not
    ///   encrypted.
    /// - `target_session_attrs=read-write`: of several hosts, uses the one that accepts writes.
    /// - `application_name`, `connect_timeout` in seconds, `options`.
    ///
    /// # Errors
    ///
    /// - [`Unavailable`](StoreErrorKind::Unavailable) if no server can be reached, the server refuses the user or a
    ///   statement, or the store's thread cannot be started.
    /// - [`Incompatible`](StoreErrorKind::Incompatible) if the tables are of a newer build, or do not have the version
    ///   that [`Migrate::Check`] requires.
    /// - [`Unsupported`](StoreErrorKind::Unsupported) if the server runs with `fsync=off`, if `url`, the name of the
    ///   schema or a [trusted](Self::trust) certificate is invalid, or if the store finds a pooler without
    ///   [`pooled`](Self::pooled).
    ///
    /// # Cancel safety
    ///
    /// If you drop the future, the connections close. A migration is one transaction: the server completes it or undoes
    /// it.
    pub async fn connect(mut self, url: &str) -> StoreResult<PostgresStore> {
        let (url, schema) = without_schema(url);
        if let Some(schema) = schema {
            self.schema = schema.into();
        }
        // The parse error is not passed on: it may quote a part of the URL, and with it a password.
        let config: Config = url.parse().map_err(|_| {
            let context = "the URL of the database is not understood: postgres://USER:PASSWORD@HOST:PORT/DATABASE, \
                with special characters in it as %XX";
            StoreError::new(StoreErrorKind::Unsupported, context)
        })?;
        PostgresStore::open(config, self).await
    }
}

/// Splits `schema` off a URL, since the driver does not support it.
fn without_schema(url: &str) -> (Cow<'_, str>, Option<String>) {
    let is_url = ["postgres://", "postgresql://"]
        .iter()
        .any(|scheme| url.starts_with(scheme));
    let Some((place, query)) = url.rsplit_once('?').filter(|_| is_url) else {
        return (url.into(), None);
    };
    let (schema, others): (Vec<&str>, Vec<&str>) = query.split('&').partition(|part| part.starts_with("schema="));
    let Some(schema) = schema.last().and_then(|part| part.strip_prefix("schema=")) else {
        return (url.into(), None);
    };
    let schema = percent_decode_str(schema).decode_utf8_lossy().into_owned();
    (format!("{place}?{}", others.join("&")).into(), Some(schema))
}

impl Default for PostgresStoreBuilder {
    fn default() -> Self {
        Self {
            schema: Self::SCHEMA.into(),
            migrate: Migrate::default(),
            pooled: false,
            unsafe_durability: false,
            trusted: Vec::new(),
            clock: None,
        }
    }
}

impl fmt::Debug for PostgresStoreBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresStoreBuilder")
            .field("schema", &self.schema)
            .field("migrate", &self.migrate)
            .field("pooled", &self.pooled)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_schema_is_taken_out_of_the_url_and_nothing_else_is() {
        for (url, rest, schema) in [
            ("postgres://me@db/app", "postgres://me@db/app", None),
            (
                "postgres://me@db/app?schema=a%20b",
                "postgres://me@db/app?",
                Some("a b"),
            ),
            (
                "postgres://me@db/app?schema=a&connect_timeout=1",
                "postgres://me@db/app?connect_timeout=1",
                Some("a"),
            ),
            (
                "postgres://me@db/app?sslmode=require&schema=a",
                "postgres://me@db/app?sslmode=require",
                Some("a"),
            ),
            ("host=db password=a?schema=x", "host=db password=a?schema=x", None),
            ("postgres://me:schema=x@db/app", "postgres://me:schema=x@db/app", None),
            (
                "postgres://me:a?schema=x@db/app?connect_timeout=1",
                "postgres://me:a?schema=x@db/app?connect_timeout=1",
                None,
            ),
        ] {
            let (left, taken) = without_schema(url);
            assert_eq!((&*left, taken.as_deref()), (rest, schema), "{url}");
            assert!(left.parse::<Config>().is_ok(), "{left}");
        }
    }
}
