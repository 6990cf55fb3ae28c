//! Leases: holding a task, and losing it.

use std::time::Duration;

use super::{
    Harness, Subject,
    subject::{LONG, a_task, all_at_once, at_once, is_accepted, success, worker},
};
use crate::{
    store::{LogQuery, Renewal, Settled},
    task::{
        LeaseRef, LogLine, NewTask, Progress, Scope, TaskState,
        lifecycle::{Rescue, Stop},
    },
    time::Timestamp,
};

/// The handler of a worker that was taken for dead may still run. Nothing that it does has an effect.
pub async fn a_stale_token_changes_nothing(harness: &dyn Harness) {
    let store = Subject::open(harness).await;
    let task = a_task();
    let old = store.insert_born(task.clone(), &worker("old"), store.units(1)).await;
    store.pass(2).await;
    assert_eq!(store.rescue_one(task.id).await, Some(Rescue::Requeued));
    changes_nothing(&store, old).await;

    let new = store.claim_one(&worker("new"), LONG).await;
    assert!(new.token > old.token);
    changes_nothing(&store, old).await;

    assert!(is_accepted(store.end(new, success()).await));
    changes_nothing(&store, old).await;
    changes_nothing(&store, new).await;
}

async fn changes_nothing(store: &Subject<'_>, stale: LeaseRef) {
    let before = store.record(stale.id).await;
    let response = store.response(&Scope::All, stale.id).await.expect("output");
    let settled = store.settle(stale, super::subject::failure()).await;
    assert_eq!(settled.expect("settle"), Settled::Fenced);
    let renewed = store.renew(vec![stale], LONG).await.expect("renew");
    assert_eq!(renewed, [Renewal::Lost]);
    let progress = Progress::new(0.5, "half of it");
    assert!(!store.set_progress(stale, progress).await.expect("progress"));
    let line = LogLine::new(Timestamp::ZERO, "INFO", "test", "still here");
    assert!(!store.append_log(stale, vec![line]).await.expect("log"));

    assert_eq!(store.record(stale.id).await, before);
    assert_eq!(store.response(&Scope::All, stale.id).await.expect("output"), response);
    let lines = store
        .logs(&Scope::All, stale.id, LogQuery::default())
        .await
        .expect("logs");
    assert_eq!(lines, []);
}

/// Every process runs the rescue. Exactly one of them gets the task.
pub async fn a_lapsed_lease_is_rescued_exactly_once(harness: &dyn Harness) {
    let store = Subject::open(harness).await;
    for _ in 0..harness.rounds().div_ceil(10) {
        let mut stored = Vec::new();
        for _ in 0..10 {
            let task = a_task();
            store.insert_born(task.clone(), &worker("dead"), store.units(1)).await;
            stored.push(task.id);
        }
        store.pass(2).await;
        let rescued = all_at_once(4, |_| {
            let store = store.store.clone();
            async move { store.rescue(100).await.expect("rescue").tasks }
        })
        .await;
        let mut rescued: Vec<_> = rescued.into_iter().flatten().collect();
        rescued.sort_by_key(|(id, _)| *id);
        let expected: Vec<_> = stored.iter().map(|id| (*id, Rescue::Requeued)).collect();
        assert_eq!(rescued, expected);
        for id in stored {
            let record = store.record(id).await;
            assert_eq!((record.state, record.crashes), (TaskState::Enqueued, 1));
            let _ = store.stop(&Scope::All, id).await.expect("stop");
        }
    }
}

/// A lease that is renewed holds, however slow the handler is.
pub async fn a_renewed_lease_is_not_rescued(harness: &dyn Harness) {
    let store = Subject::open(harness).await;
    let task = a_task();
    let lease = store.insert_born(task.clone(), &worker("w"), store.units(3)).await;
    for _ in 0..3 {
        store.pass(2).await;
        let renewed = store.renew(vec![lease], store.units(3)).await.expect("renew");
        assert_eq!(renewed, [Renewal::Renewed { stop: false }]);
        assert_eq!(store.rescue_one(task.id).await, None);
    }
    store.pass(4).await;
    assert_eq!(store.rescue_one(task.id).await, Some(Rescue::Requeued));
}

/// A lapsed lease cannot be renewed, even before the rescue: the worker has abandoned the attempt by then.
pub async fn a_lapsed_lease_cannot_be_renewed(harness: &dyn Harness) {
    let store = Subject::open(harness).await;
    let (kept, lapsed) = (a_task(), a_task());
    let kept = store.insert_born(kept, &worker("w"), LONG).await;
    let lapsed = store.insert_born(lapsed, &worker("w"), store.units(1)).await;
    let unknown = LeaseRef {
        id: a_task().id,
        token: kept.token,
    };
    store.pass(2).await;
    let renewed = store.renew(vec![lapsed, kept, unknown], LONG).await.expect("renew");
    assert_eq!(
        renewed,
        [Renewal::Lost, Renewal::Renewed { stop: false }, Renewal::Lost]
    );
}

/// A renewal and a rescue run at the same time after the lease has run out. The rescue gets the task, and the renewal
/// is refused.
pub async fn renewal_against_rescue_has_one_winner(harness: &dyn Harness) {
    let store = Subject::open(harness).await;
    for _ in 0..harness.rounds().div_ceil(10) {
        let task = a_task();
        let lease = store.insert_born(task.clone(), &worker("w"), store.units(1)).await;
        store.pass(2).await;
        let (renewer, rescuer) = (store.store.clone(), store.store.clone());
        let (renewed, rescued) = at_once(
            async move { renewer.renew(vec![lease], LONG).await.expect("renew") },
            async move { rescuer.rescue(10).await.expect("rescue").tasks.len() },
        )
        .await;
        assert_eq!((&renewed[..], rescued), (&[Renewal::Lost][..], 1));
        let _ = store.stop(&Scope::All, task.id).await.expect("stop");
    }
}

