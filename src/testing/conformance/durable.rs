//! What survives the end of a process. A store that lacks an ability must declare so.

use super::{
    Harness, Subject,
    subject::{LONG, a_task, a_task_keyed, a_task_telling, failure, known, retry, success, worker},
};
use crate::{
    store::{Durability, Insert, KnownBy, LogQuery, StoreErrorKind},
    task::{
        Destination, LogLine, NewTask, Scope, TaskState,
        lifecycle::{Edits, Rerun, Rescue},
    },
    time::Timestamp,
};

/// Tasks in six states, with their requests, responses, logs, keys and completions, are as before. The task that was
/// running is rescued.
pub async fn reopening_loses_nothing_that_was_acknowledged(harness: &dyn Harness) {
    let mut store = Subject::open(harness).await;
    let here = Destination::LOCAL;
    let queued = a_task_keyed("k", 1);
    store.insert_new(queued.clone()).await;
    let succeeded = store.insert_born(a_task_telling(&here), &worker("w"), LONG).await;
    let line = LogLine::new(Timestamp::ZERO, "INFO", "test", "a line");
    assert!(store.append_log(succeeded, vec![line]).await.expect("log"));
    let _ = store.end(succeeded, success()).await;
    let failed = store.insert_born(a_task(), &worker("w"), LONG).await;
    let _ = store.end(failed, failure()).await;
    let retrying = store.insert_born(a_task(), &worker("w"), LONG).await;
    let _ = store.end(retrying, retry(LONG)).await;
    let stopped = store.insert_new(a_task()).await.id;
    let _ = store.stop(&Scope::All, stopped).await.expect("stop");
    let running = store.insert_born(a_task(), &worker("w"), store.units(1)).await;
    let ids = [queued.id, succeeded.id, failed.id, retrying.id, stopped];
    let mut before = Vec::new();
    for id in ids {
        before.push(story(&store, id).await);
    }

    store.reopen_or_declare().await;

    for (id, before) in ids.into_iter().zip(before) {
        assert_eq!(story(&store, id).await, before);
    }
    let again = store.insert(Insert::new(a_task_keyed("k", 1))).await.expect("insert");
    assert_eq!(known(&again), (queued.id, KnownBy::Key, true));
    assert_eq!(store.deliveries(&here, LONG).await.len(), 1);
    let counts = store.counts(&Scope::All).await.expect("counts");
    assert_eq!(counts.iter().map(|(_, count)| count).sum::<u64>(), 6);
    // A rescue finds the running task: in an exclusive store at once, in a shared one when its lease has lapsed.
    let mut claimed = store.claim_ids(&worker("w"), 10).await;
    store.pass(2).await;
    let _ = store.rescue(10).await.expect("rescue");
    claimed.extend(store.claim_ids(&worker("w"), 10).await);
    assert_eq!(claimed, [queued.id, running.id]);
    assert_eq!(
        store.record(running.id).await.crashes,
        2,
        "the first claim and this one"
    );
}

/// A rescue reports every crash exactly once, whether it was found when the store was opened or when a lease lapsed.
pub async fn a_rescue_tells_of_what_a_dead_process_had(harness: &dyn Harness) {
    let mut store = Subject::open(harness).await;
    let here = Destination::LOCAL;
    let running = store.insert_born(a_task(), &worker("w"), store.units(1)).await.id;
    let poison = NewTask {
        crash_allowance: 1,
        ..a_task_telling(&here)
    };
    let poison = store.insert_born(poison, &worker("w"), store.units(1)).await.id;
    let stopping = store.insert_born(a_task(), &worker("w"), store.units(1)).await.id;
    let _ = store.stop(&Scope::All, stopping).await.expect("stop");
    let waiting = store.insert_new(a_task()).await.id;

    store.reopen_or_declare().await;
    store.pass(2).await;
    let mut told = Vec::new();
    let mut outbox = false;
    for _ in 0..3 {
        let rescued = store.rescue(1).await.expect("rescue");
        assert_eq!(rescued.tasks.len(), 1, "as many as were asked for");
        told.extend(rescued.tasks);
        outbox |= rescued.outbox;
    }
    let mut expected = [
        (running, Rescue::Requeued),
        (poison, Rescue::Poisoned),
        (stopping, Rescue::Stopped),
    ];
    told.sort_by_key(|(id, _)| *id);
    expected.sort_by_key(|(id, _)| *id);
    assert_eq!(told, expected);
    assert!(outbox, "one of them has a completion to deliver");
    assert_eq!(store.rescue(10).await.expect("rescue").tasks, [], "once");
    let mut claimed = store.claim_ids(&worker("w"), 10).await;
    claimed.sort_unstable();
    let mut runnable = [running, waiting];
    runnable.sort_unstable();
    assert_eq!(claimed, runnable);
}

