//! `Prefer: wait=N`, as a poller sends it.

use std::time::Duration;

use http::{HeaderMap, HeaderName};

const PREFER: HeaderName = HeaderName::from_static("prefer");

/// How long the client prefers to wait (RFC 7240 §4.3). A preference that cannot be read is none.
pub(super) fn wait(headers: &HeaderMap) -> Option<Duration> {
    let values = headers.get_all(PREFER).iter();
    let preferences = values.flat_map(|value| split_outside_quotes(value.as_bytes(), b','));
    let mut waits = preferences.filter_map(|preference| {
        let token = split_outside_quotes(preference, b';').next()?;
        let mut parts = token.splitn(2, |byte| *byte == b'=');
        let name = parts.next()?.trim_ascii();
        name.eq_ignore_ascii_case(b"wait").then(|| parts.next().unwrap_or(b""))
    });
    // The first of several counts, even if it cannot be read.
    let value = str::from_utf8(waits.next()?.trim_ascii()).ok()?;
    let value = value
        .strip_prefix('"')
        .and_then(|v| v.strip_suffix('"'))
        .unwrap_or(value);
    let digits = value.bytes().all(|byte| byte.is_ascii_digit());
    value.parse().ok().filter(|_| digits).map(Duration::from_secs)
}

fn split_outside_quotes(text: &[u8], separator: u8) -> impl Iterator<Item = &[u8]> {
    let (mut quoted, mut escaped) = (false, false);
    text.split(move |byte| {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            _ => return !quoted && *byte == separator,
        }
        false
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(lines: &[&str]) -> Option<u64> {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(PREFER, line.parse().unwrap());
        }
        wait(&headers).map(|wait| wait.as_secs())
    }

    #[test]
    fn the_first_wait_on_any_line_counts() {
        assert_eq!(read(&[]), None);
        assert_eq!(read(&["respond-async, wait=5"]), Some(5));
        assert_eq!(read(&["respond-async", "WAIT = \"7\" ; x=1", "wait=9"]), Some(7));
        assert_eq!(
            read(&["callback; url=\"https://a/?,wait=1\\\",wait=2\", wait=3"]),
            Some(3)
        );
    }

    #[test]
    fn a_wait_that_cannot_be_read_is_none() {
        for line in [
            "wait",
            "wait=",
            "wait=-1",
            "wait=+1",
            "wait=x",
            "wait=99999999999999999999",
            "awaits=1",
            "wait=x, wait=1",
        ] {
            assert_eq!(read(&[line]), None, "{line}");
        }
    }
}
