//! How much log an attempt has written, and how much more is kept of it.

use crate::{
    store::LogQuery,
    task::{LogLine, TaskRecord},
    time::Timestamp,
};

/// Counts the lines of one attempt at a time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::store) struct LogMeter {
    /// Generation and number of the attempt that the rest is of.
    pub(in crate::store) attempt: (u32, u32),
    pub(in crate::store) lines: usize,
    pub(in crate::store) bytes: usize,
    pub(in crate::store) full: bool,
}

impl LogMeter {
    /// What is kept of `lines`, numbered on from `last`. The line that meets the bound is replaced by one that says so.
    pub(in crate::store) fn admit(
        &mut self,
        record: &TaskRecord,
        lines: Vec<LogLine>,
        mut last: u64,
        now: Timestamp,
    ) -> Vec<LogLine> {
        let attempt = (record.generation, record.attempt);
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
            line.attempt = record.attempt;
            kept.push(line);
        }
        kept
    }
}

const DROPPED: &str = "the log of this attempt reached its bound; later lines were dropped";
