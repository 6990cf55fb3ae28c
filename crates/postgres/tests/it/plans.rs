//! No statement reads the whole table of tasks: checks the plans of all operations, and how many rows they read, with
//! 100,000 tasks.

use std::{sync::Arc, time::Duration};

use servers::Postgres;
use tower_respond_async::{
    TaskStore,
    store::{
        Claim, ControlChange, DeliveryClaim, DeliverySettlement, Due, Held, Insert, Inserted, Ledger, Limits, LogQuery,
        Part, PoolClaim, Retention, Which,
    },
    task::{
        Conditions, DeliveryTry, Destination, Filter, IdempotencyKey, LogLine, Page, Presence, Progress, Scope,
        SortOrder, StateSet, Subscription, Subscriptions, TaskName, TaskState, Tenant, WorkerId,
        delivery::DeliveryOutcome, lifecycle::Edits,
    },
    testing::conformance::{self, Harness},
    time::Timestamp,
};
use tower_respond_async_postgres::PostgresStore;

use crate::{
    explained::{self, Explained, Log},
    harness::PostgresHarness,
    many::{self, Known},
    traps::{a_task, a_task_with, success},
};

const LEASE: Duration = Duration::from_secs(3600);

#[test]
fn no_statement_goes_through_the_tasks() {
    let server = Postgres::start(explained::SETTINGS);
    let harness = PostgresHarness::at(server.url());
    conformance::run(&harness, async |_| {
        drop(harness.fresh().await);
        harness.run("SET auto_explain.log_min_duration = -1").await;
        let known = many::begin(&harness).await;
        let log = Log::of(&server);
        let store = Arc::new(harness.builder().connect(&harness.url()).await.unwrap());
        every_operation(&harness, &store, &log, &known).await;
        many::fill(&harness).await;
        // The plans were made for few tasks.
        every_operation(&harness, &store, &log, &known).await;
        for statistics in [
            // Right after a load: the old statistics.
            "",
            // Later: new statistics.
            many::ANALYZE,
            // After an upgrade of the server: no statistics, only the sizes of the tables.
            "DELETE FROM pg_statistic",
        ] {
            harness.run(statistics).await;
            for builder in [harness.builder(), harness.builder().pooled()] {
                let store = Arc::new(builder.connect(&harness.url()).await.unwrap());
                every_operation(&harness, &store, &log, &known).await;
            }
        }
    });
}

/// How many rows an operation may read or sort beyond its result.
const FEW: f64 = 300.0;

