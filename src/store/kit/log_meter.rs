//! How much log an attempt has written, and how much more is kept of it.

use crate::{
    store::{LogQuery, Row},
    task::{DecodeError, LogLine},
    time::Timestamp,
};

/// Counts the lines of one attempt at a time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
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

impl LogMeter {
    /// Writes the meter as it is behind these lines, and the lines.
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

    /// Reads a meter, and says which of the bytes are the [lines](Self::decode_lines) in front of it.
    ///
    /// # Errors
    ///
    /// [`DecodeError::Malformed`] if there is none.
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

    /// Reads lines.
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
