//! The deliveries of a task, with every try, and redelivery.

use std::borrow::Cow;

use http::StatusCode;
use serde::Serialize;

use crate::{
    api::{
        answer,
        body::read_json,
        call::{Answer, Call},
    },
    layer::RequestBody,
    task::{DeliveryStatus, delivery::Redeliver},
    wire::{DeliveryDocument, Problem},
};

/// `GET /{id}/callbacks`
pub(super) async fn list(call: Call) -> Answer {
    let record = call.record().await?;
    let deliveries = record.deliveries.iter();
    let document = CallbacksDocument {
        task_id: record.task_id(),
        destination_status: record.destination_status().as_str(),
        callback_url: record.callback.as_deref().map(|url| call.secrets.url(url)),
        callbacks: deliveries
            .map(|delivery| DeliveryDocument::new(&record, delivery, &call.secrets))
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
        .and_then(|number| number.parse::<u64>().ok());
    let mut deliveries = record.deliveries.iter();
    let delivery = deliveries.find(|delivery| Some(record.delivery_number(delivery)) == number);
    let delivery = delivery.ok_or_else(Problem::callback_not_found)?;
    let redelivered = call
        .tasks
        .redeliver(record.id, delivery.generation, &delivery.destination)
        .await?;
    match redelivered {
        Redeliver::Due => {}
        Redeliver::Unknown => return Err(Problem::callback_not_found()),
    }
    call.audit(record.id, "redeliver");
    let document = Redelivered {
        callback_id: record.delivery_number(delivery),
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
    /// The URL that the request named.
    #[serde(skip_serializing_if = "Option::is_none")]
    callback_url: Option<Cow<'a, str>>,
    callbacks: Vec<DeliveryDocument<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Redelivered {
    callback_id: u64,
    webhook_id: String,
    status: &'static str,
}
