//! A request that asks to run later.

use std::sync::Arc;

use tokio::time::Instant;

use crate::{
    layer::{config::Shared, dialect::Preferences},
    wire::ApiLinks,
};

/// A request that is being accepted.
pub(crate) struct Accept {
    pub(crate) shared: Arc<Shared>,
    /// When its head arrived.
    pub(crate) at: Instant,
    pub(crate) preferences: Preferences,
    /// It carried a `Prefer`.
    pub(crate) vary: bool,
    /// The links of its answer, if they differ from the default.
    pub(crate) links: Option<ApiLinks>,
}
