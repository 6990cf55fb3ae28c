//! The longest records.

use super::*;
use crate::task::{
    Delivery, DeliveryStatus, History, HistoryEvent, Labels, RequestId,
    lifecycle::{ERROR_BYTES, Rerun, UNDELIVERED},
};

/// The end of the year 9999. A time that late takes as many bytes as any realistic one.
const LATE: u64 = 253_402_300_799_000;

fn long(bytes: usize) -> Arc<str> {
    "ü".repeat(bytes / 2).into()
}

/// A task in which everything that clients and applications choose is as long as it may be, or longer where it is cut.
fn hostile(path: usize) -> NewTask {
    let headers = HeaderMap::from_iter([
        (
            http::header::CONTENT_TYPE,
            "t".repeat(Content::TYPE_BYTES).parse().unwrap(),
        ),
        (
            http::header::CONTENT_ENCODING,
            "e".repeat(Content::ENCODING_BYTES).parse().unwrap(),
        ),
    ]);
    let uri = format!("https://{}/{}", "h".repeat(300), "p".repeat(path))
        .parse()
        .unwrap();
    let method = Method::from_bytes(&[b'M'; 5000]).unwrap();
    let input = CapturedRequest::new(method, uri, headers, Bytes::from_static(b"body"));
    let names = (0..Subscriptions::MOST).map(|number| {
        let name = format!("{number}{}", "n".repeat(Destination::LONGEST - 1));
        Subscription {
            destination: Destination::new(name),
            on: Conditions::ALL,
        }
    });
    let value = "v".repeat(Labels::LONGEST - 3);
    let task = NewTask {
        name: Some(TaskName::new(&"n".repeat(TaskName::LONGEST)).unwrap()),
        digest: Some(RequestDigest::from_bytes([7; 32])),
        tenant: Some(Tenant::new(long(Tenant::LONGEST))),
        caller: Some(Caller::new(&"c".repeat(Caller::LONGEST)).unwrap()),
        function: Some(long(5000)),
        labels: Labels::new([("l", value)]).unwrap(),
        max_age: Duration::MAX,
        max_attempts: u32::MAX,
        crash_allowance: u32::MAX,
        subscriptions: names.collect(),
        callback: Some("u".repeat(Accepted::CALLBACK_BYTES).into()),
        version: Some(long(5000)),
        ..NewTask::new(RequestId::from_bytes([7; 16]), Arc::new(input))
    };
    assert_eq!(task.check(), Ok(()));
    task
}

/// One step in the life of a task, with the longest possible texts.
fn step(record: &mut TaskRecord, number: u8, text: &Arc<str>, now: Timestamp) {
    let worker = WorkerId::new(text.clone(), u64::MAX);
    let error = text.clone();
    let output = CapturedResponse::new(
        StatusCode::OK,
        HeaderMap::from_iter([(http::header::CONTENT_TYPE, "t".repeat(128).parse().unwrap())]),
        Bytes::from_static(b"body"),
    );
    let outcome = match number % 9 {
        8 => Outcome::HandedOn { error },
        0 => Outcome::Retry { after: LEASE, error },
        1 => Outcome::Deferred { after: LEASE, error },
        2 => Outcome::Released,
        3 => {
            let _ = record.claim(worker, LEASE, now);
            let _ = record.crashed(now);
            return;
        }
        4 | 5 => {
            for place in 0..record.deliveries.len() {
                let delivery = &mut record.life.deliveries[place];
                delivery.due_at = now;
                let Some(claim) = delivery.claim(LEASE, now) else {
                    continue;
                };
                let tried = DeliveryTry {
                    status_code: Some(u16::MAX),
                    text: Some(text.clone()),
                    ..DeliveryTry::new(now)
                };
                let outcome = match number % 9 {
                    4 => DeliveryOutcome::Retry(LEASE),
                    _ if place % 2 == 0 => DeliveryOutcome::Delivered,
                    _ => DeliveryOutcome::Failed,
                };
                delivery.settle(claim.token, &outcome, tried, now).unwrap();
            }
            return;
        }
        6 => {
            let input = hostile(2000 + usize::from(number)).request;
            let pending = record
                .deliveries
                .iter()
                .filter(|it| it.status == DeliveryStatus::Pending)
                .count();
            match record.rerun(&input, now) {
                Rerun::Undelivered => assert!(pending > UNDELIVERED),
                Rerun::Enqueued { .. } => assert!(pending <= UNDELIVERED && record.deliveries.len() == pending),
                Rerun::NotEnded(state) => assert!(!state.is_terminal()),
            }
            return;
        }
        _ => Outcome::Failed {
            error,
            response: Some(Arc::new(output)),
        },
    };
    if let Ok(lease) = record.claim(worker, LEASE, now) {
        record.life.progress = Some(Progress::new(0.3, text));
        record.settle(lease.token, &outcome, now).unwrap();
        record.life.progress = Some(Progress::new(0.3, text));
    }
}

