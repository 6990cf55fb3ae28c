//! Changes of rows: made whole or not at all, and only if the row is still the one that they were decided on.

use std::{sync::Arc, time::Duration};

use super::{
    Harness, Subject,
    subject::{LONG, a_request, a_task, a_task_telling, all_at_once, is_accepted, retry, success, worker},
};
use crate::{
    store::{
        Candidate, Change, Committed, Due, DueReason, Guard, InitialClaim, Insertion, NewRow, Part, Payload, Response,
        Retention, Row, TaskStore, Which,
    },
    task::{
        Delivery, Destination, FenceToken, NewTask, Progress, RequestId, Scope, TaskRecord, TaskState,
        lifecycle::{Edits, Renewal},
    },
    time::Timestamp,
};

/// Another change came first: nothing is changed, and the answer is the current row.
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
    let refused = commit(store.port(), second).await;

    let Committed::Stale(Some(found)) = refused else {
        panic!("a change of an older version was answered with {refused:?}");
    };
    assert_eq!(*found, now);
    assert_eq!(now.version, row.version + 1);
    assert_eq!(now.record.error.as_deref(), Some("first"));
    assert_eq!(self::row(store.port(), id).await, now);
    let request = store.request(&Scope::All, id).await.expect("input");
    assert_eq!(request, Some(a_request("/tests/run", b"work")));
    assert_eq!(payload(store.port(), id, Part::Response).await, None);
}

/// A change does not create a task, whether the task was removed or never existed.
pub async fn a_change_of_a_task_that_is_not_there_is_stale(harness: &dyn Harness) {
    let store = Subject::open(harness).await;
    let id = store.insert_new(a_task()).await.id;
    let gone = row(store.port(), id).await;
    assert!(is_done(&commit(store.port(), Change::removal(&gone)).await));
    let never = new_row(&a_task(), store.port()).row(FenceToken::NONE, store.port().now());
    for missing in [gone, never] {
        let mut change = saying(&missing, "late", store.port());
        change.request = Some(a_request("/tests/other", b"other").to_payload());
        change.response = Response::Put(a_request("/", b"late").to_payload());
        for change in [change, Change::removal(&missing)] {
            let refused = commit(store.port(), change).await;
            assert!(matches!(refused, Committed::Stale(None)), "{refused:?}");
        }
        assert_eq!(rows(store.port(), missing.id).await, []);
        for part in [Part::Request, Part::Response] {
            assert_eq!(payload(store.port(), missing.id, part).await, None);
        }
    }
}

/// A removal is decided on a row that may be removed. If the row has changed since, nothing is removed.
pub async fn a_removal_of_an_old_version_removes_nothing(harness: &dyn Harness) {
    let store = Subject::open(harness).await;
    let lease = store.insert_born(a_task(), &worker("w"), LONG).await;
    assert!(is_accepted(store.end(lease, success()).await));
    let mut seen = row(store.port(), lease.id).await;
    let rerun = store.rerun(&Scope::All, lease.id, Edits::default());
    let _ = rerun.await.expect("rerun");
    for state in [TaskState::Enqueued, TaskState::Running] {
        let now = row(store.port(), lease.id).await;
        assert_eq!((now.version, now.columns.state), (seen.version + 1, state));
        let Committed::Stale(Some(found)) = commit(store.port(), Change::removal(&seen)).await else {
            panic!("a task was removed that is {state:?}, for what it was before");
        };
        assert_eq!(*found, now);
        assert_eq!(row(store.port(), lease.id).await, now);
        assert!(payload(store.port(), lease.id, Part::Request).await.is_some());
        seen = now;
        if state == TaskState::Enqueued {
            let _ = store.claim_one(&worker("w"), LONG).await;
        }
    }
    assert!(is_done(&commit(store.port(), Change::removal(&seen)).await));
    assert_eq!(rows(store.port(), lease.id).await, []);
}

/// Of changes decided on the same row at the same moment, exactly one is made.
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

/// A renewal raises no version. A rescue decided before the renewal is refused nevertheless.
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

