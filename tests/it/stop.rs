//! Stopping tasks, and running ended ones again.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::sync::Barrier;
use tower_respond_async::{
    MemoryStore, RequestId, TaskState, Tasks,
    store::Insert,
    task::lifecycle::{Edits, Rerun, Stop},
    testing::ManualClock,
    time::Timestamp,
};

use crate::engine_support::{
    Dropped, Gate, claim_and_die, context, ended, find, inserted, ledger, look_round, new_task, ok, quick, reached,
    respond, serve, serve_gated, stored, submission, submit,
};

#[tokio::test]
async fn a_task_stopped_while_it_waits_never_runs() {
    let clock = ManualClock::new(Timestamp::from_millis(1_000));
    let tasks = serve(quick(MemoryStore::builder().clock(clock.clone()).build()), |_| async {
        ok()
    });
    let mut submission = submission("/");
    submission.delay = Duration::from_secs(60);
    let id = stored(tasks.submit(submission).await.unwrap());
    assert_eq!(tasks.stop(id).await.unwrap(), Stop::Stopped);
    clock.advance(Duration::from_secs(60));
    look_round(&tasks).await;
    let record = find(&tasks, id).await;
    assert_eq!((record.state, record.attempt), (TaskState::Stopped, 0));
}

#[tokio::test]
async fn a_running_task_is_stopped_and_its_answer_is_dropped() {
    let gate = Gate::new();
    let at_gate = gate.clone();
    let tasks = serve(quick(MemoryStore::new()), move |request| {
        let (gate, task) = (at_gate.clone(), context(&request));
        async move {
            assert!(!task.is_stopped());
            gate.pass().await;
            task.stopped().await;
            assert!(task.is_stopped());
            match request.uri().path() {
                "/well" => ok(),
                "/badly" => Ok(respond(503, "")),
                _ => Err("told to stop".into()),
            }
        }
    });
    for path in ["/well", "/badly", "/error"] {
        let id = submit(&tasks, path).await;
        gate.arrived(1).await;
        gate.let_through(1);
        assert_eq!(tasks.stop(id).await.unwrap(), Stop::Stopping);
        let record = ended(&tasks, id).await;
        assert_eq!((record.state, record.attempt), (TaskState::Stopped, 1), "{path}");
        assert_eq!(tasks.response(id).await.unwrap(), None);
    }
}

#[tokio::test]
async fn a_handler_that_ignores_a_stop_is_dropped_after_the_grace() {
    let (gate, dropped) = (Gate::new(), Dropped::default());
    let tasks = serve_gated(
        quick(MemoryStore::new()).stop_grace(Duration::from_millis(20)),
        &gate,
        &dropped,
    );
    let id = submit(&tasks, "/").await;
    gate.arrived(1).await;
    assert_eq!(tasks.stop(id).await.unwrap(), Stop::Stopping);
    assert_eq!(ended(&tasks, id).await.state, TaskState::Stopped);
    assert!(dropped.is_dropped());
}

