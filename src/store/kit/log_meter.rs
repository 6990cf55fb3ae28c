//! How much log an attempt has written, and how much more is kept of it.

use crate::{
    store::{LogQuery, Row},
    task::LogLine,
    time::Timestamp,
};

/// Counts the lines of one attempt at a time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogMeter {
    /// Generation and number of the attempt that the rest is of.
    pub attempt: (u32, u32),
    /// How many lines.
    pub lines: usize,
    /// How many bytes.
    pub bytes: usize,
    /// Whether the bound was met, and that was said.
    pub full: bool,
}

impl LogMeter {
    /// What is kept of `lines`, numbered on from `last`. The line that meets the bound is replaced by one that says so.
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

const DROPPED: &str = "the log of this attempt reached its bound; later lines were dropped";
