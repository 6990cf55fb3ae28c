//! [`BearerToken`]: one shared token.

use std::fmt;

use http::{HeaderMap, HeaderValue, header, request::Parts};
use sha2::{Digest, Sha256};

use crate::{
    api::{Access, Authorizer},
    layer::same,
    task::Scope,
};

/// Grants access to requests with this token as `Authorization: Bearer <token>`. All others are answered 401. The
/// [module](crate::api) has an example.
///
/// Tokens are compared by their SHA-256, in constant time, and only the digest is kept. Choose a long random token,
/// since guesses are not limited here. An empty token never matches.
#[derive(Clone)]
pub struct BearerToken {
    digest: Option<[u8; 32]>,
    access: Access,
}

impl BearerToken {
    /// Grants full access to all tasks to requests with `token`.
    pub fn new(token: impl AsRef<[u8]>) -> Self {
        let token = token.as_ref();
        Self {
            digest: (!token.is_empty()).then(|| Sha256::digest(token).into()),
            access: Access::full(Scope::All),
        }
    }

    /// Grants `access` instead of full access.
    #[must_use]
    pub fn granting(mut self, access: Access) -> Self {
        self.access = access;
        self
    }

    fn is_shown_in(&self, headers: &HeaderMap) -> bool {
        let mut values = headers.get_all(header::AUTHORIZATION).iter();
        // Two headers may be read differently by a front and by this crate.
        let (Some(value), None) = (values.next(), values.next()) else {
            return false;
        };
        match (credentials(value), self.digest) {
            (Some(token), Some(digest)) => same(&Sha256::digest(token).into(), &digest),
            _ => false,
        }
    }
}

impl Authorizer for BearerToken {
    fn authorize(&self, request: &Parts) -> Access {
        match self.is_shown_in(&request.headers) {
            true => self.access.clone(),
            false => Access::challenge(HeaderValue::from_static("Bearer")),
        }
    }
}

impl fmt::Debug for BearerToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BearerToken").finish_non_exhaustive()
    }
}

fn credentials(value: &HeaderValue) -> Option<&[u8]> {
    let (scheme, token) = value.as_bytes().split_at_checked(7)?;
    let token = token.trim_ascii();
    (scheme.eq_ignore_ascii_case(b"bearer ") && !token.is_empty()).then_some(token)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::Permission;

    fn allowed(token: &BearerToken, shown: &[&[u8]]) -> bool {
        let mut request = http::Request::new(());
        for value in shown {
            let value = HeaderValue::from_bytes(value).unwrap();
            request.headers_mut().append(header::AUTHORIZATION, value);
        }
        token.authorize(&request.into_parts().0).allows(Permission::List)
    }

    #[test]
    fn only_the_token_itself_opens() {
        let token = BearerToken::new("s3cret");
        assert!(allowed(&token, &[b"Bearer s3cret"]));
        assert!(allowed(&token, &[b"bearer  s3cret "]));
        let wrong: [&[&[u8]]; 9] = [
            &[],
            &[b""],
            &[b"Bearer"],
            &[b"Bearer "],
            &[b"Bearer s3cre"],
            &[b"Bearer s3crett"],
            &[b"Basic s3cret"],
            &[b"Bearer s3cret\xff"],
            &[b"Bearer s3cret", b"Bearer s3cret"],
        ];
        for shown in wrong {
            assert!(!allowed(&token, shown), "{shown:?}");
        }
    }

    #[test]
    fn an_empty_token_never_matches_and_no_token_is_printed() {
        assert!(!allowed(&BearerToken::new(""), &[b"Bearer "]));
        assert!(!format!("{:?}", BearerToken::new("s3cret")).contains("s3cret"));
    }

    #[test]
    fn the_token_grants_its_access() {
        let token = BearerToken::new("t").granting(Access::none(Scope::All));
        assert!(!allowed(&token, &[b"Bearer t"]));
    }
}
