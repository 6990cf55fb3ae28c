//! Header values that are made together, as parts of one text. They share its allocation with each other, and with the
//! document that they belong to.

use std::{
    io::{self, Write},
    ops::Range,
};

use bytes::Bytes;
use http::HeaderValue;

use crate::wire::json;

/// The value of a number that is mostly below ten. Such a number needs no allocation.
pub(crate) fn small_number(number: u32) -> HeaderValue {
    const DIGITS: [&str; 10] = ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"];
    match DIGITS.get(number as usize) {
        Some(digit) => HeaderValue::from_static(digit),
        None => number.into(),
    }
}

/// Header values in the making: first the text of all is written, then each value is taken out of it.
pub(crate) struct Values<T> {
    text: T,
    /// Where the values begin, behind the document.
    start: usize,
}

impl<const ROOM: usize> Values<Short<ROOM>> {
    /// No values yet, and room for `ROOM` bytes.
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
    /// No values yet, for the head of a message with this body.
    pub(crate) const fn of(document: Vec<u8>) -> Self {
        Self {
            start: document.len(),
            text: document,
        }
    }

    /// Makes room for this many more bytes.
    pub(crate) fn reserve(&mut self, bytes: usize) {
        self.text.reserve(bytes);
    }
}

impl<T: Write + AsRef<[u8]> + Into<Bytes>> Values<T> {
    /// Adds a value made of these parts.
    pub(crate) fn add(&mut self, parts: &[&str]) -> Range<usize> {
        self.write(|text| parts.iter().try_for_each(|part| text.write_all(part.as_bytes())))
    }

    /// Adds a value: a number.
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

    /// Returns the document, and a function that takes a value out. It returns `None` if the text is not a valid header
    /// value.
    pub(crate) fn finish(self) -> (Bytes, impl Fn(Range<usize>) -> Option<HeaderValue>) {
        let text: Bytes = self.text.into();
        let document = text.slice(..self.start);
        (document, move |part| {
            HeaderValue::from_maybe_shared(text.slice(part)).ok()
        })
    }
}

/// A bounded text. It needs one allocation for its bytes and the reference count of `Bytes`; a `Vec` needs two.
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
