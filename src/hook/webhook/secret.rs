//! Secrets and signatures of webhooks: [Standard Webhooks 1.0](https://www.standardwebhooks.com).

use std::{fmt, str::FromStr, sync::Arc};

use base64::{Engine, engine::general_purpose::STANDARD};
use hmac::{Hmac, Mac};
use sha2::Sha256;

/// The key that signs a webhook, and verifies it.
///
/// As text, it is `whsec_` and the base64 of 24 to 64 random bytes, as `openssl rand -base64 32` prints them. `Debug`
/// does not show it.
///
/// ```
/// use tower_respond_async::hook::webhook::Secret;
///
/// let secret: Secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw".parse()?;
/// assert_eq!(format!("{secret:?}"), "Secret(..)");
/// assert!("whsec_c2hvcnQ=".parse::<Secret>().is_err());
/// # Ok::<(), tower_respond_async::hook::webhook::InvalidSecret>(())
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Arc<[u8]>);

/// Why a text is not a secret.
///
/// See the example of [`Secret`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidSecret {
    /// It does not begin with `whsec_`.
    #[error("a webhook secret begins with whsec_")]
    Prefix,
    /// The rest is not base64.
    #[error("a webhook secret is whsec_ and base64")]
    Base64,
    /// It is shorter than 24 bytes or longer than 64.
    #[error("a webhook secret has 24 to 64 bytes, and this has {0}")]
    Length(usize),
}

impl Secret {
    const PREFIX: &str = "whsec_";

    /// The secret with these bytes, 24 to 64 of them.
    ///
    /// # Errors
    ///
    /// [`InvalidSecret::Length`] for more or fewer.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, InvalidSecret> {
        match bytes.len() {
            24..=64 => Ok(Self(bytes.into())),
            length => Err(InvalidSecret::Length(length)),
        }
    }

    /// The signature of a message: `v1,` and base64.
    pub(crate) fn sign(&self, id: &str, timestamp: u64, body: &[u8]) -> String {
        let code = self.code(id, timestamp, body).finalize().into_bytes();
        format!("v1,{}", STANDARD.encode(code))
    }

    /// Whether this secret made `signature`, the bytes behind `v1,`. Takes the same time for a right and a wrong
    /// signature.
    pub(crate) fn has_signed(&self, signature: &[u8], id: &str, timestamp: u64, body: &[u8]) -> bool {
        self.code(id, timestamp, body).verify_slice(signature).is_ok()
    }

    fn code(&self, id: &str, timestamp: u64, body: &[u8]) -> Hmac<Sha256> {
        let mut code = Hmac::<Sha256>::new_from_slice(&self.0).expect("HMAC takes a key of any length");
        for part in [id.as_bytes(), b".", timestamp.to_string().as_bytes(), b".", body] {
            code.update(part);
        }
        code
    }
}

impl FromStr for Secret {
    type Err = InvalidSecret;

    fn from_str(text: &str) -> Result<Self, InvalidSecret> {
        let encoded = text.trim().strip_prefix(Self::PREFIX).ok_or(InvalidSecret::Prefix)?;
        let bytes = STANDARD.decode(encoded).map_err(|_| InvalidSecret::Base64)?;
        Self::from_bytes(&bytes)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example in the libraries of the specification.
    #[test]
    fn the_known_message_has_the_known_signature() {
        let secret: Secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw".parse().unwrap();
        let signature = secret.sign(
            "msg_p5jXN8AQM9LWM0D4loKWxJek",
            1_614_265_330,
            br#"{"test": 2432232314}"#,
        );
        assert_eq!(signature, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[test]
    fn a_secret_has_24_to_64_bytes() {
        let of = |length: usize| format!("whsec_{}", STANDARD.encode(vec![7; length])).parse::<Secret>();
        assert!(of(24).is_ok() && of(64).is_ok());
        assert_eq!(
            (of(23), of(65)),
            (Err(InvalidSecret::Length(23)), Err(InvalidSecret::Length(65)))
        );
        assert_eq!(
            "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw".parse::<Secret>(),
            Err(InvalidSecret::Prefix)
        );
        assert_eq!("whsec_!".parse::<Secret>(), Err(InvalidSecret::Base64));
    }
}
