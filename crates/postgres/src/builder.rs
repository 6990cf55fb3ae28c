//! How a database is to be used.

use std::{borrow::Cow, fmt, sync::Arc};

use percent_encoding::percent_decode_str;
use tokio_postgres::Config;
use tower_respond_async::store::{StoreError, StoreErrorKind, StoreResult};
#[cfg(feature = "testing")]
use tower_respond_async::time::Clock;

use crate::PostgresStore;

/// Connects a [`PostgresStore`].
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

/// Who makes the tables, and brings them up to date.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Migrate {
    /// The store, as it connects. Several processes may do so at once.
    #[default]
    Auto,
    /// Somebody else: the store refuses tables that are not as it needs them.
    Check,
}

impl PostgresStoreBuilder {
    /// The schema that the tables are in unless said otherwise.
    pub const SCHEMA: &str = "respond_async";

    /// Has the tables in this schema: one for each application that shares a database. Its name has 63 bytes at most.
    pub fn schema(mut self, name: impl Into<Arc<str>>) -> Self {
        self.schema = name.into();
        self
    }

    /// Who makes the tables: [`Migrate::Auto`] unless said otherwise.
    pub const fn migrate(mut self, migrate: Migrate) -> Self {
        self.migrate = migrate;
        self
    }

    /// Reaches the server through a pooler that lends a session for one transaction at a time: PgBouncer with
    /// `pool_mode = transaction`, and others of its kind. A store that is not told so is refused there.
    ///
    /// The store then leaves nothing with a session: no settings, no prepared statements, no locks. Its settings come with each
    /// transaction, in the same round trip. What differs:
    ///
    /// - Each statement is parsed and planned each time: with PostgreSQL 15 that took the server some 2 ms for inserts, 3 for
    ///   changes and 4 for a claim, whether of one task or of hundreds, and 0.2 for a row.
    /// - No notifications are heard, as listening takes a session of one's own, and none are sent.
    ///   [`abilities`](tower_respond_async::TaskStore::abilities) say so. What other processes do is found by looking: work that one
    ///   stores for others to run starts up to a second later, and so much later a client hears that waits here for a task which
    ///   runs elsewhere. What a process accepts and runs itself is not delayed.
    ///
    /// Where several processes share tasks, let all of them be pooled or none: one that listens hears nothing of those that are.
    pub const fn pooled(mut self) -> Self {
        self.pooled = true;
        self
    }

    /// Trusts servers whose certificate this one has signed, beside those that the system trusts: a certificate in DER.
    /// It is for URLs with `sslmode=require`.
    pub fn trust(mut self, certificate: impl Into<Vec<u8>>) -> Self {
        self.trusted.push(certificate.into());
        self
    }

    /// Accepts a server that runs with `fsync=off`, whose data a power cut may destroy: for tests.
    pub const fn unsafe_durability(mut self) -> Self {
        self.unsafe_durability = true;
        self
    }

    /// What [`now`](tower_respond_async::TaskStore::now) answers, for tests that move the time: the server's clock is the
    /// function `now_ms` of the schema, to be moved with it.
    #[cfg(feature = "testing")]
    #[doc(hidden)]
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.clock = Some(Arc::new(clock));
        self
    }

    /// Connects to the database at `url`: `postgres://USER:PASSWORD@HOST:PORT/DATABASE`, where `HOST:PORT` may be several
    /// with commas between them. Behind a question mark may be, with `&` between them:
    ///
    /// - `schema=NAME`: the same as [`schema`](Self::schema), for where the URL is all that is configured.
    /// - `sslmode=require`: connections are encrypted, and the certificate of the server is checked. They are not encrypted
    ///   otherwise.
    /// - `target_session_attrs=read-write`: of several hosts, the one that takes writes.
    /// - `application_name`, `connect_timeout` in seconds, `options`.
    ///
    /// # Errors
    ///
    /// - [`Unavailable`](StoreErrorKind::Unavailable) if no server can be reached, or it does not let this user in.
    /// - [`Incompatible`](StoreErrorKind::Incompatible) if the tables are of a newer build, or not what
    ///   [`Migrate::Check`] wants.
    /// - [`Unsupported`](StoreErrorKind::Unsupported) if the server is not to be relied on, if `url` is not understood, if the
    ///   name of the schema does not fit, or if a pooler is there that the store does not [know of](Self::pooled).
    ///
    /// # Cancel safety
    ///
    /// Dropping the future closes the connections; a migration that was begun may go on.
    pub async fn connect(mut self, url: &str) -> StoreResult<PostgresStore> {
        let (url, schema) = without_schema(url);
        if let Some(schema) = schema {
            self.schema = schema.into();
        }
        // Its error is not passed on: it may quote a part of the URL, and with it a password.
        let config: Config = url.parse().map_err(|_| {
            let context = "the URL of the database is not understood: postgres://USER:PASSWORD@HOST:PORT/DATABASE, \
                with special characters in it as %XX";
            StoreError::new(StoreErrorKind::Unsupported, context)
        })?;
        PostgresStore::open(config, self).await
    }
}

/// A URL without its `schema`, which the driver does not know, and what it says.
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
