//! The store of `examples/custom_store.rs` keeps every promise, and an application runs on it.

use std::{sync::Arc, time::Duration};

use tower_respond_async::{
    RequestId, TaskStore,
    error::BoxFuture,
    testing::{
        ManualClock,
        conformance::{self, Harness},
        model,
    },
    time::{SystemClock, Timestamp},
};

use crate::examples::{async_post, get, result_of, send};

#[path = "../../examples/custom_store.rs"]
#[expect(dead_code, reason = "its main is for people")]
mod example;

tower_respond_async::conformance!(promises, MapHarness::default());

#[test]
fn the_custom_store_agrees_with_the_model() {
    conformance::run(&MapHarness::default(), async |harness| {
        model::agrees_with_the_model(harness, 0..100).await;
    });
}

#[tokio::test]
async fn an_application_runs_on_it() {
    let app = example::app(example::MapStore::new(SystemClock::new())).unwrap();
    let accepted = send(&app, async_post("/shout", "hello")).await;
    assert_eq!(result_of(&app, &accepted).await.body(), "HELLO");
    assert!(send(&app, get("/tasks")).await.body().starts_with(br#"{"tasks":[{"#));
}

#[derive(Debug)]
struct MapHarness(ManualClock);

impl Default for MapHarness {
    fn default() -> Self {
        Self(ManualClock::new(Timestamp::from_millis(1_700_000_000_000)))
    }
}

impl Harness for MapHarness {
    fn open(&self) -> BoxFuture<'_, Arc<dyn TaskStore>> {
        let store: Arc<dyn TaskStore> = Arc::new(example::MapStore::new(self.0.clone()));
        Box::pin(async { store })
    }

    fn pass(&self, time: Duration) -> BoxFuture<'_, ()> {
        self.0.advance(time);
        Box::pin(async {})
    }

    fn unit(&self) -> Duration {
        Duration::from_secs(1)
    }

    /// Each operation looks at every task there is, so the later rounds take long.
    fn rounds(&self) -> usize {
        300
    }

    fn reopen(&self) -> BoxFuture<'_, Option<Arc<dyn TaskStore>>> {
        Box::pin(async { None })
    }

    fn second(&self) -> BoxFuture<'_, Option<Arc<dyn TaskStore>>> {
        Box::pin(async { None })
    }

    fn corrupt(&self, _: RequestId) -> BoxFuture<'_, bool> {
        Box::pin(async { false })
    }
}
