//! What a store keeps, read back: it may be anything, if a disk or an older build had a hand in it.

use bytes::Bytes;

use crate::task::{CapturedRequest, CapturedResponse, LogLine, RequestId, TaskRecord, envelope::Payload};

/// Bytes as a head and a body: the first says how long the body is.
fn payload(data: &[u8]) -> Payload {
    let body = data.first().map_or(0, |length| data.len().min(usize::from(*length)));
    let mut head = Bytes::copy_from_slice(data.get(1..).unwrap_or_default());
    let body = head.split_off(head.len() - body.min(head.len()));
    Payload::new(head, body)
}

/// What is read can be written, and reads the same again.
pub(super) fn request(data: &[u8]) {
    if let Ok(read) = CapturedRequest::from_payload(payload(data)) {
        let again = CapturedRequest::from_payload(read.to_payload()).expect("what was just written can be read");
        assert_eq!(again, read);
        let _ = read.digest();
    }
}

pub(super) fn response(data: &[u8]) {
    if let Ok(read) = CapturedResponse::from_payload(payload(data)) {
        let again = CapturedResponse::from_payload(read.to_payload()).expect("what was just written can be read");
        assert_eq!(again, read);
    }
}

pub(super) fn record(data: &[u8]) {
    if let Ok(read) = TaskRecord::decode(data) {
        let written = read.encode();
        let again = TaskRecord::decode(&written).expect("what was just written can be read");
        // As bytes: a number that is none is not equal to itself.
        assert_eq!(again.encode(), written);
        let _ = (read.function(), read.task_id(), read.is_suspect());
    }
}

pub(super) fn log_line(data: &[u8]) {
    if let Ok(read) = LogLine::decode(data) {
        let again = LogLine::decode(&read.encode()).expect("what was just written can be read");
        assert_eq!(again, read);
    }
    // An id is any sixteen bytes.
    if let Some((id, _)) = data.split_first_chunk() {
        let id = RequestId::from_bytes(*id);
        assert_eq!(id.to_string().parse(), Ok(id));
    }
}
