//! Inserts of tasks, new and known.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Uri};

use super::{
    Harness, Subject,
    subject::{
        LONG, a_task, a_task_called, a_task_keyed, all_at_once, digest, known, name_of, new, of_tenant, success, worker,
    },
};
use crate::{
    store::{Delete, FullReason, Insert, Inserted, KnownBy, Limits, Retention},
    task::{Caller, CapturedRequest, Filter, Labels, NewTask, Scope, TaskRef, TaskState},
};

/// A task is read as it was stored, even with a header value that is not UTF-8.
pub async fn an_inserted_task_can_be_read_back_byte_for_byte(harness: &dyn Harness) {
    let store = Subject::open(harness).await;
    let mut headers = HeaderMap::new();
    headers.append(
        "x-raw",
        HeaderValue::from_bytes(&[0xff, 0x80, b'a']).expect("a header value"),
    );
    headers.append("x-two", HeaderValue::from_static("first"));
    headers.append("x-two", HeaderValue::from_static("second"));
    let body: Vec<u8> = (0..=255).cycle().take(100_000).collect();
    let uri = Uri::from_static("/functions/f%20g?x=1&y");
    let mut request = CapturedRequest::new(Method::PATCH, uri, headers, Bytes::from(body));
    request.depth = 3;
    request.carried = vec![("user".into(), Bytes::from_static(&[0, 1, 255]))];
    let request = Arc::new(request);
    let task = NewTask {
        request: request.clone(),
        function: Some("resize".into()),
        labels: Labels::from_iter([("team", "a"), ("cost", "b")]),
        callback: Some("https://example.org/hook?a=b".into()),
        caller: Caller::new("anna's clerk").ok(),
        ..of_tenant(Some("anna"), a_task_called("job-1"))
    };

    let answered = store.insert_new(task.clone()).await;

    let found = store.record(task.id).await;
    assert_eq!(answered, found);
    assert_eq!(
        store.request(&Scope::All, task.id).await.expect("input"),
        Some(request.clone())
    );
    assert_eq!(store.response(&Scope::All, task.id).await.expect("output"), None);
    assert_eq!(
        (found.state, found.generation, found.attempt),
        (TaskState::Enqueued, 1, 0)
    );
    assert_eq!((&found.name, &found.tenant), (&task.name, &task.tenant));
    assert_eq!(found.caller, task.caller);
    assert_eq!((found.function(), &found.labels), ("resize", &task.labels));
    assert_eq!(found.target, request.uri);
    assert_eq!(found.method, request.method);
    assert_eq!(found.callback, task.callback);
    assert_eq!(
        (found.max_attempts, found.crash_allowance),
        (task.max_attempts, task.crash_allowance)
    );
    assert_eq!(found.history.len(), 1);
    let claimed = store.claim_for(&worker("w"), 1, LONG).await.tasks;
    assert_eq!(claimed[0].request, request);
}

/// If the answer to an insert is lost, the insert can be repeated.
pub async fn an_insert_is_safe_to_repeat(harness: &dyn Harness) {
    let store = Subject::open(harness).await;
    let task = NewTask {
        digest: Some(digest(1)),
        ..a_task()
    };
    store.insert_new(task.clone()).await;
    let again = store.insert(Insert::new(task.clone())).await.expect("insert");
    assert_eq!(known(&again), (task.id, KnownBy::Id, true));
    let named = a_task_keyed("k", 2);
    store.insert_new(named.clone()).await;
    let again = store.insert(Insert::new(named.clone())).await.expect("insert");
    assert_eq!(known(&again), (named.id, KnownBy::Id, true));
    assert_eq!(store.counts(&Scope::All).await.expect("counts").queued(), 2);
}

/// The handler of a repeated request runs once.
pub async fn the_same_key_and_request_gives_the_same_task(harness: &dyn Harness) {
    let store = Subject::open(harness).await;
    let first = a_task_keyed("k", 1);
    store.insert_new(first.clone()).await;
    let inserted = store.insert(Insert::new(a_task_keyed("k", 1))).await.expect("insert");
    assert_eq!(known(&inserted), (first.id, KnownBy::Key, true));
    let Inserted::Known { task: Some(record), .. } = inserted else {
        panic!("the task is still there")
    };
    assert_eq!(record, store.record(first.id).await);
    let other = of_tenant(Some("anna"), a_task_keyed("k", 1));
    store.insert_new(other).await;
}

