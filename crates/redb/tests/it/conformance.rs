//! The promises of every store.

use tower_respond_async::testing::{conformance, model};

use crate::harness::RedbHarness;

tower_respond_async::conformance!(redb, RedbHarness::new());

#[test]
fn the_store_agrees_with_the_model() {
    conformance::run(&RedbHarness::new(), async |harness| {
        model::agrees_with_the_model(harness, 0..100).await;
    });
}

#[test]
fn the_store_agrees_with_the_model_however_often_it_is_killed() {
    conformance::run(&RedbHarness::new(), async |harness| {
        model::agrees_with_the_model_across_reopening(harness, 0..100).await;
    });
}
