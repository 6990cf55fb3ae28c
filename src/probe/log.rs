//! [`AttemptLog`]: the log of an attempt, written while it runs.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::Notify;

use crate::{
    store::LogQuery,
    task::{LogLine, record::cut},
    time::Timestamp,
};

/// The log of one attempt. Any thread can add lines.
///
/// The engine stores the lines under the attempt's claim, in batches, at most once a second, and before it records the
/// attempt's end.
///
/// The log is bounded: [`LogQuery::LINES_KEPT`] lines and [`LogQuery::BYTES_KEPT`] bytes for an attempt, and
/// [`LINE_BYTES`](Self::LINE_BYTES) for a line. Further lines are dropped, and a last line says how many.
///
/// A probe gets it from [`AttemptInfo::log`](crate::probe::AttemptInfo::log).
///
/// # Examples
///
/// ```
/// use tower_respond_async::{
///     probe::{AttemptInfo, AttemptScope, Event, Probe},
///     task::LogLine,
///     time::{Clock, SystemClock},
/// };
///
/// #[derive(Debug)]
/// struct Begin(SystemClock);
///
/// impl Probe for Begin {
///     fn on_event(&self, _: &Event<'_>) {}
///
///     fn attempt(&self, attempt: &AttemptInfo<'_>) -> Option<Box<dyn AttemptScope>> {
///         attempt.log().push(LogLine::new(self.0.now(), "INFO", "app", "the attempt begins"));
///         None
///     }
/// }
/// ```
#[derive(Clone)]
pub struct AttemptLog(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    /// Notified when the first line is pending.
    pushed: Notify,
}

#[derive(Default)]
struct State {
    pending: Vec<LogLine>,
    /// The number of lines so far, stored ones included.
    lines: usize,
    bytes: usize,
    dropped: u64,
    closed: bool,
}

/// The longest target (a module path), in bytes, of a line that is cut.
const LONGEST_TARGET: usize = 256;

/// Bytes reserved for the line that says how many lines were dropped.
const LAST_LINE_BYTES: usize = 256;

impl AttemptLog {
    /// The longest line that is kept, in bytes, fields included. A longer line is cut: it is data, not a message.
    pub const LINE_BYTES: usize = 16 * 1024;

    pub(crate) fn new() -> Self {
        Self(Arc::new(Shared {
            state: Mutex::default(),
            pushed: Notify::new(),
        }))
    }

    /// Adds a line, without blocking. If the log is full, the line is dropped and counted.
    ///
    /// After the end of the attempt this does nothing.
    pub fn push(&self, mut line: LogLine) {
        cut_line(&mut line);
        let bytes = line.weight();
        let mut state = self.state();
        if state.closed {
            return;
        }
        let full = state.lines + 1 >= LogQuery::LINES_KEPT
            || state.bytes + bytes > LogQuery::BYTES_KEPT - LAST_LINE_BYTES
            // After the first dropped line, drop all: a log with a gap would mislead.
            || state.dropped > 0;
        if full {
            state.dropped += 1;
            return;
        }
        state.lines += 1;
        state.bytes += bytes;
        state.pending.push(line);
        let first = state.pending.len() == 1;
        drop(state);
        if first {
            self.0.pushed.notify_one();
        }
    }

    /// Whether any further line would be dropped. If the log is full, this counts one line as dropped, so that the
    /// caller does not have to format the line.
    #[cfg_attr(not(feature = "capture"), expect(dead_code, reason = "only Capture calls it"))]
    pub(crate) fn refuses(&self) -> bool {
        let mut state = self.state();
        let full = state.dropped > 0 && !state.closed;
        if full {
            state.dropped += 1;
        }
        full || state.closed
    }

    /// Whether lines are waiting to be stored.
    pub(crate) fn has_pending(&self) -> bool {
        !self.state().pending.is_empty()
    }

    /// Resolves when the first line is pending.
    pub(crate) async fn pushed(&self) {
        self.0.pushed.notified().await;
    }

    /// Takes the lines to store them.
    pub(crate) fn take(&self) -> Vec<LogLine> {
        std::mem::take(&mut self.state().pending)
    }

