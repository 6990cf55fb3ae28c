//! Keys in the memory store: how many it keeps, and which it drops.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, Method, Uri};
use tower_respond_async::{
    store::{Delete, FullReason, Insert, Inserted, Ledger, MemoryStore, MemoryStoreBuilder, TaskStore},
    task::{
        CapturedRequest, Filter, IdempotencyKey, NewTask, RequestId, Scope, Tenant, WorkerId,
        lifecycle::{Edits, Outcome, Rerun},
    },
    testing::ManualClock,
    time::Timestamp,
};

use crate::memory::{Bounded, LEASE, WINDOW};

/// The weight of a key of 36 characters.
const KEY: usize = 356;

impl Bounded {
    /// Stores a task with a key, and ends it.
    async fn ended_of(&self, tenant: Option<&str>, key: &str) -> RequestId {
        self.ended(self.keyed(tenant, key), 0).await
    }

    /// The task of the key. If there is none, the task is stored again: so check keys last.
    async fn known(&self, tenant: Option<&str>, key: &str) -> Option<RequestId> {
        match self.insert(self.keyed(tenant, key)).await {
            Inserted::Known { id, .. } => Some(id),
            Inserted::New(..) => None,
            other => panic!("no request is refused: {other:?}"),
        }
    }

    async fn forgotten(&self) -> u64 {
        self.store.counts(&Scope::All).await.unwrap().forgotten_keys
    }
}

/// With every default, keys of 36 bytes and 31 tasks a second, the store used to refuse everything within a day: keys
/// outlived their tasks and filled the room, and nothing made room. This is that store, a thousand times smaller.
#[tokio::test]
async fn keys_of_ended_tasks_never_fill_the_store_and_those_of_live_ones_are_never_forgotten() {
    let max_bytes = MemoryStoreBuilder::MAX_BYTES / 1_000;
    let bounded = Bounded::new(|store| {
        store
            .max_bytes(max_bytes)
            .max_tasks(MemoryStoreBuilder::MAX_TASKS / 1_000)
    });
    let key = |number: usize| format!("{number:036}");
    let live = bounded.live(bounded.keyed(None, &key(0))).await;
    let mut ended = vec![live];
    // 31 a second for a day is 2,678,400.
    for number in 1..=2_678 {
        ended.push(bounded.ended_of(None, &key(number)).await);
        bounded.clock.advance(WINDOW / 2_700);
        assert!(bounded.bytes() <= max_bytes);
    }
    let remembered = max_bytes / 8 / KEY;
    assert_eq!(bounded.forgotten().await, 2_678 - remembered as u64);
    assert_eq!(bounded.known(None, &key(0)).await, Some(live));
    for (number, id) in ended.iter().enumerate().skip(2_679 - remembered) {
        assert_eq!(bounded.known(None, &key(number)).await, Some(*id), "{number}");
    }
    assert_eq!(bounded.known(None, &key(2_678 - remembered)).await, None);
}

#[tokio::test]
async fn one_tenant_pushes_out_none_of_the_keys_of_others() {
    let bounded = Bounded::new(|store| store.max_bytes(8 * 20 * KEY));
    let first = bounded.ended_of(Some("b"), &format!("{:036}", 0)).await;
    for number in 0..200 {
        bounded.ended_of(Some("a"), &format!("{number:036}")).await;
    }
    assert!(bounded.forgotten().await >= 180);
    assert_eq!(bounded.known(Some("b"), &format!("{:036}", 0)).await, Some(first));
    // All other tenants together count like one: then the oldest key goes, whichever tenant has it.
    for number in 0..200 {
        bounded.ended_of(Some(&format!("tenant-{number}")), "k").await;
    }
    assert_eq!(bounded.known(Some("b"), &format!("{:036}", 0)).await, None);
}

#[tokio::test]
async fn the_key_of_a_task_that_is_run_again_is_a_live_ones() {
    let bounded = Bounded::new(|store| store.max_bytes(8 * 20 * KEY));
    let again = bounded.ended_of(None, "again").await;
    let rerun = bounded
        .ledger()
        .rerun(&Scope::All, again, Edits::default())
        .await
        .unwrap();
    assert!(matches!(rerun, Rerun::Enqueued { .. }), "{rerun:?}");
    let forgotten = bounded.ended_of(None, "forgotten").await;
    for number in 0..100 {
        bounded.ended_of(None, &format!("{number:036}")).await;
    }
    assert_eq!(bounded.known(None, "again").await, Some(again));
    assert_eq!(
        bounded.known(None, "forgotten").await,
        None,
        "{forgotten} is another task now"
    );
    let _ = bounded.ledger().stop(&Scope::All, again).await.unwrap();
    for number in 100..200 {
        bounded.ended_of(None, &format!("{number:036}")).await;
    }
    assert_eq!(bounded.known(None, "again").await, None, "it has ended for good");
}

