//! RFC 7240: the preferences `respond-async`, `wait` and `callback`.

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};

use crate::{
    layer::dialect::{Ask, Options},
    wire::Problem,
};

/// The request header (RFC 7240 §2).
pub(crate) static PREFER: HeaderName = HeaderName::from_static("prefer");
/// The response header (RFC 7240 §3).
pub(crate) const PREFERENCE_APPLIED: HeaderName = HeaderName::from_static("preference-applied");

pub(super) fn read(headers: &HeaderMap) -> Ask {
    match Preferences::of(headers).respond_async {
        true => Ask::Async(Options::default()),
        false => Ask::No,
    }
}

/// A line without `respond-async` and `wait`. Other preferences are unchanged. `None` if there are no others.
pub(super) fn rest(line: &HeaderValue) -> Option<HeaderValue> {
    let addressed = |part: &[u8]| Preference::parse(part).is_some_and(|p| p.is("respond-async") || p.is("wait"));
    let parts: Vec<_> = split(line.as_bytes(), b',').filter(|part| !addressed(part)).collect();
    let rest = parts.join(&b","[..]);
    let rest = rest.trim_ascii();
    let mut value = HeaderValue::from_bytes(rest).ok().filter(|_| !rest.is_empty())?;
    value.set_sensitive(line.is_sensitive());
    Some(value)
}

/// The preferences that the layer uses. Others are ignored, as the RFC says.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Preferences {
    pub(crate) respond_async: bool,
    /// The time that the answer may wait for the end of the task. It counts only with `respond_async`.
    pub(crate) wait: Option<Duration>,
}

impl Preferences {
    /// Reads all lines as one list. If a preference is repeated, the first one counts.
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        let mut found = Self::default();
        let mut wait_seen = false;
        for value in headers.get_all(&PREFER) {
            for part in split(value.as_bytes(), b',') {
                let Some(preference) = Preference::parse(part) else {
                    continue;
                };
                if preference.is("respond-async") {
                    found.respond_async = true;
                } else if preference.is("wait") && !wait_seen {
                    wait_seen = true;
                    found.wait = seconds(&preference.value);
                }
            }
        }
        found
    }
}

/// The URL of the preference `callback`, if the request has `respond-async` too: its parameter `url`, in UTF-8.
///
/// OData's older name of the preference, `odata.callback`, works too.
pub(super) fn callback(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    if !Preferences::of(headers).respond_async {
        return Ok(None);
    }
    let named = |part: &&[u8]| {
        let preference = Preference::parse(part);
        preference.is_some_and(|p| p.is("callback") || p.is("odata.callback"))
    };
    let mut parts = headers
        .get_all(&PREFER)
        .iter()
        .flat_map(|value| split(value.as_bytes(), b','));
    let Some(part) = parts.find(named) else { return Ok(None) };
    let mut parameters = split(part, b';').skip(1).map(Preference::parse);
    let url = parameters.find_map(|parameter| parameter.filter(|parameter| parameter.is("url")));
    let url = url
        .and_then(|url| String::from_utf8(url.value).ok())
        .filter(|url| !url.is_empty());
    url.map(Some).ok_or_else(|| {
        Problem::invalid_argument(
            "The preference callback names no URL; write it as callback; url=\"https://example.org/hook\".",
        )
    })
}

fn seconds(value: &[u8]) -> Option<Duration> {
    let digits = !value.is_empty() && value.iter().all(u8::is_ascii_digit);
    // A number that is too large counts as the longest wait, and is capped later.
    digits.then(|| {
        let secs = std::str::from_utf8(value).ok().and_then(|text| text.parse().ok());
        Duration::from_secs(secs.unwrap_or(u64::MAX))
    })
}

/// One preference: a token and an optional value. Its parameters are ignored.
struct Preference<'a> {
    name: &'a [u8],
    value: Vec<u8>,
}

impl<'a> Preference<'a> {
    fn parse(part: &'a [u8]) -> Option<Self> {
        let head = split(part, b';').next()?.trim_ascii();
        let (name, value) = match head.iter().position(|byte| *byte == b'=') {
            Some(at) => (head[..at].trim_ascii(), unquoted(head[at + 1..].trim_ascii())?),
            None => (head, Vec::new()),
        };
        (!name.is_empty() && name.iter().all(|byte| is_token(*byte))).then_some(Self { name, value })
    }

    fn is(&self, name: &str) -> bool {
        self.name.eq_ignore_ascii_case(name.as_bytes())
    }
}

/// The text of a token or a quoted string, without quotes and escapes. `None` if it is malformed.
fn unquoted(value: &[u8]) -> Option<Vec<u8>> {
    let Some(rest) = value.strip_prefix(b"\"") else {
        return value.iter().all(|byte| is_token(*byte)).then(|| value.to_vec());
    };
    let mut out = Vec::with_capacity(rest.len());
    let mut bytes = rest.iter();
    loop {
        match bytes.next()? {
            b'"' => return bytes.next().is_none().then_some(out),
            b'\\' => out.push(*bytes.next()?),
            byte => out.push(*byte),
        }
    }
}