fn is_bounded(record: &TaskRecord) {
    let written = record.encode();
    assert!(written.len() <= TaskRecord::LONGEST_ENCODED, "{} bytes", written.len());
    assert_eq!(TaskRecord::decode(&written).as_ref(), Ok(record));
    assert!(record.history.len() <= History::KEPT);
    let details = record.history.iter().filter_map(|event| event.detail.as_ref());
    assert!(
        details
            .into_iter()
            .all(|detail| detail.len() <= HistoryEvent::DETAIL_BYTES)
    );
    assert!(record.error.as_ref().is_none_or(|error| error.len() <= ERROR_BYTES));
    let said = record.progress.as_ref().map_or(0, |progress| progress.message.len());
    assert!(said <= Progress::MESSAGE_BYTES);
    let worker = record.worker.as_ref().map_or(0, |worker| worker.name().len());
    assert!(worker <= WorkerId::NAME_BYTES);
    assert!(record.function().len() <= Accepted::FUNCTION_BYTES);
    assert!(
        record
            .version
            .as_ref()
            .is_some_and(|version| version.len() <= Accepted::VERSION_BYTES)
    );
    assert!(record.method.as_str().len() <= Accepted::METHOD_BYTES);
    assert!(record.target.is_cut());
    assert!(record.deliveries.len() <= Subscriptions::MOST + UNDELIVERED);
    for delivery in &record.deliveries {
        let is_of_before = delivery.generation != record.generation;
        assert_eq!(delivery.is_of_before, is_of_before);
        let kept = if is_of_before { 1 } else { Delivery::TRIES_KEPT };
        assert!(delivery.tries.len() <= kept);
        let texts = delivery.tries.iter().filter_map(|tried| tried.text.as_ref());
        assert!(texts.into_iter().all(|text| text.len() <= DeliveryTry::TEXT_BYTES));
        match is_of_before {
            true => assert!(
                delivery
                    .error
                    .as_ref()
                    .is_none_or(|error| error.len() <= Delivery::ERROR_BYTES)
            ),
            false => assert_eq!(delivery.error, record.error, "it is the record's"),
        }
    }
}

/// The worst case: eight completions of an earlier generation are pending, and eight of this one were tried five times
/// each.
#[test]
fn the_longest_record_there_can_be_is_bounded() {
    let text = long(9999);
    let mut record = TaskRecord::accepted(&hostile(60_000), at(LATE));
    let now = at(LATE + 30 * 365 * 86_400_000);
    record.life.generation = u32::MAX - 1;
    for _ in 0..20 {
        step(&mut record, 0, &text, now);
    }
    step(&mut record, 7, &text, now);
    for _ in 0..9 {
        step(&mut record, 4, &text, now);
    }
    step(&mut record, 6, &text, now);
    for _ in 0..20 {
        step(&mut record, 0, &text, now);
    }
    step(&mut record, 7, &text, now);
    for _ in 0..9 {
        step(&mut record, 4, &text, now);
    }
    (
        record.life.attempt,
        record.life.retries,
        record.life.crashes,
        record.life.deferrals,
    ) = (u32::MAX, u32::MAX, u32::MAX, u32::MAX);
    record.life.handed_on_at = Some(now);
    record.life.token = FenceToken::new(u64::MAX);
    record.life.lease_until = Some(now);
    for delivery in &mut record.life.deliveries {
        (delivery.token, delivery.tried) = (FenceToken::new(u64::MAX), u32::MAX);
    }
    for event in record.life.history.iter_mut() {
        (event.id, event.attempt) = (u32::MAX, u32::MAX);
        event.detail = Some(long(HistoryEvent::DETAIL_BYTES));
    }
    assert_eq!(record.deliveries.len(), Subscriptions::MOST + UNDELIVERED);
    is_bounded(&record);
    let written = record.encode().len();
    assert!(
        written > TaskRecord::LONGEST_ENCODED * 7 / 8,
        "{written}: the bound is not far off"
    );
}

#[test]
fn a_rerun_is_refused_while_too_many_completions_are_pending() {
    let text = long(10);
    let mut record = TaskRecord::accepted(&hostile(2000), at(0));
    for _ in 0..2 {
        step(&mut record, 7, &text, at(1));
        step(&mut record, 6, &text, at(1));
    }
    assert_eq!((record.generation, record.deliveries.len()), (2, 2 * UNDELIVERED));
    let input = hostile(2000).request;
    assert_eq!(record.rerun(&input, at(2)), Rerun::Undelivered);
    let numbers: Vec<_> = record.deliveries.iter().map(|it| record.delivery_number(it)).collect();
    assert_eq!(numbers, (1..=16).collect::<Vec<_>>(), "each has a number of its own");
    for place in 0..UNDELIVERED {
        record.life.deliveries[place].give_up(Duration::ZERO, at(3));
    }
    assert_eq!(record.rerun(&input, at(4)), Rerun::Enqueued { generation: 3 });
    let numbers: Vec<_> = record.deliveries.iter().map(|it| record.delivery_number(it)).collect();
    assert_eq!(
        numbers,
        (9..=16).collect::<Vec<_>>(),
        "and keeps it when others are forgotten"
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_life_makes_a_record_longer_than_the_bound(
        steps in prop::collection::vec((any::<u8>(), 0..6000_usize), 0..120),
        path in 1000..60_000_usize,
    ) {
        let mut record = TaskRecord::accepted(&hostile(path), at(LATE));
        for (number, (kind, length)) in steps.into_iter().enumerate() {
            step(&mut record, kind, &long(length), at(LATE + number as u64));
            is_bounded(&record);
        }
    }
}
