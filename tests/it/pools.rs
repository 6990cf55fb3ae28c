//! Pools: slow, paused or crowded tasks affect only their own pool.

use std::{sync::Arc, time::Duration};

use tempfile::tempdir;
use tower_respond_async::{
    MemoryStore, Pool, PoolError, Scope, Submission, SubmitError, TaskState, TaskStore, Tasks, Tenant, forward_store,
    store::{Claim, Claims, FullReason, Operation, Reply},
    task::{Filter, Page, PoolName, RequestId, SortOrder},
    testing::{FaultStore, ManualClock},
    time::Timestamp,
};
use tower_respond_async_redb::RedbStore;

use crate::{
    engine_support::{
        Dropped, Gate, LONG, ended, eventually, find, ok, quick, reached, serve, serve_gated, soon, stored, submission,
        submit,
    },
    support::{App, WithoutBody, fc},
};

fn name(name: &str) -> PoolName {
    PoolName::new(name).unwrap()
}

fn slow() -> Pool {
    Pool::new("slow").when(|head| head.uri.path().starts_with("/slow"))
}

/// Handlers of slow paths wait at the gate; the others answer at once.
fn with_slow(builder: tower_respond_async::RespondAsyncBuilder, gate: &Gate) -> Tasks {
    let gate = gate.clone();
    serve(builder, move |request| {
        let gate = gate.clone();
        async move {
            if request.uri().path().starts_with("/slow") {
                gate.pass().await;
            }
            ok()
        }
    })
}

async fn of(tasks: &Tasks, tenant: &str) -> RequestId {
    let mut submission: Submission = submission("/slow");
    submission.tenant = Some(Tenant::new(tenant));
    stored(tasks.submit(submission).await.unwrap())
}

async fn pool_of(tasks: &Tasks, pool: &str) -> tower_respond_async::PoolStats {
    let pools = tasks.pools().await.unwrap();
    pools.into_iter().find(|of| of.name.as_str() == pool).unwrap()
}

#[tokio::test]
async fn a_slow_path_takes_no_slot_of_the_others() {
    let gate = Gate::new();
    let tasks = with_slow(
        quick(MemoryStore::new()).concurrency(3).pool(slow().concurrency(2)),
        &gate,
    );
    let mut slow = Vec::new();
    for _ in 0..6 {
        slow.push(submit(&tasks, "/slow").await);
    }
    gate.arrived(2).await;
    for _ in 0..20 {
        let id = submit(&tasks, "/quick").await;
        assert_eq!(ended(&tasks, id).await.state, TaskState::Succeeded);
    }
    assert!(!gate.has_arrival(), "never more than two");
    let stats = pool_of(&tasks, "slow").await;
    assert_eq!((stats.used, stats.total, stats.queued), (2, 2, Some(4)));
    gate.open();
    for id in slow {
        let task = ended(&tasks, id).await;
        assert_eq!((task.state, task.pool.as_str()), (TaskState::Succeeded, "slow"));
    }
}

/// The task is claimed with its insert, in one call of the store: it does not wait behind tasks of another pool.
#[tokio::test]
async fn a_backlog_in_one_pool_does_not_keep_another_from_starting_at_once() {
    let gate = Gate::new();
    let store = FaultStore::new(MemoryStore::new());
    let faults = store.faults();
    let tasks = with_slow(quick(store).concurrency(3).pool(slow().concurrency(1)), &gate);
    for _ in 0..5 {
        submit(&tasks, "/slow").await;
    }
    gate.arrived(1).await;
    // By then the engine has seen that nothing waits in the default pool.
    let first = submit(&tasks, "/quick").await;
    ended(&tasks, first).await;
    eventually("a task is stored claimed", async || {
        let before = faults.calls(Operation::Claim);
        let id = submit(&tasks, "/quick").await;
        let is_born = find(&tasks, id).await.state != TaskState::Enqueued;
        ended(&tasks, id).await;
        is_born && faults.calls(Operation::Claim) == before
    })
    .await;
    gate.open();
}

