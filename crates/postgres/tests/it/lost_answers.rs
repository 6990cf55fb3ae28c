//! The server runs a statement, and its answer is lost with the connection.

use std::sync::Arc;

use servers::{PgBouncer, Postgres, Proxy};
use tower_respond_async::{
    TaskState, TaskStore,
    store::{Claim, Insert, Inserted, Ledger, Settled, TakenUp},
    task::{IdempotencyKey, Scope},
    testing::conformance,
};
use tower_respond_async_postgres::PostgresStore;

use crate::{
    harness::PostgresHarness,
    traps::{LEASE, a_task, a_task_with, insert_held, success, worker},
};

/// Runs a test twice: with sessions of the store's own, and behind a pooler.
fn behind_a_proxy(test: impl AsyncFn(&Proxy, Arc<PostgresStore>)) {
    let server = Postgres::start("fsync = off\n");
    let pooler = PgBouncer::start(&server, "");
    for (port, is_pooled) in [(server.port(), false), (pooler.port(), true)] {
        let proxy = Proxy::start(port);
        conformance::run(&PostgresHarness::new(), async |_| {
            let builder = PostgresStore::builder().schema(format!("pooled_{is_pooled}"));
            let builder = builder.unsafe_durability();
            let builder = if is_pooled { builder.pooled() } else { builder };
            test(&proxy, Arc::new(builder.connect(&proxy.url()).await.unwrap())).await;
        });
    }
}

fn a_keyed_insert() -> Insert {
    Insert::new(a_task_with(|task| {
        task.key = Some(IdempotencyKey::new(&task.id.to_string()).unwrap());
    }))
}

/// Without `is_ours` in `insert.rs` this fails: the new task is then taken for a known one.
#[test]
fn an_insert_whose_answer_was_lost_counts_as_new() {
    behind_a_proxy(async |proxy, store| {
        let ledger = Ledger::new(store.clone());
        let insert = async |insert: Insert| {
            let before = proxy.swallowed();
            proxy.swallow_answers();
            let inserted = ledger.insert(insert).await.unwrap();
            assert!(matches!(inserted, Inserted::New(..)), "{inserted:?}");
            assert!(proxy.swallowed() > before, "its answer was lost");
        };
        // Opens the connections whose answers will be lost; inserts with a key have one of their own.
        let _ = ledger.insert(Insert::new(a_task())).await.unwrap();
        let _ = ledger.insert(a_keyed_insert()).await.unwrap();
        insert(Insert::new(a_task())).await;
        insert(a_keyed_insert()).await;
        insert(Insert::new(a_task()).claimed_by(worker(), LEASE)).await;
        let counts = store.counts(&Scope::All).await.unwrap();
        assert_eq!((counts.of(TaskState::Enqueued), counts.of(TaskState::Running)), (4, 1));
    });
}

/// Without `is_ours` in `commit.rs` this fails: the accepted end is then taken for fenced.
#[test]
fn an_end_whose_answer_was_lost_is_accepted() {
    behind_a_proxy(async |proxy, store| {
        let ledger = Ledger::new(store.clone());
        let held = [(); 2].map(|()| a_task());
        for (number, task) in held.into_iter().enumerate() {
            let held = insert_held(&ledger, task).await;
            // The first one opens the connection.
            if number > 0 {
                proxy.swallow_answers();
            }
            let settled = ledger.settle(&held, &success()).await.unwrap();
            assert!(matches!(settled, Settled::Accepted { .. }), "{settled:?}");
        }
        assert!(proxy.swallowed() > 0, "its answer was lost");
        let counts = store.counts(&Scope::All).await.unwrap();
        assert_eq!(counts.of(TaskState::Succeeded), 2);
    });
}

/// The store does not repeat the claim: no worker would run the tasks of the first one.
#[test]
fn a_claim_that_was_made_and_not_answered_is_found() {
    behind_a_proxy(async |proxy, store| {
        let ledger = Ledger::new(store.clone());
        let first = ledger.claim(Claim::new(worker(), 1, LEASE)).await.unwrap();
        assert_eq!(first.tasks.len(), 0);
        let task = a_task();
        let id = task.id;
        let _ = ledger.insert(Insert::new(task)).await.unwrap();
        proxy.swallow_answers();
        let claimed = ledger.claim(Claim::new(worker(), 1, LEASE)).await;
        assert!(claimed.is_err(), "{claimed:?}");
        let lost = ledger.lost_claims(&worker(), LEASE, |_| false).await.unwrap();
        assert_eq!(lost.len(), 1);
        match ledger.take_up(&lost[0]).await.unwrap() {
            TakenUp::Task(task) => assert_eq!(task.record.id, id),
            other => panic!("{other:?}"),
        }
    });
}
