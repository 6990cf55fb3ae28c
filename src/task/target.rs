//! A request's target as it is stored: scheme, authority, and path and query, each by itself.
//!
//! Not as one text: `OPTIONS *` over HTTP/2 has a scheme, an authority and the path `*`, which written together read as
//! another host.

use http::{Uri, uri::PathAndQuery};

/// The longest target that is taken in, in bytes, all parts together: the longest that `http` reads as one text. A longer
/// one could be stored, but not shown and sent back as an edit.
pub(crate) const LONGEST: usize = u16::MAX as usize - 1;

/// The parts, in the order in which they are stored; empty is none.
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

/// Whether the target is a path alone, or `*`: then it reads the same as one text.
pub(crate) fn is_one_text(uri: &Uri) -> bool {
    uri.scheme().is_none() && uri.authority().is_none()
}

/// The target of these parts, if they are one.
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