async fn every_operation(harness: &PostgresHarness, store: &Arc<PostgresStore>, log: &Log, known: &Known) {
    // Makes some waiting tasks due, and some leases expire.
    harness.pass(Duration::from_secs(5)).await;
    let ledger = &Ledger::new(store.clone());
    let anna = Scope::One(Some(Tenant::new("anna")));
    let worker = WorkerId::new("w", 1);
    let hook = Destination::new("hook");
    let mut claim = Claim::new(worker.clone(), 10, LEASE);
    claim.pools = vec![PoolClaim::new(many::pool(), 10)];
    let (mut full, mut by_tenant) = (claim.clone(), claim.clone());
    full.pools[0].max = 0;
    by_tenant.pools[0].per_tenant = Some(1);
    let retention = Retention::new(Duration::from_secs(1), Duration::from_secs(1));
    let page = |order| Page::first(20, order);
    let name = TaskName::new(&format!("job-{}", a_task().id)).unwrap();
    let key = IdempotencyKey::new(&format!("key-{}", a_task().id)).unwrap();
    // Skips the statements before this operation.
    let _ = log.statements(&harness.schema());
    macro_rules! reads {
        ($what:literal, $operation:expr) => {
            reads!(FEW, $what, $operation)
        };
        ($most:expr, $what:literal, $operation:expr) => {{
            let answer = $operation.await.unwrap();
            check($what, $most, &log.statements(&harness.schema()));
            answer
        }};
    }
    let mut limits = Limits::UNLIMITED;
    limits.queued = 1_000_000;
    let _ = reads!("an insert", ledger.insert(Insert::new(a_task()).within(limits)));
    let own = a_task_with(|task| (task.name, task.key) = (Some(name.clone()), Some(key.clone())));
    let _ = reads!(
        "an insert with a name and a key",
        ledger.insert(Insert::new(own.clone()))
    );
    let _ = reads!("an insert that is known by its id", ledger.insert(Insert::new(own)));
    let again = a_task_with(|task| (task.name, task.key) = (Some(name.clone()), Some(key.clone())));
    let _ = reads!(
        "an insert that is known by its name and key",
        ledger.insert(Insert::new(again))
    );
    let subscribed = a_task_with(|task| {
        let (destination, on) = (Destination::new("another"), Conditions::ALL);
        task.subscriptions = Subscriptions::from([Subscription { destination, on }]);
    });
    let mut lives = Vec::new();
    for task in [subscribed, a_task(), a_task()] {
        let inserted = reads!(
            "an insert that is claimed",
            ledger.insert(Insert::new(task).claimed_by(worker.clone(), LEASE))
        );
        let Inserted::New(_, Some(held)) = inserted else {
            panic!("{inserted:?}");
        };
        lives.push(held);
    }
    let held = lives[0].lease();
    let _ = reads!("progress", store.set_progress(held, Progress::new(0.5, "half")));
    let line = LogLine::new(Timestamp::ZERO, "INFO", "test", "a line");
    assert!(reads!("a line of a log", store.append_log(held, vec![line])));
    let _ = reads!("a log", store.logs(&Scope::All, held.id, LogQuery::default()));
    let _ = reads!("a renewal", store.renew(lives.iter().map(Held::lease).collect(), LEASE));
    let _ = reads!(
        "what a worker holds",
        store.rows(&Scope::All, &Which::HeldBy(worker.clone()))
    );
    for held in &lives {
        let _ = reads!("an end", ledger.settle(held, &success()));
    }
    let taken = reads!(
        "a claim of a completion",
        ledger.claim_deliveries(DeliveryClaim::new(vec![(Destination::new("another"), 20)], LEASE))
    );
    for claimed in taken {
        let tried = DeliveryTry::new(store.now());
        let settlement = DeliverySettlement::new(claimed, DeliveryOutcome::Delivered, tried);
        assert!(reads!(
            "a completion that was delivered",
            ledger.settle_delivery(settlement)
        ));
    }
    let _ = reads!(
        "a completion that is due again",
        ledger.redeliver(&Scope::All, held.id, 1, &Destination::new("another"))
    );
    let _ = reads!(
        "a new run",
        ledger.rerun(&Scope::All, lives[1].lease().id, Edits::default())
    );
    let _ = reads!("a stop", ledger.stop(&Scope::All, lives[1].lease().id));
    let _ = reads!("a removal", ledger.delete(&Scope::All, lives[2].lease().id));
    let claimed = reads!("a claim", store.claim(claim.clone()));
    assert_eq!(claimed.tasks.len(), 10);
    let _ = reads!("a claim of a pool that is full", store.claim(full));
    // A claim by tenant reads 1,000 tasks ahead.
    let claimed = reads!(2500.0, "a claim by tenant", store.claim(by_tenant));
    assert_eq!(claimed.tasks.len(), 10);
    let _ = reads!("a row", store.rows(&Scope::All, &Which::Id(known.waiting)));
    let _ = reads!("a row by name", store.rows(&Scope::All, &Which::Name(name)));
    let due = [
        Due::Rescue { spared: Vec::new() },
        Due::Prune(retention),
        Due::GiveUp {
            spared: Vec::new(),
            overdue: Duration::from_secs(1),
        },
    ];
    for what in due {
        let candidates = reads!("what is due", store.due(what, 20));
        assert_eq!(candidates.rows.len(), 20);
    }
    let claimed = reads!(
        "a claim of completions",
        store.claim_deliveries(DeliveryClaim::new(vec![(hook, 20)], LEASE))
    );
    assert_eq!(claimed.len(), 20);
    for order in [SortOrder::Ascending, SortOrder::Descending] {
        for scope in [&Scope::All, &anna, &Scope::One(None)] {
            let first = reads!("a list", store.list(scope, &Filter::default(), page(order)));
            let mut next = page(order);
            next.after = first.next;
            let _ = reads!("a list that goes on", store.list(scope, &Filter::default(), next));
        }
    }
    let pool = Filter::default().pool(many::pool());
    let _ = reads!(
        11_000.0,
        "a list of a pool",
        store.list(&Scope::All, &pool, page(SortOrder::Descending))
    );
    let rare = Filter::default().states(StateSet::NONE.with(TaskState::Invalid));
    let _ = reads!(
        11_000.0,
        "a list of what is rare",
        store.list(&Scope::All, &rare, page(SortOrder::Descending))
    );
    // Reads each task in the scan limit, and its request.
    let text = Filter::default().text("no request has this in it");
    let _ = reads!(
        11_000.0,
        "a search",
        store.list(&anna, &text, page(SortOrder::Ascending))
    );
    for scope in [&Scope::All, &anna, &Scope::One(None)] {
        let _ = reads!("counts", store.counts(scope));
    }
    for part in [Part::Request, Part::Response] {
        let _ = reads!("a payload", store.payload(&Scope::All, known.ended, part));
    }
    let _ = reads!("a glance", store.glance(vec![held.id, known.ended, known.waiting]));
    let controls = reads!("the named values", store.control(None));
    let change = ControlChange::new("name".into(), controls.version, Some("value".into()));
    let _ = reads!("a named value", store.control(Some(change)));
    assert_eq!(reads!("keys", store.prune_keys(3)), 3);
    let _ = reads!("a beat", store.beat(Presence::new(worker), LEASE));
}

/// Checks that no statement reads or sorts more rows than this, or scans a large table.
fn check(what: &str, most: f64, statements: &[Explained]) {
    assert!(!statements.is_empty(), "{what} has run no statement");
    for of in statements {
        if let Some(table) = of.goes_through() {
            panic!("{what} goes through {table}: {}", of.shown());
        }
        let (read, sorted) = (of.rows_read(), of.rows_sorted());
        assert!(read <= most, "{what} read {read} rows: {}", of.shown());
        assert!(sorted <= most, "{what} sorted {sorted} rows: {}", of.shown());
    }
}
