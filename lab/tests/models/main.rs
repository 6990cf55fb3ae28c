//! Hand-made synchronisation of the engine, run in the orders that its threads can take.
//!
//! The files are the engine's own; only what they are made of is another: `shuttle`'s, which decides at every access
//! whose turn is next, and finds out when nobody can go on. It knows one order of all accesses, and that is what
//! `SeqCst` gives those that these files rely on. (`loom` knows weaker orders too, but takes `SeqCst` for less than it
//! is: who writes one flag and reads another would be told of failures that cannot be.) What is behind locks of the
//! standard library and channels of tokio needs no model: it is tested in `tests/it`.

#![expect(
    clippy::unwrap_used,
    reason = "a test that meets an error it does not expect should fail"
)]

mod engine {
    //! What the files find under the path that they have in the crate.

    pub(crate) mod sync;

    #[path = "../../../../src/engine/busy.rs"]
    pub(crate) mod busy;
    #[expect(dead_code, reason = "of what the engine asks, the models ask a part")]
    #[path = "../../../../src/engine/slots.rs"]
    pub(crate) mod slots;
    #[path = "../../../../src/engine/told.rs"]
    pub(crate) mod told;
}

mod busy;
mod slots;
mod told;

/// How many orders are tried: all are too many, and a fault that was planted shows within a hundred.
const ORDERS: usize = 3_000;

/// Tries orders in two ways: switching between threads anywhere, and as seldom as a fault needs.
fn try_orders(model: impl Fn() + Send + Sync + Clone + 'static) {
    shuttle::check_random(model.clone(), ORDERS);
    shuttle::check_pct(model, ORDERS, 3);
}
