//! Changes of rows: made whole or not at all, and only of the row they were decided on.

use std::{sync::Arc, time::Duration};

use super::{
    Harness, Subject,
    subject::{LONG, a_request, a_task, a_task_telling, all_at_once, is_accepted, success, worker},
};
use crate::{
    store::{Change, Committed, Guard, Part, Response, Row, TaskStore, Which},
    task::{Delivery, Destination, LeaseRef, RequestId, Scope, TaskRecord, TaskState, lifecycle::Renewal},
};

/// Somebody else was there first: nothing is done, and the row that is there now is the answer.
pub async fn a_change_of_an_older_version_is_refused_with_the_row_as_it_is(harness: &dyn Harness) {
    let store = Subject::open(harness).await;
    let id = store.insert_new(a_task()).await.id;
    let row = row(store.port(), id).await;
    let first = saying(&row, "first", store.port());
    let mut second = saying(&row, "second", store.port());
    second.request = Some(a_request("/tests/other", b"other").to_payload());
    second.response = Response::Put(a_request("/", b"second").to_payload());

    assert!(is_done(&commit(store.port(), first).await));
    let now = self::row(store.port(), id).await;
    let refused = commit(store.port(), second.clone()).await;

    let Committed::Stale(Some(found)) = refused else {
        panic!("a change of an older version was answered with {refused:?}");
    };
    assert_eq!(*found, now);
    assert_eq!(now.version, row.version + 1);
    assert_eq!(now.record.error.as_deref(), Some("first"));
    assert_eq!(self::row(store.port(), id).await, now);
    let request = store.input(&Scope::All, id).await.expect("input");
    assert_eq!(request, Some(a_request("/tests/run", b"work")));
    assert_eq!(
        store
            .port()
            .payload(&Scope::All, id, Part::Response)
            .await
            .expect("payload"),
        None
    );

    let gone = Change::removal(&now);
    second.guard = Guard::Version(now.version + 1);
    assert!(is_done(&commit(store.port(), gone).await));
    let refused = commit(store.port(), second).await;
    assert!(matches!(refused, Committed::Stale(None)), "{refused:?}");
}

/// Of changes that were decided on the same row at the same moment, one is made.
pub async fn of_changes_of_one_version_one_is_made(harness: &dyn Harness) {
    let store = Subject::open(harness).await;
    let id = store.insert_new(a_task()).await.id;
    for round in 0..harness.rounds() {
        let row = row(store.port(), id).await;
        let done = all_at_once(3, |side| {
            let (store, change) = (
                store.store.clone(),
                saying(&row, &format!("{round}/{side}"), store.port()),
            );
            async move { is_done(&commit(store.port(), change).await) }
        })
        .await;
        assert_eq!(done.iter().filter(|done| **done).count(), 1, "in round {round}");
        let after = self::row(store.port(), id).await;
        assert_eq!(after.version, row.version + 1);
        let winner = done.iter().position(|done| *done).expect("one was made");
        assert_eq!(after.record.error, Some(format!("{round}/{winner}").into()));
    }
}

/// A renewal raises no version. A rescue that was decided before it is refused all the same.
pub async fn a_change_of_a_lapsed_claim_is_refused_once_it_was_renewed(harness: &dyn Harness) {
    let store = Subject::open(harness).await;
    let id = store.insert_new(a_task()).await.id;
    let lease = store.claim_one(&worker("w"), store.units(4)).await;
    let held = row(store.port(), id).await;
    let rescue = |row: &Row| Change {
        guard: Guard::Lapsed(row.version),
        ..saying(row, "rescued", store.port())
    };

    let refused = commit(store.port(), rescue(&held)).await;
    assert!(!is_done(&refused), "the claim held");
    let renewed = store.port().renew(vec![lease], store.units(20)).await.expect("renew");
    assert_eq!(renewed, [Renewal::Renewed { stop: false }]);
    store.pass(6).await;

    let Committed::Stale(Some(found)) = commit(store.port(), rescue(&held)).await else {
        panic!("a claim was taken from a holder that had renewed it");
    };
    assert_eq!(found.version, held.version);
    assert!(found.columns.lease_until > held.columns.lease_until);
    store.pass(18).await;
    let lapsed = row(store.port(), id).await;
    assert!(
        is_done(&commit(store.port(), rescue(&lapsed)).await),
        "the claim had lapsed"
    );
}

