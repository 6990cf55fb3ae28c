//! What hand-made synchronisation is made of, by one name: `lab/tests/models` puts that of a model checker in its place.

pub(super) use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
};

pub(super) use tokio::sync::Notify;