/// Row, response and completion appear together.
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
    assert!(payload(store.port(), id, Part::Response).await.is_some());

    let mut again = changed(&row, store.port(), |record, _| {
        (record.life.status_code, record.life.response) = (None, None);
    });
    again.request = Some(a_request("/tests/other", b"other").to_payload());
    again.response = Response::Drop;
    assert!(is_done(&commit(store.port(), again).await));
    let request = store.request(&Scope::All, id).await.expect("input");
    assert_eq!(request, Some(a_request("/tests/other", b"other")));
    assert_eq!(payload(store.port(), id, Part::Response).await, None);
    assert_eq!(self::row(store.port(), id).await.outbox, row.outbox);
}

/// A claim of a completion raises no version. A change decided before it is refused, because it would discard that
/// claim.
pub async fn a_change_of_the_outbox_depends_on_the_token_it_saw(harness: &dyn Harness) {
    let store = Subject::open(harness).await;
    let hook = Destination::new("hook");
    let id = store.insert_new(a_task_telling(&hook)).await.id;
    let lease = store.claim_one(&worker("w"), LONG).await;
    assert!(is_accepted(store.end(lease, success()).await));
    let before = row(store.port(), id).await;
    assert_eq!(store.deliveries(&hook, LONG).await.len(), 1);
    store.pass(1).await;

    let due_again = changed(&before, store.port(), |record, now| {
        let delivery = record.delivery_mut(1, &hook).expect("a delivery");
        Delivery::redeliver(delivery, now);
    });
    let settled = changed(&before, store.port(), |record, _| record.life.deliveries.clear());
    for change in [due_again, settled] {
        let refused = commit(store.port(), change).await;
        let Committed::Stale(Some(found)) = refused else {
            panic!("a completion was taken from who delivers it: {refused:?}");
        };
        assert_eq!(found.version, before.version);
        assert!(found.outbox[0].token > before.outbox[0].token);
    }
}

/// Of changes committed together, each is made or refused on its own. The answers are in their order.
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

/// A claim returns the row as it is stored, with a new version and a new token.
pub async fn a_claimed_row_is_the_row_that_is_kept(harness: &dyn Harness) {
    let store = Subject::open(harness).await;
    let id = store.insert_new(a_task()).await.id;
    let waiting = row(store.port(), id).await;
    let claimed = store.claim_for(&worker("w"), 1, LONG).await.tasks;
    let mut kept = row(store.port(), id).await;
    assert_eq!(kept.version, waiting.version + 1);
    assert!(kept.columns.token > waiting.columns.token);
    assert_eq!(*kept.restore(), claimed[0].record);
}

/// The row of a task that is stored claimed equals that of a task that was claimed, whether its record contains the claim
/// or not.
pub async fn a_task_that_is_stored_claimed_is_as_one_that_was_claimed(harness: &dyn Harness) {
    let store = Subject::open(harness).await;
    for knows in [false, true] {
        let task = a_task();
        let (mut new, made_at) = (new_row(&task, store.port()), store.port().now());
        if knows {
            let claimed = Arc::make_mut(&mut new.record).claim(worker("w"), LONG, made_at);
            assert!(claimed.is_ok());
        }
        store.pass(2).await;
        new.claim = Some(InitialClaim {
            worker: worker("w"),
            lease: LONG,
        });
        let Insertion::New(answer) = store.handle().clone().insert(new.clone()).await.expect("insert") else {
            panic!("it is new");
        };
        let kept = row(store.port(), task.id).await;
        assert_eq!(answer, kept);
        assert_eq!(kept.record, new.record);
        let began_at = kept.columns.started_at.expect("it has begun");
        assert!(began_at >= made_at.saturating_add(store.units(1)));
        assert_eq!(kept.columns.lease_until, Some(began_at.saturating_add(LONG)));
        let record = kept.into_record();
        assert_eq!(
            (record.state, record.attempt, record.crashes),
            (TaskState::Running, 1, 1)
        );
        assert_eq!(record.worker, Some(worker("w")));
        assert!(record.token > FenceToken::NONE);
        assert_eq!(record.history.len(), 2);
    }
}

