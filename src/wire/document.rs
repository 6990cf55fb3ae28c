//! [`TaskDocument`]: the document of a task.

use bytes::Bytes;

use crate::{
    task::{Payload, Progress, RequestId, TaskRecord, Tenant, WorkerId, redact::Secrets},
    time::Timestamp,
    wire::{
        ApiLinks,
        json::{self, Object, key},
        links::TaskId,
    },
};

/// The document of a task. Its members have the names of the cloud's API. Times are milliseconds since the Unix epoch.
/// A value that is not known yet is `null`; a member that not every task has is left out.
///
/// Borrows everything: one is written for every 202.
pub(crate) struct TaskDocument<'a> {
    task: &'a TaskRecord,
    links: &'a ApiLinks,
    secrets: &'a Secrets,
    task_payload: Option<Payload<'a>>,
    return_payload: Option<Payload<'a>>,
}

impl<'a> TaskDocument<'a> {
    /// How much of a payload a document has, in bytes. A page of a hundred tasks with both payloads stays near 3 MiB.
    /// The whole is at `/request` and `/result`.
    pub(crate) const PAYLOAD_BYTES: usize = 16 * 1024;

    /// A document without payloads.
    pub(crate) const fn new(task: &'a TaskRecord, links: &'a ApiLinks, secrets: &'a Secrets) -> Self {
        Self {
            task,
            links,
            secrets,
            task_payload: None,
            return_payload: None,
        }
    }

    /// Adds the body of the request.
    pub(crate) fn with_task_payload(mut self, body: &'a [u8]) -> Self {
        self.task_payload = Some(Payload::new(body, Self::PAYLOAD_BYTES));
        self
    }

    /// Adds the body of the response; `whole` is whether all of it was kept.
    pub(crate) fn with_return_payload(mut self, body: &'a [u8], whole: bool) -> Self {
        let mut payload = Payload::new(body, Self::PAYLOAD_BYTES);
        payload.truncated |= !whole;
        self.return_payload = Some(payload);
        self
    }

    /// The document as it is sent.
    pub(crate) fn to_bytes(&self) -> Bytes {
        self.to_vec().into()
    }

    /// The document, with room behind it for header values that share its allocation.
    pub(crate) fn to_vec(&self) -> Vec<u8> {
        // A task that was just accepted, with links and a short URI, takes about 1,200 bytes.
        let mut out = Vec::with_capacity(1280 + ApiLinks::ROOM);
        self.write(&mut out);
        out
    }

    /// Appends the document to `out`.
    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        let (task, secrets) = (self.task, self.secrets);
        let mut buffer = RequestId::BUFFER;
        let request_id = task.id.encode(&mut buffer);
        let task_id = TaskId::of(task);
        let millis = |at: Option<Timestamp>| at.map(Timestamp::as_millis);
        let ran_until = task.ended_at.zip(task.started_at);

        let mut document = Object::begin(out);
        document.plain(key!("taskId"), task_id.as_str(request_id));
        document.plain(key!("requestId"), request_id);
        document.text(key!("functionName"), task.function());
        document.plain(key!("status"), task.state.as_str());
        document.text(key!("method"), task.method.as_str());
        document.shown(key!("uri"), secrets.target(&task.target));
        if task.target.is_cut() {
            document.truth(key!("uriTruncated"), true);
        }
        document.number_or_null(key!("startedTime"), millis(task.started_at));
        document.number_or_null(key!("endTime"), millis(task.ended_at));
        let took = ran_until.map(|(end, start)| end.as_millis().saturating_sub(start.as_millis()));
        document.number_or_null(key!("durationMs"), took);
        document.number(key!("createdTime"), task.created_at.as_millis());
        document.number(key!("runAtTime"), task.run_at.as_millis());
        document.number(key!("alreadyRetriedTimes"), task.retries);
        document.number(key!("attempt"), task.attempt);
        if task.deferrals > 0 {
            document.number(key!("deferrals"), task.deferrals);
        }
        if task.crashed_times() > 0 {
            document.number(key!("crashes"), task.crashed_times());
        }
        document.number(key!("maxAttempts"), task.max_attempts);
        document.text_or_null(key!("instanceId"), task.worker.as_ref().map(WorkerId::as_str));
        document.plain(key!("qualifier"), "LATEST");
        if let Some(payload) = &self.task_payload {
            document.text(key!("taskPayload"), &payload.text);
            document.plain(key!("taskPayloadEncoding"), payload.encoding);
            document.truth(key!("taskPayloadTruncated"), payload.truncated);
        }
        document.number(key!("taskPayloadSize"), task.request.size);
        document.text_if_any(key!("taskPayloadContentType"), task.request.content_type.as_deref());
        document.text_if_any(
            key!("taskPayloadContentEncoding"),
            task.request.content_encoding.as_deref(),
        );
        if let Some(payload) = &self.return_payload {
            document.text(key!("returnPayload"), &payload.text);
            document.plain(key!("returnPayloadEncoding"), payload.encoding);
            document.truth(key!("returnPayloadTruncated"), payload.truncated);
        }
        if let Some(response) = &task.response {
            document.number(key!("returnPayloadSize"), response.size);
            document.text_if_any(key!("returnPayloadContentType"), response.content_type.as_deref());
            document.text_if_any(
                key!("returnPayloadContentEncoding"),
                response.content_encoding.as_deref(),
            );
        }
        let error = task.error.as_deref().map(|error| secrets.text(error));
        document.text_or_null(key!("taskErrorMessage"), error.as_deref());
        if let Some(progress) = &task.progress {
            document.member(key!("progress"), |out| write_progress(out, progress, secrets));
        }
        if let Some(status) = task.status_code {
            document.number(key!("statusCode"), status);
        }
        document.plain(key!("destinationStatus"), task.destination_status().as_str());
        document.member(key!("events"), |out| write_events(out, task, secrets));
        document.member(key!("labels"), |out| write_labels(out, task, secrets));
        if let Some(tenant) = &task.tenant {
            document.text(key!("tenant"), Tenant::as_str(tenant));
        }
        document.number(key!("generation"), task.generation);
        if let Some(base) = self.links.base() {
            document.member(key!("links"), |out| {
                write_links(out, base, task_id.as_str(request_id), task);
            });
        }
        document.end();
    }
}

