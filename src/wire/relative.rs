//! Resolves references in a response as the client would have (RFC 3986 §5).

use http::{HeaderMap, HeaderName, HeaderValue, header, uri::PathAndQuery};

/// The headers that hold one reference (RFC 9110 §8.7, §10.2.2).
const HEADERS: [HeaderName; 2] = [header::LOCATION, header::CONTENT_LOCATION];

/// Resolves the relative references of a response to a request for `target`: its client reads the response at another
/// address, that of the result.
///
/// The resolved references begin with a slash, without scheme and host: these are the same at the other address.
pub(crate) fn resolve_references(headers: &mut HeaderMap, target: &PathAndQuery) {
    for name in HEADERS {
        if let Some(value) = headers.get_mut(name)
            && let Ok(reference) = value.to_str()
            && let Some(resolved) = resolve(target, reference)
            && let Ok(resolved) = HeaderValue::try_from(resolved)
        {
            *value = resolved;
        }
    }
}

/// `None` if the reference means the same at every address of the host, or cannot be resolved.
fn resolve(target: &PathAndQuery, reference: &str) -> Option<String> {
    let path = target.path();
    if !path.starts_with('/') || reference.starts_with('/') || has_scheme(reference) {
        return None;
    }
    let end = reference.find(['?', '#']).unwrap_or(reference.len());
    let (relative, rest) = reference.split_at(end);
    if !relative.is_empty() {
        let folder = &path[..=path.rfind('/')?];
        return Some(without_dots(&[folder, relative].concat()) + rest);
    }
    // Two slashes at the start would name a host.
    if path.starts_with("//") {
        return None;
    }
    let query = target.query().filter(|_| !rest.starts_with('?'));
    Some(match query {
        Some(query) => [path, "?", query, rest].concat(),
        None => [path, rest].concat(),
    })
}

/// Whether the reference begins with a scheme: its first segment has a colon.
fn has_scheme(reference: &str) -> bool {
    let first = reference.split(['/', '?', '#']).next().unwrap_or_default();
    first.contains(':')
}

/// An absolute path without the segments `.` and `..` (RFC 3986 §5.2.4).
fn without_dots(path: &str) -> String {
    let mut kept = Vec::new();
    let mut segments = path.split('/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        let is_last = segments.peek().is_none();
        match segment {
            "." => {}
            ".." => {
                kept.pop();
            }
            _ => {
                kept.push(segment);
                continue;
            }
        }
        if is_last {
            kept.push("");
        }
    }
    // An empty first segment would make the next one a host.
    while kept.len() > 1 && kept[0].is_empty() {
        kept.remove(0);
    }
    format!("/{}", kept.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_relative_reference_is_resolved_against_the_target() {
        let target = PathAndQuery::from_static("/b/c/d;p?q");
        for (reference, expected) in [
            ("g", "/b/c/g"),
            ("./g", "/b/c/g"),
            ("g/", "/b/c/g/"),
            ("?y", "/b/c/d;p?y"),
            ("g?y#s", "/b/c/g?y#s"),
            ("#s", "/b/c/d;p?q#s"),
            ("", "/b/c/d;p?q"),
            (".", "/b/c/"),
            ("..", "/b/"),
            ("../g", "/b/g"),
            ("../..", "/"),
            ("../../../g", "/g"),
            ("g;x=1/../y", "/b/c/y"),
            ("g?y/../x", "/b/c/g?y/../x"),
            ("..//evil.example", "/b//evil.example"),
            ("../..//evil.example", "/evil.example"),
        ] {
            assert_eq!(resolve(&target, reference).as_deref(), Some(expected), "{reference:?}");
        }
    }

    #[test]
    fn what_means_the_same_elsewhere_is_left_as_it_is() {
        let target = PathAndQuery::from_static("/b/c");
        for reference in ["/g", "//host/g", "https://a/b", "mailto:a@b", "g:h"] {
            assert_eq!(resolve(&target, reference), None, "{reference}");
        }
        assert_eq!(resolve(&PathAndQuery::from_static("*"), "g"), None);
        let twice = PathAndQuery::from_static("//evil.example/x");
        assert_eq!(resolve(&twice, "?done"), None);
        let mut headers = HeaderMap::new();
        headers.insert(header::LOCATION, HeaderValue::from_bytes(b"\xff").unwrap());
        headers.insert(header::CONTENT_LOCATION, HeaderValue::from_static("1"));
        resolve_references(&mut headers, &target);
        assert_eq!(headers[header::LOCATION].as_bytes(), b"\xff");
        assert_eq!(headers[header::CONTENT_LOCATION], "/b/1");
    }
}
