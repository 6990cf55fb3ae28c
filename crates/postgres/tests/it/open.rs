//! Connecting: creation and check of the tables, and the errors.

use servers::{Postgres, Stop, a_name};
use tower_respond_async::{
    TaskStore,
    store::{ControlChange, StoreErrorKind},
    testing::conformance,
};
use tower_respond_async_postgres::{Migrate, PostgresStore};

use crate::harness::{PostgresHarness, admin};

fn run(test: impl AsyncFnOnce()) {
    // Start the server before there is a runtime.
    let _ = Postgres::shared();
    conformance::run(&PostgresHarness::new(), async |_| test().await);
}

#[test]
fn several_may_open_an_empty_database_at_once() {
    run(async || {
        let schema = a_name();
        let open = |_: usize| {
            let schema = schema.clone();
            tokio::spawn(async move {
                let builder = PostgresStore::builder().schema(schema).unsafe_durability();
                builder.connect(&Postgres::shared().url()).await
            })
        };
        let opening: Vec<_> = (0..6).map(open).collect();
        for opened in opening {
            let store = opened.await.unwrap().unwrap();
            assert_eq!(store.control(None).await.unwrap().version, 0);
        }
    });
}

#[test]
fn a_schema_that_another_tool_creates_is_checked() {
    run(async || {
        let schema = a_name();
        let builder = || PostgresStore::builder().schema(schema.clone()).unsafe_durability();
        let refused = builder()
            .migrate(Migrate::Check)
            .connect(&Postgres::shared().url())
            .await
            .unwrap_err();
        assert_eq!(refused.kind(), StoreErrorKind::Incompatible);
        assert!(refused.to_string().contains(&schema), "{refused}");
        drop(builder().connect(&Postgres::shared().url()).await.unwrap());
        drop(
            builder()
                .migrate(Migrate::Check)
                .connect(&Postgres::shared().url())
                .await
                .unwrap(),
        );

        let later = format!("UPDATE {schema}.meta SET version = 99");
        admin().await.batch_execute(&later).await.unwrap();
        drop(builder().connect(&Postgres::shared().url()).await.unwrap());
        let newer = format!("UPDATE {schema}.meta SET oldest_reader = 99");
        admin().await.batch_execute(&newer).await.unwrap();
        let refused = builder().connect(&Postgres::shared().url()).await.unwrap_err();
        assert_eq!(refused.kind(), StoreErrorKind::Incompatible);
    });
}

#[test]
fn a_server_that_may_lose_everything_is_refused() {
    run(async || {
        let builder = PostgresStore::builder().schema(a_name());
        let refused = builder.connect(&Postgres::shared().url()).await.unwrap_err();
        assert_eq!(refused.kind(), StoreErrorKind::Unsupported);
        assert!(refused.to_string().contains("fsync"), "{refused}");
    });
}

#[test]
fn a_password_is_shown_nowhere() {
    run(async || {
        let store = PostgresStore::builder().schema(a_name()).unsafe_durability();
        let store = store.connect(&Postgres::shared().url()).await.unwrap();
        let mut shown = format!("{store:?} {:?}", PostgresStore::builder());
        for url in [
            "postgres://me:s3cret@127.0.0.1:1/db",
            "postgres://me:s3cret@host:port/db",
            "postgres://me:s3c@ret:s3cret@/db?s3cret=s3cret",
            "host=x password='s3cret",
            "host=x s3cret",
            "host=127.0.0.1 port=1 user=me password=s3cret",
        ] {
            let refused = PostgresStore::builder().connect(url).await.unwrap_err();
            shown += &format!("{refused} {refused:?}");
        }
        assert!(!shown.contains("s3cret") && !shown.contains("not-shown"), "{shown}");
    });
}

#[test]
fn connections_are_encrypted_to_trusted_servers() {
    run(async || {
        let (server, schema) = (Postgres::shared(), a_name());
        let url = format!("{}?sslmode=require&application_name={schema}", server.url_over_tcp());
        let builder = || PostgresStore::builder().schema(schema.clone()).unsafe_durability();
        let refused = builder().connect(&url).await.unwrap_err();
        assert_eq!(
            refused.kind(),
            StoreErrorKind::Unavailable,
            "nobody knows who signed it"
        );
        let store = builder().trust(server.certificate()).connect(&url).await.unwrap();
        let _ = store.control(None).await.unwrap();
        let encrypted =
            "SELECT s.ssl FROM pg_stat_ssl s JOIN pg_stat_activity a USING (pid) WHERE a.application_name = $1";
        let sessions = admin().await.query(encrypted, &[&schema]).await.unwrap();
        assert!(
            sessions.len() >= 2 && sessions.iter().all(|session| session.get(0)),
            "{sessions:?}"
        );

        let elsewhere = url.replace("127.0.0.1", "localhost");
        let refused = builder()
            .trust(server.certificate())
            .connect(&elsewhere)
            .await
            .unwrap_err();
        assert_eq!(refused.kind(), StoreErrorKind::Unavailable, "it is not for this host");
    });
}

#[test]
fn of_several_hosts_one_that_is_there_is_used() {
    run(async || {
        let url = Postgres::shared()
            .url_over_tcp()
            .replace("127.0.0.1", "127.0.0.1:1,127.0.0.1");
        let builder = PostgresStore::builder().schema(a_name()).unsafe_durability();
        let store = builder
            .connect(&format!("{url}?target_session_attrs=read-write"))
            .await
            .unwrap();
        assert_eq!(store.control(None).await.unwrap().version, 0);
    });
}

#[test]
fn what_was_committed_is_there_however_the_server_ended() {
    let server = Postgres::start("");
    conformance::run(&PostgresHarness::new(), async |_| {
        let store = PostgresStore::connect(&server.url()).await.unwrap();
        let mut version = 0;
        for how in [Stop::Fast, Stop::Immediate, Stop::Kill] {
            let change = ControlChange::new("name".into(), version, Some(format!("{how:?}").into()));
            version = store.control(Some(change)).await.unwrap().version;
            server.stop(how);
            server.restart();
            let read = store.control(None).await.unwrap();
            assert_eq!(read.version, version);
            assert_eq!(read.values.len(), 1);
        }
    });
}

#[test]
fn a_plain_role_that_owns_its_database_is_enough() {
    run(async || {
        let name = a_name();
        let admin = admin().await;
        for made in [
            format!("CREATE ROLE {name} LOGIN"),
            format!("CREATE DATABASE {name} OWNER {name}"),
        ] {
            admin.batch_execute(&made).await.unwrap();
        }
        let url = Postgres::shared().url().replace("postgres:not-shown", &name);
        let url = url.replace("/postgres", &format!("/{name}?schema=of%20its%20own"));
        let store = PostgresStore::builder()
            .unsafe_durability()
            .connect(&url)
            .await
            .unwrap();
        assert_eq!(store.control(None).await.unwrap().version, 0);
        store.close().await;
        drop(store);
        let gone = format!("DROP DATABASE {name} WITH (FORCE)");
        admin.batch_execute(&gone).await.unwrap();
        admin.batch_execute(&format!("DROP ROLE {name}")).await.unwrap();
    });
}
