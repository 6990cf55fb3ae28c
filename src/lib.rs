//! x
#![cfg_attr(docsrs, feature(doc_cfg))]
mod engine;
pub mod error;
pub mod hook;
mod layer;
pub mod probe;
pub mod store;
pub mod task;
pub mod time;
mod wire;

pub use self::{
    engine::{RateStats, SlotStats, Stats, Tasks, WeakTasks},
    layer::{RequestBody, ResponseBody},
};
