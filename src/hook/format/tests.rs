use std::sync::Arc;

use http::{Method, StatusCode, Uri};
use serde_json::{Value, json};

use super::*;
use crate::task::{
    CapturedRequest, CapturedResponse, Conditions, Destination, NewTask, RequestId, Subscription, Subscriptions,
    TaskRecord, WorkerId, lifecycle::Outcome,
};

/// The completion of a task that ended with this answer.
fn completion(request: &[u8], answered: Result<(u16, &[u8]), &str>) -> Completion {
    let at = Timestamp::from_millis;
    let mut headers = HeaderMap::new();
    headers.insert("traceparent", HeaderValue::from_static("00-a-b-01"));
    let body = Bytes::copy_from_slice(request);
    let request = Arc::new(CapturedRequest::new(
        Method::POST,
        Uri::from_static("/work/x"),
        headers,
        body,
    ));
    let id = RequestId::from_parts(at(1_700_000_000_000), [7; 10]);
    let task = NewTask {
        subscriptions: Subscriptions::from([Subscription {
            destination: Destination::new("there"),
            on: Conditions::ALL,
        }]),
        ..NewTask::new(id, request.clone())
    };
    let mut record = TaskRecord::accepted(&task, at(1_000));
    let worker = WorkerId::new("w", 1);
    let lease = record
        .claim(worker.clone(), std::time::Duration::from_secs(1), at(2_000))
        .unwrap();
    let kept = answered.ok().map(|(status, body)| {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("content-type", "text/plain"),
            ("set-cookie", "session=1"),
            ("connection", "close"),
            ("webhook-id", "forged"),
            ("x-kind", "film"),
        ] {
            headers.insert(name, HeaderValue::from_static(value));
        }
        let status = StatusCode::from_u16(status).unwrap();
        Arc::new(CapturedResponse::new(status, headers, Bytes::copy_from_slice(body)))
    });
    let outcome = match (&kept, answered) {
        (Some(response), _) if response.status.is_success() => Outcome::Succeeded {
            response: response.clone(),
        },
        (Some(response), _) => Outcome::Failed {
            error: "the handler answered".into(),
            response: Some(response.clone()),
        },
        (None, error) => Outcome::Failed {
            error: error.unwrap_err().into(),
            response: None,
        },
    };
    record.settle(lease.token, &outcome, at(2_500)).unwrap();
    let delivery = record.deliveries[0].clone();
    let completion = Completion::new(Arc::new(record), &delivery, Some(request), kept);
    completion.with_location(Some("https://example.org/tasks/one".into()))
}

fn document(format: PayloadFormat, completion: &Completion) -> Value {
    let rendered = format.render(completion, PayloadFormat::LIMIT);
    serde_json::from_slice(&rendered.body).unwrap()
}

#[test]
fn success_reads_as_in_the_cloud() {
    let completion = completion(b"in", Ok((201, b"out")));
    let expected = json!({
        "timestamp": 2_500,
        "requestContext": {
            "requestId": completion.request_id().to_string(),
            "functionArn": "acs:fc:::functions/work",
            "condition": "",
            "approximateInvokeCount": 1,
        },
        "requestPayload": "in",
        "responseContext": { "statusCode": 201, "functionError": "" },
        "responsePayload": "out",
        "responsePayloadContentType": "text/plain",
    });
    assert_eq!(document(PayloadFormat::Fc, &completion), expected);
}

#[test]
fn a_payload_says_what_it_is_in_every_format_that_has_one() {
    let mut completion = completion(b"in", Ok((200, b"\x1f\x8b")));
    let response = Arc::make_mut(completion.response.as_mut().unwrap());
    response
        .headers
        .insert("content-encoding", HeaderValue::from_static("gzip"));
    for format in [PayloadFormat::Fc, PayloadFormat::CloudEvents] {
        let document = document(format, &completion);
        let payloads = document.get("data").unwrap_or(&document);
        assert_eq!(payloads["responsePayloadContentType"], "text/plain");
        assert_eq!(payloads["responsePayloadContentEncoding"], "gzip");
        assert_eq!(payloads.get("requestPayloadContentType"), None);
    }
    let raw = PayloadFormat::Raw.render(&completion, 0);
    assert_eq!(raw.headers["content-encoding"], "gzip");
}

/// A receiver would take them for headers of the layer.
#[test]
fn what_a_handler_answers_under_a_name_of_ours_is_not_sent_on() {
    let mut completion = completion(b"in", Ok((200, b"out")));
    let response = Arc::make_mut(completion.response.as_mut().unwrap());
    for name in ["x-fc-request-id", "x-fc-async-task-id", "x-respond-async-depth"] {
        response.headers.insert(name, HeaderValue::from_static("forged"));
    }
    let raw = PayloadFormat::Raw.render(&completion, 0);
    assert!(raw.headers.values().all(|value| value != "forged"), "{:?}", raw.headers);
    assert_eq!(raw.headers["x-kind"], "film");
}

