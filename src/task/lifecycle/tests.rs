//! The effect of each step on a record.

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode, Uri};

use super::*;
use crate::task::{CapturedResponse, Condition, Conditions, Destination, RequestId, Subscription, Subscriptions};

const LEASE: Duration = Duration::from_secs(30);

fn at(millis: u64) -> Timestamp {
    Timestamp::from_millis(millis)
}

fn worker() -> WorkerId {
    WorkerId::new("test", 1)
}

fn record() -> TaskRecord {
    TaskRecord::accepted(&new_task(), at(0))
}

/// The same record, accepted by this version of the application.
fn record_of(version: &str) -> TaskRecord {
    let version = Some(version.into());
    TaskRecord::accepted(&NewTask { version, ..new_task() }, at(0))
}

fn handed_on() -> Outcome {
    Outcome::HandedOn {
        error: "version 1 answered 404".into(),
    }
}

fn new_task() -> NewTask {
    let request = CapturedRequest::new(Method::GET, Uri::from_static("/a/b"), HeaderMap::new(), Bytes::new());
    let mut task = NewTask::new(RequestId::from_parts(at(0), [0; 10]), Arc::new(request));
    task.subscriptions = Subscriptions::from([Subscription {
        destination: Destination::LOCAL,
        on: Conditions::NONE.with(Condition::Failure),
    }]);
    task
}

fn success() -> Outcome {
    let response = CapturedResponse::new(StatusCode::OK, HeaderMap::new(), Bytes::new());
    Outcome::Succeeded {
        response: Arc::new(response),
    }
}

#[test]
fn three_crashes_end_it_and_a_failure_between_is_not_one() {
    let mut task = record();
    for crash in 1..=3 {
        let lease = task.claim(worker(), LEASE, at(0)).unwrap();
        let failed = Outcome::Retry {
            after: Duration::ZERO,
            error: "busy".into(),
        };
        assert_eq!(task.settle(lease.token, &failed, at(0)), Ok(TaskState::Retrying));
        assert_eq!(task.crashes, crash - 1);
        task.claim(worker(), LEASE, at(0)).unwrap();
        let expected = if crash == 3 { Rescue::Poisoned } else { Rescue::Requeued };
        assert_eq!(task.rescue(at(40_000)), expected);
    }
    assert_eq!((task.state, task.retries, task.attempt), (TaskState::Failed, 3, 6));
    assert_eq!(task.destination_status(), DeliveryStatus::Pending);
}

#[test]
fn a_deferral_charges_nothing_and_is_counted() {
    let mut task = record();
    for times in 1..=3 {
        let lease = task.claim(worker(), LEASE, at(0)).unwrap();
        let deferred = Outcome::Deferred {
            after: LEASE,
            error: "busy".into(),
        };
        assert_eq!(task.settle(lease.token, &deferred, at(1)), Ok(TaskState::Retrying));
        assert_eq!(
            (task.attempt, task.retries, task.crashes, task.deferrals),
            (0, 0, 0, times)
        );
        assert_eq!(task.run_at, at(30_001));
    }
    let said = task.history.last().unwrap().detail.as_deref();
    assert_eq!(said, Some("deferred, uncharged: busy"));
    assert_eq!(task.error.as_deref(), Some("busy"));
    let lease = task.claim(worker(), LEASE, at(2)).unwrap();
    let _ = task.stop(at(3));
    let deferred = Outcome::Deferred {
        after: LEASE,
        error: "busy".into(),
    };
    assert_eq!(task.settle(lease.token, &deferred, at(4)), Ok(TaskState::Stopped));
    assert_eq!(task.deferrals, 3);
}

#[test]
fn a_task_that_is_handed_on_is_charged_nothing_and_waits_longer_each_time() {
    let (minute, mut now) = (Duration::from_secs(60), at(0));
    let mut task = record_of("2");
    assert_eq!(task.version_to_wait_for(Some("2"), minute), None);
    let mut waits = Vec::new();
    while now < at(60_000) {
        let lease = task.claim(worker(), LEASE, now).unwrap();
        assert_eq!(task.attempt, 1);
        for here in [Some("1"), None] {
            assert_eq!(
                task.version_to_wait_for(here, minute).map(|version| &**version),
                Some("2")
            );
        }
        assert_eq!(task.settle(lease.token, &handed_on(), now), Ok(TaskState::Retrying));
        assert_eq!((task.attempt, task.retries, task.crashes, task.deferrals), (0, 0, 0, 0));
        waits.push(task.run_at.since(now).as_secs());
        now = task.run_at;
    }
    assert_eq!(waits, [1, 1, 2, 4, 8, 10, 10, 10, 10, 10]);
    let said = task.history.last().unwrap().detail.as_deref();
    assert_eq!(said, Some("handed on, uncharged: version 1 answered 404"));
    assert_eq!(task.error.as_deref(), Some("version 1 answered 404"));

    let lease = task.claim(worker(), LEASE, now).unwrap();
    assert_eq!(
        task.version_to_wait_for(Some("1"), minute),
        None,
        "it waited for so long"
    );
    let failed = Outcome::Failed {
        error: "404".into(),
        response: None,
    };
    assert_eq!(task.settle(lease.token, &failed, now), Ok(TaskState::Failed));
    assert_eq!((task.attempt, task.handed_on_at), (1, Some(at(0))));
    let request = CapturedRequest::new(Method::GET, Uri::from_static("/a/b"), HeaderMap::new(), Bytes::new());
    assert_eq!(task.rerun(&request, now), Rerun::Enqueued { generation: 2 });
    let _ = task.claim(worker(), LEASE, now).unwrap();
    assert!(
        task.version_to_wait_for(Some("1"), minute).is_some(),
        "each generation waits anew"
    );
}

