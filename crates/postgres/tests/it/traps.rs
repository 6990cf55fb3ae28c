//! Details of the statements that no other test covers. Each test fails if one of them is missing.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode, Uri};
use tower_respond_async::{
    TaskStore,
    store::{
        Change, Claim, Committed, DeliveryClaim, DeliverySettlement, Durability, Held, Insert, Inserted, Ledger,
        LogQuery, News, PoolClaim, Renewal, Settled, TakenUp, Which,
    },
    task::{
        CapturedRequest, CapturedResponse, Conditions, Counts, DeliveryTry, Destination, FenceToken, LeaseRef, LogLine,
        NewTask, RequestId, Scope, Subscription, Subscriptions, Tenant, WorkerId,
        delivery::DeliveryOutcome,
        lifecycle::{Outcome, Stop},
    },
    testing::conformance::{self, Harness as _},
    time::Timestamp,
};
use tower_respond_async_postgres::PostgresStore;
use uuid::Uuid;

use crate::harness::{PostgresHarness, admin};

pub(crate) const LEASE: Duration = Duration::from_secs(60);

pub(crate) fn a_task() -> NewTask {
    let mut random = [0; 10];
    fastrand::fill(&mut random);
    let id = RequestId::from_parts(Timestamp::from_millis(1_700_000_000_000), random);
    let body = Bytes::from_static(b"body");
    let request = CapturedRequest::new(Method::POST, Uri::from_static("/run"), HeaderMap::new(), body);
    NewTask::new(id, Arc::new(request))
}

/// A task with changes.
pub(crate) fn a_task_with(change: impl FnOnce(&mut NewTask)) -> NewTask {
    let mut task = a_task();
    change(&mut task);
    task
}

pub(crate) fn success() -> Outcome {
    let body = Bytes::from_static(b"done");
    Outcome::Succeeded {
        response: Arc::new(CapturedResponse::new(StatusCode::OK, HeaderMap::new(), body)),
    }
}

pub(crate) fn worker() -> WorkerId {
    WorkerId::new("w", 1)
}

pub(crate) async fn insert_held(ledger: &Ledger, task: NewTask) -> Held {
    let insert = Insert::new(task).claimed_by(worker(), LEASE);
    match ledger.insert(insert).await.unwrap() {
        Inserted::New(_, Some(held)) => held,
        other => panic!("the task is new and held, but the answer was {other:?}"),
    }
}

fn uuid(id: RequestId) -> Uuid {
    Uuid::from_bytes(*id.as_bytes())
}

/// Runs a test with a store in a schema of its own, with its own sessions.
fn with_sessions(test: impl AsyncFnOnce(&PostgresHarness, Arc<PostgresStore>)) {
    with(PostgresHarness::new(), test);
}

/// Runs a test twice: with such a store, and with one behind a pooler.
fn with_store(test: impl AsyncFn(&PostgresHarness, Arc<PostgresStore>)) {
    with(PostgresHarness::new(), &test);
    with(PostgresHarness::pooled(), test);
}

fn with(harness: PostgresHarness, test: impl AsyncFnOnce(&PostgresHarness, Arc<PostgresStore>)) {
    conformance::run(&harness, async |_| {
        let store = harness.fresh().await;
        test(&harness, store).await;
    });
}

/// An asynchronous standby that takes over may not have received a claim. The next claim makes the same version of the
/// row, with a token of a later timeline.
#[test]
fn the_holder_of_a_claim_that_a_failover_lost_is_fenced() {
    with_store(async |harness, store| {
        let ledger = Ledger::new(store.clone());
        let held = insert_held(&ledger, a_task()).await;
        assert!(
            held.lease().token > FenceToken::new(1 << 32),
            "the token tells the timeline"
        );
        let id = uuid(held.lease().id);
        harness
            .run(&format!(
                "UPDATE @.task SET token = token + (1::int8 << 32) WHERE id = '{id}'"
            ))
            .await;
        assert!(matches!(
            ledger.settle(&held, &success()).await.unwrap(),
            Settled::Fenced
        ));
        assert_eq!(
            store
                .counts(&Scope::All)
                .await
                .unwrap()
                .of(tower_respond_async::TaskState::Running),
            1
        );
    });
}