/// The store reports that the requests differ. The API refuses the second one.
pub async fn the_same_key_and_another_request_is_refused(harness: &dyn Harness) {
    let store = Subject::open(harness).await;
    let first = a_task_keyed("k", 1);
    store.insert_new(first.clone()).await;
    let second = a_task_keyed("k", 2);
    let inserted = store.insert(Insert::new(second.clone())).await.expect("insert");
    assert_eq!(known(&inserted), (first.id, KnownBy::Key, false));
    assert!(store.task(second.id).await.is_err(), "nothing was stored");
}

/// Callers choose their keys independently, so keys belong to a caller. Names are addresses: a tenant has each name
/// once.
pub async fn keys_are_each_caller_s_own_and_names_are_not(harness: &dyn Harness) {
    let store = Subject::open(harness).await;
    // Caller `bo` with key `k`, and caller `b` with key `ok`: the texts are equal if they are joined without a
    // separator.
    let callers = [(None, "ok"), (Some("bo"), "k"), (Some("b"), "ok"), (Some("bo"), "ok")];
    for tenant in [None, Some("anna")] {
        let of = |caller: Option<&str>, key: &str, request| NewTask {
            caller: caller.map(|caller| Caller::new(caller).expect("a caller")),
            ..of_tenant(tenant, a_task_keyed(key, request))
        };
        let mut first = Vec::new();
        for (caller, key) in callers {
            let task = of(caller, key, 1);
            assert_eq!(store.insert_new(task.clone()).await.caller, task.caller);
            first.push(task.id);
        }
        for ((caller, key), id) in callers.into_iter().zip(first) {
            for (request, same) in [(1, true), (2, false)] {
                let again = Insert::new(of(caller, key, request));
                let inserted = store.insert(again).await.expect("insert");
                assert_eq!(known(&inserted), (id, KnownBy::Key, same), "{key} of {caller:?}");
            }
        }

        let named = of_tenant(tenant, a_task_called("job"));
        store.insert_new(named.clone()).await;
        let other = NewTask {
            caller: Caller::new("b").ok(),
            ..of_tenant(tenant, a_task_called("job"))
        };
        let inserted = store.insert(Insert::new(other)).await.expect("insert");
        assert_eq!(known(&inserted), (named.id, KnownBy::Name, true));
    }
}

/// A key is kept when its task is gone. It is removed when its window ends, whether the task is there or not.
pub async fn a_key_outlives_its_task_by_its_own_window(harness: &dyn Harness) {
    let store = Subject::open(harness).await;
    // Each task has a name, which is removed with the task. The key must not be removed with it.
    let keyed = || {
        let task = a_task_keyed("k", 1);
        NewTask {
            key_window: store.units(5),
            name: Some(name_of(&format!("job-{}", task.id))),
            ..task
        }
    };
    let first = keyed();
    let lease = store.insert_born(first.clone(), &worker("w"), LONG).await;
    let _ = store.end(lease, success()).await;
    let deleted = store.delete(&Scope::All, first.id).await.expect("delete");
    assert_eq!(deleted, Delete::Deleted);

    store.pass(2).await;
    let inserted = store.insert(Insert::new(keyed())).await.expect("insert");
    assert_eq!(known(&inserted), (first.id, KnownBy::Key, true));
    assert!(matches!(inserted, Inserted::Known { task: None, .. }));

    store.pass(6).await;
    let second = keyed();
    store.insert_new(second.clone()).await;
    let inserted = store.insert(Insert::new(keyed())).await.expect("insert");
    assert_eq!(known(&inserted), (second.id, KnownBy::Key, true));

    store.pass(6).await;
    let retention = Retention {
        succeeded: LONG,
        others: LONG,
    };
    let pruned = store.prune(retention, 100).await.expect("prune");
    assert_eq!((pruned.tasks, pruned.keys), (0, 1));
    store.insert_new(keyed()).await;
}

/// Requests with the same key are sent at the same time, by two clients or by one that repeats. One of them is stored.
pub async fn the_same_key_twice_at_once_inserts_one(harness: &dyn Harness) {
    let store = Subject::open(harness).await;
    for round in 0..harness.rounds() {
        let key = format!("k{round}");
        insert_race(&store, |_| a_task_keyed(&key, 1), KnownBy::Key).await;
    }
}

