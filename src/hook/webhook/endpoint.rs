//! [`Webhook`]: a URL that the operator set.

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

/// How many completions are sent at once: a receiver that is slow has a few to think about, and no flood.
const PLACES: usize = 4;

/// More than a try ever takes: it has a limit of its own, of 15 s.
pub(super) const LIMIT: Duration = Duration::from_secs(20);

/// A URL that completions are POSTed to, signed. Given to [`RespondAsyncBuilder::on_success`](crate::RespondAsyncBuilder::on_success) and the like;
/// see the [module](crate::hook::webhook) for how.
///
/// The URL is the operator's, so that it may lead anywhere, to this very machine as well. Redirects are not followed.
#[derive(Clone)]
pub struct Webhook {
    uri: Uri,
    name: Destination,
    places: usize,
    schedule: Schedule,
    guard: Arc<Guard>,
    sender: Sender,
}

impl Webhook {
    /// A webhook to this URL, which is not signed as long as it has no [`secret`](Self::secret).
    ///
    /// Its name is made of the URL: another URL is another destination, and what is on its way to the old one stays there
    /// until a process has it again. [`named`](Self::named) gives it one that stays.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] if it is no http or https URL, or has a user, a fragment, or more than 2,048 characters.
    pub fn new(url: &str) -> Result<Self, ConfigError> {
        let refused = |problem: &str| ConfigError::new("Webhook", format!("the URL cannot be used: {problem}"));
        let url = read_url(url).map_err(refused)?;
        let uri = Uri::try_from(url.as_str()).map_err(|error| refused(&error.to_string()))?;
        let digest = Sha256::digest(url.as_str());
        let digest: String = digest.iter().take(6).map(|byte| format!("{byte:02x}")).collect();
        Ok(Self {
            uri,
            name: Destination::new(format!("webhook-{digest}")),
            places: PLACES,
            schedule: Schedule::default(),
            guard: Arc::new(Guard::open()),
            sender: Sender::default(),
        })
    }

    /// A name of one's own, under which deliveries are stored and shown.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] unless it has 1 to 64 letters, digits, `_` and `-`, and is neither `local` nor `callback`.
    pub fn named(mut self, name: &str) -> Result<Self, ConfigError> {
        self.name = checked_name("Webhook", name)?;
        Ok(self)
    }

    /// Signs with this secret. Given several times, all of them sign: add the new one, have the receiver change over, then
    /// leave the old one out.
    #[must_use]
    pub fn secret(mut self, secret: Secret) -> Self {
        self.sender.secrets.push(secret);
        self
    }

    /// What is sent. Default: [`PayloadFormat::Fc`].
    #[must_use]
    pub fn format(mut self, format: PayloadFormat) -> Self {
        self.sender.format = format;
        self
    }

    /// How many bytes of payloads are sent. Default: [`PayloadFormat::LIMIT`].
    #[must_use]
    pub fn payload_limit(mut self, bytes: usize) -> Self {
        self.sender.payload_limit = bytes;
        self
    }

    /// Sends this header as well, such as `Authorization`. Those of the signature cannot be replaced.
    #[must_use]
    pub fn header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.sender.headers.insert(name, value);
        self
    }

    /// When a try that failed is followed by another. Default: [`Schedule::default`], ten tries in three days.
    #[must_use]
    pub fn schedule(mut self, schedule: Schedule) -> Self {
        self.schedule = schedule;
        self
    }

    /// How many are sent at once. Default: 4.
    #[must_use]
    pub fn concurrency(mut self, tries: usize) -> Self {
        self.places = tries;
        self
    }

    /// Trusts this root certificate, DER or PEM, beside those of the operating system.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] if it is none.
    pub fn root_certificate(mut self, certificate: &[u8]) -> Result<Self, ConfigError> {
        self.sender.trust(certificate)?;
        Ok(self)
    }

    /// Looks names up so. Default: as the operating system does.
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

    fn places(&self) -> usize {
        self.places
    }

    fn limit(&self) -> Duration {
        LIMIT
    }
}

/// Shows what a log may show: a URL is often a secret itself.
impl fmt::Debug for Webhook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Webhook")
            .field("name", &self.name)
            .field("host", &self.uri.host())
            .finish_non_exhaustive()
    }
}
