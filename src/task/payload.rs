//! Bytes as they stand in a JSON document.

use std::{borrow::Cow, str};

use base64::{Engine, engine::general_purpose::STANDARD};
use http::{HeaderMap, HeaderName, header};

/// A body as text where it is text, else in base64; or the beginning of it, where it is long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Payload<'a> {
    /// The text, or the base64.
    pub(crate) text: Cow<'a, str>,
    /// Which of the two: `utf8` or `base64`.
    pub(crate) encoding: &'static str,
    /// Whether it was cut.
    pub(crate) truncated: bool,
}

impl<'a> Payload<'a> {
    /// The first `limit` bytes of `body`, or a few less, so that no character is broken.
    pub(crate) fn new(body: &'a [u8], limit: usize) -> Self {
        let truncated = body.len() > limit;
        let head = &body[..body.len().min(limit)];
        let text = match str::from_utf8(head) {
            Ok(text) => Some(text),
            // A character that only the cut broke does not make it binary.
            Err(error) if truncated && error.error_len().is_none() => str::from_utf8(&head[..error.valid_up_to()]).ok(),
            Err(_) => None,
        };
        match text {
            Some(text) => Self {
                text: Cow::Borrowed(text),
                encoding: "utf8",
                truncated,
            },
            None => Self {
                text: Cow::Owned(STANDARD.encode(head)),
                encoding: "base64",
                truncated,
            },
        }
    }
}

/// What a message says its body is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Content<'a> {
    /// `Content-Type`.
    pub(crate) kind: Option<Cow<'a, str>>,
    /// `Content-Encoding`: what the payload has to be taken out of before it is of that type.
    pub(crate) encoding: Option<Cow<'a, str>>,
}

impl<'a> Content<'a> {
    /// The longest value that is shown, in bytes: a few times what real ones take, so that a document about a task stays
    /// near the size of its payloads.
    const LONGEST: usize = 256;

    /// What these headers say.
    pub(crate) fn of(headers: &'a HeaderMap) -> Self {
        let said = |name: HeaderName| {
            let mut values = headers.get_all(name).iter();
            let first = String::from_utf8_lossy(values.next()?.as_bytes());
            let whole = values.fold(first, |all, value| {
                format!("{all}, {}", String::from_utf8_lossy(value.as_bytes())).into()
            });
            Some(whole).filter(|whole| whole.len() <= Self::LONGEST)
        };
        Self {
            kind: said(header::CONTENT_TYPE),
            encoding: said(header::CONTENT_ENCODING),
        }
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn what_a_body_is_stands_in_its_headers() {
        assert_eq!(Content::of(&HeaderMap::new()), Content::default());
        let mut headers = HeaderMap::new();
        headers.append("content-type", HeaderValue::from_bytes(b"a/b; c=\xff").unwrap());
        headers.append("content-encoding", HeaderValue::from_static("gzip"));
        headers.append("content-encoding", HeaderValue::from_static("br"));
        let content = Content::of(&headers);
        assert_eq!(content.kind.as_deref(), Some("a/b; c=\u{fffd}"));
        assert_eq!(content.encoding.as_deref(), Some("gzip, br"));
        headers.insert("content-type", "x".repeat(257).parse().unwrap());
        assert_eq!(Content::of(&headers).kind, None);
    }

    #[test]
    fn text_stays_text_and_the_rest_is_base64() {
        let payload = |body, limit| {
            let Payload {
                text,
                encoding,
                truncated,
            } = Payload::new(body, limit);
            (text.into_owned(), encoding, truncated)
        };
        assert_eq!(payload("hü".as_bytes(), 9), ("hü".into(), "utf8", false));
        assert_eq!(payload("hü".as_bytes(), 2), ("h".into(), "utf8", true));
        assert_eq!(payload(&[0xff, 0], 9), ("/wA=".into(), "base64", false));
        assert_eq!(payload(b"h\xc3", 9), ("aMM=".into(), "base64", false));
        assert_eq!(payload(b"", 0), (String::new(), "utf8", false));
    }
}
