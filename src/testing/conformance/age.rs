//! The age of tasks that wait.

use super::{
    Harness, Subject,
    subject::{LONG, a_task, is_accepted, retry, worker},
};
use crate::task::{NewTask, TaskState, lifecycle::Rescue};

/// A task that has waited too long expires. Clients do not wait for its answer any more, and running it would delay
/// other tasks.
pub async fn an_over_age_task_expires_and_never_runs(harness: &dyn Harness) {
    let store = Subject::open(harness).await;
    let old = NewTask {
        max_age: store.units(3),
        ..a_task()
    };
    store.insert_new(old.clone()).await;
    store.pass(4).await;
    let young = a_task();
    store.insert_new(young.clone()).await;

    let claimed = store.claim_for(&worker("w"), 10, LONG).await;
    assert_eq!(
        super::subject::ids(&claimed.tasks),
        [young.id],
        "not even before it is rescued"
    );
    assert_eq!(claimed.next_due, None);
    assert_eq!(store.rescue_one(old.id).await, Some(Rescue::Expired));
    let record = store.record(old.id).await;
    assert_eq!(record.state, TaskState::Expired);
    assert!(record.error.is_some() && record.ended_at.is_some());
    assert_eq!(store.rescue_one(old.id).await, None);
    assert_eq!(store.claim_ids(&worker("w"), 10).await, []);
}

/// The age of a delayed task counts from the time when it may run.
pub async fn a_delay_is_not_held_against_a_task(harness: &dyn Harness) {
    let store = Subject::open(harness).await;
    let delayed = NewTask {
        delay: store.units(4),
        max_age: store.units(3),
        ..a_task()
    };
    store.insert_new(delayed.clone()).await;
    store.pass(5).await;
    assert_eq!(store.rescue_one(delayed.id).await, None);
    assert_eq!(store.claim_ids(&worker("w"), 10).await, [delayed.id]);
}

/// A task that retries expires as well, so that retries do not go on for ever.
pub async fn a_retry_that_is_too_old_expires(harness: &dyn Harness) {
    let store = Subject::open(harness).await;
    let task = NewTask {
        max_age: store.units(3),
        ..a_task()
    };
    let lease = store.insert_born(task.clone(), &worker("w"), LONG).await;
    assert!(is_accepted(store.end(lease, retry(store.units(1))).await));
    store.pass(4).await;
    assert_eq!(store.claim_ids(&worker("w"), 10).await, []);
    assert_eq!(store.rescue_one(task.id).await, Some(Rescue::Expired));
}

/// Age limits the time of waiting. A task that runs does not expire.
pub async fn a_running_task_does_not_expire(harness: &dyn Harness) {
    let store = Subject::open(harness).await;
    let task = NewTask {
        max_age: store.units(1),
        ..a_task()
    };
    store.insert_born(task.clone(), &worker("w"), LONG).await;
    store.pass(2).await;
    assert_eq!(store.rescue_one(task.id).await, None);
    assert_eq!(store.state(task.id).await, TaskState::Running);
}
