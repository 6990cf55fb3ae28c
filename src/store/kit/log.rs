//! The log of one task, all of it in memory.

use crate::{
    store::{LogQuery, Row, kit::LogMeter},
    task::{DecodeError, LogLine},
    time::Timestamp,
};

/// Lines in order, bounded for each attempt.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Log {
    lines: Vec<LogLine>,
    weight: usize,
    meter: LogMeter,
}

impl Log {
    /// About how many bytes it takes to keep.
    #[must_use]
    pub const fn weight(&self) -> usize {
        self.weight
    }

    /// Adds what is kept of lines that the holder of a row sends now.
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

    /// The lines that are asked for.
    #[must_use]
    pub fn query(&self, query: LogQuery) -> Vec<LogLine> {
        let start = self.lines.partition_point(|line| line.seq <= query.after);
        let of_attempt = |line: &&LogLine| query.attempt.is_none_or(|attempt| line.attempt == attempt);
        let asked_for = self.lines[start..].iter().filter(of_attempt).take(query.limit);
        asked_for.cloned().collect()
    }

    /// Writes all of it.
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