/// Record, response and outbox come with one another: the row, the response and the completion are there at once.
pub async fn all_that_a_change_brings_is_there_with_it(harness: &dyn Harness) {
    let store = Subject::open(harness).await;
    let hook = Destination::new("hook");
    let id = store.insert_new(a_task_telling(&hook)).await.id;
    let lease = store.claim_one(&worker("w"), LONG).await;
    assert!(is_accepted(store.end(lease, success()).await));

    let row = row(store.port(), id).await;
    assert_eq!(row.record.state, TaskState::Succeeded);
    assert_eq!(row.columns.state, TaskState::Succeeded);
    assert_eq!(row.outbox.len(), 1);
    assert_eq!((row.outbox[0].generation, &row.outbox[0].destination), (1, &hook));
    let response = store
        .port()
        .payload(&Scope::All, id, Part::Response)
        .await
        .expect("payload");
    assert!(response.is_some());

    let mut again = changed(&row, store.port(), |record| {
        (record.status_code, record.response) = (None, None);
    });
    again.request = Some(a_request("/tests/other", b"other").to_payload());
    again.response = Response::Drop;
    assert!(is_done(&commit(store.port(), again).await));
    let request = store.input(&Scope::All, id).await.expect("input");
    assert_eq!(request, Some(a_request("/tests/other", b"other")));
    assert_eq!(
        store
            .port()
            .payload(&Scope::All, id, Part::Response)
            .await
            .expect("payload"),
        None
    );
    assert_eq!(self::row(store.port(), id).await.outbox, row.outbox);
}

/// A claim of a completion raises no version. What was decided before it is refused, or its holder would be forgotten.
pub async fn a_change_of_the_outbox_depends_on_the_token_it_saw(harness: &dyn Harness) {
    let store = Subject::open(harness).await;
    let hook = Destination::new("hook");
    let id = store.insert_new(a_task_telling(&hook)).await.id;
    let lease = store.claim_one(&worker("w"), LONG).await;
    assert!(is_accepted(store.end(lease, success()).await));
    let before = row(store.port(), id).await;
    assert_eq!(store.deliveries(&hook, LONG).await.len(), 1);
    store.pass(1).await;

    let due_again = changed(&before, store.port(), |record| {
        let delivery = record.delivery_mut(1, &hook).expect("a delivery");
        Delivery::redeliver(delivery, store.port().now());
    });
    let settled = changed(&before, store.port(), |record| record.deliveries.clear());
    for change in [due_again, settled] {
        let refused = commit(store.port(), change).await;
        let Committed::Stale(Some(found)) = refused else {
            panic!("a completion was taken from who delivers it: {refused:?}");
        };
        assert_eq!(found.version, before.version);
        assert!(found.outbox[0].token > before.outbox[0].token);
    }
}

/// Changes that are committed together are each made or refused by themselves, and answered in their order.
pub async fn changes_made_together_are_answered_in_their_order(harness: &dyn Harness) {
    let store = Subject::open(harness).await;
    let mut rows = Vec::new();
    for _ in 0..3 {
        let id = store.insert_new(a_task()).await.id;
        rows.push(row(store.port(), id).await);
    }
    let mut changes: Vec<_> = rows.iter().map(|row| saying(row, "done", store.port())).collect();
    changes[1].guard = Guard::Version(rows[1].version + 7);
    changes.push(saying(&rows[0], "twice", store.port()));

    let answers = store.port().commit_all(changes).await.expect("commit");

    assert_eq!(
        answers.iter().map(is_done).collect::<Vec<_>>(),
        [true, false, true, false]
    );
    for (row, error) in rows.iter().zip([Some("done"), None, Some("done")]) {
        assert_eq!(self::row(store.port(), row.id).await.record.error.as_deref(), error);
    }
    assert!(store.port().commit_all(Vec::new()).await.expect("commit").is_empty());
}

/// What a claim hands out is the row as it is kept from then on, under a version and a token of its own.
pub async fn a_claimed_row_is_the_row_that_is_kept(harness: &dyn Harness) {
    let store = Subject::open(harness).await;
    let id = store.insert_new(a_task()).await.id;
    let waiting = row(store.port(), id).await;
    let claimed = store.claim_for(&worker("w"), 1, LONG).await.tasks;
    let mut kept = row(store.port(), id).await;
    assert_eq!(kept.version, waiting.version + 1);
    assert!(kept.columns.token > waiting.columns.token);
    assert_eq!(*kept.restore(), claimed[0].record);

    let lease = LeaseRef {
        id,
        token: kept.columns.token,
    };
    let before = kept.version;
    let renewed = store.port().renew(vec![lease], Duration::from_secs(2 * 60 * 60)).await;
    assert_eq!(renewed.expect("renew"), [Renewal::Renewed { stop: false }]);
    assert_eq!(
        row(store.port(), id).await.version,
        before,
        "a renewal is not a change of the task"
    );
}

async fn row(store: &dyn TaskStore, id: RequestId) -> Row {
    let rows = store.rows(&Scope::All, &Which::Id(id)).await.expect("rows");
    rows.into_iter().next().expect("the task is there")
}

async fn commit(store: &dyn TaskStore, change: Change) -> Committed {
    store.commit(change).await.expect("commit")
}

/// A change that can be told from others.
fn saying(row: &Row, what: &str, store: &dyn TaskStore) -> Change {
    changed(row, store, |record| record.error = Some(what.into()))
}

fn changed(row: &Row, store: &dyn TaskStore, change: impl FnOnce(&mut TaskRecord)) -> Change {
    let mut row = row.clone();
    change(Arc::make_mut(row.restore()));
    Change::between(&row, row.record.clone(), store.now())
}

const fn is_done(committed: &Committed) -> bool {
    matches!(committed, Committed::Done)
}
