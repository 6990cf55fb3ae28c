//! Completions over HTTP: signed, retried for days, and sent nowhere they must not go.
//!
//! - [`Webhook`]: a URL that the operator sets, for one kind of end or several
//! - [`CallbackPolicy`]: URLs that requests name, off until one is given to [`RespondAsyncBuilder::callbacks`](crate::RespondAsyncBuilder::callbacks)
//! - [`verify`]: for whoever receives either
//!
//! A try is one POST: 5 s to be connected, 15 s in all, at most 16 KiB of the answer are read. 2xx is delivered; 410 is
//! never tried again; of 429, 502, 503 and 504, `Retry-After` is obeyed; a redirect is a failure and never followed. No
//! proxy is used, whatever the environment says. A connection is kept for 30 s; if it turns out that the receiver has
//! closed it, the same try goes on with a fresh one. What fails is tried again by its [`Schedule`](crate::hook::Schedule), under
//! the same `webhook-id`.
//!
//! A destination that fails three times in a row is asked by one delivery at a time, at most once a second, until it answers
//! again: a backlog does not use up its tries on it, nor the processor that tasks need.
//!
//! [`guide::callbacks`](crate::guide::callbacks) tells how to live with them.
//!
//! # Examples
//!
//! Signed webhooks for either end:
//!
//! ```
//! use tower_respond_async::{
//!     MemoryStore, RespondAsyncLayer,
//!     hook::{PayloadFormat, webhook::{Secret, Webhook}},
//! };
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let secret: Secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw".parse()?; // from where secrets are kept
//! let layer = RespondAsyncLayer::builder(MemoryStore::new())
//!     .on_success(Webhook::new("https://example.org/dest-succ")?.secret(secret.clone()))
//!     .on_failure(
//!         Webhook::new("https://example.org/dest-fail")?
//!             .named("oncall")?
//!             .secret(secret)
//!             .format(PayloadFormat::CloudEvents),
//!     )
//!     .build()?;
//! # drop(layer);
//! # Ok(()) }
//! ```

mod address;
mod connect;
mod endpoint;
mod guard;
mod hosts;
mod kept;
mod policy;
mod resolve;
mod secret;
mod sender;
mod verify;

pub use self::{
    endpoint::Webhook,
    policy::CallbackPolicy,
    resolve::Resolve,
    secret::{InvalidSecret, Secret},
    verify::{VerifyError, verify, verify_at},
};
