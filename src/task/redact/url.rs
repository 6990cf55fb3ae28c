//! Where the secrets are in a text: in the URLs that stand in it.
//!
//! No grammar is followed to the letter. What is not clear is taken to belong to a secret, since a text that shows too little
//! is better than one that shows too much: the value of a secret goes on to the next `&` or `#`, or to the end of the word.

use percent_encoding::percent_decode_str;

use super::{REDACTED, Secrets};

/// A part of a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Part<'a> {
    Plain(&'a str),
    Secret(Secret<'a>),
}

/// A secret in a text. What already reads [`REDACTED`] counts as one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Secret<'a> {
    pub(super) place: Place<'a>,
    pub(super) value: &'a str,
    /// Whether its name says that it is one, rather than what is in it.
    pub(super) named: bool,
}

/// Where a secret belongs: it is put back nowhere else.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Place<'a> {
    /// Every scheme and host that stands before it in its word: with another among them, somebody else would be sent it.
    pub(super) hosts: String,
    /// The name of a parameter as it is spelt, [`USER`], or [`SEGMENT`].
    pub(super) key: &'a str,
}

/// The user's part of an authority. No parameter is called so.
pub(super) const USER: &str = "@";
/// A segment of a path, or a whole word, in which a URL is encoded.
pub(super) const SEGMENT: &str = "/";

/// What a text is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// One URL, or a part of one, from end to end.
    Url,
    /// Words, of which some may be URLs.
    Text,
    /// Words, of which some may be queries without a URL before them.
    Query,
}

/// How deep URLs are encoded in each other, at most, where they are looked for.
const DEPTH: u8 = 3;

/// Whether there can be a secret in `text` at all: most texts are done with at this.
pub(super) fn may_hold_secrets(text: &str) -> bool {
    text.bytes().any(|byte| matches!(byte, b'=' | b'@' | b'%'))
}

/// Takes `text` apart. The parts are the whole of it, in their order.
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

    /// What stands between two `&`: a pair, but some also part pairs with `;`, and a value may be a URL with a query.
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

    /// What has no value, or stands before the name of one.
    fn without_value(&mut self, text: &'a str) {
        for part in text.split_inclusive(['?', ';']) {
            let bare = part.strip_suffix(['?', ';']).unwrap_or(part);
            self.address(bare, SEGMENT);
            self.plain(&part[bare.len()..]);
        }
    }

    /// Text without a query: in it may be the user's part of an authority, and segments in which a URL is encoded.
    fn address(&mut self, text: &'a str, key: &'a str) {
        let mut rest = text;
        while let Some((slashes, whole)) = authority(rest, rest.len() == text.len()) {
            let (user, host) = whole.rsplit_once('@').unwrap_or(("", whole));
            let before = &rest[..slashes];
            let before = before.strip_suffix(':').unwrap_or(before);
            let scheme = match self.segments(before, key) {
                // What is not shown must not be needed to find the same place in what is.
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

    /// Whether the last of the segments is a secret.
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

    /// Whether a URL with a secret is encoded in this.
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
        // Without a value there is nothing to hide.
        if !value.is_empty() {
            let place = Place {
                hosts: self.hosts.clone(),
                key,
            };
            (self.emit)(Part::Secret(Secret { place, value, named }));
        }
    }
}

/// Whether there can be an encoded URL with a secret in this: its query, its fragment or its user have a mark before or behind
/// them, which may be encoded twice. Saves decoding what has none, which is most.
fn may_hide(segment: &str) -> bool {
    let encoded = |three: &[u8]| {
        let marks: [&[u8]; 4] = [b"%3f", b"%23", b"%40", b"%25"];
        marks.iter().any(|mark| three.eq_ignore_ascii_case(mark))
    };
    segment.as_bytes().windows(3).any(encoded) || (segment.contains('%') && segment.contains('@'))
}

/// What a URL in a text cannot have in it. Quotation marks that are single stand in passwords.
fn ends_a_word(c: char) -> bool {
    c.is_whitespace() || c.is_control() || matches!(c, '"' | '<' | '>' | '`')
}

/// The first authority in `text`, and where the slashes before it are: behind a colon, or where a word begins.
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
