//! Settings: how the application identifies a request: its tenant, caller, content, function and labels.

use bytes::Bytes;
use http::request::Parts;

use super::RespondAsyncBuilder;
use crate::{
    layer::Credentials,
    task::{Caller, Labels, Tenant},
};

impl RespondAsyncBuilder {
    /// Sets the function that gives the tenant of a request. Default: no tenant.
    ///
    /// A layer outside, or this function, must have verified the tenant. A request whose tenant is longer than
    /// [`Tenant::LONGEST`] is refused with 400.
    pub fn tenant(mut self, tenant: impl Fn(&Parts) -> Option<Tenant> + Send + Sync + 'static) -> Self {
        self.config.tenant = Some(Box::new(tenant));
        self
    }

    /// Sets the function that gives the caller of a request. Default: no caller.
    ///
    /// The caller is the id of a user, which a layer outside has verified and put into the extensions. `None` means no
    /// caller. With callers:
    ///
    /// - An `Idempotency-Key` belongs to its caller: two callers with the same key have different tasks.
    /// - A request that is sent twice is compared by its caller instead of its [credentials](Self::credentials), so
    ///   that a client with a new token gets its task.
    /// - A task id belongs to the [`tenant`](Self::tenant), not to the caller, since it is an address. A request with
    ///   the task id of another caller counts as sent with other credentials.
    ///
    /// Set it if users must not see each other's tasks, above all if a user is not identified by a header but, for
    /// example, by a certificate. [Requests that are sent
    /// twice](crate::guide::trust#requests-that-are-sent-twice) says what happens without it.
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

    /// Sets the answer to a duplicate with other credentials. Default: [`Credentials::Withhold`].
    ///
    /// With the default, a client with a new token does not run its request twice, and another client does not get the
    /// response. To compare the credentials of a duplicate, the layer reads the stored request. Probes receive
    /// [`Event::Withheld`](crate::probe::Event::Withheld).
    pub fn credentials(mut self, credentials: Credentials) -> Self {
        self.config.credentials = credentials;
        self
    }

    /// Sets the function that gives the content by which a request is compared. Default: `Content-Type` and body.
    ///
    /// Set it if the bytes of a request differ each time that a client sends it: by the boundaries of
    /// `multipart/form-data`, or by a time of sending.
    ///
    /// Two requests with the same task id or `Idempotency-Key` are the same if their fingerprints, methods, hosts,
    /// paths and queries are the same. Method, host, path and query always count, so that a fingerprint that leaves out
    /// too much cannot join requests to different addresses.
    ///
    /// The function gets the original head and the whole body, and is called for requests with a task id or a key.
    /// Leave out credentials, as the default does: a renewed token is different. If you change the function, repeated
    /// requests no longer match the keys of earlier builds, and are refused for as long as those keys are kept.
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

    /// Sets the function under which the task of a request is listed.
    ///
    /// Default, also if `name` returns `None`: the first segment of the path. Only the first
    /// [`Accepted::FUNCTION_BYTES`](crate::task::Accepted::FUNCTION_BYTES) bytes are kept.
    pub fn function_name(mut self, name: impl Fn(&Parts) -> Option<String> + Send + Sync + 'static) -> Self {
        self.config.function_name = Some(Box::new(name));
        self
    }

    /// Sets the labels by which you can find the task of a request. Default: none.
    ///
    /// A request with more than [`Labels::LONGEST`] bytes of labels is refused with 400.
    pub fn labels(mut self, labels: impl Fn(&Parts) -> Labels + Send + Sync + 'static) -> Self {
        self.config.labels = Some(Box::new(labels));
        self
    }
}
