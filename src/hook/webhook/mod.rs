//! Completions over HTTP: signed, tried for three days, and sent only to permitted addresses.
//!
//! - [`Webhook`]: a URL that the operator sets, for one kind of end or several
//! - [`CallbackPolicy`]: URLs that requests name. Off until you give one to
//!   [`RespondAsyncBuilder::callbacks`](crate::RespondAsyncBuilder::callbacks)
//! - [`verify`]: for receivers of either
//!
//! A try is one POST. It has 5 s for the connection and 15 s in all, and reads at most 16 KiB of the answer. 2xx means
//! delivered. 410 is never tried again. For 429, 502, 503 and 504, `Retry-After` is obeyed. A redirect is a failure,
//! and is not followed. No proxy is used, whatever the environment says. A connection is kept for 30 s; if the receiver
//! has closed it, the same try continues on a fresh one. A failed try is repeated on the
//! [`Schedule`](crate::hook::Schedule), with the same `webhook-id`.
//!
//! After three failures in a row, a destination gets one delivery at a time, at most once a second, until it answers
//! again. So a backlog uses up neither its tries on this destination, nor the processor that tasks need.
//!
//! [`guide::callbacks`](crate::guide::callbacks) describes how to operate webhooks.
//!
//! # Examples
//!
//! Signed webhooks for two kinds of end:
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
