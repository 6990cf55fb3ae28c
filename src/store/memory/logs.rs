//! The log of one task.

use crate::{
    store::{LogQuery, Row, kit::LogMeter},
    task::LogLine,
    time::Timestamp,
};

/// Lines in order, bounded for each attempt.
#[derive(Debug, Default)]
pub(super) struct Logs {
    lines: Vec<LogLine>,
    weight: usize,
    meter: LogMeter,
}

impl Logs {
    pub(super) const fn weight(&self) -> usize {
        self.weight
    }

    pub(super) fn append(&mut self, row: &Row, lines: Vec<LogLine>, now: Timestamp) {
        let last = self.lines.last().map_or(0, |last| last.seq);
        let kept = self.meter.admit(row, lines, last, now);
        self.weight += kept.iter().map(LogLine::weight).sum::<usize>();
        self.lines.extend(kept);
    }

    pub(super) fn query(&self, query: LogQuery) -> Vec<LogLine> {
        let start = self.lines.partition_point(|line| line.seq <= query.after);
        let of_attempt = |line: &&LogLine| query.attempt.is_none_or(|attempt| line.attempt == attempt);
        self.lines[start..]
            .iter()
            .filter(of_attempt)
            .take(query.limit)
            .cloned()
            .collect()
    }
}
