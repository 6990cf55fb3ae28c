//! How much log of an attempt is kept.

use crate::{
    store::{LogQuery, Row},
    task::{DecodeError, LogLine},
    time::Timestamp,
};

/// Counts the log lines of one attempt at a time.
///
/// # Examples
///
/// ```
/// # use bytes::Bytes;
/// # use http::{HeaderMap, Method, Uri};
/// use tower_respond_async::{
///     store::{LogQuery, kit::LogMeter},
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
/// let mut meter = LogMeter::default();
/// let lines = vec![LogLine::new(now, "INFO", "app", "still there"); LogQuery::LINES_KEPT + 10];
/// let kept = meter.admit(&row, lines, 0, now);
/// assert_eq!(kept.len(), LogQuery::LINES_KEPT + 1, "the last line says that lines were dropped");
/// assert!(meter.full);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct LogMeter {
    /// The generation and number of the attempt that is counted.
    pub attempt: (u32, u32),
    /// How many of its lines are kept.
    pub lines: usize,
    /// How many bytes these lines take.
    pub bytes: usize,
    /// Whether the bound was reached, and a line says so.
    pub full: bool,
}

impl LogMeter {
    /// The lines to keep of `lines`, with numbers that continue from `last`. The first line beyond the bound is
    /// replaced by a line that says so.
    pub fn admit(&mut self, row: &Row, lines: Vec<LogLine>, mut last: u64, now: Timestamp) -> Vec<LogLine> {
        let number = row.attempt();
        let attempt = (row.record.generation, number);
        if self.attempt != attempt {
            *self = Self {
                attempt,
                ..Self::default()
            };
        }
        let mut kept = Vec::with_capacity(lines.len());
        for mut line in lines {
            if self.full {
                break;
            }
            let bytes = self.bytes + line.weight();
            if self.lines == LogQuery::LINES_KEPT || bytes > LogQuery::BYTES_KEPT {
                self.full = true;
                line = LogLine::new(now, "WARN", env!("CARGO_CRATE_NAME"), DROPPED);
            } else {
                self.lines += 1;
                self.bytes = bytes;
            }
            last += 1;
            line.seq = last;
            line.attempt = number;
            kept.push(line);
        }
        kept
    }
}

impl LogMeter {
    /// Writes the meter, in its state after `lines`, and then the lines.
    #[must_use]
    pub fn encode(&self, lines: &[LogLine]) -> Vec<u8> {
        let mut out = Vec::with_capacity(64 + lines.iter().map(|line| line.weight() + 32).sum::<usize>());
        for number in [
            self.attempt.0,
            self.attempt.1,
            self.lines as u32,
            self.bytes as u32,
            self.full.into(),
        ] {
            out.extend_from_slice(&number.to_be_bytes());
        }
        for line in lines {
            let line = line.encode();
            out.extend_from_slice(&(line.len() as u32).to_be_bytes());
            out.extend_from_slice(&line);
        }
        out
    }

    /// Reads a meter, and returns the bytes behind it, which are the [lines](Self::decode_lines).
    ///
    /// # Errors
    ///
    /// [`DecodeError::Malformed`] if the bytes are too short for a meter.
    pub fn decode(bytes: &[u8]) -> Result<(Self, &[u8]), DecodeError> {
        let mut rest = bytes;
        let meter = Self {
            attempt: (number(&mut rest)?, number(&mut rest)?),
            lines: number(&mut rest)? as usize,
            bytes: number(&mut rest)? as usize,
            full: number(&mut rest)? != 0,
        };
        Ok((meter, rest))
    }

    /// Reads the lines behind a meter.
    ///
    /// # Errors
    ///
    /// As for [`LogLine::decode`].
    pub fn decode_lines(bytes: &[u8]) -> Result<Vec<LogLine>, DecodeError> {
        let mut rest = bytes;
        let mut lines = Vec::new();
        while !rest.is_empty() {
            let length = number(&mut rest)? as usize;
            let (line, behind) = rest.split_at_checked(length).ok_or(TOO_SHORT)?;
            lines.push(LogLine::decode(line)?);
            rest = behind;
        }
        Ok(lines)
    }
}

const TOO_SHORT: DecodeError = DecodeError::Malformed("it ends too early");

fn number(bytes: &mut &[u8]) -> Result<u32, DecodeError> {
    let (number, rest) = bytes.split_first_chunk().ok_or(TOO_SHORT)?;
    *bytes = rest;
    Ok(u32::from_be_bytes(*number))
}

const DROPPED: &str = "the log of this attempt reached its bound; later lines were dropped";
