//! For receivers: checks the signature and the age of a message.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::{Engine, engine::general_purpose::STANDARD};
use http::{HeaderMap, HeaderName};

use crate::hook::webhook::Secret;

/// The id of a delivery, the same in every try. A receiver keeps it to recognise a second try.
pub(crate) const ID: HeaderName = HeaderName::from_static("webhook-id");
/// When this try was signed, in seconds since the Unix epoch.
pub(crate) const TIMESTAMP: HeaderName = HeaderName::from_static("webhook-timestamp");
/// The signatures of this try, one for each secret.
pub(crate) const SIGNATURE: HeaderName = HeaderName::from_static("webhook-signature");

/// How far the clocks of sender and receiver may differ, together with the time that a message takes. An older message
/// may be a replay.
const TOLERANCE: Duration = Duration::from_secs(5 * 60);

/// Why a message is not genuine.
///
/// See the example of [`verify_at`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum VerifyError {
    /// A header is missing, occurs twice, or cannot be read.
    #[error("the headers webhook-id, webhook-timestamp and webhook-signature are not all there, once, and readable")]
    Headers,
    /// It was signed more than five minutes ago.
    #[error("the message is too old")]
    TooOld,
    /// It was signed more than five minutes from now.
    #[error("the message is from the future")]
    TooNew,
    /// It has no signature of one of the secrets.
    #[error("no signature is right")]
    Signature,
}

/// Checks that a received message was signed with one of `secrets`, at most five minutes ago or ahead. Returns its
/// webhook id, which is the same whenever the message is sent again.
///
/// `body` must be the received bytes: a body that was parsed and written again does not match the signature. The check
/// takes the same time for a right and a wrong secret.
///
/// # Errors
///
/// [`VerifyError`]. Answer 401, after which the sender tries again, and do not act on the message.
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

/// As [`verify`], at another time than now.
///
/// # Errors
///
/// As [`verify`].
///
/// # Examples
///
/// A message that was recorded in 2021, for a test of a receiver:
///
/// ```
/// use std::time::{Duration, SystemTime};
///
/// use http::{HeaderMap, HeaderValue};
/// use tower_respond_async::hook::webhook::{Secret, VerifyError, verify_at};
///
/// let mut headers = HeaderMap::new();
/// for (name, value) in [
///     ("webhook-id", "msg_p5jXN8AQM9LWM0D4loKWxJek"),
///     ("webhook-timestamp", "1614265330"),
///     ("webhook-signature", "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="),
/// ] {
///     headers.insert(name, HeaderValue::from_static(value));
/// }
/// let secrets: [Secret; 1] = ["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw".parse()?];
/// let (body, sent) = (br#"{"test": 2432232314}"#, SystemTime::UNIX_EPOCH + Duration::from_secs(1_614_265_330));
///
/// assert_eq!(verify_at(&headers, body, &secrets, sent), Ok("msg_p5jXN8AQM9LWM0D4loKWxJek"));
/// assert_eq!(verify_at(&headers, b"{}", &secrets, sent), Err(VerifyError::Signature));
/// assert_eq!(verify_at(&headers, body, &secrets, SystemTime::now()), Err(VerifyError::TooOld));
/// # Ok::<_, tower_respond_async::hook::webhook::InvalidSecret>(())
/// ```
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
    // Schemes other than v1 may follow; they are ignored.
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
