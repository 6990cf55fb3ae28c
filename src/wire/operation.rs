//! [`OperationDocument`]: a task as a long-running operation.

use std::borrow::Cow;

use bytes::Bytes;
use serde::Serialize;

use crate::{
    task::{TaskRecord, TaskState, redact::Secrets},
    time::Timestamp,
    wire::{ApiLinks, links::TaskId},
};

/// A task as an operation, in a pattern that several clouds share. A client polls it until `status` is `Succeeded`,
/// `Failed` or `Canceled`, and then follows `resourceLocation`.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct OperationDocument<'a> {
    id: TaskId<'a>,
    status: &'static str,
    created_date_time: Timestamp,
    last_action_date_time: Timestamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    percent_complete: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<OperationError<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    resource_location: Option<String>,
}

#[derive(Serialize)]
struct OperationError<'a> {
    code: &'static str,
    message: Cow<'a, str>,
}

impl<'a> OperationDocument<'a> {
    /// The task as an operation.
    pub(crate) fn new(task: &'a TaskRecord, links: &ApiLinks, secrets: &Secrets) -> Self {
        let has_result = task.state.is_terminal() && task.status_code.is_some();
        let result = links.base().filter(|_| has_result);
        Self {
            id: TaskId::of(task),
            status: status(task.state),
            created_date_time: task.created_at,
            last_action_date_time: task.history.last().map_or(task.created_at, |event| event.at),
            percent_complete: match (task.state, &task.progress) {
                (TaskState::Succeeded, _) => Some(100),
                // The fraction is between 0 and 1. A cast of NaN, which is never stored, would give 0.
                (_, Some(progress)) => Some((progress.fraction * 100.0) as u8),
                (_, None) => None,
            },
            error: error_code(task.state).map(|code| OperationError {
                code,
                message: secrets.text(task.error.as_deref().unwrap_or("")),
            }),
            resource_location: result.map(|base| format!("{base}/{}/result", TaskId::of(task))),
        }
    }

    /// The document as it is sent.
    pub(crate) fn to_bytes(&self) -> Bytes {
        let mut out = Vec::with_capacity(384);
        serde_json::to_writer(&mut out, self).expect("strings and numbers are written to memory");
        out.into()
    }
}

const fn status(state: TaskState) -> &'static str {
    match state {
        TaskState::Enqueued => "NotStarted",
        TaskState::Running | TaskState::Retrying | TaskState::Stopping => "Running",
        TaskState::Succeeded => "Succeeded",
        TaskState::Failed | TaskState::Expired | TaskState::Invalid => "Failed",
        TaskState::Stopped => "Canceled",
    }
}

const fn error_code(state: TaskState) -> Option<&'static str> {
    match state {
        TaskState::Failed | TaskState::Expired | TaskState::Invalid => Some(state.as_str()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::wire::document::tests::{id, record, succeeded};

    fn json(task: &TaskRecord) -> String {
        let links = crate::wire::links::tests::links("/tasks");
        let document = OperationDocument::new(task, &links, &Secrets::new());
        String::from_utf8(document.to_bytes().to_vec()).unwrap()
    }

    #[test]
    fn an_operation_reads_so_before_and_after() {
        let expected = format!(
            "{{\"id\":\"{}\",\"status\":\"NotStarted\",\"createdDateTime\":1000,\"lastActionDateTime\":1000}}",
            id()
        );
        assert_eq!(json(&record()), expected);
        assert_eq!(
            json(&succeeded()),
            "{\"id\":\"job-1\",\"status\":\"Succeeded\",\"createdDateTime\":1000,\"lastActionDateTime\":2750,\
             \"percentComplete\":100,\"resourceLocation\":\"/tasks/job-1/result\"}"
        );
    }

    #[test]
    fn an_expired_task_is_a_failed_operation_and_a_stopped_one_a_cancelled() {
        let mut task = record();
        let _ = task.rescue(Timestamp::from_millis(1000).saturating_add(Duration::from_secs(24 * 60 * 60)));
        let json = json(&task);
        assert!(json.contains("\"status\":\"Failed\""), "{json}");
        assert!(
            json.ends_with("\"error\":{\"code\":\"Expired\",\"message\":\"waited longer than 86400 s\"}}"),
            "{json}"
        );
        assert_eq!(status(TaskState::Stopped), "Canceled");
    }
}
