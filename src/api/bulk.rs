//! Stops, re-runs and deletes many tasks at once.

use std::sync::Arc;

use http::{HeaderValue, StatusCode};
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;

use crate::{
    api::{
        Permission, answer,
        body::read_json,
        call::{Answer, Call},
        query::FilterDocument,
    },
    engine::Tasks,
    layer::RequestBody,
    store::{Delete, StoreError, StoreErrorKind},
    task::{
        Filter, Page, RequestId, SortOrder, TaskRecord, TaskRef, TaskState,
        lifecycle::{Edits, Rerun, Stop},
        own::COUNT,
    },
    wire::Problem,
};

/// How many tasks one request changes at most: some seconds of work for a store that syncs each change.
pub(super) const TASKS: usize = 1000;

/// How many changes are under way at once, so that a store can commit them together.
const AT_ONCE: usize = 32;

/// How many pages a search reads at most: a million tasks, at 10,000 for each page, of which few may match.
const PAGES: usize = 100;

/// The change that is made to each task.
#[derive(Clone, Copy)]
pub(super) enum Action {
    Stop,
    Retry,
    Delete,
}

/// The tasks to change: a list of ids, or a filter with the number of tasks that the caller expects to match.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct BulkDocument {
    ids: Option<Vec<String>>,
    filter: Option<FilterDocument>,
    expected_count: Option<usize>,
    #[serde(default)]
    dry_run: bool,
}

/// `POST /bulk/stop`, `/bulk/retry` and `/bulk/delete`
pub(super) async fn bulk(call: Call, body: RequestBody, action: Action) -> Answer {
    let json = read_json(&call.parts.headers, body).await?;
    let asked: BulkDocument = serde_json::from_slice(&json).map_err(|error| {
        let error = Problem::quoted(&error.to_string());
        Problem::invalid_argument(format!(
            "The body cannot be read as {{\"ids\"}} or {{\"filter\", \"expectedCount\"}}: {error}"
        ))
    })?;
    let targets = match (asked.ids, asked.filter) {
        (Some(ids), None) if ids.len() <= TASKS => ids.into_iter().map(Target::Named).collect(),
        (Some(_), None) => return Err(too_many()),
        (None, Some(filter)) => {
            // A caller without this permission must not learn how many tasks match.
            call.must_allow(Permission::List)?;
            matching(&call, &filter.read()?).await?
        }
        _ => {
            return Err(Problem::invalid_argument(
                "The body must have either ids or a filter, and not both.",
            ));
        }
    };
    if asked.dry_run {
        return Ok(answer::json(StatusCode::OK, &Report::new(targets.len(), Vec::new())));
    }
    let by_filter = matches!(targets.first(), Some(Target::Found(_)));
    let expected = asked.expected_count;
    if expected.map_or(by_filter, |expected| expected != targets.len()) {
        return Err(other_count(targets.len()));
    }
    let matched = targets.len();
    Ok(answer::json(
        StatusCode::OK,
        &Report::new(matched, change_all(&call, targets, action).await),
    ))
}

fn too_many() -> Problem {
    Problem::invalid_argument(format!(
        "More than {TASKS} tasks are named or match; change fewer at once, and ask again for the rest."
    ))
}

fn other_count(found: usize) -> Problem {
    let count = HeaderValue::from(found as u64);
    Problem::other_count(found).with_header(COUNT, count)
}

/// A task to be changed.
enum Target {
    Named(String),
    Found(Arc<TaskRecord>),
}

/// All tasks that match, oldest first.
async fn matching(call: &Call, filter: &Filter) -> Result<Vec<Target>, Problem> {
    let mut found = Vec::new();
    let mut page = Page {
        order: SortOrder::Ascending,
        after: None,
        limit: TASKS + 1,
    };
    for _ in 0..PAGES {
        let next = call.tasks.list(filter, page.clone()).await?;
        found.extend(next.items.into_iter().map(Target::Found));
        if found.len() > TASKS {
            return Err(too_many());
        }
        match next.next {
            Some(next) => page.after = Some(next),
            None => return Ok(found),
        }
    }
    Err(Problem::invalid_argument(
        "The filter looks at too many tasks; narrow it by state, function or time.",
    ))
}