/// A change decided before a renewal or a report of progress is still made.
pub async fn a_renewal_raises_no_version(harness: &dyn Harness) {
    let store = Subject::open(harness).await;
    let lease = store.insert_born(a_task(), &worker("w"), LONG).await;
    let held = row(store.port(), lease.id).await;
    let renewed = store.renew(vec![lease], 2 * LONG).await.expect("renew");
    assert_eq!(renewed, [Renewal::Renewed { stop: false }]);
    let progress = Progress::new(0.5, "half of it");
    assert!(store.set_progress(lease, progress.clone()).await.expect("progress"));

    let now = row(store.port(), lease.id).await;
    assert!(now.columns.lease_until > held.columns.lease_until);
    let mut expected = held.clone();
    expected.columns.lease_until = now.columns.lease_until;
    expected.columns.progress = Some(progress);
    assert_eq!(now, expected, "nothing else");
    let settled = changed(&held, store.port(), |record, now| {
        assert!(record.settle(lease.token, &success(), now).is_ok());
    });
    assert!(is_done(&commit(store.port(), settled).await));
}

/// A stop keeps the renewed lease and the progress, though it was decided on an earlier row.
pub async fn a_held_task_that_is_stopped_keeps_its_renewed_lease_and_its_progress(harness: &dyn Harness) {
    let store = Subject::open(harness).await;
    let lease = store.insert_born(a_task(), &worker("w"), LONG).await;
    let seen = row(store.port(), lease.id).await;
    let _ = store.renew(vec![lease], 2 * LONG).await.expect("renew");
    let progress = Progress::new(0.5, "half of it");
    assert!(store.set_progress(lease, progress).await.expect("progress"));
    let before = row(store.port(), lease.id).await.columns;
    let stop = changed(&seen, store.port(), |record, now| _ = record.stop(now));
    assert!(is_done(&commit(store.port(), stop).await));

    let stopping = row(store.port(), lease.id).await;
    assert_eq!(
        (stopping.version, stopping.columns.state),
        (seen.version + 1, TaskState::Stopping)
    );
    assert!(stopping.is_held_by(lease.token));
    assert_eq!(stopping.columns.lease_until, before.lease_until);
    assert_eq!(stopping.columns.progress, before.progress);
    let renewed = store.renew(vec![lease], LONG).await.expect("renew");
    assert_eq!(renewed, [Renewal::Renewed { stop: true }]);
}

/// Times in a change count from the store's time at the commit, however long ago the change was decided.
pub async fn times_are_counted_from_when_a_change_is_made(harness: &dyn Harness) {
    let store = Subject::open(harness).await;
    let lease = store.insert_born(a_task(), &worker("w"), LONG).await;
    let late = async |step: &dyn Fn(&mut TaskRecord, Timestamp)| {
        let before = row(store.port(), lease.id).await;
        let change = changed(&before, store.port(), step);
        // With one unit to spare: the time that a store shows may differ from the time that it decides by.
        let made_at = store.port().now().saturating_add(store.units(5));
        store.pass(6).await;
        assert!(is_done(&commit(store.port(), change).await));
        (made_at, row(store.port(), lease.id).await.columns)
    };
    let after = store.units(4);
    let (made_at, waits) = late(&|record, now| {
        assert!(record.settle(lease.token, &retry(after), now).is_ok());
    })
    .await;
    assert!(waits.run_at >= made_at.saturating_add(after));
    assert_eq!(store.claim_ids(&worker("w"), 1).await, []);

    let (made_at, stopped) = late(&|record, now| _ = record.stop(now)).await;
    assert!(stopped.ended_at >= Some(made_at) && stopped.rests_at >= Some(made_at));

    let request = a_request("/tests/run", b"work");
    let (made_at, again) = late(&|record, now| _ = record.rerun(&request, now)).await;
    assert!(again.run_at >= made_at && again.expires_at >= made_at.saturating_add(a_task().max_age));
    assert_eq!(store.claim_ids(&worker("w"), 1).await, [lease.id]);
}

