//! Stores behind a pooler, which assigns a session to each transaction.

use std::sync::Arc;

use servers::{PgBouncer, Postgres, a_name};
use tower_respond_async::{
    TaskStore,
    store::{Claim, Insert, Inserted, Ledger, LogQuery, Settled, StoreErrorKind},
    task::{LogLine, Page, Progress, Scope, SortOrder, TaskState, WorkerId},
    testing::{conformance, model},
    time::Timestamp,
};
use tower_respond_async_postgres::PostgresStore;

use crate::{
    harness::{PostgresHarness, admin, connect},
    traps::{LEASE, a_task, success},
};

tower_respond_async::conformance!(postgres, PostgresHarness::pooled());

#[test]
fn the_store_agrees_with_the_model() {
    conformance::run(&PostgresHarness::pooled(), async |harness| {
        model::agrees_with_the_model(harness, 40..50).await;
    });
}

#[test]
fn several_may_open_an_empty_database_at_once() {
    conformance::run(&PostgresHarness::pooled(), async |_| {
        let schema = a_name();
        let open = |_: usize| {
            let builder = PostgresStore::builder().schema(schema.clone()).unsafe_durability();
            tokio::spawn(async move { builder.pooled().connect(&PgBouncer::shared().url()).await })
        };
        for opened in (0..6).map(open).collect::<Vec<_>>() {
            let store = opened.await.unwrap().unwrap();
            assert_eq!(store.control(None).await.unwrap().version, 0);
        }
    });
}

/// PgBouncer refuses the startup options of a session, or ignores them. The store detects both as it connects.
#[test]
fn a_store_that_is_not_pooled_says_what_to_do_about_a_pooler() {
    let forgetful = PgBouncer::start(Postgres::shared(), "ignore_startup_parameters = options");
    conformance::run(&PostgresHarness::pooled(), async |_| {
        for pooler in [PgBouncer::shared(), &forgetful] {
            let builder = PostgresStore::builder().schema(a_name()).unsafe_durability();
            let refused = builder.connect(&pooler.url()).await.unwrap_err();
            assert_eq!(refused.kind(), StoreErrorKind::Unsupported, "{refused:?}");
            assert!(
                refused.to_string().contains("PostgresStoreBuilder::pooled"),
                "{refused}"
            );
        }
    });
}

/// With more connections than sessions, most statements run in another session than the one before.
#[test]
fn sessions_are_fewer_than_connections() {
    let pooler = PgBouncer::start(Postgres::shared(), "default_pool_size = 2");
    let harness = PostgresHarness::through(&pooler);
    conformance::run(&harness, async |_| {
        let mut stores = vec![harness.fresh().await];
        for _ in 0..3 {
            stores.push(harness.handle().await);
        }
        let lives = (0..12).map(|number| {
            let store = stores[number % 4].clone();
            tokio::spawn(async move {
                for _ in 0..10 {
                    a_life(&store, WorkerId::new(format!("w{number}"), 1)).await;
                }
            })
        });
        for life in lives.collect::<Vec<_>>() {
            life.await.unwrap();
        }
        let counts = stores[0].counts(&Scope::All).await.unwrap();
        assert_eq!((counts.of(TaskState::Succeeded), counts.queued()), (120, 0));
    });
}

async fn a_life(store: &Arc<PostgresStore>, worker: WorkerId) {
    let ledger = Ledger::new(store.clone());
    let inserted = ledger.insert(Insert::new(a_task())).await.unwrap();
    assert!(matches!(inserted, Inserted::New(..)));
    // Another life may have claimed this task. Then the task that the other life inserted waits instead.
    let mut claimed = Vec::new();
    while claimed.is_empty() {
        claimed = ledger.claim(Claim::new(worker.clone(), 1, LEASE)).await.unwrap().tasks;
    }
    for task in claimed {
        let lease = task.held.lease();
        assert!(store.set_progress(lease, Progress::new(0.5, "half")).await.unwrap());
        let line = LogLine::new(Timestamp::ZERO, "INFO", "test", "a line");
        assert!(store.append_log(lease, vec![line]).await.unwrap());
        let settled = ledger.settle(&task.held, &success()).await.unwrap();
        assert!(matches!(settled, Settled::Accepted { .. }));
        let lines = store.logs(&Scope::All, lease.id, LogQuery::default()).await.unwrap();
        assert_eq!(lines.len(), 1);
    }
    let page = Page::first(5, SortOrder::Descending);
    assert!(
        !store
            .list(&Scope::All, &Default::default(), page)
            .await
            .unwrap()
            .items
            .is_empty()
    );
}

/// Settings of the database change neither the isolation of transactions nor the settings of statements. Every
/// statement calls `now_ms`; here that function checks the settings.
#[test]
fn settings_of_the_database_change_nothing() {
    let database = a_name();
    let urls = [Postgres::shared().url(), PgBouncer::shared().url()]
        .map(|url| format!("{}/{database}", url.strip_suffix("/postgres").unwrap()));
    conformance::run(&PostgresHarness::new(), async |_| {
        let admin = admin().await;
        admin
            .batch_execute(&format!("CREATE DATABASE {database}"))
            .await
            .unwrap();
        for (name, value) in [
            ("default_transaction_isolation", "serializable"),
            ("lock_timeout", "0"),
            ("search_path", "nowhere"),
        ] {
            let set = format!("ALTER DATABASE {database} SET {name} = '{value}'");
            admin.batch_execute(&set).await.unwrap();
        }
        for (url, builder) in urls
            .iter()
            .zip([PostgresStore::builder(), PostgresStore::builder().pooled()])
        {
            let schema = a_name();
            let store = builder
                .schema(&schema[..])
                .unsafe_durability()
                .connect(url)
                .await
                .unwrap();
            let looks = LOOKS.replace('@', &schema);
            connect(&urls[0]).await.batch_execute(&looks).await.unwrap();
            a_life(&Arc::new(store), WorkerId::new("w", 1)).await;
        }
        let drop = format!("DROP DATABASE {database} WITH (FORCE)");
        admin.batch_execute(&drop).await.unwrap();
    });
}

const LOOKS: &str = r#"BEGIN;
    CREATE OR REPLACE FUNCTION @.now_ms() RETURNS bigint LANGUAGE plpgsql AS $$ BEGIN
    IF (current_setting('transaction_isolation'), current_setting('lock_timeout'), trim('"' FROM current_setting('search_path')))
        <> ('read committed', '4s', '') THEN
      RAISE 'isolation is %, lock_timeout %, search_path %', current_setting('transaction_isolation'),
        current_setting('lock_timeout'), current_setting('search_path');
    END IF;
    RETURN (extract(epoch FROM clock_timestamp()) * 1000)::bigint;
    END $$;
    COMMIT"#;
