use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use proptest::prelude::*;

use super::*;
use crate::task::{CapturedRequest, CapturedResponse, NewTask, delivery::DeliveryOutcome, lifecycle::Outcome};

const LEASE: Duration = Duration::from_secs(30);

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
        ..new_task()
    };
    let mut record = TaskRecord::accepted(&task, at(1_700_000_000_000));
    let worker = WorkerId::new("w", u64::MAX);
    let lease = record.claim(worker.clone(), LEASE, at(1_700_000_000_001)).unwrap();
    let output = CapturedResponse::new(StatusCode::OK, HeaderMap::new(), Bytes::new());
    let failed = Outcome::Failed {
        error: "it broke".into(),
        output: Some(Arc::new(output)),
    };
    record.settle(lease.token, &failed, at(1_700_000_000_002)).unwrap();
    let delivery = &mut record.deliveries[0];
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
    record.lease_until = Some(at(1));
    record.progress = Some(Progress::new(0.5, "half"));
    record.deferrals = 300;
    record
}

#[test]
fn what_was_written_is_read_back() {
    let without = TaskRecord {
        callback: None,
        ..full()
    };
    let nobodys = TaskRecord { caller: None, ..full() };
    let mut told = full();
    told.deliveries[0].due_at = at(5);
    told.deliveries[0].claim(LEASE, at(5)).unwrap();
    let deferred = TaskRecord {
        deferrals: 1,
        ..without.clone()
    };
    let undeferred = TaskRecord { deferrals: 0, ..full() };
    for record in [
        full(),
        without,
        nobodys,
        told,
        deferred,
        undeferred,
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

/// What is in the files of users. A change of either needs a new version, and a reader of this one.
#[test]
fn the_written_form_of_version_1_does_not_change() {
    let mut record = TaskRecord::accepted(&new_task(), at(300));
    record.claim(WorkerId::new("w", 2), LEASE, at(301)).unwrap();
    let written = record.encode();
    let expected = [
        &b"\x01r\x38"[..],
        &[7; 16],
        b"\x01",
        b"\x01\x01\x00\x01\x01\x03",
        b"\x01",
        b"\xac\x02\xac\x02\xac\xba\x99\x29",
        b"\x80\xa3\x05\x00",
        b"\x03GET\x04/a?b",
        b"\x01w\0\0\0\0\0\0\0\x02",
        b"\xdd\xec\x01\xad\x02",
        b"\x00",
        b"\x02\x01\x00\xac\x02\x00\x00\x02\x01\xad\x02\x01\x00",
        b"\x00\x00",
    ]
    .concat();
    assert_eq!(written, expected);
    let line = LogLine::new(at(300), "INFO", "t", "m");
    assert_eq!(line.encode(), b"\x01l\x00\xac\x02\x00\x04INFO\x01t\x01m\x00");
}

/// The same, of what a path alone does not say.
#[test]
fn the_written_form_of_a_target_in_parts_does_not_change() {
    let mut record = TaskRecord::accepted(&new_task(), at(300));
    let one_text = record.encode();
    record.uri = Uri::from_static("https://h:1/a?b");
    let path = one_text.windows(5).position(|window| window == b"\x04/a?b").unwrap();
    let (before, after) = one_text.split_at(path);
    let in_parts = [before, b"\x05https\x03h:1", after].concat();
    assert_eq!(record.encode(), [&[3], &in_parts[1..]].concat());

    let older = [before, b"\x0fhttps://h:1", &after[1..]].concat();
    assert_eq!(TaskRecord::decode(&older), Ok(record.clone()));
    record.callback = Some("https://example.org".into());
    record.uri = Uri::builder()
        .scheme("https")
        .authority("h")
        .path_and_query("*")
        .build()
        .unwrap();
    assert_eq!(TaskRecord::decode(&record.encode()), Ok(record));
}

/// Builds of before leave it to newer ones, and know every other record.
#[test]
fn a_record_is_of_the_oldest_version_that_says_all_of_it() {
    let called_back = TaskRecord {
        deferrals: 0,
        caller: None,
        ..full()
    };
    let neither = TaskRecord {
        callback: None,
        ..called_back.clone()
    };
    let deferred = TaskRecord {
        deferrals: 1,
        ..neither.clone()
    };
    let asked = TaskRecord {
        caller: full().caller,
        ..neither.clone()
    };
    let absolute = TaskRecord {
        uri: Uri::from_static("http://h/"),
        ..neither.clone()
    };
    for (version, record) in [
        (3, full()),
        (3, deferred),
        (3, asked),
        (3, absolute),
        (2, called_back),
        (1, neither),
    ] {
        let bytes = record.encode();
        assert_eq!(bytes[0], version);
        for older in 1..version {
            let mut bytes = bytes.clone();
            bytes[0] = older;
            assert!(TaskRecord::decode(&bytes).is_err(), "version {version} as {older}");
        }
    }
}

/// What builds wrote that knew neither callbacks nor callers, and then callbacks and no callers.
#[test]
fn records_of_older_builds_are_read() {
    let record = TaskRecord::accepted(&new_task(), at(300));
    let mut written = [
        &b"\x01r\x00"[..],
        &[7; 16],
        b"\x00\x01\x00\x00\x00\x01\x03\x00",
        b"\xac\x02\xac\x02\xac\xba\x99\x29",
        b"\x80\xa3\x05\x00",
        b"\x03GET\x04/a?b",
    ]
    .concat();
    let lists = b"\x00\x01\x01\x00\xac\x02\x00\x00\x00\x00";
    let of_version_1 = [&written, &lists[..]].concat();
    assert_eq!(TaskRecord::decode(&of_version_1), Ok(record.clone()));
    // The bit of the callback is the third of the second group of seven.
    written.splice(..3, *b"\x02r\x80\x08");
    let of_version_2 = [&written, &b"\x0ehttps://h/hook"[..], lists].concat();
    let told = TaskRecord {
        callback: Some("https://h/hook".into()),
        ..record
    };
    assert_eq!(TaskRecord::decode(&of_version_2), Ok(told));
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
fn a_newer_version_is_told_from_damage() {
    let mut bytes = full().encode();
    bytes[0] = VERSION + 1;
    assert_eq!(TaskRecord::decode(&bytes), Err(DecodeError::Newer(VERSION + 1)));
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
        let headed = [&[VERSION, KIND_RECORD][..], &bytes].concat();
        if let Ok(record) = TaskRecord::decode(&headed) {
            prop_assert_eq!(TaskRecord::decode(&record.encode()), Ok(record));
        }
    }

    #[test]
    fn whatever_numbers_and_texts_a_record_holds_come_back(
        counts in any::<[u32; 7]>(),
        times in any::<[u64; 5]>(),
        token in any::<u64>(),
        age in any::<Duration>(),
        texts in any::<[Option<String>; 5]>(),
        state in 0..TaskState::ALL.len(),
        fraction in 0.0_f32..=1.0,
    ) {
        let mut record = full();
        [record.generation, record.attempt, record.retries, record.crashes, record.max_attempts,
            record.crash_allowance, record.deferrals] = counts;
        let [created_at, run_at, expires_at, started_at, ended_at] = times.map(at);
        (record.created_at, record.run_at, record.expires_at) = (created_at, run_at, expires_at);
        (record.started_at, record.ended_at) = (Some(started_at), Some(ended_at));
        record.token = FenceToken::new(token);
        record.max_age = age;
        record.state = TaskState::ALL[state];
        let [tenant, function, error, detail, caller] = texts;
        record.caller = caller.map(|caller| Caller::stored(&caller));
        record.tenant = tenant.map(Tenant::new);
        record.function = function.map(Arc::from);
        record.error = error.clone().map(Arc::from);
        record.history[1].detail = detail.map(Arc::from);
        record.deliveries[1].error = error.map(Arc::from);
        record.progress = Some(Progress { fraction, message: "".into() });
        prop_assert_eq!(TaskRecord::decode(&record.encode()), Ok(record));
    }
}
