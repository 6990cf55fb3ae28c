//! A request's target as it is stored: scheme, authority, and path and query, each by itself; and [`RequestTarget`],
//! the part of it that a record keeps.
//!
//! It is not stored as one text: `OPTIONS *` over HTTP/2 has a scheme, an authority and the path `*`, which read as
//! another host if they are written together.

use std::{
    fmt::{self, Write},
    sync::Arc,
};

use http::{Uri, uri::PathAndQuery};

use crate::task::{record::cut, shorten::shorten};

/// The target of a request, or the beginning of a long one. The request has the whole target as its `uri`.
///
/// It can be compared with a text and with a [`Uri`], and is displayed as a `Uri` is.
///
/// # Examples
///
/// ```
/// use http::Uri;
/// use tower_respond_async::task::RequestTarget;
///
/// let target = RequestTarget::of(&Uri::from_static("/search?q=apples"));
/// assert_eq!((target.path(), target.query()), ("/search", Some("q=apples")));
/// assert_eq!(target, "/search?q=apples");
/// assert!(!target.is_cut());
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct RequestTarget {
    /// The parts, one behind the other.
    text: Arc<str>,
    scheme: u16,
    authority: u16,
    cut: bool,
}

impl RequestTarget {
    /// The longest target that a record keeps, in bytes, all parts together. Nearly all targets are far shorter, and a
    /// record is written with every change of its task, and read for every list.
    pub const LONGEST: usize = 1024;

    /// The longest scheme in it: `http` accepts no longer ones.
    const SCHEME_BYTES: usize = 64;

    /// The longest authority in it. A host name has at most 253 bytes.
    const AUTHORITY_BYTES: usize = 320;

    /// The target of `uri`, cut if it is too long.
    #[must_use]
    pub fn of(uri: &Uri) -> Self {
        let parts = parts(uri);
        match parts.iter().map(|part| part.len()).sum::<usize>() <= Self::LONGEST {
            true => Self::from_parts(parts, false),
            false => Self::beginning(parts),
        }
    }

    /// How many bytes of it are kept.
    pub(crate) fn length(&self) -> usize {
        self.text.len()
    }

    /// A target from a stored record. `None` if it is longer than any that is accepted.
    pub(crate) fn stored(parts: [&str; 3], cut: bool) -> Option<Self> {
        let length: usize = parts.iter().map(|part| part.len()).sum();
        (length <= LONGEST).then(|| Self::from_parts(parts, cut))
    }

    /// The beginning of a target that is too long.
    fn beginning([scheme, authority, path]: [&str; 3]) -> Self {
        let scheme = cut(scheme, Self::SCHEME_BYTES);
        let authority = match authority.len() <= Self::AUTHORITY_BYTES {
            true => authority,
            // Without the user, which views hide: the beginning of one would be shown.
            false => {
                let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
                cut(host, Self::AUTHORITY_BYTES)
            }
        };
        let path = shorten(path, Self::LONGEST - scheme.len() - authority.len());
        Self::from_parts([scheme, authority, path], true)
    }

    fn from_parts([scheme, authority, path]: [&str; 3], cut: bool) -> Self {
        let length = |part: &str| u16::try_from(part.len()).expect("no part is longer than the longest target");
        let text = match scheme.is_empty() && authority.is_empty() {
            true => path.into(),
            false => [scheme, authority, path].concat().into(),
        };
        Self {
            text,
            scheme: length(scheme),
            authority: length(authority),
            cut,
        }
    }

    /// Scheme, authority, and path and query. An empty part means none.
    pub(crate) fn parts(&self) -> [&str; 3] {
        let (scheme, rest) = self.text.split_at(self.scheme.into());
        let (authority, path) = rest.split_at(self.authority.into());
        [scheme, authority, path]
    }

    /// Whether this is the target of `uri`, cut as it would be.
    pub(crate) fn is_of(&self, uri: &Uri) -> bool {
        match self.cut {
            true => *self == Self::of(uri),
            false => self.parts() == parts(uri),
        }
    }

    /// The path, as far as it is kept.
    #[must_use]
    pub fn path(&self) -> &str {
        let [.., path] = self.parts();
        match path.split_once('?') {
            Some(("", _)) => "/",
            Some((path, _)) => path,
            None => path,
        }
    }

    /// The query, as far as it is kept.
    #[must_use]
    pub fn query(&self) -> Option<&str> {
        let [.., path] = self.parts();
        path.split_once('?').map(|(_, query)| query)
    }

    /// Whether the target is cut. The request has the whole.
    #[must_use]
    pub const fn is_cut(&self) -> bool {
        self.cut
    }
}

impl fmt::Display for RequestTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [scheme, authority, path] = self.parts();
        if !scheme.is_empty() {
            write!(f, "{scheme}://")?;
        }
        f.write_str(authority)?;
        if path.starts_with('?') {
            f.write_char('/')?;
        }
        f.write_str(path)
    }
}

impl fmt::Debug for RequestTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}{}", if self.cut { "..." } else { "" })
    }
}

impl PartialEq<str> for RequestTarget {
    fn eq(&self, other: &str) -> bool {
        let [scheme, authority, path] = self.parts();
        let behind_scheme = match scheme.is_empty() {
            true => Some(other),
            false => other.strip_prefix(scheme).and_then(|rest| rest.strip_prefix("://")),
        };
        let behind_host = behind_scheme.and_then(|rest| rest.strip_prefix(authority));
        // As it is displayed: with a slash before a query.
        let shown = match path.starts_with('?') {
            true => behind_host.and_then(|rest| rest.strip_prefix('/')),
            false => behind_host,
        };
        shown == Some(path)
    }
}

