//! Claims of tasks by workers.

use std::{collections::HashSet, time::Duration};

use super::{
    Harness, Subject,
    subject::{LONG, a_task, all_at_once, ids, retry, success, worker},
};
use crate::{
    store::Claim,
    task::{NewTask, TaskState},
};

/// Several workers claim the same few tasks at the same time. Each task goes to one of them.
pub async fn a_task_is_claimed_by_one_worker_only(harness: &dyn Harness) {
    let store = Subject::open(harness).await;
    for _ in 0..harness.rounds() {
        let mut stored = HashSet::new();
        for _ in 0..6 {
            stored.insert(store.insert_new(a_task()).await.id);
        }
        let claimed = all_at_once(4, |side| {
            let store = store.store.clone();
            let claim = Claim::new(worker(&format!("w{side}")), 4, LONG);
            async move { store.claim(claim).await.expect("claim").tasks }
        })
        .await;
        let claimed: Vec<_> = claimed.iter().flat_map(|tasks| ids(tasks)).collect();
        let mut rest = store.claim_ids(&worker("w"), 100).await;
        rest.extend(&claimed);
        assert_eq!(rest.len(), 6, "each once: {rest:?}");
        assert_eq!(HashSet::from_iter(rest), stored);
    }
}

/// Claims take tasks in the order of the time when they may run, then by id.
pub async fn claims_come_oldest_first(harness: &dyn Harness) {
    let store = Subject::open(harness).await;
    let mut tasks: Vec<_> = [5, 1, 3, 1, 0, 3].map(|units| (units, a_task().id)).into();
    // The ids count up. The tasks are stored in another order, and ids still decide between equal times.
    for at in [3, 0, 5, 1, 4, 2] {
        let (delay, id) = tasks[at];
        let task = NewTask {
            id,
            delay: store.units(delay),
            ..a_task()
        };
        store.insert_new(task).await;
    }
    store.pass(6).await;
    let mut claimed = store.claim_ids(&worker("w"), 2).await;
    claimed.extend(store.claim_ids(&worker("w"), 100).await);
    let mut run_at = Vec::new();
    for id in &claimed {
        run_at.push((store.record(*id).await.run_at, *id));
    }
    assert!(run_at.is_sorted(), "{run_at:?}");
    tasks.sort_by_key(|(delay, _)| *delay);
    let by_delay = |id| tasks.iter().find(|(_, other)| *other == id).map(|(delay, _)| *delay);
    let delays: Vec<_> = claimed.iter().map(|id| by_delay(*id)).collect();
    assert_eq!(delays, [0, 1, 1, 3, 3, 5].map(Some));
}

/// A claim does not return a delayed task before its time, however often it is repeated.
pub async fn a_delayed_task_is_not_claimed_early(harness: &dyn Harness) {
    let store = Subject::open(harness).await;
    let task = NewTask {
        delay: store.units(3),
        ..a_task()
    };
    store.insert_new(task.clone()).await;
    assert_eq!(store.claim_ids(&worker("w"), 10).await, []);
    store.pass(2).await;
    assert_eq!(store.claim_ids(&worker("w"), 10).await, []);
    store.pass(2).await;
    assert_eq!(store.claim_ids(&worker("w"), 10).await, [task.id]);
}

