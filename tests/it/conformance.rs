//! The conformance suite on the memory store.

use tower_respond_async::testing::{
    conformance::{self, MemoryHarness},
    model,
};

tower_respond_async::conformance!(memory, MemoryHarness::new());

#[test]
fn the_memory_store_agrees_with_the_model() {
    conformance::run(&MemoryHarness::new(), async |harness| {
        model::agrees_with_the_model(harness, 0..1000).await;
    });
}
