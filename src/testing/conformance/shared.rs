//! Several processes on one store: the news that they receive, and the tasks that they share.
//!
//! A store that only one process can use has no [second](Harness::second) handle. It keeps the promises that concern
//! one handle, and declares that it is [exclusive](Sharing::Exclusive).

use std::{
    collections::{BTreeSet, HashSet},
    time::Duration,
};

use super::{
    Harness, Subject,
    outbox::told,
    subject::{
        LONG, a_task, a_task_keyed, a_task_telling, all_at_once, at_once, ids, is_accepted, new, retry, success, worker,
    },
};
use crate::{
    store::{Attention, Control, ControlChange, Glance, Insert, Inserted, Limits, News, Sharing, StoreErrorKind},
    task::{
        Destination, LogLine, NewTask, Presence, Progress, RequestId, Scope, TaskState,
        delivery::DeliveryOutcome,
        lifecycle::{Edits, Rerun, Stop},
    },
    time::Timestamp,
};

/// How long news may take, for a store that declares that it has news.
const SOON: Duration = Duration::from_secs(10);

/// The store as another process opens it. `None` if the store is exclusive, which it must then declare.
async fn another<'a>(store: &Subject<'a>) -> Option<Subject<'a>> {
    let sharing = store.abilities().sharing;
    let Some(second) = store.harness.second().await else {
        assert_eq!(sharing, Sharing::Exclusive, "it was refused");
        return None;
    };
    assert_eq!(sharing, Sharing::Shared, "a second handle was not refused");
    Some(Subject {
        harness: store.harness,
        store: store.store.over(second),
    })
}

/// Waits for this news, if the store declares that it has news.
async fn hears(store: &Subject<'_>, what: &str, is_told: impl Fn(&News) -> bool) {
    if !store.abilities().notifies {
        return;
    }
    let told = tokio::time::timeout(SOON, async { while !is_told(&store.news().await) {} });
    assert!(
        told.await.is_ok(),
        "the store says that it notifies, and did not tell of {what}"
    );
}

async fn glance(store: &Subject<'_>, id: RequestId) -> Option<Glance> {
    let glances = store.port().glance(vec![id]).await.expect("glance");
    assert_eq!(glances.len(), 1, "one answer for each");
    glances[0]
}

/// A change by another process is in the news, or a glance shows it.
pub async fn a_change_made_elsewhere_is_in_the_news_or_seen_by_a_glance(harness: &dyn Harness) {
    let store = Subject::open(harness).await;
    let Some(other) = another(&store).await else { return };
    let id = store.insert_new(a_task()).await.id;
    other.port().attend(Attention::Changes);
    let before = glance(&other, id).await;
    let lease = store.claim_one(&worker("w"), LONG).await;
    hears(&other, "a claim", |news| news.missed || news.changed.contains(&id)).await;
    let claimed = glance(&other, id).await;
    assert_ne!(claimed, before);
    assert!(is_accepted(store.end(lease, success()).await));
    hears(&other, "an end", |news| news.missed || news.changed.contains(&id)).await;
    let ended = glance(&other, id).await;
    assert_ne!(ended, claimed);
    let _ = store.delete(&Scope::All, id).await.expect("delete");
    hears(&other, "a deletion", |news| news.missed || news.changed.contains(&id)).await;
    assert_eq!(glance(&other, id).await, None);
}

