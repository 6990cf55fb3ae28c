//! [`TaskDocument`]: a task, as clients read it.

use std::fmt::Display;

use bytes::Bytes;
use serde::{
    Serialize, Serializer,
    ser::{SerializeMap, SerializeSeq},
};

use crate::{
    task::{HistoryEvent, Progress, RequestId, TaskRecord, Tenant, record::Labels},
    time::Timestamp,
    wire::{
        ApiLinks, Payload, RedactedUri,
        links::{Shown, TaskId, TaskLinks},
    },
};

/// A task, with the names that the cloud's API gives its members. Times are milliseconds since the Unix epoch; what is
/// not known yet is `null`; members that a task may be without altogether are left out.
///
/// Borrows everything: one is made and written for every 202.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct TaskDocument<'a> {
    task_id: TaskId<'a>,
    request_id: RequestId,
    function_name: &'a str,
    status: &'static str,
    method: &'a str,
    uri: Shown<RedactedUri<'a>>,
    started_time: Option<Timestamp>,
    end_time: Option<Timestamp>,
    duration_ms: Option<u64>,
    created_time: Timestamp,
    run_at_time: Timestamp,
    already_retried_times: u32,
    attempt: u32,
    max_attempts: u32,
    instance_id: Option<Shown<&'a dyn Display>>,
    qualifier: &'static str,
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    task_payload: Option<TaskPayload<'a>>,
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    return_payload: Option<ReturnPayload<'a>>,
    task_error_message: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    progress: Option<ProgressDocument<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    status_code: Option<u16>,
    destination_status: &'static str,
    events: Events<'a>,
    labels: LabelMap<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tenant: Option<&'a str>,
    generation: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    links: Option<TaskLinks<'a>>,
}

impl<'a> TaskDocument<'a> {
    /// How much of a payload stands in a document, in bytes. A page of a hundred tasks with both payloads stays near
    /// 3 MiB; the whole is at `/request` and `/result`.
    pub(crate) const PAYLOAD_BYTES: usize = 16 * 1024;

    /// The task, without payloads.
    pub(crate) fn new(task: &'a TaskRecord, links: &'a ApiLinks) -> Self {
        let ran_until = task.ended_at.zip(task.started_at);
        Self {
            task_id: TaskId::of(task),
            request_id: task.id,
            function_name: task.function(),
            status: task.state.as_str(),
            method: task.method.as_str(),
            uri: Shown(RedactedUri(&task.uri)),
            started_time: task.started_at,
            end_time: task.ended_at,
            duration_ms: ran_until.map(|(end, start)| end.as_millis().saturating_sub(start.as_millis())),
            created_time: task.created_at,
            run_at_time: task.run_at,
            already_retried_times: task.retries,
            attempt: task.attempt,
            max_attempts: task.max_attempts,
            instance_id: task.worker.as_ref().map(|worker| Shown(worker as _)),
            qualifier: "LATEST",
            task_payload: None,
            return_payload: None,
            task_error_message: task.error.as_deref(),
            progress: task.progress.as_ref().map(ProgressDocument::new),
            status_code: task.status_code,
            destination_status: task.destination_status().as_str(),
            events: Events(&task.history),
            labels: LabelMap(&task.labels),
            tenant: task.tenant.as_ref().map(Tenant::as_str),
            generation: task.generation,
            links: links.of(task),
        }
    }

    /// With the body of the request.
    pub(crate) fn with_task_payload(mut self, body: &'a [u8]) -> Self {
        let Payload {
            text,
            encoding,
            truncated,
        } = Payload::new(body, Self::PAYLOAD_BYTES);
        self.task_payload = Some(TaskPayload {
            text,
            encoding,
            truncated,
        });
        self
    }

    /// With the body of the response; `whole` is whether all of it was kept.
    pub(crate) fn with_return_payload(mut self, body: &'a [u8], whole: bool) -> Self {
        let Payload {
            text,
            encoding,
            truncated,
        } = Payload::new(body, Self::PAYLOAD_BYTES);
        self.return_payload = Some(ReturnPayload {
            text,
            encoding,
            truncated: truncated || !whole,
        });
        self
    }

