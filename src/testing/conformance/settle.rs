//! The ends of attempts.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, StatusCode};

use super::{
    Harness, Subject,
    subject::{LONG, a_task, all_at_once, failure, is_accepted, retry, success, worker},
};
use crate::{
    store::{Durability, Settled},
    task::{
        CapturedResponse, Progress, Scope, TaskState,
        lifecycle::{Edits, Outcome, Renewal, Rerun, Stop},
    },
};

/// The response can be read as soon as the state shows the end, byte for byte.
pub async fn the_response_appears_with_the_state(harness: &dyn Harness) {
    let store = Subject::open(harness).await;
    let lease = store.insert_born(a_task(), &worker("w"), LONG).await;
    let body: Vec<u8> = (0..=255).cycle().take(70_000).collect();
    let headers = HeaderMap::from_iter([(http::header::CONTENT_TYPE, http::HeaderValue::from_static("a/b"))]);
    let mut response = CapturedResponse::new(StatusCode::CREATED, headers, Bytes::from(body));
    response.truncated = true;
    let response = Arc::new(response);
    let settled = store
        .end(
            lease,
            Outcome::Succeeded {
                response: response.clone(),
            },
        )
        .await;
    let expected = Settled::Accepted {
        state: TaskState::Succeeded,
        outbox: false,
    };
    assert_eq!(settled, expected);
    let record = store.record(lease.id).await;
    assert_eq!((record.state, record.status_code), (TaskState::Succeeded, Some(201)));
    assert!(record.ended_at.is_some() && record.lease_until.is_none());
    assert_eq!(
        store.response(&Scope::All, lease.id).await.expect("output"),
        Some(response)
    );

    let lease = store.insert_born(a_task(), &worker("w"), LONG).await;
    let teapot = CapturedResponse::new(StatusCode::IM_A_TEAPOT, HeaderMap::new(), Bytes::from_static(b"no"));
    let outcome = Outcome::Failed {
        error: "the handler answered 418".into(),
        response: Some(Arc::new(teapot.clone())),
    };
    assert!(is_accepted(store.end(lease, outcome).await));
    let record = store.record(lease.id).await;
    assert_eq!((record.state, record.status_code), (TaskState::Failed, Some(418)));
    assert_eq!(record.error.as_deref(), Some("the handler answered 418"));
    let found = store.response(&Scope::All, lease.id).await.expect("output");
    assert_eq!(found.as_deref(), Some(&teapot));
}

/// A result is reported again if the answer to the first report was lost, or if several holders have the same claim.
pub async fn of_several_settlements_one_is_accepted(harness: &dyn Harness) {
    let store = Subject::open(harness).await;
    for _ in 0..harness.rounds() {
        let lease = store.insert_born(a_task(), &worker("w"), LONG).await;
        let mut claims = store.claims_of(&*store.record(lease.id).await, 4).await;
        let settled = all_at_once(4, |side| {
            let (store, claim) = (store.store.clone(), claims.pop().expect("one for each"));
            let outcome = if side % 2 == 0 { success() } else { failure() };
            async move { store.settle_as(&claim, &outcome).await.expect("settle") }
        })
        .await;
        let accepted: Vec<_> = settled.iter().filter(|settled| is_accepted(**settled)).collect();
        assert_eq!(accepted.len(), 1, "{settled:?}");
        let record = store.record(lease.id).await;
        let ends = record.history.iter().filter(|event| event.state.is_terminal());
        assert_eq!(ends.count(), 1);
        let response = store.response(&Scope::All, lease.id).await.expect("output");
        assert_eq!(response.is_some(), record.state == TaskState::Succeeded);
    }
}

/// A deploy hands its tasks back. That uses up neither an attempt nor a crash.
pub async fn a_released_task_is_not_charged(harness: &dyn Harness) {
    let store = Subject::open(harness).await;
    let task = a_task();
    store.insert_new(task.clone()).await;
    let mut last = None;
    for _ in 0..5 {
        let lease = store.claim_one(&worker("w"), LONG).await;
        assert!(
            last.is_none_or(|last| lease.token > last),
            "the token grows all the same"
        );
        last = Some(lease.token);
        assert!(is_accepted(store.end(lease, Outcome::Released).await));
        let record = store.record(task.id).await;
        assert_eq!((record.state, record.attempt), (TaskState::Enqueued, 0));
        assert_eq!((record.crashes, record.retries, record.is_suspect()), (0, 0, false));
    }
}

