//! The end of an engine, and the next one on the same store.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use http::Request;
use tower::{Layer, service_fn};
use tower_respond_async::{
    Completion, MemoryStore, RequestBody, RequestId, Scope, SubmitError, TaskState, TaskStore, Tasks,
    store::{Insert, Operation},
    testing::FaultStore,
};

use crate::engine_support::{
    Dropped, Gate, LONG, claim_and_die, context, ended, eventually, find, inserted, ledger, new_task, ok, quick,
    reached, serve, serve_gated, soon, submission, submit,
};

#[tokio::test]
async fn a_shutdown_lets_running_tasks_end_and_leaves_waiting_ones() {
    let (store, gate) = (MemoryStore::new(), Gate::new());
    let at_gate = gate.clone();
    let tasks = serve(quick(store.clone()).concurrency(2), move |_| {
        let gate = at_gate.clone();
        async move {
            gate.pass().await;
            ok()
        }
    });
    let running = [submit(&tasks, "/").await, submit(&tasks, "/").await];
    gate.arrived(2).await;
    let waiting = submit(&tasks, "/").await;

    let shutdown = tokio::spawn({
        let tasks = tasks.clone();
        async move { tasks.shutdown(LONG).await }
    });
    closed(&tasks, running[0]).await;
    gate.open();
    assert!(matches!(
        tasks.submit(submission("/")).await,
        Err(SubmitError::ShuttingDown)
    ));
    let report = soon(shutdown).await.unwrap();
    assert_eq!((report.finished, report.handed_back, report.dropped), (2, 0, 0));
    assert_eq!(tasks.shutdown(LONG).await, report, "a later call answers the same");

    let next = serve(quick(store), |_| async { ok() });
    for id in running {
        assert_eq!(find(&next, id).await.state, TaskState::Succeeded);
    }
    let record = ended(&next, waiting).await;
    assert_eq!((record.state, record.attempt), (TaskState::Succeeded, 1));
}

#[tokio::test]
async fn what_is_handed_back_runs_again_uncharged() {
    let (store, gate, dropped) = (MemoryStore::new(), Gate::new(), Dropped::default());
    let tasks = serve_gated(
        quick(store.clone()).stop_grace(Duration::from_millis(20)),
        &gate,
        &dropped,
    );
    let id = submit(&tasks, "/").await;
    gate.arrived(1).await;
    let report = soon(tasks.shutdown(Duration::ZERO)).await;
    assert_eq!((report.finished, report.handed_back, report.dropped), (0, 1, 0));
    assert!(dropped.is_dropped());

    let next = serve(quick(store), |_| async { ok() });
    let record = ended(&next, id).await;
    assert_eq!(
        (record.state, record.attempt, record.retries, record.crashes),
        (TaskState::Succeeded, 1, 0, 0)
    );
}

#[tokio::test]
async fn a_handler_sees_the_shutdown_and_may_still_succeed() {
    let (store, gate) = (MemoryStore::new(), Gate::new());
    let at_gate = gate.clone();
    let tasks = serve(quick(store.clone()), move |request| {
        let (gate, task) = (at_gate.clone(), context(&request));
        async move {
            gate.pass().await;
            task.stopped().await;
            match request.uri().path() {
                "/well" => ok(),
                _ => Err("told to end".into()),
            }
        }
    });
    let (well, badly) = (submit(&tasks, "/well").await, submit(&tasks, "/badly").await);
    gate.arrived(2).await;
    gate.open();
    let report = soon(tasks.shutdown(Duration::ZERO)).await;
    assert_eq!((report.finished, report.handed_back, report.dropped), (1, 1, 0));

    let states = [well, badly].map(|id| {
        let store = store.clone();
        async move {
            let found = ledger(&store).find(&Scope::All, &id.into()).await.unwrap().unwrap();
            (found.state, found.attempt)
        }
    });
    let [well, badly] = states;
    assert_eq!(well.await, (TaskState::Succeeded, 1));
    assert_eq!(badly.await, (TaskState::Enqueued, 0), "as if it had not been begun");
}

