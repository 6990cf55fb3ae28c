//! Writes JSON directly into the bytes that are sent.
//!
//! A document is sent with every 202. Its names and most of its texts never need escaping. A serializer that looks at
//! each of their bytes takes longer than everything else in accepting a task.

use std::{fmt::Display, io::Write, ops::Range};

/// The name of a member, with the punctuation around it. [`key!`] makes one.
#[derive(Clone, Copy)]
pub(crate) struct Key(pub(crate) &'static str);

/// A [`Key`] of a name that needs no escaping. One text, so that name and punctuation are copied at once.
macro_rules! key {
    ($name:literal) => {
        $crate::wire::json::Key(concat!(",\"", $name, "\":"))
    };
}
pub(crate) use key;

/// An object being written.
pub(crate) struct Object<'a> {
    out: &'a mut Vec<u8>,
    /// The position where it begins.
    opened: usize,
}

impl<'a> Object<'a> {
    /// Begins an object at the end of `out`.
    pub(crate) fn begin(out: &'a mut Vec<u8>) -> Self {
        let opened = out.len();
        Self { out, opened }
    }

    /// Writes a member whose value `write` writes as JSON.
    // Inlined into every caller, where the length of the key is known and its copy is a few moves.
    #[inline(always)]
    pub(crate) fn member(&mut self, key: Key, write: impl FnOnce(&mut Vec<u8>)) {
        self.out.extend_from_slice(key.0.as_bytes());
        write(self.out);
    }

    /// Writes a text that needs no escaping.
    #[inline(always)]
    pub(crate) fn plain(&mut self, key: Key, value: &str) {
        debug_assert!(is_plain(value.as_bytes()), "{value:?} needs escaping");
        self.member(key, |out| quote(out, value));
    }

    /// Writes a text, given in parts. Answers where it stands in the output.
    pub(crate) fn joined<const PARTS: usize>(&mut self, key: Key, parts: [&str; PARTS]) -> Range<usize> {
        let begun = self.out.len() + key.0.len() + 1;
        self.written(key, |out| {
            parts.iter().for_each(|part| out.extend_from_slice(part.as_bytes()));
        });
        begun..self.out.len() - 1
    }

    /// Writes a text that begins with the text at `start`, and goes on with `rest`, which needs no escaping.
    #[inline(always)]
    pub(crate) fn continued(&mut self, key: Key, start: &Range<usize>, rest: &'static str) {
        self.member(key, |out| {
            out.push(b'"');
            out.extend_from_within(start.clone());
            out.extend_from_slice(rest.as_bytes());
            out.push(b'"');
        });
    }

    /// Writes a text.
    #[inline(always)]
    pub(crate) fn text(&mut self, key: Key, value: &str) {
        self.member(key, |out| text(out, value));
    }

    /// Writes a text, or `null`.
    #[inline(always)]
    pub(crate) fn text_or_null(&mut self, key: Key, value: Option<&str>) {
        self.member(key, |out| match value {
            Some(value) => text(out, value),
            None => null(out),
        });
    }

    /// Writes a text, or no member if there is none.
    pub(crate) fn text_if_any(&mut self, key: Key, value: Option<&str>) {
        if let Some(value) = value {
            self.text(key, value);
        }
    }

    /// Writes `value` as it is displayed.
    pub(crate) fn shown(&mut self, key: Key, value: impl Display) {
        self.written(key, |out| write!(out, "{value}").expect("memory takes any text"));
    }

    /// Writes the text that `write` writes, and escapes it afterwards if necessary, which is rare.
    fn written(&mut self, key: Key, write: impl FnOnce(&mut Vec<u8>)) {
        self.member(key, |out| {
            out.push(b'"');
            let start = out.len();
            write(out);
            if is_plain(&out[start..]) {
                out.push(b'"');
            } else {
                let written = out.split_off(start);
                out.pop();
                text(out, &String::from_utf8_lossy(&written));
            }
        });
    }

