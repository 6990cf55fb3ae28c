//! The log of one task, held in memory.

use crate::{
    store::{LogQuery, Row, kit::LogMeter},
    task::{DecodeError, LogLine},
    time::Timestamp,
};

/// Lines in order, with a bound for each attempt.
///
/// # Examples
///
/// ```
/// # use bytes::Bytes;
/// # use http::{HeaderMap, Method, Uri};
/// use tower_respond_async::{
///     store::{LogQuery, kit::Log},
///     task::{FenceToken, LogLine},
///     time::Timestamp,
/// };
/// # use tower_respond_async::{store::NewRow, task::{CapturedRequest, NewTask, RequestId, TaskRecord}};
///
/// # let request = CapturedRequest::new(Method::GET, Uri::from_static("/"), HeaderMap::new(), Bytes::new());
/// # let task = NewTask::new(RequestId::from_bytes([7; 16]), request.into());
/// let now = Timestamp::from_millis(1_000);
/// # let new = NewRow::new(TaskRecord::accepted(&task, now).into(), task.request.to_payload());
/// let row = new.row(FenceToken::NONE, now);
/// let mut log = Log::default();
/// let line = |message| LogLine::new(now, "INFO", "app", message);
/// log.append(&row, vec![line("one"), line("two")], now);
/// assert_eq!(log.last(), 2);
///
/// let log = Log::decode(&log.encode())?;
/// assert_eq!(log.query(LogQuery::default().after(1)).len(), 1);
/// # Ok::<_, tower_respond_async::task::DecodeError>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Log {
    lines: Vec<LogLine>,
    weight: usize,
    meter: LogMeter,
}

impl Log {
    /// About how many bytes of memory it takes.
    #[must_use]
    pub const fn weight(&self) -> usize {
        self.weight
    }

    /// Adds the lines that the holder of `row` sends now, as far as the bound allows.
    pub fn append(&mut self, row: &Row, lines: Vec<LogLine>, now: Timestamp) {
        let kept = self.meter.admit(row, lines, self.last(), now);
        self.weight += kept.iter().map(LogLine::weight).sum::<usize>();
        self.lines.extend(kept);
    }

    /// The number of its last line, 0 if there is none.
    #[must_use]
    pub fn last(&self) -> u64 {
        self.lines.last().map_or(0, |last| last.seq)
    }

    /// The lines that `query` selects.
    #[must_use]
    pub fn query(&self, query: LogQuery) -> Vec<LogLine> {
        let start = self.lines.partition_point(|line| line.seq <= query.after);
        let of_attempt = |line: &&LogLine| query.attempt.is_none_or(|attempt| line.attempt == attempt);
        let asked_for = self.lines[start..].iter().filter(of_attempt).take(query.limit);
        asked_for.cloned().collect()
    }

    /// Writes the whole log.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        self.meter.encode(&self.lines)
    }

    /// Reads what [`encode`](Self::encode) wrote.
    ///
    /// # Errors
    ///
    /// As for [`LogLine::decode`].
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let (meter, lines) = LogMeter::decode(bytes)?;
        let lines = LogMeter::decode_lines(lines)?;
        Ok(Self {
            weight: lines.iter().map(LogLine::weight).sum(),
            lines,
            meter,
        })
    }
}
