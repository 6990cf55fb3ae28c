//! Numbers, texts and times as bytes.

use std::{str, time::Duration};

use crate::{task::DecodeError, time::Timestamp};

const TOO_SHORT: DecodeError = DecodeError::Malformed("it ends too early");
const BAD_NUMBER: DecodeError = DecodeError::Malformed("a number");
const BAD_TEXT: DecodeError = DecodeError::Malformed("a text");

pub(super) struct Writer(Vec<u8>);

impl Writer {
    pub(super) fn new(format: u8, kind: u8, capacity: usize) -> Self {
        let mut out = Vec::with_capacity(capacity);
        out.extend_from_slice(&[format, kind]);
        Self(out)
    }

    pub(super) fn finish(self) -> Vec<u8> {
        self.0
    }

    pub(super) fn put(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    pub(super) fn byte(&mut self, byte: u8) {
        self.0.push(byte);
    }

    pub(super) fn number(&mut self, mut number: u64) {
        while number >= 0x80 {
            self.byte(number as u8 | 0x80);
            number >>= 7;
        }
        self.byte(number as u8);
    }

    /// Writes how much later than `base` the time is; an earlier one wraps around. Most take three bytes, none more
    /// than ten.
    pub(super) fn time(&mut self, time: Timestamp, base: Timestamp) {
        self.number(time.as_millis().wrapping_sub(base.as_millis()));
    }

    pub(super) fn duration(&mut self, duration: Duration) {
        self.number(duration.as_secs());
        self.number(duration.subsec_nanos().into());
    }

    pub(super) fn text(&mut self, text: &str) {
        self.number(text.len() as u64);
        self.put(text.as_bytes());
    }

    /// Writes a text behind its length plus one, or 0 for none.
    pub(super) fn maybe_text(&mut self, text: Option<&str>) {
        self.number(text.map_or(0, |text| text.len() as u64 + 1));
        self.put(text.unwrap_or("").as_bytes());
    }

    /// Writes what `write` writes, behind its length.
    pub(super) fn inner(&mut self, write: impl FnOnce(&mut Self)) {
        // Most values are so short that their length takes one byte. Longer ones are moved to make room.
        let at = self.0.len();
        self.byte(0);
        write(self);
        let length = self.0.len() - at - 1;
        match u8::try_from(length) {
            Ok(short) if short < 0x80 => self.0[at] = short,
            _ => {
                let end = self.0.len();
                self.number(length as u64);
                let more = self.0.len() - end;
                self.0[at..].rotate_right(more);
                // The placeholder is now behind the length.
                self.0.remove(at + more);
            }
        }
    }
}

pub(super) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// Reads format and kind. `newest` is the greatest format that is accepted.
    pub(super) fn new(bytes: &'a [u8], kind: u8, newest: u8) -> Result<Self, DecodeError> {
        let mut input = Self(bytes);
        match input.byte()? {
            0 => return Err(DecodeError::Malformed("format 0")),
            format if format > newest => return Err(DecodeError::Newer(format)),
            _ => {}
        }
        if input.byte()? != kind {
            return Err(DecodeError::Malformed("it is of another kind"));
        }
        Ok(input)
    }

    /// Reads from the middle of an encoding.
    pub(super) const fn at(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// The bytes that are not read yet.
    pub(super) const fn rest(&self) -> &'a [u8] {
        self.0
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let (array, rest) = self.0.split_first_chunk().ok_or(TOO_SHORT)?;
        self.0 = rest;
        Ok(*array)
    }

    pub(super) fn byte(&mut self) -> Result<u8, DecodeError> {
        self.array().map(|[byte]| byte)
    }

    pub(super) fn number(&mut self) -> Result<u64, DecodeError> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            if bits << shift >> shift != bits {
                break;
            }
            number |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(number);
            }
        }
        Err(BAD_NUMBER)
    }

    pub(super) fn small(&mut self) -> Result<u32, DecodeError> {
        self.number()?.try_into().map_err(|_| BAD_NUMBER)
    }

    pub(super) fn instant(&mut self) -> Result<Timestamp, DecodeError> {
        self.number().map(Timestamp::from_millis)
    }

    pub(super) fn time(&mut self, base: Timestamp) -> Result<Timestamp, DecodeError> {
        let later = self.number()?;
        Ok(Timestamp::from_millis(base.as_millis().wrapping_add(later)))
    }

    pub(super) fn duration(&mut self) -> Result<Duration, DecodeError> {
        let (seconds, nanos) = (self.number()?, self.small()?);
        match nanos < 1_000_000_000 {
            true => Ok(Duration::new(seconds, nanos)),
            false => Err(DecodeError::Malformed("a duration")),
        }
    }

    pub(super) fn take(&mut self, length: u64) -> Result<&'a [u8], DecodeError> {
        let length = usize::try_from(length).map_err(|_| TOO_SHORT)?;
        let (taken, rest) = self.0.split_at_checked(length).ok_or(TOO_SHORT)?;
        self.0 = rest;
        Ok(taken)
    }

    /// Reads a length, and returns a reader of that many bytes.
    pub(super) fn inner(&mut self) -> Result<Self, DecodeError> {
        let length = self.number()?;
        self.take(length).map(Self)
    }

    pub(super) fn text(&mut self) -> Result<&'a str, DecodeError> {
        self.inner()?.whole_text()
    }

    /// All remaining bytes as text.
    pub(super) fn whole_text(&mut self) -> Result<&'a str, DecodeError> {
        str::from_utf8(std::mem::take(&mut self.0)).map_err(|_| BAD_TEXT)
    }

    /// Reads what [`Writer::maybe_text`] wrote.
    pub(super) fn maybe_text(&mut self) -> Result<Option<&'a str>, DecodeError> {
        match self.number()?.checked_sub(1) {
            Some(length) => Self(self.take(length)?).whole_text().map(Some),
            None => Ok(None),
        }
    }

    pub(super) fn list<T>(
        &mut self,
        mut item: impl FnMut(&mut Self) -> Result<T, DecodeError>,
    ) -> Result<Vec<T>, DecodeError> {
        let count = self.number()?;
        // Each item takes at least a byte. The count is not verified yet, so a longer list grows as it is read.
        if count > self.0.len() as u64 {
            return Err(TOO_SHORT);
        }
        let mut list = Vec::with_capacity(count.min(16) as usize);
        for _ in 0..count {
            list.push(item(self)?);
        }
        Ok(list)
    }

    pub(super) fn end(self) -> Result<(), DecodeError> {
        match self.0.is_empty() {
            true => Ok(()),
            false => Err(DecodeError::Malformed("it goes on after its end")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_is_within_stands_behind_its_length() {
        for length in [0, 1, 127, 128, 129, 16_383, 16_384, 100_000] {
            let mut out = Writer::new(1, b'x', 0);
            let within: Vec<u8> = (0..length).map(|number: u32| number as u8).collect();
            out.inner(|out| out.put(&within));
            out.byte(7);
            let bytes = out.finish();
            let mut input = Reader::new(&bytes, b'x', 1).unwrap();
            assert_eq!(input.inner().unwrap().rest(), within);
            assert_eq!(input.byte(), Ok(7));
            assert_eq!(input.end(), Ok(()));
        }
    }
}
