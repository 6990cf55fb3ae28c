//! The log of one task.

use crate::{
    store::LogQuery,
    task::{LogLine, TaskRecord},
    time::Timestamp,
};

/// Lines in order, bounded for each attempt.
#[derive(Debug, Default)]
pub(super) struct Logs {
    lines: Vec<LogLine>,
    weight: usize,
    /// Generation and number of the attempt that the two counts are of.
    attempt: (u32, u32),
    attempt_lines: usize,
    attempt_bytes: usize,
    attempt_full: bool,
}

impl Logs {
    pub(super) const fn weight(&self) -> usize {
        self.weight
    }

    pub(super) fn append(&mut self, record: &TaskRecord, lines: Vec<LogLine>, now: Timestamp) {
        let attempt = (record.generation, record.attempt);
        if self.attempt != attempt {
            self.attempt = attempt;
            (self.attempt_lines, self.attempt_bytes, self.attempt_full) = (0, 0, false);
        }
        for line in lines {
            if self.attempt_full {
                return;
            }
            let bytes = self.attempt_bytes + line.weight();
            if self.attempt_lines == LogQuery::LINES_KEPT || bytes > LogQuery::BYTES_KEPT {
                self.attempt_full = true;
                self.push(LogLine::new(now, "WARN", env!("CARGO_CRATE_NAME"), DROPPED));
                return;
            }
            self.attempt_lines += 1;
            self.attempt_bytes = bytes;
            self.push(line);
        }
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

    fn push(&mut self, mut line: LogLine) {
        line.seq = self.lines.last().map_or(1, |last| last.seq + 1);
        line.attempt = self.attempt.1;
        self.weight += line.weight();
        self.lines.push(line);
    }
}

const DROPPED: &str = "the log of this attempt reached its bound; later lines were dropped";
