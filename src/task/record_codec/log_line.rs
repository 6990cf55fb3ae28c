//! Log lines as bytes. A line never changes once it is written, so no build has to keep fields that it does not know.
//! Each build reads the versions that it knows, and leaves later ones to newer builds.

use super::{
    KIND_LINE,
    basics::{Reader, Writer},
};
use crate::{
    task::{DecodeError, LogLine},
    time::Timestamp,
};

const VERSION: u8 = 1;

impl LogLine {
    /// The line as bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Writer::new(VERSION, KIND_LINE, self.weight() + 32);
        out.number(self.seq);
        out.time(self.at, Timestamp::ZERO);
        out.number(self.attempt.into());
        for text in [&self.level, &self.target, &self.message] {
            out.text(text);
        }
        out.number(self.fields.len() as u64);
        for (name, value) in &self.fields {
            out.text(name);
            out.text(value);
        }
        out.finish()
    }

    /// Reads what [`encode`](Self::encode) wrote, by this build or an older one.
    ///
    /// # Errors
    ///
    /// [`DecodeError::Newer`] for a later version: leave the line to a newer build. [`DecodeError::Malformed`] for
    /// anything else that is wrong: set it aside.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut input = Reader::new(bytes, KIND_LINE, VERSION)?;
        let line = Self {
            seq: input.number()?,
            at: input.instant()?,
            attempt: input.small()?,
            level: input.text()?.into(),
            target: input.text()?.into(),
            message: input.text()?.into(),
            fields: input.list(|input| Ok((input.text()?.into(), input.text()?.into())))?,
        };
        input.end()?;
        Ok(line)
    }
}
