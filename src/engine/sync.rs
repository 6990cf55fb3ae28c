//! The primitives of synchronisation under one name. `lab/tests/models` replaces them by those of a model checker.

pub(super) use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
};

pub(super) use tokio::sync::Notify;
