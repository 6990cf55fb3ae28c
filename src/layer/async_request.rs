//! [`AsyncRequest`]: a request that asks for async.

use std::sync::Arc;

use tokio::time::Instant;

use crate::{
    layer::{config::Shared, dialect::Preferences},
    wire::ApiLinks,
};

/// A request that asks for async, without its head and body: what is needed to answer it.
pub(crate) struct AsyncRequest {
    pub(crate) shared: Arc<Shared>,
    /// When its head arrived.
    pub(crate) at: Instant,
    pub(crate) preferences: Preferences,
    /// Whether the answer needs `Vary: Prefer`, since the request had a `Prefer` header.
    pub(crate) vary: bool,
    /// The links of the answer, if they differ from the default.
    pub(crate) links: Option<ApiLinks>,
}