#[test]
fn a_task_that_waits_for_its_version_is_stopped_and_grows_old_as_others() {
    let mut stopped = record_of("2");
    let lease = stopped.claim(worker(), LEASE, at(0)).unwrap();
    assert_eq!(stopped.stop(at(1)), Stop::Stopping);
    assert_eq!(stopped.settle(lease.token, &handed_on(), at(2)), Ok(TaskState::Stopped));

    let mut old = record_of("2");
    let nearly = Timestamp::from_millis(old.expires_at.as_millis() - 1);
    let lease = old.claim(worker(), LEASE, nearly).unwrap();
    let _ = old.settle(lease.token, &handed_on(), nearly);
    assert_eq!(old.rescue(old.expires_at), Rescue::Expired);
}

#[test]
fn without_a_version_there_is_none_to_wait_for() {
    let task = record();
    for here in [Some("1"), None] {
        assert_eq!(task.version_to_wait_for(here, Duration::MAX), None);
    }
    assert_eq!(
        record_of("2").version_to_wait_for(Some("1"), Duration::ZERO),
        None,
        "that is: not at all"
    );
}

#[test]
fn a_release_charges_nothing() {
    let mut task = record();
    let lease = task.claim(worker(), LEASE, at(0)).unwrap();
    assert_eq!((task.attempt, task.crashes), (1, 1));
    assert_eq!(
        task.settle(lease.token, &Outcome::Released, at(1)),
        Ok(TaskState::Enqueued)
    );
    assert_eq!((task.attempt, task.crashes, task.retries), (0, 0, 0));
    assert!(!task.is_suspect());
    assert!(task.claim(worker(), LEASE, at(2)).unwrap().token > lease.token);
}

#[test]
fn whatever_a_stopping_task_reports_it_ends_as_stopped() {
    let mut task = record();
    let lease = task.claim(worker(), LEASE, at(0)).unwrap();
    assert_eq!(task.stop(at(1)), Stop::Stopping);
    assert_eq!(task.stop(at(2)), Stop::Stopping);
    assert_eq!(task.settle(lease.token, &success(), at(3)), Ok(TaskState::Stopped));
    assert_eq!(task.stop(at(4)), Stop::AlreadyEnded(TaskState::Stopped));
    assert_eq!(task.status_code, None);
    assert!(task.deliveries.is_empty(), "nobody asked to hear of a stop");
}

#[test]
fn an_old_token_changes_nothing() {
    let mut task = record();
    let old = task.claim(worker(), LEASE, at(0)).unwrap();
    assert_eq!(task.rescue(at(30_000)), Rescue::Requeued);
    let new = task.claim(worker(), LEASE, at(30_001)).unwrap();
    let before = task.clone();
    assert_eq!(task.settle(old.token, &success(), at(30_002)), Err(Fenced));
    assert_eq!(task.renew(old.token, LEASE, at(30_002)), Renewal::Lost);
    assert_eq!(task, before);
    assert_eq!(task.settle(new.token, &success(), at(30_003)), Ok(TaskState::Succeeded));
    assert_eq!(task.settle(new.token, &success(), at(30_004)), Err(Fenced));
}

#[test]
fn a_long_history_keeps_its_first_event_and_the_latest() {
    let mut task = record();
    for _ in 0..History::KEPT {
        let lease = task.claim(worker(), LEASE, at(0)).unwrap();
        task.settle(lease.token, &Outcome::Released, at(0)).unwrap();
    }
    assert_eq!(task.history.len(), History::KEPT);
    assert_eq!(task.history[0].id, 1);
    assert_eq!(task.history.last().unwrap().id, 1 + 2 * History::KEPT as u32);
}
