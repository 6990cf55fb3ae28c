//! Synchronization primitives. `lab/tests/models` replaces this module by the primitives of a model checker.

pub(super) use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
};

pub(super) use tokio::sync::Notify;
