mod bounds;
mod newer;

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode, Uri};
use proptest::prelude::*;

use super::*;
use crate::{
    task::{
        CapturedRequest, CapturedResponse, Conditions, DeliveryTry, Destination, LogLine, NewTask, Progress,
        RequestTarget, Subscription, TaskState, WorkerId, delivery::DeliveryOutcome, lifecycle::Outcome,
    },
    time::Timestamp,
};

const LEASE: Duration = Duration::from_secs(30);
const FORMAT: u8 = TaskRecord::FORMAT;

fn at(millis: u64) -> Timestamp {
    Timestamp::from_millis(millis)
}

fn new_task() -> NewTask {
    let input = CapturedRequest::new(Method::GET, Uri::from_static("/a?b"), HeaderMap::new(), Bytes::new());
    NewTask::new(RequestId::from_bytes([7; 16]), Arc::new(input))
}

/// A record with something in every field.
fn full() -> TaskRecord {
    let task = NewTask {
        name: Some(TaskName::new("job-1").unwrap()),
        tenant: Some(Tenant::new("änna")),
        caller: Some(Caller::new("änna's clerk").unwrap()),
        function: Some("resize".into()),
        labels: Labels::from_iter([("team", "a"), ("cost", "")]),
        max_age: Duration::MAX,
        subscriptions: [Destination::LOCAL, Destination::new("there")]
            .map(|destination| Subscription {
                destination,
                on: Conditions::ALL,
            })
            .into(),
        callback: Some("https://example.org/hook?a=b".into()),
        version: Some("1.2.3".into()),
        ..new_task()
    };
    let mut record = TaskRecord::accepted(&task, at(1_700_000_000_000));
    let worker = WorkerId::new("w", u64::MAX);
    let lease = record.claim(worker.clone(), LEASE, at(1_700_000_000_001)).unwrap();
    let plain = HeaderMap::from_iter([(http::header::CONTENT_TYPE, "text/plain".parse().unwrap())]);
    let output = CapturedResponse::new(StatusCode::OK, plain, Bytes::from_static(b"done"));
    let failed = Outcome::Failed {
        error: "it broke".into(),
        response: Some(Arc::new(output)),
    };
    record.settle(lease.token, &failed, at(1_700_000_000_002)).unwrap();
    let delivery = &mut record.life.deliveries[0];
    let claim = delivery.claim(LEASE, at(1_700_000_000_003)).unwrap();
    let tried = DeliveryTry {
        status_code: Some(503),
        text: Some("busy".into()),
        ..DeliveryTry::new(at(1_700_000_000_004))
    };
    let again = DeliveryOutcome::Retry(LEASE);
    delivery
        .settle(claim.token, &again, tried, at(1_700_000_000_004))
        .unwrap();
    record.life.lease_until = Some(at(1));
    record.life.progress = Some(Progress::new(0.5, "half"));
    record.life.deferrals = 300;
    record.life.handed_on_at = Some(at(1_700_000_000_005));
    record
}

/// The record with a change to the part that was set when it was accepted.
fn with(record: TaskRecord, change: impl FnOnce(&mut Accepted)) -> TaskRecord {
    let mut record = record;
    change(Arc::make_mut(&mut record.life.accepted));
    record
}

/// The record with a change to its life.
fn lived(record: TaskRecord, change: impl FnOnce(&mut Life)) -> TaskRecord {
    let mut record = record;
    change(&mut record.life);
    record
}

#[test]
fn what_was_written_is_read_back() {
    let mut told = full();
    told.life.deliveries[0].due_at = at(5);
    told.life.deliveries[0].claim(LEASE, at(5)).unwrap();
    let mut again = full();
    let edited = CapturedRequest::new(
        Method::GET,
        Uri::from_static("/b"),
        HeaderMap::new(),
        Bytes::from_static(b"b"),
    );
    let _ = again.rerun(&edited, at(1_800_000_000_000));
    let asterisk = Uri::builder().scheme("https").authority("h:1").path_and_query("*");
    let asterisk = RequestTarget::of(&asterisk.build().unwrap());
    let long = RequestTarget::of(&format!("http://h/{}", "a".repeat(3000)).parse().unwrap());
    for record in [
        full(),
        with(full(), |accepted| accepted.callback = None),
        with(full(), |accepted| accepted.caller = None),
        with(full(), |accepted| accepted.version = None),
        with(full(), |accepted| accepted.target = asterisk),
        with(full(), |accepted| accepted.target = long),
        with(full(), |accepted| accepted.subscriptions = Subscriptions::default()),
        told,
        again,
        lived(full(), |life| life.deferrals = 0),
        lived(full(), |life| life.handed_on_at = None),
        lived(full(), |life| life.error = None),
        TaskRecord::accepted(&new_task(), at(0)),
    ] {
        assert_eq!(TaskRecord::decode(&record.encode()), Ok(record));
    }
    let line = LogLine {
        seq: u64::MAX,
        attempt: 3,
        fields: vec![("a".into(), "b".into())],
        ..LogLine::new(at(9), "INFO", "here", "said")
    };
    assert_eq!(LogLine::decode(&line.encode()), Ok(line));
}

