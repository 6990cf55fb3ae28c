//! A request that asked to be run later.

use std::sync::Arc;

use tokio::time::Instant;

use crate::{
    layer::{config::Shared, dialect::Preferences},
    wire::ApiLinks,
};

/// A request that is being accepted.
pub(crate) struct Accept {
    pub(crate) shared: Arc<Shared>,
    /// When its head was there.
    pub(crate) at: Instant,
    pub(crate) preferences: Preferences,
    /// It carried a `Prefer`.
    pub(crate) vary: bool,
    /// The links of its answer, where they are not those of every answer.
    pub(crate) links: Option<ApiLinks>,
}
