//! Connections to the server: how they are made, kept and lost.

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

/// How long is tried to connect: less than the engine waits for an answer.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);

/// A commit that waits for a synchronous standby waits for all before it. The restart of a server lets everybody see what it had
/// not answered yet, since no standby has it: found done by who asks again, that would be answered for, and could be lost.
const IS_AT_STANDBY: &str = "SELECT pg_logical_emit_message(true, 'respond-async', ''::text)";

/// How long a login may take.
const LOGIN: Duration = Duration::from_secs(5);

/// Before what was lost is sent again.
pub(crate) const PAUSE: Duration = Duration::from_millis(20);

/// Makes connections.
pub(crate) struct Server {
    config: Config,
    tls: Option<MakeRustlsConnect>,
    /// Whether a pooler gives every transaction a session.
    is_pooled: bool,
    /// The quoted schema and a point.
    pub(crate) prefix: String,
    closed: AtomicBool,
    seen: Mutex<Option<(i64, Instant)>>,
    clock: Option<Arc<dyn Clock>>,
}

impl Server {
    pub(crate) fn new(mut config: Config, builder: &PostgresStoreBuilder) -> StoreResult<Self> {
        // The server cuts longer names, and would not find them again.
        if builder.schema.is_empty() || builder.schema.len() > 63 || builder.schema.contains('\0') {
            let context = format!(
                "the schema {:?} has no name that fits: 1 to 63 bytes, none of them zero",
                builder.schema
            );
            return Err(StoreError::new(StoreErrorKind::Unsupported, context));
        }
        let tls = match config.get_ssl_mode() {
            SslMode::Require => Some(tls::trusting(&builder.trusted)?),
            // Encrypted if the server likes, to whoever it is: that protects from nobody.
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
        // A server that is gone without a word is noticed within some ten seconds.
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

    /// The server's time, as far as its last answer tells.
    pub(crate) fn now(&self) -> Timestamp {
        if let Some(clock) = &self.clock {
            return clock.now();
        }
        match *lock(&self.seen) {
            Some((now, at)) => codec::time(now).saturating_add(at.elapsed()),
            None => SystemClock::new().now(),
        }
    }

    /// The server has said what time it is.
    pub(crate) fn saw(&self, now: i64) {
        *lock(&self.seen) = Some((now, Instant::now()));
    }

    /// A new connection, tried for until it is there or too long is waited: also, to answer for what can be seen, until a
    /// synchronous standby has all of that.
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
                    "the server lets nobody in",
                ));
            };
            let failed = match tried {
                Ok(connection) => return connection,
                Err(failed) => failed,
            };
            // Who is not let in now will not be later.
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

    /// A session, and what drives it. Notifications go to who wants to hear them.
    pub(crate) async fn session(&self, heard: Option<Heard>) -> Result<(Client, Driver), Error> {
        Ok(match &self.tls {
            Some(tls) => {
                let (client, connection) = self.config.connect(tls.clone()).await?;
                (client, Driver(tokio::spawn(drive(connection, heard))))
            }
            None => {
                let (client, connection) = self.config.connect(NoTls).await?;
                (client, Driver(tokio::spawn(drive(connection, heard))))
            }
        })
    }
}

/// Whoever hears what is notified.
pub(crate) type Heard = mpsc::UnboundedSender<String>;

/// Until the session ends. Whoever waits for an answer hears of that.
async fn drive<S, T>(mut connection: tokio_postgres::Connection<S, T>, heard: Option<Heard>)
where
    S: AsyncRead + AsyncWrite + Unpin,
    T: AsyncRead + AsyncWrite + Unpin,
{
    while let Some(Ok(message)) = std::future::poll_fn(|context| connection.poll_message(context)).await {
        if let (AsyncMessage::Notification(message), Some(heard)) = (message, &heard) {
            // Nobody listens any more as the session is dropped.
            let _ = heard.send(message.payload().to_owned());
        }
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Not the configuration: it has a password in it.
        f.debug_struct("Server")
            .field("schema", &self.prefix)
            .finish_non_exhaustive()
    }
}

/// Ends what drives a connection with it.
pub(crate) struct Driver(JoinHandle<()>);

impl Driver {
    pub(crate) fn is_finished(&self) -> bool {
        self.0.is_finished()
    }

