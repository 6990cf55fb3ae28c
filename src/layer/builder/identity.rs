//! What the application says of a request: whose it is, who asks, whether it was sent before, what it is listed under.

use bytes::Bytes;
use http::request::Parts;

use super::RespondAsyncBuilder;
use crate::{
    layer::Credentials,
    task::{Caller, Labels, Tenant},
};

impl RespondAsyncBuilder {
    /// Whose a request is. Default: nobody's. A layer outside this one has checked that it is true, or this does. A request of
    /// one whose name is longer than [`Tenant::LONGEST`] is refused with 400.
    pub fn tenant(mut self, tenant: impl Fn(&Parts) -> Option<Tenant> + Send + Sync + 'static) -> Self {
        self.config.tenant = Some(Box::new(tenant));
        self
    }

    /// Who asks: a user's id, as a layer outside this one has found out and put into the request's extensions. Default:
    /// nobody in particular; `None` is the same.
    ///
    /// An `Idempotency-Key` then is its caller's own: two callers that use the same one each have a task. And a request
    /// that is sent twice is known by its caller, in place of its [credentials](Self::credentials), so that a client with a
    /// new token is shown its task. A task id is one for all callers of a [`tenant`](Self::tenant), since it is an address;
    /// to other callers than its own it counts as sent with other credentials.
    ///
    /// Set it wherever users must not see each other's tasks, and above all where they are known by something that is
    /// in no header, such as a certificate. [Requests that are sent
    /// twice](crate::guide::trust#requests-that-are-sent-twice) says what is left without it.
    ///
    /// ```
    /// use http::request::Parts;
    /// use tower_respond_async::{MemoryStore, RespondAsyncLayer, task::Caller};
    ///
    /// #[derive(Clone)]
    /// struct User {
    ///     id: u64,
    /// }
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let who = |head: &Parts| Caller::new(&head.extensions.get::<User>()?.id.to_string()).ok();
    /// let layer = RespondAsyncLayer::builder(MemoryStore::new()).caller(who).build()?;
    /// # drop(layer);
    /// # Ok(()) }
    /// ```
    pub fn caller(mut self, caller: impl Fn(&Parts) -> Option<Caller> + Send + Sync + 'static) -> Self {
        self.config.caller = Some(Box::new(caller));
        self
    }

    /// What becomes of a request that was sent before with other credentials. Default: [`Credentials::Withhold`], since a
    /// client with a new token must not run its request twice, and another one must not be shown the answer.
    ///
    /// The comparison reads the stored request, of duplicates alone. A probe hears of
    /// [`Event::Withheld`](crate::probe::Event::Withheld).
    pub fn credentials(mut self, credentials: Credentials) -> Self {
        self.config.credentials = credentials;
        self
    }

    /// What the content of a request comes down to, for clients whose bytes differ from try to try: the boundaries of
    /// `multipart/form-data`, a time of sending. Default: `Content-Type` and body as they are.
    ///
    /// Two requests under one task id or `Idempotency-Key` are the same if their fingerprints are, and method, host, path
    /// and query. Those stay: what a fingerprint leaves out by mistake then cannot make one request of two that go
    /// elsewhere. It is given the head as it came and the whole body, and asked for requests with a task id or key.
    /// Leave out credentials, as the default does: a token changes when it is renewed. Changed in a later build, it tells
    /// requests under keys of before apart, which are refused for as long as their keys are remembered.
    ///
    /// ```
    /// use bytes::Bytes;
    /// use http::request::Parts;
    /// use tower_respond_async::{MemoryStore, RespondAsyncLayer};
    ///
    /// /// Clients send the digest of what they mean along.
    /// fn content(head: &Parts, body: &Bytes) -> Vec<u8> {
    ///     match head.headers.get("x-content-sha256") {
    ///         Some(digest) => digest.as_bytes().to_vec(),
    ///         None => body.to_vec(),
    ///     }
    /// }
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let layer = RespondAsyncLayer::builder(MemoryStore::new()).fingerprint(content).build()?;
    /// # drop(layer);
    /// # Ok(()) }
    /// ```
    pub fn fingerprint(mut self, fingerprint: impl Fn(&Parts, &Bytes) -> Vec<u8> + Send + Sync + 'static) -> Self {
        self.config.fingerprint = Some(Box::new(fingerprint));
        self
    }

    /// What a request is listed under; `None` is the default, the first segment of its path. Of either,
    /// [`Accepted::FUNCTION_BYTES`](crate::task::Accepted::FUNCTION_BYTES) are kept, and the rest is cut off.
    pub fn function_name(mut self, name: impl Fn(&Parts) -> Option<String> + Send + Sync + 'static) -> Self {
        self.config.function_name = Some(Box::new(name));
        self
    }

    /// Words to find a request's task by. Default: none. A request with more than [`Labels::LONGEST`] of them is refused with
    /// 400.
    pub fn labels(mut self, labels: impl Fn(&Parts) -> Labels + Send + Sync + 'static) -> Self {
        self.config.labels = Some(Box::new(labels));
        self
    }
}
