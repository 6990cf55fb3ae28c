//! The loss of a server whose standby takes over.

use std::{collections::HashMap, sync::Arc, time::Duration};

use servers::{Postgres, Proxy, Stop, Way};
use tokio::{sync::mpsc, task::JoinSet, task::block_in_place};
use tower_respond_async::{
    RequestId, TaskState, TaskStore,
    store::{Claim, Durability, Held, Insert, Inserted, Ledger, Renewal, Settled, StoreErrorKind, StoreResult, Which},
    task::{NewTask, Scope, WorkerId},
    testing::conformance,
};
use tower_respond_async_postgres::PostgresStore;

use crate::{
    harness::{self, PostgresHarness},
    traps::{LEASE, a_task, insert_held, success, worker},
};

/// A server and its standby, with a proxy between the two, and one between the server and the store.
struct Pair {
    primary: Postgres,
    standby: Postgres,
    between: Proxy,
    proxy: Proxy,
}

impl Pair {
    fn start(is_synchronous: bool) -> Self {
        Self::of(Postgres::start(""), is_synchronous, None)
    }

    fn of(primary: Postgres, is_synchronous: bool, proxy: Option<Proxy>) -> Self {
        let between = Proxy::start(primary.port());
        let standby = primary.standby_by_way_of(between.port());
        if is_synchronous {
            primary.commits_wait_for_standby();
        }
        let proxy = proxy.unwrap_or_else(|| Proxy::start(primary.port()));
        Self {
            primary,
            standby,
            between,
            proxy,
        }
    }

    async fn store(&self) -> Arc<PostgresStore> {
        Arc::new(PostgresStore::connect(&self.proxy.url()).await.unwrap())
    }

    /// Kills the server and promotes the standby. Returns the promoted server and the store's proxy.
    fn fail_over(self) -> (Postgres, Proxy) {
        let Self {
            primary,
            standby,
            proxy,
            ..
        } = self;
        block_in_place(|| {
            primary.stop(Stop::KillAll);
            standby.promote();
            proxy.lead_to(standby.port());
        });
        (standby, proxy)
    }
}

/// Uses the harness only for its runtime: the test starts its own servers.
fn run(test: impl AsyncFnOnce()) {
    conformance::run(&PostgresHarness::new(), async |_| test().await);
}

async fn insert(store: &Arc<PostgresStore>, task: NewTask) -> StoreResult<Inserted> {
    Ledger::new(store.clone()).insert(Insert::new(task)).await
}

async fn stored(store: &Arc<PostgresStore>) -> RequestId {
    let task = a_task();
    let id = task.id;
    assert!(matches!(insert(store, task).await.unwrap(), Inserted::New(..)));
    id
}

async fn is_there(store: &Arc<PostgresStore>, id: RequestId) -> bool {
    !store.rows(&Scope::All, &Which::Id(id)).await.unwrap().is_empty()
}