/// A rescue counts a crash, and no retry.
pub async fn a_rescued_task_counts_a_crash_not_a_failure(harness: &dyn Harness) {
    let store = Subject::open(harness).await;
    let task = a_task();
    store.insert_born(task.clone(), &worker("dead"), store.units(1)).await;
    store.pass(2).await;
    assert_eq!(store.rescue_one(task.id).await, Some(Rescue::Requeued));
    let record = store.record(task.id).await;
    assert_eq!(
        (record.state, record.crashes, record.retries),
        (TaskState::Enqueued, 1, 0)
    );
    assert_eq!((record.lease_until, record.is_suspect()), (None, true));

    let lease = store.claim_one(&worker("alive"), LONG).await;
    assert!(is_accepted(store.end(lease, success()).await));
    let record = store.record(task.id).await;
    assert_eq!(
        (record.state, record.crashes, record.attempt),
        (TaskState::Succeeded, 1, 2)
    );
}

/// A task that crashes its process is not given to one process after the other.
pub async fn three_crashes_end_it_as_poison(harness: &dyn Harness) {
    let store = Subject::open(harness).await;
    let task = a_task();
    store.insert_born(task.clone(), &worker("w"), store.units(1)).await;
    for crash in 1..=3 {
        store.pass(2).await;
        let expected = if crash == 3 { Rescue::Poisoned } else { Rescue::Requeued };
        assert_eq!(store.rescue_one(task.id).await, Some(expected));
        if crash < 3 {
            store.claim_one(&worker("w"), store.units(1)).await;
        }
    }
    let record = store.record(task.id).await;
    assert_eq!((record.state, record.crashes), (TaskState::Failed, 3));
    assert!(record.error.as_ref().is_some_and(|error| error.contains("poison")));
    assert_eq!(store.claim_ids(&worker("w"), 10).await, []);
    store.pass(2).await;
    assert_eq!(store.rescue_one(task.id).await, None);
}

/// The answer to a renewal says that the task is to stop.
pub async fn a_renewal_tells_of_a_stop(harness: &dyn Harness) {
    let store = Subject::open(harness).await;
    let lease = store.insert_born(a_task(), &worker("w"), LONG).await;
    assert_eq!(store.stop(&Scope::All, lease.id).await.expect("stop"), Stop::Stopping);
    let renewed = store.renew(vec![lease], LONG).await.expect("renew");
    assert_eq!(renewed, [Renewal::Renewed { stop: true }]);
}

/// The stop remains in effect when the worker is gone.
pub async fn a_stopping_task_whose_worker_died_is_stopped(harness: &dyn Harness) {
    let store = Subject::open(harness).await;
    let lease = store.insert_born(a_task(), &worker("dead"), store.units(1)).await;
    assert_eq!(store.stop(&Scope::All, lease.id).await.expect("stop"), Stop::Stopping);
    store.pass(2).await;
    assert_eq!(store.rescue_one(lease.id).await, Some(Rescue::Stopped));
    assert_eq!(store.state(lease.id).await, TaskState::Stopped);
    assert_eq!(store.claim_ids(&worker("w"), 10).await, []);
}

/// A handler that blocks the application's runtime must not let the leases of other tasks run out. Renewals come from a
/// thread with a runtime of its own, and need nothing that the blocked runtime drives.
pub async fn renewing_works_while_the_callers_runtime_is_blocked(harness: &dyn Harness) {
    let store = Subject::open(harness).await;
    let lease = store.insert_born(a_task(), &worker("w"), LONG).await;
    let shared = store.store.clone();
    let (tell, told) = std::sync::mpsc::channel();
    let renewer = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let renewed = runtime.expect("a runtime").block_on(shared.renew(vec![lease], LONG));
        tell.send(renewed).expect("the test waits");
    });
    // Blocks every thread of this runtime until the renewal is done.
    let told = std::sync::Arc::new(std::sync::Mutex::new(told));
    let workers = tokio::runtime::Handle::current().metrics().num_workers();
    let (unblock, blocked) = std::sync::mpsc::channel::<()>();
    let blocked = std::sync::Arc::new(std::sync::Mutex::new(blocked));
    for _ in 0..workers {
        let blocked = blocked.clone();
        tokio::spawn(async move {
            let _ = blocked
                .lock()
                .map(|blocked| blocked.recv_timeout(Duration::from_secs(20)));
        });
    }
    let renewed = told
        .lock()
        .expect("nobody else has it")
        .recv_timeout(Duration::from_secs(10));
    drop(unblock);
    let renewed = renewed
        .expect("the renewal does not wait for this runtime")
        .expect("renew");
    assert_eq!(renewed, [Renewal::Renewed { stop: false }]);
    renewer.join().expect("the renewer ends");
}

/// A rescue is bounded, and the next one continues with the rest.
pub async fn a_rescue_does_no_more_than_it_is_asked_for(harness: &dyn Harness) {
    let store = Subject::open(harness).await;
    for _ in 0..5 {
        store.insert_born(a_task(), &worker("dead"), store.units(1)).await;
        store
            .insert_new(NewTask {
                max_age: store.units(1),
                ..a_task()
            })
            .await;
    }
    store.pass(2).await;
    let mut found = Vec::new();
    for _ in 0..3 {
        found.push(store.rescue(4).await.expect("rescue").tasks.len());
    }
    assert_eq!(found, [4, 4, 2]);
}