/// The later claim is not committed yet when the line arrives, and so not visible. The line must wait for it.
#[test]
fn a_line_of_a_log_waits_for_a_claim_that_is_on_its_way() {
    with_store(async |harness, store| {
        let ledger = Ledger::new(store.clone());
        let lease = insert_held(&ledger, a_task()).await.lease();
        let claim = format!(
            "BEGIN; UPDATE @.task SET token = token + 1, version = version + 1 WHERE id = '{}'",
            uuid(lease.id)
        );
        harness.run(&claim).await;
        let line = LogLine::new(Timestamp::ZERO, "INFO", "test", "from a zombie");
        let writer = store.clone();
        let append = tokio::spawn(async move { writer.append_log(lease, vec![line]).await.unwrap() });
        until_a_session_waits(harness, || append.is_finished()).await;
        harness.run("COMMIT").await;
        assert!(!append.await.unwrap(), "the claim holds no more");
        let lines = store.logs(&Scope::All, lease.id, LogQuery::default()).await.unwrap();
        assert_eq!(lines, []);
    });
}

/// The claim of a completion does not change the version, and is not visible before its commit. A change that was
/// decided on the row before it must wait.
#[test]
fn a_change_of_a_completion_waits_for_a_claim_that_is_on_its_way() {
    with_store(async |harness, store| {
        let ledger = Ledger::new(store.clone());
        let hook = Destination::new("hook");
        let subscription = Subscription {
            destination: hook.clone(),
            on: Conditions::ALL,
        };
        let told = a_task_with(|task| task.subscriptions = Subscriptions::from([subscription]));
        let held = insert_held(&ledger, told).await;
        let _ = ledger.settle(&held, &success()).await.unwrap();
        let id = held.lease().id;
        let claim = DeliveryClaim::new(vec![(hook, 1)], LEASE);
        let claimed = ledger.claim_deliveries(claim).await.unwrap().remove(0);
        harness
            .run(&format!(
                "BEGIN; UPDATE @.outbox SET token = token + 1, claimed = true WHERE id = '{}'",
                uuid(id)
            ))
            .await;
        let tried = DeliveryTry::new(store.now());
        let settlement = DeliverySettlement::new(claimed, DeliveryOutcome::Delivered, tried);
        let settle = tokio::spawn(async move { ledger.settle_delivery(settlement).await.unwrap() });
        until_a_session_waits(harness, || settle.is_finished()).await;
        harness.run("COMMIT").await;
        assert!(!settle.await.unwrap(), "somebody else delivers it by now");
    });
}