#[tokio::test]
async fn a_paused_pool_begins_nothing_until_it_is_resumed() {
    let gate = Gate::new();
    let tasks = with_slow(quick(MemoryStore::new()).pool(slow()), &gate);
    let running = submit(&tasks, "/slow").await;
    gate.arrived(1).await;
    tasks.pause(&name("slow"), "the disk is full").await.unwrap();
    tasks.pause(&name("slow"), "again").await.unwrap();
    let paused = pool_of(&tasks, "slow").await.paused.unwrap();
    assert_eq!((paused.reason.as_str(), paused.resuming), ("the disk is full", false));

    let waiting = submit(&tasks, "/slow").await;
    let other = submit(&tasks, "/quick").await;
    ended(&tasks, other).await;
    gate.let_through(1);
    assert_eq!(
        ended(&tasks, running).await.state,
        TaskState::Succeeded,
        "what runs goes on"
    );
    assert_eq!(find(&tasks, waiting).await.state, TaskState::Enqueued);
    assert!(!gate.has_arrival());

    tasks.resume(&name("slow")).await.unwrap();
    tasks.resume(&name("slow")).await.unwrap();
    assert_eq!(pool_of(&tasks, "slow").await.paused, None);
    gate.arrived(1).await;
    gate.open();
    ended(&tasks, waiting).await;
}

/// The other pools go on accepting, and the caller gets the name of the full queue.
#[tokio::test]
async fn a_paused_pool_fills_no_other_queue() {
    let tasks = serve(quick(MemoryStore::new()).queue_depth(10).pool(slow()), |_| async {
        ok()
    });
    tasks.pause(&name("slow"), "").await.unwrap();
    for _ in 0..5 {
        submit(&tasks, "/slow").await;
    }
    let refused = tasks.submit(submission("/slow")).await.unwrap_err();
    assert!(matches!(refused, SubmitError::Full(FullReason::Pool)), "{refused:?}");
    for _ in 0..20 {
        let id = submit(&tasks, "/quick").await;
        ended(&tasks, id).await;
    }
    tasks.resume(&name("slow")).await.unwrap();
    let all = tasks
        .list(&Filter::default(), Page::first(100, SortOrder::Descending))
        .await
        .unwrap();
    for task in all.items {
        ended(&tasks, task.id).await;
    }
}

#[tokio::test]
async fn a_request_whose_pool_is_full_is_answered_503_before_its_body_is_read() {
    let app = App::with(|builder| builder.pool(Pool::new("all").when(|_| true).queue_depth(1)));
    app.tasks.pause(&name("all"), "").await.unwrap();
    app.accepted(fc("/echo").empty()).await;
    app.send(fc("/echo").unread())
        .await
        .assert_refused(503, "PoolQueueFull", Some("1"));
}

#[tokio::test]
async fn a_pause_survives_a_restart() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("tasks.redb");
    let (gate, slow_pool) = (Gate::new(), name("slow"));
    gate.open();
    let tasks = with_slow(quick(RedbStore::open(&path).await.unwrap()).pool(slow()), &gate);
    tasks.pause(&slow_pool, "for the night").await.unwrap();
    tasks.set_concurrency(&slow_pool, Some(3)).await.unwrap();
    let waiting = submit(&tasks, "/slow").await;
    soon(tasks.shutdown(LONG)).await;
    drop(tasks);

    let tasks = with_slow(quick(RedbStore::open(&path).await.unwrap()).pool(slow()), &gate);
    let other = submit(&tasks, "/quick").await;
    ended(&tasks, other).await;
    assert_eq!(find(&tasks, waiting).await.state, TaskState::Enqueued);
    let stats = pool_of(&tasks, "slow").await;
    assert_eq!((stats.total, stats.is_set), (3, true));
    assert_eq!(stats.paused.unwrap().reason, "for the night");
    tasks.resume(&slow_pool).await.unwrap();
    assert_eq!(ended(&tasks, waiting).await.state, TaskState::Succeeded);
    soon(tasks.shutdown(LONG)).await;
}