/// Writes the progress of a task.
pub(crate) fn write_progress(out: &mut Vec<u8>, progress: &Progress, secrets: &Secrets) {
    let mut document = Object::begin(out);
    document.member(key!("fraction"), |out| {
        serde_json::to_writer(out, &progress.fraction).expect("memory takes any number");
    });
    document.text(key!("message"), &secrets.text(&progress.message));
    document.end();
}

fn write_events(out: &mut Vec<u8>, task: &TaskRecord, secrets: &Secrets) {
    json::array(out, &task.history, |out, event| {
        let mut document = Object::begin(out);
        document.number(key!("eventId"), event.id);
        document.plain(key!("status"), event.state.as_str());
        document.number(key!("timestamp"), event.at.as_millis());
        document.text(key!("eventDetail"), &secrets.text(task.detail_of(event).unwrap_or("")));
        document.end();
    });
}

fn write_labels(out: &mut Vec<u8>, task: &TaskRecord, secrets: &Secrets) {
    out.push(b'{');
    for (index, (name, value)) in task.labels.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        json::text(out, name);
        out.push(b':');
        json::text(out, &secrets.value(name, value));
    }
    out.push(b'}');
}

/// Writes the links to a task and to what can be done with it now: `stop` until it has ended, and `retry` from then on.
fn write_links(out: &mut Vec<u8>, base: &str, task_id: &str, task: &TaskRecord) {
    let mut links = Object::begin(out);
    let this = links.joined(key!("self"), [base, "/", task_id]);
    links.continued(key!("result"), &this, "/result");
    links.continued(key!("operation"), &this, "/operation");
    links.continued(key!("request"), &this, "/request");
    links.continued(key!("logs"), &this, "/logs");
    links.continued(key!("events"), &this, "/events");
    if !task.deliveries.is_empty() {
        links.continued(key!("callbacks"), &this, "/callbacks");
    }
    match task.state.is_terminal() {
        true => links.continued(key!("retry"), &this, "/retry"),
        false => links.continued(key!("stop"), &this, "/stop"),
    }
    links.end();
}

#[cfg(test)]
pub(super) mod tests {
    use std::{sync::Arc, time::Duration};

    use http::{HeaderMap, Method, StatusCode, Uri};

    use super::*;
    use crate::task::{CapturedRequest, CapturedResponse, Content, NewTask, TaskName, lifecycle::Outcome};

    pub(in crate::wire) fn id() -> RequestId {
        RequestId::from_parts(Timestamp::from_millis(1_700_000_000_000), [7; 10])
    }

    fn new_task() -> NewTask {
        let uri = Uri::from_static("/transcode/big?token=t&x=1");
        let request = CapturedRequest::new(Method::POST, uri, HeaderMap::new(), Bytes::new());
        NewTask {
            max_attempts: 4,
            ..NewTask::new(id(), Arc::new(request))
        }
    }

    /// A task that was just accepted.
    pub(in crate::wire) fn record() -> TaskRecord {
        TaskRecord::accepted(&new_task(), Timestamp::from_millis(1000))
    }

