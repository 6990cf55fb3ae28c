//! For receivers: is it genuine, and is it of now?

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::{Engine, engine::general_purpose::STANDARD};
use http::{HeaderMap, HeaderName};

use crate::hook::webhook::Secret;

/// The same for every try of one delivery: what a receiver remembers, so that the second does no harm.
pub(crate) const ID: HeaderName = HeaderName::from_static("webhook-id");
/// When this try was signed, in seconds since the Unix epoch.
pub(crate) const TIMESTAMP: HeaderName = HeaderName::from_static("webhook-timestamp");
/// Its signatures, one for each secret.
pub(crate) const SIGNATURE: HeaderName = HeaderName::from_static("webhook-signature");

/// How far the sender's clock and the receiver's may be apart, and how long a message may be on its way. An older one may
/// be a copy that somebody kept.
const TOLERANCE: Duration = Duration::from_secs(5 * 60);

/// Why a message is not to be believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum VerifyError {
    /// A header is not there, or makes no sense.
    #[error("the headers webhook-id, webhook-timestamp and webhook-signature are not all there, once, and readable")]
    Headers,
    /// It was signed more than five minutes ago.
    #[error("the message is too old")]
    TooOld,
    /// It was signed more than five minutes from now.
    #[error("the message is from the future")]
    TooNew,
    /// It has no signature of any of the secrets.
    #[error("no signature is right")]
    Signature,
}

/// Checks a message that was received: that one of `secrets` has signed it, less than five minutes ago. Answers its webhook
/// id, which is the same whenever that message is sent again.
///
/// `body` is what was received, byte for byte: what was read and written again is no longer what was signed. Every secret
/// takes the same time, whether it is the right one or not.
///
/// # Errors
///
/// [`VerifyError`]. Answer 401 to the sender, which tries again, and do not act on the message.
///
/// # Examples
///
/// ```
/// use axum::{body::Bytes, http::{HeaderMap, StatusCode}};
/// use tower_respond_async::hook::webhook::{Secret, verify};
///
/// async fn receive(headers: HeaderMap, body: Bytes) -> StatusCode {
///     let secret: Secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw".parse().expect("it is a constant");
///     match verify(&headers, &body, &[secret]) {
///         Ok(id) => {
///             println!("{id} is genuine"); // have we seen it before?
///             StatusCode::NO_CONTENT
///         }
///         Err(_) => StatusCode::UNAUTHORIZED,
///     }
/// }
/// ```
pub fn verify<'a>(headers: &'a HeaderMap, body: &[u8], secrets: &[Secret]) -> Result<&'a str, VerifyError> {
    verify_at(headers, body, secrets, SystemTime::now())
}

/// The same at another time than now.
///
/// # Errors
///
/// As [`verify`].
pub fn verify_at<'a>(
    headers: &'a HeaderMap,
    body: &[u8],
    secrets: &[Secret],
    now: SystemTime,
) -> Result<&'a str, VerifyError> {
    let [id, timestamp, signatures] = [ID, TIMESTAMP, SIGNATURE].map(|name| single(headers, &name));
    let (id, timestamp, signatures) = (id?, timestamp?, signatures?);
    let digits = !timestamp.is_empty() && timestamp.bytes().all(|byte| byte.is_ascii_digit());
    let timestamp: u64 = timestamp.parse().ok().filter(|_| digits).ok_or(VerifyError::Headers)?;

    let now = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    if timestamp < now.saturating_sub(TOLERANCE.as_secs()) {
        return Err(VerifyError::TooOld);
    }
    if timestamp > now.saturating_add(TOLERANCE.as_secs()) {
        return Err(VerifyError::TooNew);
    }
    let mut genuine = false;
    // Others than v1 are of schemes to come.
    for signature in signatures
        .split(' ')
        .filter_map(|signature| signature.strip_prefix("v1,"))
    {
        let Ok(signature) = STANDARD.decode(signature) else {
            continue;
        };
        for secret in secrets {
            genuine |= secret.has_signed(&signature, id, timestamp, body);
        }
    }
    genuine.then_some(id).ok_or(VerifyError::Signature)
}

