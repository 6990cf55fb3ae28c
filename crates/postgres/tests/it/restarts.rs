//! Restarts of the server between any two steps.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use servers::{Postgres, Stop};
use tower_respond_async::{
    RequestId, TaskStore,
    error::BoxFuture,
    testing::{
        conformance::{self, Harness},
        model,
    },
};

use crate::harness::{self, PostgresHarness};

/// A harness that restarts the server at about every tenth [`pass`](Harness::pass).
#[derive(Debug)]
struct Restarts {
    harness: PostgresHarness,
    server: Arc<Postgres>,
    random: Mutex<fastrand::Rng>,
    count: AtomicU32,
}

impl Restarts {
    fn perhaps(&self) -> bool {
        if self.random.lock().unwrap().u8(0..10) > 0 {
            return false;
        }
        let count = self.count.fetch_add(1, Ordering::Relaxed);
        self.server
            .stop([Stop::Fast, Stop::Immediate, Stop::Kill][count as usize % 3]);
        self.server.restart();
        true
    }
}

impl Harness for Restarts {
    fn pass(&self, time: Duration) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            if self.perhaps() {
                harness::until_it_answers(&self.server.url()).await;
            }
            self.harness.pass(time).await;
        })
    }

    fn open(&self) -> BoxFuture<'_, Arc<dyn TaskStore>> {
        self.harness.open()
    }

    fn set_back(&self, by: Duration) -> BoxFuture<'_, bool> {
        self.harness.set_back(by)
    }

    fn unit(&self) -> Duration {
        self.harness.unit()
    }

    fn rounds(&self) -> usize {
        self.harness.rounds()
    }

    fn reopen(&self) -> BoxFuture<'_, Option<Arc<dyn TaskStore>>> {
        self.harness.reopen()
    }

    fn second(&self) -> BoxFuture<'_, Option<Arc<dyn TaskStore>>> {
        self.harness.second()
    }

    fn corrupt(&self, id: RequestId) -> BoxFuture<'_, bool> {
        self.harness.corrupt(id)
    }

    fn make_newer(&self, id: RequestId) -> BoxFuture<'_, bool> {
        self.harness.make_newer(id)
    }
}

/// The server is shut down, stopped at once, or killed. Everything that was acknowledged is there, and no operation
/// fails.
#[test]
fn the_store_agrees_with_the_model_while_the_server_is_restarted() {
    let server = Arc::new(Postgres::start("fsync = off\nfull_page_writes = off\n"));
    let restarts = Restarts {
        harness: PostgresHarness::at(server.url()),
        server,
        random: Mutex::new(fastrand::Rng::with_seed(60)),
        count: AtomicU32::new(0),
    };
    conformance::run(&restarts, async |harness| {
        model::agrees_with_the_model(harness, 60..66).await;
    });
    assert!(restarts.count.into_inner() >= 3, "each way to end came at least once");
}
