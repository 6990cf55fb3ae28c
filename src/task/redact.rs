//! Redaction: the secrets that no view shows. One rule for headers, query parameters and log fields, and for URLs in
//! any text.
//!
//! Redaction is for views only. The header policy decides what is stored. Bodies are data, and are not redacted.

mod name;
mod url;

use std::{
    borrow::Cow,
    collections::HashMap,
    fmt::{self, Write},
};

use http::{HeaderName, HeaderValue, Uri};

use self::{
    name::Folded,
    url::{Form, Part, Secret, may_hold_secrets, parts},
};
use crate::task::{RequestTarget, target};

/// The text that views show in place of a secret.
pub(crate) const REDACTED: &str = "REDACTED";

/// The names of secrets: the built-in words, and those that the operator adds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Secrets {
    added: Vec<Box<[u8]>>,
}

/// An edited text has [`REDACTED`] at a position where nothing is stored that could be put back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NothingStored {
    /// The name at that position.
    pub(crate) key: String,
}

impl Secrets {
    /// The built-in words only.
    pub(crate) const fn new() -> Self {
        Self { added: Vec::new() }
    }

    /// Adds a name. A name without letters and digits is ignored.
    pub(crate) fn add(&mut self, name: &str) {
        let folded = Folded::of(name);
        if !folded.as_bytes().is_empty() {
            self.added.push(folded.as_bytes().into());
        }
    }

    /// Whether a header or a log field of this name holds a secret.
    pub(crate) fn is_name(&self, name: &str) -> bool {
        let name = Folded::of(name);
        name.is_secret() || self.is_added(&name)
    }

    /// Whether a query parameter of this name holds a secret. The name is as written in the URI.
    fn is_query_key(&self, key: &str) -> bool {
        let key = Folded::of_query_key(key);
        key.is_secret_query_key() || self.is_added(&key)
    }

    fn is_added(&self, name: &Folded) -> bool {
        self.added.iter().any(|added| name.ends_with(added))
    }

    /// The URI without its secrets.
    pub(crate) fn uri<'a>(&'a self, uri: &'a Uri) -> RedactedUri<'a> {
        RedactedUri {
            secrets: self,
            parts: target::parts(uri),
        }
    }

    /// The target of a record without its secrets.
    pub(crate) fn target<'a>(&'a self, target: &'a RequestTarget) -> RedactedUri<'a> {
        RedactedUri {
            secrets: self,
            parts: target.parts(),
        }
    }