    /// Closes the log and takes the last lines. If lines were dropped, the last line says how many.
    pub(crate) fn finish(&self, now: Timestamp) -> Vec<LogLine> {
        let mut state = self.state();
        let first = !std::mem::replace(&mut state.closed, true);
        let mut lines = std::mem::take(&mut state.pending);
        if first && state.dropped > 0 {
            let text = format!(
                "{} more lines were dropped: the log of an attempt holds {} lines and {} bytes",
                state.dropped,
                LogQuery::LINES_KEPT,
                LogQuery::BYTES_KEPT
            );
            lines.push(LogLine::new(now, "WARN", env!("CARGO_CRATE_NAME"), &text));
        }
        lines
    }

    /// Puts back lines that could not be stored, before the lines that were added since.
    pub(crate) fn put_back(&self, mut lines: Vec<LogLine>) {
        let mut state = self.state();
        lines.append(&mut state.pending);
        state.pending = lines;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for AttemptLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.state();
        f.debug_struct("AttemptLog")
            .field("lines", &state.lines)
            .field("dropped", &state.dropped)
            .finish_non_exhaustive()
    }
}

/// Shortens a line that is too long: first the message, to half of the limit, then the target, then the fields, from
/// the last.
fn cut_line(line: &mut LogLine) {
    if line.weight() <= AttemptLog::LINE_BYTES {
        return;
    }
    if line.message.len() > AttemptLog::LINE_BYTES / 2 {
        line.message = cut(&line.message, AttemptLog::LINE_BYTES / 2).into();
    }
    if line.target.len() > LONGEST_TARGET {
        line.target = cut(&line.target, LONGEST_TARGET).into();
    }
    loop {
        let over = line.weight().saturating_sub(AttemptLog::LINE_BYTES);
        match line.fields.pop() {
            Some((name, value)) if over > 0 => {
                // Keeps the part of the value that fits; if none fits, drops the field.
                if let Some(kept) = value.len().checked_sub(over) {
                    line.fields.push((name, cut(&value, kept).into()));
                    return;
                }
            }
            Some(fits) => {
                line.fields.push(fits);
                return;
            }
            None => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line_of_fields(text: &str, times: usize) -> LogLine {
        LogLine {
            fields: vec![("f".into(), text.repeat(times).into())],
            ..line("m")
        }
    }

    fn line(text: &str) -> LogLine {
        LogLine::new(Timestamp::ZERO, "INFO", "t", text)
    }

    #[test]
    fn beyond_its_bound_it_drops_and_counts() {
        for (text, at_least) in [("x", LogQuery::LINES_KEPT - 1), (&"y".repeat(10_000), 100)] {
            let log = AttemptLog::new();
            (0..LogQuery::LINES_KEPT + 100).for_each(|_| log.push(line(text)));
            let mut lines = log.take();
            let kept = lines.len();
            assert!(kept >= at_least, "{kept}");
            lines.extend(log.finish(Timestamp::ZERO));
            let dropped = LogQuery::LINES_KEPT + 100 - kept;
            assert!(
                lines
                    .last()
                    .unwrap()
                    .message
                    .starts_with(&format!("{dropped} more lines"))
            );
            assert!(lines.len() <= LogQuery::LINES_KEPT);
            assert!(lines.iter().map(LogLine::weight).sum::<usize>() <= LogQuery::BYTES_KEPT);
            log.push(line("too late"));
            assert!(!log.has_pending() && log.finish(Timestamp::ZERO).is_empty());
        }
    }

    #[test]
    fn a_line_is_cut_to_its_bound() {
        let mut long = line(&"\u{1f600}".repeat(10_000));
        long.fields = (0..100)
            .map(|n| (format!("f{n}").into(), "z".repeat(1000).into()))
            .collect();
        let log = AttemptLog::new();
        log.push(long);
        let line = log.take().remove(0);
        assert!(line.weight() <= AttemptLog::LINE_BYTES && line.weight() > AttemptLog::LINE_BYTES / 2);
        assert!(!line.message.is_empty() && !line.fields.is_empty());

        let mut one_field = line_of_fields("z", 20_000);
        cut_line(&mut one_field);
        assert_eq!(one_field.weight(), AttemptLog::LINE_BYTES, "as much of it as fits");
        let mut fits = line_of_fields("z", 10_000);
        cut_line(&mut fits);
        assert_eq!(fits, line_of_fields("z", 10_000));
    }

    #[test]
    fn what_could_not_be_stored_stays_in_order() {
        let log = AttemptLog::new();
        log.push(line("1"));
        let taken = log.take();
        log.push(line("2"));
        log.put_back(taken);
        let texts: Vec<_> = log.take().iter().map(|line| line.message.to_string()).collect();
        assert_eq!(texts, ["1", "2"]);
    }
}
