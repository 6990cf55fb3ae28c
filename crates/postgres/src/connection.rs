//! Connections to the server.

use std::{
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    task::JoinHandle,
};
use tokio_postgres::{
    AsyncMessage, Client, Config, NoTls,
    config::SslMode,
    error::{Error, SqlState},
};
use tokio_postgres_rustls::MakeRustlsConnect;
use tower_respond_async::{
    store::{StoreError, StoreErrorKind, StoreResult},
    time::{Clock, SystemClock, Timestamp},
};

use crate::{
    PostgresStoreBuilder, codec,
    session::{self, BEGAN_WITH_OPTIONS, Connection},
    tls,
};

/// How long the store tries to connect. Shorter than the engine waits for an answer.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);

/// A commit that waits until a synchronous standby has it, and with it all earlier commits. After a restart, a server
/// shows commits that no standby has yet. Without this wait, a repeated insert could find its task stored and report
/// success, and a failover would lose the task.
const IS_AT_STANDBY: &str = "SELECT pg_logical_emit_message(true, 'respond-async', ''::text)";

/// How long a login may take.
const LOGIN: Duration = Duration::from_secs(5);

/// The pause before a lost statement is sent again.
pub(crate) const PAUSE: Duration = Duration::from_millis(20);

/// Opens connections.
pub(crate) struct Server {
    config: Config,
    tls: Option<MakeRustlsConnect>,
    /// Whether a pooler assigns a session to each transaction.
    is_pooled: bool,
    /// The quoted schema and a dot.
    pub(crate) prefix: String,
    closed: AtomicBool,
    seen: Mutex<Option<(i64, Instant)>>,
    clock: Option<Arc<dyn Clock>>,
}

impl Server {
    pub(crate) fn new(mut config: Config, builder: &PostgresStoreBuilder) -> StoreResult<Self> {
        // The server truncates longer names.
        if builder.schema.is_empty() || builder.schema.len() > 63 || builder.schema.contains('\0') {
            let context = format!(
                "the name of the schema {:?} is invalid: 1 to 63 bytes, none of them zero",
                builder.schema
            );
            return Err(StoreError::new(StoreErrorKind::Unsupported, context));
        }
        let tls = match config.get_ssl_mode() {
            SslMode::Require => Some(tls::trusting(&builder.trusted)?),
            // The other modes would encrypt without checking the server's certificate, which does not stop an attacker.
            _ => None,
        };
        if !builder.pooled {
            let own = config.get_options().unwrap_or_default();
            config.options(format!("{} {own}", session::options()));
        }
        if config.get_application_name().is_none() {
            config.application_name("respond-async");
        }
        if config.get_connect_timeout().is_none() {
            config.connect_timeout(Duration::from_secs(3));
        }
        // Detects within about ten seconds that a server has vanished.
        config.tcp_user_timeout(Duration::from_secs(10));
        config.keepalives_idle(Duration::from_secs(10));
        config.keepalives_interval(Duration::from_secs(3)).keepalives_retries(3);
        Ok(Self {
            config,
            tls,
            is_pooled: builder.pooled,
            prefix: format!("\"{}\".", builder.schema.replace('"', "\"\"")),
            closed: AtomicBool::new(false),
            seen: Mutex::new(None),
            clock: builder.clock.clone(),
        })
    }

    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::SeqCst)
    }

    /// The server's time, extrapolated from its last answer.
    pub(crate) fn now(&self) -> Timestamp {
        if let Some(clock) = &self.clock {
            return clock.now();
        }
        match *lock(&self.seen) {
            Some((now, at)) => codec::time(now).saturating_add(at.elapsed()),
            None => SystemClock::new().now(),
        }
    }

    /// Records the server's time.
    pub(crate) fn saw(&self, now: i64) {
        *lock(&self.seen) = Some((now, Instant::now()));
    }

    /// A new connection, with retries for up to [`PATIENCE`]. With `answers`, it first waits until a synchronous
    /// standby has everything that the server shows.
    async fn connect(&self, answers: bool) -> StoreResult<Connection> {
        let began = Instant::now();
        let mut pause = Duration::from_millis(50);
        loop {
            if self.is_closed() {
                return Err(StoreError::closed());
            }
            let Ok(tried) = tokio::time::timeout(LOGIN, self.try_connect(answers)).await else {
                return Err(StoreError::new(
                    StoreErrorKind::Unavailable,
                    "the server did not complete the login in time",
                ));
            };
            let failed = match tried {
                Ok(connection) => return connection,
                Err(failed) => failed,
            };
            // If the server refused the login, it would refuse the next one too.
            let refused = failed.code().is_some_and(|code| code.code().starts_with("28"));
            if refused || wants_pooled(&failed) || began.elapsed() + pause > PATIENCE {
                return Err(unavailable(failed));
            }
            tokio::time::sleep(pause.mul_f64(0.5 + fastrand::f64() / 2.0)).await;
            pause = (pause * 2).min(Duration::from_secs(1));
        }
    }

    async fn try_connect(&self, answers: bool) -> Result<StoreResult<Connection>, Error> {
        let (client, driver) = self.session(None).await?;
        if !self.is_pooled {
            let began = client.query_typed(BEGAN_WITH_OPTIONS, &[]).await?;
            if !began[0].get::<_, bool>(0) {
                return Ok(Err(StoreError::new(StoreErrorKind::Unsupported, USE_POOLED)));
            }
        }
        if answers {
            client.query_typed(IS_AT_STANDBY, &[]).await?;
        }
        Ok(Ok(Connection::new(client, driver, self.prefix.clone(), self.is_pooled)))
    }

    /// A session, and the task that drives it. The payloads of notifications go to `payloads`.
    pub(crate) async fn session(&self, payloads: Option<Payloads>) -> Result<(Client, Driver), Error> {
        Ok(match &self.tls {
            Some(tls) => {
                let (client, connection) = self.config.connect(tls.clone()).await?;
                (client, Driver(tokio::spawn(drive(connection, payloads))))
            }
            None => {
                let (client, connection) = self.config.connect(NoTls).await?;
                (client, Driver(tokio::spawn(drive(connection, payloads))))
            }
        })
    }
}