    /// Writes a whole number.
    #[inline(always)]
    pub(crate) fn number(&mut self, key: Key, value: impl Into<u64>) {
        self.member(key, |out| number(out, value.into()));
    }

    /// Writes a whole number, or `null`.
    #[inline(always)]
    pub(crate) fn number_or_null(&mut self, key: Key, value: Option<u64>) {
        self.member(key, |out| match value {
            Some(value) => number(out, value),
            None => null(out),
        });
    }

    /// Writes true or false.
    pub(crate) fn truth(&mut self, key: Key, value: bool) {
        self.member(key, |out| {
            out.extend_from_slice(if value { b"true" } else { b"false" });
        });
    }

    /// Closes the object, and writes its opening brace over the comma of the first member, if there is one.
    pub(crate) fn end(self) {
        match self.out.get_mut(self.opened) {
            Some(comma) => *comma = b'{',
            None => self.out.push(b'{'),
        }
        self.out.push(b'}');
    }
}

/// Writes an array, each element by `write`.
pub(crate) fn array<T>(out: &mut Vec<u8>, items: impl IntoIterator<Item = T>, mut write: impl FnMut(&mut Vec<u8>, T)) {
    out.push(b'[');
    for (index, item) in items.into_iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        write(out, item);
    }
    out.push(b']');
}

/// Writes a text, escaped if necessary.
pub(crate) fn text(out: &mut Vec<u8>, value: &str) {
    if is_plain(value.as_bytes()) {
        quote(out, value);
    } else {
        serde_json::to_writer(out, value).expect("memory takes any text");
    }
}

/// Writes a whole number.
pub(crate) fn number(mut out: impl Write, value: u64) {
    // Most numbers in a document are counters with one digit.
    let written = match value {
        0..10 => out.write_all(&[b'0' + value as u8]),
        _ => serde_json::to_writer(out, &value).map_err(Into::into),
    };
    written.expect("memory takes any number");
}

fn quote(out: &mut Vec<u8>, plain: &str) {
    out.push(b'"');
    out.extend_from_slice(plain.as_bytes());
    out.push(b'"');
}

fn null(out: &mut Vec<u8>) {
    out.extend_from_slice(b"null");
}

fn is_plain(text: &[u8]) -> bool {
    // Folds, without an early return, and of a fixed length, so that the compiler can check many bytes at once.
    fn all(bytes: &[u8]) -> bool {
        bytes.iter().fold(true, |plain, byte| {
            plain & (*byte >= b' ') & (*byte != b'"') & (*byte != b'\\')
        })
    }
    let (chunks, rest) = text.as_chunks::<8>();
    chunks.iter().fold(true, |plain, chunk| plain & all(chunk)) & all(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_reads_back_the_same() {
        for value in [
            "",
            "plain",
            "a \"quote\"",
            "back\\slash",
            "tab\tnewline\n\u{1}",
            "hü\u{7f}\u{1f600}",
        ] {
            let mut out = Vec::new();
            let mut object = Object::begin(&mut out);
            object.text(key!("text"), value);
            object.shown(key!("shown"), value);
            let start = object.joined(key!("joined"), [value, "\"", value]);
            object.continued(key!("continued"), &start, "/rest");
            object.member(key!("members"), |out| {
                let mut within = Object::begin(out);
                within.text(key!("within"), value);
                within.end();
            });
            object.end();
            let read: serde_json::Value = serde_json::from_slice(&out).unwrap();
            assert_eq!((&read["text"], &read["shown"]), (&value.into(), &value.into()));
            assert_eq!(read["joined"], format!("{value}\"{value}"));
            assert_eq!(read["continued"], format!("{value}\"{value}/rest"));
            assert_eq!(read["members"]["within"], value);
        }
    }

    #[test]
    fn numbers_are_written_to_their_last_digit() {
        for value in [0, 7, 10, 1_700_000_000_000, u64::MAX] {
            let mut out = Vec::new();
            number(&mut out, value);
            assert_eq!(out, value.to_string().into_bytes());
        }
    }
}
