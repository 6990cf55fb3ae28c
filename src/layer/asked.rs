//! [`Accept`]: an async request that is being accepted.

use std::sync::Arc;

use tokio::time::Instant;

use crate::{
    layer::{config::Shared, dialect::Preferences},
    wire::ApiLinks,
};

/// An async request that is being accepted.
pub(crate) struct Accept {
    pub(crate) shared: Arc<Shared>,
    /// When its head arrived.
    pub(crate) at: Instant,
    pub(crate) preferences: Preferences,
    /// Whether the answer needs `Vary: Prefer`, since the request had a `Prefer` header.
    pub(crate) vary: bool,
    /// The links of the answer, if they differ from the default.
    pub(crate) links: Option<ApiLinks>,
}
