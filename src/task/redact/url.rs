//! Finds the secrets in a text: in the URLs that are in it.
//!
//! The scan does not follow the grammar of URLs strictly. What is ambiguous counts as part of a secret, since it is
//! better to show too little than too much: the value of a secret extends to the next `&` or `#`, or to the end of the
//! word.

use percent_encoding::percent_decode_str;

use super::{REDACTED, Secrets};

/// A part of a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Part<'a> {
    Plain(&'a str),
    Secret(Secret<'a>),
}

/// A secret in a text. A value that already reads [`REDACTED`] is one, too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Secret<'a> {
    pub(super) position: SecretPosition<'a>,
    pub(super) value: &'a str,
    /// Whether its name makes it a secret, rather than its content.
    pub(super) named: bool,
}

/// The position of a secret in a text. It is put back at the same position only.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct SecretPosition<'a> {
    /// Every scheme and host before it in its word. If one of them is changed, the secret is not put back, since
    /// another host would receive it.
    pub(super) hosts: String,
    /// The name of the parameter, as spelled; or [`USER`] or [`SEGMENT`].
    pub(super) key: &'a str,
}

/// The user of an authority. No parameter has this name.
pub(super) const USER: &str = "@";
/// A segment of a path, or a whole word, that contains an encoded URL.
pub(super) const SEGMENT: &str = "/";

/// The form of a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// One URL, or a part of one.
    Url,
    /// Words, some of which may be URLs.
    Text,
    /// Words, some of which may be queries without a URL.
    Query,
}

/// How many levels of URLs encoded in each other are searched.
const DEPTH: u8 = 3;

/// Whether `text` can contain a secret. This quick check settles most texts.
pub(super) fn may_hold_secrets(text: &str) -> bool {
    text.bytes().any(|byte| matches!(byte, b'=' | b'@' | b'%'))
}

/// Splits `text` into parts: all of it, in order.
pub(super) fn parts<'a>(secrets: &Secrets, text: &'a str, form: Form, emit: &mut dyn FnMut(Part<'a>)) {
    Scan::new(secrets, DEPTH, emit).text(text, form);
}

struct Scan<'a, 's> {
    secrets: &'s Secrets,
    depth: u8,
    hosts: String,
    emit: &'s mut dyn FnMut(Part<'a>),
}

