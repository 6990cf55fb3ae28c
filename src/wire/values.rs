//! Header values that are made together, as parts of one text whose allocation they share.

use std::ops::Range;

use bytes::Bytes;
use http::HeaderValue;

use crate::wire::json;

/// Header values being made: first the text of all, then each value out of it.
pub(crate) struct Values(Vec<u8>);

impl Values {
    /// None yet, and room for this many bytes.
    pub(crate) fn with_capacity(bytes: usize) -> Self {
        Self(Vec::with_capacity(bytes))
    }

    /// Another value: these parts, one after the other.
    pub(crate) fn add(&mut self, parts: &[&str]) -> Range<usize> {
        let start = self.0.len();
        for part in parts {
            self.0.extend_from_slice(part.as_bytes());
        }
        start..self.0.len()
    }

    /// Another value: a number.
    pub(crate) fn add_number(&mut self, number: impl Into<u64>) -> Range<usize> {
        let start = self.0.len();
        json::number(&mut self.0, number.into());
        start..self.0.len()
    }

    /// What takes each value out. `None` where the text is none that a header may have.
    pub(crate) fn finish(self) -> impl Fn(Range<usize>) -> Option<HeaderValue> {
        let text = Bytes::from(self.0);
        move |part| HeaderValue::from_maybe_shared(text.slice(part)).ok()
    }
}
