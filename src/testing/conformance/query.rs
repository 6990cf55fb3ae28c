//! Finding, listing and counting tasks.

use std::{collections::HashSet, sync::Arc};

use super::{
    Harness, Subject,
    subject::{
        LONG, a_request, a_task, a_task_called, a_task_telling, failure, name_of, of_tenant, retry, scope, success,
        worker,
    },
};
use crate::{
    store::{Delete, LogQuery, StoreErrorKind},
    task::{
        Cursor, Destination, Filter, NewTask, Page, RequestId, Scope, SortOrder, StateSet, TaskRecord, TaskRef,
        TaskState,
        lifecycle::{Edits, Outcome},
    },
};

/// For every operation that takes an id, a task of another tenant does not exist: it can be neither read nor changed.
pub async fn a_tenant_sees_its_own_tasks_only(harness: &dyn Harness) {
    let store = Subject::open(harness).await;
    let here = Destination::LOCAL;
    let task = of_tenant(Some("anna"), a_task_telling(&here));
    let task = NewTask {
        name: Some(name_of("job")),
        ..task
    };
    let id = task.id;
    let lease = store.insert_born(task, &worker("w"), LONG).await;
    let outsiders = [scope("bert"), Scope::One(None)];
    let not_found = |kind| assert_eq!(kind, StoreErrorKind::NotFound);
    for running in [true, false] {
        if !running {
            let _ = store.end(lease, success()).await;
        }
        let before = store.record(id).await;
        for outside in &outsiders {
            for by in [TaskRef::Id(id), TaskRef::Name(name_of("job"))] {
                assert_eq!(store.find(outside, &by).await.expect("find"), None);
            }
            assert_eq!(store.request(outside, id).await.expect("input"), None);
            assert_eq!(store.response(outside, id).await.expect("output"), None);
            not_found(store.stop(outside, id).await.expect_err("stop").kind());
            not_found(
                store
                    .rerun(outside, id, Edits::default())
                    .await
                    .expect_err("rerun")
                    .kind(),
            );
            not_found(store.delete(outside, id).await.expect_err("delete").kind());
            not_found(
                store
                    .logs(outside, id, LogQuery::default())
                    .await
                    .expect_err("logs")
                    .kind(),
            );
            assert_eq!(store.list_all(outside, &Filter::default()).await.expect("list"), []);
            let counts = store.counts(outside).await.expect("counts");
            assert!(counts.iter().all(|(_, count)| count == 0));
        }
        assert_eq!(store.record(id).await, before);
    }
    for inside in [scope("anna"), Scope::All] {
        for by in [TaskRef::Id(id), TaskRef::Name(name_of("job"))] {
            let found = store.find(&inside, &by).await.expect("find");
            assert_eq!(found.map(|record| record.id), Some(id));
        }
        assert!(store.request(&inside, id).await.expect("input").is_some());
        assert!(store.response(&inside, id).await.expect("output").is_some());
        assert_eq!(
            store.list_all(&inside, &Filter::default()).await.expect("list").len(),
            1
        );
        assert_eq!(store.counts(&inside).await.expect("counts").of(TaskState::Succeeded), 1);
    }
    assert_eq!(store.delete(&scope("anna"), id).await.expect("delete"), Delete::Deleted);
}

/// If several tenants have a task with one name, a look-up in the scope of all tenants is a conflict.
pub async fn a_name_of_several_tenants_is_a_conflict_for_all(harness: &dyn Harness) {
    let store = Subject::open(harness).await;
    let job = TaskRef::Name(name_of("job"));
    let annas = of_tenant(Some("anna"), a_task_called("job"));
    store.insert_new(annas.clone()).await;
    let found = store.find(&Scope::All, &job).await.expect("find");
    assert_eq!(found.map(|record| record.id), Some(annas.id));
    let nobodys = a_task_called("job");
    store.insert_new(nobodys.clone()).await;
    let ambiguous = store.find(&Scope::All, &job).await.expect_err("there are two");
    assert_eq!(ambiguous.kind(), StoreErrorKind::Conflict);
    for (scope, id) in [(scope("anna"), annas.id), (Scope::One(None), nobodys.id)] {
        let found = store.find(&scope, &job).await.expect("find");
        assert_eq!(found.map(|record| record.id), Some(id));
    }
}

