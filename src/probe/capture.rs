//! [`Capture`]: keeps what a task logs as the task's own log.

use std::{
    cell::RefCell,
    fmt::{self, Write},
    mem,
    sync::{
        Arc, LazyLock,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

use tracing::{
    Event, Level, Span, Subscriber, error_span,
    field::{Field, Visit},
    span::{Attributes, Id},
};
use tracing_subscriber::{
    Layer,
    filter::LevelFilter,
    layer::{Context, Filter},
    registry::LookupSpan,
};

use crate::{
    probe::{self, AttemptInfo, AttemptLog, AttemptScope, Probe},
    task::{LogLine, RequestId, printable::printable, record::cut},
    time::{Clock, SystemClock},
};

/// Keeps what a task logs with the `tracing` crate as the task's own log.
///
/// [`new`](Self::new) returns two halves: a probe for the builder, and a layer for the application's subscriber. Any
/// handler that uses `tracing` then has a log for each attempt, and the task API shows it. All events still go to the
/// other layers of the subscriber.
///
/// - **Which events belong to a task:** all events while its handler is polled. In futures and threads that the handler
///   spawns: all events inside a span that was created in the task, as by `future.in_current_span()` or
///   `future.instrument(span)`. Without a span, events of spawned work cannot be assigned to the task.
/// - **Filter:** INFO and above, or what the filter of [`with_filter`](Self::with_filter) lets through. This filter
///   holds for this layer only. A filter of the whole subscriber holds for this layer too: give an `EnvFilter` to the
///   `fmt` layer, with `Layer::with_filter`, and not to the registry.
/// - **Limits:** 10,000 lines, 1 MiB, 16 KiB a line, for each attempt. Further lines are dropped, and a last line says
///   how many.
/// - **When lines are stored:** in batches, at most once a second, and before the end of the attempt is recorded. A
///   handler never waits for them to be stored. If the process dies, the lines of the last second are lost. An attempt
///   that lost its claim stores no more lines.
/// - **Content:** time, level, target, message, fields. Escape sequences and control characters are removed. Values are
///   otherwise stored as the handler gave them. When they are shown, the values of fields with secret names are
///   redacted, and so are the secrets in URLs, also in the message. Any other secret in a message is shown.
///
/// Each attempt has its own span, `task`, with the request id and the number of the attempt. Other layers get this span
/// too.
///
/// While no task runs, an event costs one atomic load.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
///
/// use axum::{Router, body::Body, http::Request, routing::post};
/// use tower::{Layer, ServiceExt};
/// use tower_respond_async::{MemoryStore, RespondAsyncLayer, Scope, probe::Capture, store::LogQuery};
/// use tracing::Instrument;
/// use tracing_subscriber::layer::SubscriberExt;
///
/// async fn work() -> &'static str {
///     tracing::info!(step = 1, "working");
///     let child = async { tracing::warn!("working elsewhere") };
///     tokio::spawn(child.in_current_span()).await.ok();
///     "done"
/// }
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let (capture, layer) = Capture::new();
/// // In a program: `.init()`.
/// let subscriber = tracing_subscriber::registry().with(layer).with(tracing_subscriber::fmt::layer());
/// let _guard = tracing::subscriber::set_default(subscriber);
///
/// let layer = RespondAsyncLayer::builder(MemoryStore::new()).probe(capture).build()?;
/// let tasks = layer.tasks();
/// let app = layer.layer(Router::new().route("/work", post(work)));
///
/// let request = Request::post("/work").header("Prefer", "respond-async").body(Body::empty())?;
/// let response = app.oneshot(request).await?;
/// let id = response.headers()["x-fc-request-id"].to_str()?.parse()?;
/// tasks.wait(id, Duration::from_secs(10)).await?;
///
/// let log = tasks.logs(id, LogQuery::default()).await?;
/// assert_eq!((&*log[0].message, &*log[0].fields[0].1), ("working", "1"));
/// assert_eq!((&*log[1].level, &*log[1].message), ("WARN", "working elsewhere"));
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct Capture {
    pair: Arc<Pair>,
}

impl Capture {
    /// Returns a probe for the builder, and a layer for the subscriber that captures INFO and above.
    ///
    /// `S` is the type of the subscriber; the compiler infers it.
    #[must_use]
    pub fn new<S>() -> (Self, impl Layer<S> + Send + Sync + 'static)
    where
        S: Subscriber + for<'a> LookupSpan<'a>,
    {
        Self::with_filter(LevelFilter::INFO)
    }

    /// Like [`new`](Self::new), but the layer captures what `filter` lets through.
    ///
    /// If the filter blocks spans at level ERROR, the task's log lacks the events of spawned work.
    #[must_use]
    pub fn with_filter<S, F>(filter: F) -> (Self, impl Layer<S> + Send + Sync + 'static)
    where
        S: Subscriber + for<'a> LookupSpan<'a>,
        F: Filter<S> + Send + Sync + 'static,
    {
        static PAIRS: AtomicU64 = AtomicU64::new(0);
        let pair = Arc::new(Pair {
            number: PAIRS.fetch_add(1, Ordering::Relaxed),
            attempts: AtomicUsize::new(0),
            clock: SystemClock::new(),
        });
        let layer = Captured { pair: pair.clone() };
        (Self { pair }, layer.with_filter(filter))
    }
}

impl Probe for Capture {
    fn on_event(&self, _: &probe::Event<'_>) {}

    fn attempt(&self, attempt: &AttemptInfo<'_>) -> Option<Box<dyn AttemptScope>> {
        self.pair.attempts.fetch_add(1, Ordering::Relaxed);
        Some(Box::new(Scope {
            id: attempt.id,
            attempt: attempt.attempt,
            span: None,
            mark: Some(Mark {
                pair: self.pair.number,
                log: attempt.log(),
            }),
            pair: self.pair.clone(),
        }))
    }
}

/// The state that the two halves share.
#[derive(Debug)]
struct Pair {
    /// Identifies the pair: if two layers are on one subscriber, each captures only the attempts of its own pair.
    number: u64,
    /// The number of attempts under way.
    attempts: AtomicUsize,
    clock: SystemClock,
}

/// The log to which the current poll, or a span, belongs.
#[derive(Clone)]
struct Mark {
    pair: u64,
    log: AttemptLog,
}

thread_local! {
    /// The mark of the attempt that this thread polls.
    static POLLED: RefCell<Option<Mark>> = const { RefCell::new(None) };
}

struct Scope {
    id: RequestId,
    attempt: u32,
    /// Created when the scope is first entered, as a child of the spans that other probes have entered by then.
    span: Option<Span>,
    /// `None` while the scope is entered: the mark is in [`POLLED`] then.
    mark: Option<Mark>,
    pair: Arc<Pair>,
}

impl AttemptScope for Scope {
    fn in_scope(&mut self, poll: &mut dyn FnMut()) {
        let span = self.span.take();
        let polled = Polled::begin(&mut self.mark);
        // At level ERROR, so that a filter by level lets it through: the span identifies spawned futures.
        let span = span.unwrap_or_else(|| error_span!("task", id = %self.id, attempt = self.attempt));
        span.in_scope(poll);
        drop(polled);
        self.span = Some(span);
    }
}

impl Drop for Scope {
    fn drop(&mut self) {
        self.pair.attempts.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Keeps the mark in [`POLLED`] until it is dropped, also by a panic.
struct Polled<'a>(&'a mut Option<Mark>);

impl<'a> Polled<'a> {
    fn begin(mark: &'a mut Option<Mark>) -> Self {
        Self::swap(mark);
        Self(mark)
    }

    fn swap(mark: &mut Option<Mark>) {
        // An error means that the thread is ending: it polls nothing any more.
        let _ = POLLED.try_with(|polled| mem::swap(&mut *polled.borrow_mut(), mark));
    }
}

impl Drop for Polled<'_> {
    fn drop(&mut self) {
        Self::swap(self.0);
    }
}

/// The layer for the subscriber.
struct Captured {
    pair: Arc<Pair>,
}

impl Captured {
    /// The log of the attempt that this thread polls.
    fn polled(&self) -> Option<AttemptLog> {
        let own = |mark: &Mark| (mark.pair == self.pair.number).then(|| mark.log.clone());
        POLLED.try_with(|polled| polled.borrow().as_ref().and_then(own)).ok()?
    }

    fn is_idle(&self) -> bool {
        self.pair.attempts.load(Ordering::Relaxed) == 0
    }

    /// The log to which a span belongs. Locks the span's extensions only for the look-up.
    fn marked<'a, S: LookupSpan<'a>>(&self, span: &tracing_subscriber::registry::SpanRef<'a, S>) -> Option<AttemptLog> {
        let extensions = span.extensions();
        let mark = extensions.get::<Mark>().filter(|mark| mark.pair == self.pair.number)?;
        Some(mark.log.clone())
    }

    fn mark<'a, S: LookupSpan<'a>>(&self, span: &tracing_subscriber::registry::SpanRef<'a, S>, log: AttemptLog) {
        span.extensions_mut().replace(Mark {
            pair: self.pair.number,
            log,
        });
    }
}

impl<S> Layer<S> for Captured
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    /// A span belongs to the attempt in which it is created, or else to the attempt of its parent.
    fn on_new_span(&self, _: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        if self.is_idle() {
            return;
        }
        let Some(span) = context.span(id) else { return };
        let log = self
            .polled()
            .or_else(|| span.parent().and_then(|parent| self.marked(&parent)));
        if let Some(log) = log {
            self.mark(&span, log);
        }
    }

    /// Marks the span of `TracingProbe`, which is created before the attempt is polled and has no parent.
    fn on_enter(&self, id: &Id, context: Context<'_, S>) {
        if self.is_idle() {
            return;
        }
        let Some(log) = self.polled() else { return };
        let Some(span) = context.span(id) else { return };
        if span.name() == ATTEMPT_SPAN && span.metadata().target() == ATTEMPT_TARGET && self.marked(&span).is_none() {
            self.mark(&span, log);
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        if self.is_idle() {
            return;
        }
        let log = self
            .polled()
            .or_else(|| context.event_span(event).and_then(|span| self.marked(&span)));
        // Format the event while no lock is held: formatting a value may itself log something.
        if let Some(log) = log.filter(|log| !log.refuses()) {
            log.push(line(event, &self.pair.clock));
        }
    }
}

/// The name and target of the span in `probe/tracing.rs`.
const ATTEMPT_SPAN: &str = "task.attempt";
const ATTEMPT_TARGET: &str = concat!(env!("CARGO_CRATE_NAME"), "::probe::tracing");

fn line(event: &Event<'_>, clock: &SystemClock) -> LogLine {
    let metadata = event.metadata();
    let mut fields = Fields {
        message: String::new(),
        fields: Vec::new(),
        left: AttemptLog::LINE_BYTES - metadata.target().len().min(1024),
    };
    event.record(&mut fields);
    LogLine {
        level: level(*metadata.level()),
        message: printable(&fields.message).into(),
        fields: fields.fields,
        ..LogLine::new(clock.now(), "", metadata.target(), "")
    }
}

fn level(level: Level) -> Arc<str> {
    static NAMES: LazyLock<[Arc<str>; 5]> =
        LazyLock::new(|| ["ERROR", "WARN", "INFO", "DEBUG", "TRACE"].map(Arc::from));
    NAMES[match level {
        Level::ERROR => 0,
        Level::WARN => 1,
        Level::INFO => 2,
        Level::DEBUG => 3,
        Level::TRACE => 4,
    }]
    .clone()
}

/// Collects the message and the fields of an event, up to the limit of a line.
struct Fields {
    message: String,
    fields: Vec<(Arc<str>, Arc<str>)>,
    left: usize,
}

impl Fields {
    fn text(&mut self, field: &Field, value: fmt::Arguments<'_>) {
        let mut text = Bounded {
            text: String::new(),
            left: self.left,
        };
        // On an error (no more room, or from the value itself), keep the text written so far.
        let _ = text.write_fmt(value);
        self.add(field, &text.text);
    }

    fn add(&mut self, field: &Field, text: &str) {
        let is_message = field.name() == "message";
        let name = if is_message { 0 } else { field.name().len() };
        let Some(room) = self.left.checked_sub(name).filter(|room| *room > 0) else {
            return;
        };
        let text = cut(text, room);
        self.left = room - text.len();
        match is_message {
            true => self.message.push_str(text),
            false => self.fields.push((field.name().into(), printable(text).into())),
        }
    }
}

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.add(field, value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.text(field, format_args!("{value:?}"));
    }
}

/// Accepts `left` bytes and then fails, so that the formatting of an endless value stops.
struct Bounded {
    text: String,
    left: usize,
}

impl Write for Bounded {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let part = cut(text, self.left);
        self.text.push_str(part);
        self.left -= part.len();
        match part.len() == text.len() {
            true => Ok(()),
            false => Err(fmt::Error),
        }
    }
}
