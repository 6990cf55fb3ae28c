//! The names of secrets: the list of words, and how names are compared.

use std::iter::Peekable;

/// Endings of the names of secrets, wherever in a word they begin: `x-goog-api-key`, `accessToken`, `X-RapidAPI-Key`,
/// `xauthorization`. Words are compared without the characters that separate them.
const ENDINGS: [&str; 40] = [
    "authorization",
    "token",
    "secret",
    "password",
    "passwd",
    "passphrase",
    "passcode",
    "signature",
    "cookie",
    "cookies",
    "credential",
    "credentials",
    "apikey",
    "accesskey",
    "secretkey",
    "privatekey",
    "authkey",
    "sharedkey",
    "sessionkey",
    "signingkey",
    "encryptionkey",
    "masterkey",
    "accountkey",
    "subscriptionkey",
    "functionkey",
    "functionskey",
    "servicekey",
    "licensekey",
    "clientkey",
    "appkey",
    "applicationkey",
    "webhookkey",
    "sessionid",
    "sessid",
    "assertion",
    "samlresponse",
    "authcode",
    "authorizationcode",
    "codeverifier",
    "connectionstring",
];

/// Short words that other words may end with: these must be the whole last word of the name.
const LAST_WORDS: [&str; 11] = [
    "auth", "oauth", "jwt", "pwd", "otp", "csrf", "xsrf", "dpop", "bearer", "sas", "hmac",
];

/// Whole names of secrets in a query. Elsewhere they are ordinary words.
const QUERY_KEYS: [&str; 7] = ["key", "code", "sig", "sid", "pass", "pw", "ticket"];

/// Names that end like those of secrets, but are not.
const ORDINARY: [&str; 2] = ["idempotencykey", "accesscontrolallowcredentials"];

/// How much of the end of a name is compared, in bytes: more than the longest word takes with every character encoded.
const LOOKED_AT: usize = 192;

/// A name in the form in which it is compared: letters and digits in lower case, with the positions where words begin.
///
/// Every other character separates words, and a capital letter within `camelCase` begins one.
pub(super) struct Folded {
    text: [u8; LOOKED_AT],
    begins: [bool; LOOKED_AT],
    length: usize,
}

impl Folded {
    /// A name that is not encoded.
    pub(super) fn of(name: &str) -> Self {
        Self::from(end(name).iter().copied())
    }

    /// A name in a query, percent-decoded.
    pub(super) fn of_query_key(key: &str) -> Self {
        Self::from(percent_encoding::percent_decode(end(key)))
    }

    fn from(bytes: impl Iterator<Item = u8>) -> Self {
        let mut folded = Self {
            text: [0; LOOKED_AT],
            begins: [false; LOOKED_AT],
            length: 0,
        };
        let mut bytes: Peekable<_> = bytes.peekable();
        let mut before = b'-';
        while let Some(byte) = bytes.next() {
            if !is_separator(byte) {
                let next_is_lower = bytes.peek().is_some_and(u8::is_ascii_lowercase);
                let capital = byte.is_ascii_uppercase() && (!before.is_ascii_uppercase() || next_is_lower);
                folded.text[folded.length] = byte.to_ascii_lowercase();
                folded.begins[folded.length] = capital || is_separator(before);
                folded.length += 1;
            }
            before = byte;
        }
        folded
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.text[..self.length]
    }

    /// Whether the built-in words make a header or field of this name a secret.
    pub(super) fn is_secret(&self) -> bool {
        if ORDINARY.iter().any(|name| name.as_bytes() == self.as_bytes()) {
            return false;
        }
        // A number at the end is a version: `Cookie2`, `X-Hub-Signature-256`.
        [self.length, self.length_without_number()].into_iter().any(|length| {
            ENDINGS
                .iter()
                .any(|word| self.text[..length].ends_with(word.as_bytes()))
                || LAST_WORDS.iter().any(|word| self.has_last(length, word.as_bytes()))
        })
    }

    /// Whether the built-in words make a query parameter of this name a secret.
    pub(super) fn is_secret_query_key(&self) -> bool {
        let whole = &self.text[..self.length_without_number()];
        QUERY_KEYS.iter().any(|key| key.as_bytes() == whole) || self.is_secret()
    }

    /// Whether the name ends with `words`, as whole words.
    pub(super) fn ends_with(&self, words: &[u8]) -> bool {
        self.has_last(self.length, words)
    }

    fn has_last(&self, length: usize, words: &[u8]) -> bool {
        self.text[..length].ends_with(words) && !words.is_empty() && self.begins[length - words.len()]
    }

    fn length_without_number(&self) -> usize {
        let digits = self.as_bytes().iter().rev().take_while(|byte| byte.is_ascii_digit());
        self.length - digits.count()
    }
}

/// Whether the byte separates words. Bytes outside of ASCII do not.
const fn is_separator(byte: u8) -> bool {
    byte.is_ascii() && !byte.is_ascii_alphanumeric()
}

fn end(name: &str) -> &[u8] {
    &name.as_bytes()[name.len().saturating_sub(LOOKED_AT)..]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_secret_however_their_name_is_spelt() {
        for name in [
            "authorization",
            "proxy-authorization",
            "x-authorization",
            "X-Forwarded-Authorization",
            "cookie",
            "Cookie2",
            "set-cookie",
            "api-key",
            "apikey",
            "x-api-key",
            "x-goog-api-key",
            "X-RapidAPI-Key",
            "DD-API-KEY",
            "Ocp-Apim-Subscription-Key",
            "x-functions-key",
            "x-auth-key",
            "x-csrf-token",
            "X-XSRF",
            "x-amz-security-token",
            "X-Amz-Credential",
            "X-Hub-Signature-256",
            "Stripe-Signature",
            "client-secret",
            "accessToken",
            "user.accessToken",
            "http.request.header.cookie",
            "db_password",
            "dbPassword2",
            "userJWT",
            "JWT",
            "basicAuth",
            "session[token]",
            "PHPSESSID",
            "oauth2",
            "x_api_key",
            "client+secret",
        ] {
            assert!(Folded::of(name).is_secret(), "{name}");
        }
    }

    #[test]
    fn ordinary_names_are_not_secret() {
        for name in [
            "content-type",
            "x-token-count",
            "x-signature-input",
            "tokenizer",
            "tokens",
            "max_tokens",
            "token.count",
            "message",
            "",
            "-",
            "key",
            "code",
            "status_code",
            "primary-key",
            "monkey",
            "cacheKey",
            "author",
            "unauth",
            "design",
            "Idempotency-Key",
            "Sec-WebSocket-Key",
            "Sec-WebSocket-Accept",
            "Sec-WebSocket-Protocol",
            "Sec-WebSocket-Version",
            "Access-Control-Allow-Credentials",
            "WWW-Authenticate",
        ] {
            assert!(!Folded::of(name).is_secret(), "{name}");
        }
    }

    #[test]
    fn in_a_query_shorter_names_are_secret_and_names_are_decoded() {
        for key in [
            "key",
            "KEY",
            "code",
            "sig",
            "token",
            "%74oken",
            "access_token",
            "access%5Ftoken",
            "X-Amz-Signature",
            "auth%5Btoken%5D",
        ] {
            assert!(Folded::of_query_key(key).is_secret_query_key(), "{key}");
        }
        for key in ["keys", "zip_code", "encode", "tokens", "x", "", "%"] {
            assert!(!Folded::of_query_key(key).is_secret_query_key(), "{key}");
        }
        let long = format!("{}-token", "x".repeat(1000));
        assert!(Folded::of_query_key(&long).is_secret_query_key());
    }
}
