//! Requests that were sent before: how the layer recognizes them, and what their callers get.

use std::{hint, sync::Arc};

use http::{HeaderMap, HeaderValue, header, request::Parts};
use sha2::{Digest, Sha256};

use crate::{
    engine::Tasks,
    layer::{HeaderPolicy, async_request::AsyncRequest, config::Config},
    task::{Caller, CapturedRequest, Digesting, NewTask, RequestDigest, TaskName, TaskRecord},
};

/// The answer to a duplicate whose credentials differ from those of the first request.
///
/// A duplicate is a request with a name or key of an earlier request and the same digest ([what it
/// covers](crate::task::CapturedRequest::digest)). It never runs again. Its credentials are `Authorization`, `Cookie`
/// and every header whose value is secret by its name or by [`HeaderPolicy::secret`]. They differ if another user sends
/// the request, but also if the same user has a new token. With
/// [`RespondAsyncBuilder::caller`](crate::RespondAsyncBuilder::caller), the callers are compared instead.
///
/// Set it with [`RespondAsyncBuilder::credentials`](crate::RespondAsyncBuilder::credentials).
///
/// # Examples
///
/// ```
/// use tower_respond_async::{Credentials, MemoryStore, RespondAsyncLayer};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let layer = RespondAsyncLayer::builder(MemoryStore::new()).credentials(Credentials::Refuse).build()?;
/// # drop(layer);
/// # Ok(()) }
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Credentials {
    /// The answer is a 202 with the ids and the `Location` only: no document, no response, no wait.
    ///
    /// The client reads the task at its address, where the [authorizer](crate::Authorizer) decides. Credentials that
    /// the header policy does not store count as different.
    #[default]
    Withhold,
    /// The answer is 409 `CredentialsDiffer`.
    ///
    /// For clients whose credentials never change: it shows that two clients use the same key.
    Refuse,
    /// Credentials and callers are not compared.
    ///
    /// Every client that sends the same request under the same key or name gets the task and its response. Only for
    /// applications whose clients all trust each other.
    Ignore,
}

/// The data by which a request is compared with an earlier one. Only requests with a name or a key have it.
pub(super) struct Comparison {
    digest: Digesting,
    /// The original head, if a fingerprint is configured.
    head: Option<Parts>,
    /// The name that the request gives the task.
    name: Option<TaskName>,
    caller: Option<Caller>,
    /// The request as it would be stored.
    request: Option<Arc<CapturedRequest>>,
}

impl Comparison {
    /// Keeps the parts of the head that are removed before it is stored.
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

    /// The digest of the request. Call it when the task is ready to be stored.
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

/// What the caller of a duplicate gets.
pub(super) enum DuplicateAnswer {
    Task,
    /// The ids only.
    Id {
        /// The name that the request gives the task.
        name: Option<TaskName>,
        /// The reason for withholding the rest.
        why: &'static str,
    },
    Refusal,
}

impl AsyncRequest {
    /// Decides what the caller of a duplicate of this task's request gets. If credentials must be compared, it reads
    /// the first request from the store.
    pub(super) async fn duplicate_answer(&self, comparison: Comparison, record: &TaskRecord) -> DuplicateAnswer {
        let setting = self.shared.config.credentials;
        if setting == Credentials::Ignore {
            return DuplicateAnswer::Task;
        }
        let difference = match (&comparison.caller, &record.caller) {
            (Some(asking), Some(first)) if asking == first => None,
            (None, None) => self.credentials_difference(&comparison, record).await,
            _ => Some("another caller"),
        };
        match (difference, setting) {
            (None, _) => DuplicateAnswer::Task,
            (Some(_), Credentials::Refuse) => DuplicateAnswer::Refusal,
            (Some(why), _) => DuplicateAnswer::Id {
                name: comparison.name,
                why,
            },
        }
    }

    /// Why the credentials may differ; `None` if they are the same.
    async fn credentials_difference(&self, comparison: &Comparison, record: &TaskRecord) -> Option<&'static str> {
        let policy = &self.shared.config.headers;
        if policy.drops_secrets() {
            return Some("credentials are not stored");
        }
        let tasks = Tasks::new(self.shared.alive.clone());
        let first = tasks.request(record.id).await;
        match (first, &comparison.request) {
            (Ok(Some(first)), Some(request)) if same(&sealed(&first, policy), &sealed(request, policy)) => None,
            (Ok(Some(_)), _) => Some("other credentials"),
            _ => Some("the first request cannot be read"),
        }
    }
}

/// The digest of a request's credentials.
fn sealed(request: &CapturedRequest, policy: &HeaderPolicy) -> [u8; 32] {
    let mut hash = Sha256::new();
    // Each part has its length in front, so that different requests never give the same bytes.
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
    // Some applications use the user in a URI like `Authorization`.
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

/// Compares every byte, in constant time. Timing could only reveal digests, not credentials.
pub(crate) fn same(a: &[u8; 32], b: &[u8; 32]) -> bool {
    let difference = a.iter().zip(b).fold(0, |seen, (a, b)| seen | (a ^ b));
    hint::black_box(difference) == 0
}