/// Everything that is stored about a task, as one value to compare.
async fn story(store: &Subject<'_>, id: crate::task::RequestId) -> impl PartialEq + std::fmt::Debug + use<> {
    (
        store.record(id).await,
        store.request(&Scope::All, id).await.expect("input"),
        store.response(&Scope::All, id).await.expect("output"),
        store.logs(&Scope::All, id, LogQuery::default()).await.expect("logs"),
    )
}

/// When the process died, a completion of the task was claimed, and the task waited to run again. A worker that claims
/// the task keeps it, and so does a process that claims the completion, even if the rescue comes later.
pub async fn a_rescue_takes_nothing_from_a_later_claim(harness: &dyn Harness) {
    let mut store = Subject::open(harness).await;
    let here = Destination::LOCAL;
    let lease = store.insert_born(a_task_telling(&here), &worker("w"), LONG).await;
    let _ = store.end(lease, success()).await;
    assert_eq!(store.deliveries(&here, store.units(1)).await.len(), 1);
    let rerun = store.rerun(&Scope::All, lease.id, Edits::default()).await;
    assert_eq!(rerun.expect("rerun"), Rerun::Enqueued { generation: 2 });

    store.reopen_or_declare().await;
    store.pass(2).await;
    let mut claimed = store.claim_for(&worker("v"), 10, LONG).await.tasks;
    let mut due = store.deliveries(&here, LONG).await;
    let rescued = store.rescue(10).await.expect("rescue");
    assert_eq!(rescued.tasks, [], "no worker held the task");
    claimed.extend(store.claim_for(&worker("v"), 10, LONG).await.tasks);
    due.extend(store.deliveries(&here, LONG).await);
    assert_eq!((claimed.len(), due.len()), (1, 1), "each once");
    assert!(super::subject::is_accepted(
        store.end(claimed[0].record.lease(), success()).await
    ));
}

/// A task that cannot be read is set aside and counted, and the tasks behind it run.
pub async fn a_corrupt_record_does_not_stop_the_queue(harness: &dyn Harness) {
    let mut store = Subject::open(harness).await;
    let spoilt = a_task();
    store.insert_new(spoilt.clone()).await;
    let others = [a_task().id, a_task().id];
    for id in others {
        store.insert_new(NewTask { id, ..a_task() }).await;
    }
    if !store.harness.corrupt(spoilt.id).await {
        let durability = store.abilities().durability;
        assert_eq!(durability, Durability::Process, "what survives can be spoilt");
        assert_eq!(store.claim_ids(&worker("w"), 10).await.len(), 3);
        return;
    }
    store.reopen_or_declare().await;
    let mut claimed = store.claim_ids(&worker("w"), 10).await;
    claimed.extend(store.claim_ids(&worker("w"), 10).await);
    assert_eq!(claimed, others);
    let found = store.find(&Scope::All, &spoilt.id.into()).await;
    match found {
        Ok(record) => assert_eq!(record.map(|record| record.state), Some(TaskState::Invalid)),
        Err(error) => assert_eq!(error.kind(), StoreErrorKind::Corrupt),
    }
    let counts = store.counts(&Scope::All).await.expect("counts");
    assert!(counts.set_aside > 0, "the counts show the damaged value");
}

/// Operations of a closed store answer `Unavailable`.
pub async fn a_closed_store_is_unavailable(harness: &dyn Harness) {
    let store = Subject::open(harness).await;
    let task = a_task();
    store.insert_new(task.clone()).await;
    store.close().await;
    store.close().await;
    let kinds = [
        store.insert(Insert::new(a_task())).await.map(|_| ()),
        store.find(&Scope::All, &task.id.into()).await.map(|_| ()),
        store.stop(&Scope::All, task.id).await.map(|_| ()),
        store.counts(&Scope::All).await.map(|_| ()),
        store.rescue(10).await.map(|_| ()),
    ]
    .map(|answer| answer.map_err(|error| error.kind()));
    assert_eq!(kinds, [Err(StoreErrorKind::Unavailable); 5]);
}