/// Waits until this query returns true.
async fn until(server: &Postgres, question: &str) {
    let session = harness::connect(&server.url()).await;
    while !session.query(question, &[]).await.unwrap()[0].get::<_, bool>(0) {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

const A_COMMIT_WAITS: &str = "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE wait_event = 'SyncRep')";

/// `crash_loop -- --store postgres --failover --cycles 20` repeats this twenty times.
#[test]
fn what_a_synchronous_standby_takes_over_is_all_that_was_answered() {
    run(async || {
        let mut pair = Pair::start(true);
        let mut last_token = 0;
        for round in 0..2 {
            let store = pair.store().await;
            assert_eq!(store.abilities().durability, Durability::Cluster);
            let (told, mut telling) = mpsc::unbounded_channel();
            let mut callers = JoinSet::new();
            for _ in 0..8 {
                let (ledger, told) = (Ledger::new(store.clone()), told.clone());
                callers.spawn(async move {
                    loop {
                        let held = insert_held(&ledger, a_task()).await;
                        let lease = held.lease();
                        let settled = ledger.settle(&held, &success()).await.unwrap();
                        assert!(matches!(settled, Settled::Accepted { .. }));
                        if told.send(lease).is_err() {
                            return;
                        }
                    }
                });
            }
            drop(told);
            let mut ended = Vec::new();
            for _ in 0..60 {
                ended.push(telling.recv().await.unwrap());
            }
            let (left, proxy) = pair.fail_over();
            for _ in 0..60 {
                ended.push(telling.recv().await.unwrap());
            }
            telling.close();
            while let Some(lease) = telling.recv().await {
                ended.push(lease);
            }
            while let Some(caller) = callers.join_next().await {
                caller.unwrap();
            }
            for lease in &ended {
                let rows = store.rows(&Scope::All, &Which::Id(lease.id)).await.unwrap();
                assert_eq!(rows[0].columns.state, TaskState::Succeeded, "round {round}: {lease:?}");
                assert_eq!(rows[0].columns.token, lease.token);
            }
            let token = insert_held(&Ledger::new(store.clone()), a_task())
                .await
                .lease()
                .token
                .get();
            assert!(token > last_token + (1 << 31), "{token} after {last_token}");
            last_token = token;
            pair = block_in_place(|| Pair::of(left, true, Some(proxy)));
        }
    });
}

#[test]
fn what_no_synchronous_standby_has_is_not_answered() {
    run(async || {
        let pair = Pair::start(true);
        let store = pair.store().await;
        let first = stored(&store).await;
        pair.standby.freeze();
        let refused = insert(&store, a_task()).await.unwrap_err();
        assert_eq!(refused.kind(), StoreErrorKind::Unavailable);
        assert!(is_there(&store, first).await, "reads go on");
        pair.standby.thaw();
        let _ = stored(&store).await;
    });
}

/// A restart makes a commit visible that was still waiting for the standby. An insert that is sent again finds the task
/// stored, and must not be answered before the standby has it. Without `IS_AT_STANDBY` it is answered, and the task is
/// lost.
#[test]
fn a_repeated_insert_is_answered_only_after_a_standby_has_it() {
    run(async || {
        let pair = Pair::start(true);
        let store = pair.store().await;
        let _ = stored(&store).await;
        pair.standby.freeze();
        let (writer, task) = (store.clone(), a_task());
        let id = task.id;
        let inserting = tokio::spawn(async move { insert(&writer, task).await });
        until(&pair.primary, A_COMMIT_WAITS).await;
        block_in_place(|| {
            pair.primary.stop(Stop::KillAll);
            pair.primary.restart();
        });
        harness::until_it_answers(&pair.primary.url()).await;
        let session = harness::connect(&pair.primary.url()).await;
        loop {
            let waits: bool = session.query(A_COMMIT_WAITS, &[]).await.unwrap()[0].get(0);
            if waits || inserting.is_finished() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert!(!inserting.is_finished(), "{:?}", inserting.await);
        pair.standby.thaw();
        // The insert may have timed out.
        let answered = inserting.await.unwrap().is_ok();
        let (_left, _proxy) = pair.fail_over();
        assert!(!answered || is_there(&store, id).await, "what was answered is lost");
    });
}

/// Commits that an asynchronous standby has not received are lost, without further damage: the holder of a lost claim
/// can do nothing under it, and no token is given twice. This fails if tokens do not include the timeline ("@timeline"
/// as 0).
#[test]
fn a_failover_loses_only_commits_the_standby_did_not_receive() {
    run(async || {
        let pair = Pair::start(false);
        let store = pair.store().await;
        assert_eq!(store.abilities().durability, Durability::Host);
        let ledger = Ledger::new(store.clone());
        let mut waiting = Vec::new();
        for _ in 0..6 {
            waiting.push(stored(&store).await);
        }
        let kept = insert_held(&ledger, a_task()).await;
        until(
            &pair.standby,
            "SELECT to_regclass('respond_async.task') IS NOT NULL AND pg_last_wal_replay_lsn() = pg_last_wal_receive_lsn()",
        )
        .await;
        until(&pair.standby, "SELECT count(*) = 7 FROM respond_async.task").await;

        pair.between.silence(Way::ToClient);
        let mut lost = Vec::new();
        for _ in 0..10 {
            lost.push(stored(&store).await);
        }
        // These claims will be lost.
        let claimed = ledger.claim(Claim::new(worker(), 6, LEASE)).await.unwrap();
        let olds: Vec<Held> = claimed.tasks.into_iter().map(|task| task.held).collect();
        let mut register: HashMap<RequestId, u64> = HashMap::new();
        for old in &olds {
            register.insert(old.lease().id, old.lease().token.get());
        }
        assert_eq!(register.len(), 6);
        assert!(matches!(
            ledger.settle(&kept, &success()).await.unwrap(),
            Settled::Accepted { .. }
        ));
        let (_left, _proxy) = pair.fail_over();

        let mut gone = 0;
        for id in &lost {
            gone += usize::from(!is_there(&store, *id).await);
        }
        println!("{gone} of {} answered tasks are lost", lost.len());
        assert_eq!(gone, lost.len(), "the standby had heard of none");
        // The first holder tries before the task is claimed again, the others afterwards.
        assert!(matches!(
            ledger.settle(&olds[0], &success()).await.unwrap(),
            Settled::Fenced
        ));
        let other = WorkerId::new("another", 2);
        let again = ledger.claim(Claim::new(other, 20, LEASE)).await.unwrap();
        for task in &again.tasks {
            let lease = task.held.lease();
            let old = register.insert(lease.id, lease.token.get());
            assert!(old.is_some_and(|old| old < lease.token.get()), "{old:?}, {lease:?}");
        }
        assert_eq!(again.tasks.len(), 6, "all that wait");
        let leases: Vec<_> = olds.iter().map(Held::lease).collect();
        assert_eq!(
            store.renew(leases, LEASE).await.unwrap(),
            vec![Renewal::Lost; 6],
            "no old claim holds"
        );
        for old in &olds {
            let settled = ledger.settle(old, &success()).await.unwrap();
            assert!(matches!(settled, Settled::Fenced), "{settled:?}");
            assert!(!store.append_log(old.lease(), Vec::new()).await.unwrap());
        }
        for task in &again.tasks {
            let settled = ledger.settle(&task.held, &success()).await.unwrap();
            assert!(matches!(settled, Settled::Accepted { .. }), "{settled:?}");
        }
        // Its end was lost, so it is still held.
        let kept = ledger.look_for(&worker(), kept.lease().id).await.unwrap();
        let (_, kept) = kept.unwrap().expect("it is held");
        let settled = ledger.settle(&kept, &success()).await.unwrap();
        assert!(matches!(settled, Settled::Accepted { .. }), "{settled:?}");
        let counts = store.counts(&Scope::All).await.unwrap();
        assert_eq!(counts.of(TaskState::Succeeded), 7);
        assert_eq!(counts.iter().map(|(_, count)| count).sum::<u64>(), 7);
        for id in waiting {
            assert!(is_there(&store, id).await);
        }
    });
}
