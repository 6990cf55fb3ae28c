//! Header values that are made together, as parts of one text whose allocation they share: with each other, and with the
//! document that they stand above.

use std::{
    io::{self, Write},
    ops::Range,
};

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
pub(crate) struct Values<T> {
    text: T,
    /// Where the values begin, behind the document.
    start: usize,
}

impl<const ROOM: usize> Values<Short<ROOM>> {
    /// None yet, and room for this many bytes.
    pub(crate) const fn short() -> Self {
        Self {
            text: Short {
                bytes: [0; ROOM],
                length: 0,
            },
            start: 0,
        }
    }
}

impl Values<Vec<u8>> {
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
}

impl<T: Write + AsRef<[u8]> + Into<Bytes>> Values<T> {
    /// Another value: these parts, one after the other.
    pub(crate) fn add(&mut self, parts: &[&str]) -> Range<usize> {
        self.write(|text| parts.iter().try_for_each(|part| text.write_all(part.as_bytes())))
    }

    /// Another value: a number.
    pub(crate) fn add_number(&mut self, number: impl Into<u64>) -> Range<usize> {
        self.write(|text| {
            json::number(text, number.into());
            Ok(())
        })
    }

    fn write(&mut self, write: impl FnOnce(&mut T) -> io::Result<()>) -> Range<usize> {
        let start = self.text.as_ref().len();
        write(&mut self.text).expect("there is room for the longest values");
        start..self.text.as_ref().len()
    }

    /// The document, and what takes each value out: `None` where the text is none that a header may have.
    pub(crate) fn finish(self) -> (Bytes, impl Fn(Range<usize>) -> Option<HeaderValue>) {
        let text: Bytes = self.text.into();
        let document = text.slice(..self.start);
        (document, move |part| {
            HeaderValue::from_maybe_shared(text.slice(part)).ok()
        })
    }
}

/// A text with a bound: one allocation holds it and the count of those who share it, which for a `Vec` are two.
pub(crate) struct Short<const ROOM: usize> {
    bytes: [u8; ROOM],
    length: usize,
}

impl<const ROOM: usize> Write for Short<ROOM> {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        let written = (&mut self.bytes[self.length..]).write(text)?;
        self.length += written;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<const ROOM: usize> AsRef<[u8]> for Short<ROOM> {
    fn as_ref(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

impl<const ROOM: usize> From<Short<ROOM>> for Bytes {
    fn from(text: Short<ROOM>) -> Self {
        Self::from_owner(text)
    }
}