#[test]
fn failure_says_why() {
    let fc = document(PayloadFormat::Fc, &completion(b"in", Ok((404, b"no"))));
    assert_eq!(fc["requestContext"]["condition"], "UnhandledInvocationError");
    assert_eq!(fc["responseContext"]["statusCode"], 404);
    assert_eq!(fc["responseContext"]["errorMessage"], "the handler answered");
    assert_eq!(fc["responsePayload"], "no");
    let fc = document(PayloadFormat::Fc, &completion(b"in", Err("it broke")));
    assert_eq!(fc["responseContext"]["statusCode"], Value::Null);
    assert_eq!(fc["responseContext"]["errorMessage"], "it broke");
    assert_eq!(fc["responsePayload"], Value::Null);
}

#[test]
fn what_is_no_text_goes_as_base64() {
    let fc = document(PayloadFormat::Fc, &completion(&[0xff, 0], Ok((200, &[0xfe]))));
    assert_eq!(
        (&fc["requestPayload"], &fc["requestPayloadEncoding"]),
        (&json!("/wA="), &json!("base64"))
    );
    assert_eq!(
        (&fc["responsePayload"], &fc["responsePayloadEncoding"]),
        (&json!("/g=="), &json!("base64"))
    );
}

#[test]
fn what_is_too_long_is_cut_or_left_out_and_that_is_said() {
    let long = vec![b'a'; PayloadFormat::LIMIT];
    let fc = document(PayloadFormat::Fc, &completion(b"x", Ok((200, &long))));
    assert_eq!(fc["responsePayload"].as_str().unwrap().len(), PayloadFormat::LIMIT);
    assert_eq!(fc.get("responsePayloadTruncated"), None);
    assert_eq!(
        (&fc["requestPayload"], &fc["requestPayloadOmitted"]),
        (&Value::Null, &json!(true))
    );
    assert_eq!(fc["requestPayloadLink"], "https://example.org/tasks/one/request");

    for body in [
        vec![b'a'; 30_000],
        vec![0xff; 30_000],
        vec![1; 30_000],
        "\u{e4}\"".repeat(9_000).into_bytes(),
    ] {
        let completion = completion(b"in", Ok((200, &body)));
        for format in [PayloadFormat::Fc, PayloadFormat::CloudEvents] {
            let rendered = format.render(&completion, PayloadFormat::LIMIT);
            assert!(
                rendered.body.len() < PayloadFormat::LIMIT + 1_200,
                "{}",
                rendered.body.len()
            );
            assert!(
                rendered.body.len() > PayloadFormat::LIMIT - 1_000,
                "{}",
                rendered.body.len()
            );
        }
        let fc = document(PayloadFormat::Fc, &completion);
        assert_eq!(fc["responsePayloadTruncated"], true);
        assert_eq!(fc["responsePayloadLink"], "https://example.org/tasks/one/result");
    }
}

#[test]
fn a_cloud_event_is_one() {
    let completion = completion(b"in", Ok((200, b"out")));
    let event = document(PayloadFormat::CloudEvents, &completion);
    assert_eq!(event["specversion"], "1.0");
    assert_eq!(event["id"], completion.webhook_id);
    assert_eq!(event["source"], "https://example.org/tasks/one");
    assert_eq!(event["type"], "respond-async.task.succeeded");
    assert_eq!(event["subject"], completion.task_id());
    assert_eq!(event["time"], "1970-01-01T00:00:02.500Z");
    assert_eq!(event["traceparent"], "00-a-b-01");
    assert_eq!(
        (&event["data"]["status"], &event["data"]["responsePayload"]),
        (&json!("Succeeded"), &json!("out"))
    );
    let known = [
        "specversion",
        "id",
        "source",
        "type",
        "subject",
        "time",
        "datacontenttype",
        "traceparent",
        "data",
    ];
    for name in event.as_object().unwrap().keys() {
        assert!(known.contains(&name.as_str()), "{name}");
    }
    let rendered = PayloadFormat::CloudEvents.render(&completion, 0);
    assert_eq!(rendered.headers["content-type"], "application/cloudevents+json");
}

#[test]
fn a_standard_webhook_is_thin() {
    let completion = completion(b"secret", Err("it broke"));
    let body = document(PayloadFormat::Standard, &completion);
    assert_eq!(
        (&body["type"], &body["timestamp"]),
        (&json!("task.failed"), &json!("1970-01-01T00:00:02.500Z"))
    );
    assert_eq!(body["data"]["taskErrorMessage"], "it broke");
    assert!(!body.to_string().contains("secret"));
}

#[test]
fn raw_is_the_response_without_what_belongs_to_its_connection_or_session() {
    let completion = completion(b"in", Ok((503, &[0xff, 0])));
    let rendered = PayloadFormat::Raw.render(&completion, 0);
    assert_eq!(rendered.body[..], [0xff, 0]);
    assert_eq!(rendered.headers["content-type"], "text/plain");
    assert_eq!(rendered.headers["x-kind"], "film");
    assert_eq!(rendered.headers["x-function-status"], "503");
    assert_eq!(rendered.headers["x-function-name"], "work");
    assert_eq!(rendered.headers["x-duration-seconds"], "0.500");
    assert_eq!(rendered.headers["x-call-id"], completion.request_id().to_string());
    for name in ["set-cookie", "connection", "webhook-id"] {
        assert!(!rendered.headers.contains_key(name), "{name}");
    }
}