/// Every kind of change gives another glance. Without a change the glance stays the same.
pub async fn a_glance_changes_with_every_change(harness: &dyn Harness) {
    let store = Subject::open(harness).await;
    let hook = Destination::new("hook");
    let task = a_task_telling(&hook);
    let id = task.id;
    assert_eq!(glance(&store, id).await, None);
    store.insert_new(task).await;
    let mut seen = Vec::new();
    let mut look = async |what: &str| {
        let now = glance(&store, id).await.expect("it is there");
        assert_eq!(glance(&store, id).await, Some(now), "nothing happened since {what}");
        assert!(!seen.contains(&now), "{what} is not seen");
        seen.push(now);
    };
    look("the insert").await;
    let lease = store.claim_one(&worker("w"), LONG).await;
    look("the claim").await;
    for message in ["half", "most"] {
        let progress = Progress::new(0.5, message);
        assert!(store.set_progress(lease, progress).await.expect("progress"));
        look("progress").await;
    }
    for text in ["one", "two"] {
        let line = LogLine::new(Timestamp::ZERO, "INFO", "test", text);
        assert!(store.append_log(lease, vec![line]).await.expect("log"));
        look("a line of the log").await;
    }
    assert!(is_accepted(store.end(lease, retry(Duration::ZERO)).await));
    look("a retry").await;
    let lease = store.claim_one(&worker("w"), LONG).await;
    assert!(is_accepted(store.end(lease, success()).await));
    look("the end").await;
    let [claimed] = store.deliveries(&hook, LONG).await.try_into().expect("one is due");
    assert!(told(&store, &claimed, DeliveryOutcome::Delivered).await);
    look("a delivery").await;
    let rerun = store.rerun(&Scope::All, id, Edits::default()).await;
    assert_eq!(rerun.expect("rerun"), Rerun::Enqueued { generation: 2 });
    look("the second run").await;

    let (first, second) = (a_task().id, store.insert_new(a_task()).await.id);
    let glances = store.port().glance(vec![first, second, id]).await.expect("glance");
    assert_eq!(
        glances,
        [None, glance(&store, second).await, glance(&store, id).await],
        "in order"
    );
}

/// The process that holds the task receives the news before it renews its lease, and the renewal says the same.
pub async fn a_stop_elsewhere_is_in_the_news(harness: &dyn Harness) {
    let store = Subject::open(harness).await;
    let Some(other) = another(&store).await else { return };
    let lease = store.insert_born(a_task(), &worker("w"), LONG).await;
    let stop = other.stop(&Scope::All, lease.id).await.expect("stop");
    assert_eq!(stop, Stop::Stopping);
    hears(&store, "a stop", |news| news.missed || news.stops.contains(&lease.id)).await;
    let renewed = store.renew(vec![lease], LONG).await.expect("renew");
    assert_eq!(renewed, [crate::store::Renewal::Renewed { stop: true }]);
}

/// A process with a free slot need not wait until it looks.
pub async fn work_stored_elsewhere_is_in_the_news(harness: &dyn Harness) {
    let store = Subject::open(harness).await;
    let Some(other) = another(&store).await else { return };
    let id = store.insert_new(a_task()).await.id;
    hears(&other, "a task", |news| news.work).await;
    let lease = other.claim_one(&worker("w"), LONG).await;
    assert_eq!(lease.id, id);
    assert!(is_accepted(other.end(lease, retry(Duration::ZERO)).await));
    hears(&store, "a retry", |news| news.work).await;
    assert_eq!(store.claim_ids(&worker("v"), 1).await, [id]);
}

/// The limit is exceeded at most by the inserts that are under way in the other process.
pub async fn limits_hold_for_two_processes_within_their_batches(harness: &dyn Harness) {
    let store = Subject::open(harness).await;
    let Some(other) = another(&store).await else { return };
    let limits = Limits {
        queued: 10,
        per_tenant: u64::MAX,
        per_pool: u64::MAX,
    };
    let fill = |subject: &Subject<'_>| {
        let store = subject.store.clone();
        async move {
            let mut stored = 0;
            for _ in 0..20 {
                let insert = Insert::new(a_task()).within(limits);
                stored += usize::from(matches!(store.insert(insert).await.expect("insert"), Inserted::New(..)));
            }
            stored
        }
    };
    let (first, second) = at_once(fill(&store), fill(&other)).await;
    // Each process has one insert under way at a time.
    assert!((10..=11).contains(&(first + second)), "{first} and {second}");
    for subject in [&store, &other] {
        let refused = subject
            .store
            .insert(Insert::new(a_task()).within(limits))
            .await
            .expect("insert");
        assert!(matches!(refused, Inserted::Full(_)), "{refused:?}");
    }
}

/// Of two inserts with the same key, one stores its task, and the other answers with the id of that task.
pub async fn the_same_key_in_two_processes_at_once_inserts_one(harness: &dyn Harness) {
    let store = Subject::open(harness).await;
    let Some(other) = another(&store).await else { return };
    for round in 0..harness.rounds() {
        let insert = |subject: &Subject<'_>| {
            let (store, task) = (subject.store.clone(), a_task_keyed(&format!("key {round}"), 1));
            async move { store.insert(Insert::new(task)).await.expect("insert") }
        };
        let (first, second) = at_once(insert(&store), insert(&other)).await;
        match (first, second) {
            (Inserted::New(record, _), Inserted::Known { id, .. })
            | (Inserted::Known { id, .. }, Inserted::New(record, _)) => assert_eq!(id, record.id),
            both => panic!("one of them is new, but the answers were {both:?}"),
        }
    }
}

