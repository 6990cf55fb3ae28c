//! Outages and refusals of a server: callers get the right errors, and nothing is lost.

use std::sync::Arc;

use bytes::Bytes;
use servers::{Postgres, Stop};
use tokio::{sync::mpsc, task::JoinSet};
use tokio_postgres::{Client, NoTls};
use tower_respond_async::{
    TaskStore,
    store::{Claim, Insert, Inserted, Ledger, Settled, StoreErrorKind, StoreResult},
    task::{CapturedRequest, FenceToken, NewTask, Scope},
    testing::conformance,
};
use tower_respond_async_postgres::PostgresStore;

use crate::{
    harness::PostgresHarness,
    traps::{LEASE, a_task, insert_held, success, worker},
};

/// Runs a test with a server of its own, and a store on it.
fn on_a_server(settings: &str, test: impl AsyncFnOnce(&Postgres, Arc<PostgresStore>)) {
    let server = Postgres::start(settings);
    conformance::run(&PostgresHarness::new(), async |_| {
        let store = PostgresStore::connect(&server.url()).await.unwrap();
        test(&server, Arc::new(store)).await;
    });
}

async fn session(server: &Postgres) -> Client {
    let (client, connection) = tokio_postgres::connect(&server.url(), NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

async fn insert(store: &Arc<PostgresStore>, task: NewTask) -> StoreResult<Inserted> {
    Ledger::new(store.clone()).insert(Insert::new(task)).await
}

/// Checks that the answer is the error `Unavailable`, for this reason.
fn refused_for<T: std::fmt::Debug>(answer: StoreResult<T>, why: &str) {
    let error = answer.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Unavailable);
    let cause = std::error::Error::source(&error).map(ToString::to_string);
    let said = format!("{error}: {}", cause.unwrap_or_default());
    assert!(said.contains(why), "{said}");
}

async fn kept(store: &Arc<PostgresStore>) -> u64 {
    let counts = store.counts(&Scope::All).await.unwrap();
    counts.iter().map(|(_, count)| count).sum()
}

/// Inserts that are under way while the server is killed are answered when it is back, and each task is there once.
#[test]
fn a_restart_makes_inserts_slow_and_fails_none() {
    on_a_server("", async |server, store| {
        let (stored, mut storing) = mpsc::unbounded_channel();
        let mut callers = JoinSet::new();
        for _ in 0..8 {
            let (store, stored) = (store.clone(), stored.clone());
            callers.spawn(async move {
                while let Inserted::New(..) = insert(&store, a_task()).await.unwrap() {
                    if stored.send(()).is_err() {
                        return;
                    }
                }
                panic!("a task that is new was known");
            });
        }
        drop(stored);
        let mut told = 0;
        for how in [Stop::Kill, Stop::Immediate, Stop::Fast] {
            for _ in 0..40 {
                storing.recv().await.unwrap();
                told += 1;
            }
            tokio::task::block_in_place(|| {
                server.stop(how);
                server.restart();
            });
        }
        for _ in 0..40 {
            storing.recv().await.unwrap();
            told += 1;
        }
        while storing.try_recv().is_ok() {
            told += 1;
        }
        // Closing the channel ends the callers after their current insert.
        storing.close();
        while storing.recv().await.is_some() {
            told += 1;
        }
        while let Some(ended) = callers.join_next().await {
            ended.unwrap();
        }
        // Each caller has stored one more task, whose `send` failed.
        assert_eq!(kept(&store).await, told + 8);
    });
}

#[test]
fn a_server_that_only_reads_is_not_written_to_and_goes_on_later() {
    on_a_server("", async |server, store| {
        let first = insert_held(&Ledger::new(store.clone()), a_task()).await;
        let admin = session(server).await;
        let only_reads = async |is_so: &str| {
            let set = format!("ALTER SYSTEM SET default_transaction_read_only = {is_so}");
            // This session may write despite the new default.
            admin
                .batch_execute("SET default_transaction_read_only = off")
                .await
                .unwrap();
            admin.batch_execute(&set).await.unwrap();
            admin.batch_execute("SELECT pg_reload_conf()").await.unwrap();
            let session = session(server).await;
            loop {
                let shown = session.query("SHOW default_transaction_read_only", &[]).await.unwrap();
                if shown[0].get::<_, &str>(0) == is_so {
                    return;
                }
            }
        };
        only_reads("on").await;
        refused_for(insert(&store, a_task()).await, "read-only");
        assert_eq!(kept(&store).await, 1, "what is there can be read");
        only_reads("off").await;
        assert!(matches!(insert(&store, a_task()).await.unwrap(), Inserted::New(..)));
        let ledger = Ledger::new(store.clone());
        let _ = ledger.settle(&first, &success()).await.unwrap();
        assert_eq!(kept(&store).await, 2);
    });
}

#[test]
fn a_server_that_refuses_more_connections_is_reported() {
    on_a_server(
        "max_connections = 8\nsuperuser_reserved_connections = 0\nmax_wal_senders = 0\n",
        async |server, store| {
            let mut taken = Vec::new();
            while let Ok((client, connection)) = tokio_postgres::connect(&server.url(), NoTls).await {
                tokio::spawn(connection);
                taken.push(client);
            }
            assert!(!taken.is_empty());
            refused_for(insert(&store, a_task()).await, "too many clients");
            drop(taken);
            assert!(matches!(insert(&store, a_task()).await.unwrap(), Inserted::New(..)));
        },
    );
}

/// As behind a firewall that drops all packets: no connection is closed, and none gets an answer.
#[test]
fn a_server_that_is_silent_is_given_up_and_reached_again_later() {
    on_a_server("", async |server, store| {
        let ledger = Ledger::new(store.clone());
        let held = insert_held(&ledger, a_task()).await;
        server.freeze();
        let outcome = success();
        let (inserted, settled) = tokio::join!(insert(&store, a_task()), ledger.settle(&held, &outcome));
        refused_for(inserted, "cannot be reached");
        refused_for(settled, "did not complete the login");
        server.thaw();
        assert!(matches!(insert(&store, a_task()).await.unwrap(), Inserted::New(..)));
        assert!(matches!(
            ledger.settle(&held, &success()).await.unwrap(),
            Settled::Accepted { .. }
        ));
    });
}

#[test]
fn a_row_that_another_session_has_locked_is_waited_for_up_to_a_limit() {
    on_a_server("", async |server, store| {
        let ledger = Ledger::new(store.clone());
        let held = insert_held(&ledger, a_task()).await;
        let other = session(server).await;
        other
            .batch_execute("BEGIN; SELECT FROM respond_async.task FOR UPDATE")
            .await
            .unwrap();
        refused_for(ledger.settle(&held, &success()).await, "lock timeout");
        other.batch_execute("ROLLBACK").await.unwrap();
        let _ = ledger.settle(&held, &success()).await.unwrap();
        let ended = store.counts(&Scope::All).await.unwrap();
        assert_eq!(ended.of(tower_respond_async::TaskState::Succeeded), 1);
    });
}

/// The store sets its own limit for statements, whatever the settings of the role.
#[test]
fn a_statement_that_takes_too_long_is_ended_by_the_server() {
    on_a_server("", async |server, store| {
        let admin = session(server).await;
        admin
            .batch_execute("ALTER ROLE postgres SET statement_timeout = '1ms'")
            .await
            .unwrap();
        let other = Arc::new(PostgresStore::connect(&server.url()).await.unwrap());
        assert!(matches!(insert(&other, a_task()).await.unwrap(), Inserted::New(..)));
        let slow = "ALTER TABLE respond_async.task ADD CHECK (pg_sleep(10) IS NOT NULL) NOT VALID";
        admin.batch_execute(slow).await.unwrap();
        refused_for(insert(&store, a_task()).await, "statement timeout");
        assert_eq!(kept(&store).await, 1, "what is there can be read");
        admin
            .batch_execute("ALTER TABLE respond_async.task DROP CONSTRAINT task_check")
            .await
            .unwrap();
        assert!(matches!(insert(&store, a_task()).await.unwrap(), Inserted::New(..)));
    });
}

/// A limit on the size of files simulates a full disk.
#[test]
fn a_full_disk_refuses_tasks_and_keeps_those_that_it_took() {
    on_a_server("", async |server, store| {
        let a_large_one = || {
            let mut task = a_task();
            let body = Bytes::from(vec![7; 1 << 20]);
            let request = CapturedRequest::new(
                http::Method::POST,
                "/run".parse().unwrap(),
                http::HeaderMap::new(),
                body,
            );
            task.request = Arc::new(request);
            task
        };
        assert!(matches!(
            insert(&store, a_large_one()).await.unwrap(),
            Inserted::New(..)
        ));
        // A segment of the write-ahead log has 16 MiB, and is allocated before it is written.
        let restart = |start: &dyn Fn()| {
            tokio::task::block_in_place(|| {
                server.stop(Stop::Fast);
                start();
            });
        };
        restart(&|| server.restart_with_files_up_to(17));
        let mut taken = 1;
        let refused = loop {
            match insert(&store, a_large_one()).await {
                Ok(_) => taken += 1,
                Err(refused) => break refused,
            }
            assert!(taken < 40, "the limit is not kept");
        };
        refused_for::<()>(Err(refused), "could not extend file");
        assert_eq!(kept(&store).await, taken);
        restart(&|| server.restart());
        assert!(matches!(
            insert(&store, a_large_one()).await.unwrap(),
            Inserted::New(..)
        ));
        assert_eq!(kept(&store).await, taken + 1);
    });
}

/// An asynchronous standby may not have received a claim. Once promoted, it gives greater tokens than any that the
/// primary gave.
#[test]
fn a_standby_is_not_written_to_and_once_promoted_its_tokens_are_greater() {
    on_a_server("", async |server, store| {
        let ledger = Ledger::new(store.clone());
        assert!(matches!(insert(&store, a_task()).await.unwrap(), Inserted::New(..)));
        let before = insert_held(&ledger, a_task()).await.lease().token;
        tokio::task::block_in_place(|| {
            server.stop(Stop::Fast);
            server.restart_as_standby();
        });
        refused_for(insert(&store, a_task()).await, "recovery");

        let admin = session(server).await;
        let promoted = admin.query("SELECT pg_promote()", &[]).await.unwrap();
        assert!(promoted[0].get::<_, bool>(0));
        let claimed = ledger.claim(Claim::new(worker(), 1, LEASE)).await.unwrap();
        let after = claimed.tasks[0].held.lease().token;
        assert!(
            after > FenceToken::new(before.get() + (1 << 31)),
            "{before:?}, {after:?}"
        );
    });
}

/// The abilities report the server's settings at the time of opening.
#[test]
fn durability_is_read_from_the_server() {
    use tower_respond_async::store::Durability;
    let of = |settings| {
        let mut found = None;
        on_a_server(settings, async |_, store| found = Some(store.abilities().durability));
        found.unwrap()
    };
    assert_eq!(of(""), Durability::Host);
    assert_eq!(of("synchronous_commit = off\n"), Durability::Restart);
}