    /// Ends the connection: whoever waits for an answer hears that it is closed.
    pub(crate) fn end(&self) {
        self.0.abort();
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Connections for one kind of work, made as they are needed, at most so many.
pub(crate) struct Pool {
    pub(crate) server: Arc<Server>,
    idle: Mutex<Vec<Connection>>,
    places: Arc<Semaphore>,
    /// Whether what is done, or found done, on its connections is answered for.
    answers: bool,
}

impl Pool {
    pub(crate) fn new(server: Arc<Server>, most: usize) -> Self {
        Self {
            server,
            idle: Mutex::default(),
            places: Arc::new(Semaphore::new(most)),
            answers: false,
        }
    }

    /// Connections for what a caller is told that it is stored.
    pub(crate) fn of_writers(server: Arc<Server>, most: usize) -> Self {
        Self {
            answers: true,
            ..Self::new(server, most)
        }
    }

    /// One of them, for as long as it takes. It is kept if it is [given back](Lent::done), and else closed with whatever was
    /// begun on it.
    pub(crate) async fn get(self: &Arc<Self>) -> StoreResult<Lent> {
        let place = self.places.clone().acquire_owned().await;
        let place = place.map_err(|_| StoreError::closed())?;
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
                _place: place,
            });
        }
    }

    pub(crate) fn close(&self) {
        self.places.close();
        lock(&self.idle).clear();
    }
}

/// A connection that is in use.
pub(crate) struct Lent {
    connection: Connection,
    pool: Arc<Pool>,
    _place: OwnedSemaphorePermit,
}

impl Lent {
    /// Nothing is under way on it.
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

/// The server's error as the caller's. What a text cannot hold, and whatever else is wrong with the statement, will be so the
/// next time; to the caller it is the same.
pub(crate) fn unavailable(error: Error) -> StoreError {
    if wants_pooled(&error) {
        return StoreError::new(StoreErrorKind::Unsupported, USE_POOLED).because(error);
    }
    let context = match error.as_db_error() {
        Some(said) => format!("the server refused: {}", said.message()),
        None => "the server cannot be reached".to_owned(),
    };
    StoreError::new(StoreErrorKind::Unavailable, context).because(error)
}

/// What [`unavailable`] was made of.
pub(crate) fn said_by_server(error: &StoreError) -> Option<&Error> {
    std::error::Error::source(error)?.downcast_ref()
}

/// Whether the server gave a statement up because it took too long.
pub(crate) fn is_too_slow(error: &StoreError) -> bool {
    said_by_server(error).is_some_and(|error| error.code() == Some(&SqlState::QUERY_CANCELED))
}

const USE_POOLED: &str = "a pooler is between the store and the server, which gives it no session of its own: \
    PostgresStoreBuilder::pooled is for that";

/// Whether a pooler said this to a store that takes its session for its own: PgBouncer to settings that a session is to begin
/// with, and a server to statements that another session has prepared.
fn wants_pooled(error: &Error) -> bool {
    error.as_db_error().is_some_and(|said| {
        said.message().starts_with("unsupported startup parameter")
            || [SqlState::INVALID_SQL_STATEMENT_NAME, SqlState::DUPLICATE_PSTATEMENT].contains(said.code())
    })
}

/// How often a statement is sent again that lost a race.
const RACES: u32 = 3;

/// What became of a statement so far: whether it is to be sent again.
pub(crate) struct Again {
    began: Instant,
    races: u32,
    /// It was sent before and not answered: it may have been done.
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

    /// Whether it was rolled back because of what others did, for the first few times.
    pub(crate) fn after_race(&mut self, error: &Error) -> bool {
        let again = is_race(error) && self.races < RACES;
        self.races += u32::from(again);
        again
    }

    /// Whether its answer was lost with the session, as long as the server is waited for.
    pub(crate) fn after_loss(&mut self, error: &Error) -> bool {
        let again = is_lost(error) && self.began.elapsed() < PATIENCE;
        self.repeated |= again;
        again
    }
}

/// Whether the session is gone, or the server cannot write any more: what was asked may have been done.
pub(crate) fn is_lost(error: &Error) -> bool {
    match error.code() {
        // 55000: it is a standby, which has no place to write.
        Some(code) => ["08", "57P", "25006", "55000"]
            .iter()
            .any(|class| code.code().starts_with(class)),
        None => true,
    }
}

/// Whether it was rolled back because of what others did at that moment.
pub(crate) fn is_race(error: &Error) -> bool {
    let races = [SqlState::T_R_SERIALIZATION_FAILURE, SqlState::T_R_DEADLOCK_DETECTED];
    error.code().is_some_and(|code| races.contains(code))
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