/// Receives the payloads of notifications.
pub(crate) type Payloads = mpsc::UnboundedSender<String>;

/// Drives a session until it ends. Pending requests fail then.
async fn drive<S, T>(mut connection: tokio_postgres::Connection<S, T>, payloads: Option<Payloads>)
where
    S: AsyncRead + AsyncWrite + Unpin,
    T: AsyncRead + AsyncWrite + Unpin,
{
    while let Some(Ok(message)) = std::future::poll_fn(|context| connection.poll_message(context)).await {
        if let (AsyncMessage::Notification(message), Some(payloads)) = (message, &payloads) {
            // The receiver is gone when the session is being dropped.
            let _ = payloads.send(message.payload().to_owned());
        }
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Without the configuration, since it contains a password.
        f.debug_struct("Server")
            .field("schema", &self.prefix)
            .finish_non_exhaustive()
    }
}

/// The task that drives a connection. Dropping this ends both.
pub(crate) struct Driver(JoinHandle<()>);

impl Driver {
    pub(crate) fn is_finished(&self) -> bool {
        self.0.is_finished()
    }

    /// Ends the connection. Pending requests fail as closed.
    pub(crate) fn end(&self) {
        self.0.abort();
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Connections for one kind of work. They are opened when needed, up to a limit.
pub(crate) struct Pool {
    pub(crate) server: Arc<Server>,
    idle: Mutex<Vec<Connection>>,
    permits: Arc<Semaphore>,
    /// Whether callers report what they see on these connections as durable.
    answers: bool,
}

impl Pool {
    pub(crate) fn new(server: Arc<Server>, most: usize) -> Self {
        Self {
            server,
            idle: Mutex::default(),
            permits: Arc::new(Semaphore::new(most)),
            answers: false,
        }
    }

    /// Connections for operations after which a caller reports that something is stored.
    pub(crate) fn of_writers(server: Arc<Server>, most: usize) -> Self {
        Self {
            answers: true,
            ..Self::new(server, most)
        }
    }

    /// A connection. It returns to the pool with [`done`](Lent::done); if it is dropped instead, it closes, and its
    /// transaction ends.
    pub(crate) async fn get(self: &Arc<Self>) -> StoreResult<Lent> {
        let permit = self.permits.clone().acquire_owned().await;
        let permit = permit.map_err(|_| StoreError::closed())?;
        if self.server.is_closed() {
            return Err(StoreError::closed());
        }
        loop {
            let idle = lock(&self.idle).pop();
            let connection = match idle {
                Some(lost) if lost.is_lost() => continue,
                Some(idle) => idle,
                None => self.server.connect(self.answers).await?,
            };
            return Ok(Lent {
                connection,
                pool: self.clone(),
                _permit: permit,
            });
        }
    }

    pub(crate) fn close(&self) {
        self.permits.close();
        lock(&self.idle).clear();
    }
}

/// A connection that is in use.
pub(crate) struct Lent {
    connection: Connection,
    pool: Arc<Pool>,
    _permit: OwnedSemaphorePermit,
}

impl Lent {
    /// Returns the connection to the pool. No statement or transaction may be under way on it.
    pub(crate) fn done(self) {
        if !self.pool.server.is_closed() {
            lock(&self.pool.idle).push(self.connection);
        }
    }
}

impl std::ops::Deref for Lent {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        &self.connection
    }
}

/// The driver's error as a [`StoreError`]. Errors of a statement itself (such as a value that a text cannot hold) are
/// `Unavailable` too, although a repetition fails in the same way: the caller handles both alike.
pub(crate) fn unavailable(error: Error) -> StoreError {
    if wants_pooled(&error) {
        return StoreError::new(StoreErrorKind::Unsupported, USE_POOLED).because(error);
    }
    let context = match error.as_db_error() {
        Some(db_error) => format!("the server refused: {}", db_error.message()),
        None => "the server cannot be reached".to_owned(),
    };
    StoreError::new(StoreErrorKind::Unavailable, context).because(error)
}

/// The driver's error from which [`unavailable`] made this one.
pub(crate) fn postgres_error(error: &StoreError) -> Option<&Error> {
    std::error::Error::source(error)?.downcast_ref()
}

/// Whether the server cancelled a statement because it took too long.
pub(crate) fn is_too_slow(error: &StoreError) -> bool {
    postgres_error(error).is_some_and(|error| error.code() == Some(&SqlState::QUERY_CANCELED))
}

const USE_POOLED: &str = "a pooler is between the store and the server, which gives it no session of its own: \
    PostgresStoreBuilder::pooled is for that";

/// Whether this error means that a pooler shares sessions, and the store is not set to `pooled`: PgBouncer rejects the
/// settings of a session, or the server reports a missing or duplicate prepared statement.
fn wants_pooled(error: &Error) -> bool {
    error.as_db_error().is_some_and(|db_error| {
        db_error.message().starts_with("unsupported startup parameter")
            || [SqlState::INVALID_SQL_STATEMENT_NAME, SqlState::DUPLICATE_PSTATEMENT].contains(db_error.code())
    })
}

/// How often a statement is sent again after a race.
const RACES: u32 = 3;

/// Decides whether a statement is sent again.
pub(crate) struct Again {
    began: Instant,
    races: u32,
    /// The statement was sent before without an answer, so it may have taken effect.
    pub(crate) repeated: bool,
}

impl Again {
    pub(crate) fn new() -> Self {
        Self {
            began: Instant::now(),
            races: 0,
            repeated: false,
        }
    }

    /// Whether to repeat a statement that was rolled back because of a race; true a limited number of times.
    pub(crate) fn after_race(&mut self, error: &Error) -> bool {
        let again = is_race(error) && self.races < RACES;
        self.races += u32::from(again);
        again
    }

    /// Whether to repeat a statement whose answer was lost with the session, within [`PATIENCE`].
    pub(crate) fn after_loss(&mut self, error: &Error) -> bool {
        let again = is_lost(error) && self.began.elapsed() < PATIENCE;
        self.repeated |= again;
        again
    }
}

/// Whether the session is gone, or the server no longer accepts writes. The statement may have taken effect.
pub(crate) fn is_lost(error: &Error) -> bool {
    match error.code() {
        // The code 55000 means that the server is a standby, which has no write position.
        Some(code) => ["08", "57P", "25006", "55000"]
            .iter()
            .any(|class| code.code().starts_with(class)),
        None => true,
    }
}

/// Whether the statement was rolled back because of concurrent transactions.
pub(crate) fn is_race(error: &Error) -> bool {
    let races = [SqlState::T_R_SERIALIZATION_FAILURE, SqlState::T_R_DEADLOCK_DETECTED];
    error.code().is_some_and(|code| races.contains(code))
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