#[tokio::test]
async fn a_second_shutdown_cuts_the_grace_of_the_first_short() {
    let gate = Gate::new();
    let at_gate = gate.clone();
    let builder = quick(MemoryStore::new()).stop_grace(Duration::from_millis(20));
    let tasks = serve(builder, move |_| {
        let gate = at_gate.clone();
        async move {
            gate.pass().await;
            ok()
        }
    });
    let id = submit(&tasks, "/").await;
    gate.arrived(1).await;
    // Ten times as long as the test may take.
    let first = tokio::spawn({
        let tasks = tasks.clone();
        async move { tasks.shutdown(10 * LONG).await }
    });
    closed(&tasks, id).await;
    let second = soon(tasks.shutdown(10 * LONG)).await;
    assert_eq!((second.finished, second.handed_back, second.dropped), (0, 1, 0));
    assert_eq!(soon(first).await.unwrap(), second);
}

#[tokio::test]
async fn engine_after_engine_can_be_built_on_one_store() {
    let store = MemoryStore::new();
    for round in 1..=20 {
        let tasks = serve(quick(store.clone()), |_| async { ok() });
        let id = submit(&tasks, "/").await;
        ended(&tasks, id).await;
        soon(tasks.shutdown(LONG)).await;
        assert!(tasks.stats().await.is_err(), "this engine's store is closed");
        let left = store.counts(&Scope::All).await.unwrap();
        assert_eq!(left.of(TaskState::Succeeded), round);
    }
}

#[tokio::test]
async fn close_ends_every_wait_and_every_subscription() {
    let gate = Gate::new();
    let at_gate = gate.clone();
    let tasks = serve(quick(MemoryStore::new()), move |_| {
        let gate = at_gate.clone();
        async move {
            gate.pass().await;
            ok()
        }
    });
    let id = submit(&tasks, "/").await;
    gate.arrived(1).await;
    let waits: Vec<_> = (0..10)
        .map(|_| {
            let tasks = tasks.clone();
            tokio::spawn(async move { tasks.wait(id, Duration::MAX).await })
        })
        .collect();
    let mut changes = tasks.subscribe(id);
    assert_eq!(changes.next().await.unwrap().unwrap().state, TaskState::Running);
    let stream = tokio::spawn(async move { changes.next().await });
    tokio::task::yield_now().await;

    tasks.close();
    tasks.close();
    for wait in waits {
        let record = soon(wait).await.unwrap().unwrap().unwrap();
        assert_eq!(record.state, TaskState::Running, "it is answered as it stands");
    }
    assert_eq!(soon(stream).await.unwrap().unwrap(), None);

    // The running task goes on, and can be read.
    gate.open();
    reached(&tasks, id, TaskState::Succeeded).await;
}

#[tokio::test]
async fn with_the_last_handle_the_engine_ends_and_lets_go_of_application_and_store() {
    let (app, kept) = (Dropped::default(), Dropped::default());
    let flag = Arc::new(app.flag());
    let store = Arc::new(MemoryStore::new());
    let weak = Arc::downgrade(&store);
    let held = Arc::new(kept.flag());
    let builder = quick(FaultStore::over(store)).on_completion(move |_: Completion| {
        let _ = &held;
    });
    let layer = builder.build().unwrap();
    let tasks = layer.tasks();
    let service = layer.layer(service_fn(move |_: Request<RequestBody>| {
        let _ = &flag;
        async { ok() }
    }));
    let id = submit(&tasks, "/").await;
    ended(&tasks, id).await;
    let handle = tasks.downgrade();

    drop(layer);
    drop(tasks);
    assert!(handle.upgrade().is_some(), "the service keeps it");
    drop(service);
    assert!(handle.upgrade().is_none());
    eventually("everything is freed", async || {
        app.is_dropped() && kept.is_dropped() && weak.upgrade().is_none()
    })
    .await;
}

#[tokio::test]
async fn an_application_may_hold_a_weak_handle_to_its_own_tasks() {
    let app = Dropped::default();
    let flag = Arc::new(app.flag());
    let layer = quick(MemoryStore::new()).build().unwrap();
    let own = layer.tasks().downgrade();
    let tasks = layer.tasks();
    drop(layer.layer(service_fn(move |request: Request<RequestBody>| {
        let (own, _flag) = (own.clone(), flag.clone());
        async move {
            if request.uri().path() == "/first" {
                let tasks = own.upgrade().expect("the engine is there: this runs in it");
                submit(&tasks, "/second").await;
            }
            ok()
        }
    })));
    drop(layer);
    let id = submit(&tasks, "/first").await;
    ended(&tasks, id).await;
    eventually("both have ended", async || {
        tasks.stats().await.unwrap().counts.of(TaskState::Succeeded) == 2
    })
    .await;
    drop(tasks);
    eventually("it is freed", async || app.is_dropped()).await;
}