/// A worker holds one suspect at a time, so that a second crash identifies its cause and does not count against other
/// tasks.
pub async fn suspects_are_claimed_one_at_a_time(harness: &dyn Harness) {
    let store = Subject::open(harness).await;
    let dead = worker("dead");
    let mut suspects = Vec::new();
    for _ in 0..3 {
        let task = a_task();
        store.insert_born(task.clone(), &dead, store.units(1)).await;
        suspects.push(task.id);
    }
    store.pass(2).await;
    assert_eq!(store.rescue(10).await.expect("rescue").tasks.len(), 3);
    let innocent = [a_task().id, a_task().id];
    for id in innocent {
        store.insert_new(NewTask { id, ..a_task() }).await;
    }

    let claimed = store.claim_for(&worker("one"), 10, LONG).await;
    let of_suspects = |ids: &[_]| ids.iter().filter(|id| suspects.contains(id)).count();
    assert_eq!(
        of_suspects(&ids(&claimed.tasks)),
        1,
        "one suspect and both of the others"
    );
    assert_eq!(claimed.tasks.len(), 3);
    assert_eq!(claimed.next_due, None, "what must wait for another suspect is not due");
    assert_eq!(store.claim_ids(&worker("one"), 10).await, []);

    let other = store.claim_ids(&worker("two"), 10).await;
    assert_eq!(
        (other.len(), of_suspects(&other)),
        (1, 1),
        "another worker may have one as well"
    );

    let suspect = claimed.tasks.iter().find(|task| suspects.contains(&task.record.id));
    let suspect = suspect.expect("counted above").record.lease();
    let _ = store.end(suspect, success()).await;
    let next = store.claim_ids(&worker("one"), 10).await;
    assert_eq!(
        (next.len(), of_suspects(&next)),
        (1, 1),
        "the next one, once the first has ended"
    );
}

/// Claims of one worker at the same moment take one suspect together.
pub async fn suspects_claimed_at_once_are_still_one_at_a_time(harness: &dyn Harness) {
    let store = Subject::open(harness).await;
    for round in 0..harness.rounds().div_ceil(10) {
        let mut suspects = Vec::new();
        for _ in 0..4 {
            let task = NewTask {
                crash_allowance: 100,
                ..a_task()
            };
            store.insert_born(task.clone(), &worker("dead"), store.units(1)).await;
            suspects.push(task.id);
        }
        store.pass(2).await;
        let _ = store.rescue(100).await.expect("rescue");
        let this = worker(&format!("w{round}"));
        let claimed = all_at_once(4, |_| {
            let store = store.store.clone();
            let claim = Claim::new(this.clone(), 2, LONG);
            async move { store.claim(claim).await.expect("claim").tasks.len() }
        })
        .await;
        assert_eq!(claimed.iter().sum::<usize>(), 1, "{claimed:?}");
        for id in suspects {
            let _ = store.stop(&crate::task::Scope::All, id).await.expect("stop");
        }
    }
}

/// A claim answers how long until the next task is due, so that the worker can sleep until then.
pub async fn a_claim_says_when_the_next_task_is_due(harness: &dyn Harness) {
    let store = Subject::open(harness).await;
    assert_eq!(store.claim_for(&worker("w"), 1, LONG).await.next_due, None);
    for delay in [0, 0, 4] {
        let task = NewTask {
            delay: store.units(delay),
            ..a_task()
        };
        store.insert_new(task).await;
    }
    assert_eq!(
        store.claim_for(&worker("w"), 1, LONG).await.next_due,
        Some(Duration::ZERO)
    );
    let claimed = store.claim_for(&worker("w"), 1, LONG).await;
    let due = claimed.next_due.expect("one is left");
    assert!(due > store.units(3) && due <= store.units(4), "{due:?}");

    let _ = store.end(claimed.tasks[0].record.lease(), retry(store.units(2))).await;
    let due = store
        .claim_for(&worker("w"), 1, LONG)
        .await
        .next_due
        .expect("two are left");
    assert!(due > store.units(1) && due <= store.units(2), "{due:?}");
}

/// The record shows a claim before the handler runs: state, attempt, crash, token, worker, lease and history.
pub async fn a_claim_is_written_down_before_the_handler_runs(harness: &dyn Harness) {
    let store = Subject::open(harness).await;
    let task = a_task();
    store.insert_new(task.clone()).await;
    let lease = store.claim_one(&worker("w"), LONG).await;
    let record = store.record(task.id).await;
    assert_eq!(
        (record.state, record.attempt, record.crashes),
        (TaskState::Running, 1, 1)
    );
    assert_eq!((record.token, record.worker.clone()), (lease.token, Some(worker("w"))));
    assert!(record.lease_until.is_some() && record.started_at.is_some());
    let states: Vec<_> = record.history.iter().map(|event| (event.id, event.state)).collect();
    assert_eq!(states, [(1, TaskState::Enqueued), (2, TaskState::Running)]);
}