/// A process without that news claims a task, and hands it back before it begins.
#[tokio::test]
async fn a_pause_made_elsewhere_holds_here() {
    let store = MemoryStore::new();
    let deaf = FaultStore::new(store.clone());
    deaf.faults().without_news();
    let gate = Gate::new();
    let here = with_slow(quick(deaf).pool(slow()), &gate);
    let there = serve(quick(store).pool(slow()), |_| std::future::pending());
    // By then it has read that nothing is paused.
    let first = submit(&here, "/quick").await;
    eventually("it has begun", async || find(&here, first).await.attempt > 0).await;
    there.pause(&name("slow"), "").await.unwrap();
    let waiting = submit(&there, "/slow").await;
    eventually("it is known here", async || {
        pool_of(&here, "slow").await.paused.is_some()
    })
    .await;
    let task = find(&here, waiting).await;
    assert_eq!((task.state, task.attempt), (TaskState::Enqueued, 0), "it was not begun");
    here.resume(&name("slow")).await.unwrap();
    eventually("it has begun", async || find(&here, waiting).await.attempt > 0).await;
    gate.open();
}

/// The time of the pause does not count against a waiting task.
#[tokio::test]
async fn a_pause_expires_nothing() {
    let clock = ManualClock::new(Timestamp::from_millis(1_700_000_000_000));
    let store = MemoryStore::builder().clock(clock.clone()).build();
    let hour = Duration::from_secs(60 * 60);
    let tasks = serve(
        quick(store)
            .max_age(hour)
            .lease(Duration::from_millis(200))
            .pool(slow()),
        |_| async { ok() },
    );
    tasks.pause(&name("slow"), "").await.unwrap();
    let waiting = submit(&tasks, "/slow").await;
    clock.advance(10 * hour);
    // The engine searches for expired tasks many times, and once finds another task.
    let mut other = submission("/quick");
    other.delay = Duration::from_secs(1);
    let other = stored(tasks.submit(other).await.unwrap());
    clock.advance(2 * hour);
    reached(&tasks, other, TaskState::Expired).await;
    assert_eq!(find(&tasks, waiting).await.state, TaskState::Enqueued);
    tasks.resume(&name("slow")).await.unwrap();
    assert_eq!(ended(&tasks, waiting).await.state, TaskState::Succeeded);
}

#[tokio::test]
async fn one_tenant_leaves_the_others_slots() {
    let gate = Gate::new();
    let tasks = with_slow(quick(MemoryStore::new()).pool(slow().tenant_concurrency(2)), &gate);
    let mut all = Vec::new();
    for _ in 0..6 {
        all.push(of(&tasks, "anna").await);
    }
    gate.arrived(2).await;
    for tenant in ["bob", "carl"] {
        all.push(of(&tasks, tenant).await);
        gate.arrived(1).await;
    }
    assert!(!gate.has_arrival(), "anna has two");
    let running = tasks
        .scoped(Scope::One(Some(Tenant::new("anna"))))
        .stats()
        .await
        .unwrap();
    assert_eq!(running.counts.of(TaskState::Running), 2);
    // One of hers ends, and the next begins.
    gate.let_through(4);
    gate.arrived(2).await;
    gate.open();
    for id in all {
        assert_eq!(ended(&tasks, id).await.state, TaskState::Succeeded);
    }
}

/// Running tasks keep their slots.
#[tokio::test]
async fn how_many_run_can_be_changed() {
    let (gate, dropped, all) = (Gate::new(), Dropped::default(), name("default"));
    let tasks = serve_gated(quick(MemoryStore::new()).concurrency(4), &gate, &dropped);
    tasks.set_concurrency(&all, Some(1)).await.unwrap();
    for _ in 0..6 {
        submit(&tasks, "/").await;
    }
    gate.arrived(1).await;
    tasks.set_concurrency(&all, Some(3)).await.unwrap();
    gate.arrived(2).await;
    tasks.set_concurrency(&all, Some(1)).await.unwrap();
    gate.let_through(2);
    eventually("one is left", async || pool_of(&tasks, "default").await.used == 1).await;
    assert!(!gate.has_arrival());
    tasks.set_concurrency(&all, None).await.unwrap();
    gate.arrived(3).await;
    assert_eq!(pool_of(&tasks, "default").await.total, 4);
    gate.open();
}

