//! What the application says about a request: its tenant, its caller, its content, its name in lists.

use bytes::Bytes;
use http::request::Parts;

use super::RespondAsyncBuilder;
use crate::{
    layer::Credentials,
    task::{Caller, Labels, Tenant},
};

impl RespondAsyncBuilder {
    /// The tenant of a request. Default: none. A layer outside, or this function, must have verified it. A request
    /// whose tenant is longer than [`Tenant::LONGEST`] is refused with 400.
    pub fn tenant(mut self, tenant: impl Fn(&Parts) -> Option<Tenant> + Send + Sync + 'static) -> Self {
        self.config.tenant = Some(Box::new(tenant));
        self
    }

    /// The caller of a request: the id of a user, which a layer outside has verified and put into the extensions.
    /// Default, and `None`: no caller.
    ///
    /// With it, an `Idempotency-Key` belongs to its caller: two callers with the same key have different tasks. A
    /// request that is sent twice is compared by its caller instead of its [credentials](Self::credentials), so that a
    /// client with a new token gets its task. A task id is the same for all callers of a [`tenant`](Self::tenant),
    /// since it is an address; for other callers it counts as sent with other credentials.
    ///
    /// Set it if users must not see each other's tasks, above all if they are identified by something that is in no
    /// header, such as a certificate. [Requests that are sent twice](crate::guide::trust#requests-that-are-sent-twice)
    /// says what happens without it.
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

    /// What a request gets that was sent before with other credentials. Default: [`Credentials::Withhold`]: a client
    /// with a new token must not run its request twice, and another client must not get the response.
    ///
    /// The comparison reads the stored request, for duplicates only. Probes receive
    /// [`Event::Withheld`](crate::probe::Event::Withheld).
    pub fn credentials(mut self, credentials: Credentials) -> Self {
        self.config.credentials = credentials;
        self
    }

    /// The content of a request, for clients whose bytes differ between tries: by the boundaries of
    /// `multipart/form-data`, or by a time of sending. Default: the `Content-Type` and the body.
    ///
    /// Two requests with the same task id or `Idempotency-Key` are the same if their fingerprints, methods, hosts,
    /// paths and queries are. Method, host, path and query always count, so that a fingerprint that leaves out too much
    /// cannot join requests to different addresses. The function gets the original head and the whole body, and is
    /// called for requests with a task id or a key. Leave out credentials, as the default does: a renewed token is
    /// different. If you change the function, repeated requests no longer match keys of earlier builds, and are refused
    /// for as long as those keys are kept.
    ///
    /// ```
    /// use bytes::Bytes;
    /// use http::request::Parts;
    /// use tower_respond_async::{MemoryStore, RespondAsyncLayer};
    ///
    /// /// Clients send a digest of the content.
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

    /// The function of a request, under which its task is listed. `None` is the default, the first segment of the path.
    /// Only the first [`Accepted::FUNCTION_BYTES`](crate::task::Accepted::FUNCTION_BYTES) are kept.
    pub fn function_name(mut self, name: impl Fn(&Parts) -> Option<String> + Send + Sync + 'static) -> Self {
        self.config.function_name = Some(Box::new(name));
        self
    }

    /// Labels to find the task by. Default: none. A request with more than [`Labels::LONGEST`] bytes of them is refused
    /// with 400.
    pub fn labels(mut self, labels: impl Fn(&Parts) -> Labels + Send + Sync + 'static) -> Self {
        self.config.labels = Some(Box::new(labels));
        self
    }
}