impl<'a, 's> Scan<'a, 's> {
    fn new(secrets: &'s Secrets, depth: u8, emit: &'s mut dyn FnMut(Part<'a>)) -> Self {
        Self {
            secrets,
            depth,
            hosts: String::new(),
            emit,
        }
    }

    fn text(&mut self, text: &'a str, form: Form) {
        if form == Form::Url {
            return self.word(text, form);
        }
        let mut rest = text;
        loop {
            let end = rest.find(ends_a_word).unwrap_or(rest.len());
            self.word(&rest[..end], form);
            rest = &rest[end..];
            let Some(next) = rest.find(|c| !ends_a_word(c)) else {
                return self.plain(rest);
            };
            self.plain(&rest[..next]);
            rest = &rest[next..];
        }
    }

    fn word(&mut self, word: &'a str, form: Form) {
        self.hosts.clear();
        let query = match form {
            Form::Query => 0,
            _ => word.find(['?', '#']).unwrap_or(word.len()),
        };
        self.address(&word[..query], SEGMENT);
        let mut rest = &word[query..];
        while !rest.is_empty() {
            let mark = rest.find(|c| !matches!(c, '?' | '#' | '&')).unwrap_or(rest.len());
            self.plain(&rest[..mark]);
            rest = &rest[mark..];
            let end = rest.find(['&', '#']).unwrap_or(rest.len());
            self.pairs(&rest[..end]);
            rest = &rest[end..];
        }
    }

    /// Scans the text between two `&`: a pair. Some clients separate pairs with `;`, and a value may be a URL with a
    /// query.
    fn pairs(&mut self, chunk: &'a str) {
        let mut rest = chunk;
        while let Some(equals) = rest.find('=') {
            let begin = rest[..equals].rfind(['?', ';', '/']).map_or(0, |mark| mark + 1);
            let (key, value) = (&rest[begin..equals], &rest[equals + 1..]);
            self.without_value(&rest[..begin]);
            self.plain(&rest[begin..=equals]);
            if self.secrets.is_query_key(key) {
                return self.secret(key, value, true);
            }
            let end = value.find(['?', ';']).unwrap_or(value.len());
            self.address(&value[..end], key);
            rest = &value[end..];
        }
        self.without_value(rest);
    }

    /// Scans text that has no value, or stands before the name of a value.
    fn without_value(&mut self, text: &'a str) {
        for part in text.split_inclusive(['?', ';']) {
            let bare = part.strip_suffix(['?', ';']).unwrap_or(part);
            self.address(bare, SEGMENT);
            self.plain(&part[bare.len()..]);
        }
    }

    /// Scans text without a query. It may contain the user of an authority, and segments in which a URL is encoded.
    fn address(&mut self, text: &'a str, key: &'a str) {
        let mut rest = text;
        while let Some((slashes, whole)) = authority(rest, rest.len() == text.len()) {
            let (user, host) = whole.rsplit_once('@').unwrap_or(("", whole));
            let before = &rest[..slashes];
            let before = before.strip_suffix(':').unwrap_or(before);
            let scheme = match self.segments(before, key) {
                // A hidden text must not be part of the position, or the position could not be found in the redacted
                // text.
                true => "",
                false => scheme(before),
            };
            for part in [scheme, "://", host, " "] {
                self.hosts.push_str(part);
            }
            self.plain(&rest[before.len()..slashes + 2]);
            self.secret(USER, user, true);
            self.plain(&whole[user.len()..]);
            rest = &rest[slashes + 2 + whole.len()..];
        }
        self.segments(rest, key);
    }

    /// Scans the segments, and returns whether the last one is a secret.
    fn segments(&mut self, text: &'a str, key: &'a str) -> bool {
        let mut hidden = false;
        for segment in text.split_inclusive('/') {
            let bare = segment.strip_suffix('/').unwrap_or(segment);
            hidden = bare == REDACTED || self.hides(bare);
            match hidden {
                true => self.secret(key, bare, false),
                false => self.plain(bare),
            }
            self.plain(&segment[bare.len()..]);
        }
        hidden
    }

    /// Whether a URL with a secret is encoded in this segment.
    fn hides(&self, segment: &str) -> bool {
        if self.depth == 0 || !may_hide(segment) {
            return false;
        }
        let decoded: Vec<u8> = percent_decode_str(segment).collect();
        let decoded = String::from_utf8_lossy(&decoded);
        let mut found = false;
        let mut emit = |part: Part<'_>| {
            found |= matches!(part, Part::Secret(secret) if secret.value != REDACTED);
        };
        Scan::new(self.secrets, self.depth - 1, &mut emit).text(&decoded, Form::Url);
        found
    }

    fn plain(&mut self, text: &'a str) {
        if !text.is_empty() {
            (self.emit)(Part::Plain(text));
        }
    }

    fn secret(&mut self, key: &'a str, value: &'a str, named: bool) {
        // An empty value hides nothing.
        if !value.is_empty() {
            let position = SecretPosition {
                hosts: self.hosts.clone(),
                key,
            };
            (self.emit)(Part::Secret(Secret { position, value, named }));
        }
    }
}

/// Whether an encoded URL with a secret can be in this segment: one with a mark before its query or fragment, or behind
/// its user. The marks may be encoded twice. Most segments have none, and need not be decoded.
fn may_hide(segment: &str) -> bool {
    let encoded = |three: &[u8]| {
        let marks: [&[u8]; 4] = [b"%3f", b"%23", b"%40", b"%25"];
        marks.iter().any(|mark| three.eq_ignore_ascii_case(mark))
    };
    segment.as_bytes().windows(3).any(encoded) || (segment.contains('%') && segment.contains('@'))
}

/// Whether `c` cannot be part of a URL in a text. A single quotation mark can: it occurs in passwords.
fn ends_a_word(c: char) -> bool {
    c.is_whitespace() || c.is_control() || matches!(c, '"' | '<' | '>' | '`')
}

/// The first authority in `text`, and the position of the slashes before it: behind a colon, or at the start of a word.
fn authority(text: &str, begins: bool) -> Option<(usize, &str)> {
    let mut slashes = text.match_indices("//").map(|(at, _)| at);
    let at = slashes.find(|at| match at.checked_sub(1) {
        Some(before) => text.as_bytes()[before] == b':',
        None => begins,
    })?;
    let rest = &text[at + 2..];
    let end = rest.find(['/', '\\']).unwrap_or(rest.len());
    Some((at, &rest[..end]))
}

/// The scheme that `text` ends with.
fn scheme(text: &str) -> &str {
    let is_in_scheme = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.');
    let begin = text.rfind(|c| !is_in_scheme(c)).map_or(0, |before| {
        before + text[before..].chars().next().map_or(0, char::len_utf8)
    });
    &text[begin..]
}