#[tokio::test]
async fn a_task_that_runs_elsewhere_is_stopped_at_its_next_renewal() {
    let (store, gate) = (MemoryStore::new(), Gate::new());
    let at_gate = gate.clone();
    // Three renewals per lease: a machine that is too busy for one of them does not make it a crash.
    let builder = quick(store.clone()).lease(Duration::from_secs(2));
    let here = serve(builder, move |request| {
        let (gate, task) = (at_gate.clone(), context(&request));
        async move {
            gate.pass().await;
            task.stopped().await;
            ok()
        }
    });
    let id = submit(&here, "/").await;
    gate.arrived(1).await;
    gate.open();
    let elsewhere = serve(quick(store), |_| async { ok() });
    assert_eq!(elsewhere.stop(id).await.unwrap(), Stop::Stopping);
    let record = ended(&elsewhere, id).await;
    assert_eq!(
        (record.state, record.attempt, record.crashes),
        (TaskState::Stopped, 1, 0)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_a_stop_and_a_claim_one_wins() {
    const ROUNDS: usize = 500;
    let (gate, begun) = (Gate::new(), Arc::new(Mutex::new(HashSet::new())));
    let (at_gate, in_handler) = (gate.clone(), begun.clone());
    let tasks = serve(quick(MemoryStore::new()).concurrency(1), move |request| {
        in_handler.lock().unwrap().insert(context(&request).request_id());
        let gate = at_gate.clone();
        async move {
            if request.uri().path() == "/first" {
                gate.pass().await;
            }
            ok()
        }
    });
    let mut seen = HashSet::new();
    for round in 0..ROUNDS {
        // The second task is claimed when the first frees the slot.
        let first = submit(&tasks, "/first").await;
        gate.arrived(1).await;
        let id = submit(&tasks, "/").await;
        let stop = stop_beside(&tasks, id, round % 50, || gate.let_through(1)).await;
        ended(&tasks, first).await;
        let record = ended(&tasks, id).await;
        let ran = begun.lock().unwrap().contains(&Some(id));
        match stop {
            Stop::Stopped => assert_eq!((record.state, record.attempt, ran), (TaskState::Stopped, 0, false)),
            Stop::Stopping => assert_eq!((record.state, record.attempt), (TaskState::Stopped, 1)),
            Stop::AlreadyEnded(state) => {
                assert_eq!(state, TaskState::Succeeded);
                assert_eq!((record.state, record.attempt, ran), (state, 1, true));
            }
            _ => unreachable!("there is no other answer"),
        }
        seen.insert(std::mem::discriminant(&stop));
    }
    assert!(seen.len() > 1, "the rounds have gone one way only");
}

/// Stops the task on one thread, after so many yields, while `other` happens on another.
async fn stop_beside(tasks: &Tasks, id: RequestId, turns: usize, other: impl FnOnce()) -> Stop {
    let barrier = Arc::new(Barrier::new(2));
    let stopping = tokio::spawn({
        let (tasks, barrier) = (tasks.clone(), barrier.clone());
        async move {
            barrier.wait().await;
            for _ in 0..turns {
                tokio::task::yield_now().await;
            }
            tasks.stop(id).await.unwrap()
        }
    });
    barrier.wait().await;
    other();
    stopping.await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_a_stop_and_an_end_one_wins() {
    const ROUNDS: usize = 500;
    let gate = Gate::new();
    let at_gate = gate.clone();
    let tasks = serve(quick(MemoryStore::new()), move |_| {
        let gate = at_gate.clone();
        async move {
            gate.pass().await;
            ok()
        }
    });
    for round in 0..ROUNDS {
        let id = submit(&tasks, "/").await;
        gate.arrived(1).await;
        let stop = stop_beside(&tasks, id, round % 10, || gate.let_through(1)).await;
        let record = ended(&tasks, id).await;
        let expected = match stop {
            Stop::AlreadyEnded(state) => state,
            _ => TaskState::Stopped,
        };
        assert_eq!(record.state, expected, "{stop:?}");
        let response = tasks.response(id).await.unwrap();
        assert_eq!(response.is_some(), expected == TaskState::Succeeded);
    }
}

#[tokio::test]
async fn stopping_twice_is_stopping_once() {
    let gate = Gate::new();
    let at_gate = gate.clone();
    let tasks = serve(quick(MemoryStore::new()), move |request| {
        let (gate, task) = (at_gate.clone(), context(&request));
        async move {
            task.stopped().await;
            gate.pass().await;
            ok()
        }
    });
    let id = submit(&tasks, "/").await;
    reached(&tasks, id, TaskState::Running).await;
    let mut answers = Vec::new();
    for _ in 0..2 {
        answers.push(tasks.stop(id).await.unwrap());
    }
    gate.open();
    ended(&tasks, id).await;
    answers.push(tasks.stop(id).await.unwrap());
    let expected = [Stop::Stopping, Stop::Stopping, Stop::AlreadyEnded(TaskState::Stopped)];
    assert_eq!(answers, expected);
    let record = find(&tasks, id).await;
    let stopping = record.history.iter().filter(|event| event.state == TaskState::Stopping);
    assert_eq!(stopping.count(), 1);
}

#[tokio::test]
async fn a_task_stopped_after_its_worker_died_ends_when_the_lease_does_and_is_not_run_again() {
    let clock = ManualClock::new(Timestamp::from_millis(1_000));
    let store = MemoryStore::builder().clock(clock.clone()).build();
    let id = inserted(ledger(&store).insert(Insert::new(new_task("/"))).await.unwrap()).id;
    assert_eq!(claim_and_die(&store, Duration::from_secs(30)).await.tasks.len(), 1);
    let tasks = serve(quick(store).lease(Duration::from_secs(1)), |_| async { ok() });
    assert_eq!(tasks.stop(id).await.unwrap(), Stop::Stopping);
    assert_eq!(tasks.stop(id).await.unwrap(), Stop::Stopping);
    clock.advance(Duration::from_secs(30));
    let record = ended(&tasks, id).await;
    assert_eq!((record.state, record.attempt), (TaskState::Stopped, 1));
    look_round(&tasks).await;
    assert_eq!(find(&tasks, id).await, record);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_reruns_at_once_one_wins() {
    const ROUNDS: u32 = 50;
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
    let again = async |id: RequestId| tasks.rerun(id, Edits::default()).await.unwrap();
    gate.arrived(1).await;
    assert_eq!(again(id).await, Rerun::NotEnded(TaskState::Running));
    gate.let_through(1);
    ended(&tasks, id).await;
    for round in 0..ROUNDS {
        let barrier = Arc::new(Barrier::new(4));
        let pressing: Vec<_> = (0..4)
            .map(|_| {
                let (tasks, barrier) = (tasks.clone(), barrier.clone());
                tokio::spawn(async move {
                    barrier.wait().await;
                    tasks.rerun(id, Edits::default()).await.unwrap()
                })
            })
            .collect();
        let mut answers = Vec::new();
        for press in pressing {
            answers.push(press.await.unwrap());
        }
        let generation = round + 2;
        let begun = answers
            .iter()
            .filter(|answer| **answer == Rerun::Enqueued { generation });
        assert_eq!(begun.count(), 1, "{answers:?}");
        gate.arrived(1).await;
        gate.let_through(1);
        let record = ended(&tasks, id).await;
        assert_eq!((record.generation, record.attempt), (generation, 1));
    }
    assert!(!gate.has_arrival());
}

/// No attempt follows an acknowledged stop, however the present one ends.
#[tokio::test]
async fn a_stopped_attempt_is_never_tried_again() {
    let gate = Gate::new();
    let at_gate = gate.clone();
    let builder = quick(MemoryStore::new())
        .attempt_timeout(Duration::from_secs(2))
        .stop_grace(Duration::from_secs(60));
    let tasks = serve(builder, move |request| {
        let gate = at_gate.clone();
        async move {
            gate.pass().await;
            match request.uri().path() {
                "/panic" => panic!("oops"),
                "/hang" => std::future::pending().await,
                "/error" => Err("no".into()),
                _ => Ok(respond(503, "")),
            }
        }
    });
    let mut ids = Vec::new();
    for path in ["/panic", "/hang", "/error", "/status"] {
        let id = submit(&tasks, path).await;
        gate.arrived(1).await;
        assert_eq!(tasks.stop(id).await.unwrap(), Stop::Stopping);
        gate.let_through(1);
        ids.push(id);
    }
    for id in ids {
        let record = ended(&tasks, id).await;
        assert_eq!((record.state, record.attempt), (TaskState::Stopped, 1));
    }
    assert!(!gate.has_arrival());
}
