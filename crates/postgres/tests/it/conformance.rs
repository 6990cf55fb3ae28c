//! The conformance suite, on `PostgresStore`.

use tower_respond_async::testing::{conformance, model};

use crate::harness::PostgresHarness;

tower_respond_async::conformance!(postgres, PostgresHarness::new());

#[test]
fn the_store_agrees_with_the_model() {
    conformance::run(&PostgresHarness::new(), async |harness| {
        model::agrees_with_the_model(harness, 0..20).await;
    });
}

#[test]
fn the_store_agrees_with_the_model_whichever_handle_is_used() {
    conformance::run(&PostgresHarness::new(), async |harness| {
        model::agrees_with_the_model_across_reopening(harness, 20..40).await;
    });
}
