//! Who was told how a task ended: the deliveries of a task, with every try, and having one made again.

use http::StatusCode;
use serde::Serialize;

use crate::{
    api::{
        answer,
        body::read_json,
        call::{Answer, Call},
    },
    layer::RequestBody,
    task::{Condition, Delivery, DeliveryStatus, DeliveryTry, TaskRecord, delivery::Redeliver},
    time::Timestamp,
    wire::{Problem, RedactedUri},
};

/// `GET /{id}/callbacks`
pub(super) async fn list(call: Call) -> Answer {
    let record = call.record().await?;
    let deliveries = record.deliveries.iter().enumerate();
    let document = CallbacksDocument {
        task_id: record.task_id(),
        destination_status: record.destination_status().as_str(),
        callback_url: callback_url(&record),
        callbacks: deliveries
            .map(|(at, delivery)| CallbackDocument::new(at, delivery))
            .collect(),
    };
    Ok(answer::json(StatusCode::OK, &document))
}

/// `POST /{id}/callbacks/{n}/redeliver`
pub(super) async fn redeliver(call: Call, body: RequestBody) -> Answer {
    read_json(&call.parts.headers, body).await?;
    let record = call.record().await?;
    let number = call
        .parts
        .uri
        .path()
        .rsplit('/')
        .nth(1)
        .and_then(|number| number.parse::<usize>().ok());
    let index = number.and_then(|number| number.checked_sub(1));
    let (index, delivery) = index
        .and_then(|index| Some((index, record.deliveries.get(index)?)))
        .ok_or_else(Problem::callback_not_found)?;
    let redelivered = call
        .tasks
        .redeliver(&call.grant.scope, record.id, delivery.generation, &delivery.destination)
        .await?;
    match redelivered {
        Redeliver::Due => {}
        Redeliver::Unknown => return Err(Problem::callback_not_found()),
    }
    call.audit(record.id, "redeliver");
    let document = Redelivered {
        callback_id: index + 1,
        webhook_id: delivery.webhook_id(),
        status: DeliveryStatus::Pending.as_str(),
    };
    Ok(answer::json(StatusCode::ACCEPTED, &document))
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct CallbacksDocument<'a> {
    task_id: String,
    destination_status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    callback_url: Option<String>,
    callbacks: Vec<CallbackDocument<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct CallbackDocument<'a> {
    callback_id: usize,
    destination: &'a str,
    webhook_id: String,
    generation: u32,
    condition: &'static str,
    status: &'static str,
    /// When it is tried next, while it is to be. During a try, when that is taken to have failed.
    next_try_time: Option<Timestamp>,
    tries: Vec<TryDocument<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct TryDocument<'a> {
    timestamp: Timestamp,
    status_code: Option<u16>,
    text: Option<&'a str>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Redelivered {
    callback_id: usize,
    webhook_id: String,
    status: &'static str,
}

impl<'a> CallbackDocument<'a> {
    fn new(index: usize, delivery: &'a Delivery) -> Self {
        let pending = delivery.status == DeliveryStatus::Pending;
        Self {
            callback_id: index + 1,
            destination: delivery.destination.as_str(),
            webhook_id: delivery.webhook_id(),
            generation: delivery.generation,
            condition: match delivery.condition {
                Condition::Success => "success",
                Condition::Failure => "failure",
                Condition::Stop => "stop",
            },
            status: delivery.status.as_str(),
            next_try_time: pending.then_some(delivery.due_at),
            tries: delivery.tries.iter().map(TryDocument::from).collect(),
        }
    }
}

impl<'a> From<&'a DeliveryTry> for TryDocument<'a> {
    fn from(tried: &'a DeliveryTry) -> Self {
        Self {
            timestamp: tried.at,
            status_code: tried.status_code,
            text: tried.text.as_deref(),
        }
    }
}

/// The URL that the request named, without what in it may be a secret.
fn callback_url(record: &TaskRecord) -> Option<String> {
    let uri = record.callback.as_deref()?.parse().ok()?;
    Some(RedactedUri(&uri).to_string())
}
