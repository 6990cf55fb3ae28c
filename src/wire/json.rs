//! Writes JSON directly into the bytes that are sent.
//!
//! A document is sent with every 202. Its names and most of its texts never need escaping. A serializer that looks at
//! each of their bytes takes longer than everything else in accepting a task.

use std::{fmt::Display, io::Write};

/// An object being written. Its names are constants that need no escaping.
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
    // Inlined into every caller, where the length of the name is known and its copy is a few moves.
    #[inline(always)]
    pub(crate) fn member(&mut self, name: &'static str, write: impl FnOnce(&mut Vec<u8>)) {
        self.out.extend_from_slice(b",\"");
        self.out.extend_from_slice(name.as_bytes());
        self.out.extend_from_slice(b"\":");
        write(self.out);
    }

    /// Writes a text that needs no escaping.
    #[inline(always)]
    pub(crate) fn plain(&mut self, name: &'static str, value: &str) {
        debug_assert!(is_plain(value.as_bytes()), "{value:?} needs escaping");
        self.member(name, |out| quote(out, value));
    }

    /// Writes a text, given in parts.
    #[inline(always)]
    pub(crate) fn joined<const PARTS: usize>(&mut self, name: &'static str, parts: [&str; PARTS]) {
        self.written(name, |out| {
            parts.iter().for_each(|part| out.extend_from_slice(part.as_bytes()));
        });
    }

    /// Writes a text.
    #[inline(always)]
    pub(crate) fn text(&mut self, name: &'static str, value: &str) {
        self.member(name, |out| text(out, value));
    }

    /// Writes a text, or `null`.
    #[inline(always)]
    pub(crate) fn text_or_null(&mut self, name: &'static str, value: Option<&str>) {
        self.member(name, |out| match value {
            Some(value) => text(out, value),
            None => null(out),
        });
    }

    /// Writes a text, or no member if there is none.
    pub(crate) fn text_if_any(&mut self, name: &'static str, value: Option<&str>) {
        if let Some(value) = value {
            self.text(name, value);
        }
    }

    /// Writes `value` as it is displayed.
    pub(crate) fn shown(&mut self, name: &'static str, value: impl Display) {
        self.written(name, |out| write!(out, "{value}").expect("memory takes any text"));
    }

    /// Writes the text that `write` writes, and escapes it afterwards if necessary, which is rare.
    fn written(&mut self, name: &'static str, write: impl FnOnce(&mut Vec<u8>)) {
        self.member(name, |out| {
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
    pub(crate) fn number(&mut self, name: &'static str, value: impl Into<u64>) {
        self.member(name, |out| number(out, value.into()));
    }

    /// Writes a whole number, or `null`.
    #[inline(always)]
    pub(crate) fn number_or_null(&mut self, name: &'static str, value: Option<u64>) {
        self.member(name, |out| match value {
            Some(value) => number(out, value),
            None => null(out),
        });
    }

    /// Writes true or false.
    pub(crate) fn truth(&mut self, name: &'static str, value: bool) {
        self.member(name, |out| {
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
pub(crate) fn number(out: impl Write, value: u64) {
    serde_json::to_writer(out, &value).expect("memory takes any number");
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
    // A fold, without an early return, so that the compiler can check many bytes at once.
    text.iter().fold(true, |plain, byte| {
        plain & (*byte >= b' ') & (*byte != b'"') & (*byte != b'\\')
    })
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
            object.text("text", value);
            object.shown("shown", value);
            object.joined("joined", [value, "\"", value]);
            object.member("members", |out| {
                let mut within = Object::begin(out);
                within.text("within", value);
                within.end();
            });
            object.end();
            let read: serde_json::Value = serde_json::from_slice(&out).unwrap();
            assert_eq!((&read["text"], &read["shown"]), (&value.into(), &value.into()));
            assert_eq!(read["joined"], format!("{value}\"{value}"));
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