#[tokio::test]
async fn recovery_begins_with_the_layer_and_waits_for_no_request() {
    let store = MemoryStore::new();
    let left = inserted(ledger(&store).insert(Insert::new(new_task("/"))).await.unwrap()).id;
    let dead = inserted(ledger(&store).insert(Insert::new(new_task("/"))).await.unwrap()).id;
    assert_eq!(claim_and_die(&store, Duration::from_millis(20)).await.tasks.len(), 1);
    let tasks = serve(quick(store).lease(Duration::from_millis(200)), |_| async { ok() });
    for id in [left, dead] {
        assert_eq!(ended(&tasks, id).await.state, TaskState::Succeeded);
    }
}

/// The last task's end was written, and the shutdown saw no work left before the driver saw the hook to call. On a
/// store in memory that hook was never called.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_hook_of_the_last_task_is_called_before_the_end() {
    for _ in 0..200 {
        let called = Arc::new(AtomicUsize::new(0));
        let (gate, in_hook) = (Gate::new(), called.clone());
        let at_gate = gate.clone();
        let builder = quick(MemoryStore::new()).on_completion(move |_: Completion| {
            in_hook.fetch_add(1, Ordering::SeqCst);
        });
        let tasks = serve(builder, move |_| {
            let gate = at_gate.clone();
            async move {
                gate.pass().await;
                ok()
            }
        });
        submit(&tasks, "/").await;
        gate.arrived(1).await;
        gate.open();
        soon(tasks.shutdown(LONG)).await;
        assert_eq!(called.load(Ordering::SeqCst), 1);
    }
}

/// A claim that the driver had just begun started attempts after the shutdown had checked for them: their results met a
/// closed store, and the tasks stayed running for ever.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_left_running_whenever_the_shutdown_comes() {
    for round in 0..300 {
        let store = MemoryStore::new();
        for _ in 0..20 {
            inserted(ledger(&store).insert(Insert::new(new_task("/"))).await.unwrap());
        }
        let builder = quick(store.clone()).concurrency(3).stop_grace(Duration::ZERO);
        let tasks = serve(builder, |_| async {
            tokio::task::yield_now().await;
            ok()
        });
        for _ in 0..round % 30 {
            tokio::task::yield_now().await;
        }
        let report = soon(tasks.shutdown(Duration::ZERO)).await;
        assert_eq!(report.dropped, 0);
        let counts = store.counts(&Scope::All).await.unwrap();
        let settled = counts.of(TaskState::Succeeded) + counts.of(TaskState::Enqueued);
        assert_eq!(settled, 20, "{counts:?}");
        assert!(report.finished as u64 <= counts.of(TaskState::Succeeded));
    }
}

/// A claim that is answered after the cut is handed back, and its tasks do not begin.
#[tokio::test]
async fn what_is_claimed_during_the_shutdown_is_handed_back() {
    let memory = MemoryStore::new();
    let id = inserted(ledger(&memory).insert(Insert::new(new_task("/"))).await.unwrap()).id;
    let store = FaultStore::new(memory.clone());
    let claim = store.faults().delay_next(Operation::Claim);
    let begun = Arc::new(AtomicUsize::new(0));
    let in_handler = begun.clone();
    let tasks = serve(quick(store), move |_| {
        in_handler.fetch_add(1, Ordering::SeqCst);
        async { ok() }
    });
    soon(claim.arrived()).await;
    // Twice, so that the grace is certainly over after the second was polled.
    let first = tasks.shutdown(Duration::ZERO);
    let second = tasks.shutdown(Duration::ZERO);
    let release = async { claim.release() };
    let (report, ..) = soon(async { tokio::join!(first, second, release) }).await;
    assert_eq!((report.finished, report.handed_back, report.dropped), (0, 1, 0));
    let record = ledger(&memory).find(&Scope::All, &id.into()).await.unwrap().unwrap();
    assert_eq!(
        (record.state, record.attempt, record.crashes),
        (TaskState::Enqueued, 0, 0)
    );
    assert_eq!(begun.load(Ordering::SeqCst), 0);
}

/// Returns when the engine is closed: then waits for a running task end.
async fn closed(tasks: &Tasks, running: RequestId) {
    let record = soon(tasks.wait(running, Duration::MAX)).await.unwrap();
    assert_eq!(record.unwrap().state, TaskState::Running);
}