#[tokio::test]
async fn what_makes_no_sense_is_refused() {
    let tasks = serve(quick(MemoryStore::new()), |_| async { ok() });
    let error = tasks.pause(&name("nobody"), "").await.unwrap_err();
    assert_eq!(error.to_string(), "this process has no pool \"nobody\"");
    let error = tasks.set_concurrency(&PoolName::DEFAULT, Some(0)).await.unwrap_err();
    assert!(matches!(error, PoolError::NoSlots), "{error}");
    for (pools, problem) in [
        (vec![Pool::new("no spaces")], "letters, digits"),
        (vec![slow().concurrency(0)], "concurrency of \"slow\" is 0"),
        (
            vec![slow().tenant_concurrency(0)],
            "tenant_concurrency of \"slow\" is 0",
        ),
        (vec![slow().queue_depth(0)], "queue_depth of \"slow\" is 0"),
        (vec![slow(), slow()], "two pools with the name \"slow\""),
        (vec![Pool::new("default").when(|_| true)], "leave out its `when`"),
    ] {
        let builder = pools.into_iter().fold(
            quick(MemoryStore::new()),
            tower_respond_async::RespondAsyncBuilder::pool,
        );
        let error = builder.build().unwrap_err();
        assert_eq!(error.setting(), "pool");
        assert!(error.to_string().contains(problem), "{error}");
    }
}

/// Its tasks are in the default pool, as if there were no such pool; also if its function panics.
#[tokio::test]
async fn a_pool_whose_function_panics_has_no_requests() {
    let panics = Pool::new("panics").when(|_| panic!("as the test asked"));
    let tasks = serve(quick(MemoryStore::new()).pool(panics), |_| async { ok() });
    let id = submit(&tasks, "/").await;
    assert!(ended(&tasks, id).await.pool.is_default());
    let mut named = submission("/");
    named.pool = Some(name("panics"));
    let id = stored(tasks.submit(named).await.unwrap());
    assert_eq!(ended(&tasks, id).await.pool.as_str(), "panics");
}

/// A store that ignores pools. What it claims too much is handed back, and it is not asked again at once.
#[derive(Debug)]
struct Careless(Arc<MemoryStore>);

impl Careless {
    fn store(&self) -> &MemoryStore {
        &self.0
    }

    fn forward<T: Send + 'static>(
        &self,
        _: Operation,
        call: impl FnOnce(Arc<MemoryStore>) -> Reply<'static, T> + Send + 'static,
    ) -> Reply<'static, T> {
        call(self.0.clone())
    }
}

impl TaskStore for Careless {
    fn claim(&self, claim: Claim) -> Reply<'_, Claims> {
        self.0.claim(Claim::new(claim.worker, claim.max, claim.lease))
    }

    forward_store!(
        abilities now queue_hint insert insert_all rows due commit commit_all renew claim_deliveries list counts payload
        set_progress append_log logs prune_keys news attend glance beat control close
    );
}

#[tokio::test]
async fn a_store_that_gives_what_was_not_asked_for_does_not_keep_the_process_busy() {
    let gate = Gate::new();
    let store = Careless(Arc::default());
    let tasks = with_slow(quick(store).concurrency(2).pool(slow().concurrency(1)), &gate);
    let mut all = Vec::new();
    for _ in 0..4 {
        all.push(submit(&tasks, "/slow").await);
    }
    gate.arrived(1).await;
    let quick = submit(&tasks, "/quick").await;
    ended(&tasks, quick).await;
    gate.open();
    for id in all {
        assert_eq!(ended(&tasks, id).await.state, TaskState::Succeeded);
    }
}