/// In a tenant, a name belongs to one task at a time.
pub async fn a_name_is_unique_in_its_tenant(harness: &dyn Harness) {
    let store = Subject::open(harness).await;
    let first = a_task_called("job");
    store.insert_new(first.clone()).await;
    let inserted = store.insert(Insert::new(a_task_called("job"))).await.expect("insert");
    assert_eq!(known(&inserted), (first.id, KnownBy::Name, true));
    let another = NewTask {
        digest: Some(digest(9)),
        ..a_task_called("job")
    };
    let inserted = store.insert(Insert::new(another)).await.expect("insert");
    assert_eq!(known(&inserted), (first.id, KnownBy::Name, false));
    let annas = of_tenant(Some("anna"), a_task_called("job"));
    store.insert_new(annas).await;
}

/// Requests with the same name are sent at the same time. One of them is stored.
pub async fn the_same_name_twice_at_once_inserts_one(harness: &dyn Harness) {
    let store = Subject::open(harness).await;
    for round in 0..harness.rounds() {
        let name = format!("job-{round}");
        insert_race(&store, |_| a_task_called(&name), KnownBy::Name).await;
    }
}

/// A client repeats an insert while the first one is still under way.
pub async fn the_same_id_twice_at_once_inserts_one(harness: &dyn Harness) {
    let store = Subject::open(harness).await;
    for _ in 0..harness.rounds() {
        let task = NewTask {
            digest: Some(digest(1)),
            ..a_task()
        };
        insert_race(&store, |_| task.clone(), KnownBy::Id).await;
    }
}

async fn insert_race(store: &Subject<'_>, task: impl Fn(usize) -> NewTask, by: KnownBy) {
    let before = store.counts(&Scope::All).await.expect("counts").queued();
    let inserted = all_at_once(4, |side| {
        let (store, insert) = (store.store.clone(), Insert::new(task(side)));
        async move { store.insert(insert).await.expect("insert") }
    })
    .await;
    let won: Vec<_> = inserted
        .iter()
        .filter(|inserted| matches!(inserted, Inserted::New(_, _)))
        .collect();
    assert_eq!(won.len(), 1, "one insert won: {inserted:?}");
    let Inserted::New(winner, _) = won[0] else {
        unreachable!("it is one of those")
    };
    let winner = winner.id;
    for inserted in inserted
        .iter()
        .filter(|inserted| !matches!(inserted, Inserted::New(_, _)))
    {
        assert_eq!(known(inserted), (winner, by, true));
    }
    assert_eq!(store.counts(&Scope::All).await.expect("counts").queued(), before + 1);
}

/// A name can be used again when its task was pruned or deleted.
pub async fn a_name_is_free_again_once_its_task_is_gone(harness: &dyn Harness) {
    let store = Subject::open(harness).await;
    for removed in ["deleted", "pruned"] {
        let task = a_task_called("job");
        let lease = store.insert_born(task.clone(), &worker("w"), LONG).await;
        let _ = store.end(lease, success()).await;
        if removed == "deleted" {
            let deleted = store.delete(&Scope::All, task.id).await.expect("delete");
            assert_eq!(deleted, Delete::Deleted);
        } else {
            let retention = Retention {
                succeeded: store.units(1),
                others: LONG,
            };
            store.pass(2).await;
            assert_eq!(store.prune(retention, 10).await.expect("prune").tasks, 1);
        }
        let by_name = TaskRef::from(name_of("job"));
        assert_eq!(
            store.find(&Scope::All, &by_name).await.expect("find"),
            None,
            "{removed}"
        );
    }
    store.insert_new(a_task_called("job")).await;
}

/// If the name belongs to one task and the key to another, the answer is a conflict, and nothing is stored.
pub async fn a_name_and_a_key_of_two_tasks_are_a_conflict(harness: &dyn Harness) {
    let store = Subject::open(harness).await;
    store.insert_new(a_task_called("job")).await;
    let keyed = a_task_keyed("k", 1);
    store.insert_new(keyed.clone()).await;
    let both = NewTask {
        key: keyed.key.clone(),
        ..a_task_called("job")
    };
    let inserted = store.insert(Insert::new(both.clone())).await.expect("insert");
    assert!(matches!(inserted, Inserted::Conflict), "{inserted:?}");
    assert!(store.task(both.id).await.is_err(), "nothing was stored");

    let one = NewTask {
        key: a_task_keyed("k2", 1).key,
        ..a_task_called("job-2")
    };
    store.insert_new(one.clone()).await;
    let again = NewTask {
        id: a_task().id,
        ..one.clone()
    };
    let inserted = store.insert(Insert::new(again)).await.expect("insert");
    assert_eq!(known(&inserted), (one.id, KnownBy::Name, true));
}