/// A task that is there from the first page to the last is returned exactly once, even if tasks are added meanwhile.
pub async fn listing_visits_every_task_once_while_tasks_are_added(harness: &dyn Harness) {
    let store = Subject::open(harness).await;
    for order in [SortOrder::Ascending, SortOrder::Descending] {
        let mut there = HashSet::new();
        for count in 0..60 {
            there.insert(store.insert_new(a_task()).await.id);
            if count % 20 == 19 {
                store.pass(1).await;
            }
        }
        let adding = store.store.clone();
        let adder = tokio::spawn(async move {
            for _ in 0..200 {
                let insert = crate::store::Insert::new(a_task());
                let _ = adding.insert(insert).await.expect("insert");
                tokio::task::yield_now().await;
            }
        });
        let seen = pages(&store, order, 7).await;
        adder.await.expect("the adder ends");
        let seen: Vec<_> = seen
            .iter()
            .map(|record| record.id)
            .filter(|id| there.contains(id))
            .collect();
        assert_eq!(seen.len(), there.len(), "each once");
        assert_eq!(HashSet::from_iter(seen), there);
    }
}

/// The order of tasks of one millisecond is by id, also where one page ends and the next begins.
pub async fn equal_timestamps_are_not_skipped(harness: &dyn Harness) {
    let store = Subject::open(harness).await;
    let mut all = Vec::new();
    for batch in 0..3 {
        for _ in 0..11 {
            all.push(store.insert_new(a_task()).await);
        }
        if batch < 2 {
            store.pass(1).await;
        }
    }
    all.sort_by_key(|record| (record.created_at, record.id));
    for limit in [1, 4, 11, 100] {
        assert_eq!(pages(&store, SortOrder::Ascending, limit).await, all, "{limit} a page");
        let mut newest_first = pages(&store, SortOrder::Descending, limit).await;
        newest_first.reverse();
        assert_eq!(newest_first, all, "{limit} a page, newest first");
    }
}

async fn pages(store: &Subject<'_>, order: SortOrder, limit: usize) -> Vec<Arc<TaskRecord>> {
    let mut seen = Vec::new();
    let mut after: Option<Cursor> = None;
    loop {
        let page = Page { order, after, limit };
        let page = store.list(&Scope::All, &Filter::default(), page).await.expect("list");
        assert!(page.items.len() <= limit);
        seen.extend(page.items);
        match page.next {
            Some(next) => after = Some(next),
            None => return seen,
        }
    }
}

