//! x
#![cfg_attr(docsrs, feature(doc_cfg))]
pub mod error;
pub mod hook;
pub mod probe;
pub mod store;
pub mod task;
#[cfg(feature = "testing")]
pub mod testing;
pub mod time;
