//! [`Content`]: the size and type of a body.

use std::{borrow::Cow, sync::Arc};

use http::{HeaderMap, HeaderName, HeaderValue, header};

/// The size of a body, and its type by the message's headers. Lists show it without reading the body.
///
/// # Examples
///
/// ```
/// use http::{HeaderMap, HeaderValue, header::CONTENT_TYPE};
/// use tower_respond_async::task::Content;
///
/// let headers = HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static("text/plain"))]);
/// let content = Content::of(&headers, b"17 apples");
/// assert_eq!((content.size, content.content_type.as_deref()), (9, Some("text/plain")));
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Content {
    /// How many bytes of the body are kept.
    pub size: u64,
    /// `Content-Type`.
    pub content_type: Option<Arc<str>>,
    /// `Content-Encoding`: the encoding to undo before the body is of that type.
    pub content_encoding: Option<Arc<str>>,
}

impl Content {
    /// The longest `Content-Type` that is kept here, in bytes: twice the length of real ones, boundaries of multipart
    /// bodies included. A longer one is left out, since a part of one would mean something else. The message itself has
    /// it.
    pub const TYPE_BYTES: usize = 128;

    /// The longest `Content-Encoding` that is kept here, in bytes. Real ones are one word.
    pub const ENCODING_BYTES: usize = 64;

    /// The content of a message with these headers and this body.
    #[must_use]
    pub fn of(headers: &HeaderMap, body: &[u8]) -> Self {
        Self {
            size: body.len() as u64,
            content_type: header_text(headers, header::CONTENT_TYPE, Self::TYPE_BYTES),
            content_encoding: header_text(headers, header::CONTENT_ENCODING, Self::ENCODING_BYTES),
        }
    }
}

/// The values of a header, joined by commas. `None` if there is none, or if the text is longer than `longest`.
fn header_text<'a>(headers: &'a HeaderMap, name: HeaderName, longest: usize) -> Option<Arc<str>> {
    let mut values = headers.get_all(name).iter();
    let text = |value: &'a HeaderValue| match std::str::from_utf8(value.as_bytes()) {
        Ok(text) => Cow::Borrowed(text),
        Err(_) => String::from_utf8_lossy(value.as_bytes()),
    };
    let first = text(values.next()?);
    let whole = values.fold(first, |all, value| Cow::Owned(format!("{all}, {}", text(value))));
    (whole.len() <= longest).then(|| whole.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn size_and_type_are_read_from_the_message() {
        assert_eq!(Content::of(&HeaderMap::new(), b""), Content::default());
        let mut headers = HeaderMap::new();
        headers.append("content-type", HeaderValue::from_bytes(b"a/b; c=\xff").unwrap());
        headers.append("content-encoding", HeaderValue::from_static("gzip"));
        headers.append("content-encoding", HeaderValue::from_static("br"));
        let content = Content::of(&headers, b"abc");
        assert_eq!(content.size, 3);
        assert_eq!(content.content_type.as_deref(), Some("a/b; c=\u{fffd}"));
        assert_eq!(content.content_encoding.as_deref(), Some("gzip, br"));
        headers.insert("content-type", "x".repeat(128).parse().unwrap());
        assert!(Content::of(&headers, b"").content_type.is_some());
        headers.insert("content-type", "x".repeat(129).parse().unwrap());
        headers.insert("content-encoding", "x".repeat(65).parse().unwrap());
        assert_eq!(Content::of(&headers, b""), Content::default());
    }
}
