//! A database with a hundred thousand tasks, in equal numbers of each kind.

use std::time::Duration;

use tower_respond_async::{
    store::{Held, Insert, Inserted, Ledger},
    task::{
        Conditions, Destination, NewTask, PoolName, RequestId, Subscription, Subscriptions, Tenant, WorkerId,
        lifecycle::Outcome,
    },
};

use crate::{
    harness::PostgresHarness,
    traps::{a_task, a_task_with, success},
};

/// How many tasks of each kind there are, at first and later.
const FEW_OF_EACH: u64 = 100;
const MANY_OF_EACH: u64 = 20_000;

pub(crate) const ANALYZE: &str =
    "ANALYZE @.task; ANALYZE @.outbox; ANALYZE @.tally; ANALYZE @.request; ANALYZE @.key; ANALYZE @.log";

pub(crate) struct Known {
    pub(crate) waiting: RequestId,
    pub(crate) ended: RequestId,
}

/// A pool with a long name, so that the index of waiting tasks is much larger than the others.
pub(crate) fn pool() -> PoolName {
    PoolName::new("a-pool-whose-name-is-rather-long").unwrap()
}

/// Inserts some hundreds of tasks, with statistics from a moment when no task waited or was held.
pub(crate) async fn begin(harness: &PostgresHarness) -> Known {
    let store = harness.handle().await;
    let ledger = Ledger::new(store);
    harness
        .run("ALTER TABLE @.task SET (autovacuum_enabled = off); ALTER TABLE @.outbox SET (autovacuum_enabled = off)")
        .await;
    let ended = insert_held(&ledger, a_task_with(|task| task.tenant = Some(Tenant::new("anna")))).await;
    let failed = insert_held(&ledger, a_task()).await;
    let told = a_task_with(|task| {
        let (destination, on) = (Destination::new("hook"), Conditions::ALL);
        task.subscriptions = Subscriptions::from([Subscription { destination, on }]);
    });
    let told = insert_held(&ledger, told).await;
    let failure = Outcome::Failed {
        error: "it broke".into(),
        response: None,
    };
    for (held, outcome) in [(&ended, success()), (&failed, failure), (&told, success())] {
        let _ = ledger.settle(held, &outcome).await.unwrap();
    }
    for table in ["task", "request", "outbox"] {
        harness
            .run(&format!("CREATE TEMP TABLE first_{table} AS SELECT * FROM @.{table}"))
            .await;
    }
    copy(harness, "state > 3", 0, FEW_OF_EACH).await;
    harness.run(ANALYZE).await;

    let waiting = a_task_with(|task| task.pool = pool());
    let id = waiting.id;
    let _ = ledger.insert(Insert::new(waiting)).await.unwrap();
    let held = insert_held(&ledger, a_task()).await;
    for of in [id, held.lease().id] {
        let id = uuid::Uuid::from_bytes(*of.as_bytes());
        harness
            .run(&format!(
                "INSERT INTO first_task SELECT * FROM @.task WHERE id = '{id}'; \
                 INSERT INTO first_request SELECT * FROM @.request WHERE id = '{id}'"
            ))
            .await;
    }
    copy(harness, "state < 4", 0, FEW_OF_EACH).await;
    Known {
        waiting: id,
        ended: ended.lease().id,
    }
}

/// Inserts all tasks.
pub(crate) async fn fill(harness: &PostgresHarness) {
    copy(harness, "true", FEW_OF_EACH, MANY_OF_EACH).await;
}

async fn insert_held(ledger: &Ledger, task: NewTask) -> Held {
    let insert = Insert::new(task).claimed_by(WorkerId::new("dead", 1), Duration::from_secs(1));
    match ledger.insert(insert).await.unwrap() {
        Inserted::New(_, Some(held)) => held,
        other => panic!("the task is new and held, but the answer was {other:?}"),
    }
}

/// Inserts more tasks of a kind: copies of its first one, with other ids.
async fn copy(harness: &PostgresHarness, kind: &str, from: u64, to: u64) {
    let copy = COPY.replace("FROM_N", &(from + 1).to_string());
    harness
        .run(&copy.replace("TO_N", &to.to_string()).replace("KIND", kind))
        .await;
}

const COPY: &str = r"
CREATE TEMP TABLE copy AS SELECT f.id AS old, gen_random_uuid() AS id, n FROM first_task f, generate_series(FROM_N, TO_N) n
  WHERE KIND;
INSERT INTO @.task (id, version, state, suspect, token, worker, created_at, run_at, expires_at, lease_until, started_at,
    ended_at, rests_at, format, generation, owes, tenant, pool, name, function, record, progress, response)
  SELECT c.id, version, state, suspect, token, worker, created_at + n, run_at + n, expires_at + n, lease_until + n, started_at,
    ended_at + n, rests_at + n, format, generation, owes, tenant, pool, name, function,
    overlay(record PLACING uuid_send(c.id) FROM position(uuid_send(c.old) IN record)), progress, response
  FROM copy c JOIN first_task t ON t.id = c.old;
INSERT INTO @.request SELECT c.id, sum, head, body FROM copy c JOIN first_request q ON q.id = c.old;
INSERT INTO @.outbox SELECT c.id, generation, destination, due_at + n, token, claimed
  FROM copy c JOIN first_outbox o ON o.id = c.old;
INSERT INTO @.log SELECT id, 1, '' FROM copy;
INSERT INTO @.key SELECT uuid_send(id), id, 1700000000000 + n * 1000 FROM copy;
INSERT INTO @.tally SELECT -FROM_N, coalesce('=' || tenant, ''), pool, state, count(*) FROM copy c JOIN @.task t ON t.id = c.id
  GROUP BY 2, 3, 4;
INSERT INTO @.tally SELECT -FROM_N, '', '', -1, count(*) FROM copy c JOIN @.outbox o ON o.id = c.id
  HAVING count(*) > 0;
DROP TABLE copy;
";