impl PartialEq<&str> for RequestTarget {
    fn eq(&self, other: &&str) -> bool {
        *self == **other
    }
}

impl PartialEq<Uri> for RequestTarget {
    fn eq(&self, other: &Uri) -> bool {
        !self.cut && self.is_of(other)
    }
}

/// The longest target that is accepted, in bytes, all parts together: the longest that `http` parses as one text. A
/// longer one could be stored, but not shown and sent back as an edit.
pub(crate) const LONGEST: usize = u16::MAX as usize - 1;

/// The parts, in the order in which they are stored. An empty part means none.
pub(crate) fn parts(uri: &Uri) -> [&str; 3] {
    [
        uri.scheme_str().unwrap_or(""),
        uri.authority().map_or("", |authority| authority.as_str()),
        uri.path_and_query().map_or("", PathAndQuery::as_str),
    ]
}

/// About how many bytes the target takes to keep.
pub(crate) fn length(uri: &Uri) -> usize {
    parts(uri).iter().map(|part| part.len()).sum()
}

/// Whether the target is only a path, or `*`: then it reads the same as one text.
pub(crate) fn is_one_text(uri: &Uri) -> bool {
    uri.scheme().is_none() && uri.authority().is_none()
}

/// The target of these parts, if they form one.
pub(crate) fn from_parts([scheme, authority, path_and_query]: [&[u8]; 3]) -> Option<Uri> {
    let mut parts = http::uri::Parts::default();
    if !scheme.is_empty() {
        parts.scheme = Some(scheme.try_into().ok()?);
    }
    if !authority.is_empty() {
        parts.authority = Some(authority.try_into().ok()?);
    }
    if !path_and_query.is_empty() {
        parts.path_and_query = Some(path_and_query.try_into().ok()?);
    }
    Uri::from_parts(parts).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn comes_back(uri: &Uri) {
        let back = from_parts(parts(uri).map(str::as_bytes)).expect("the parts of a target are one");
        assert_eq!((&back, parts(&back)), (uri, parts(uri)));
        if is_one_text(uri) {
            assert_eq!(&uri.to_string().parse::<Uri>().unwrap(), uri);
        }
        let kept = RequestTarget::of(uri);
        if length(uri) <= RequestTarget::LONGEST {
            assert_eq!(kept, *uri);
            assert!(kept.is_of(uri) && !kept.is_cut());
            assert_eq!(kept.to_string(), uri.to_string());
            assert_eq!((kept.path(), kept.query()), (uri.path(), uri.query()));
            assert_eq!(kept, *uri.to_string());
        } else {
            assert!(kept.is_cut() && kept.is_of(uri) && kept != *uri);
            assert!(kept.text.len() <= RequestTarget::LONGEST);
            assert!(uri.path().starts_with(kept.path()));
        }
    }

    #[test]
    fn of_a_long_target_the_beginning_is_kept_and_nothing_of_its_user() {
        let path = format!("/{}?token=t", "é".repeat(600));
        let kept = RequestTarget::of(&path.parse().unwrap());
        assert!(kept.is_cut() && path.starts_with(kept.path()));
        assert_eq!(kept.path().len(), RequestTarget::LONGEST - 1, "no character is broken");
        let user = format!("http://user:{}@example.org/a", "p".repeat(2000));
        assert_eq!(RequestTarget::of(&user.parse().unwrap()), "http://example.org/a");
        let other = RequestTarget::of(&format!("/{}", "a".repeat(2000)).parse().unwrap());
        assert!(!other.is_of(&path.parse().unwrap()));
    }

    #[test]
    fn every_form_of_a_target_comes_back() {
        for text in [
            "/",
            "/?",
            "*",
            "/a%2F//?b?c",
            "/{\"x\"}",
            "host",
            "host:80",
            "[::1]:80",
            "http://h",
            "https://u:p@h:1/a?b",
            "http://h?q",
            "coap+x://h/a",
        ] {
            comes_back(&text.parse().unwrap());
        }
        let asterisk = Uri::builder().scheme("https").authority("h:1").path_and_query("*");
        comes_back(&asterisk.build().unwrap());
        let longest = format!("/{}", "a".repeat(LONGEST - 1));
        let longest = Uri::builder().scheme("https").authority("h").path_and_query(longest);
        comes_back(&longest.build().unwrap());
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn whatever_parts_a_target_is_made_of_come_back(
            scheme in prop::option::of("(http|https|[a-z][a-z0-9+.-]{0,9})"),
            authority in "([a-z:@.0-9-]{1,9}|\\[::[0-9a-f]\\]:80)",
            path in "(\\*|[/?][!-~\\u{80}-\\u{ff}]{0,20})",
        ) {
            let Ok(path) = path.parse::<PathAndQuery>() else { return Ok(()) };
            let mut parts = http::uri::Parts::default();
            parts.path_and_query = Some(path);
            if let Some(scheme) = scheme {
                parts.scheme = scheme.parse().ok();
                parts.authority = authority.parse().ok();
            }
            if let Ok(uri) = Uri::from_parts(parts) {
                comes_back(&uri);
            }
        }
    }
}
