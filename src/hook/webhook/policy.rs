//! [`CallbackPolicy`]: URLs that requests name.

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
            guard::{Guard, PlaceHost},
            hosts::{Hosts, Turn},
            sender::Sender,
        },
    },
    task::Destination,
};

/// How many callbacks are sent at once, to all hosts together.
const PLACES: usize = 16;

/// Which URLs a request may name to be told how its task ended, and how it is told. Without one, no request may.
///
/// A request names one by `Prefer: respond-async, callback; url="https://..."` or `X-Callback-Url`. Anybody who may send a
/// request can then have this server call addresses, so what may be called is narrow: `https` to port 443 or 80 of hosts
/// whose every address is public, checked when the task is accepted and again at every connection. A URL that may not is
/// refused with 400, in the same words whatever is there.
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
    /// The same, once it is in use.
    shared: std::sync::OnceLock<Arc<Guard>>,
    hosts: Hosts,
    schedule: Schedule,
    sender: Sender,
}

impl CallbackPolicy {
    /// Any public host may be called, and those that are [allowed](Self::allow).
    #[must_use]
    pub fn public() -> Self {
        Self::with(Guard::public())
    }

    /// Only the hosts that are [allowed](Self::allow) may be called.
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

    /// Lets this host be called: a name, an address, or a network as `10.20.0.0/16`, and names that lead into the network
    /// and nowhere else. The rules about scheme, port and address are not for it; those about the URL itself are.
    ///
    /// An address is let through where the URL has it itself: `127.0.0.1` lets `localhost` through no more than before.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] if it is none of these.
    pub fn allow(mut self, host: &str) -> Result<Self, ConfigError> {
        self.guard.allow(host)?;
        Ok(self)
    }

    /// Lets public hosts be called over http too. Signed or not, everybody on the way can read it.
    #[must_use]
    pub fn allow_http(mut self) -> Self {
        self.guard.http = true;
        self
    }

    /// Signs with this secret. Given several times, all of them sign.
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

    /// When a try that failed is followed by another. Default: [`Schedule::default`], ten tries in three days.
    #[must_use]
    pub fn schedule(mut self, schedule: Schedule) -> Self {
        self.schedule = schedule;
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
            // The policy may have become narrower since.
            let (Ok(place), Ok(uri)) = (self.guard().check_url(url), Uri::try_from(url)) else {
                return Tried::new(TryOutcome::Blocked).saying("the address is not one that is called");
            };
            let host = match &place.host {
                PlaceHost::Name(name) => format!("{name}:{}", place.port),
                PlaceHost::Address(address) => format!("{address} {}", place.port),
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

    fn places(&self) -> usize {
        PLACES
    }

    fn limit(&self) -> Duration {
        LIMIT
    }
}

impl Callbacks for CallbackPolicy {
    fn admit<'a>(&'a self, url: &'a str) -> BoxFuture<'a, Result<Arc<str>, CallbackRefused>> {
        Box::pin(async move {
            let place = self.guard().check_url(url)?;
            Uri::try_from(place.url.as_str()).map_err(|_| CallbackRefused)?;
            if !place.is_listed() {
                let found = addresses(&*self.sender.resolver, self.guard(), &place).await;
                // Whether it was not found, or found where it must not be, is for nobody to know.
                found.map_err(|_| CallbackRefused)?;
            }
            Ok(place.url.as_str().into())
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