/// A refused task leaves no record, no name and no key. A known task is not refused.
pub async fn full_is_refused_without_a_trace(harness: &dyn Harness) {
    let store = Subject::open(harness).await;
    let limits = Limits {
        queued: 3,
        per_tenant: 1,
        per_pool: u64::MAX,
    };
    let insert = |task| Insert::new(task).within(limits);
    let annas = of_tenant(Some("anna"), a_task_called("first"));
    let _ = new(store.insert(insert(annas.clone())).await.expect("insert"));

    let refused = of_tenant(
        Some("anna"),
        NewTask {
            name: Some(name_of("job")),
            ..a_task_keyed("k", 1)
        },
    );
    let inserted = store.insert(insert(refused.clone())).await.expect("insert");
    assert!(matches!(inserted, Inserted::Full(FullReason::Tenant)), "{inserted:?}");
    let again = store.insert(insert(annas.clone())).await.expect("insert");
    assert_eq!(known(&again).1, KnownBy::Id);

    for _ in 0..2 {
        let _ = new(store.insert(insert(a_task())).await.expect("insert"));
    }
    let inserted = store.insert(insert(a_task())).await.expect("insert");
    assert!(matches!(inserted, Inserted::Full(FullReason::Queue)), "{inserted:?}");
    let claimed = insert(a_task()).claimed_by(worker("w"), LONG);
    let _ = new(store
        .insert(claimed)
        .await
        .expect("a task that is stored claimed does not wait"));

    assert_eq!(
        store
            .list_all(&Scope::All, &Filter::default())
            .await
            .expect("list")
            .len(),
        4
    );
    let inserted = store.insert(Insert::new(refused)).await.expect("insert");
    let _ = new(inserted);
    let hint = store.queue_hint(annas.tenant.as_ref(), None);
    assert!(hint.queued.is_none_or(|queued| queued == 4) && hint.tenant_queued.is_none_or(|queued| queued == 2));
}

/// A task that is stored claimed runs from the insert on, and no other worker gets it.
pub async fn a_task_stored_claimed_is_held(harness: &dyn Harness) {
    let store = Subject::open(harness).await;
    let task = a_task();
    let insert = Insert::new(task.clone()).claimed_by(worker("w"), LONG);
    let record = new(store.insert(insert).await.expect("insert"));
    assert_eq!(
        (record.state, record.attempt, record.crashes),
        (TaskState::Running, 1, 1)
    );
    assert_eq!(record.worker, Some(worker("w")));
    assert_eq!(record.history.len(), 2);
    assert_eq!(store.claim_ids(&worker("other"), 10).await, []);
    assert_eq!(store.record(task.id).await, record);
    let _ = store.end(record.lease(), success()).await;
    assert_eq!(store.state(task.id).await, TaskState::Succeeded);
}

/// Each of many inserts is stored or refused as if it came alone. The answers are in their order.
pub async fn many_inserts_are_answered_in_their_order(harness: &dyn Harness) {
    let store = Subject::open(harness).await;
    let first = a_task_keyed("k", 1);
    let twice = a_task_keyed("k", 2);
    let claimed = a_task();
    let (one, held) = (first.id, claimed.id);
    let inserts = vec![
        Insert::new(first),
        Insert::new(a_task_called("job")),
        Insert::new(twice.clone()),
        Insert::new(claimed).claimed_by(worker("w"), LONG),
        Insert::new(a_task()).within(Limits {
            queued: 2,
            ..Limits::UNLIMITED
        }),
    ];
    let ids: Vec<_> = inserts.iter().map(|insert| insert.task.id).collect();

    let answers = store.insert_all(inserts).await.expect("insert");

    assert_eq!(answers.len(), 5);
    assert!(matches!(&answers[0], Inserted::New(record, None) if record.id == one));
    assert!(matches!(&answers[1], Inserted::New(record, None) if record.id == ids[1]));
    assert_eq!(known(&answers[2]), (one, KnownBy::Key, false));
    assert!(matches!(&answers[3], Inserted::New(record, Some(_)) if record.id == held));
    assert!(matches!(&answers[4], Inserted::Full(_)), "{:?}", answers[4]);
    assert_eq!(store.state(held).await, TaskState::Running);
    assert_eq!(store.claim_ids(&worker("w"), 9).await, [one, ids[1]]);
    for refused in [twice.id, ids[4]] {
        assert!(store.task(refused).await.is_err());
    }
    assert!(store.insert_all(Vec::new()).await.expect("insert").is_empty());
}