#[tokio::test]
async fn a_task_run_again_does_not_take_its_forgotten_key_from_another() {
    let bounded = Bounded::new(|store| store.max_bytes(8 * 20 * KEY));
    let first = bounded.ended_of(None, "k").await;
    for number in 0..30 {
        let id = bounded.ended_of(None, &format!("{number:036}")).await;
        assert_eq!(bounded.ledger().delete(&Scope::All, id).await.unwrap(), Delete::Deleted);
    }
    assert!(
        bounded.kept().await.contains(&first),
        "the task is there, its key is not"
    );
    let second = bounded.ended_of(None, "k").await;
    let _ = bounded
        .ledger()
        .rerun(&Scope::All, first, Edits::default())
        .await
        .unwrap();
    let _ = bounded.ledger().stop(&Scope::All, first).await.unwrap();
    assert_eq!(bounded.known(None, "k").await, Some(second));
    bounded.delete_all().await;
    bounded.clock.advance(WINDOW);
    bounded.store.prune_keys(1_000).await.unwrap();
    assert_eq!(bounded.bytes(), 0);
}

#[tokio::test]
async fn keys_go_before_a_request_is_refused() {
    let bounded = Bounded::new(|store| store.max_bytes(8 * 20 * KEY));
    for number in 0..20 {
        bounded.ended_of(None, &format!("{number:036}")).await;
    }
    assert_eq!(bounded.forgotten().await, 0);
    let room = 8 * 20 * KEY - 200;
    bounded.live(bounded.task(room)).await;
    assert_eq!(bounded.forgotten().await, 20);
    let refused = bounded.insert(bounded.task(room)).await;
    assert!(matches!(refused, Inserted::Full(FullReason::Storage)), "{refused:?}");
}

#[test]
fn key_counts_are_right_in_every_order() {
    let clock = ManualClock::new(Timestamp::from_millis(1_000));
    let store = MemoryStore::builder().max_tasks(20).max_bytes(8 * 100 * KEY);
    let store = store.clock(clock.clone()).build();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    std::thread::scope(|scope| {
        for thread in 0..4_u64 {
            let (ledger, handle) = (Ledger::of(store.clone()), runtime.handle().clone());
            scope.spawn(move || {
                let mut random = fastrand::Rng::with_seed(thread);
                for _ in 0..3_000 {
                    let mut bytes = [0; 10];
                    random.fill(&mut bytes);
                    let id = RequestId::from_parts(Timestamp::from_millis(1), bytes);
                    let request =
                        CapturedRequest::new(Method::GET, Uri::from_static("/"), HeaderMap::new(), Bytes::new());
                    let mut task = NewTask::new(id, Arc::new(request));
                    task.tenant = Some(Tenant::new(format!("{}", random.u8(..3))));
                    task.key = Some(IdempotencyKey::new(&format!("key-{}", random.u16(..300))).unwrap());
                    let insert = Insert::new(task).claimed_by(WorkerId::new("w", thread), LEASE);
                    let id = match handle.block_on(ledger.insert(insert)).unwrap() {
                        Inserted::New(_, Some(held)) => {
                            let _ = handle.block_on(ledger.settle(&held, &Outcome::Stopped)).unwrap();
                            id
                        }
                        Inserted::Known { id, .. } => id,
                        _ => continue,
                    };
                    match random.u8(..4) {
                        0 => drop(handle.block_on(ledger.rerun(&Scope::All, id, Edits::default()))),
                        1 => drop(handle.block_on(ledger.delete(&Scope::All, id))),
                        _ => drop(handle.block_on(ledger.stop(&Scope::All, id))),
                    }
                }
            });
        }
    });
    let ledger = Ledger::of(store.clone());
    for record in runtime
        .block_on(ledger.list_all(&Scope::All, &Filter::default()))
        .unwrap()
    {
        let _ = runtime.block_on(ledger.stop(&Scope::All, record.id)).unwrap();
        let deleted = runtime.block_on(ledger.delete(&Scope::All, record.id));
        assert_eq!(deleted.unwrap(), Delete::Deleted);
    }
    clock.advance(WINDOW);
    runtime.block_on(store.prune_keys(10_000)).unwrap();
    assert!(format!("{store:?}").contains("tasks: 0, bytes: 0"), "{store:?}");
}