/// A search for due rows changes nothing. Two processes may find the same rows; the commit decides which of them
/// changes a row.
pub async fn looking_for_what_is_due_changes_nothing(harness: &dyn Harness) {
    let store = Subject::open(harness).await;
    let too_old = NewTask {
        max_age: store.units(1),
        ..a_task()
    };
    let mut ids = vec![
        store.insert_new(too_old).await.id,
        store.insert_born(a_task(), &worker("w"), store.units(1)).await.id,
    ];
    for task in [a_task(), a_task_telling(&Destination::LOCAL)] {
        let lease = store.insert_born(task, &worker("w"), LONG).await;
        assert!(is_accepted(store.end(lease, success()).await));
        ids.push(lease.id);
    }
    let mut seen = Vec::new();
    for id in ids {
        seen.push(row(store.port(), id).await);
    }
    let [too_old, lapsed, ended, untold] = &seen[..] else {
        unreachable!("four were made");
    };
    let at_once = Retention {
        succeeded: Duration::ZERO,
        others: Duration::ZERO,
    };
    let untaken = Due::GiveUp {
        spared: Vec::new(),
        overdue: store.units(1),
    };
    let rescue = Due::Rescue { spared: Vec::new() };
    store.pass(3).await;
    for (what, expected) in [
        (
            rescue.clone(),
            vec![(too_old, DueReason::OverAge), (lapsed, DueReason::Lapsed)],
        ),
        (Due::Prune(at_once), vec![(ended, DueReason::Retired)]),
        (untaken, vec![(untold, DueReason::Overdue)]),
    ] {
        for _ in 0..2 {
            let found = due(store.port(), &what, 10).await;
            let found: Vec<_> = found.iter().map(|found| (&found.row, found.reason)).collect();
            assert_eq!(found, expected);
        }
        assert_eq!(due(store.port(), &what, 1).await.len(), 1, "as many as are asked for");
        assert_eq!(due(store.port(), &what, 0).await.len(), 0);
    }
    let mut rescued = changed(lapsed, store.port(), |record, now| _ = record.crashed(now));
    rescued.guard = Guard::Lapsed(lapsed.version);
    assert!(is_done(&commit(store.port(), rescued).await));
    let left = due(store.port(), &rescue, 10).await;
    assert_eq!(left.iter().map(|found| &found.row).collect::<Vec<_>>(), [too_old]);
}

/// The rows that are due, by id: the test makes tasks in the order of their ids.
async fn due(store: &dyn TaskStore, what: &Due, max: usize) -> Vec<Candidate> {
    let mut found = store.due(what.clone(), max).await.expect("due").rows;
    found.sort_unstable_by_key(|candidate| candidate.row.id);
    found
}

async fn rows(store: &dyn TaskStore, id: RequestId) -> Vec<Row> {
    store.rows(&Scope::All, &Which::Id(id)).await.expect("rows")
}

async fn row(store: &dyn TaskStore, id: RequestId) -> Row {
    rows(store, id).await.pop().expect("the task is there")
}

async fn payload(store: &dyn TaskStore, id: RequestId, part: Part) -> Option<Payload> {
    store.payload(&Scope::All, id, part).await.expect("payload")
}

fn new_row(task: &NewTask, store: &dyn TaskStore) -> NewRow {
    let record = TaskRecord::accepted(task, store.now());
    NewRow::new(Arc::new(record), task.request.to_payload())
}

async fn commit(store: &dyn TaskStore, change: Change) -> Committed {
    store.commit(change).await.expect("commit")
}

/// A change that writes `what` into the record, to tell it from other changes.
fn saying(row: &Row, what: &str, store: &dyn TaskStore) -> Change {
    changed(row, store, |record, _| record.life.error = Some(what.into()))
}

/// The change from a row to the result of `step` on its record now.
fn changed(row: &Row, store: &dyn TaskStore, step: impl FnOnce(&mut TaskRecord, Timestamp)) -> Change {
    let (mut row, now) = (row.clone(), store.now());
    step(Arc::make_mut(row.restore()), now);
    Change::between(&row, row.record.clone(), now)
}

const fn is_done(committed: &Committed) -> bool {
    matches!(committed, Committed::Done)
}
