//! What no view shows. Redaction is for looking: what is stored is the header policy's business.

use std::fmt::{self, Write};

use http::{HeaderName, Uri};
use percent_encoding::percent_decode;

/// Stands where a secret stood.
pub(crate) const REDACTED: &str = "REDACTED";

/// Whether a header of this name holds a credential.
pub(crate) fn is_secret_header(name: &HeaderName) -> bool {
    is_secret_name(name.as_str())
}

/// Whether a query parameter of this name, as it is written in the URI, holds a credential.
///
/// The name is decoded first and compared without case, and what holds for headers holds here, with `_` and `-` the same:
/// `%74oken`, `access_token` and `X-Amz-Signature` are secrets too.
pub(crate) fn is_secret_query_key(key: &str) -> bool {
    // No secret name is longer: a longer one is not worth decoding, but its ending may still tell.
    let end = &key.as_bytes()[key.len().saturating_sub(3 * LONGEST_KEY)..];
    let decoded: Vec<u8> = percent_decode(end)
        .map(|byte| match byte.to_ascii_lowercase() {
            b'_' | b'+' | b'.' => b'-',
            other => other,
        })
        .collect();
    let name = String::from_utf8_lossy(&decoded);
    SECRET_QUERY_KEYS.contains(&&*name) || is_secret_name(&name)
}

/// Whether a named value of a log line holds a credential. `key` and `code`, which are secrets in a query, are ordinary
/// words there.
pub(crate) fn is_secret_field(name: &str) -> bool {
    let name = name.to_ascii_lowercase().replace('_', "-");
    let last = name.rsplit('.').next().unwrap_or(&name);
    is_secret_name(last) || SECRET_FIELDS.contains(&last)
}

/// `name` is in lower case.
fn is_secret_name(name: &str) -> bool {
    SECRET_HEADERS.contains(&name) || SECRET_ENDINGS.iter().any(|ending| name.ends_with(ending))
}

const SECRET_HEADERS: [&str; 5] = [
    "authorization",
    "proxy-authorization",
    "cookie",
    "set-cookie",
    "x-api-key",
];
const SECRET_ENDINGS: [&str; 3] = ["-token", "-secret", "-signature"];
const SECRET_QUERY_KEYS: [&str; 9] = [
    "token",
    "key",
    "secret",
    "signature",
    "code",
    "password",
    "api-key",
    "apikey",
    "sig",
];
const SECRET_FIELDS: [&str; 6] = ["token", "secret", "signature", "password", "api-key", "apikey"];
const LONGEST_KEY: usize = 32;

/// A URI as views show it: values of secret query parameters and the user's part of an authority are not in it.
pub(crate) struct RedactedUri<'a>(pub(crate) &'a Uri);

impl fmt::Display for RedactedUri<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let uri = self.0;
        if let Some(scheme) = uri.scheme_str() {
            write!(f, "{scheme}://")?;
        }
        if let Some(authority) = uri.authority() {
            let authority = authority.as_str();
            f.write_str(authority.rsplit_once('@').map_or(authority, |(_, host)| host))?;
        }
        f.write_str(uri.path())?;
        let Some(query) = uri.query() else { return Ok(()) };
        for (index, pair) in query.split('&').enumerate() {
            f.write_char(if index == 0 { '?' } else { '&' })?;
            match pair.split_once('=') {
                Some((key, _)) if is_secret_query_key(key) => write!(f, "{key}={REDACTED}")?,
                _ => f.write_str(pair)?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_in_headers_are_secret_and_nothing_else() {
        for name in [
            "authorization",
            "proxy-authorization",
            "cookie",
            "set-cookie",
            "x-api-key",
            "x-csrf-token",
            "x-amz-security-token",
            "client-secret",
            "webhook-signature",
        ] {
            assert!(is_secret_header(&HeaderName::from_static(name)), "{name}");
        }
        for name in ["content-type", "x-token-count", "x-signature-input", "tokenizer"] {
            assert!(!is_secret_header(&HeaderName::from_static(name)), "{name}");
        }
    }

    #[test]
    fn credentials_in_fields_of_a_log_are_secret_and_ordinary_words_are_not() {
        for name in [
            "token",
            "user.access_token",
            "Authorization",
            "http.request.header.cookie",
            "db.password",
            "x_api_key",
        ] {
            assert!(is_secret_field(name), "{name}");
        }
        for name in ["key", "code", "tokens", "token.count", "message", ""] {
            assert!(!is_secret_field(name), "{name}");
        }
    }

    #[test]
    fn a_uri_is_shown_without_its_secrets_however_they_are_spelt() {
        let shown = |uri: &'static str| RedactedUri(&Uri::from_static(uri)).to_string();
        assert_eq!(shown("/a"), "/a");
        assert_eq!(shown("/a?"), "/a?");
        assert_eq!(
            shown("/a?x=1&token=t&y&KEY=k&code=c&password="),
            "/a?x=1&token=REDACTED&y&KEY=REDACTED&code=REDACTED&password=REDACTED"
        );
        assert_eq!(
            shown("/a?%74oken=t&access_token=t&X-Amz-Signature=s&tokens=3"),
            "/a?%74oken=REDACTED&access_token=REDACTED&X-Amz-Signature=REDACTED&tokens=3"
        );
        assert_eq!(shown("/a?token=x=y=z"), "/a?token=REDACTED");
        assert_eq!(shown("http://me:pw@host:1/a?b"), "http://host:1/a?b");
        let long = format!("/?{}-token=t", "x".repeat(1000));
        let uri: Uri = long.parse().unwrap();
        assert!(RedactedUri(&uri).to_string().ends_with("-token=REDACTED"));
    }
}
