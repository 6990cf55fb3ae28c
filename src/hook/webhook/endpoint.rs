//! [`Webhook`]: a URL that the operator sets.

use std::{fmt, sync::Arc, time::Duration};

use http::{HeaderName, HeaderValue, Uri};
use sha2::{Digest, Sha256};

use crate::{
    error::{BoxFuture, ConfigError},
    hook::{
        Application, Completion, PayloadFormat, Schedule, Target, Tried,
        target::checked_name,
        webhook::{
            Resolve, Secret,
            guard::{Guard, read_url},
            sender::Sender,
        },
    },
    task::Destination,
};

/// How many completions are sent at once: few enough not to flood a slow receiver.
const CONCURRENCY: usize = 4;

/// Longer than a try takes: the try has a limit of its own, of 15 s.
pub(super) const LIMIT: Duration = Duration::from_secs(20);

/// A URL that completions are POSTed to, signed.
///
/// Give it to [`RespondAsyncBuilder::on_success`](crate::RespondAsyncBuilder::on_success) and the like. The
/// [module](crate::hook::webhook) describes how it is called.
///
/// The URL is the operator's, so it may lead anywhere, also to this machine. Redirects are not followed.
///
/// See the [example of the module](crate::hook::webhook#examples).
#[derive(Clone)]
pub struct Webhook {
    uri: Uri,
    name: Destination,
    concurrency: usize,
    schedule: Schedule,
    guard: Arc<Guard>,
    sender: Sender,
}

impl Webhook {
    /// A webhook to this URL. It is not signed until you add a [`secret`](Self::secret).
    ///
    /// Its name is made of the URL, so another URL is another destination. Completions under the old name wait until a
    /// process has a webhook of that name again. Use [`named`](Self::named) to keep the name when the URL changes.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] if it is not an http or https URL, or has a user, a fragment, or more than 2,048 characters.
    pub fn new(url: &str) -> Result<Self, ConfigError> {
        let refused = |problem: &str| ConfigError::new("Webhook", format!("the URL cannot be used: {problem}"));
        let url = read_url(url).map_err(refused)?;
        let uri = Uri::try_from(url.as_str()).map_err(|error| refused(&error.to_string()))?;
        let digest = Sha256::digest(url.as_str());
        let digest: String = digest.iter().take(6).map(|byte| format!("{byte:02x}")).collect();
        Ok(Self {
            uri,
            name: Destination::new(format!("webhook-{digest}")),
            concurrency: CONCURRENCY,
            schedule: Schedule::default(),
            guard: Arc::new(Guard::open()),
            sender: Sender::default(),
        })
    }

    /// Sets the name under which deliveries are stored and shown.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] unless it has 1 to 64 letters, digits, `_` and `-`, and is neither `local` nor `callback`.
    pub fn named(mut self, name: &str) -> Result<Self, ConfigError> {
        self.name = checked_name("Webhook", name)?;
        Ok(self)
    }

    /// Signs with this secret. If you add several, all of them sign. To change a secret, add the new one, update the
    /// receiver, and then remove the old one.
    #[must_use]
    pub fn secret(mut self, secret: Secret) -> Self {
        self.sender.secrets.push(secret);
        self
    }

    /// The format of the body. Default: [`PayloadFormat::Fc`].
    #[must_use]
    pub fn format(mut self, format: PayloadFormat) -> Self {
        self.sender.format = format;
        self
    }

    /// How many bytes of payloads a body has at most. Default: [`PayloadFormat::LIMIT`].
    #[must_use]
    pub fn payload_limit(mut self, bytes: usize) -> Self {
        self.sender.payload_limit = bytes;
        self
    }

    /// Sends this header too, such as `Authorization`. The headers of the signature cannot be replaced.
    #[must_use]
    pub fn header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.sender.headers.insert(name, value);
        self
    }

    /// When a failed try is followed by another. Default: [`Schedule::default`], ten tries in three days.
    #[must_use]
    pub fn schedule(mut self, schedule: Schedule) -> Self {
        self.schedule = schedule;
        self
    }

    /// How many completions are sent at once. Default: 4. The builder refuses 0.
    #[must_use]
    pub fn concurrency(mut self, tries: usize) -> Self {
        self.concurrency = tries;
        self
    }

    /// Trusts this root certificate, in DER or PEM, in addition to those of the operating system.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] if it is not a certificate.
    pub fn root_certificate(mut self, certificate: &[u8]) -> Result<Self, ConfigError> {
        self.sender.trust(certificate)?;
        Ok(self)
    }

    /// Sets the resolver of names. Default: the operating system's.
    #[must_use]
    pub fn resolver(mut self, resolver: impl Resolve) -> Self {
        self.sender.resolver = Arc::new(resolver);
        self
    }
}

impl Target for Webhook {
    fn name(&self) -> &Destination {
        &self.name
    }

    fn deliver<'a>(&'a self, completion: Completion, _: &'a dyn Application) -> BoxFuture<'a, Tried> {
        Box::pin(async move { self.sender.send(self.uri.clone(), &completion, &self.guard).await })
    }

    fn schedule(&self) -> &Schedule {
        &self.schedule
    }

    fn concurrency(&self) -> usize {
        self.concurrency
    }

    fn limit(&self) -> Duration {
        LIMIT
    }
}

/// Without the URL, which is often a secret itself.
impl fmt::Debug for Webhook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Webhook")
            .field("name", &self.name)
            .field("host", &self.uri.host())
            .finish_non_exhaustive()
    }
}