    /// The document as it is sent.
    pub(crate) fn to_bytes(&self) -> Bytes {
        // A task just accepted, with links and a short URI, takes about 1,200.
        let mut out = Vec::with_capacity(1536);
        serde_json::to_writer(&mut out, self).expect("strings and numbers are written to memory");
        out.into()
    }
}

#[derive(Serialize)]
struct TaskPayload<'a> {
    #[serde(rename = "taskPayload")]
    text: std::borrow::Cow<'a, str>,
    #[serde(rename = "taskPayloadEncoding")]
    encoding: &'static str,
    #[serde(rename = "taskPayloadTruncated")]
    truncated: bool,
}

#[derive(Serialize)]
struct ReturnPayload<'a> {
    #[serde(rename = "returnPayload")]
    text: std::borrow::Cow<'a, str>,
    #[serde(rename = "returnPayloadEncoding")]
    encoding: &'static str,
    #[serde(rename = "returnPayloadTruncated")]
    truncated: bool,
}

#[derive(Serialize)]
struct ProgressDocument<'a> {
    fraction: f32,
    message: &'a str,
}

impl<'a> ProgressDocument<'a> {
    fn new(progress: &'a Progress) -> Self {
        Self {
            fraction: progress.fraction,
            message: &progress.message,
        }
    }
}

struct Events<'a>(&'a [HistoryEvent]);

impl Serialize for Events<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut events = serializer.serialize_seq(Some(self.0.len()))?;
        for event in self.0 {
            events.serialize_element(&EventDocument {
                event_id: event.id,
                status: event.state.as_str(),
                timestamp: event.at,
                event_detail: event.detail.as_deref().unwrap_or(""),
            })?;
        }
        events.end()
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct EventDocument<'a> {
    event_id: u32,
    status: &'static str,
    timestamp: Timestamp,
    event_detail: &'a str,
}

struct LabelMap<'a>(&'a Labels);