/// The files of users have these bytes. They never change; an addition gets a tag of its own.
#[test]
fn the_written_form_does_not_change() {
    let mut record = TaskRecord::accepted(&new_task(), at(300));
    record.claim(WorkerId::new("w", 2), LEASE, at(301)).unwrap();
    let written = record.encode();
    let expected = [
        &b"\x01r"[..],
        &[7; 16],
        b"\x01",
        b"\x01\x01\x00\x01\x01\x03",
        b"\x01",
        b"\xac\x02\x00\x80\xb8\x99\x29",
        b"\x80\xa3\x05\x00",
        b"\x03GET\x00\x04/a?b",
        b"\x1e\x09\0\0\0\0\0\0\0\x02w",
        b"\x1f\x03\xb1\xea\x01",
        b"\x20\x01\x01",
        b"\x32\x0b\x02\x01\x00\x00\x00\x00\x02\x01\x01\x01\x00",
        b"\x00",
    ]
    .concat();
    assert_eq!(written, expected);
    let line = LogLine::new(at(300), "INFO", "t", "m");
    assert_eq!(line.encode(), b"\x01l\x00\xac\x02\x00\x04INFO\x01t\x01m\x00");
}

/// As above, for a record with something in every field: length and checksum. Change them only with the format. The
/// first record lacks the fields that were added later, and its bytes are still those of before.
#[test]
fn the_written_form_of_every_field_does_not_change() {
    let first = with(full(), |accepted| accepted.version = None);
    let first = lived(first, |life| life.handed_on_at = None);
    let written = [first, full()].map(|record| record.encode());
    let sums = written.map(|bytes| {
        let add = |sum: u64, byte: &u8| sum.wrapping_mul(0x0100_0000_01b3) ^ u64::from(*byte);
        (bytes.len(), bytes.iter().fold(0, add))
    });
    assert_eq!(
        sums,
        [(304, 17_649_999_644_391_085_909), (314, 766_091_936_975_488_353)]
    );
}

#[test]
fn an_ordinary_record_is_small() {
    let mut record = TaskRecord::accepted(&new_task(), at(1_700_000_000_000));
    let worker = WorkerId::new("host", 2);
    let lease = record.claim(worker.clone(), LEASE, at(1_700_000_000_000)).unwrap();
    record
        .settle(lease.token, &Outcome::Stopped, at(1_700_000_000_000))
        .unwrap();
    let length = record.encode().len();
    assert!(length < 200, "{length} bytes");
}

#[test]
fn a_newer_format_differs_from_damage() {
    let mut bytes = full().encode();
    bytes[0] = FORMAT + 1;
    assert_eq!(TaskRecord::decode(&bytes), Err(DecodeError::Newer(FORMAT + 1)));
    let line = LogLine::new(at(1), "INFO", "t", "m").encode();
    assert!(matches!(TaskRecord::decode(&line), Err(DecodeError::Malformed(_))));
}

#[test]
fn every_cut_and_every_flip_is_survived() {
    let bytes = full().encode();
    for end in 0..bytes.len() {
        assert!(TaskRecord::decode(&bytes[..end]).is_err(), "cut at {end}");
    }
    for at in 0..bytes.len() {
        for bit in 0..8 {
            let mut flipped = bytes.clone();
            flipped[at] ^= 1 << bit;
            let _ = TaskRecord::decode(&flipped);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_are_answered(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = LogLine::decode(&bytes);
        if let Ok(record) = TaskRecord::decode(&bytes) {
            prop_assert_eq!(TaskRecord::decode(&record.encode()), Ok(record));
        }
        let headed = [&[FORMAT, KIND_RECORD][..], &bytes].concat();
        if let Ok(record) = TaskRecord::decode(&headed) {
            prop_assert_eq!(TaskRecord::decode(&record.encode()), Ok(record));
        }
    }

    #[test]
    fn whatever_numbers_and_texts_a_record_holds_come_back(
        counts in any::<[u32; 7]>(),
        times in any::<[u64; 6]>(),
        token in any::<u64>(),
        age in any::<Duration>(),
        texts in any::<[Option<String>; 9]>(),
        target in "[ -~\\u{80}-\\u{ff}]{0,50}",
        size in any::<u64>(),
        state in 0..TaskState::ALL.len(),
        fraction in 0.0_f32..=1.0,
    ) {
        let mut record = full();
        let accepted = Arc::make_mut(&mut record.life.accepted);
        [record.life.generation, record.life.attempt, record.life.retries, record.life.crashes, accepted.max_attempts,
            accepted.crash_allowance, record.life.deferrals] = counts;
        let [created_at, run_at, expires_at, started_at, ended_at, handed_on_at] = times.map(at);
        (record.life.created_at, record.life.run_at, record.life.expires_at) = (created_at, run_at, expires_at);
        (record.life.started_at, record.life.ended_at) = (Some(started_at), Some(ended_at));
        record.life.handed_on_at = Some(handed_on_at);
        record.life.token = FenceToken::new(token);
        accepted.max_age = age;
        record.life.state = TaskState::ALL[state];
        let [tenant, function, error, detail, caller, kind, encoding, other, version] = texts;
        accepted.target = RequestTarget::stored([&target, &target, &target], size > 7).unwrap();
        accepted.request = Content {
            size,
            content_type: kind.map(Arc::from),
            content_encoding: encoding.map(Arc::from),
        };
        record.life.response = Some(accepted.request.clone());
        record.life.deliveries[0].error = other.map(Arc::from);
        record.life.deliveries[0].is_of_before = size > 7;
        accepted.caller = caller.map(|caller| Caller::stored(&caller));
        accepted.tenant = tenant.map(Tenant::new);
        accepted.function = function.map(Arc::from);
        accepted.version = version.map(Arc::from);
        record.life.error = error.clone().map(Arc::from);
        record.life.history[1].detail = detail.map(Arc::from);
        record.life.deliveries[1].error = error.map(Arc::from);
        record.life.progress = Some(Progress { fraction, message: "".into() });
        prop_assert_eq!(TaskRecord::decode(&record.encode()), Ok(record));
    }
}
