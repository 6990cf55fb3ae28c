//! Removing tasks that have ended.

use super::{
    Harness, Subject,
    subject::{LONG, a_task, a_task_telling, failure, is_accepted, retry, success, worker},
};
use crate::{
    store::{Delete, DeliverySettlement, GiveUp, Retention, StoreErrorKind},
    task::{DeliveryTry, Destination, Filter, NewTask, Scope, TaskState, delivery::DeliveryOutcome, lifecycle::Stop},
    time::Timestamp,
};

/// Tasks that wait, are delayed, run, stop or retry are kept, whatever their age.
pub async fn pruning_never_removes_a_live_task(harness: &dyn Harness) {
    let store = Subject::open(harness).await;
    let delayed = NewTask {
        delay: LONG,
        ..a_task()
    };
    store.insert_new(delayed).await;
    store
        .insert_new(NewTask {
            max_age: LONG * 9,
            ..a_task()
        })
        .await;
    store.insert_born(a_task(), &worker("w"), LONG).await;
    let stopping = store.insert_born(a_task(), &worker("w"), LONG).await;
    assert_eq!(
        store.stop(&Scope::All, stopping.id).await.expect("stop"),
        Stop::Stopping
    );
    let retrying = store.insert_born(a_task(), &worker("w"), LONG).await;
    assert!(is_accepted(store.end(retrying, retry(LONG)).await));
    store.pass(2).await;
    let at_once = Retention {
        succeeded: store.units(0),
        others: store.units(0),
    };
    assert_eq!(store.prune(at_once, 100).await.expect("prune").tasks, 0);
    assert_eq!(
        store
            .list_all(&Scope::All, &Filter::default())
            .await
            .expect("list")
            .len(),
        5
    );
}

/// Tasks that succeeded are kept for one time, all others for another, from their end. A prune removes at most a given
/// number.
pub async fn ended_tasks_are_kept_for_their_retention(harness: &dyn Harness) {
    let store = Subject::open(harness).await;
    let retention = Retention {
        succeeded: store.units(3),
        others: store.units(7),
    };
    for _ in 0..3 {
        let lease = store.insert_born(a_task(), &worker("w"), LONG).await;
        let _ = store.end(lease, success()).await;
        let lease = store.insert_born(a_task(), &worker("w"), LONG).await;
        let _ = store.end(lease, failure()).await;
    }
    let stopped = store.insert_new(a_task()).await.id;
    assert_eq!(store.stop(&Scope::All, stopped).await.expect("stop"), Stop::Stopped);
    store.pass(2).await;
    assert_eq!(store.prune(retention, 100).await.expect("prune").tasks, 0);
    store.pass(2).await;
    assert_eq!(store.prune(retention, 2).await.expect("prune").tasks, 2);
    assert_eq!(store.prune(retention, 100).await.expect("prune").tasks, 1);
    store.pass(4).await;
    assert_eq!(store.prune(retention, 100).await.expect("prune").tasks, 4);
    assert_eq!(store.list_all(&Scope::All, &Filter::default()).await.expect("list"), []);
    let counts = store.counts(&Scope::All).await.expect("counts");
    assert!(counts.iter().all(|(_, count)| count == 0));
}

/// The receiver of the completion can still read the task.
pub async fn a_task_with_a_delivery_pending_is_not_pruned(harness: &dyn Harness) {
    let store = Subject::open(harness).await;
    let here = Destination::LOCAL;
    let lease = store.insert_born(a_task_telling(&here), &worker("w"), LONG).await;
    let _ = store.end(lease, success()).await;
    let at_once = Retention {
        succeeded: store.units(1),
        others: store.units(1),
    };
    store.pass(2).await;
    assert_eq!(store.prune(at_once, 10).await.expect("prune").tasks, 0);
    let due = store.deliveries(&here, LONG).await.remove(0);
    assert_eq!(store.prune(at_once, 10).await.expect("prune").tasks, 0);
    let settlement = DeliverySettlement {
        claimed: due,
        outcome: DeliveryOutcome::Delivered,
        tried: DeliveryTry::new(Timestamp::ZERO),
    };
    assert!(store.settle_delivery(settlement).await.expect("settle delivery"));
    assert_eq!(store.prune(at_once, 10).await.expect("prune").tasks, 1);
}

/// If a delivery has failed, was refused or was given up, an operator has time to request it again.
pub async fn a_task_whose_delivery_failed_is_kept_for_its_retention_from_then_on(harness: &dyn Harness) {
    let store = Subject::open(harness).await;
    let here = Destination::LOCAL;
    let retention = Retention {
        succeeded: store.units(3),
        others: store.units(3),
    };
    let pruned = async || store.prune(retention, 10).await.expect("prune").tasks;
    for outcome in [Some(DeliveryOutcome::Failed), Some(DeliveryOutcome::Blocked), None] {
        let lease = store.insert_born(a_task_telling(&here), &worker("w"), LONG).await;
        let _ = store.end(lease, success()).await;
        store.pass(4).await;
        match outcome {
            Some(outcome) => {
                let settlement = DeliverySettlement {
                    claimed: store.deliveries(&here, LONG).await.remove(0),
                    outcome,
                    tried: DeliveryTry::new(Timestamp::ZERO),
                };
                assert!(store.settle_delivery(settlement).await.expect("settle delivery"));
            }
            None => {
                let give_up = GiveUp {
                    spared: Vec::new(),
                    overdue: store.units(3),
                    max: 10,
                };
                let given_up = store.give_up_deliveries(give_up).await;
                assert_eq!(given_up.expect("give up deliveries").len(), 1);
            }
        }
        store.pass(2).await;
        assert_eq!(pruned().await, 0);
        store.pass(2).await;
        assert_eq!(pruned().await, 1);
    }
}

/// Its request, response and completions are removed with it. A live task cannot be deleted.
pub async fn a_deleted_task_is_gone_with_all_that_hung_on_it(harness: &dyn Harness) {
    let store = Subject::open(harness).await;
    let here = Destination::LOCAL;
    let lease = store.insert_born(a_task_telling(&here), &worker("w"), LONG).await;
    let refused = store.delete(&Scope::All, lease.id).await.expect("delete");
    assert_eq!(refused, Delete::NotEnded(TaskState::Running));
    let _ = store.end(lease, success()).await;
    assert_eq!(
        store.delete(&Scope::All, lease.id).await.expect("delete"),
        Delete::Deleted
    );

    assert!(store.task(lease.id).await.is_err());
    assert_eq!(store.request(&Scope::All, lease.id).await.expect("input"), None);
    assert_eq!(store.response(&Scope::All, lease.id).await.expect("output"), None);
    assert_eq!(store.deliveries(&here, LONG).await.len(), 0);
    assert_eq!(store.list_all(&Scope::All, &Filter::default()).await.expect("list"), []);
    let again = store.delete(&Scope::All, lease.id).await.expect_err("it is gone");
    assert_eq!(again.kind(), StoreErrorKind::NotFound);
}
