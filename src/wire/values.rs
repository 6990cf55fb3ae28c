//! Header values that are made together, as parts of one text whose allocation they share: with each other, and with the
//! document that they stand above.

use std::ops::Range;

use bytes::Bytes;
use http::HeaderValue;

use crate::wire::json;

/// A number that is mostly below ten, and then costs nothing.
pub(crate) fn small_number(number: u32) -> HeaderValue {
    const DIGITS: [&str; 10] = ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"];
    match DIGITS.get(number as usize) {
        Some(digit) => HeaderValue::from_static(digit),
        None => number.into(),
    }
}

/// Header values being made: first the text of all, then each value out of it.
pub(crate) struct Values {
    text: Vec<u8>,
    /// Where the values begin, behind the document.
    start: usize,
}

impl Values {
    /// None yet, and room for this many bytes.
    pub(crate) fn with_capacity(bytes: usize) -> Self {
        Self::of(Vec::with_capacity(bytes))
    }

    /// None yet, for the head of the message with this body.
    pub(crate) const fn of(document: Vec<u8>) -> Self {
        Self {
            start: document.len(),
            text: document,
        }
    }

    /// Makes room for this many bytes more.
    pub(crate) fn reserve(&mut self, bytes: usize) {
        self.text.reserve(bytes);
    }

    /// Another value: these parts, one after the other.
    pub(crate) fn add(&mut self, parts: &[&str]) -> Range<usize> {
        let start = self.text.len();
        for part in parts {
            self.text.extend_from_slice(part.as_bytes());
        }
        start..self.text.len()
    }

    /// Another value: a number.
    pub(crate) fn add_number(&mut self, number: impl Into<u64>) -> Range<usize> {
        let start = self.text.len();
        json::number(&mut self.text, number.into());
        start..self.text.len()
    }

    /// The document, and what takes each value out: `None` where the text is none that a header may have.
    pub(crate) fn finish(self) -> (Bytes, impl Fn(Range<usize>) -> Option<HeaderValue>) {
        let text = Bytes::from(self.text);
        let document = text.slice(..self.start);
        (document, move |part| {
            HeaderValue::from_maybe_shared(text.slice(part)).ok()
        })
    }
}