/// A task that crashed its process must not interrupt two handlers of another process.
pub async fn suspects_of_two_workers_run_one_each(harness: &dyn Harness) {
    let store = Subject::open(harness).await;
    let Some(other) = another(&store).await else { return };
    for _ in 0..4 {
        store.insert_born(a_task(), &worker("dead"), store.units(1)).await;
    }
    store.pass(2).await;
    assert_eq!(store.rescue(10).await.expect("rescue").tasks.len(), 4);
    let claim = |subject: &Subject<'_>, name: &str| {
        let (store, worker) = (subject.store.clone(), worker(name));
        async move {
            let claim = crate::store::Claim::new(worker, 10, LONG);
            ids(&store.claim(claim).await.expect("claim").tasks)
        }
    };
    let (first, second) = at_once(claim(&store, "one"), claim(&other, "two")).await;
    assert_eq!((first.len(), second.len()), (1, 1), "{first:?} and {second:?}");
    assert_ne!(first, second);
}

/// Two processes claim deliveries at the same time. Each delivery goes to one of them.
pub async fn a_delivery_is_claimed_by_one_process(harness: &dyn Harness) {
    let store = Subject::open(harness).await;
    let Some(other) = another(&store).await else { return };
    let hook = Destination::new("hook");
    for _ in 0..20 {
        let lease = store.insert_born(a_task_telling(&hook), &worker("w"), LONG).await;
        assert!(is_accepted(store.end(lease, success()).await));
    }
    let claimed = all_at_once(2, |side| {
        let (store, hook) = ([&store, &other][side].store.clone(), hook.clone());
        async move {
            let claim = crate::store::DeliveryClaim {
                from: vec![(hook, 15)],
                lease: LONG,
            };
            let claimed = store.claim_deliveries(claim).await.expect("claim deliveries");
            claimed.iter().map(|found| found.delivery.id).collect::<Vec<_>>()
        }
    })
    .await
    .concat();
    let mut left = store.deliveries(&hook, LONG).await;
    left.extend(other.deliveries(&hook, LONG).await);
    let all = claimed.into_iter().chain(left.iter().map(|found| found.delivery.id));
    let all: Vec<_> = all.collect();
    assert_eq!(all.len(), 20, "each once");
    assert_eq!(HashSet::<_>::from_iter(all).len(), 20);
}

/// Both look for tasks that are due. Exactly one of them gets each task.
pub async fn two_processes_prune_and_rescue_each_task_once(harness: &dyn Harness) {
    let store = Subject::open(harness).await;
    let Some(other) = another(&store).await else { return };
    for _ in 0..20 {
        store.insert_born(a_task(), &worker("dead"), store.units(1)).await;
        let lease = store.insert_born(a_task(), &worker("w"), LONG).await;
        assert!(is_accepted(store.end(lease, success()).await));
    }
    store.pass(3).await;
    let retention = crate::store::Retention {
        succeeded: store.units(2),
        others: LONG,
    };
    let done = all_at_once(2, |side| {
        let store = [&store, &other][side].store.clone();
        async move {
            let rescued = store.rescue(100).await.expect("rescue").tasks;
            let pruned = store.prune(retention, 100).await.expect("prune").tasks;
            (rescued, pruned)
        }
    })
    .await;
    let rescued: Vec<_> = done
        .iter()
        .flat_map(|(rescued, _)| rescued.iter().map(|(id, _)| *id))
        .collect();
    let pruned: usize = done.iter().map(|(_, pruned)| *pruned).sum();
    assert_eq!((rescued.len(), pruned), (20, 20), "each once");
    assert_eq!(HashSet::<_>::from_iter(rescued).len(), 20);
}

