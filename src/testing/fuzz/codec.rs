//! Decoding what a store keeps: a disk or an older build may have left any bytes.

use bytes::Bytes;

use crate::task::{CapturedRequest, CapturedResponse, LogLine, RequestId, TaskRecord, envelope::Payload};

/// Splits the bytes into a head and a body. The first byte is the length of the body.
fn payload(data: &[u8]) -> Payload {
    let body = data.first().map_or(0, |length| data.len().min(usize::from(*length)));
    let mut head = Bytes::copy_from_slice(data.get(1..).unwrap_or_default());
    let body = head.split_off(head.len() - body.min(head.len()));
    Payload::new(head, body)
}

/// A decoded request can be encoded, and decodes to the same again.
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
        // Compared as bytes, because NaN is not equal to itself.
        assert_eq!(again.encode(), written);
        let _ = (read.function(), read.task_id(), read.is_suspect());
    }
}

pub(super) fn log_line(data: &[u8]) {
    if let Ok(read) = LogLine::decode(data) {
        let again = LogLine::decode(&read.encode()).expect("what was just written can be read");
        assert_eq!(again, read);
    }
    // Any sixteen bytes are an id.
    if let Some((id, _)) = data.split_first_chunk() {
        let id = RequestId::from_bytes(*id);
        assert_eq!(id.to_string().parse(), Ok(id));
    }
}
