//! A body as a part of a JSON document.

use std::{borrow::Cow, str};

use base64::{Engine, engine::general_purpose::STANDARD};

/// A body, or the beginning of a long one: as text if it is UTF-8, else in base64.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Payload<'a> {
    /// The text, or the base64.
    pub(crate) text: Cow<'a, str>,
    /// `utf8` or `base64`.
    pub(crate) encoding: &'static str,
    /// Whether the body was cut.
    pub(crate) truncated: bool,
}

impl<'a> Payload<'a> {
    /// The first `limit` bytes of `body`, or a few less, so that no character is broken.
    pub(crate) fn new(body: &'a [u8], limit: usize) -> Self {
        let truncated = body.len() > limit;
        let head = &body[..body.len().min(limit)];
        let text = match str::from_utf8(head) {
            Ok(text) => Some(text),
            // A character that only the cut broke does not make the body binary.
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

#[cfg(test)]
mod tests {
    use super::*;

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
