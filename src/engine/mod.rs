//! The engine.

mod stats;
mod tasks;

use std::sync::Arc;

pub use self::{
    stats::{RateStats, SlotStats, Stats},
    tasks::{Tasks, WeakTasks},
};
use crate::store::TaskStore;

pub(crate) struct Engine {
    pub(crate) store: Arc<dyn TaskStore>,
}
