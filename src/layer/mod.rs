//! The middleware: separates requests that ask for async from the others.
//!
//! - [`RespondAsyncLayer`] holds the settings and the engine, [`RespondAsync`] is the wrapped application
//! - `dialect` reads the headers that ask for async
//! - `accept` stores the request, and `answer` makes the answer
//! - `duplicate` recognizes requests that were sent before
//! - `replay` runs the request later

mod accept;
mod answer;
mod async_request;
mod body;
mod builder;
mod carry;
mod config;
pub(crate) mod dialect;
#[cfg(feature = "testing")]
pub(crate) mod difference;
mod duplicate;
mod future;
pub(crate) mod headers;
#[expect(
    clippy::module_inception,
    reason = "every middleware folder holds layer, service, future, body"
)]
mod layer;
mod pace;
mod replay;
#[cfg(feature = "axum")]
mod router;
mod service;

pub use self::{
    body::{RequestBody, ResponseBody},
    builder::{Links, RespondAsyncBuilder},
    dialect::Dialect,
    duplicate::Credentials,
    future::ResponseFuture,
    headers::HeaderPolicy,
    layer::RespondAsyncLayer,
    service::RespondAsync,
};
#[cfg(feature = "api")]
pub(crate) use self::{
    dialect::Preferences,
    duplicate::same,
    pace::{Pace, unread},
};
