//! x
#![cfg_attr(docsrs, feature(doc_cfg))]
#[cfg(feature = "api")]
pub mod api;
mod engine;
pub mod error;
pub mod hook;
mod layer;
pub mod probe;
pub mod store;
pub mod task;
pub mod time;
mod wire;

#[cfg(feature = "api")]
pub use self::api::{Access, Authorizer, BearerToken, TaskApi, allow_everyone};
pub use self::{
    engine::{RateStats, SlotStats, Stats, Tasks, WeakTasks},
    layer::{RequestBody, ResponseBody},
};
