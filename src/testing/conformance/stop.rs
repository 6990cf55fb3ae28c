//! Stops of tasks.

use super::{
    Harness, Subject,
    subject::{LONG, a_task, at_once, failure, is_accepted, retry, success, worker},
};
use crate::{
    store::{Claim, Settled, StoreErrorKind},
    task::{
        Scope, TaskState,
        lifecycle::{Outcome, Stop},
    },
};

/// Once the stop of a waiting task is acknowledged, the task never runs.
pub async fn stop_of_a_queued_task_is_final(harness: &dyn Harness) {
    let store = Subject::open(harness).await;
    let queued = a_task().id;
    store.insert_new(crate::task::NewTask { id: queued, ..a_task() }).await;
    let retrying = store.insert_born(a_task(), &worker("w"), LONG).await;
    assert!(is_accepted(store.end(retrying, retry(store.units(1))).await));
    for id in [queued, retrying.id] {
        assert_eq!(store.stop(&Scope::All, id).await.expect("stop"), Stop::Stopped);
        let record = store.record(id).await;
        assert_eq!(record.state, TaskState::Stopped);
        assert!(record.ended_at.is_some());
    }
    store.pass(2).await;
    assert_eq!(store.claim_ids(&worker("w"), 10).await, []);
    let again = store.stop(&Scope::All, queued).await.expect("stop");
    assert_eq!(again, Stop::AlreadyEnded(TaskState::Stopped));
    let unknown = store
        .stop(&Scope::All, a_task().id)
        .await
        .expect_err("there is no such task");
    assert_eq!(unknown.kind(), StoreErrorKind::NotFound);
}

/// Either the stop comes first and the task never runs, or the claim comes first and the task is stopping.
pub async fn stop_against_claim_has_one_winner(harness: &dyn Harness) {
    let store = Subject::open(harness).await;
    for _ in 0..harness.rounds() {
        let task = a_task();
        store.insert_new(task.clone()).await;
        let (claimer, stopper) = (store.store.clone(), store.store.clone());
        let claim = Claim::new(worker("w"), 1, LONG);
        let (claimed, stopped) = at_once(
            async move { claimer.claim(claim).await.expect("claim").tasks },
            async move { stopper.stop(&Scope::All, task.id).await.expect("stop") },
        )
        .await;
        let state = store.state(task.id).await;
        match (claimed.first(), stopped) {
            (None, Stop::Stopped) => assert_eq!(state, TaskState::Stopped),
            (Some(claimed), Stop::Stopping) => {
                assert_eq!(state, TaskState::Stopping);
                let _ = store.end(claimed.record.lease(), success()).await;
            }
            // Any other pair has two winners or none.
            other => panic!("two winners or none: {other:?}, {state}"),
        }
        assert_eq!(store.state(task.id).await, TaskState::Stopped);
    }
}

/// Either the result is kept or the task is stopped. The answers agree with what is stored.
pub async fn stop_against_settle_has_one_winner(harness: &dyn Harness) {
    let store = Subject::open(harness).await;
    for _ in 0..harness.rounds() {
        let lease = store.insert_born(a_task(), &worker("w"), LONG).await;
        let (settler, stopper) = (store.store.clone(), store.store.clone());
        let (settled, stopped) = at_once(
            async move { settler.settle(lease, success()).await.expect("settle") },
            async move { stopper.stop(&Scope::All, lease.id).await.expect("stop") },
        )
        .await;
        let expected = match stopped {
            Stop::Stopping => TaskState::Stopped,
            Stop::AlreadyEnded(TaskState::Succeeded) => TaskState::Succeeded,
            other => panic!("{other:?}"),
        };
        let Settled::Accepted { state, .. } = settled else {
            panic!("the settlement of the holder was refused")
        };
        assert_eq!((state, store.state(lease.id).await), (expected, expected));
        let response = store.response(&Scope::All, lease.id).await.expect("output");
        assert_eq!(
            response.is_some(),
            expected == TaskState::Succeeded,
            "a stopped task keeps no response"
        );
    }
}

/// An acknowledged stop holds, however the attempt ends.
pub async fn a_stopping_task_ends_as_stopped_whatever_is_reported(harness: &dyn Harness) {
    let store = Subject::open(harness).await;
    for outcome in [
        success(),
        failure(),
        retry(store.units(1)),
        Outcome::Released,
        Outcome::Stopped,
    ] {
        let lease = store.insert_born(a_task(), &worker("w"), LONG).await;
        for _ in 0..2 {
            assert_eq!(store.stop(&Scope::All, lease.id).await.expect("stop"), Stop::Stopping);
        }
        assert!(is_accepted(store.end(lease, outcome).await));
        let record = store.record(lease.id).await;
        assert_eq!((record.state, record.status_code), (TaskState::Stopped, None));
        assert_eq!(store.response(&Scope::All, lease.id).await.expect("output"), None);
    }
    store.pass(2).await;
    assert_eq!(store.claim_ids(&worker("w"), 10).await, []);
}
