//! That no statement goes through the tasks: what each operation has read of the table, by the server's own count.

use std::{sync::Arc, time::Duration};

use tower_respond_async::{
    TaskStore,
    store::{Claim, DeliveryClaim, Due, Insert, Inserted, Ledger, LogQuery, Part, PoolClaim, Retention, Which},
    task::{
        Conditions, Destination, Filter, NewTask, Page, PoolName, Progress, RequestId, Scope, SortOrder, StateSet,
        Subscription, Subscriptions, TaskName, TaskState, Tenant, WorkerId, lifecycle::Outcome,
    },
    testing::conformance::{self, Harness},
};

use crate::{
    harness::PostgresHarness,
    traps::{a_task, a_task_with, success},
};

const LEASE: Duration = Duration::from_secs(3600);

/// How many there are of each kind.
const MANY: u64 = 20_000;

#[test]
fn no_operation_goes_through_the_tasks() {
    let harness = PostgresHarness::new();
    conformance::run(&harness, async |_| {
        drop(harness.fresh().await);
        let known = fill(&harness).await;
        // As it is right after a load, and as it is later.
        every_operation(&harness, &known).await;
        harness
            .run("ANALYZE @.task; ANALYZE @.outbox; ANALYZE @.tally; ANALYZE @.request")
            .await;
        every_operation(&harness, &known).await;
    });
}

struct Known {
    waiting: RequestId,
    ended: RequestId,
    held: tower_respond_async::task::LeaseRef,
}

fn worker() -> WorkerId {
    WorkerId::new("dead", 1)
}

/// Tasks of every kind, copied: of each, the record is that of the first under another id.
async fn fill(harness: &PostgresHarness) -> Known {
    let store = harness.handle().await;
    let ledger = Ledger::new(store.clone());
    harness
        .run("ALTER TABLE @.task SET (autovacuum_enabled = off); ALTER TABLE @.outbox SET (autovacuum_enabled = off)")
        .await;
    let subscription = Subscription {
        destination: Destination::new("hook"),
        on: Conditions::ALL,
    };
    let insert = async |task: NewTask| match ledger.insert(Insert::new(task).born(worker(), LEASE)).await.unwrap() {
        Inserted::New(_, Some(held)) => held,
        other => panic!("{other:?}"),
    };
    let waiting = a_task();
    let _ = ledger.insert(Insert::new(waiting.clone())).await.unwrap();
    let held = insert(a_task()).await;
    let ended = insert(a_task_with(|task| task.tenant = Some(Tenant::new("anna")))).await;
    let _ = ledger.settle(&ended, &success()).await.unwrap();
    let failed = insert(a_task()).await;
    let _ = ledger
        .settle(
            &failed,
            &Outcome::Failed {
                error: "it broke".into(),
                response: None,
            },
        )
        .await
        .unwrap();
    let told = insert(a_task_with(|task| {
        task.subscriptions = Subscriptions::from([subscription]);
    }))
    .await;
    let _ = ledger.settle(&told, &success()).await.unwrap();
    harness.run(&COPY.replace("MANY", &MANY.to_string())).await;
    store.close().await;
    Known {
        waiting: waiting.id,
        ended: ended.lease().id,
        held: held.lease(),
    }
}

const COPY: &str = r"
CREATE TEMP TABLE copy AS SELECT t.id AS old, gen_random_uuid() AS id, n FROM @.task t, generate_series(1, MANY) n;
INSERT INTO @.task (id, version, state, suspect, token, worker, created_at, run_at, expires_at, lease_until, started_at,
    ended_at, rests_at, format, generation, owes, tenant, pool, name, function, record, progress, response)
  SELECT c.id, version, state, suspect, token, worker, created_at + n, run_at + n, expires_at + n, lease_until + n, started_at,
    ended_at + n, rests_at + n, format, generation, owes, tenant, pool, name, function,
    overlay(record PLACING uuid_send(c.id) FROM position(uuid_send(c.old) IN record)), progress, response
  FROM copy c JOIN @.task t ON t.id = c.old;
INSERT INTO @.request SELECT c.id, sum, head, body FROM copy c JOIN @.request q ON q.id = c.old;
INSERT INTO @.outbox SELECT c.id, generation, destination, due_at + n, token, claimed
  FROM copy c JOIN @.outbox o ON o.id = c.old;
INSERT INTO @.tally SELECT 0, coalesce('=' || tenant, ''), pool, state, count(*) FROM copy c JOIN @.task t ON t.id = c.id
  GROUP BY 2, 3, 4;
INSERT INTO @.tally SELECT 0, '', '', -1, count(*) FROM copy c JOIN @.outbox o ON o.id = c.id;
";