async fn change_all(call: &Call, targets: Vec<Target>, action: Action) -> Vec<Outcome> {
    let user = call.grant.user.clone();
    let mut targets = targets.into_iter().enumerate();
    let mut under_way = JoinSet::new();
    let mut outcomes = Vec::new();
    loop {
        while under_way.len() < AT_ONCE {
            let Some((index, target)) = targets.next() else { break };
            let change = Change {
                tasks: call.tasks.clone(),
                user: user.clone(),
                action,
            };
            under_way.spawn(async move { (index, change.make(target).await) });
        }
        match under_way.join_next().await {
            Some(Ok(outcome)) => outcomes.push(outcome),
            // It panicked or the runtime is shutting down. The outcome is unknown, so it is left out.
            Some(Err(_)) => {}
            None => break,
        }
    }
    outcomes.sort_unstable_by_key(|(index, _)| *index);
    outcomes.into_iter().map(|(_, outcome)| outcome).collect()
}

/// One of the changes.
struct Change {
    tasks: Tasks,
    user: Option<Arc<str>>,
    action: Action,
}

impl Change {
    async fn make(self, target: Target) -> Outcome {
        let record = match &target {
            Target::Found(record) => Ok(Some(record.clone())),
            Target::Named(text) => match text.parse::<TaskRef>() {
                Ok(task) => self.tasks.find(&task).await,
                // An invalid id names no task.
                Err(_) => Ok(None),
            },
        };
        let named = match target {
            Target::Named(text) => text,
            Target::Found(record) => record.task_id(),
        };
        match record {
            Ok(Some(record)) => self.act(named, record.id).await,
            Ok(None) => Outcome::failed(named, None, &Problem::task_not_found()),
            Err(error) if error.kind() == StoreErrorKind::Conflict => {
                Outcome::failed(named, None, &Problem::ambiguous_task())
            }
            Err(error) => Outcome::failed(named, None, &error.into()),
        }
    }

    async fn act(&self, named: String, id: RequestId) -> Outcome {
        match self.changed(id).await {
            Ok(Changed::To(status)) => {
                self.tasks.audit(id, self.action.as_str(), self.user.as_deref());
                Outcome {
                    task_id: named,
                    request_id: Some(id),
                    done: true,
                    status: status.map(TaskState::as_str),
                    code: None,
                }
            }
            Ok(Changed::Not(state)) => Outcome {
                status: Some(state.as_str()),
                ..Outcome::failed(named, Some(id), &Problem::wrong_state(state, ""))
            },
            Ok(Changed::Undelivered) => Outcome::failed(named, Some(id), &Problem::undelivered()),
            Err(error) => Outcome::failed(named, Some(id), &error.into()),
        }
    }

    async fn changed(&self, id: RequestId) -> Result<Changed, StoreError> {
        Ok(match self.action {
            Action::Stop => match self.tasks.stop(id).await? {
                Stop::Stopped => Changed::To(Some(TaskState::Stopped)),
                Stop::Stopping => Changed::To(Some(TaskState::Stopping)),
                Stop::AlreadyEnded(state) => Changed::Not(state),
            },
            Action::Retry => match self.tasks.rerun(id, Edits::default()).await? {
                Rerun::Enqueued { .. } => Changed::To(Some(TaskState::Enqueued)),
                Rerun::NotEnded(state) => Changed::Not(state),
                Rerun::Undelivered => Changed::Undelivered,
            },
            Action::Delete => match self.tasks.delete(id).await? {
                Delete::Deleted => Changed::To(None),
                Delete::NotEnded(state) => Changed::Not(state),
            },
        })
    }
}

enum Changed {
    /// The new state; `None` if the task was deleted.
    To(Option<TaskState>),
    /// The state does not allow the change.
    Not(TaskState),
    /// Too many completions of earlier generations are pending.
    Undelivered,
}

impl Action {
    /// The name of the action in [`Event::Changed`](crate::probe::Event::Changed).
    const fn as_str(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Retry => "retry",
            Self::Delete => "delete",
        }
    }
}

/// The outcome for each task.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Report {
    matched: usize,
    changed: usize,
    results: Vec<Outcome>,
}

impl Report {
    fn new(matched: usize, results: Vec<Outcome>) -> Self {
        Self {
            matched,
            changed: results.iter().filter(|outcome| outcome.done).count(),
            results,
        }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Outcome {
    /// As the caller wrote it; for a task that a filter found, its task id.
    task_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    request_id: Option<RequestId>,
    done: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<&'static str>,
}

impl Outcome {
    fn failed(task_id: String, request_id: Option<RequestId>, problem: &Problem) -> Self {
        Self {
            task_id,
            request_id,
            done: false,
            status: None,
            code: Some(problem.code()),
        }
    }
}