    /// A task that succeeded.
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
                WorkerId::new("w", 1),
                Duration::from_secs(30),
                Timestamp::from_millis(2000),
            )
            .unwrap();
        record.life.progress = Some(Progress::new(0.5, "half"));
        let response = CapturedResponse::new(StatusCode::CREATED, HeaderMap::new(), Bytes::new());
        let outcome = Outcome::Succeeded {
            response: Arc::new(response),
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
        let (record, links) = (record(), crate::wire::links::tests::links("/tasks"));
        let id = id();
        let expected = format!(
            "{{\"taskId\":\"{id}\",\"requestId\":\"{id}\",\"functionName\":\"transcode\",\"status\":\"Enqueued\",\
             \"method\":\"POST\",\"uri\":\"/transcode/big?token=REDACTED&x=1\",\"startedTime\":null,\"endTime\":null,\
             \"durationMs\":null,\"createdTime\":1000,\"runAtTime\":1000,\"alreadyRetriedTimes\":0,\"attempt\":0,\
             \"maxAttempts\":4,\"instanceId\":null,\"qualifier\":\"LATEST\",\"taskPayloadSize\":0,\"taskErrorMessage\":null,\
             \"destinationStatus\":\"None\",\
             \"events\":[{{\"eventId\":1,\"status\":\"Enqueued\",\"timestamp\":1000,\"eventDetail\":\"\"}}],\
             \"labels\":{{}},\"generation\":1,\"links\":{{\"self\":\"/tasks/{id}\",\"result\":\"/tasks/{id}/result\",\
             \"operation\":\"/tasks/{id}/operation\",\"request\":\"/tasks/{id}/request\",\
             \"logs\":\"/tasks/{id}/logs\",\"events\":\"/tasks/{id}/events\",\"stop\":\"/tasks/{id}/stop\"}}}}"
        );
        assert_eq!(json(&TaskDocument::new(&record, &links, &Secrets::new())), expected);
    }

    #[test]
    fn a_task_that_ended_reads_so() {
        let (mut record, links) = (succeeded(), crate::wire::links::tests::links("/tasks"));
        let id = id();
        let mut said = HeaderMap::new();
        said.insert("content-type", "text/x".parse().unwrap());
        said.insert("content-encoding", "gzip".parse().unwrap());
        Arc::make_mut(&mut record.life.accepted).request = Content::of(&said, b"in");
        let secrets = Secrets::new();
        let document = TaskDocument::new(&record, &links, &secrets)
            .with_task_payload(b"in")
            .with_return_payload(&[0xff, 0], false);
        let expected = format!(
            "{{\"taskId\":\"job-1\",\"requestId\":\"{id}\",\"functionName\":\"transcode\",\"status\":\"Succeeded\",\
             \"method\":\"POST\",\"uri\":\"/transcode/big?token=REDACTED&x=1\",\"startedTime\":2000,\"endTime\":2750,\
             \"durationMs\":750,\"createdTime\":1000,\"runAtTime\":1000,\"alreadyRetriedTimes\":0,\"attempt\":1,\
             \"maxAttempts\":4,\"instanceId\":\"w-0000000000000001\",\"qualifier\":\"LATEST\",\"taskPayload\":\"in\",\
             \"taskPayloadEncoding\":\"utf8\",\"taskPayloadTruncated\":false,\"taskPayloadSize\":2,\
             \"taskPayloadContentType\":\"text/x\",\"taskPayloadContentEncoding\":\"gzip\",\"returnPayload\":\"/wA=\",\
             \"returnPayloadEncoding\":\"base64\",\"returnPayloadTruncated\":true,\"returnPayloadSize\":0,\"taskErrorMessage\":null,\
             \"progress\":{{\"fraction\":0.5,\"message\":\"half\"}},\"statusCode\":201,\"destinationStatus\":\"None\",\
             \"events\":[{{\"eventId\":1,\"status\":\"Enqueued\",\"timestamp\":1000,\"eventDetail\":\"\"}},\
             {{\"eventId\":2,\"status\":\"Running\",\"timestamp\":2000,\"eventDetail\":\"w-0000000000000001\"}},\
             {{\"eventId\":3,\"status\":\"Succeeded\",\"timestamp\":2750,\"eventDetail\":\"\"}}],\
             \"labels\":{{\"kind\":\"film\"}},\"tenant\":\"acme\",\"generation\":1,\"links\":{{\"self\":\"/tasks/job-1\",\
             \"result\":\"/tasks/job-1/result\",\"operation\":\"/tasks/job-1/operation\",\
             \"request\":\"/tasks/job-1/request\",\"logs\":\"/tasks/job-1/logs\",\
             \"events\":\"/tasks/job-1/events\",\"retry\":\"/tasks/job-1/retry\"}}}}"
        );
        assert_eq!(json(&document), expected);
    }

    #[test]
    fn of_a_long_uri_the_beginning_is_shown_and_that_it_goes_on() {
        let uri = format!("/a?token=t&b={}", "b".repeat(5000)).parse().unwrap();
        let request = CapturedRequest::new(Method::GET, uri, HeaderMap::new(), Bytes::new());
        let record = TaskRecord::accepted(&NewTask::new(id(), Arc::new(request)), Timestamp::from_millis(1));
        let written = json(&TaskDocument::new(&record, &ApiLinks::default(), &Secrets::new()));
        assert!(written.contains("\"uri\":\"/a?token=REDACTED&b=bbb"), "{written}");
        assert!(written.contains("bbb\",\"uriTruncated\":true,"), "{written}");
        assert!(written.len() < 2048);
    }

    #[test]
    fn without_an_api_there_are_no_links() {
        let (record, links) = (record(), ApiLinks::default());
        assert!(!json(&TaskDocument::new(&record, &links, &Secrets::new())).contains("links"));
    }
}
