//! [`Unknown`]: fields that a newer build wrote, kept by a build that does not know them.

use std::sync::Arc;

use super::{
    basics::{Reader, Writer},
    tag,
};

/// Whole fields as they were read, in the order of their tags.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Unknown(Option<Arc<[u8]>>);

impl Unknown {
    pub(super) fn new(fields: Vec<u8>) -> Self {
        Self((!fields.is_empty()).then(|| fields.into()))
    }

    /// Returns a writer of the known fields, which writes these between them.
    pub(super) fn between(&self, out: Writer) -> Fields<'_> {
        Fields {
            out,
            unknown: self.0.as_deref().unwrap_or_default(),
        }
    }
}

/// Writes the fields of a record.
pub(super) struct Fields<'a> {
    out: Writer,
    /// The unknown fields that are not written yet.
    unknown: &'a [u8],
}

impl Fields<'_> {
    /// Writes a field, if there is a value. Call this in the order of the tags.
    pub(super) fn maybe<T>(&mut self, tag: u64, value: Option<T>, write: impl FnOnce(&mut Writer, T)) {
        if let Some(value) = value {
            self.unknown_before(tag);
            self.out.number(tag);
            self.out.inner(|out| write(out, value));
        }
    }

    /// Writes a list, unless it is empty.
    pub(super) fn list<T>(&mut self, tag: u64, items: &[T], mut write: impl FnMut(&mut Writer, &T)) {
        self.maybe(tag, (!items.is_empty()).then_some(items), |out, items| {
            out.number(items.len() as u64);
            for item in items {
                write(out, item);
            }
        });
    }

    fn unknown_before(&mut self, tag: u64) {
        while !self.unknown.is_empty() {
            let mut field = Reader::at(self.unknown);
            let read = field.number().and_then(|found| field.inner().map(|_| found));
            if read.expect("it was read before it was kept") >= tag {
                return;
            }
            let (first, rest) = self.unknown.split_at(self.unknown.len() - field.rest().len());
            self.out.put(first);
            self.unknown = rest;
        }
    }

    pub(super) fn end(mut self) -> Vec<u8> {
        self.out.put(self.unknown);
        self.out.number(tag::END);
        self.out.finish()
    }
}
