//! All routes of the API in one table. It finds the handler, states the permission, and is the source of
//! `openapi.json`.

use http::Method;

use crate::api::{
    Permission,
    bulk::{self, Action},
    callbacks, change, events, list, logs, openapi, result,
    route::{Route, Segment},
    settings, stats, view,
};

use Permission::{Callbacks, Delete, List, Logs, Payload, Result, Retry, Stop, View};
use Segment::{Number, Task, Word};

const GET: Method = Method::GET;
const POST: Method = Method::POST;
const PUT: Method = Method::PUT;
const DELETE: Method = Method::DELETE;

const FILTERS: &[&str] = &[
    "status",
    "prefix",
    "function",
    "label",
    "text",
    "startedTimeBegin",
    "startedTimeEnd",
    "sortOrderByTime",
    "limit",
    "nextToken",
    "includePayload",
];

#[rustfmt::skip] // A table is read by its columns.
pub(super) static ROUTES: &[Route] = &[
    Route { method: GET,    path: &[],                             needs: Some(List),    handler: |call, _| Box::pin(list::list(call)),
            says: "Tasks, filtered and page by page", query: FILTERS, takes: None, gives: &[(200, Some("TaskList"))] },
    Route { method: GET,    path: &[Word("openapi.json")],         needs: None,          handler: |call, _| Box::pin(openapi::openapi(call, ROUTES)),
            says: "This document", query: &[], takes: None, gives: &[(200, Some("OpenApi"))] },
    Route { method: GET,    path: &[Word("stats")],                needs: Some(List),    handler: |call, _| Box::pin(stats::stats(call)),
            says: "How many tasks are in each state", query: &[], takes: None, gives: &[(200, Some("Stats"))] },
    Route { method: GET,    path: &[Word("settings")],             needs: Some(List),    handler: |call, _| Box::pin(settings::settings(call)),
            says: "The settings in force, and what the caller may do", query: &[], takes: None, gives: &[(200, Some("Settings"))] },
    Route { method: GET,    path: &[Word("events")],               needs: Some(List),    handler: |call, _| Box::pin(events::all(call)),
            says: "A stream of what changes in any task: events status (a Task) and missed", query: &["lastEventId"], takes: None, gives: &[(200, Some("EventStream"))] },
    Route { method: POST,   path: &[Word("bulk"), Word("stop")],   needs: Some(Stop),    handler: |call, body| Box::pin(bulk::bulk(call, body, Action::Stop)),
            says: "Stops up to 1,000 tasks", query: &[], takes: Some("Bulk"), gives: &[(200, Some("BulkReport"))] },
    Route { method: POST,   path: &[Word("bulk"), Word("retry")],  needs: Some(Retry),   handler: |call, body| Box::pin(bulk::bulk(call, body, Action::Retry)),
            says: "Runs up to 1,000 ended tasks again", query: &[], takes: Some("Bulk"), gives: &[(200, Some("BulkReport"))] },
    Route { method: POST,   path: &[Word("bulk"), Word("delete")], needs: Some(Delete),  handler: |call, body| Box::pin(bulk::bulk(call, body, Action::Delete)),
            says: "Removes up to 1,000 ended tasks", query: &[], takes: Some("Bulk"), gives: &[(200, Some("BulkReport"))] },
    Route { method: GET,    path: &[Task],                         needs: Some(View),    handler: |call, _| Box::pin(view::task(call)),
            says: "The task", query: &["includePayload"], takes: None, gives: &[(200, Some("Task"))] },
    Route { method: DELETE, path: &[Task],                         needs: Some(Delete),  handler: |call, body| Box::pin(change::delete(call, body)),
            says: "Removes an ended task", query: &[], takes: None, gives: &[(204, None)] },
    Route { method: GET,    path: &[Task, Word("operation")],      needs: Some(View),    handler: |call, _| Box::pin(view::operation(call)),
            says: "The task, for clients of long-running operations", query: &[], takes: None, gives: &[(200, Some("Operation"))] },
    Route { method: GET,    path: &[Task, Word("request")],        needs: Some(Payload), handler: |call, _| Box::pin(view::request(call)),
            says: "The request, with credentials redacted", query: &[], takes: None, gives: &[(200, Some("Request"))] },
    Route { method: GET,    path: &[Task, Word("response")],       needs: Some(Result),  handler: |call, _| Box::pin(view::response(call)),
            says: "The response as a document, with credentials redacted", query: &[], takes: None, gives: &[(200, Some("Response"))] },
    Route { method: GET,    path: &[Task, Word("logs")],           needs: Some(Logs),    handler: |call, _| Box::pin(logs::logs(call)),
            says: "What the handler logged, as JSON or, if Accept prefers it, as text", query: &["attempt", "after", "limit"], takes: None, gives: &[(200, Some("Log"))] },
    Route { method: GET,    path: &[Task, Word("events")],         needs: Some(View),    handler: |call, _| Box::pin(events::one(call)),
            says: "A stream of what happens in the task: events status, progress, log (with logs) and callback (with callbacks)", query: &["lastEventId", "until"], takes: None,
            gives: &[(200, Some("EventStream")), (204, None)] },
    Route { method: GET,    path: &[Task, Word("result")],         needs: Some(Result),  handler: |call, _| Box::pin(result::result(call)),
            says: "The response as the handler gave it, whatever its status, once there is one", query: &["wait"], takes: None,
            gives: &[(200, Some("Anything")), (202, Some("Task"))] },
    Route { method: DELETE, path: &[Task, Word("result")],         needs: None,          handler: |call, body| Box::pin(change::cancel(call, body)),
            says: "Cancels: stops a task that has not ended (with stop), removes one that has (with delete)", query: &[], takes: None, gives: &[(202, Some("Changed")), (204, None)] },
    Route { method: POST,   path: &[Task, Word("stop")],           needs: Some(Stop),    handler: |call, body| Box::pin(change::stop(call, body)),
            says: "Stops a task: 200 if it is Stopped, 202 if it is Stopping", query: &[], takes: None, gives: &[(200, Some("Changed")), (202, Some("Changed"))] },
    Route { method: PUT,    path: &[Task, Word("stop")],           needs: Some(Stop),    handler: |call, body| Box::pin(change::stop(call, body)),
            says: "Stops a task: 200 if it is Stopped, 202 if it is Stopping", query: &[], takes: None, gives: &[(200, Some("Changed")), (202, Some("Changed"))] },
    Route { method: POST,   path: &[Task, Word("retry")],          needs: Some(Retry),   handler: |call, body| Box::pin(change::retry(call, body)),
            says: "Runs an ended task again, optionally with edits (with invoke)", query: &[], takes: Some("Edits"), gives: &[(202, Some("Changed"))] },
    Route { method: GET,    path: &[Task, Word("callbacks")],      needs: Some(Callbacks), handler: |call, _| Box::pin(callbacks::list(call)),
            says: "The completions of the task, with every try", query: &[], takes: None, gives: &[(200, Some("CallbackList"))] },
    Route { method: POST,   path: &[Task, Word("callbacks"), Number, Word("redeliver")], needs: Some(Callbacks), handler: |call, body| Box::pin(callbacks::redeliver(call, body)),
            says: "Delivers a completion again, under the same webhook id", query: &[], takes: None, gives: &[(202, Some("Redelivered"))] },
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::Value;

    use super::*;

    fn references(value: &Value, found: &mut BTreeSet<String>) {
        match value {
            Value::Object(members) => {
                for (name, value) in members {
                    match (name.as_str(), value) {
                        ("$ref", Value::String(to)) => {
                            found.insert(to.trim_start_matches("#/components/").to_owned());
                        }
                        _ => references(value, found),
                    }
                }
            }
            Value::Array(values) => values.iter().for_each(|value| references(value, found)),
            _ => {}
        }
    }

    #[test]
    fn every_route_is_described_and_everything_it_names_is_there() {
        let document = openapi::document(ROUTES, "/tasks");
        let described: usize = document["paths"]
            .as_object()
            .unwrap()
            .values()
            .map(|path| path.as_object().unwrap().len())
            .sum();
        assert_eq!(described, ROUTES.len(), "two routes have one path and method");

        let mut named = BTreeSet::new();
        references(&document, &mut named);
        let components = document["components"].as_object().unwrap();
        let there: BTreeSet<_> = components
            .iter()
            .flat_map(|(kind, all)| {
                all.as_object()
                    .unwrap()
                    .keys()
                    .map(move |name| format!("{kind}/{name}"))
            })
            .collect();
        assert_eq!(named, there, "what is named and what is there differ");
    }
}
