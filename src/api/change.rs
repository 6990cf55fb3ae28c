//! Stops, re-runs and deletes a task.

use http::{Response, StatusCode};
use serde::Serialize;

use crate::{
    api::{
        Permission, answer,
        body::read_json,
        call::{Answer, Call},
        edits,
    },
    layer::{RequestBody, ResponseBody},
    store::Delete,
    task::{
        RequestId, TaskRecord, TaskState,
        lifecycle::{Edits, Rerun, Stop},
    },
    wire::Problem,
};

/// `POST /{id}/stop`
pub(super) async fn stop(call: Call, body: RequestBody) -> Answer {
    read_json(&call.parts.headers, body).await?;
    let record = call.record().await?;
    let (status, state) = match call.tasks.stop(record.id).await? {
        Stop::Stopped => (StatusCode::OK, TaskState::Stopped),
        Stop::Stopping => (StatusCode::ACCEPTED, TaskState::Stopping),
        Stop::AlreadyEnded(state) => {
            let detail = format!("The task has ended as {state}, so that there is nothing to stop.");
            return Err(Problem::wrong_state(state, detail));
        }
    };
    call.audit(record.id, "stop");
    Ok(changed(status, &record, state, record.generation))
}

/// `POST /{id}/retry`
pub(super) async fn retry(call: Call, body: RequestBody) -> Answer {
    let json = read_json(&call.parts.headers, body).await?;
    let edits = edits::parse(&json)?;
    let record = call.record().await?;
    let (action, edits) = match edits.is_empty() {
        true => ("retry", Edits::default()),
        false => {
            call.must_allow(Permission::Invoke)?;
            let request = call.tasks.request(record.id).await?;
            let request = request.ok_or_else(Problem::task_not_found)?;
            let edits = edits.resolve(&request, &call.tasks.api_address(), &call.secrets)?;
            ("retry with edits", edits)
        }
    };
    match call.tasks.rerun(record.id, edits).await? {
        Rerun::Enqueued { generation } => {
            call.audit(record.id, action);
            let mut response = changed(StatusCode::ACCEPTED, &record, TaskState::Enqueued, generation);
            call.links.put_on(response.headers_mut(), &record);
            Ok(response)
        }
        Rerun::NotEnded(state) => {
            let detail = format!("The task is {state}; it can be run again once it has ended.");
            Err(Problem::wrong_state(state, detail))
        }
        Rerun::Undelivered => Err(Problem::undelivered()),
    }
}

/// `DELETE /{id}`
pub(super) async fn delete(call: Call, body: RequestBody) -> Answer {
    read_json(&call.parts.headers, body).await?;
    let record = call.record().await?;
    remove(&call, &record).await
}

/// `DELETE /{id}/result`: sent by clients of FHIR and OData to cancel a request.
///
/// A stopped task is kept, so that the client can see that it was stopped.
pub(super) async fn cancel(call: Call, body: RequestBody) -> Answer {
    if !call.grant.allows(Permission::Stop) {
        call.must_allow(Permission::Delete)?;
    }
    read_json(&call.parts.headers, body).await?;
    let record = call.record().await?;
    let state = match record.state.is_terminal() {
        true => record.state,
        false => {
            call.must_allow(Permission::Stop)?;
            match call.tasks.stop(record.id).await? {
                Stop::AlreadyEnded(state) => state,
                asked => {
                    let stopped = matches!(asked, Stop::Stopped);
                    let state = if stopped {
                        TaskState::Stopped
                    } else {
                        TaskState::Stopping
                    };
                    call.audit(record.id, "stop");
                    return Ok(changed(StatusCode::ACCEPTED, &record, state, record.generation));
                }
            }
        }
    };
    if state == TaskState::Stopped {
        return Ok(changed(StatusCode::ACCEPTED, &record, state, record.generation));
    }
    call.must_allow(Permission::Delete)?;
    remove(&call, &record).await
}

async fn remove(call: &Call, record: &TaskRecord) -> Answer {
    match call.tasks.delete(record.id).await? {
        Delete::Deleted => {
            call.audit(record.id, "delete");
            let mut response = Response::new(ResponseBody::empty());
            *response.status_mut() = StatusCode::NO_CONTENT;
            Ok(response)
        }
        Delete::NotEnded(state) => {
            let detail = format!("The task is {state}; stop it first, and delete it once it has ended.");
            Err(Problem::wrong_state(state, detail))
        }
    }
}

impl Call {
    pub(super) fn audit(&self, id: RequestId, action: &'static str) {
        self.tasks.audit(id, action, self.grant.user.as_deref());
    }
}

/// The answer to a change. It shows nothing that needs the permission to view the task.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Changed<'a> {
    task_id: &'a str,
    request_id: RequestId,
    status: &'static str,
    generation: u32,
}

fn changed(status: StatusCode, record: &TaskRecord, state: TaskState, generation: u32) -> Response<ResponseBody> {
    let document = Changed {
        task_id: &record.task_id(),
        request_id: record.id,
        status: state.as_str(),
        generation,
    };
    answer::json(status, &document)
}
