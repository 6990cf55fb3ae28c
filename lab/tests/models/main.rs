//! Hand-made synchronisation of the engine, run in the orders that its threads can take.
//!
//! The files are the engine's own, on `shuttle`'s primitives: `shuttle` decides at every access which thread is next,
//! and notices when no thread can go on. It models one order of all accesses, and `SeqCst`, which these files use,
//! gives exactly that. `loom` also models weaker orders, but treats `SeqCst` as weaker than it is: where a thread
//! writes one flag and reads another, it would report failures that cannot occur. Code behind locks of the standard
//! library and channels of tokio needs no model: `tests/it` tests it.

#![expect(
    clippy::unwrap_used,
    reason = "a test that meets an error it does not expect should fail"
)]

mod engine {
    //! The modules, under the paths that they have in the crate.

    pub(crate) mod sync;

    #[path = "../../../../src/engine/busy.rs"]
    pub(crate) mod busy;
    #[path = "../../../../src/engine/latch.rs"]
    pub(crate) mod latch;
    #[expect(dead_code, reason = "of what the engine asks, the models ask a part")]
    #[path = "../../../../src/engine/slots.rs"]
    pub(crate) mod slots;
}

mod busy;
mod latch;
mod slots;

/// How many orders to try. There are too many for all; a planted fault shows within a hundred.
const ORDERS: usize = 3_000;

/// Tries orders in two ways: random switches between threads, and as few switches as a fault needs.
fn try_orders(model: impl Fn() + Send + Sync + Clone + 'static) {
    shuttle::check_random(model.clone(), ORDERS);
    shuttle::check_pct(model, ORDERS, 3);
}
