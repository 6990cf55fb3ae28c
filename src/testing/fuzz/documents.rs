//! Documents: parsing edits, and writing tasks.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderValue, Method, Uri,
    header::{AUTHORIZATION, CONTENT_LENGTH, HOST, LOCATION},
};
use percent_encoding::percent_decode_str;

use super::headers;
use crate::{
    api::edits,
    engine::{ApiAddress, IntakeSettings, Strip},
    layer::{HeaderPolicy, headers::strip},
    task::{
        CapturedRequest, IdempotencyKey, NewTask, Payload, Progress, RequestId, TaskName, TaskRecord, Tenant, WorkerId,
        lifecycle::Outcome, redact::Secrets,
    },
    time::Timestamp,
    wire::{LinkBase, OperationDocument, Problem, TaskDocument},
};

const SECRET: &str = "Bearer of a secret";

/// An edited request can be run, does not go to the task API, and is stored like any other request.
pub(super) fn edits(data: &[u8]) {
    let mut stored = HeaderMap::new();
    stored.insert(AUTHORIZATION, HeaderValue::from_static(SECRET));
    let uri = Uri::from_static("/work?token=hidden&a=b");
    let stored = CapturedRequest::new(Method::POST, uri, stored, Bytes::from_static(b"{}"));
    let api = ApiAddress {
        base: "/tasks".into(),
        intake: IntakeSettings {
            strip: Strip::new(|headers, method| strip(headers, method, &HeaderPolicy::new())),
            ..IntakeSettings::default()
        },
        ..ApiAddress::default()
    };
    let Ok(read) = edits::parse(data) else { return };
    let Ok(edits) = read.resolve(&stored, &api, &Secrets::new()) else {
        return;
    };
    let edited = edits.apply(&stored);
    let path = edited.uri.path();
    assert!(path.starts_with('/') && !path.starts_with("//"), "{}", edited.uri);
    // As a router may decode it.
    let path = percent_decode_str(path).decode_utf8_lossy();
    assert!(path != "/tasks" && !path.starts_with("/tasks/"), "{}", edited.uri);
    assert_eq!((edited.uri.authority(), edited.uri.scheme()), (None, None));
    assert!(
        edited
            .headers
            .get(CONTENT_LENGTH)
            .is_none_or(|length| length.as_bytes().iter().all(|digit| *digit == b'0'))
    );
    for (name, value) in &edited.headers {
        let leaked = value.as_bytes() == SECRET.as_bytes() && *name != AUTHORIZATION;
        assert!(!leaked || find(data, SECRET.as_bytes()), "the secret went to {name}");
    }
    let again = CapturedRequest::from_payload(edited.to_payload()).expect("what was just written can be read");
    assert_eq!(again, edited);
}

fn find(data: &[u8], what: &[u8]) -> bool {
    data.windows(what.len()).any(|window| window == what)
}

/// Whatever a client, a handler or an error contains, the documents about it are JSON, and their links are URIs.
pub(super) fn documents(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let mut words = text.splitn(6, '\n');
    let mut word = || words.next().unwrap_or_default();
    let (name, path, tenant, function) = (word(), word(), word(), word());
    let uri = format!("/{path}").parse().unwrap_or_else(|_| Uri::from_static("/"));
    let method = Method::from_bytes(word().as_bytes()).unwrap_or(Method::POST);
    let request = CapturedRequest::new(method, uri, headers::lines(data), Bytes::copy_from_slice(data));
    let id = RequestId::from_parts(Timestamp::from_millis(data.len() as u64), [7; 10]);
    let mut task = NewTask::new(id, Arc::new(request));
    task.name = TaskName::new(name).ok();
    task.key = IdempotencyKey::new(name).ok();
    task.tenant = (!tenant.is_empty()).then(|| Tenant::new(tenant));
    task.function = (!function.is_empty()).then(|| Arc::from(function));
    task.labels = [(name, tenant), (function, path)].into_iter().collect();

    let now = Timestamp::ZERO;
    let mut record = TaskRecord::accepted(&task, now);
    let lease = record.claim(WorkerId::new(function, 1), Duration::from_secs(1), now);
    record.life.progress = Some(Progress::new(f32::from(data.first().copied().unwrap_or(0)), &text));
    written(&record, data);
    let error = Arc::from(&*text);
    let settled = lease.map(|lease| record.settle(lease.token, &Outcome::Failed { error, response: None }, now));
    assert!(matches!(settled, Ok(Ok(_))), "{settled:?}");
    written(&record, data);
    let problem = Problem::invalid_argument(format!("The word {} is not valid.", Problem::quoted(&text)));
    let refused = problem.into_response::<Bytes>(Some(id));
    assert!(json(refused.body()).is_object());
}

fn written(record: &TaskRecord, body: &[u8]) {
    let secrets = Secrets::new();
    for public in [None, Some("https://example.org/x")] {
        let base = LinkBase::new(&ApiAddress {
            base: "/tasks".into(),
            public_url: public.map(str::to_owned),
            ..ApiAddress::default()
        });
        let links = base.known();
        let document = TaskDocument::new(record, links, &secrets).with_task_payload(body);
        let read = json(&document.with_return_payload(body, false).to_bytes());
        assert_eq!(read["requestId"], record.id.to_string());
        assert_eq!(read["taskId"], record.task_id());
        let operation = json(&OperationDocument::new(record, links, &secrets).to_bytes());
        assert_eq!(operation["id"], record.task_id());
        let mut headers = HeaderMap::new();
        links.put_on(&mut headers, record);
        let location = headers.get(LOCATION);
        assert!(location.is_some_and(|at| at.to_str().is_ok_and(|at| at.parse::<Uri>().is_ok())));
        assert!(!headers.contains_key(HOST));
    }
    let payload = Payload::new(body, 100);
    assert_eq!(payload.truncated, body.len() > 100);
    assert!(payload.encoding != "utf8" || body.starts_with(payload.text.as_bytes()));
}

fn json(bytes: &[u8]) -> serde_json::Value {
    let read = serde_json::from_slice(bytes);
    read.unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(bytes)))
}