/// A handler that answers "not now" uses up neither an attempt nor a crash. The number of these answers is kept.
pub async fn a_deferred_task_is_not_charged_and_waits_for_its_time(harness: &dyn Harness) {
    let mut store = Subject::open(harness).await;
    let task = a_task();
    store.insert_new(task.clone()).await;
    for times in 1..=3 {
        let lease = store.claim_one(&worker("w"), LONG).await;
        let deferred = Outcome::Deferred {
            after: store.units(3),
            error: "not now".into(),
        };
        assert!(is_accepted(store.end(lease, deferred).await));
        let record = store.record(task.id).await;
        assert_eq!((record.state, record.attempt), (TaskState::Retrying, 0));
        assert_eq!((record.retries, record.crashes, record.deferrals), (0, 0, times));
        assert_eq!(record.error.as_deref(), Some("not now"));
        store.pass(2).await;
        assert_eq!(store.claim_ids(&worker("w"), 10).await, []);
        store.pass(2).await;
    }
    store.reopen_or_declare().await;
    assert_eq!(store.record(task.id).await.deferrals, 3);
}

/// A retry runs at its time and not before, also after the store is opened again.
pub async fn a_retry_waits_for_its_time_and_survives_reopening(harness: &dyn Harness) {
    let mut store = Subject::open(harness).await;
    let task = a_task();
    let lease = store.insert_born(task.clone(), &worker("w"), LONG).await;
    let settled = store.end(lease, retry(store.units(3))).await;
    let expected = Settled::Accepted {
        state: TaskState::Retrying,
        outbox: false,
    };
    assert_eq!(settled, expected);
    store.reopen_or_declare().await;
    let record = store.record(task.id).await;
    assert_eq!(
        (record.state, record.retries, record.crashes),
        (TaskState::Retrying, 1, 0)
    );
    assert_eq!(record.error.as_deref(), Some("it was busy"));
    store.pass(2).await;
    assert_eq!(store.claim_ids(&worker("w"), 10).await, []);
    store.pass(2).await;
    assert_eq!(store.claim_ids(&worker("w"), 10).await, [task.id]);
    assert_eq!(store.record(task.id).await.attempt, 2);
}

/// No settlement, stop, rescue or claim changes a task that has ended.
pub async fn a_terminal_state_changes_only_by_retry(harness: &dyn Harness) {
    let store = Subject::open(harness).await;
    for outcome in [success(), failure(), Outcome::Stopped] {
        let lease = store.insert_born(a_task(), &worker("w"), store.units(1)).await;
        assert!(is_accepted(store.end(lease, outcome.clone()).await));
        let ended = store.record(lease.id).await;
        store.pass(2).await;

        assert_eq!(store.end(lease, failure()).await, Settled::Fenced);
        let stopped = store.stop(&Scope::All, lease.id).await.expect("stop");
        assert_eq!(stopped, Stop::AlreadyEnded(ended.state));
        assert_eq!(store.renew(vec![lease], LONG).await.expect("renew"), [Renewal::Lost]);
        assert_eq!(store.rescue_one(lease.id).await, None);
        assert_eq!(store.claim_ids(&worker("w"), 10).await, []);
        assert_eq!(store.record(lease.id).await, ended);

        let rerun = store
            .rerun(&Scope::All, lease.id, Edits::default())
            .await
            .expect("rerun");
        assert_eq!(rerun, Rerun::Enqueued { generation: 2 });
        let lease = store.claim_one(&worker("w"), LONG).await;
        assert!(is_accepted(store.end(lease, success()).await));
    }
}

/// The latest report of progress is kept until the next attempt begins.
pub async fn of_progress_the_latest_wins(harness: &dyn Harness) {
    let store = Subject::open(harness).await;
    let lease = store.insert_born(a_task(), &worker("w"), LONG).await;
    for percent in [10_u8, 90, 50] {
        let progress = Progress::new(f32::from(percent) / 100.0, &format!("{percent} %"));
        assert!(store.set_progress(lease, progress).await.expect("progress"));
    }
    let found = store.record(lease.id).await.progress.clone();
    assert_eq!(found, Some(Progress::new(0.5, "50 %")));
    assert!(is_accepted(store.end(lease, Outcome::Released).await));
    store.claim_one(&worker("w"), LONG).await;
    assert_eq!(store.record(lease.id).await.progress, None);
}

impl Subject<'_> {
    /// Opens the store again, if anything survives the end of its process. If not, the store must declare so.
    pub(super) async fn reopen_or_declare(&mut self) -> bool {
        match self.harness.reopen().await {
            Some(store) => {
                assert_ne!(
                    self.abilities().durability,
                    Durability::Process,
                    "it survives more than it says"
                );
                self.store = self.store.over(store);
                true
            }
            None => {
                assert_eq!(self.abilities().durability, Durability::Process, "nothing survived");
                false
            }
        }
    }
}