impl Serialize for LabelMap<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        for (name, value) in self.0.iter() {
            map.serialize_entry(name, value)?;
        }
        map.end()
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::{sync::Arc, time::Duration};

    use http::{HeaderMap, Method, StatusCode, Uri};

    use super::*;
    use crate::task::{CapturedRequest, CapturedResponse, NewTask, TaskName, WorkerId, lifecycle::Outcome};

    pub(in crate::wire) fn id() -> RequestId {
        RequestId::from_parts(Timestamp::from_millis(1_700_000_000_000), [7; 10])
    }

    fn new_task() -> NewTask {
        let uri = Uri::from_static("/transcode/big?token=t&x=1");
        let input = CapturedRequest::new(Method::POST, uri, HeaderMap::new(), Bytes::new());
        NewTask {
            max_attempts: 4,
            ..NewTask::new(id(), Arc::new(input))
        }
    }

    /// A task that was accepted and nothing more.
    pub(in crate::wire) fn record() -> TaskRecord {
        TaskRecord::accepted(&new_task(), Timestamp::from_millis(1000))
    }

    /// A task that ended well.
    pub(in crate::wire) fn succeeded() -> TaskRecord {
        let task = NewTask {
            name: Some(TaskName::new("job-1").unwrap()),
            tenant: Some(Tenant::new("acme")),
            labels: [("kind", "film")].into_iter().collect(),
            ..new_task()
        };
        let mut record = TaskRecord::accepted(&task, Timestamp::from_millis(1000));
        let lease = record
            .claim(
                &WorkerId::new("w", 1),
                Duration::from_secs(30),
                Timestamp::from_millis(2000),
            )
            .unwrap();
        record.progress = Some(Progress::new(0.5, "half"));
        let output = CapturedResponse::new(StatusCode::CREATED, HeaderMap::new(), Bytes::new());
        let outcome = Outcome::Succeeded {
            output: Arc::new(output),
        };
        record
            .settle(lease.token, &outcome, Timestamp::from_millis(2750))
            .unwrap();
        record
    }

    fn json(document: &TaskDocument<'_>) -> String {
        String::from_utf8(document.to_bytes().to_vec()).unwrap()
    }

    #[test]
    fn a_task_just_accepted_reads_so() {
        let (record, links) = (record(), ApiLinks::new("/tasks", None));
        let id = id();
        let expected = format!(
            "{{\"taskId\":\"{id}\",\"requestId\":\"{id}\",\"functionName\":\"transcode\",\"status\":\"Enqueued\",\
             \"method\":\"POST\",\"uri\":\"/transcode/big?token=REDACTED&x=1\",\"startedTime\":null,\"endTime\":null,\
             \"durationMs\":null,\"createdTime\":1000,\"runAtTime\":1000,\"alreadyRetriedTimes\":0,\"attempt\":0,\
             \"maxAttempts\":4,\"instanceId\":null,\"qualifier\":\"LATEST\",\"taskErrorMessage\":null,\
             \"destinationStatus\":\"None\",\
             \"events\":[{{\"eventId\":1,\"status\":\"Enqueued\",\"timestamp\":1000,\"eventDetail\":\"\"}}],\
             \"labels\":{{}},\"generation\":1,\"links\":{{\"self\":\"/tasks/{id}\",\"result\":\"/tasks/{id}/result\",\
             \"operation\":\"/tasks/{id}/operation\",\"request\":\"/tasks/{id}/request\",\
             \"stop\":\"/tasks/{id}/stop\"}}}}"
        );
        assert_eq!(json(&TaskDocument::new(&record, &links)), expected);
    }

    #[test]
    fn a_task_that_ended_reads_so() {
        let (record, links) = (succeeded(), ApiLinks::new("/tasks", None));
        let id = id();
        let document = TaskDocument::new(&record, &links)
            .with_task_payload(b"in")
            .with_return_payload(&[0xff, 0], false);
        let expected = format!(
            "{{\"taskId\":\"job-1\",\"requestId\":\"{id}\",\"functionName\":\"transcode\",\"status\":\"Succeeded\",\
             \"method\":\"POST\",\"uri\":\"/transcode/big?token=REDACTED&x=1\",\"startedTime\":2000,\"endTime\":2750,\
             \"durationMs\":750,\"createdTime\":1000,\"runAtTime\":1000,\"alreadyRetriedTimes\":0,\"attempt\":1,\
             \"maxAttempts\":4,\"instanceId\":\"w-0000000000000001\",\"qualifier\":\"LATEST\",\"taskPayload\":\"in\",\
             \"taskPayloadEncoding\":\"utf8\",\"taskPayloadTruncated\":false,\"returnPayload\":\"/wA=\",\
             \"returnPayloadEncoding\":\"base64\",\"returnPayloadTruncated\":true,\"taskErrorMessage\":null,\
             \"progress\":{{\"fraction\":0.5,\"message\":\"half\"}},\"statusCode\":201,\"destinationStatus\":\"None\",\
             \"events\":[{{\"eventId\":1,\"status\":\"Enqueued\",\"timestamp\":1000,\"eventDetail\":\"\"}},\
             {{\"eventId\":2,\"status\":\"Running\",\"timestamp\":2000,\"eventDetail\":\"\"}},\
             {{\"eventId\":3,\"status\":\"Succeeded\",\"timestamp\":2750,\"eventDetail\":\"\"}}],\
             \"labels\":{{\"kind\":\"film\"}},\"tenant\":\"acme\",\"generation\":1,\"links\":{{\"self\":\"/tasks/job-1\",\
             \"result\":\"/tasks/job-1/result\",\"operation\":\"/tasks/job-1/operation\",\
             \"request\":\"/tasks/job-1/request\",\"retry\":\"/tasks/job-1/retry\"}}}}"
        );
        assert_eq!(json(&document), expected);
    }

    #[test]
    fn without_an_api_there_are_no_links() {
        let (record, links) = (record(), ApiLinks::default());
        assert!(!json(&TaskDocument::new(&record, &links)).contains("links"));
    }
}
