//! A look at the front of an index does not step over all removed rows, while an open transaction keeps the server from
//! cleaning them up; and a row before the front is found soon.

use std::time::Duration;

use futures_util::future::join_all;
use servers::Postgres;
use tower_respond_async::{
    TaskStore,
    store::{Claim, Due, Insert, Ledger, PoolClaim, Retention, StoreErrorKind},
    task::PoolName,
    testing::conformance,
};

use crate::{
    explained::{self, Log},
    harness::{PostgresHarness, connect},
    traps::{LEASE, a_task, a_task_with, success, worker},
};

const MANY: usize = 2000;

#[test]
fn dead_index_entries_are_not_scanned_by_every_look() {
    let server = Postgres::start(&format!("{}auto_explain.log_buffers = on\n", explained::SETTINGS));
    let harness = PostgresHarness::at(server.url());
    conformance::run(&harness, async |_| {
        let store = harness.fresh().await;
        let ledger = &Ledger::new(store.clone());
        // With this clock, every look seems slow.
        harness
            .run(
                "CREATE SEQUENCE @.ticks; CREATE OR REPLACE FUNCTION @.now_ms() RETURNS bigint LANGUAGE sql VOLATILE \
                 AS $$ SELECT nextval('@.ticks') * 500 $$",
            )
            .await;
        let other = connect(&server.url()).await;
        other
            .batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT FROM pg_class")
            .await
            .unwrap();
        let tasks = (0..MANY).map(|_| Insert::new(a_task())).collect();
        let _ = ledger.insert_all(tasks).await.unwrap();
        let lives = ledger.claim(Claim::new(worker(), MANY, LEASE)).await.unwrap().tasks;
        assert_eq!(lives.len(), MANY);
        let (end, none) = (success(), Retention::new(Duration::ZERO, Duration::ZERO));
        join_all(lives.iter().map(|life| ledger.settle(&life.held, &end))).await;
        assert_eq!(ledger.prune(none, MANY).await.unwrap().tasks, MANY);

        let log = Log::of(&server);
        let rescue = || Due::Rescue { spared: Vec::new() };
        // After a look that found nothing, the next one begins at the current time.
        let _ = store.claim(claim()).await.unwrap();
        let _ = store.due(rescue(), 10).await.unwrap();
        let _ = store.due(rescue(), 10).await.unwrap();
        let _ = store.due(Due::Prune(none), 10).await.unwrap();
        // A new handle has no fronts yet.
        let new = harness.handle().await;
        let _ = log.statements(&harness.schema());
        macro_rules! blocks {
            ($operation:expr) => {{
                let _ = $operation.await.unwrap();
                let statements = log.statements(&harness.schema());
                statements.iter().map(|of| of.blocks_hit()).sum::<f64>()
            }};
        }
        for (what, again, anew) in [
            ("a claim", blocks!(store.claim(claim())), blocks!(new.claim(claim()))),
            (
                "a rescue",
                blocks!(store.due(rescue(), 10)),
                blocks!(new.due(rescue(), 10)),
            ),
            (
                "a prune",
                blocks!(store.due(Due::Prune(none), 10)),
                blocks!(new.due(Due::Prune(none), 10)),
            ),
        ] {
            assert!(again * 5.0 < anew, "{what} reads {again} blocks, and {anew} anew");
        }

        // A task that becomes visible late, and one in another pool.
        let (late, elsewhere) = (a_task(), a_task_with(|task| task.pool = pool("elsewhere")));
        let ids = [late.id, elsewhere.id];
        let _ = ledger
            .insert_all([late, elsewhere].map(Insert::new).into())
            .await
            .unwrap();
        harness.run("UPDATE @.task SET run_at = 1").await;
        let mut found = Vec::new();
        while found.len() < ids.len() {
            let claimed = store.claim(claim()).await.unwrap();
            found.extend(claimed.tasks.iter().map(|task| task.row.id));
            if found.len() < ids.len() {
                // The claim says when the whole queue will have been looked at.
                tokio::time::sleep(claimed.next_due.expect("there is more to look for")).await;
            }
        }
        assert!(ids.iter().all(|id| found.contains(id)));
        other.batch_execute("COMMIT").await.unwrap();
    });
}

#[test]
fn claims_go_on_while_a_look_at_the_whole_queue_takes_too_long() {
    let server = Postgres::start(explained::SETTINGS);
    let harness = PostgresHarness::at(server.url());
    conformance::run(&harness, async |_| {
        let store = harness.fresh().await;
        let ledger = &Ledger::new(store.clone());
        // A claim that looks at the whole queue exceeds the limit of a statement; the look beside claims takes a
        // second.
        harness
            .run(
                "CREATE OR REPLACE FUNCTION @.now_ms() RETURNS bigint LANGUAGE plpgsql VOLATILE AS $$ BEGIN \
                 IF current_query() LIKE '%fronts AS MATERIALIZED%' THEN PERFORM pg_sleep(0.5); \
                 ELSIF current_query() LIKE '%n.first FROM pools%' THEN PERFORM pg_sleep(9); END IF; \
                 RETURN (extract(epoch FROM clock_timestamp()) * 1000)::bigint; END $$",
            )
            .await;
        let old = a_task();
        let old_id = old.id;
        let _ = ledger.insert(Insert::new(old)).await.unwrap();
        harness.run("UPDATE @.task SET run_at = 1").await;
        let refused = store.claim(claim()).await.unwrap_err();
        assert_eq!(refused.kind(), StoreErrorKind::Unavailable, "{refused}");

        let new = a_task();
        let new_id = new.id;
        let _ = ledger.insert(Insert::new(new)).await.unwrap();
        let claimed = store.claim(claim()).await.unwrap();
        let ids: Vec<_> = claimed.tasks.iter().map(|task| task.row.id).collect();
        assert_eq!(ids, [new_id], "a new task does not wait for the look");
        let found = loop {
            let claimed = store.claim(claim()).await.unwrap();
            if let Some(task) = claimed.tasks.first() {
                break task.row.id;
            }
            tokio::time::sleep(claimed.next_due.expect("the look is under way")).await;
        };
        assert_eq!(found, old_id, "the look finds what is older");
    });
}

fn pool(name: &str) -> PoolName {
    PoolName::new(name).unwrap()
}

fn claim() -> Claim {
    let mut claim = Claim::new(worker(), 10, LEASE);
    claim.pools = vec![PoolClaim::new(PoolName::DEFAULT, 10)];
    claim
}