/// Each worker is seen with its latest presence, until it has not beaten for the given time.
pub async fn a_process_that_beats_is_seen_and_one_that_stopped_is_not(harness: &dyn Harness) {
    let store = Subject::open(harness).await;
    let within = store.units(4);
    let presence = |name: &str, used| {
        let mut presence = Presence::new(worker(name));
        presence.slots.used = used;
        presence
    };
    let one = store.port().beat(presence("one", 1), within).await.expect("beat");
    assert_eq!(
        one.iter().map(|seen| &seen.presence).collect::<Vec<_>>(),
        [&presence("one", 1)]
    );
    let Some(other) = another(&store).await else { return };
    store.pass(3).await;
    let mut both = other.port().beat(presence("two", 2), within).await.expect("beat");
    both.sort_by_key(|seen| seen.presence.slots.used);
    assert_eq!(
        both.iter().map(|seen| &seen.presence).collect::<Vec<_>>(),
        [&presence("one", 1), &presence("two", 2)]
    );
    assert!(
        both[0].ago >= store.units(3) && both[1].ago < store.units(1),
        "{both:?}"
    );
    store.pass(2).await;
    let two = other.port().beat(presence("two", 3), within).await.expect("beat");
    assert_eq!(
        two.iter().map(|seen| &seen.presence).collect::<Vec<_>>(),
        [&presence("two", 3)]
    );
}

/// Both processes count the same, whichever of them made the changes.
pub async fn counts_agree_across_processes(harness: &dyn Harness) {
    let store = Subject::open(harness).await;
    let Some(other) = another(&store).await else { return };
    for number in 0..12 {
        let by = if number % 2 == 0 { &store } else { &other };
        let lease = by.insert_born(a_task(), &worker("w"), LONG).await;
        if number % 3 == 0 {
            // The other process stops it.
            let by = if number % 2 == 0 { &other } else { &store };
            let _ = by.stop(&Scope::All, lease.id).await.expect("stop");
        }
        other.insert_new(a_task()).await;
    }
    for subject in [&store, &other] {
        let counts = subject.counts(&Scope::All).await.expect("counts");
        let of = [TaskState::Enqueued, TaskState::Running, TaskState::Stopping].map(|state| counts.of(state));
        assert_eq!(of, [12, 8, 4]);
    }
}

/// The task waits for a process of that build, and the tasks behind it run.
pub async fn a_task_of_a_newer_build_at_the_head_does_not_stop_the_queue(harness: &dyn Harness) {
    let mut store = Subject::open(harness).await;
    let newer = store.insert_new(a_task()).await.id;
    let mut others = Vec::new();
    for _ in 0..3 {
        others.push(store.insert_new(a_task()).await.id);
    }
    if !harness.make_newer(newer).await {
        assert_eq!(
            store.claim_ids(&worker("w"), 10).await.len(),
            4,
            "rows are kept as they are"
        );
        return;
    }
    store.reopen_or_declare().await;
    let mut claimed = store.claim_ids(&worker("w"), 1).await;
    claimed.extend(store.claim_ids(&worker("w"), 10).await);
    assert_eq!(claimed, others);
    let error = store
        .find(&Scope::All, &newer.into())
        .await
        .expect_err("it cannot be read");
    assert_eq!(error.kind(), StoreErrorKind::Incompatible);
    let _ = store.rescue(10).await.expect("rescue");
    let _ = store
        .list_all(&Scope::All, &crate::task::Filter::default())
        .await
        .expect("list");
    let counts = store.counts(&Scope::All).await.expect("counts");
    assert_eq!(counts.set_aside, 0, "there is nothing wrong with it");
}

/// When the clock goes back, tasks that wait for a time wait longer, and are not lost.
pub async fn a_clock_that_goes_back_makes_nothing_due_early(harness: &dyn Harness) {
    let store = Subject::open(harness).await;
    let delayed = NewTask {
        delay: store.units(6),
        ..a_task()
    };
    let delayed = store.insert_new(delayed).await.id;
    let lease = store.insert_born(a_task(), &worker("w"), store.units(6)).await;
    if !harness.set_back(store.units(10)).await {
        return;
    }
    store.pass(8).await;
    assert_eq!(store.claim_ids(&worker("v"), 10).await, []);
    assert_eq!(store.rescue(10).await.expect("rescue").tasks, []);
    let renewed = store.renew(vec![lease], store.units(6)).await.expect("renew");
    assert_eq!(
        renewed,
        [crate::store::Renewal::Renewed { stop: false }],
        "it is still held"
    );
    let fresh = store.insert_new(a_task()).await.id;
    assert_eq!(store.claim_ids(&worker("v"), 10).await, [fresh]);
    store.pass(10).await;
    assert_eq!(store.claim_ids(&worker("v"), 10).await, [delayed]);
    let rescued = store.rescue(10).await.expect("rescue").tasks;
    assert_eq!(rescued.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [lease.id]);
}