fn single<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<&'a str, VerifyError> {
    let mut values = headers.get_all(name).iter();
    let value = values.next().and_then(|value| value.to_str().ok());
    value.filter(|_| values.next().is_none()).ok_or(VerifyError::Headers)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    const NOW: u64 = 1_700_000_000;

    fn secret(byte: u8) -> Secret {
        Secret::from_bytes(&[byte; 32]).unwrap()
    }

    fn at(secs: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(secs)
    }

    fn signed(body: &[u8], secrets: &[Secret]) -> HeaderMap {
        let signatures: Vec<_> = secrets.iter().map(|secret| secret.sign("msg_1", NOW, body)).collect();
        [
            (ID, "msg_1".to_owned()),
            (TIMESTAMP, NOW.to_string()),
            (SIGNATURE, signatures.join(" ")),
        ]
        .into_iter()
        .map(|(name, value)| (name, HeaderValue::try_from(value).unwrap()))
        .collect()
    }

    #[test]
    fn any_of_the_secrets_will_do_while_they_are_changed() {
        let (old, new, other) = (secret(1), secret(2), secret(3));
        let both = signed(b"\xff\0", &[old.clone(), new.clone()]);
        for known in [
            &[old.clone()][..],
            std::slice::from_ref(&new),
            &[other.clone(), new.clone()],
        ] {
            assert_eq!(verify_at(&both, b"\xff\0", known, at(NOW)), Ok("msg_1"));
        }
        assert_eq!(
            verify_at(&both, b"\xff\0", &[other], at(NOW)),
            Err(VerifyError::Signature)
        );
        assert_eq!(verify_at(&both, b"\xff\0", &[], at(NOW)), Err(VerifyError::Signature));
        assert_eq!(verify_at(&both, b"\xff", &[old], at(NOW)), Err(VerifyError::Signature));
    }

    #[test]
    fn five_minutes_either_way_and_no_more() {
        let headers = signed(b"body", &[secret(1)]);
        let verify = |now| verify_at(&headers, b"body", &[secret(1)], at(now)).err();
        assert_eq!((verify(NOW - 300), verify(NOW + 300)), (None, None));
        assert_eq!(
            (verify(NOW - 301), verify(NOW + 301)),
            (Some(VerifyError::TooNew), Some(VerifyError::TooOld))
        );
    }

    #[test]
    fn what_is_missing_twice_or_unreadable_is_not_believed() {
        for name in [ID, TIMESTAMP, SIGNATURE] {
            let mut headers = signed(b"", &[secret(1)]);
            headers.append(&name, headers[&name].clone());
            assert_eq!(
                verify_at(&headers, b"", &[secret(1)], at(NOW)),
                Err(VerifyError::Headers),
                "{name} twice"
            );
            headers.remove(&name);
            assert_eq!(
                verify_at(&headers, b"", &[secret(1)], at(NOW)),
                Err(VerifyError::Headers),
                "no {name}"
            );
        }
        for timestamp in ["", "+1700000000", "soon", "-1", "99999999999999999999"] {
            let mut headers = signed(b"", &[secret(1)]);
            headers.insert(TIMESTAMP, HeaderValue::from_static(timestamp));
            assert_eq!(
                verify_at(&headers, b"", &[secret(1)], at(NOW)),
                Err(VerifyError::Headers),
                "{timestamp}"
            );
        }
        for signature in ["", "v1", "v1,", "v1,!", "v2,AAAA", "v1a,AAAA"] {
            let mut headers = signed(b"", &[secret(1)]);
            headers.insert(SIGNATURE, HeaderValue::from_static(signature));
            assert_eq!(
                verify_at(&headers, b"", &[secret(1)], at(NOW)),
                Err(VerifyError::Signature),
                "{signature}"
            );
        }
    }
}