/// State, prefix, function, text and time, alone and together: a list has the tasks that [`Filter::matches`] selects.
pub async fn filters_agree_with_a_model(harness: &dyn Harness) {
    let store = Subject::open(harness).await;
    let all = varied_tasks(&store).await;
    let (from, to) = (all[4].0.created_at, all[8].0.created_at);
    let own_id = all[5].0.id.to_string();
    let filters = [
        Filter::default(),
        Filter {
            states: Some(StateSet::NONE.with(TaskState::Failed).with(TaskState::Enqueued)),
            ..Filter::default()
        },
        Filter {
            states: Some(StateSet::NONE),
            ..Filter::default()
        },
        Filter {
            prefix: Some("job-1".into()),
            ..Filter::default()
        },
        Filter {
            prefix: Some(own_id[..20].into()),
            ..Filter::default()
        },
        Filter {
            prefix: Some("job_%".into()),
            ..Filter::default()
        },
        Filter {
            function: Some("resize".into()),
            ..Filter::default()
        },
        Filter {
            text: Some("needle".into()),
            ..Filter::default()
        },
        Filter {
            text: Some("it broke".into()),
            ..Filter::default()
        },
        Filter {
            created_from: Some(from),
            created_to: Some(to),
            ..Filter::default()
        },
        Filter {
            states: Some(StateSet::NONE.with(TaskState::Succeeded)),
            text: Some("needle".into()),
            created_from: Some(from),
            ..Filter::default()
        },
    ];
    for scope in [Scope::All, Scope::One(None), scope("anna"), scope("nobody")] {
        for filter in &filters {
            let matching = all
                .iter()
                .filter(|(record, body)| scope.contains(record.tenant.as_ref()) && filter.matches(record, body));
            let expected: Vec<RequestId> = matching.map(|(record, _)| record.id).collect();
            let listed = store.list_all(&scope, filter).await.expect("list");
            let listed: Vec<_> = listed.iter().map(|record| record.id).collect();
            assert_eq!(listed, expected, "{scope:?} {filter:?}");
        }
    }
}

/// The counters match the tasks, for all tenants and for each.
pub async fn counts_agree_with_the_tasks(harness: &dyn Harness) {
    let store = Subject::open(harness).await;
    let all = varied_tasks(&store).await;
    for scope in [Scope::All, Scope::One(None), scope("anna"), scope("nobody")] {
        let counts = store.counts(&scope).await.expect("counts");
        for state in TaskState::ALL {
            let inside = all.iter().filter(|(record, _)| scope.contains(record.tenant.as_ref()));
            let expected = inside.filter(|(record, _)| record.state == state).count();
            assert_eq!(counts.of(state), expected as u64, "{scope:?} {state}");
        }
        assert_eq!(counts.oldest_queued.is_some(), counts.queued() > 0, "{scope:?}");
    }
    store.pass(3).await;
    let waited = store.counts(&Scope::All).await.expect("counts").oldest_queued;
    assert!(waited.is_some_and(|waited| waited >= store.units(3)), "{waited:?}");
}

/// Twelve tasks in many states, of one tenant and of none, oldest first, with their bodies.
async fn varied_tasks(store: &Subject<'_>) -> Vec<(Arc<TaskRecord>, Vec<u8>)> {
    let mut late = vec![b'.'; Filter::TEXT_BYTES];
    late.extend_from_slice(b"needle");
    let mut raw = b"\xff\xfe needle ".to_vec();
    raw.push(0);
    let bodies = [&b""[..], b"a needle in it", &late, &raw];
    let mut stored = Vec::new();
    for number in 0..12_usize {
        let body = bodies[number % 4];
        let uri = ["/resize/1", "/other?resize", "/"][number % 3];
        let task = NewTask {
            request: a_request(uri, body),
            name: (number % 2 == 0).then(|| name_of(&format!("job-{number}"))),
            function: (number % 5 == 4).then(|| "resize".into()),
            ..of_tenant(
                ["anna", "bert"].get(number % 3).copied().filter(|name| *name == "anna"),
                a_task(),
            )
        };
        let outcome = match number % 6 {
            0 => None,
            1 => Some(success()),
            2 => Some(failure()),
            3 => Some(retry(store.units(0))),
            4 => Some(Outcome::Stopped),
            _ => Some(Outcome::Released),
        };
        let id = match outcome {
            None => store.insert_new(task).await.id,
            Some(outcome) => {
                let lease = store.insert_born(task, &worker("w"), LONG).await;
                let _ = store.end(lease, outcome).await;
                lease.id
            }
        };
        stored.push((id, body.to_vec()));
        if number % 3 == 2 && number < 11 {
            store.pass(1).await;
        }
    }
    let mut all = Vec::new();
    for (id, body) in stored {
        all.push((store.record(id).await, body));
    }
    all.sort_by_key(|(record, _)| (record.created_at, record.id));
    all
}