fn put(name: &str, was: u64, value: Option<&str>) -> ControlChange {
    ControlChange {
        name: name.into(),
        was,
        value: value.map(|value| value.as_bytes().to_vec().into()),
    }
}

/// Of several changes of the same version, one is made. A claim returns the new version, and the value is there after
/// the store is opened again.
pub async fn a_named_value_is_changed_by_one_of_several(harness: &dyn Harness) {
    let mut store = Subject::open(harness).await;
    let control = async |store: &Subject<'_>, change| store.port().control(change).await.expect("control");
    let none = control(&store, None).await;
    assert_eq!((none.version, none.values.len(), none.changed), (0, 0, false));
    for round in 0..10 {
        let was = control(&store, None)
            .await
            .get("name")
            .map_or(0, |control| control.version);
        let done = all_at_once(3, |side| {
            let (store, change) = (store.store.clone(), put("name", was, Some(&format!("{round}/{side}"))));
            async move { store.port().control(Some(change)).await.expect("control").changed }
        })
        .await;
        assert_eq!(done.iter().filter(|done| **done).count(), 1, "in round {round}");
        let now = control(&store, None).await;
        let Some(Control { value, version, .. }) = now.get("name") else {
            panic!("it is there: {now:?}");
        };
        let winner = done.iter().position(|done| *done).expect("one was made");
        assert_eq!(value, &format!("{round}/{winner}"));
        assert!(*version > was && now.version == *version);
    }
    let other = control(&store, Some(put("other", 0, Some("value")))).await;
    assert!(other.changed);
    let names: BTreeSet<_> = other.values.iter().map(|control| &*control.name).collect();
    assert_eq!(names, BTreeSet::from(["name", "other"]));
    assert_eq!(store.claim_for(&worker("w"), 1, LONG).await.control, other.version);

    if store.reopen_or_declare().await {
        let found = control(&store, None).await;
        assert_eq!((found.version, &found.values), (other.version, &other.values));
    }
    let was = control(&store, None)
        .await
        .get("other")
        .map_or(0, |control| control.version);
    let removed = control(&store, Some(put("other", was, None))).await;
    assert!(removed.get("other").is_none());
    assert!(
        !control(&store, Some(put("other", was, None))).await.changed,
        "it is not there any more"
    );
}

/// A pause takes effect in all processes at once.
pub async fn a_named_value_changed_elsewhere_is_in_the_news(harness: &dyn Harness) {
    let store = Subject::open(harness).await;
    let Some(other) = another(&store).await else { return };
    let changed = store
        .port()
        .control(Some(put("name", 0, Some("value"))))
        .await
        .expect("control");
    assert!(changed.changed);
    hears(&other, "a named value", |news| news.control).await;
    let found = other.port().control(None).await.expect("control");
    assert_eq!(found.values, changed.values);
}

/// Tasks that one process stores run in the other as well, each task once.
pub async fn two_processes_share_the_work(harness: &dyn Harness) {
    let store = Subject::open(harness).await;
    let Some(second) = another(&store).await else { return };
    let mut stored = HashSet::new();
    for number in 0..40 {
        let by = if number % 2 == 0 { &store } else { &second };
        stored.insert(new(by.store.insert(Insert::new(a_task())).await.expect("insert")).id);
    }
    let drain = |subject: &Subject<'_>, name: &str| {
        let (store, worker) = (subject.store.clone(), worker(name));
        async move {
            let mut ran = Vec::new();
            loop {
                let claim = crate::store::Claim::new(worker.clone(), 3, LONG);
                let claimed = store.claim(claim).await.expect("claim").tasks;
                if claimed.is_empty() {
                    return ran;
                }
                for task in claimed {
                    let lease = task.record.lease();
                    let settled = store.settle(lease, success()).await.expect("settle");
                    assert!(is_accepted(settled));
                    ran.push(task.record.id);
                }
            }
        }
    };
    let (mut ran, others) = at_once(drain(&store, "first"), drain(&second, "second")).await;
    ran.extend(others);
    // A claim that lost all of its candidates to the other process is empty, even if tasks are left.
    ran.extend(drain(&second, "third").await);
    assert_eq!(ran.len(), 40, "each once");
    assert_eq!(HashSet::from_iter(ran), stored);
    let stopped = second.insert_new(a_task()).await.id;
    let _ = store.stop(&Scope::All, stopped).await.expect("stop");
    assert_eq!(second.state(stopped).await, TaskState::Stopped);
}