/// Splits at a separator outside of quoted strings.
fn split(bytes: &[u8], separator: u8) -> impl Iterator<Item = &[u8]> {
    let (mut quoted, mut escaped) = (false, false);
    bytes.split(move |byte| {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            byte => return *byte == separator && !quoted,
        }
        false
    })
}

/// `tchar` of RFC 9110 §5.6.2.
const fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(
            byte,
            b'!' | b'#' | b'$' | b'%' | b'&' | b'\'' | b'*' | b'+' | b'-' | b'.' | b'^' | b'_' | b'`' | b'|' | b'~'
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[&[u8]]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(&PREFER, HeaderValue::from_bytes(line).unwrap());
        }
        headers
    }

    fn read(lines: &[&[u8]]) -> (bool, Option<u64>) {
        let found = Preferences::of(&headers(lines));
        (found.respond_async, found.wait.map(|wait| wait.as_secs()))
    }

    #[test]
    fn the_list_is_read_as_the_rfc_says() {
        assert_eq!(read(&[b"respond-async, wait=10"]), (true, Some(10)));
        assert_eq!(
            read(&[b"Respond-Async", b"WAIT = \"7\""]),
            (true, Some(7)),
            "lines are one list"
        );
        assert_eq!(
            read(&[b"wait=1, respond-async; x=y, wait=2"]),
            (true, Some(1)),
            "the first counts"
        );
        assert_eq!(
            read(&[b"return=minimal, handling=lenient; a=\"b,respond-async\""]),
            (false, None)
        );
        assert_eq!(
            read(&[b"foo=\"respond-async\", bar=\"a\\\", respond-async\""]),
            (false, None)
        );
        assert_eq!(read(&[b", ,respond-async,,"]), (true, None));
    }

    #[test]
    fn what_is_malformed_is_ignored() {
        assert_eq!(read(&[b"\xff\xfe, respond-async"]), (true, None));
        assert_eq!(read(&[b"respond-async, wait=soon"]), (true, None));
        assert_eq!(read(&[b"respond-async, wait=-1"]), (true, None));
        assert_eq!(
            read(&[b"respond-async, wait=99999999999999999999"]),
            (true, Some(u64::MAX))
        );
        assert_eq!(read(&[b"respond async"]), (false, None));
        assert_eq!(read(&[b"respond-async=\"open"]), (false, None));
        assert_eq!(read(&[b""]), (false, None));
    }

    #[test]
    fn other_preferences_stay_as_they_were_written() {
        let stripped = |lines: &[&[u8]]| {
            let headers = headers(lines);
            let values = headers.get_all(&PREFER).iter().filter_map(rest);
            values
                .map(|v| String::from_utf8(v.as_bytes().to_vec()).unwrap())
                .collect::<Vec<_>>()
        };
        assert_eq!(stripped(&[b"respond-async, wait=5"]), [""; 0]);
        assert_eq!(
            stripped(&[b"respond-async, a=\"x, y\"; b , wait=5", b"return=minimal"]),
            ["a=\"x, y\"; b", "return=minimal"]
        );
    }

    #[test]
    fn a_callback_is_a_preference_with_a_url() {
        let url = |lines: &[&[u8]]| callback(&headers(lines)).map_err(|_| ());
        let found = Ok(Some("https://a.example/?x,y;z".to_owned()));
        assert_eq!(
            url(&[b"respond-async, callback; url=\"https://a.example/?x,y;z\""]),
            found
        );
        assert_eq!(
            url(&[b"odata.callback;URL = \"https://a.example/?x,y;z\"", b"respond-async"]),
            found
        );
        let twice: &[u8] =
            b"respond-async, Callback; a=b; url=\"https://a.example/?x,y;z\", callback; url=\"https://b/\"";
        assert_eq!(url(&[twice]), found, "the first counts");
        assert_eq!(url(&[b"callback; url=\"https://a/\""]), Ok(None), "nothing is deferred");
        assert_eq!(url(&[b"respond-async, callbacks; url=\"https://a/\""]), Ok(None));
        for bad in [
            &b"respond-async, callback"[..],
            b"respond-async, callback; url",
            b"respond-async, callback; url=\"\"",
            b"respond-async, callback; url=\"https://\xff/\"",
            b"respond-async, callback; uri=\"https://a/\"",
        ] {
            assert_eq!(url(&[bad]), Err(()), "{}", bad.escape_ascii());
        }
    }

    #[test]
    fn any_bytes_whatever_are_survived() {
        let mut random = fastrand::Rng::with_seed(7);
        for _ in 0..20_000 {
            let alphabet = b"respond-async,wait=5;\"\\ \t\xff=a";
            let line: Vec<u8> = (0..random.usize(..40))
                .map(|_| alphabet[random.usize(..alphabet.len())])
                .collect();
            let Ok(value) = HeaderValue::from_bytes(&line) else {
                continue;
            };
            let _ = callback(&HeaderMap::from_iter([(PREFER.clone(), value.clone())]));
            let before = Preferences::of(&HeaderMap::from_iter([(PREFER.clone(), value.clone())]));
            let left = rest(&value).map(|value| (PREFER.clone(), value));
            let after = Preferences::of(&left.into_iter().collect());
            assert_eq!(after, Preferences::default(), "{line:?} {before:?}");
        }
    }
}
