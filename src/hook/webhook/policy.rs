//! [`CallbackPolicy`]: which URLs requests may name.

use std::{fmt, sync::Arc, time::Duration};

use http::Uri;

use crate::{
    error::{BoxFuture, ConfigError},
    hook::{
        Application, CallbackRefused, Callbacks, Completion, PayloadFormat, Schedule, Target, Tried, TryOutcome,
        webhook::{
            Resolve, Secret,
            connect::addresses,
            endpoint::LIMIT,
            guard::{Guard, UrlHost},
            hosts::{Hosts, Turn},
            sender::Sender,
        },
    },
    task::Destination,
};

/// How many callbacks are sent at once, to all hosts together.
const CONCURRENCY: usize = 16;

/// Which URLs a request may name as a callback, and how they are called. Without a policy, requests may name none.
///
/// A request names a URL by `Prefer: respond-async, callback; url="https://..."` or `X-Callback-Url`. So every client
/// can make this server call addresses. What may be called is therefore narrow: `https` to port 443 or 80 of hosts
/// whose addresses are all public. This is checked when the task is accepted, and again at every connection. Any other
/// URL is refused with 400, in the same words whatever is at the address.
///
/// ```
/// use tower_respond_async::{MemoryStore, RespondAsyncLayer, hook::webhook::{CallbackPolicy, Secret}};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let secret: Secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw".parse()?;
/// let policy = CallbackPolicy::public() // any public host
///     .allow("hooks.internal")?         // and this one, wherever it is
///     .allow("10.20.0.0/16")?           // and these
///     .secret(secret);
/// let layer = RespondAsyncLayer::builder(MemoryStore::new()).callbacks(policy).build()?;
/// # drop(layer);
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct CallbackPolicy {
    guard: Guard,
    /// A copy of `guard`, made at first use.
    shared: std::sync::OnceLock<Arc<Guard>>,
    hosts: Hosts,
    schedule: Schedule,
    sender: Sender,
}

impl CallbackPolicy {
    /// Permits any public host, and the hosts that you [allow](Self::allow).
    #[must_use]
    pub fn public() -> Self {
        Self::with(Guard::public())
    }

    /// Permits only the hosts that you [allow](Self::allow).
    #[must_use]
    pub fn only() -> Self {
        Self::with(Guard::default())
    }

    fn with(guard: Guard) -> Self {
        Self {
            guard,
            shared: std::sync::OnceLock::new(),
            hosts: Hosts::default(),
            schedule: Schedule::default(),
            sender: Sender::default(),
        }
    }

    /// Permits a host by name or address, or a network such as `10.20.0.0/16` and names that lead into this network
    /// only. The rules about scheme, port and address do not apply to them; the rules about the URL itself do.
    ///
    /// An address is permitted only where the URL itself has it: `127.0.0.1` does not permit `localhost`.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] if `host` is none of these.
    pub fn allow(mut self, host: &str) -> Result<Self, ConfigError> {
        self.guard.allow(host)?;
        Ok(self)
    }

    /// Permits public hosts over http, too. Anyone on the network path can read what is sent, signed or not.
    #[must_use]
    pub fn allow_http(mut self) -> Self {
        self.guard.http = true;
        self
    }

    /// Signs with this secret. If you add several, all of them sign.
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

    /// When a failed try is followed by another. Default: [`Schedule::default`], ten tries in three days.
    #[must_use]
    pub fn schedule(mut self, schedule: Schedule) -> Self {
        self.schedule = schedule;
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

    fn guard(&self) -> &Arc<Guard> {
        self.shared.get_or_init(|| Arc::new(self.guard.clone()))
    }
}

impl Target for CallbackPolicy {
    fn name(&self) -> &Destination {
        const CALLBACK: &Destination = &Destination::CALLBACK;
        CALLBACK
    }

    fn deliver<'a>(&'a self, completion: Completion, _: &'a dyn Application) -> BoxFuture<'a, Tried> {
        Box::pin(async move {
            let Some(url) = completion.callback() else {
                return Tried::new(TryOutcome::GivenUp).saying("the request named no URL");
            };
            // The policy may have become narrower since the task was accepted.
            let (Ok(checked), Ok(uri)) = (self.guard().check_url(url), Uri::try_from(url)) else {
                return Tried::new(TryOutcome::Blocked).saying("the address is not one that is called");
            };
            let host = match &checked.host {
                UrlHost::Name(name) => format!("{name}:{}", checked.port),
                UrlHost::Address(address) => format!("{address} {}", checked.port),
            };
            let turn = match self.hosts.enter(&host) {
                Turn::Now(turn) => turn,
                Turn::Later(wait) => return Tried::new(TryOutcome::Postponed(wait)),
            };
            let tried = self.sender.send(uri, &completion, self.guard()).await;
            turn.over(tried.outcome);
            tried
        })
    }

    fn schedule(&self) -> &Schedule {
        &self.schedule
    }

    fn concurrency(&self) -> usize {
        CONCURRENCY
    }

    fn limit(&self) -> Duration {
        LIMIT
    }
}

impl Callbacks for CallbackPolicy {
    fn admit<'a>(&'a self, url: &'a str) -> BoxFuture<'a, Result<Arc<str>, CallbackRefused>> {
        Box::pin(async move {
            let checked = self.guard().check_url(url)?;
            Uri::try_from(checked.url.as_str()).map_err(|_| CallbackRefused)?;
            if !checked.is_listed() {
                let found = addresses(&*self.sender.resolver, self.guard(), &checked).await;
                // The refusal does not show whether the name has no address, or one that is not permitted.
                found.map_err(|_| CallbackRefused)?;
            }
            Ok(checked.url.as_str().into())
        })
    }
}

impl fmt::Debug for CallbackPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CallbackPolicy")
            .field("guard", &self.guard)
            .finish_non_exhaustive()
    }
}
