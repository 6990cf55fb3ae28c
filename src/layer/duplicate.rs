//! A request that was sent before: what tells that it was, and what its sender is shown of the task.

use std::{hint, sync::Arc};

use http::{HeaderMap, HeaderValue, header, request::Parts};
use sha2::{Digest, Sha256};

use crate::{
    engine::Tasks,
    layer::{HeaderPolicy, asked::Accept, config::Config},
    task::{Caller, CapturedRequest, Digesting, NewTask, RequestDigest, TaskName, TaskRecord},
};

/// What becomes of a duplicate whose credentials are not those of the request that its task was made of.
///
/// A duplicate is a request under a name or key that is known, with the same digest
/// ([what is in it](crate::task::CapturedRequest::digest)); it never runs again. Its credentials are `Authorization`,
/// `Cookie` and every header whose value is secret by name or by [`HeaderPolicy::secret`]. They differ when somebody else
/// sends the request, and also when its own sender has a new token. With [`RespondAsyncBuilder::caller`](crate::RespondAsyncBuilder::caller), who
/// asks is compared in their place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Credentials {
    /// A 202 with the request id and `Location`, and nothing else: no document, no response, no waiting. Who may read the
    /// task does so there, and its [authorizer](crate::Authorizer) decides. Credentials that are not stored, since the header
    /// policy leaves them out, count as other ones.
    #[default]
    Withhold,
    /// 409 `CredentialsDiffer`: for clients whose credentials stay the same, so that a reused key is noticed.
    Refuse,
    /// They are not looked at, and neither is who asks: whoever knows the key or name and sends the same request is shown
    /// the task and its response. Only for applications whose clients all trust each other.
    Ignore,
}

/// What a request is told by if it turns out that it was sent before. Made where it has a name or a key.
pub(super) struct Again {
    digest: Digesting,
    /// Its head as it came, for a fingerprint.
    head: Option<Parts>,
    /// The name that it gives its task.
    name: Option<TaskName>,
    caller: Option<Caller>,
    /// It as it would be stored.
    request: Option<Arc<CapturedRequest>>,
}

impl Again {
    /// Takes down what is not there any more once the head was made ready to be stored.
    pub(super) fn new(config: &Config, head: &Parts) -> Self {
        let (digest, kept) = match &config.fingerprint {
            Some(_) => (
                Digesting::fingerprinted(&head.method, &head.uri, &head.headers),
                Some(head.clone()),
            ),
            None => (Digesting::request(&head.method, &head.uri, &head.headers), None),
        };
        Self {
            digest,
            head: kept,
            name: None,
            caller: None,
            request: None,
        }
    }

    /// Its digest, now that the task is ready to be stored.
    pub(super) fn digest(&mut self, config: &Config, task: &NewTask) -> RequestDigest {
        self.name.clone_from(&task.name);
        self.caller.clone_from(&task.caller);
        self.request = Some(task.request.clone());
        let (digest, body) = (self.digest.clone(), &task.request.body);
        match (&config.fingerprint, self.head.take()) {
            (Some(fingerprint), Some(head)) => digest.finish(&fingerprint(&head, body)),
            _ => digest.finish(body),
        }
    }
}

/// What the sender of a duplicate is shown.
pub(super) enum Shown {
    /// What the first one is.
    Task,
    /// That it is known.
    Id {
        /// The name of the task, where the sender knows it.
        name: Option<TaskName>,
        /// Why no more than that.
        why: &'static str,
    },
    /// Nothing.
    Refusal,
}

impl Accept {
    /// What the sender of a duplicate of this task's request is shown: one read of the store, where credentials are to be
    /// compared.
    pub(super) async fn shown(&self, again: Again, record: &TaskRecord) -> Shown {
        let setting = self.shared.config.credentials;
        if setting == Credentials::Ignore {
            return Shown::Task;
        }
        let other = match (&again.caller, &record.caller) {
            (Some(asking), Some(first)) if asking == first => None,
            (None, None) => self.differing(&again, record).await,
            _ => Some("another caller"),
        };
        match (other, setting) {
            (None, _) => Shown::Task,
            (Some(_), Credentials::Refuse) => Shown::Refusal,
            (Some(why), _) => Shown::Id { name: again.name, why },
        }
    }

    /// Why the credentials are not known to be the same, unless they are.
    async fn differing(&self, again: &Again, record: &TaskRecord) -> Option<&'static str> {
        let policy = &self.shared.config.headers;
        if policy.drops_secrets() {
            return Some("credentials are not stored");
        }
        let tasks = Tasks::new(self.shared.alive.clone());
        let first = tasks.request(record.id).await;
        match (first, &again.request) {
            (Ok(Some(first)), Some(request)) if same(&sealed(&first, policy), &sealed(request, policy)) => None,
            (Ok(Some(_)), _) => Some("other credentials"),
            _ => Some("the first request cannot be read"),
        }
    }
}

/// The credentials of a request, as one digest.
fn sealed(request: &CapturedRequest, policy: &HeaderPolicy) -> [u8; 32] {
    let mut hash = Sha256::new();
    // Lengths first, so that no two requests run into the same bytes.
    let mut part = |part: &[u8]| {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    };
    let mut names: Vec<_> = request.headers.keys().filter(|name| policy.is_secret(name)).collect();
    names.sort_unstable_by_key(|name| name.as_str());
    for name in names {
        let values: Vec<_> = values(&request.headers, name);
        part(name.as_str().as_bytes());
        part(&(values.len() as u64).to_be_bytes());
        values.iter().for_each(|value| part(value));
    }
    // What a URI says of its user is the same as `Authorization` to those who read it.
    if let Some((user, _)) = request.uri.authority().and_then(|it| it.as_str().rsplit_once('@')) {
        part(user.as_bytes());
    }
    hash.finalize().into()
}

/// The values of a header. Cookies are one value: HTTP/2 may split them over several lines (RFC 9113 §8.2.3).
fn values(headers: &HeaderMap, name: &header::HeaderName) -> Vec<Vec<u8>> {
    let values: Vec<_> = headers.get_all(name).iter().map(HeaderValue::as_bytes).collect();
    match *name == header::COOKIE {
        true => vec![values.join(&b"; "[..])],
        false => values.into_iter().map(<[u8]>::to_vec).collect(),
    }
}

/// Looks at every byte whatever the first ones say. What time could still tell is about digests, not about credentials.
pub(crate) fn same(a: &[u8; 32], b: &[u8; 32]) -> bool {
    let difference = a.iter().zip(b).fold(0, |seen, (a, b)| seen | (a ^ b));
    hint::black_box(difference) == 0
}
