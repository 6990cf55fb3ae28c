//! JSON written as it is made, straight into the bytes that are sent.
//!
//! A document goes out with every 202. Its names and most of its texts are known to need no escaping, and a serializer
//! that looks at each of their bytes takes longer than all the rest of accepting a task.

use std::{fmt::Display, io::Write};

/// An object being written. Names are words of ours, which need no escaping.
pub(crate) struct Object<'a> {
    out: &'a mut Vec<u8>,
    /// Where it begins.
    opened: usize,
}

impl<'a> Object<'a> {
    /// Begins an object at the end of `out`.
    pub(crate) fn begin(out: &'a mut Vec<u8>) -> Self {
        let opened = out.len();
        Self { out, opened }
    }

    /// A member whose value is written by `write`, as JSON.
    // Into every caller, where the name's length is known and its copy is a few moves.
    #[inline(always)]
    pub(crate) fn member(&mut self, name: &'static str, write: impl FnOnce(&mut Vec<u8>)) {
        self.out.extend_from_slice(b",\"");
        self.out.extend_from_slice(name.as_bytes());
        self.out.extend_from_slice(b"\":");
        write(self.out);
    }

    /// A text that is known to need no escaping.
    #[inline(always)]
    pub(crate) fn plain(&mut self, name: &'static str, value: &str) {
        debug_assert!(is_plain(value.as_bytes()), "{value:?} needs escaping");
        self.member(name, |out| quote(out, value));
    }

    /// Any text, in parts.
    #[inline(always)]
    pub(crate) fn joined<const PARTS: usize>(&mut self, name: &'static str, parts: [&str; PARTS]) {
        self.written(name, |out| {
            parts.iter().for_each(|part| out.extend_from_slice(part.as_bytes()));
        });
    }

    /// Any text.
    #[inline(always)]
    pub(crate) fn text(&mut self, name: &'static str, value: &str) {
        self.member(name, |out| text(out, value));
    }

    /// Any text, or `null`.
    #[inline(always)]
    pub(crate) fn text_or_null(&mut self, name: &'static str, value: Option<&str>) {
        self.member(name, |out| match value {
            Some(value) => text(out, value),
            None => null(out),
        });
    }

    /// Any text; where there is none, the member is left out.
    pub(crate) fn text_if_any(&mut self, name: &'static str, value: Option<&str>) {
        if let Some(value) = value {
            self.text(name, value);
        }
    }

    /// What `value` displays as.
    pub(crate) fn shown(&mut self, name: &'static str, value: impl Display) {
        self.written(name, |out| write!(out, "{value}").expect("memory takes any text"));
    }

    /// The text that `write` writes, escaped afterwards if it must be: it seldom must.
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

    /// A whole number.
    #[inline(always)]
    pub(crate) fn number(&mut self, name: &'static str, value: impl Into<u64>) {
        self.member(name, |out| number(out, value.into()));
    }

    /// A whole number, or `null`.
    #[inline(always)]
    pub(crate) fn number_or_null(&mut self, name: &'static str, value: Option<u64>) {
        self.member(name, |out| match value {
            Some(value) => number(out, value),
            None => null(out),
        });
    }

    /// True or false.
    pub(crate) fn truth(&mut self, name: &'static str, value: bool) {
        self.member(name, |out| {
            out.extend_from_slice(if value { b"true" } else { b"false" });
        });
    }

    /// Closes the object, and opens it: where it begins stands a comma, if it has members.
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

/// Writes a text, escaped where it must be.
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
    // Folded, not stopped at the first: the compiler looks at many bytes at once then.
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
