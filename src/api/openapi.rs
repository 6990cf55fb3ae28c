//! The OpenAPI document, made from the table of routes, so that the two cannot differ.

use std::collections::BTreeMap;

use http::{Method, StatusCode};
use serde_json::{Map, Value, json};

use crate::api::{
    Permission, answer,
    call::{Answer, Call},
    route::{Route, Segment},
};

/// The query parameters and schemas that the table names.
const COMPONENTS: &str = include_str!("components.json");

/// `GET /openapi.json`
pub(super) async fn openapi(call: Call, routes: &[Route]) -> Answer {
    let base = call.links.base().unwrap_or("");
    Ok(answer::json(StatusCode::OK, &document(routes, base)))
}

/// The document of an API with these routes under the path `base`.
pub(super) fn document(routes: &[Route], base: &str) -> Value {
    let mut paths: BTreeMap<String, Map<String, Value>> = BTreeMap::new();
    for route in routes {
        let operations = paths.entry(template(route)).or_default();
        operations.insert(route.method.as_str().to_ascii_lowercase(), operation(route));
    }
    let components: Value = serde_json::from_str(COMPONENTS).expect("a test reads it");
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Task API of tower-respond-async",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Watch, fetch, stop, re-run and delete tasks. HEAD is answered wherever GET is, OPTIONS everywhere.",
        },
        "servers": [{ "url": if base.is_empty() { "/" } else { base } }],
        "paths": paths,
        "components": components,
    })
}

fn template(route: &Route) -> String {
    if route.path.is_empty() {
        return "/".into();
    }
    let segments = route.path.iter().map(|segment| match segment {
        Segment::Word(word) => format!("/{word}"),
        Segment::Task => "/{task}".into(),
        Segment::Number => "/{number}".into(),
    });
    segments.collect()
}

fn names_a_task(route: &Route) -> bool {
    route.path.iter().any(|segment| matches!(segment, Segment::Task))
}

fn operation(route: &Route) -> Value {
    let in_path = route.path.iter().filter_map(|segment| match segment {
        Segment::Word(_) => None,
        Segment::Task => Some(&"task"),
        Segment::Number => Some(&"number"),
    });
    let parameters = in_path.chain(route.query).map(|name| reference("parameters", name));
    let mut answers: BTreeMap<String, Value> = BTreeMap::new();
    for (status, gives) in route.gives {
        answers.insert(status.to_string(), given(*status, *gives));
    }
    answers.insert(
        "default".into(),
        json!({
            "description": "A refusal",
            "content": { "application/problem+json": { "schema": reference("schemas", "Problem") } },
        }),
    );
    let mut operation = json!({
        "summary": route.says,
        "parameters": parameters.collect::<Vec<_>>(),
        "responses": answers,
        "x-permission": route.needs.map(Permission::as_str),
    });
    if let Some(name) = route.takes {
        operation["requestBody"] = json!({
            "content": { "application/json": { "schema": reference("schemas", name) } },
            "required": route.method == Method::POST && !names_a_task(route),
        });
    }
    operation
}

fn given(status: u16, gives: Option<&str>) -> Value {
    let status = StatusCode::from_u16(status)
        .ok()
        .and_then(|status| status.canonical_reason());
    let mut answer = json!({ "description": status.unwrap_or("An answer") });
    if let Some(name) = gives {
        let mut kinds = Map::new();
        for kind in media_types(name) {
            kinds.insert((*kind).into(), json!({ "schema": reference("schemas", name) }));
        }
        answer["content"] = kinds.into();
    }
    answer
}

fn media_types(document: &str) -> &'static [&'static str] {
    match document {
        "Anything" => &["*/*"],
        "EventStream" => &["text/event-stream"],
        "Log" => &["application/json", "text/plain"],
        _ => &["application/json"],
    }
}

fn reference(kind: &str, name: &str) -> Value {
    json!({ "$ref": format!("#/components/{kind}/{name}") })
}