async fn every_operation(harness: &PostgresHarness, known: &Known) {
    // Some of what waits is due by now, some leases have run out.
    harness.pass(Duration::from_secs(5)).await;
    let states = |state| StateSet::NONE.with(state);
    let anna = Scope::One(Some(Tenant::new("anna")));
    let mut of_pool = PoolClaim::new(PoolName::DEFAULT, 10);
    let mut claim = Claim::new(WorkerId::new("w", 1), 10, LEASE);
    claim.pools = vec![of_pool.clone()];
    let full = {
        let mut full = claim.clone();
        full.pools[0].max = 0;
        full
    };
    of_pool.per_tenant = Some(1);
    let mut by_tenant = claim.clone();
    by_tenant.pools = vec![of_pool];
    let retention = Retention::new(Duration::from_secs(1), Duration::from_secs(1));
    let page = |order| Page::first(20, order);
    macro_rules! reads {
        ($most:expr, $what:literal, |$store:ident| $operation:expr) => {{
            let read = measure(harness, async |$store| {
                let _ = $operation.await.unwrap();
            })
            .await;
            assert!(read <= $most, "{} read {read} rows of the table", $what);
        }};
    }
    reads!(100, "an insert", |store| Ledger::new(store.clone())
        .insert(Insert::new(a_task())));
    reads!(100, "an insert with a name", |store| async {
        let name = TaskName::new(&format!("job-{}", a_task().id)).unwrap();
        let named = Insert::new(a_task_with(|task| task.name = Some(name)));
        Ledger::new(store.clone()).insert(named).await
    });
    reads!(300, "a claim", |store| store.claim(claim.clone()));
    reads!(300, "a claim of a pool that is full", |store| store.claim(full.clone()));
    reads!(2500, "a claim by tenant", |store| store.claim(by_tenant.clone()));
    reads!(10, "a row", |store| store.rows(&Scope::All, &Which::Id(known.waiting)));
    reads!(10, "a row by name", |store| async {
        store
            .rows(&Scope::All, &Which::Name(TaskName::new("none").unwrap()))
            .await
    });
    reads!(200, "what is lapsed", |store| store
        .due(Due::Rescue { spared: Vec::new() }, 20));
    reads!(200, "what is past retention", |store| store
        .due(Due::Prune(retention), 20));
    reads!(200, "what is overdue", |store| {
        store.due(
            Due::GiveUp {
                spared: Vec::new(),
                overdue: Duration::from_secs(1),
            },
            20,
        )
    });
    reads!(100, "a renewal", |store| store.renew(vec![known.held; 5], LEASE));
    reads!(100, "a stop", |store| async {
        Ledger::new(store.clone()).stop(&Scope::All, known.waiting).await
    });
    reads!(200, "a claim of completions", |store| {
        store.claim_deliveries(DeliveryClaim::new(vec![(Destination::new("hook"), 20)], LEASE))
    });
    for order in [SortOrder::Ascending, SortOrder::Descending] {
        for scope in [&Scope::All, &anna] {
            reads!(300, "a list", |store| async {
                store.list(scope, &Filter::default(), page(order)).await
            });
        }
    }
    let rare = Filter::default().states(states(TaskState::Invalid));
    reads!(11_000, "a list of what is rare", |store| store.list(
        &Scope::All,
        &rare,
        page(SortOrder::Descending)
    ));
    for scope in [&Scope::All, &anna, &Scope::One(None)] {
        reads!(50, "counts", |store| store.counts(scope));
    }
    reads!(10, "a payload", |store| store.payload(
        &Scope::All,
        known.ended,
        Part::Response
    ));
    reads!(10, "progress", |store| store
        .set_progress(known.held, Progress::new(0.5, "half")));
    reads!(10, "a log", |store| store.logs(
        &Scope::All,
        known.held.id,
        LogQuery::default()
    ));
    reads!(100, "a glance", |store| store.glance(vec![
        known.held.id,
        known.ended,
        known.waiting
    ]));
    reads!(0, "the named values", |store| store.control(None));
    reads!(0, "keys", |store| store.prune_keys(100));
}

/// How many entries of indexes and rows of the table an operation reads. A session tells what it has read as it ends.
async fn measure(
    harness: &PostgresHarness,
    operation: impl AsyncFnOnce(&Arc<tower_respond_async_postgres::PostgresStore>),
) -> i64 {
    let store = harness.handle().await;
    let before = read_so_far(harness).await;
    operation(&store).await;
    store.close().await;
    drop(store);
    let gone = "SELECT FROM pg_stat_activity WHERE application_name = $1";
    while !harness
        .admin()
        .await
        .query(gone, &[&harness.schema()])
        .await
        .unwrap()
        .is_empty()
    {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    read_so_far(harness).await - before
}

async fn read_so_far(harness: &PostgresHarness) -> i64 {
    let read = "SELECT (SELECT sum(seq_tup_read) FROM pg_stat_user_tables WHERE schemaname = $1 AND relname = 'task')::int8 \
        + (SELECT sum(idx_tup_read) FROM pg_stat_user_indexes WHERE schemaname = $1 AND relname = 'task')::int8";
    harness
        .admin()
        .await
        .query_one(read, &[&harness.schema()])
        .await
        .unwrap()
        .get(0)
}
