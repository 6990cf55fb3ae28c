//! Records of a newer build, as this build reads and writes them.

use super::*;
use crate::task::lifecycle::{Rerun, Rescue};

/// A field with this tag, as a newer build would write it.
fn field(tag: u64, bytes: &[u8]) -> Vec<u8> {
    let mut out = Writer::new(0, 0, 0);
    out.number(tag);
    out.inner(|out| out.put(bytes));
    out.finish().split_off(2)
}

/// The bytes before the fields of a record, and each field with its tag.
fn fields(bytes: &[u8]) -> (Vec<u8>, Vec<(u64, Vec<u8>)>) {
    let mut input = Reader::new(bytes, KIND_RECORD, FORMAT).unwrap();
    let _ = input.array::<17>();
    for _ in 0..12 {
        let _ = input.number();
    }
    let _ = (input.text(), input.target());
    let fixed = bytes[..bytes.len() - input.rest().len()].to_vec();
    let mut fields = Vec::new();
    loop {
        let begin = input.rest();
        match input.number().unwrap() {
            tag::END => return (fixed, fields),
            tag => {
                let _ = input.inner().unwrap();
                fields.push((tag, begin[..begin.len() - input.rest().len()].to_vec()));
            }
        }
    }
}

/// Fields of a newer build: with tags below, between and above those of this build, and with lengths that take one byte
/// or more.
fn unknown() -> Vec<(u64, Vec<u8>)> {
    [
        (1, 0),
        (9, 5),
        (19, 200),
        (29, 1),
        (45, 3),
        (52, 20_000),
        (127, 1),
        (128, 2),
        (u64::MAX, 130),
    ]
    .map(|(tag, length)| (tag, field(tag, &vec![tag as u8; length])))
    .into()
}

fn newer(record: &TaskRecord) -> TaskRecord {
    let (mut bytes, mut all) = fields(&record.encode());
    all.extend(unknown());
    all.sort();
    bytes.extend(all.into_iter().flat_map(|(_, field)| field));
    bytes.push(0);
    let read = TaskRecord::decode(&bytes).unwrap();
    assert_eq!(read.encode(), bytes, "it is written as it was read");
    read
}

/// Checks that the record has the unknown fields of the newer build, byte for byte, in the order of their tags.
fn keeps_all(record: &TaskRecord) {
    let bytes = record.encode();
    let (_, all) = fields(&bytes);
    assert!(all.is_sorted(), "in the order of their tags");
    let known = unknown();
    let kept: Vec<_> = all.into_iter().filter(|field| known.contains(field)).collect();
    assert_eq!(kept, known);
    assert_eq!(TaskRecord::decode(&bytes).as_ref(), Ok(record));
}

#[test]
fn an_older_build_takes_a_task_through_its_life_and_loses_nothing() {
    let worker = WorkerId::new("old", 1);
    let now = at(1_700_000_000_000);
    let task = NewTask {
        crash_allowance: 9,
        subscriptions: full().subscriptions.clone(),
        ..new_task()
    };
    let mut record = newer(&TaskRecord::accepted(&task, now));
    keeps_all(&record);
    let retry = Outcome::Retry {
        after: Duration::ZERO,
        error: "again".into(),
    };
    let output = CapturedResponse::new(StatusCode::OK, HeaderMap::new(), Bytes::from_static(b"done"));
    let succeeded = Outcome::Succeeded {
        response: Arc::new(output),
    };
    let handed_on = Outcome::HandedOn { error: "404".into() };
    for outcome in [Outcome::Released, retry, handed_on] {
        let lease = record.claim(worker.clone(), LEASE, now).unwrap();
        let _ = record.renew(lease.token, LEASE, now);
        keeps_all(&record);
        record.settle(lease.token, &outcome, now).unwrap();
        keeps_all(&record);
    }
    record.claim(worker.clone(), LEASE, now).unwrap();
    assert_eq!(record.crashed(now), Rescue::Requeued);
    let lease = record.claim(worker.clone(), LEASE, now).unwrap();
    record.settle(lease.token, &succeeded, now).unwrap();
    let claim = record.life.deliveries[0].claim(LEASE, now).unwrap();
    let tried = record.life.deliveries[0].settle(claim.token, &DeliveryOutcome::Delivered, DeliveryTry::new(now), now);
    assert!(tried.is_ok());
    keeps_all(&record);
    let edited = CapturedRequest::new(
        Method::PUT,
        Uri::from_static("/b"),
        HeaderMap::new(),
        Bytes::from_static(b"b"),
    );
    assert_eq!(record.rerun(&edited, now), Rerun::Enqueued { generation: 2 });
    keeps_all(&record);
    let _ = record.stop(now);
    keeps_all(&record);
    assert_eq!(record.target, "/b", "what was accepted changed too");
}

#[test]
fn fields_come_once_and_in_their_order() {
    let (fixed, all) = fields(&full().encode());
    let mut swapped = all.clone();
    swapped.swap(0, 1);
    let twice = [&all[..1], &all].concat();
    for wrong in [swapped, twice] {
        let fields = wrong.into_iter().flat_map(|(_, field)| field);
        let bytes: Vec<_> = fixed.iter().copied().chain(fields).chain([0]).collect();
        assert!(matches!(TaskRecord::decode(&bytes), Err(DecodeError::Malformed(_))));
    }
}