    /// The text without the secrets of the URLs in it.
    pub(crate) fn text<'a>(&self, text: &'a str) -> Cow<'a, str> {
        self.shown(text, Form::Text)
    }

    /// The URL without its secrets.
    pub(crate) fn url<'a>(&self, url: &'a str) -> Cow<'a, str> {
        self.shown(url, Form::Url)
    }

    /// The value of a log field or a label, without its secrets.
    pub(crate) fn value<'a>(&self, name: &str, value: &'a str) -> Cow<'a, str> {
        match self.is_name(name) {
            true => REDACTED.into(),
            false => self.shown(value, form(name)),
        }
    }

    /// The value of a header, without its secrets.
    pub(crate) fn header<'a>(&self, name: &HeaderName, value: &'a HeaderValue) -> Cow<'a, str> {
        if value.is_sensitive() || self.is_name(name.as_str()) {
            return REDACTED.into();
        }
        match String::from_utf8_lossy(value.as_bytes()) {
            Cow::Borrowed(text) => self.shown(text, form(name.as_str())),
            Cow::Owned(text) => self.shown(&text, form(name.as_str())).into_owned().into(),
        }
    }

    /// The value of a header, as it is sent to a receiver other than its sender. `None` if it is not sent.
    pub(crate) fn sent_header(&self, name: &HeaderName, value: &HeaderValue) -> Option<HeaderValue> {
        if value.is_sensitive() || self.is_name(name.as_str()) {
            return None;
        }
        let text = String::from_utf8_lossy(value.as_bytes());
        match self.shown(&text, form(name.as_str())) {
            shown if shown == text => Some(value.clone()),
            shown => HeaderValue::try_from(&*shown).ok(),
        }
    }

    fn shown<'a>(&self, text: &'a str, form: Form) -> Cow<'a, str> {
        if !may_hold_secrets(text) {
            return text.into();
        }
        let mut out = String::with_capacity(text.len());
        self.write(text, form, &mut out).expect("memory takes any text");
        match out == text {
            true => text.into(),
            false => out.into(),
        }
    }

    fn write(&self, text: &str, form: Form, out: &mut dyn Write) -> fmt::Result {
        let mut written = Ok(());
        parts(self, text, form, &mut |part| {
            let text = match part {
                Part::Plain(text) => text,
                Part::Secret(_) => REDACTED,
            };
            if written.is_ok() {
                written = out.write_str(text);
            }
        });
        written
    }

    /// The edited value of a header. What still reads [`REDACTED`] in it is put back from the `stored` value.
    pub(crate) fn restored_header(
        &self,
        name: &HeaderName,
        edited: &str,
        stored: Option<&HeaderValue>,
    ) -> Result<Restored, NothingStored> {
        // First, since the value may not be valid UTF-8.
        if let Some(stored) = stored.filter(|stored| self.header(name, stored) == edited) {
            return Ok(Restored::Untouched(stored.clone()));
        }
        if edited == REDACTED && self.is_name(name.as_str()) {
            return Err(NothingStored {
                key: name.as_str().to_owned(),
            });
        }
        let stored = stored.map(|stored| String::from_utf8_lossy(stored.as_bytes()));
        let stored = stored.as_deref().unwrap_or_default();
        self.restored(edited, stored, form(name.as_str())).map(Restored::Text)
    }

    /// An edited path and query. What still reads [`REDACTED`] in it is put back from the `stored` one.
    pub(crate) fn restored_target(&self, edited: &str, stored: &str) -> Result<String, NothingStored> {
        self.restored(edited, stored, Form::Url)
    }

    /// Puts the secrets of each position back, the first from the first of that position, and so on. Where nothing is
    /// stored for one, the text stays as it is, but it is an error if its name is that of a secret.
    fn restored(&self, edited: &str, stored: &str, form: Form) -> Result<String, NothingStored> {
        let mut kept: HashMap<_, Vec<&str>> = HashMap::new();
        parts(self, stored, form, &mut |part| {
            if let Part::Secret(Secret { position, value, .. }) = part {
                kept.entry(position).or_default().push(value);
            }
        });
        let mut seen = HashMap::new();
        let mut missing = None;
        let mut out = String::with_capacity(edited.len());
        parts(self, edited, form, &mut |part| match part {
            Part::Plain(text) => out.push_str(text),
            Part::Secret(Secret { position, value, named }) => {
                let stored = kept.get(&position);
                let index = seen.entry(position.clone()).or_insert(0_usize);
                let stored = stored.and_then(|values| values.get(*index));
                *index += 1;
                out.push_str(match stored {
                    Some(stored) if value == REDACTED => stored,
                    _ => value,
                });
                if value == REDACTED && named && stored.is_none() {
                    missing = missing.take().or(Some(NothingStored {
                        key: position.key.to_owned(),
                    }));
                }
            }
        });
        missing.map_or(Ok(out), Err)
    }
}

/// The value of an edited header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Restored {
    /// The stored value: it was not edited.
    Untouched(HeaderValue),
    /// A new value.
    Text(String),
}

/// The form of a value of this name. Under some names, values are queries without a URL.
fn form(name: &str) -> Form {
    let name = Folded::of(name);
    match [&b"query"[..], b"querystring"].iter().any(|word| name.ends_with(word)) {
        true => Form::Query,
        false => Form::Text,
    }
}

/// A URI, displayed without its secrets.
pub(crate) struct RedactedUri<'a> {
    secrets: &'a Secrets,
    /// Scheme, authority, and path and query.
    parts: [&'a str; 3],
}

impl fmt::Display for RedactedUri<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [scheme, authority, target] = self.parts;
        if !scheme.is_empty() {
            write!(f, "{scheme}://")?;
        }
        match authority.rsplit_once('@') {
            Some((_, host)) => write!(f, "{REDACTED}@{host}")?,
            None => f.write_str(authority)?,
        }
        match may_hold_secrets(target) {
            true => self.secrets.write(target, Form::Url, f),
            false => f.write_str(target),
        }
    }
}

#[cfg(test)]
mod tests;