/// Waits until a session in the schema of the test waits for a lock, or until `has_ended`.
async fn until_a_session_waits(harness: &PostgresHarness, has_ended: impl Fn() -> bool) {
    let waits = "SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND application_name = $1";
    // Another connection: in the harness's open transaction, `pg_stat_activity` does not change after the first read.
    let looks = admin().await;
    while !has_ended() {
        let waiting = looks.query(waits, &[&harness.schema()]).await.unwrap();
        if !waiting.is_empty() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// A refused batch changes no counts.
#[test]
fn a_fenced_batch_leaves_the_counters_alone() {
    with_store(async |_, store| {
        let ledger = Ledger::new(store.clone());
        let held = insert_held(&ledger, a_task()).await;
        let row = store
            .rows(&Scope::All, &Which::Id(held.lease().id))
            .await
            .unwrap()
            .remove(0);
        let mut ended = row.clone();
        let record = Arc::make_mut(ended.restore());
        record.settle(held.lease().token, &success(), store.now()).unwrap();
        let change = Change::between(&row, ended.record.clone(), store.now());
        assert!(matches!(store.commit(change).await.unwrap(), Committed::Done));
        // Another end, decided on the same row.
        let mut failed = row.clone();
        let record = Arc::make_mut(failed.restore());
        record
            .settle(held.lease().token, &Outcome::Stopped, store.now())
            .unwrap();
        let change = Change::between(&row, failed.record.clone(), store.now());
        let before = store.counts(&Scope::All).await.unwrap();
        let refused = store.commit_all(vec![change.clone(), change]).await.unwrap();
        assert!(
            refused
                .iter()
                .all(|refused| matches!(refused, Committed::Stale(Some(_))))
        );
        assert_eq!(store.counts(&Scope::All).await.unwrap(), before);
    });
}

/// One worker claims through two handles at the same moment: the constraint prevents a second suspect task, and both
/// claims succeed.
#[test]
fn one_worker_at_two_handles_has_one_suspect() {
    with_store(async |harness, store| {
        let (ledger, other) = (Ledger::new(store.clone()), harness.handle().await);
        for round in 0..20 {
            for _ in 0..4 {
                let insert = Insert::new(a_task_with(|task| task.crash_allowance = 100));
                let _ = ledger
                    .insert(insert.claimed_by(WorkerId::new("dead", 1), Duration::from_millis(1)))
                    .await
                    .unwrap();
            }
            tower_respond_async::testing::conformance::Harness::pass(harness, Duration::from_secs(1)).await;
            let _ = ledger.rescue(100).await.unwrap();
            let this = WorkerId::new(format!("w{round}"), 1);
            let claim = || Claim::new(this.clone(), 3, LEASE);
            let (first, second) = tokio::join!(store.claim(claim()), other.claim(claim()));
            let tasks = [first.unwrap().tasks, second.unwrap().tasks].map(|tasks| tasks.len());
            assert_eq!(tasks.iter().sum::<usize>(), 1, "{tasks:?}");
        }
    });
}

/// The server accepts no zero character in a text. The name of a tenant may have one.
#[test]
fn any_text_can_be_a_tenant() {
    with_store(async |_, store| {
        let ledger = Ledger::new(store.clone());
        let names = ["", "a\0b", "a\u{1}0b", "two\nlines", "it's \"quoted\" \\"];
        for name in names {
            let task = a_task_with(|task| task.tenant = Some(Tenant::new(name)));
            assert!(matches!(
                ledger.insert(Insert::new(task)).await.unwrap(),
                Inserted::New(..)
            ));
        }
        for name in names {
            let scope = Scope::One(Some(Tenant::new(name)));
            let listed = ledger.list_all(&scope, &Default::default()).await.unwrap();
            assert_eq!(
                listed.iter().map(|task| task.tenant.clone()).collect::<Vec<_>>(),
                [Some(Tenant::new(name))]
            );
            let counts: Counts = store.counts(&scope).await.unwrap();
            assert_eq!((counts.queued(), counts.oldest_queued), (1, Some(Duration::ZERO)));
        }
    });
}

/// The store replaces connections that end.
#[test]
fn a_store_whose_sessions_were_ended_goes_on() {
    with_store(async |harness, store| {
        let ledger = Ledger::new(store.clone());
        let held = insert_held(&ledger, a_task()).await;
        let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = $1";
        let _ = harness.admin().await.query(end, &[&harness.schema()]).await.unwrap();
        let settled = ledger.settle(&held, &success()).await.unwrap();
        assert!(matches!(settled, Settled::Accepted { .. }));
        while store.abilities().notifies && !store.news().await.missed {}
        assert_eq!(store.abilities().durability, Durability::Restart, "fsync is off");
    });
}

/// The session ends during a group: the group is sent again, and its tasks count as new.
#[test]
fn an_insert_whose_session_ends_is_answered_all_the_same() {
    with_store(async |harness, store| {
        let ledger = Ledger::new(store.clone());
        let held = insert_held(&ledger, a_task()).await;
        harness.run("BEGIN; LOCK TABLE @.tally").await;
        let (writer, task) = (Ledger::new(store.clone()), a_task());
        let insert = tokio::spawn(async move { writer.insert(Insert::new(task)).await });
        let settle = tokio::spawn(async move { ledger.settle(&held, &success()).await });
        until_a_session_waits(harness, || insert.is_finished()).await;
        let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = $1";
        let _ = admin().await.query(end, &[&harness.schema()]).await.unwrap();
        harness.run("COMMIT").await;
        assert!(matches!(insert.await.unwrap().unwrap(), Inserted::New(..)));
        assert!(matches!(settle.await.unwrap().unwrap(), Settled::Accepted { .. }));
    });
}

/// Reads and renewals are repeatable.
#[test]
fn reads_and_renewals_are_repeated_when_their_session_ends() {
    with_store(async |harness, store| {
        let ledger = Ledger::new(store.clone());
        let lease = insert_held(&ledger, a_task()).await.lease();
        harness.run("BEGIN; LOCK TABLE @.task").await;
        let (reader, keeper) = (store.clone(), store.clone());
        let reading = tokio::spawn(async move { reader.rows(&Scope::All, &Which::Id(lease.id)).await });
        let renewing = tokio::spawn(async move { keeper.renew(vec![lease], LEASE).await });
        until_a_session_waits(harness, || reading.is_finished()).await;
        let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = $1";
        let _ = admin().await.query(end, &[&harness.schema()]).await.unwrap();
        harness.run("COMMIT").await;
        assert_eq!(reading.await.unwrap().unwrap().len(), 1);
        assert_eq!(renewing.await.unwrap().unwrap(), [Renewal::Renewed { stop: false }]);
    });
}

/// Notifications are sent outside of the transactions that make changes, and only while another handle listens.
#[test]
fn work_of_another_handle_is_in_the_news() {
    with_sessions(async |harness, store| {
        let other = harness.handle().await;
        let ledger = Ledger::new(store);
        let _ = ledger.insert(Insert::new(a_task())).await.unwrap();
        let mut heard = News::default();
        while !heard.work {
            heard = other.news().await;
        }
    });
}

/// The head of the queue belongs to a tenant at its limit, and another handle claims at the same time.
#[test]
fn claims_by_tenant_at_two_handles_have_each_task_once() {
    with_store(async |harness, store| {
        let (ledger, other) = (Ledger::new(store.clone()), harness.handle().await);
        for number in 0..40 {
            let tenant = Some(Tenant::new(["anna", "bob", "cleo"][number % 3]));
            let _ = ledger
                .insert(Insert::new(a_task_with(|task| task.tenant = tenant)))
                .await
                .unwrap();
        }
        let mut taken: Vec<LeaseRef> = Vec::new();
        while taken.len() < 40 {
            let claim = |name: &str| {
                let mut pool = PoolClaim::new(tower_respond_async::task::PoolName::DEFAULT, 5);
                pool.per_tenant = Some(2);
                let mut claim = Claim::new(WorkerId::new(name, 1), 5, LEASE);
                claim.pools = vec![pool];
                claim
            };
            let (first, second) = tokio::join!(store.claim(claim("a")), other.claim(claim("b")));
            for claims in [first.unwrap(), second.unwrap()] {
                assert!(claims.tasks.len() <= 5);
                taken.extend(claims.tasks.iter().map(|task| task.row.lease()));
            }
        }
        taken.sort_unstable_by_key(|lease| lease.id);
        taken.dedup_by_key(|lease| lease.id);
        assert_eq!(taken.len(), 40, "each once");
    });
}

/// An unreadable record is set aside and counted, and the tasks after it are claimed.
#[test]
fn a_record_that_cannot_be_read_is_set_aside_and_blocks_no_other_task() {
    with_store(async |harness, store| {
        let ledger = Ledger::new(store.clone());
        let (damaged, well) = (a_task(), a_task());
        let ids = [damaged.id, well.id];
        for task in [damaged, well] {
            let _ = ledger.insert(Insert::new(task)).await.unwrap();
        }
        let id = uuid(ids[0]);
        harness
            .run(&format!(
                "UPDATE @.task SET record = substr(record, 1, 5) WHERE id = '{id}'"
            ))
            .await;

        let claimed = store.claim(Claim::new(worker(), 10, LEASE)).await.unwrap();

        let claimed: Vec<_> = claimed.tasks.iter().map(|task| task.row.id).collect();
        assert_eq!(claimed, [ids[1]]);
        let counts = store.counts(&Scope::All).await.unwrap();
        assert_eq!((counts.set_aside, counts.queued()), (1, 0));
        let kept = format!(
            "SELECT FROM {}.aside WHERE id = '{id}' AND length(record) = 5",
            harness.schema()
        );
        assert_eq!(harness.admin().await.query(&kept, &[]).await.unwrap().len(), 1);
    });
}

/// Every start of a process adds rows to the tally. They are added up, also while other handles count.
#[test]
fn the_tally_does_not_grow_with_every_start_of_a_process() {
    with_store(async |harness, store| {
        let mut handles = vec![store];
        for _ in 0..3 {
            handles.push(harness.handle().await);
        }
        let tenant = |number: usize| Tenant::new(format!("tenant {number}"));
        for (number, handle) in handles.iter().enumerate() {
            let ledger = Ledger::new(handle.clone());
            let held = insert_held(&ledger, a_task_with(|task| task.tenant = Some(tenant(number % 2)))).await;
            let _ = ledger.settle(&held, &success()).await.unwrap();
        }
        harness.pass(Duration::from_secs(601)).await;
        let counting = handles.iter().map(|handle| async {
            for _ in 0..20 {
                let _ = insert_held(&Ledger::new(handle.clone()), a_task()).await;
            }
            // This adds up the rows that are there by then.
            handle.prune_keys(1).await.unwrap()
        });
        let _ = futures_util::future::join_all(counting).await;
        harness.pass(Duration::from_secs(601)).await;
        let _ = handles[0].prune_keys(1).await.unwrap();

        let rows = format!("SELECT writer, tenant, state, n FROM {}.tally", harness.schema());
        let rows = harness.admin().await.query(&rows, &[]).await.unwrap();
        let mut shown: Vec<(i64, String, i16, i64)> = rows
            .iter()
            .map(|row| (row.get(0), row.get(1), row.get(2), row.get(3)))
            .collect();
        shown.sort();
        let expected = [
            (0, String::new(), 1, 80),
            (0, "=tenant 0".to_owned(), 4, 2),
            (0, "=tenant 1".to_owned(), 4, 2),
        ];
        assert_eq!(shown, expected);
    });
}

/// The answers to these claims were lost. An unreadable task does not hide the others.
#[test]
fn claims_that_were_lost_are_found_one_by_one() {
    with_store(async |harness, store| {
        let ledger = Ledger::new(store.clone());
        let known = insert_held(&ledger, a_task()).await.lease();
        // Its insert may not be answered yet: the caller that waits for the answer ends the task.
        let stopped = insert_held(&ledger, a_task()).await.lease();
        assert_eq!(ledger.stop(&Scope::All, stopped.id).await.unwrap(), Stop::Stopping);
        let mut ids = [RequestId::from_bytes([0; 16]); 4];
        for id in &mut ids {
            let task = a_task();
            *id = task.id;
            let _ = ledger.insert(Insert::new(task)).await.unwrap();
        }
        let claimed = store.claim(Claim::new(worker(), 10, LEASE)).await.unwrap();
        let mine = claimed
            .tasks
            .iter()
            .find(|task| task.row.id == ids[3])
            .unwrap()
            .row
            .lease();
        assert!(harness.corrupt(ids[0]).await);
        assert_eq!(ledger.stop(&Scope::All, ids[1]).await.unwrap(), Stop::Stopping);

        let lost = ledger
            .lost_claims(&worker(), LEASE, |lease| lease == mine)
            .await
            .unwrap();
        let mut found = Vec::new();
        for claim in &lost {
            found.push(match ledger.take_up(claim).await.unwrap() {
                TakenUp::Task(task) => ("to run", task.record.id),
                TakenUp::ToStop(held) => ("to stop", held.lease().id),
                TakenUp::Unreadable(id) => ("unreadable", id),
                other => panic!("{other:?}"),
            });
        }
        found.sort();
        let expected = [("to run", ids[2]), ("to stop", ids[1]), ("unreadable", ids[0])];
        assert_eq!(
            found, expected,
            "and neither {known:?} nor {stopped:?}, which were stored claimed, nor {mine:?}, which is known"
        );
        let ended = ledger.task(ids[0]).await.unwrap();
        assert_eq!(ended.state, tower_respond_async::TaskState::Invalid);
    });
}
